"""Files that are whole, or not there; and the folder for those that a device keeps."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to; in the end it takes the place of ``path``, or is deleted.

    Of a link, the file that it leads to is replaced. What is no file (a pipe, a device) is written to itself: there is
    nothing in it to keep. Raises OSError where it cannot be written; ``path`` is left as it was then.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    path = Path(os.path.realpath(path))
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())  # else a power cut may keep the new name, and lose what it stands for
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """``text`` as the whole of ``path``, in UTF-8, or ``path`` as it was. Raises OSError."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, document: object) -> None:
    """``document`` as :func:`write_text` does."""
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def require_folder(folder: Path) -> None:
    """Make ``folder``, and prove that a file can be written to it. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def require_file(path: Path) -> None:
    """Prove that :func:`replacing` could write ``path``; what is there is left as it is. Raises OSError."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if path.is_file() or not path.exists():  # a device or a pipe is written to itself
        with tempfile.TemporaryFile(dir=Path(os.path.realpath(path)).parent):
            pass


def is_there(path: Path) -> bool:
    """Whether ``path`` can be seen; not in a folder that may not be entered, where Path.exists would raise."""
    return os.access(path, os.F_OK)


def state_folder() -> Path | None:
    """Where what is learnt on this device is kept; None for a user without a home. Not created yet."""
    try:
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "edge-listen"
    except RuntimeError:
        return None
