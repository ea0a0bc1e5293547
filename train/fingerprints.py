"""Whether a run's recordings are still those that it began with: under the same names there may be other sound."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from edge.files import write_text
from train.clip import Clip

NAME = "recordings.jsonl"  # beside manifest.jsonl, with a line for each of its clips


def write_fingerprints(folder: Path, clips: Sequence[Clip]) -> None:
    """Note size, time of change and SHA-256 of each clip's file. Raises OSError where that cannot be written."""
    write_text(folder / NAME, "".join(f"{json.dumps(_fingerprint(clip.path))}\n" for clip in clips))


def check_same_sound(folder: Path, clips: Sequence[Clip]) -> None:
    """Compare ``clips`` with what was noted in ``folder``, of clips by the same names in the same order.

    A file of the same size and time of change is not read again; a copy has other times, and is the same sound. What
    began before fingerprints were noted is not compared. Raises ValueError, naming the first file with other content.
    """
    path = folder / NAME
    if not path.exists():
        return
    try:
        before = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        changed = [clip.path for clip, noted in zip(clips, before, strict=True) if _differs(clip.path, noted)]
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"{path} is damaged, so that changed recordings would go unseen; give another --out, or delete {folder}"
        ) from None
    if changed:
        count = f"{len(changed)} of {len(clips)}"
        raise ValueError(
            f"{count} recordings have changed since {folder} was begun, the first: {changed[0]}; "
            "give another --out, or delete it"
        )


def _fingerprint(path: Path) -> dict[str, Any]:
    """Of the file ``path``; all None for one that cannot be read, which the run leaves out."""
    try:
        status = path.stat()
        digest = _sha256(path, status.st_size, status.st_mtime_ns)
    except OSError:
        return {"bytes": None, "mtime_ns": None, "sha256": None}
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": digest}


def _differs(path: Path, noted: dict[str, Any]) -> bool:
    """Whether the file has other content than ``noted``; one that could not be read, then or now, is not compared."""
    size, changed, sha256 = noted["bytes"], noted["mtime_ns"], noted["sha256"]
    try:
        status = path.stat()
        if None in (size, changed, sha256) or (status.st_size, status.st_mtime_ns) == (size, changed):
            return False
        return status.st_size != size or _sha256(path, status.st_size, status.st_mtime_ns) != sha256
    except OSError:
        return False


@cache
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    """Read once in a process, until size or time tell of another content: a search has many runs of the same
    recordings. Raises OSError.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
