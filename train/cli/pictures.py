"""The pictures that a command is asked for."""

from __future__ import annotations

from pathlib import Path

from edge.errors import EdgeError


def check_picture(path: Path | None, suffixes: tuple[str, ...] = (".png",)) -> None:
    """Whether ``path``, where one is asked for, is of a kind that is drawn: before hours go into what it shows.

    Raises:
        EdgeError: for another suffix.
    """
    if path is not None and path.suffix.lower() not in suffixes:
        *others, last = suffixes
        allowed = f"{', '.join(others)} or {last}" if others else last
        raise EdgeError(f"{path} is no picture that can be written", remedy=f"give a {allowed} file")
