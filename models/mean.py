"""The mean of several trainings' weights: ``python -m models.mean OUT CHECKPOINT CHECKPOINT …``.

Networks that have come from the same weights are near enough to each other for their mean to be a good one, often with
less loss through other microphones than any of them (Izmailov 2018, Wortsman 2022). It keeps the last one's provenance,
with the other data of all.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint


def mean(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """The last checkpoint with the mean of all weights. Raises ValueError for networks that are not alike."""
    last = checkpoints[-1]
    for other in checkpoints:
        if (other.architecture, other.config, other.labels) != (last.architecture, last.config, last.labels):
            raise ValueError(f"a network {other.architecture} of {len(other.labels)} classes and another do not mix")
    state = {
        name: torch.stack([c.state[name].float() for c in checkpoints]).mean(0) if there.is_floating_point() else there
        for name, there in last.state.items()
    }
    others = [name for c in checkpoints for name in c.provenance.get("other_data", ())]
    return replace(last, state=state, provenance=last.provenance | {"other_data": list(dict.fromkeys(others))})


def main(arguments: Sequence[str]) -> None:
    """Read, average, write."""
    if len(arguments) < 3:
        sys.exit("usage: python -m models.mean OUT CHECKPOINT CHECKPOINT …")
    out, *paths = map(Path, arguments)
    try:
        save_checkpoint(out, mean([load_checkpoint(path) for path in paths]))
    except (OSError, ValueError) as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
