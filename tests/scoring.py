"""Was each event of a truth file named while it was heard? Used by the demo's test and by the wheel's."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def read_truth(path: Path) -> list[tuple[float, float, str]]:
    """(onset, offset, label) of each event."""
    with path.open(newline="", encoding="utf-8") as file:
        return [(float(row["onset"]), float(row["offset"]), row["label"]) for row in csv.DictReader(file)]


def named(records: Iterable[dict[str, Any]], truth: list[tuple[float, float, str]]) -> list[str]:
    """The labels of the events that a window named: a window that lies at least half in the event."""
    windows = [r for r in records if r["type"] == "window" and r["label"]]
    found = []
    for onset, offset, label in truth:
        for w in windows:
            overlap = min(offset, w["offset"]) - max(onset, w["onset"])
            if w["label"] == label and overlap >= (w["offset"] - w["onset"]) / 2:
                found.append(label)
                break
    return found
