"""A table of training runs: accuracy on their validation fold beside what a decision costs.

    python -m benchmarks.recipes ESC-50 runs/a runs/b …

Every run is exported to int8 as it would be shipped (without looking at its test fold), and timed in interleaved
rounds.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from edge.bench.rounds import measure_rounds
from edge.bench.sound import synthetic_sound
from edge.bench.subjects import OurModel
from export.artefacts import CALIBRATION_CLIPS, clip_window, draw
from export.contract import build_spec, write_with_golden
from export.graphs import graphs
from models.checkpoint import load_checkpoint
from train.evaluate import evaluate
from train.manifest import read_manifest

ROUNDS = 200


def main(data: Path, runs: list[Path]) -> None:
    """Print the table in Markdown, to be pasted into ``docs/model.md``."""
    manifest = read_manifest(data)
    rows, subjects = [], []
    with tempfile.TemporaryDirectory() as folder:
        for run in runs:
            checkpoint = load_checkpoint(run / "checkpoint.pt")
            config = json.loads((run / "config.json").read_text(encoding="utf-8"))
            spec = build_spec(checkpoint, name=run.name, temperature=1.0, licence="-", precision="int8")
            clips = draw(manifest.in_folds(config["train_folds"]), CALIBRATION_CLIPS)
            path = Path(folder) / f"{run.name}.onnx"
            windows = [clip_window(clip, spec) for clip in clips]
            write_with_golden(graphs(checkpoint, windows, spec)["int8"], spec, path)
            report = evaluate(path, manifest.in_folds(config["validation_folds"]))
            subjects.append(OurModel(path, synthetic_sound, hop=0.5))
            parameters = sum(tensor.numel() for tensor in checkpoint.state.values())
            size = f"{parameters / 1e3:.0f} k | {spec.provenance.macs / 1e6:.0f} | {path.stat().st_size / 1e3:.0f} kB"
            rows.append(f"| {run.name} | {size} | {report.accuracy:.1%} | {report.window_accuracy:.1%}")
            print(rows[-1], file=sys.stderr)
        times = measure_rounds(subjects, ROUNDS)
    print("| run | parameters | MMAC | int8 file | clips | windows | front end | network | hop (ms) |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row, stages in zip(rows, times, strict=True):
        parts = (f"{np.median(stages[stage]) * 1000:.2f}" for stage in ("frontend_hop", "network_hop", "hop"))
        print(f"{row} | {' | '.join(parts)} |")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), [Path(run) for run in sys.argv[2:]])
