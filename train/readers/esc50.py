"""ESC-50's official layout (Piczak 2015): ``meta/esc50.csv`` beside ``audio/``."""

from __future__ import annotations

from pathlib import Path

from train.clip import Clip
from train.readers.listing import Listing, by_number
from train.readers.options import ReadOptions
from train.readers.rows import read_rows, select

TABLE = Path("meta", "esc50.csv")
ACCEPTS = frozenset({"where"})


def read(root: Path, options: ReadOptions) -> Listing:
    """Columns filename, fold, target, category, esc10, src_file, take. The folds are official: four sources stand in
    two of them, and stay there.
    """
    targets: dict[str, int] = {}
    clips = []
    for row in select(read_rows(root / TABLE), options.where):
        label = row.text("category")
        targets[label] = row.integer("target")
        path = root / "audio" / row.text("filename")
        clips.append(Clip(path, (label,), row.integer("fold"), group=row.text("src_file", "")))
    return Listing("ESC-50", clips, by_number(targets), has_folds=True)
