"""UrbanSound8K's official layout (Salamon 2014): ``metadata/UrbanSound8K.csv`` beside ``audio/fold*``."""

from __future__ import annotations

from pathlib import Path

from train.clip import Clip
from train.readers.listing import Listing, by_number
from train.readers.options import ReadOptions
from train.readers.rows import read_rows, select

TABLE = Path("metadata", "UrbanSound8K.csv")
ACCEPTS = frozenset({"where"})


def read(root: Path, options: ReadOptions) -> Listing:
    """Columns slice_file_name, fsID, start, end, salience, fold, classID, class. Start and end are those of the slice
    in the recording that it was cut from: the files are cut already.
    """
    numbers: dict[str, int] = {}
    clips = []
    for row in select(read_rows(root / TABLE), options.where):
        label, fold = row.text("class"), row.integer("fold")
        numbers[label] = row.integer("classID")
        path = root / "audio" / f"fold{fold}" / row.text("slice_file_name")
        clips.append(Clip(path, (label,), fold, group=row.text("fsID")))
    return Listing("UrbanSound8K", clips, by_number(numbers), has_folds=True)
