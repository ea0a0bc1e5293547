"""A folder for each class, in folders for each fold where there are such."""

from __future__ import annotations

from pathlib import Path

from train.clip import Clip, ManifestError
from train.readers.listing import Listing
from train.readers.options import ReadOptions
from train.readers.pattern import NamePattern
from train.readers.walk import walk
from train.splits import fold_number, is_fold

ACCEPTS = frozenset({"pattern"})


def read(root: Path, options: ReadOptions) -> Listing:
    """``root/<label>/**/*.wav``, or ``root/<fold>/<label>/**/*.wav``; ``--pattern`` may give the group."""
    pattern = NamePattern(options.pattern) if options.pattern else None
    if pattern and pattern.groups != {"group"}:
        raise ManifestError(
            f"--pattern {options.pattern!r} may have the group (?P<group>...) alone: folders give labels"
        )
    paths, skipped = walk(root)
    level = 1 if in_folds(root, paths) else 0  # of the label's folder
    clips = []
    for path in paths:
        parts = path.relative_to(root).parts
        if len(parts) < level + 2:
            skipped.append(f"{path}: is not in a class's folder")
            continue
        found = pattern.match(path, root) if pattern else {}
        if found is None:
            skipped.append(f"{path}: its name does not match --pattern {options.pattern!r}")
            continue
        fold = fold_number(parts[0], str(path)) if level else 0
        clips.append(Clip(path, (parts[level],), fold, group=found.get("group", "")))
    labels = {clip.label for clip in clips}
    if len(labels) < (2 if options.n_folds > 1 else 1):
        hint = " (labels in the names? give --pattern)" if not labels and paths else ""
        raise ManifestError(
            f"{root} has {len(labels)} folders with sound files; needs at least two, one for each class{hint}"
        )
    if not level:
        skipped += [f"{folder}: has no recordings" for folder in _folders(root) if folder.name not in labels]
    return Listing(root.resolve().name, clips, has_folds=level == 1, skipped=skipped)


def in_folds(root: Path, paths: list[Path]) -> bool:
    """Whether all top folders are called like folds: ``train`` and ``test``, ``fold1`` and ``fold2``."""
    relative = [path.relative_to(root).parts for path in paths]
    tops = {parts[0] for parts in relative if len(parts) > 1}
    return len(tops) > 1 and all(is_fold(top) for top in tops) and any(len(parts) > 2 for parts in relative)


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
