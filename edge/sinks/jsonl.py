"""JSON Lines on a text stream: one object a line, flushed, so that a reader has it at once."""

from __future__ import annotations

import json
from typing import TextIO

from edge.records import Record


class JsonLines:
    """See the module."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, record: Record) -> None:
        """One line, in one write: a signal cannot tear it."""
        self._stream.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """The stream is not ours to close."""
