"""The name of a file of others, and how fast it hears. Without numpy: commands read it before they load any."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

KINDS = {".onnx": "onnx", ".tflite": "tflite"}


class Theirs(NamedTuple):
    """A file of others."""

    path: Path
    rate: int | None = None  # Hz, of the sound that it hears; None: that of all others


def theirs_of(text: str) -> tuple[Path, str]:
    """FILE, or FILE@RATE → the file, and the rate as it is written, empty where there is none."""
    path, at, rate = text.rpartition("@")
    if not at or Path(text).suffix.lower() in KINDS:  # the @ is the file's own
        return Path(text), ""
    return Path(path), rate
