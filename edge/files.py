"""Files that are whole, or not there; and the folder for those that a device keeps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to; in the end it takes the place of ``path``, or is deleted.

    Raises OSError where it cannot be written; ``path`` is left as it was then.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())  # else a power cut may keep the new name, and lose what it stands for
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def state_folder() -> Path | None:
    """Where this user's device keeps what it learns as it runs (XDG Base Directory); None without a home folder."""
    try:
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "edge-listen"
    except RuntimeError:
        return None
