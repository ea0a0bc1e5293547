"""Readers of data sets, one layout a file; each lists the clips that are named, whether or not they are there."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from train.clip import ManifestError
from train.readers import esc50, folders, names, table, urbansound8k
from train.readers.listing import Listing
from train.readers.options import LAYOUTS, ReadOptions
from train.readers.pattern import NamePattern
from train.readers.rows import SUFFIXES
from train.readers.walk import walk

OFFICIAL = {"esc50": esc50, "urbansound8k": urbansound8k}
READERS = OFFICIAL | {"folders": folders, "table": table, "names": names}
ANY_LAYOUT = frozenset({"layout", "classes", "n_folds", "seed", "strict"})  # options that are not the reader's


def read_listing(root: Path, options: ReadOptions) -> Listing:
    """What ``root`` names, by the reader of ``options.layout``.

    Raises:
        ManifestError: for a layout that it does not have, or an option that its layout does not take.
    """
    if not root.exists():
        raise ManifestError(f"{root} is not a folder, nor a file; give the folder of a data set, or its table")
    if options.layout not in LAYOUTS:
        raise ManifestError(f"unknown layout {options.layout!r}; there are: {', '.join(LAYOUTS)}")
    layout = detect(root, options) if options.layout == "auto" else options.layout
    if root.is_file() and layout != "table":
        raise ManifestError(f"{root} is a file; the layout {layout} is a folder")
    reader = READERS[layout]
    for field in fields(ReadOptions):
        if getattr(options, field.name) != field.default and field.name not in ANY_LAYOUT | reader.ACCEPTS:
            option = "--" + field.name.replace("_", "-")
            raise ManifestError(f"{option} is not for the layout {layout} of {root}; leave it out, or give --layout")
    if layout in OFFICIAL and not (root / OFFICIAL[layout].TABLE).is_file():
        raise ManifestError(f"{root} has no {OFFICIAL[layout].TABLE}; give the data set's own folder")
    listing: Listing = reader.read(root, options)
    return listing


def detect(root: Path, options: ReadOptions) -> str:
    """The layout of ``root``. Raises ManifestError where it may be either of two."""
    if root.is_file():
        return "table"
    if options.pattern:
        return "names" if "label" in NamePattern(options.pattern).groups else "folders"
    for name, official in OFFICIAL.items():
        if (root / official.TABLE).is_file():
            return name
    # Text is more often a licence than a table.
    found = table.tables(root, [suffix for suffix in SUFFIXES if suffix != ".txt"])
    classes = {path.relative_to(root).parts[0] for path in walk(root)[0] if path.parent != root}
    if found and len(classes) > 1:
        raise ManifestError(
            f"{root} has folders with recordings and a table, {found[0].name}: which of them has the labels? "
            "give --layout folders, or the table"
        )
    return "table" if found else "folders"
