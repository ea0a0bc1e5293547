"""``python -m train describe DATA``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.cli.number import AT_ONCE
from edge.errors import EdgeError
from train.cli.data import data_options
from train.cli.pictures import check_picture
from train.manifest import ManifestError, ReadOptions

if TYPE_CHECKING:
    from train.describe import Description, Duplicate, Measured, Summary

MOST = 10  # names of one finding; --json has all. Unreadable files are all named


@click.command(name="describe")
@data_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.option(
    "--picture", type=click.Path(dir_okay=False, path_type=Path), help="Write an overview: .png, .svg or .pdf."
)
@click.option("--workers", type=AT_ONCE, help="Processes.  [default: one a core]")
def command(data: Path, options: ReadOptions, as_json: bool, picture: Path | None, workers: int | None) -> None:
    """Classes, folds, durations, rates, silence, clipping, duplicates and unreadable files of DATA.

    Every file is read. With --strict the exit code is 1 when one cannot be used.
    """
    from train.overview import SUFFIXES, overview, save

    try:
        check_picture(picture, SUFFIXES)
        description, measured = run(data, options, workers)
        if as_json:
            click.echo(json.dumps(asdict(description)))
        else:
            show(description)
        if picture:
            save(overview(description, measured), picture)
    except (EdgeError, ManifestError) as error:
        raise click.ClickException(str(error)) from None
    if options.strict and description.bad_files:
        raise click.ClickException(description.bad())


def run(data: Path, options: ReadOptions, workers: int | None = None) -> tuple[Description, list[Measured]]:
    """The description, and the clips with their facts. Raises ManifestError, EdgeError."""
    from train.describe import describe, read_for_description
    from train.facts import measure_all

    manifest, not_trainable = read_for_description(data, options)
    clips = manifest.clips
    with click.progressbar(
        measure_all(clips, workers), len(clips), "reading", file=sys.stderr, hidden=not sys.stderr.isatty()
    ) as bar:
        facts = list(bar)
    return describe(manifest, facts, not_trainable), list(zip(clips, facts, strict=True))


def show(description: Description) -> None:
    """Tables for people, then what is wrong, the worst last."""
    total = description.total
    click.echo(f"{description.name}: {total.clips} readable clips, {len(description.classes)} classes\n")
    width = max(len(summary.label) for summary in (*description.classes, total))
    folds = list(total.folds)
    head = f"{'class':{width}} clips " + "".join(f"{f'fold {fold}':>8}" for fold in folds)
    click.echo(head + "   minutes  shortest  median  longest, s  level, dB  silence  clipped")
    for summary in (*description.classes, total):
        click.echo(_line(summary, width, folds))
    click.echo()
    click.echo(f"rates, Hz: {_some_counts(description.sample_rates)}")
    click.echo(f"channels:  {_some_counts(description.channels)}")
    click.echo(f"formats:   {_some_counts(description.formats)}")
    for title, names in findings(description):
        _list_out(title, names, MOST)
    _list_out("files are skipped", description.skipped, len(description.skipped))
    _list_out("files are not readable", description.unreadable, len(description.unreadable))
    if description.not_trainable:
        click.echo(f"\ncannot be split into folds: {description.not_trainable}")


def findings(description: Description) -> list[tuple[str, Sequence[str]]]:
    """What is suspicious, and where."""
    contradicting = [d for d in description.duplicates if len(d.labels) > 1]
    leaking = [d for d in description.duplicates if len(d.labels) == 1 and len(d.folds) > 1]
    harmless = [d for d in description.duplicates if len(d.labels) == 1 and len(d.folds) == 1]
    sources = [f"{name} in {_list(folds)}" for name, folds in description.sources_in_folds.items()]
    return [
        ("clips are shorter than half a second", description.short),
        ("clips are silent for more than nine tenths", description.silent),
        ("clips are clipped, more than one sample in a thousand", description.clipped),
        ("clips have an offset, more than a hundredth of full scale", description.offset),
        ("sounds are there twice, in one class and fold", [_duplicate(d) for d in harmless]),
        ("sources stand in several folds: what is tested is not independent", sources),
        ("sounds stand in several folds: what is tested was trained on", [_duplicate(d) for d in leaking]),
        ("sounds have several labels: they contradict each other", [_duplicate(d) for d in contradicting]),
    ]


def _list_out(title: str, names: Sequence[str], most: int) -> None:
    if not names:
        return
    click.echo(f"\n{len(names)} {title}:")
    for name in names[:most]:
        click.echo(f"  {name}")
    if len(names) > most:
        click.echo(f"  and {len(names) - most} more, all with --json")


def _line(summary: Summary, width: int, folds: Sequence[int]) -> str:
    counts = "".join(f"{summary.folds.get(fold, 0):8}" for fold in folds)
    times = f"{summary.seconds / 60:10.1f}{summary.shortest:10.2f}{summary.median:8.2f}{summary.longest:12.2f}"
    return (
        f"{summary.label:{width}} {summary.clips:5} {counts}{times}"
        f"{summary.level_db:11.1f}{summary.silence:9.0%}{summary.clipped:9}"
    )


def _some_counts(counts: dict[int, int] | dict[str, int]) -> str:
    return ", ".join(f"{value} ({count})" for value, count in list(counts.items())[:MOST]) or "none"


def _list(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


def _duplicate(duplicate: Duplicate) -> str:
    return f"{_list(duplicate.clips)} (label {_list(duplicate.labels)}; fold {_list(duplicate.folds)})"
