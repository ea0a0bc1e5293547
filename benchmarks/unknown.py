"""What a model knows against what it has never learnt: how well its energy, and its best score, tell them apart.

    python -m benchmarks.unknown ESC-50 NEGATIVES [--model FILE]

NEGATIVES is a folder with ``negatives.csv`` (filename, kind, esc50_overlap, esc50_partial): recordings of speech, music
and places. Files in which one of the classes may be heard are left out. The known windows are those of the fold that
the model has not learnt from.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from edge.bulk import FileResult, classify_files
from edge.config import ModelSpec
from train.evaluate import hear, spec_of
from train.manifest import read_manifest


def strangers(root: Path) -> dict[str, list[Path]]:
    """The files of each kind in which none of the classes is heard."""
    files: dict[str, list[Path]] = defaultdict(list)
    with (root / "negatives.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if not row["esc50_overlap"] and not row["esc50_partial"]:
                files[row["kind"]].append(root / row["filename"])
    return dict(sorted(files.items()))


def scores(results: list[FileResult]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Energies and best probabilities of all windows."""
    read = [r for r in results if r.error is None]
    return np.concatenate([r.energies for r in read]), np.concatenate([r.windows.max(axis=1) for r in read])


def row(kind: str, spec: ModelSpec, known: tuple, other: tuple) -> str:  # type: ignore[type-arg]
    """A line of the table."""
    truth = np.r_[np.ones(len(known[0])), np.zeros(len(other[0]))]
    areas = [roc_auc_score(truth, np.concatenate(pair)) for pair in zip(known, other, strict=True)]
    told = (other[0] < spec.unknown.threshold).mean()  # type: ignore[union-attr]
    return f"| {kind} | {len(other[0])} | {areas[0]:.3f} | {areas[1]:.3f} | {told:.0%} |"


@click.command()
@click.argument("esc50", type=click.Path(exists=True, path_type=Path))
@click.argument("negatives", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--model", type=click.Path(path_type=Path), help="[default: the bundled int8 model]")
def main(esc50: Path, negatives: Path, model: Path | None) -> None:
    """Print the table."""
    spec = spec_of(model)
    if spec.unknown is None or spec.provenance.test_fold is None:
        raise click.ClickException("the model has no unknown score, or no fold was held out of its training")
    known = scores(list(hear(model, read_manifest(esc50).in_folds([spec.provenance.test_fold])).results))
    click.echo("| | windows | area under ROC, energy | best score | called unknown |\n|---|---|---|---|---|")
    for kind, paths in strangers(negatives).items():
        click.echo(row(kind, spec, known, scores(list(classify_files(paths, model)))))


if __name__ == "__main__":
    main()
