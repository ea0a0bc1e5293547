"""JSON Lines on a text stream, or in a file that rotates: one object a line, so that a reader has it at once."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from edge.errors import SinkError
from edge.records import TYPES, Record
from edge.settings import require

if TYPE_CHECKING:
    from logging.handlers import RotatingFileHandler

NEWLINE, BEGINNING = b"\n", b'{"'  # of a record
HEAD_BYTES = 4096  # of a file, that tell what it holds
MOST_KEPT = 10_000  # older files; a rotation looks at each of them


class JsonLines:
    """See the module."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, record: Record) -> None:
        """One line, in one write: a signal cannot tear it."""
        self._stream.write(_line(record))
        self._stream.flush()

    def close(self) -> None:
        """The stream is not ours to close."""


@dataclass(frozen=True)
class JsonLinesFileConfig:
    """A file of JSON Lines."""

    path: str = "edge-listen.jsonl"  # the current file; older ones have .1, .2 … behind it
    max_bytes: int = 10_000_000  # of one file, after which it is rotated; 0 never rotates
    keep: int = 5  # older files that are kept, 1 to MOST_KEPT
    types: tuple[str, ...] = ()  # of the records that are written; none named: all

    def __post_init__(self) -> None:
        for name in self.types:
            require(name in TYPES, "types", name, ", ".join(TYPES))


class JsonLinesFile:
    """See :class:`JsonLinesFileConfig`. Every line is whole, but for the last one after a kill, which is ended when
    the file is opened again.

    Raises SinkError when the file cannot be opened or written, or is something else.
    """

    def __init__(self, config: JsonLinesFileConfig) -> None:
        if config.max_bytes < 0:
            raise SinkError(f"max_bytes is {config.max_bytes}", remedy="use 0 or more", retry=False)
        if not 1 <= config.keep <= MOST_KEPT:
            raise SinkError(f"keep is {config.keep}", remedy=f"use 1 or more, at most {MOST_KEPT}", retry=False)
        self._config = config
        self._path = Path(os.path.realpath(config.path))  # of a link, what it leads to is rotated there
        if config.types:
            self.types = frozenset(config.types)
        self._rotating: RotatingFileHandler | None = self._open()

    def write(self, record: Record) -> None:
        """One line, with one system call; where only a part fits on the disk, nothing."""
        line = _line(record).encode()
        try:
            rotating = self._rotating = self._rotating or self._open()
            size = os.fstat(_descriptor(rotating)).st_size
            if size and 0 < self._config.max_bytes < size + len(line):
                rotating.doRollover()
                size = 0
            _append(_descriptor(rotating), line, size)
        except OSError as error:
            self.close()
            raise self._error(error) from None

    def close(self) -> None:
        """Close the file; what is written is with the operating system already."""
        if self._rotating is not None:
            self._rotating.close()
            self._rotating = None

    def _open(self) -> RotatingFileHandler:
        from logging.handlers import RotatingFileHandler

        try:
            if self._path.exists() and not self._path.is_file():
                raise OSError(errno.EINVAL, "not a file")
            require_records(self._path)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            rotating = RotatingFileHandler(
                self._path, maxBytes=self._config.max_bytes, backupCount=self._config.keep, encoding="utf-8"
            )
            _end_last_line(self._path, _descriptor(rotating))
        except OSError as error:
            raise self._error(error) from None
        return rotating

    def _error(self, error: OSError) -> SinkError:
        return SinkError(
            f"{self._path} cannot be written: {error.strerror}", remedy="free space, or name a file that can be written"
        )


def require_records(path: Path) -> None:
    """Raises SinkError for a file that holds something else, which rotation would delete in the end; OSError."""
    if not path.exists():
        return
    with path.open("rb") as file:
        start = file.read(HEAD_BYTES).lstrip(b"\0\n")  # zeros: a power cut may leave them
    start = start.removeprefix(b"{\n")  # a line that was cut off there, and ended since
    if not (start.startswith(BEGINNING) or BEGINNING.startswith(start)):
        raise SinkError(
            f"{path} holds something else than JSON Lines", remedy="name another file for the log", retry=False
        )


def _descriptor(rotating: RotatingFileHandler) -> int:
    assert rotating.stream is not None  # it is opened at once, and after each rotation
    return rotating.stream.fileno()


def _line(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def _append(descriptor: int, line: bytes, size: int) -> None:
    """Add ``line`` to a file of ``size`` bytes, or leave it as it was."""
    try:
        if os.write(descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def _end_last_line(path: Path, descriptor: int) -> None:
    """What a kill has cut off becomes a line of its own."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) is not None and file.read(1) != NEWLINE:
            os.write(descriptor, NEWLINE)
