"""``edge-events``: what was heard, from the store on this device: listed, exported, corrected, drawn and erased."""

from __future__ import annotations

import re
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from edge.cli.common import OurGroup, ends_well, log_to_stderr, options, version_option
from edge.cli.number import Finite
from edge.errors import EdgeError
from edge.history import NOTHING, Filter, correct, count, day_bounds, erase, erase_clips, find, hours_of
from edge.names import encodable
from edge.store import DAY, default_path, explaining, open_to_read, open_to_write

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}  # seconds


def moment(text: str) -> float:
    """Seconds since the Unix epoch of a time: ISO 8601 (local where it names no zone), an age such as 2h or 7d, today,
    yesterday, now. Raises ValueError.
    """
    if text == "now":
        return time.time()
    if text in ("today", "yesterday"):
        return day_bounds(_day(text))[0]
    if age := re.fullmatch(r"(\d{1,6}(?:\.\d+)?)([smhdw])", text):
        return time.time() - float(age[1]) * UNITS[age[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        allowed = "2025-11-25T18:00, an age (30m, 2h, 7d), today, yesterday, now"
        raise ValueError(f"{text!r} is no time; allowed: {allowed}") from None


def day_of(text: str) -> date:
    """A day by the local clock: ISO 8601, today, yesterday. Raises ValueError."""
    try:
        day = _day(text)
        day_bounds(day)  # which the first and the last of the calendar do not have
        return day
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no day; allowed: 2025-11-25, today, yesterday") from None


def label_of(text: str) -> str:
    """What an event may be called. Raises ValueError."""
    if not text.strip():
        raise ValueError(f"{text!r} is no label; allowed: what it was, or {NOTHING}")
    return encodable(text)


def picture_of(path: Path) -> Path:
    """A file that can be drawn in: it is a PNG whatever its name. Raises ValueError."""
    if path.suffix.lower() not in ("", ".png"):
        raise ValueError(f"{str(path)!r} is no PNG file; allowed: a name that ends with .png")
    return path


def parsed(parse: Callable[[Any], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A callback that takes what ``parse`` makes of the value."""

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        try:
            return None if value is None else parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error), context, parameter) from None

    return callback


def _day(value: str) -> date:
    today = datetime.now().date()
    return {"today": today, "yesterday": today - timedelta(days=1)}.get(value) or date.fromisoformat(value)


db_option = click.option(
    "--db",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="EDGE_LISTEN_DB",
    show_default="$XDG_STATE_HOME/edge-listen/events.db",
    help="Database that edge-listen writes.",
)
label_option = click.option(
    "--label", callback=parsed(encodable), help="Only this one, as it was reported or corrected."
)
filter_options = options(
    click.option("--since", metavar="TIME", callback=parsed(moment), help="Begun at this time or later."),
    click.option("--until", metavar="TIME", callback=parsed(moment), help="Begun before this time."),
    label_option,
    click.option("--source", callback=parsed(encodable), help="Only sources with this in their name."),
    click.option("--min-score", type=Finite(0, 1), help="Least highest score."),
)
output_option = click.option(
    "--output", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True, help="For whom."
)


@click.group(cls=OurGroup, context_settings={"help_option_names": ["-h", "--help"]})
@version_option
def main() -> None:
    """What edge-listen --db has heard: list it, export it, correct it, draw it, erase it.

    A TIME is ISO 8601 (local, unless it names a zone), an age as 30m, 2h or 7d, today, yesterday or now. Exit codes: 0
    done, 1 not confirmed, an extra is missing or the output cannot be written, 2 usage, 8 no database, none of ours, a
    damaged or locked one, one of a later version, or no permission.
    """
    log_to_stderr(verbose=False)


def command(name: str, *decorators: Callable[[Any], Any]) -> Callable[[Any], click.Command]:
    """A command of the group with a database; errors are one line."""

    def decorate(function: Any) -> click.Command:
        def wrapped(**values: Any) -> None:
            with ends_well():
                function(**values)

        wrapped.__doc__ = function.__doc__
        decorated: Any = options(db_option, *decorators)(wrapped)
        registered: click.Command = main.command(name)(decorated)
        return registered

    return decorate


def opened(db: Path | None, *, write: bool = False) -> tuple[sqlite3.Connection, Path]:
    """The database that was named, or the default one. Raises StoreError."""
    path = db or default_path()
    return (open_to_write(path, create=False) if write else open_to_read(path)), path


@command(
    "list",
    filter_options,
    click.option("--limit", type=click.IntRange(1, 10**9), default=50, show_default=True, help="The latest so many."),
    output_option,
)
def list_events(db: Path | None, limit: int, output: str, **wanted: Any) -> None:
    """Show events, the latest last."""
    from edge.cli.events_view import print_events

    connection, path = opened(db)
    with closing(connection), explaining(path):
        print_events(find(connection, Filter(**wanted), limit), output)


@command(
    "export",
    click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path)),
    filter_options,
    click.option("--format", "kind", type=click.Choice(["csv", "json", "jsonl"]), show_default="by the name of FILE"),
)
def export(db: Path | None, file: Path, kind: str | None, **wanted: Any) -> None:
    """Write events to FILE, as CSV, a JSON array or JSON Lines: all of them, or FILE is left as it was. To stdout, if
    FILE is -.
    """
    from edge.cli.events_view import write_events
    from edge.files import replacing

    kind = kind or {".csv": "csv", ".json": "json", ".jsonl": "jsonl"}.get(file.suffix.lower())
    if kind is None:
        raise click.UsageError(f"{file} ends with none of .csv, .json, .jsonl: say --format csv, json or jsonl")
    connection, path = opened(db)
    if file.exists() and file.samefile(path):
        raise click.UsageError(f"{file} is the database itself: name another file")
    if str(file) == "-":
        with closing(connection), explaining(path):
            write_events(find(connection, Filter(**wanted)), kind, sys.stdout)
        return
    try:
        with (
            closing(connection),
            explaining(path),
            replacing(file) as part,
            part.open("w", encoding="utf-8", newline="") as stream,
        ):
            written = write_events(find(connection, Filter(**wanted)), kind, stream)
    except OSError as error:
        raise EdgeError(f"{file} cannot be written: {error.strerror}", remedy="name another file") from None
    print(f"{written} events in {file}", file=sys.stderr)


@command(
    "correct",
    click.argument("event_id", metavar="ID", callback=parsed(encodable)),
    click.argument("label", metavar=f"LABEL|{NOTHING}", callback=parsed(label_of)),
    click.option("--note", default="", callback=parsed(encodable), help="Kept with it."),
)
def correct_event(db: Path | None, event_id: str, label: str, note: str) -> None:
    """Say what the event ID really was: LABEL, or nothing. The last word counts; what was reported stays beside it."""
    connection, path = opened(db, write=True)
    with closing(connection), explaining(path):
        whole = correct(connection, event_id, label, note)
    print(f"{whole}: {label}")


@command("stats", filter_options, output_option)
def stats(db: Path | None, output: str, **wanted: Any) -> None:
    """Count events by the label that was reported: how many, their mean score, hours, and how many were wrong."""
    from edge.cli.events_view import print_stats

    connection, path = opened(db)
    with closing(connection), explaining(path):
        print_stats(count(connection, Filter(**wanted)), output)


@command(
    "day",
    click.argument("day", metavar="[DATE]", default="today", callback=parsed(day_of)),
    click.option(
        "--out",
        type=click.Path(dir_okay=False, path_type=Path),
        callback=parsed(picture_of),
        help="PNG file to draw it in.",
    ),
    click.option("--output", type=click.Choice(["text"]), show_default="text without --out", help="In the terminal."),
)
def draw_day(db: Path | None, day: date, out: Path | None, output: str | None) -> None:
    """Draw a day (today): its hours, and how many events of each label went on in them."""
    from edge.cli.events_view import draw_hours, print_hours

    connection, path = opened(db)
    begin, end = day_bounds(day)
    with closing(connection), explaining(path):
        counts = hours_of(find(connection, Filter(since=begin - DAY, until=end)), day)
    if out is not None:
        draw_hours(counts, day, out)
    if out is None or output == "text":
        print_hours(counts, day)


@command(
    "erase",
    click.option("--before", metavar="TIME", callback=parsed(moment), help="What began before this time."),
    label_option,
    click.option("--all", "everything", is_flag=True, help="Everything, corrections and health included."),
    click.option(
        "--clips",
        "folder",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        envvar="EDGE_LISTEN_CLIPS",
        help="Folder of clips; with it, those whose events have been forgotten go as well.",
    ),
    click.option("--yes", is_flag=True, help="Do not ask."),
)
def erase_events(
    db: Path | None, before: float | None, label: str | None, everything: bool, folder: Path | None, yes: bool
) -> None:
    """Delete events, their corrections and their clips, for good: the database is rewritten without them."""
    if everything == (before is not None or label is not None):
        raise click.UsageError("say what to erase: --all, or --before and --label or one of them")
    connection, path = opened(db, write=True)
    wanted = Filter(until=before, label=label)
    with closing(connection), explaining(path):
        found = sum(1 for _ in find(connection, wanted))
        if not yes:
            click.confirm(f"Erase {found} events and their clips from {path}?", abort=True, err=True)
        events, clips = erase(connection, path, wanted, everything=everything)
    if folder is not None and label is None:  # a name of a clip says when it was; what, only roughly
        clips += erase_clips(folder, before)
    print(f"erased {events} events and {clips} clips")


if __name__ == "__main__":
    main()
