"""What is held out must not have been heard before: not by the weights that a run starts from, nor by its teachers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.checkpoint import load_checkpoint
from train.clip import Clip
from train.config import TrainConfig
from train.learnt import heard, trained_on
from train.manifest import Manifest


def check_unheard(checkpoints: Sequence[str], config: TrainConfig, manifest: Manifest) -> None:
    """Raises ValueError where one of ``checkpoints`` has learnt from what the run holds out.

    The folds are known to be the same where the digest of the data set is. Else what its run wrote beside a checkpoint
    tells of the recordings themselves; without that, the folds do where a data set of that name brings its own.
    """
    held_out = {fold for fold in (config.test_fold, *config.validation_folds) if fold}
    digest = manifest.digest()
    for path in checkpoints:
        if not path or not Path(path).is_file():
            continue  # named where it is loaded
        origin = load_checkpoint(Path(path)).provenance
        free, same = origin["test_fold"], origin.get("digest") == digest
        if not same and (trained := trained_on(Path(path), origin["dataset"], origin["train_folds"])):
            _check_clips(Path(path), trained, free, held_out, manifest)
            continue
        same = same or (manifest.official and origin["dataset"] == manifest.name)
        if same and (folds := sorted(held_out & set(origin["train_folds"]))):
            instead = f"it has not heard fold {free}: give that as --test-fold, or" if free else "give"
            raise ValueError(
                f"{path} has learnt from fold {', '.join(map(str, folds))} of {manifest.name}, which is held out here; "
                f"{instead} other weights"
            )


def _check_clips(path: Path, trained: Sequence[Clip], free: int | None, held_out: set[int], manifest: Manifest) -> None:
    """Raises ValueError where clips of ``held_out`` are among those that ``path`` was ``trained`` on, without its fold
    ``free``.
    """
    clips = [clip for clip in manifest.clips if clip.fold in held_out]
    if not (known := heard(trained, clips)):
        return
    others = [clip for clip in manifest.clips if clip.fold == free]
    if others and not heard(trained, others):
        instead = f"it has not heard fold {free}: give that as --test-fold, or"
    elif free:
        beside = path.with_name("manifest.jsonl")
        instead = f"give its own folds ({beside} as DATA, --test-fold {free}), with new recordings as --more, or"
    else:
        instead = "give"
    raise ValueError(
        f"{path} has learnt from {len(known)} of the {len(clips)} clips that are held out here; {instead} other weights"
    )
