"""What a model knows against what it has never learnt: how well its energy, and its best score, tell them apart.

    python -m benchmarks.unknown ESC-50 NEGATIVES [--model FILE] [--half report|develop|all]

NEGATIVES is a folder with ``negatives.csv``: recordings of speech, music and places; see :mod:`train.negatives`, which
also says what the halves are. Files in which one of the classes may be heard are left out. The known windows are those
of the fold that the model has not learnt from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from edge.bulk import FileResult, classify_files
from edge.config import ModelSpec
from edge.records import DEFAULT_THRESHOLD
from train.cli.runs import one_line_errors
from train.evaluate import hear, spec_of
from train.manifest import ManifestError, read_manifest
from train.negatives import none_of, read_negatives

HALVES = ("report", "develop", "all")
HEAD = """| | recordings | windows | area under ROC, energy | best score | called unknown | named |
|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Scores:
    """Of all windows of some recordings."""

    recordings: int
    energies: NDArray[np.float32]  # [n]
    best: NDArray[np.float32]  # [n] the greatest probability
    unknown: NDArray[np.bool_]  # [n] whether the energy is below the model's threshold
    named: NDArray[np.bool_]  # [n] whether a listener names a class: known, and the best one reaches its threshold

    @classmethod
    def of(cls, spec: ModelSpec, results: Sequence[FileResult]) -> Scores:
        """Those of ``results`` that could be read. Raises ManifestError where none could."""
        read = [r for r in results if r.error is None]
        if not read:
            raise ManifestError("none of the recordings can be read")
        windows = np.concatenate([r.windows for r in read])
        unknown = np.concatenate([r.unknown for r in read])
        thresholds = np.array([spec.thresholds.get(label, DEFAULT_THRESHOLD) for label in spec.labels])
        reached = windows.max(axis=1) >= thresholds[windows.argmax(axis=1)]
        return cls(
            len(read), np.concatenate([r.energies for r in read]), windows.max(axis=1), unknown, reached & ~unknown
        )


def strangers(root: Path, labels: Sequence[str], half: str) -> dict[str, list[Path]]:
    """The files of each kind in which none of ``labels`` is heard. Raises ManifestError."""
    files: dict[str, list[Path]] = defaultdict(list)
    for negative in none_of(labels, read_negatives(root)):
        if half in ("all", negative.half):
            files[negative.kind].append(negative.path)
    return dict(sorted(files.items()))


def row(kind: str, scores: Scores, known: Scores | None = None) -> str:
    """A line of the table; of what is not ``known`` with the areas between both."""
    areas = ["", ""]
    if known is not None:
        truth = np.r_[np.ones(len(known.best)), np.zeros(len(scores.best))]
        pairs = ((known.energies, scores.energies), (known.best, scores.best))
        areas = [f"{roc_auc_score(truth, np.concatenate(pair)):.3f}" for pair in pairs]
    shares = [f"{share.mean():.0%}" for share in (scores.unknown, scores.named)]
    return f"| {' | '.join([kind, str(scores.recordings), str(len(scores.best)), *areas, *shares])} |"


@click.command()
@click.argument("esc50", type=click.Path(exists=True, path_type=Path))
@click.argument("negatives", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--model", type=click.Path(path_type=Path), help="[default: the bundled int8 model]")
@click.option("--half", type=click.Choice(HALVES), default="report", show_default=True, help="Of the negatives.")
def main(esc50: Path, negatives: Path, model: Path | None, half: str) -> None:
    """Print the table."""
    with one_line_errors():
        spec = spec_of(model)
        if spec.unknown is None or spec.provenance.test_fold is None:
            raise ManifestError("the model has no unknown score, or no fold was held out of its training")
        files = strangers(negatives, spec.labels, half)
        known = Scores.of(spec, hear(model, read_manifest(esc50).in_folds([spec.provenance.test_fold])).results)
        click.echo(f"{HEAD}\n{row('the classes', known)}")
        for kind, paths in files.items():
            click.echo(row(kind, Scores.of(spec, list(classify_files(paths, model))), known))


if __name__ == "__main__":
    main()
