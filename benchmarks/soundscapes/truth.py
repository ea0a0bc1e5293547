"""What is really there, and the files that say so."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edge.errors import InputError
from edge.files import replacing

# What columns are called: ours, and those of DCASE's and sed_eval's lists.
ONSET, OFFSET = ("onset", "event_onset", "start"), ("offset", "event_offset", "end")
LABEL, FILE = ("label", "event_label", "class"), ("filename", "file", "file_name")


@dataclass(frozen=True)
class Span:
    """A label from one time to another."""

    onset: float  # seconds of stream
    offset: float  # seconds of stream
    label: str


@dataclass(frozen=True)
class Detection(Span):
    """An event that was reported."""

    decided: float  # seconds of stream, when it was told that it has begun


@dataclass(frozen=True)
class Truth:
    """What is in a recording."""

    seconds: float  # of the recording
    events: tuple[Span, ...]  # what is to be reported
    ignored: tuple[Span, ...] = ()  # classes that may be there: neither expected nor false
    stretches: tuple[Span, ...] = ()  # kinds of background, one after the other

    def renamed(self, names: dict[str, str | None]) -> Truth:
        """With other labels; None for a class that is not reported. One that is not named keeps its own."""
        return replace(self, events=_renamed(self.events, names), ignored=_renamed(self.ignored, names))


def _renamed(spans: Iterable[Span], names: dict[str, str | None]) -> tuple[Span, ...]:
    named = ((span, names.get(span.label, span.label)) for span in spans)
    return tuple(replace(span, label=label) for span, label in named if label is not None)


def read_spans(path: Path) -> dict[str, list[Span]]:
    """Events by the recording they are of, "" where the file does not say: comma or tab separated, with a header or
    without one (onset, offset, label, and before them the recording).

    Raises InputError, which names the line, for what is no such list.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}", remedy="give a CSV or TSV of events") from None
    lines = text.splitlines()
    delimiter = "\t" if lines and "\t" in lines[0] else ","
    rows = [(n, [c.strip() for c in row]) for n, row in enumerate(csv.reader(lines, delimiter=delimiter), 1) if row]
    if not rows:
        return {}
    places = _places(rows[0][1])
    found: dict[str, list[Span]] = {}
    for number, row in rows[1:] if places else rows:
        name, span = _span(row, places or _without_header(row), f"{path}, line {number}")
        found.setdefault(name, []).append(span)
    return found


def write_spans(path: Path, spans: Sequence[Span]) -> None:
    """``onset,offset,label``, as :func:`read_spans` reads it."""
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["onset", "offset", "label"])
        writer.writerows([f"{span.onset:.4f}", f"{span.offset:.4f}", span.label] for span in spans)


def _places(header: list[str]) -> dict[str, int]:
    """Where each column is; empty where this is no header."""
    cells = [cell.lower() for cell in header]
    columns = {"onset": ONSET, "offset": OFFSET, "label": LABEL, "file": FILE}
    found = {key: cells.index(name) for key, names in columns.items() for name in names if name in cells}
    return found if {"onset", "offset", "label"} <= found.keys() else {}


def _without_header(row: list[str]) -> dict[str, int]:
    """sed_eval's lists: the recording stands first, or is not named."""
    return {"file": 0, "onset": 1, "offset": 2, "label": 3} if len(row) == 4 else {"onset": 0, "offset": 1, "label": 2}


def _span(row: list[str], places: dict[str, int], where: str) -> tuple[str, Span]:
    remedy = "write onset and offset in seconds, and a label"
    if len(row) <= max(places.values()):
        raise InputError(f"{where} has {len(row)} columns", remedy=remedy)
    times = []
    for key in ("onset", "offset"):
        try:
            times.append(float(row[places[key]]))
        except ValueError:
            raise InputError(f"{where}: {key} is {row[places[key]]!r}", remedy=remedy) from None
    onset, offset = times
    if not (0 <= onset <= offset and math.isfinite(offset)):
        raise InputError(f"{where}: from {onset:g} to {offset:g} s", remedy="an event begins before it ends, from 0 on")
    if not row[places["label"]]:
        raise InputError(f"{where} has no label", remedy=remedy)
    return row[places["file"]] if "file" in places else "", Span(onset, offset, row[places["label"]])
