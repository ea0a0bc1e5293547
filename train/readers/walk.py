"""The recordings below a folder."""

from __future__ import annotations

import os
from pathlib import Path

from edge.bulk import SUFFIXES

# Sound that libsndfile does not read: named, where a text file or a picture is passed over.
OTHER_SOUND = frozenset(
    {".m4a", ".aac", ".wma", ".mp4", ".webm", ".mka", ".mkv", ".mov", ".amr", ".3gp", ".ac3", ".ape", ".wv", ".dsf"}
)


def walk(root: Path) -> tuple[list[Path], list[str]]:
    """The recordings in and below ``root``, sorted, and what was skipped: sound in other formats, folders that
    are met twice or cannot be read.

    Links are followed. Hidden files and folders, and what is no sound, are passed over.
    """
    found: list[Path] = []
    skipped: list[str] = []
    seen: set[str] = set()

    def unreadable(error: OSError) -> None:
        skipped.append(f"{error.filename}: cannot be read: {error.strerror}")

    for folder, folders, files in os.walk(root, onerror=unreadable, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            skipped.append(f"{folder}: is a link to a folder that was read already")
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(folder, name) for name in files if not name.startswith(".")):
            if path.suffix.lower() in SUFFIXES:
                found.append(path)
            elif path.suffix.lower() in OTHER_SOUND:
                skipped.append(f"{path}: {path.suffix} is not read; convert it to WAV or FLAC")
    return sorted(found), sorted(skipped)
