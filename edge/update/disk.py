"""Files that survive a power cut: what is written is on the disk before its name is."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PART = ".part"  # behind the name of what is not whole yet


def sync_folder(folder: Path) -> None:
    """Names in ``folder`` are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """What ``path`` holds is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move(part: Path, path: Path) -> None:
    """``part``, which is whole, takes the place of ``path``."""
    sync_file(part)
    part.replace(path)
    sync_folder(path.parent)


def write(path: Path, content: bytes, mode: int = 0o644) -> None:
    """``content`` as the whole of ``path``, or ``path`` as it was. Raises OSError. One writer at a time."""
    part = path.with_name(path.name + PART)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        write_all(descriptor, content)
    finally:
        os.close(descriptor)
    move(part, path)


def write_all(descriptor: int, content: bytes) -> None:
    """All of ``content``: the kernel may take less at once."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def remove(path: Path) -> None:
    """Delete ``path``, if it can be: what is left over does no harm."""
    with suppress(OSError):
        path.unlink()


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Alone with what ``path`` guards, among all processes. The kernel frees the lock of a process that dies.

    Raises BlockingIOError unless ``wait``, where another one has it; OSError where the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)
