"""Torch networks by name. The only place that defines one; ``checkpoint`` is the only place that stores one."""

from models.registry import architectures, build
from models.streaming import StreamingCnn

__all__ = ["StreamingCnn", "architectures", "build"]
