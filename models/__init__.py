"""Torch networks by name. The only place that defines one; ``checkpoint`` is the only place that stores one.

What an architecture must have is said in :mod:`models.registry`.
"""

from models.attention import AttentionCnn
from models.bilstm import BiLstm
from models.crnn import Crnn
from models.four_block import FourBlockCnn
from models.registry import architectures, build
from models.streaming import StreamingCnn
from models.three_block import ThreeBlockCnn
from models.wav2vec import Wav2Vec

__all__ = [
    "AttentionCnn",
    "BiLstm",
    "Crnn",
    "FourBlockCnn",
    "StreamingCnn",
    "ThreeBlockCnn",
    "Wav2Vec",
    "architectures",
    "build",
]
