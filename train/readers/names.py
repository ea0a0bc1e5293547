"""Labels out of file names, such as ``S3_whistle_1_Panther.wav``."""

from __future__ import annotations

from pathlib import Path

from train.clip import Clip, ManifestError
from train.readers.listing import Listing
from train.readers.options import ReadOptions
from train.readers.pattern import NamePattern
from train.readers.walk import walk
from train.splits import fold_number

ACCEPTS = frozenset({"pattern"})


def read(root: Path, options: ReadOptions) -> Listing:
    """Every recording below ``root`` whose name matches; the others are skipped, and named."""
    if not options.pattern:
        raise ManifestError("labels out of file names need --pattern, such as '_(?P<label>[^_]+)$'")
    pattern = NamePattern(options.pattern)
    if "label" not in pattern.groups:
        raise ManifestError(f"--pattern {options.pattern!r} has no group (?P<label>...), which gives the label")
    paths, skipped = walk(root)
    clips = []
    for path in paths:
        found = pattern.match(path, root)
        if found is None or "label" not in found:
            skipped.append(f"{path}: its name does not match --pattern {options.pattern!r}")
            continue
        fold = fold_number(found.get("fold", ""), str(path)) if "fold" in pattern.groups else 0
        clips.append(Clip(path, (found["label"],), fold, group=found.get("group", "")))
    if not paths:
        raise ManifestError(f"{root} has no recordings; give the folder that they are in")
    if not clips:
        raise ManifestError(f"no name matches --pattern {options.pattern!r}; the first is {paths[0].stem!r}")
    return Listing(root.resolve().name, clips, has_folds="fold" in pattern.groups, skipped=skipped)
