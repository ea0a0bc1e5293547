"""Chunks of any length → blocks of one length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


def reblock(chunks: Iterable[F32], length: int, first: int | None = None) -> Iterator[F32]:
    """The samples of ``chunks`` in arrays of ``length``, the first of ``first``; the last may be shorter, not empty."""
    need = first or length
    pending: list[F32] = []
    held = 0
    for chunk in chunks:
        pending.append(chunk)
        held += len(chunk)
        if held < need:
            continue
        joined, start = np.concatenate(pending), 0
        while len(joined) - start >= need:
            yield joined[start : start + need]
            start, need = start + need, length
        pending, held = [joined[start:]], len(joined) - start
    if held:
        yield np.concatenate(pending)
