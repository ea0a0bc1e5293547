"""The mean of several trainings' weights: ``python -m models.mean OUT CHECKPOINT CHECKPOINT …``.

Networks that have come from the same weights are near enough to each other for their mean to be a good one, often with
less loss through other microphones than any of them (Izmailov 2018, Wortsman 2022). It keeps the last one's provenance,
with the other data of all: the folds are the same in all, so that what is held out has been learnt by none.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from models.checkpoint import MORE, Checkpoint, load_checkpoint, save_checkpoint

FOLDS = ("dataset", "train_folds", "test_fold")


def mean(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """The last checkpoint with the mean of all weights. Raises ValueError where networks or folds are not alike."""
    last = checkpoints[-1]
    for other in checkpoints:
        if (other.architecture, other.config, other.labels) != (last.architecture, last.config, last.labels):
            raise ValueError(f"a network {other.architecture} of {len(other.labels)} classes and another do not mix")
        if other.frontend != last.frontend:
            raise ValueError(f"networks with {other.frontend} and {last.frontend} do not mix")
    _check_folds([checkpoint.provenance for checkpoint in checkpoints])
    state = {
        name: torch.stack([c.state[name].float() for c in checkpoints]).mean(0) if there.is_floating_point() else there
        for name, there in last.state.items()
    }
    others = [name for c in checkpoints for name in c.provenance.get("other_data", ())]
    return replace(last, state=state, provenance=last.provenance | {"other_data": list(dict.fromkeys(others))})


def _check_folds(origins: Sequence[dict[str, Any]]) -> None:
    """Raises ValueError where some weights may have learnt what others held out."""
    last = origins[-1]
    for name, other in ((name, origin[name]) for origin in origins for name in FOLDS):
        if other != last[name]:
            raise ValueError(f"weights of {name} {other} and of {last[name]} do not mix; train them on the same folds")
    # Clips of --more are never held out, and change the digest.
    own = [origin for origin in origins if not any(data.endswith(MORE) for data in origin.get("other_data", ()))]
    if len({origin["digest"] for origin in own if "digest" in origin}) > 1:
        raise ValueError(f"weights of other clips or folds of {last['dataset']} do not mix; train them on the same")


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
