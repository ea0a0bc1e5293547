"""A bidirectional LSTM with attention over time: a spectrogram as a sequence, without a convolution."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from models.layers import AttentionPool
from models.registry import register


@dataclass(frozen=True)
class BiLstmConfig:
    """Sizes of a :class:`BiLstm`."""

    n_mels: int = 64  # mel bands
    n_labels: int = 50  # classes
    channels: int = 1  # of the sound
    window_frames: int = 400  # frames of one decision, a multiple of ``stack``
    stack: int = 4  # neighbouring frames that make one step of the sequence
    hidden: int = 128  # units in each direction
    layers: int = 2
    dropout: float = 0.3  # between layers and before the classifier


@register("bilstm", BiLstmConfig())
class BiLstm(nn.Module):
    """Frames [B, channels, n_mels, T] → logits [B, n_labels]."""

    column_stride = 0
    int8 = False  # onnxruntime has no static int8 LSTM

    def __init__(self, config: BiLstmConfig) -> None:
        super().__init__()
        if config.window_frames % config.stack:
            raise ValueError(f"window_frames is {config.window_frames}; allowed: a multiple of stack {config.stack}")
        self.config, self.window_frames = config, config.window_frames
        inputs = config.stack * config.channels * config.n_mels
        self.norm = nn.LayerNorm(inputs)
        between = config.dropout if config.layers > 1 else 0.0
        self.lstm = nn.LSTM(inputs, config.hidden, config.layers, batch_first=True, dropout=between, bidirectional=True)
        self.pool = AttentionPool(2 * config.hidden, config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(2 * config.hidden, config.n_labels)

    def steps(self, frames: Tensor) -> Tensor:
        """[B, channels, n_mels, T] → [B, T / stack, 2 * hidden]."""
        rows = frames.permute(0, 3, 1, 2).flatten(2)  # [B, T, channels * n_mels]
        return self.lstm(self.norm(rows.unflatten(1, (-1, self.config.stack)).flatten(2)))[0]

    def attention(self, frames: Tensor) -> Tensor:
        """The weight of each step, [B, channels, n_mels, T] → [B, T / stack]; a row sums to 1."""
        return self.pool.weights(self.steps(frames))

    def forward(self, frames: Tensor) -> Tensor:
        """See the class."""
        return self.classifier(self.dropout(self.pool(self.steps(frames))))
