"""``python -m train evaluate DATA``."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import click

from edge.cli.number import AT_ONCE
from edge.config import ModelSpec
from edge.errors import EdgeError
from train.cli.data import reading_options
from train.cli.pictures import check_picture
from train.manifest import ManifestError, ReadOptions, read_manifest

if TYPE_CHECKING:
    from edge.config import Provenance
    from train.evaluate import Report
    from train.manifest import Clip, Manifest
    from train.robustness import Robustness

log = logging.getLogger("train.evaluate")

ESC50 = Path(__file__).parents[3] / "shared" / "data" / "esc50"


@click.command(name="evaluate")
@click.argument("data", type=click.Path(path_type=Path), default=ESC50)
@reading_options
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="ONNX file, model package, hf://OWNER/NAME, or checkpoint.pt. [default: the bundled int8]",
)
@click.option("--fold", type=int, multiple=True, help="Repeatable. [default: the fold that the model never saw]")
@click.option(
    "--hop", type=float, help="Seconds between the windows of a clip. [default: 0.5, or a window where that is shorter]"
)
@click.option("--degrade", is_flag=True, help="Also through seven other microphones, lines and rooms.")
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    help="PNG of the confusion matrix; FILE-reliability.png beside it.",
)
@click.option("--workers", type=AT_ONCE, help="Processes. [default: one a core]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def command(data: Path, options: ReadOptions, picture: Path | None, as_json: bool, **settings: Any) -> None:
    """Accuracy of a model on DATA, through the runtime that listens.

    DATA as `fit` takes it; without it, ESC-50 in ../shared/data/esc50. Clips that cannot be read are left out, and
    named.
    """
    try:
        check_picture(picture)
        found = run(data, options, **settings)
        for message in found["report"].skipped:
            click.echo(f"left out: {message}", err=True)
    except (EdgeError, ManifestError) as error:
        raise click.ClickException(str(error)) from None
    if picture:
        try:
            draw(found["report"], found["spec"].labels, picture)
        except OSError as error:
            why = f"{picture} cannot be written: {error.strerror}; give another --picture"
            raise click.ClickException(why) from None
    (print_json if as_json else print_text)(found)


class Found(TypedDict):
    """What :func:`run` has measured, and of what."""

    name: str  # of the data set
    spec: ModelSpec  # of the model
    folds: list[int]  # empty: all of them
    learnt_from: int | None  # clips that the model was trained on; None: nothing tells
    report: Report
    robustness: Robustness | None  # None: not asked for


def run(
    data: Path,
    options: ReadOptions,
    *,
    model: Path | None = None,
    fold: tuple[int, ...] = (),
    hop: float | None = None,
    degrade: bool = False,
    workers: int | None = None,
) -> Found:
    """Measure ``model`` on ``data``. Raises ManifestError, EdgeError."""
    from train.evaluate import evaluate, is_checkpoint, spec_of
    from train.learnt import learnt_from

    if is_checkpoint(model):
        import torch

        torch.set_num_threads(1)  # a single window is too little to share
    manifest, spec = read_manifest(data, options), spec_of(model)
    folds = list(fold) or held_out(manifest, spec.provenance)
    clips = manifest.in_folds(folds) if folds else list(manifest.clips)
    learnt = learnt_from(model, spec.provenance, manifest, clips)
    if learnt:
        log.warning(
            "the model has learnt from %d of these %d clips, and is less accurate on sounds that it has not heard: "
            "give a --fold, or clips, that were held out of its training",
            learnt,
            len(clips),
        )
    elif learnt is None and not folds and spec.provenance.dataset == manifest.name:
        log.warning(
            "the folds of %s were dealt here, and the model may have learnt from these clips: give the manifest.jsonl "
            "of its run instead, or --fold",
            manifest.name,
        )
    report = evaluate(model, clips, hop=hop, workers=workers, strict=options.strict)
    robustness = degraded(report, model, clips, hop, workers) if degrade else None
    return Found(name=manifest.name, spec=spec, folds=folds, learnt_from=learnt, report=report, robustness=robustness)


def held_out(manifest: Manifest, origin: Provenance) -> list[int]:
    """The fold of ``manifest`` that a model never saw; none where its folds were dealt here: those of the training may
    have been others.
    """
    known = manifest.official and manifest.name == origin.dataset and origin.test_fold is not None
    return [origin.test_fold] if known else []


def degraded(
    report: Report, model: Path | None, clips: list[Clip], hop: float | None, workers: int | None
) -> Robustness:
    """``report`` beside those of the degraded clips, with a bar on a terminal."""
    from train.effects import DEGRADATIONS
    from train.robustness import Robustness, degraded_reports

    reports = degraded_reports(model, clips, hop=hop, workers=workers)
    quiet = not sys.stderr.isatty()
    with click.progressbar(reports, len(DEGRADATIONS), "degrading", file=sys.stderr, hidden=quiet) as bar:
        return Robustness(report, dict(bar))


def draw(report: Report, labels: tuple[str, ...], picture: Path) -> None:
    """Write the confusion matrix, where there is one, and the reliability diagram."""
    from train.figures import confusion_figure, reliability_figure, save_png

    picture.parent.mkdir(parents=True, exist_ok=True)
    if report.confusion:
        save_png(confusion_figure(report.confusion, labels), picture)
    save_png(reliability_figure(report.bins), picture.with_name(f"{picture.stem}-reliability.png"))


def print_json(found: Found) -> None:
    """One object; ``degraded`` has the accuracy of each degradation, and the points that it costs."""
    spec, robustness = found["spec"], found["robustness"]
    page = {
        "model": spec.name,
        "precision": spec.provenance.precision,
        "dataset": found["name"],
        "folds": found["folds"],
        "learnt_from": found["learnt_from"],
        **asdict(found["report"]),
    }
    if robustness:
        page["degraded"] = {
            effect: {
                "accuracy": there.accuracy,
                "window_accuracy": there.window_accuracy,
                "loss": robustness.losses[effect],
            }
            for effect, there in robustness.degraded.items()
        }
        page |= {"mean_loss": robustness.mean_loss, "worst": robustness.worst}
    click.echo(json.dumps(page))


def print_text(found: Found) -> None:
    """Classes, averages, the degradations, and the accuracy last."""
    spec, folds, learnt_from = found["spec"], found["folds"], found["learnt_from"]
    report, robustness = found["report"], found["robustness"]
    for row in report.classes:
        click.echo(
            f"{row.label:24} precision {row.precision:.2f}  recall {row.recall:.2f}  F1 {row.f1:.2f}  "
            f"average precision {row.average_precision:.2f}  of {row.clips}"
        )
    click.echo(
        f"{'mean of the classes':24} precision {report.macro_precision:.2f}  recall {report.macro_recall:.2f}  "
        f"F1 {report.macro_f1:.2f}  average precision {report.mean_average_precision:.2f}"
    )
    click.echo(f"calibration error {report.calibration_error:.3f}, mean confidence {report.mean_confidence:.3f}")
    if robustness:
        click.echo("\n".join(["", *robustness.table(), "", robustness.summary()]))
    where = f"fold {', '.join(map(str, folds))}" if folds else "all folds"
    click.echo(
        f"{spec.name} {spec.provenance.precision} on {where} of {found['name']}: "
        f"{report.accuracy:.2%} of {report.clips} clips, {report.window_accuracy:.2%} of {report.windows} windows"
        + (f"; learnt from {learnt_from} of the clips" if learnt_from else "")
    )
