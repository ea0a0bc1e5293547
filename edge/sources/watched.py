"""A source in whose blocks somebody else takes an interest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

from edge.sources.block import Block, Outage, Source


class Watched:
    """The source ``source``; each block and outage goes to ``seen`` before it is given on."""

    def __init__(self, source: Source, seen: Callable[[Block | Outage], None]) -> None:
        self._source, self._seen = source, seen

    @property
    def name(self) -> str:
        """That of the source, which a microphone knows once it is open."""
        return self._source.name

    def blocks(
        self, sample_rate: int, length: int, first: int | None = None, channels: int = 1
    ) -> Iterator[Block | Outage]:
        """See :class:`edge.sources.block.Source`."""
        return self._watched(self._source.blocks(sample_rate, length, first, channels))

    def _watched(self, blocks: Iterator[Block | Outage]) -> Iterator[Block | Outage]:
        with closing(blocks):  # type: ignore[type-var]  # a generator, which mypy knows as an iterator only
            for block in blocks:
                self._seen(block)
                yield block
