"""``python -m train fit DATA``."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from train.cli.data import data_options
from train.cli.runs import RunOptions, one_line_errors, run_options
from train.config import TrainConfig
from train.manifest import Manifest, ManifestError, ReadOptions, read_manifest, with_more
from train.progress import RunProgress
from train.tracking import NAMES, open_trackers


@click.command(name="fit")
@data_options
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("runs/fit"), show_default=True)
@click.option("--init", help='Start from these weights: "bundled", or a checkpoint.pt. Its network is used.')
@click.option("--test-fold", type=int, help="Never looked at; 0: none. [default: the last fold]")
@click.option(
    "--validation-fold", type=int, multiple=True, help="Looked at while training, not trained on. Repeatable."
)
@click.option(
    "--more",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="More clips of DATA's classes, a folder for each: trained on, never held out.",
)
@run_options("default; with --init finetune")
@click.option("--track", type=click.Choice(NAMES), multiple=True, help="Also write the history there. Repeatable.")
@click.option("--report/--no-report", "with_report", default=True, show_default=True, help="Write OUT/report.html.")
def command(
    data: Path,
    options: ReadOptions,
    out: Path,
    init: str | None,
    test_fold: int | None,
    validation_fold: tuple[int, ...],
    more: Path | None,
    asked: RunOptions,
    track: tuple[str, ...],
    with_report: bool,
) -> None:
    """Train on DATA, and write OUT/checkpoint.pt.

    An interrupted run goes on when the same command is given again. Under torchrun, the processes share the work.
    """
    asked.set_threads()
    with one_line_errors():
        manifest = read_manifest(data, options)
        config = asked.config("finetune" if init else "default")
        config = with_folds(config, manifest, test_fold, validation_fold)
        if more:
            fold, chosen = config.train_folds[0], bool(options.classes)
            manifest = with_more(manifest, more, fold, chosen=chosen, strict=options.strict)
        path = run_fit(config, manifest, out, asked, init, options.strict, track, with_report)
    if path is not None:  # the first process of several reports
        click.echo(path)


def with_folds(
    config: TrainConfig, manifest: Manifest, test_fold: int | None, validation_folds: tuple[int, ...]
) -> TrainConfig:
    """``config`` with these folds held out, trained on the others. Raises ManifestError."""
    folds = {clip.fold for clip in manifest.clips}
    free = folds - set(validation_folds)
    test = (max(free) if len(free) > 1 else 0) if test_fold is None else test_fold
    if test in validation_folds:
        raise ManifestError(f"fold {test} cannot be both looked at and never looked at; give another --test-fold")
    held_out = [fold for fold in (test, *validation_folds) if fold]
    manifest.in_folds(held_out)  # they must be there
    train = tuple(sorted(folds - set(held_out)))
    if not train:
        raise ManifestError(f"every fold of {manifest.name} is held out, {sorted(folds)}; leave one to train on")
    return replace(config, train_folds=train, test_fold=test or None, validation_folds=validation_folds)


def run_fit(
    config: TrainConfig,
    manifest: Manifest,
    out: Path,
    asked: RunOptions,
    init: str | None,
    strict: bool,
    track: tuple[str, ...],
    with_report: bool,
) -> Path | None:
    """Train, with progress, trackers and report. Returns the checkpoint, or None in a process that only helps."""
    from train import distributed
    from train.initial import start_from
    from train.report import write_report
    from train.run import run

    if init:
        given = [s for s in asked.settings if s.startswith(("architecture", "model", "frontend"))]
        if given:
            raise ValueError(f"--set {given[0]} and --init contradict each other: the network is that of the weights")
        config = start_from(config, init)
    group, trackers, failed = distributed.start(asked.device), [], True
    try:
        if group.main:
            trackers = open_trackers(track, out, asdict(config) | {"data": manifest.name})
        with RunProgress() as progress:

            def report(run_out: Path, run_config: TrainConfig, record: dict[str, Any]) -> None:
                progress.show(run_out, run_config.epochs, record)
                for tracker in trackers if run_out == out else ():
                    tracker.log(record, record["epoch"])

            path = run(config, manifest, out, asked.features, report, device=asked.device, strict=strict)
        if not group.main:
            return None
        files = [path, write_report(out)] if with_report else [path]
        for tracker in trackers:
            for file in files:
                tracker.artifact(file)
        failed = False
        return path
    finally:
        for tracker in trackers:
            tracker.close(failed=failed)
        distributed.stop()
