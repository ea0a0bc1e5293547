"""One labelled recording, or a span of one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from edge.sources.file import SoundFile


class ManifestError(Exception):
    """A data set that cannot be read; says what is wrong and what would be right."""


@dataclass(frozen=True)
class Clip:
    """One labelled recording, or a span of one."""

    path: Path
    labels: tuple[str, ...]  # exactly one, but in a multi-label data set, where none is one of them too
    fold: int  # from 1
    group: str = ""  # where it was cut from: a group stays in one fold; empty: the file is its own
    start: float = 0.0  # seconds
    end: float | None = None  # seconds; None is the end of the file

    @property
    def label(self) -> str:
        """The only label. Raises ValueError where there are none or several."""
        if len(self.labels) != 1:
            raise ValueError(f"{self.name} has {len(self.labels)} labels; one was asked for")
        return self.labels[0]

    @property
    def origin(self) -> str:
        """What must stay in one fold: the group, else the file, by whatever path or link."""
        return self.group or os.path.realpath(self.path)

    @property
    def name(self) -> str:
        """The path, and the span where there is one, for people."""
        if not self.start and self.end is None:
            return str(self.path)
        return f"{self.path} ({self.start:g} s to {'the end' if self.end is None else f'{self.end:g} s'})"

    def source(self) -> SoundFile:
        """The sound."""
        return SoundFile(self.path, start=self.start, end=self.end)
