"""How ``edge-events`` shows what it has found: tables, CSV, JSON, and the picture of a day."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any, TextIO

from edge.errors import EdgeError
from edge.files import replacing
from edge.history import LabelStats, StoredEvent

WIDEST = 10_000  # columns, of what is no terminal
SHADES = " ░▒▓█"
COLUMNS = (
    "id", "source", "label", "corrected", "note", "onset_time", "offset_time", "duration", "onset", "offset", "peak",
    "mean", "level_dbfs", "model", "classes", "clip", "clip_pruned_at",
)  # fmt: skip


def as_row(event: StoredEvent) -> dict[str, Any]:
    """The event for programs: times in RFC 3339, UTC."""
    row = asdict(event) | {"duration": None if event.duration is None else round(event.duration, 3)}
    for name in ("onset_time", "offset_time", "clip_pruned_at"):
        row[name] = None if row[name] is None else _utc(row[name])
    return {name: row[name] for name in COLUMNS}


def write_events(events: Iterable[StoredEvent], kind: str, stream: TextIO) -> int:
    """Write them to ``stream`` as "csv", "json" (one array) or "jsonl", one by one; their number."""
    written = 0
    table = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    if kind == "csv":
        table.writeheader()
    for event in events:
        row = as_row(event)
        if kind == "csv":
            table.writerow(row | {"classes": " ".join(event.classes)})
        elif kind == "json":
            stream.write((",\n" if written else "[\n") + json.dumps(row, ensure_ascii=False))
        else:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        written += 1
    if kind == "json":
        stream.write("\n]\n" if written else "[]\n")
    return written


def print_events(events: Iterable[StoredEvent], output: str) -> None:
    """On stdout: "table", "csv" or "json"."""
    if output == "csv":
        write_events(events, "csv", sys.stdout)
    elif output == "json":
        print(json.dumps([as_row(event) for event in events], indent=2, ensure_ascii=False))
    else:
        rows = [_cells(event) for event in events]
        _print_table(("begun", "seconds", "label", "score", "source", "clip", "id"), rows, right=(1, 3))


def _cells(event: StoredEvent) -> tuple[str, ...]:
    label = event.label if event.corrected is None else f"{event.corrected} (was {event.label})"
    clip = "" if event.clip is None else "deleted" if event.clip_pruned_at else "yes"
    length = "no end" if event.duration is None else f"{event.duration:.1f}"
    begun = datetime.fromtimestamp(event.onset_time).isoformat(" ", "seconds")
    return begun, length, label, f"{event.peak:.2f}", event.source, clip, event.id[:8]


def print_stats(stats: list[LabelStats], output: str) -> None:
    """On stdout: "table", "csv" or "json"."""
    names = [field.name for field in fields(LabelStats)]
    rows = [{**asdict(s), "mean_score": round(s.mean_score, 4), "hours": round(s.hours, 4)} for s in stats]
    if output == "json":
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    elif output == "csv":
        table = csv.DictWriter(sys.stdout, names, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    else:
        cells = [(s.label, str(s.events), f"{s.mean_score:.2f}", f"{s.hours:.2f}", str(s.wrong)) for s in stats]
        _print_table(("label", "events", "score", "hours", "wrong"), cells, right=(1, 2, 3, 4))


def print_hours(counts: Mapping[str, list[int]], day: date) -> None:
    """Draw the day on stdout: a line for each label, a column for each hour, darker where more was heard."""
    most = max((max(row) for row in counts.values()), default=0)
    print(f"{day.isoformat()}, the darkest hour: {most} events" if most else f"{day.isoformat()}: nothing was heard")
    rows = [(label, "".join(_shade(n, most) * 2 for n in row), str(sum(row))) for label, row in counts.items()]
    if rows:
        _print_table(("label", "".join(f"{hour:<6}" for hour in range(0, 24, 3)), "sum"), rows, right=(2,))


def _shade(n: int, most: int) -> str:
    """Never blank where something was heard."""
    return SHADES[-(-n * (len(SHADES) - 1) // most)] if n else "·"


def draw_hours(counts: Mapping[str, list[int]], day: date, out: Path) -> None:
    """The same as a PNG file. Raises EdgeError without matplotlib, or when it cannot be written."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise EdgeError(
            "a picture needs matplotlib", remedy="pip install 'edge-listen[plot]', or draw it with --output text"
        ) from None
    labels = list(counts) or ["nothing was heard"]
    table = [counts.get(label, [0] * 24) for label in labels]
    figure = Figure(figsize=(10, 1.5 + 0.3 * len(labels)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(table, aspect="auto", cmap="Greys", vmin=0, vmax=max(1, *map(max, table)))
    axes.set(title=day.isoformat(), xlabel="hour", xticks=range(24), yticks=range(len(labels)))
    axes.set_yticklabels(labels, parse_math=False)
    figure.colorbar(image, label="events")
    try:
        with replacing(out) as part:
            figure.savefig(part, format="png", dpi=120)
    except OSError as error:
        raise EdgeError(f"{out} cannot be written: {error.strerror}", remedy="name another file") from None


def _print_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]], right: tuple[int, ...]) -> None:
    """Labels and names are anybody's text: no markup, no emoji. Whole lines where stdout is no terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i in right else "left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console(markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else WIDEST)
    console.print(table)


def _utc(seconds: float) -> str:
    text = datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
