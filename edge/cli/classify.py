"""``edge-classify``: recordings in bulk."""

from __future__ import annotations

import csv
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import click

from edge.cli.common import (
    OurCommand,
    channel_option,
    config_option,
    ends_well,
    hop_option,
    log_settings,
    log_to_stderr,
    model_option,
    options,
    tuned_provider_option,
    verbose_option,
    version_option,
)
from edge.cli.number import AT_ONCE
from edge.errors import InputError

log = logging.getLogger("edge.classify")

Row = dict[str, Any]


@click.command(
    cls=OurCommand, context_settings={"auto_envvar_prefix": "EDGE_CLASSIFY", "help_option_names": ["-h", "--help"]}
)
@click.argument(
    "paths", nargs=-1, required=True, type=click.Path(readable=False, path_type=Path), metavar="FILE|FOLDER..."
)
@options(
    config_option,
    model_option,
    tuned_provider_option,
    channel_option,
    click.option("--output", type=click.Choice(["table", "jsonl", "csv"]), default="table", show_default=True),
    click.option("--windows", is_flag=True, help="Each window as well, not only the whole file."),
    hop_option,
    click.option("--top-k", type=click.IntRange(1), default=3, show_default=True, help="Classes shown."),
    click.option("--workers", type=AT_ONCE, show_default="one for each core", help="Processes."),
    verbose_option,
    version_option,
)
@click.pass_context
def main(
    context: click.Context,
    /,
    paths: tuple[Path, ...],
    config: Path | None,
    output: str,
    verbose: bool,
    **settings: Any,
) -> None:
    """Classify recordings: files, and folders with all that is below them.

    Results go to stdout, logs to stderr. A file that cannot be read is named and counted, and does not stop the rest.
    Exit codes: 0 all were read, 1 the output cannot be written, 2 usage, 3 model, 5 some recordings were not read,
    6 provider, 130 interrupted.
    """
    log_to_stderr(verbose)
    log_settings(context)
    with ends_well():
        try:
            unreadable = PRINTERS[output](run(paths, **settings), sys.stdout)
        except KeyboardInterrupt:
            raise SystemExit(130) from None
        if unreadable:
            raise InputError(f"{unreadable} recordings could not be read", remedy="see above; the rest is done")


def run(
    paths: tuple[Path, ...],
    *,
    model: str | Path | None = None,
    provider: str = "auto",
    channel: int | None = None,
    windows: bool = False,
    hop: float | None = None,
    top_k: int = 3,
    workers: int | None = None,
) -> Iterator[Row]:
    """One row for each recording, followed with ``windows`` by one for each of its windows.

    Rows have ``file``, ``label``, ``score``, ``top`` and ``unknown`` (of a file: most of its windows are); those of
    windows also ``onset`` and ``offset``; those of unreadable files only ``file`` and ``error``. Raises EdgeError when
    there is no recording, or no model.
    """
    from edge.bulk import classify_files, find_recordings
    from edge.classifier import Classifier
    from edge.tuning import pick

    files = find_recordings(paths)
    setup = pick(model, provider, threads=1)  # a process for each core
    model, provider = setup.model, setup.provider
    spec = Classifier(model, provider=provider).spec  # so that a mistake with the model or the hop shows at once
    spec.hop_frames(hop)
    results = classify_files(files, model, hop=hop, channel=channel, provider=provider, workers=workers)
    with click.progressbar(
        results, length=len(files), label="classifying", file=sys.stderr, hidden=not sys.stderr.isatty()
    ) as bar:
        for result in bar:
            if result.probs is None or result.windows is None:
                yield {"file": str(result.path), "error": result.error}
                continue
            mostly = sum(result.unknown) * 2 > len(result.unknown)
            yield {"file": str(result.path), **_scores(spec.labels, result.probs, top_k), "unknown": mostly}
            if windows:
                for (onset, offset), probs, unknown in zip(result.spans, result.windows, result.unknown, strict=True):
                    span = {"onset": round(onset, 3), "offset": round(offset, 3)}
                    yield {"file": str(result.path), **span, **_scores(spec.labels, probs, top_k), "unknown": unknown}


def _scores(labels: tuple[str, ...], probs: Any, top_k: int) -> Row:
    best = sorted(range(len(labels)), key=lambda i: -probs[i])[:top_k]
    top = [[labels[i], round(float(probs[i]), 4)] for i in best]
    return {"label": top[0][0], "score": top[0][1], "top": top}


def _readable(rows: Iterator[Row], failed: list[Row]) -> Iterator[Row]:
    """``rows`` without the unreadable ones, which are named on stderr."""
    for row in rows:
        if "error" in row:
            failed.append(row)
            log.error("%s", row["error"])
        else:
            yield row


def print_table(rows: Iterator[Row], stream: TextIO) -> int:
    """Aligned columns for people. Returns how many files were unreadable."""
    failed: list[Row] = []
    for row in _readable(rows, failed):
        span = f"{row['onset']:8.2f}-{row['offset']:.2f} s  " if "onset" in row else ""
        name = span or row["file"]
        shown = f"({row['label']}?)" if row["unknown"] else row["label"]
        others = ", ".join(f"{label} {score:.0%}" for label, score in row["top"][1:])
        print(f"{name:<40}  {shown:<20} {row['score']:4.0%}  {others}".rstrip(), file=stream)
    return len(failed)


def print_jsonl(rows: Iterator[Row], stream: TextIO) -> int:
    """One object a line, unreadable files among them. Returns how many files were unreadable."""
    failed = 0
    for row in rows:
        failed += "error" in row
        print(json.dumps(row, ensure_ascii=False), file=stream, flush=True)
        if "error" in row:
            log.error("%s", row["error"])
    return failed


def print_csv(rows: Iterator[Row], stream: TextIO) -> int:
    """``file,onset,offset,label,score,unknown``, the span empty for a whole file. Returns how many were unreadable."""
    failed: list[Row] = []
    writer = csv.DictWriter(stream, ["file", "onset", "offset", "label", "score", "unknown"], extrasaction="ignore")
    writer.writeheader()
    writer.writerows(_readable(rows, failed))
    return len(failed)


PRINTERS = {"table": print_table, "jsonl": print_jsonl, "csv": print_csv}


if __name__ == "__main__":
    main()
