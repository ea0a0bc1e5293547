"""``python -m train evaluate DATA``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from edge.config import DEFAULT_HOP
from edge.errors import EdgeError
from train.manifest import ManifestError, read_manifest

ESC50 = Path(__file__).parents[3] / "shared" / "data" / "esc50"


@click.command(name="evaluate")
@click.argument("data", type=click.Path(path_type=Path), default=ESC50)
@click.option("--model", type=click.Path(dir_okay=False, path_type=Path), help="ONNX file. [default: the bundled int8]")
@click.option("--fold", type=int, multiple=True, help="Repeatable. [default: the fold that the model never saw]")
@click.option(
    "--hop", type=float, default=DEFAULT_HOP, show_default=True, help="Seconds between the windows of a clip."
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes. [default: one a core]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def command(
    data: Path, model: Path | None, fold: tuple[int, ...], hop: float, workers: int | None, as_json: bool
) -> None:
    """Accuracy of a model file on DATA, through the runtime that listens.

    DATA is a folder as `fit` takes it; without it, ESC-50 in ../shared/data/esc50.
    """
    from edge.classifier import Classifier
    from train.evaluate import evaluate

    try:
        manifest, spec = read_manifest(data), Classifier(model).spec
        folds = list(fold)
        if not folds and spec.provenance.test_fold is not None and spec.provenance.dataset == manifest.name:
            folds = [spec.provenance.test_fold]
        clips = manifest.in_folds(folds) if folds else list(manifest.clips)
        report = evaluate(model, clips, hop=hop, workers=workers)
    except (EdgeError, ManifestError) as error:
        raise click.ClickException(str(error)) from None
    precision = spec.provenance.precision
    if as_json:
        click.echo(json.dumps({"model": spec.name, "precision": precision, "folds": folds, **asdict(report)}))
        return
    for row in report.classes:
        click.echo(f"{row.label:24} precision {row.precision:.2f}  recall {row.recall:.2f}  F1 {row.f1:.2f}")
    where = f"fold {', '.join(map(str, folds))}" if folds else "all folds"
    click.echo(
        f"{spec.name} {precision} on {where} of {manifest.name}: "
        f"{report.accuracy:.2%} of {report.clips} clips, {report.window_accuracy:.2%} of {report.windows} windows"
    )
