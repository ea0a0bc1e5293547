"""How a data set is to be read."""

from __future__ import annotations

from dataclasses import dataclass

LAYOUTS = ("auto", "esc50", "urbansound8k", "folders", "table", "names")


@dataclass(frozen=True)
class ReadOptions:
    """Options of :func:`train.manifest.read_manifest`; empty ones are found out."""

    layout: str = "auto"  # one of LAYOUTS
    pattern: str = ""  # regular expression on file names, with groups label, group, fold
    path_column: str = ""  # of a table: a name, or a number from 1 where it has no header; so are the next five
    label_column: str = ""
    fold_column: str = ""
    start_column: str = ""  # seconds
    end_column: str = ""  # seconds
    group_column: str = ""
    separator: str = ""  # between the labels of a clip; makes the data set multi-label
    audio: str = ""  # folder that a table's paths start from
    where: tuple[str, ...] = ()  # "column=value": rows to keep
    classes: tuple[str, ...] = ()  # labels to keep; empty: all
    n_folds: int = 5  # dealt where the data set has none; 1 does not split
    seed: int = 0  # of the dealing
    strict: bool = False  # a file that cannot be used is an error, instead of being named and skipped
