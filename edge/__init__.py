"""edge-listen's runtime: microphone or recording → log-mel → ONNX model → classes.

from edge import Classifier, Microphone, listen

for window in listen(Microphone(), Classifier()):
    print(window.onset, window.top(1))
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# From 1.29 on, onnxruntime keeps a database of what it is used for, and sends it to its makers. It looks at this once,
# when it is imported. Whoever has set it already has decided.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from edge.classifier import Classifier as Classifier
    from edge.config import FrontendConfig as FrontendConfig
    from edge.config import ModelSpec as ModelSpec
    from edge.decisions import Detector as Detector
    from edge.errors import EdgeError as EdgeError
    from edge.listener import Window as Window
    from edge.listener import listen as listen
    from edge.sources.file import SoundFile as SoundFile
    from edge.sources.microphone import Microphone as Microphone
    from edge.sources.pcm import PcmStream as PcmStream

# Loaded on first use: whoever wants the contract alone does not pay for onnxruntime.
_HOMES = {
    "Classifier": "edge.classifier",
    "Detector": "edge.decisions",
    "EdgeError": "edge.errors",
    "FrontendConfig": "edge.config",
    "Microphone": "edge.sources.microphone",
    "ModelSpec": "edge.config",
    "PcmStream": "edge.sources.pcm",
    "SoundFile": "edge.sources.file",
    "Window": "edge.listener",
    "listen": "edge.listener",
}
__all__ = [*_HOMES, "__version__"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edge' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
