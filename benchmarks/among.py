"""A cross-validation's files, asked which of a few of their classes a clip is.

    python -m benchmarks.among ESC-50 runs/crossval --where esc10=True

Each fold's int8 file hears the clips of DATA in the fold that it never saw, through the runtime; the best of DATA's
classes counts, whatever the others have. It prints a table, and with ``--json`` writes it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from benchmarks.output import require_writable
from edge.errors import EdgeError
from edge.files import write_text
from train.cli.data import data_options
from train.evaluate import Report, hear
from train.manifest import Manifest, ManifestError, ReadOptions, read_manifest


@click.command()
@data_options
@click.argument("crossval", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--json", "path", type=click.Path(dir_okay=False, path_type=Path), help="Also write the result here.")
def main(data: Path, crossval: Path, options: ReadOptions, path: Path | None) -> None:
    """The accuracy of the files in CROSSVAL among the classes of DATA alone, fold by fold."""
    if path:
        require_writable(path)
    try:
        manifest = read_manifest(data, options)
        folds = [row(manifest, crossval / f"fold-{fold}" / "fold.int8.onnx", fold) for fold in folds_of(crossval)]
    except (EdgeError, ManifestError) as error:
        raise click.ClickException(str(error)) from None
    mean, window_mean = (float(np.mean([r[key] for r in folds])) for key in ("accuracy", "window_accuracy"))
    click.echo("| fold held out | clips | windows |\n|---|---|---|")
    for r in folds:
        click.echo(f"| {r['fold']} | {r['accuracy']:.2%} | {r['window_accuracy']:.2%} |")
    click.echo(f"| mean | **{mean:.2%}** | {window_mean:.2%} |")
    if path:
        page = {"classes": manifest.labels, "folds": folds, "mean": mean, "window_mean": window_mean}
        write_text(path, json.dumps(page, indent=2) + "\n")


def folds_of(crossval: Path) -> list[int]:
    """The folds that were held out. Raises ManifestError where there are none."""
    folds = sorted(int(found.parent.name.partition("-")[2]) for found in crossval.glob("fold-*/fold.int8.onnx"))
    if not folds:
        raise ManifestError(f"{crossval} has no fold-N/fold.int8.onnx; give the --out of train crossval")
    return folds


def row(manifest: Manifest, model: Path, fold: int) -> dict[str, float]:
    """The accuracy of clips and windows of ``fold``, among the manifest's classes."""
    heard = hear(model, manifest.in_folds([fold]), strict=True)
    asked = [heard.spec.labels.index(label) for label in manifest.labels]
    results = [replace(r, probs=r.probs[asked], windows=r.windows[:, asked]) for r in heard.results]
    report = Report.of(heard.targets[:, asked], results, manifest.labels)
    return {
        "fold": fold,
        "accuracy": report.accuracy,
        "window_accuracy": report.window_accuracy,
        "clips": report.clips,
    }


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.among")
