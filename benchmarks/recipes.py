"""A table of training runs: accuracy on their validation fold beside what a decision costs.

    python -m benchmarks.recipes ESC-50 runs/a runs/b …

Every run is exported to int8 as it would be shipped (without looking at its test fold), and timed in interleaved
rounds.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

from edge.bench.rounds import measure_rounds
from edge.bench.sound import synthetic_sound
from edge.bench.subjects import OurModel
from edge.errors import EdgeError
from export.artefacts import CALIBRATION_CLIPS, clip_window, draw
from export.contract import build_spec, write_with_golden
from export.graphs import graphs
from export.verify import ParityError
from models.checkpoint import load_checkpoint
from train.evaluate import evaluate
from train.manifest import ManifestError, read_manifest

ROUNDS = 200


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(data: Path, runs: tuple[Path, ...]) -> None:
    """Print the table of RUNS in Markdown, to be pasted into ``docs/model.md``."""
    try:
        click.echo(table(data, {run: config_of(run) for run in runs}))
    except (EdgeError, ManifestError, ParityError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None


def config_of(run: Path) -> dict[str, Any]:
    """The configuration of ``run``. Raises ManifestError where it held out no validation fold, OSError, ValueError."""
    config: dict[str, Any] = json.loads((run / "config.json").read_text(encoding="utf-8"))
    if not config["validation_folds"]:
        raise ManifestError(f"{run} has no validation fold to be measured on; train it with --validation-fold")
    return config


def table(data: Path, configs: dict[Path, dict[str, Any]]) -> str:
    """The table, a row for each of ``configs``, by run. Raises what reading, exporting and hearing do."""
    manifest = read_manifest(data)
    rows, subjects = [], []
    with tempfile.TemporaryDirectory() as folder:
        for run, config in configs.items():
            checkpoint = load_checkpoint(run / "checkpoint.pt")
            spec = build_spec(checkpoint, name=run.name, temperature=1.0, licence="-", precision="int8")
            clips = draw(manifest.in_folds(config["train_folds"]), CALIBRATION_CLIPS)
            path = Path(folder) / f"{run.name}.onnx"
            windows = [clip_window(clip, spec) for clip in clips]
            write_with_golden(graphs(checkpoint, windows)["int8"], spec, path)
            report = evaluate(path, manifest.in_folds(config["validation_folds"]))
            subjects.append(OurModel(path, synthetic_sound, hop=0.5))
            parameters = sum(tensor.numel() for tensor in checkpoint.state.values())
            size = f"{parameters / 1e3:.0f} k | {spec.provenance.macs / 1e6:.0f} | {path.stat().st_size / 1e3:.0f} kB"
            rows.append(f"| {run.name} | {size} | {report.accuracy:.1%} | {report.window_accuracy:.1%}")
            click.echo(rows[-1], err=True)
        times = measure_rounds(subjects, ROUNDS)
    lines = [
        "| run | parameters | MMAC | int8 file | clips | windows | front end | network | hop (ms) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row, stages in zip(rows, times, strict=True):
        parts = (f"{np.median(stages[stage]) * 1000:.2f}" for stage in ("frontend_hop", "network_hop", "hop"))
        lines.append(f"{row} | {' | '.join(parts)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.recipes")
