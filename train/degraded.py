"""A recording as another microphone, line or room would give it: a source like the file itself."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edge.sources.block import Block
from edge.sources.file import SoundFile, played
from edge.sources.reblock import reblock
from train.effects import DEGRADATIONS


@dataclass(frozen=True)
class Degraded:
    """``recording`` through one of :data:`train.effects.DEGRADATIONS`; what is random is seeded by the file's name."""

    recording: SoundFile
    effect: str  # key of DEGRADATIONS

    @property
    def name(self) -> str:
        """The path as it was given."""
        return self.recording.name

    def blocks(self, sample_rate: int, length: int, first: int | None = None, channels: int = 1) -> Iterator[Block]:
        """See :class:`edge.sources.block.Source`; raises InputError for what cannot be read."""
        samples = self.recording.read(sample_rate, channels)  # at once: a filter or a codec takes the whole
        seed = zlib.crc32(self.recording.path.name.encode(errors="surrogateescape"))
        if len(samples):
            samples = DEGRADATIONS[self.effect](samples.T, sample_rate, np.random.default_rng(seed)).T
        return played(reblock([np.ascontiguousarray(samples)], length, first), sample_rate)
