"""A file that comes in pieces, over days if need be: never longer than it was signed to be."""

from __future__ import annotations

import os
import time
from pathlib import Path

from edge.secret import without_password
from edge.update import disk
from edge.update.errors import UpdateError
from edge.update.transport import BrokenOffError, Transport, reachable

ATTEMPTS = 4  # in a row that bring nothing new
PAUSE = 1.0  # seconds after the first of them; it doubles
SECONDS = 3600.0  # for one file and one call; the rest comes with the next one
RESERVE = 16 << 20  # bytes that stay free on the disk


def download(transport: Transport, url: str, part: Path, length: int, *, seconds: float = SECONDS) -> None:
    """``part`` grows to ``length`` bytes, from where a former call has ended.

    Raises UpdateError: "unreachable", "tampered" where there is more than ``length``; OSError of the disk.
    """
    end = time.monotonic() + seconds
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if os.fstat(descriptor).st_size > length:
            os.ftruncate(descriptor, 0)
        with reachable(url):
            _fill(transport, url, descriptor, length, end)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fill(transport: Transport, url: str, descriptor: int, length: int, end: float) -> None:
    failures, attempts = 0, ATTEMPTS if transport.patient else 1
    while (had := os.fstat(descriptor).st_size) < length:
        try:
            _append(transport, url, descriptor, length, end)
            why = "it ends too early"
        except BrokenOffError as error:
            why = str(error)
        size = os.fstat(descriptor).st_size
        failures = 0 if size > had else failures + 1
        if size < length and (failures >= attempts or time.monotonic() > end):
            raise BrokenOffError(f"{why} ({size} of {length} bytes)")
        if size < length and failures:
            time.sleep(min(PAUSE * 2 ** (failures - 1), 60.0))


def _append(transport: Transport, url: str, descriptor: int, length: int, end: float) -> None:
    """One attempt. A place that cannot begin in the middle begins anew."""
    size = os.fstat(descriptor).st_size
    for at, piece in transport.read(url, size):
        if at != size:  # from the beginning, or from where nobody asked for
            if at:
                raise BrokenOffError(f"bytes from {at}, where {size} was asked for")
            os.ftruncate(descriptor, 0)
            size = 0
        if size + len(piece) > length:
            what = f"{without_password(url)} is longer than the {length} bytes signed"
            raise UpdateError("tampered", what, remedy="publish it again")
        os.lseek(descriptor, size, os.SEEK_SET)
        disk.write_all(descriptor, piece)
        size += len(piece)
        if time.monotonic() > end:
            raise BrokenOffError("it takes too long")


def require_space(folder: Path, length: int) -> None:
    """Raises UpdateError where the disk has no room for ``length`` more bytes."""
    import shutil

    if (free := shutil.disk_usage(folder).free) < length + RESERVE:
        raise UpdateError(
            "disk", f"{folder} has {free >> 20} MiB free; needed: {length + RESERVE >> 20}", remedy="free some space"
        )
