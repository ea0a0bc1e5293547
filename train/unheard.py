"""What is held out must not have been heard before: not by the weights that a run starts from, nor by its teachers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.checkpoint import load_checkpoint
from train.config import TrainConfig
from train.manifest import Manifest


def check_unheard(checkpoints: Sequence[str], config: TrainConfig, manifest: Manifest) -> None:
    """Raises ValueError where one of ``checkpoints`` has learnt from a fold that the run holds out.

    The folds are known to be the same where the digest of the data set is, or where a data set of that name brings its
    own folds.
    """
    held_out = {fold for fold in (config.test_fold, *config.validation_folds) if fold}
    for path in checkpoints:
        if not path or not Path(path).is_file():
            continue  # named where it is loaded
        origin = load_checkpoint(Path(path)).provenance
        same = origin.get("digest") == manifest.digest() or (manifest.official and origin["dataset"] == manifest.name)
        if same and (heard := sorted(held_out & set(origin["train_folds"]))):
            free = origin["test_fold"]
            instead = f"it has not heard fold {free}: give that as --test-fold, or" if free else "give"
            raise ValueError(
                f"{path} has learnt from fold {', '.join(map(str, heard))} of {manifest.name}, which is held out here; "
                f"{instead} other weights"
            )
