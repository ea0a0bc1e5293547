"""Every architecture of the registry on the same small task: its size, its accuracy and what a decision costs.

    python -m benchmarks.architectures ESC-50

Each is trained on the ten classes of ESC-10 by its recipe, exported, and measured through the runtime; times are
medians of interleaved rounds. What is done is kept in OUT: run it again to go on, or to time again.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from edge.bench.machine import machine
from edge.bench.rounds import measure_rounds
from edge.bench.sound import synthetic_sound
from edge.bench.subjects import OurModel
from edge.classifier import Classifier
from edge.cli.number import AT_ONCE
from edge.errors import EdgeError
from edge.files import write_text
from export.artefacts import export
from export.verify import ParityError
from models import architectures, build
from models.checkpoint import load_checkpoint
from train.config import TrainConfig, read_recipe
from train.loop import fit, git_revision
from train.manifest import Manifest, ManifestError, ReadOptions, read_manifest

ESC10 = (
    "dog", "rooster", "rain", "sea_waves", "crackling_fire", "crying_baby", "sneezing", "clock_tick", "helicopter",
    "chainsaw",
)  # fmt: skip
TEST_FOLD = 4
RECIPES = {"streaming": "plain"}  # the others have a recipe of their own name
# Where the weights of wav2vec 2.0 cannot be had: a small encoder that nobody has trained, so that the code is run.
UNTRAINED = {
    "convolutions": ((128, 10, 5), (64, 8, 4), (64, 4, 4), (64, 4, 4)),
    "width": 128, "layers": 2, "heads": 4, "feed_forward": 256, "position_kernel": 16, "position_groups": 4,
}  # fmt: skip
FILES = (".int8.onnx", ".onnx")
COLUMNS = (
    "parameters", "MMAC", "int8 file", "clips", "windows",
    "window, int8 (ms)", "window, fp32", "hop, int8", "hop, fp32", "epochs", "revision",
)  # fmt: skip


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--epochs", type=click.IntRange(1), default=60, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/architectures"), show_default=True)
@click.option("--only", multiple=True, type=click.Choice(architectures()), help="Repeatable. [default: all]")
@click.option("--rounds", type=click.IntRange(1), default=50, show_default=True, help="Of the timing.")
@click.option("--threads", type=AT_ONCE, default=1, show_default=True, help="Of training.")
def main(data: Path, epochs: int, out: Path, only: tuple[str, ...], rounds: int, threads: int) -> None:
    """Train, export and time the architectures on the ESC-10 classes of DATA; write OUT/architectures.{md,json}."""
    torch.set_num_threads(threads)
    try:
        report = run(data, epochs, out, only or tuple(architectures()), rounds)
    except (EdgeError, ManifestError, ParityError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    (out / "architectures.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (out / "architectures.md").write_text(table(report), encoding="utf-8")
    click.echo(table(report))


def run(data: Path, epochs: int, out: Path, names: tuple[str, ...], rounds: int) -> dict[str, Any]:
    """The report: ``machine`` and one of ``rows`` for each of ``names``."""
    manifest = read_manifest(data, ReadOptions(classes=ESC10))
    rows = {name: trained(name, epochs, manifest, out / name) for name in names}
    for name, stages in timed([out / name / f"{name}{suffix}" for name in names for suffix in FILES], rounds).items():
        rows[name] |= stages
    return {"machine": machine(), "rows": rows}


def trained(name: str, epochs: int, manifest: Manifest, out: Path) -> dict[str, Any]:
    """The row of ``name`` without its times, from ``out`` where it is there.

    Raises ValueError where what is there was trained otherwise.
    """
    path = out / "row.json"
    made = {"epochs": epochs, "digest": manifest.digest()}
    if path.is_file():
        row: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if made.items() <= row.items():
            return row
        raise ValueError(f"{out} was trained on other clips, or with other --epochs; give another --out, or delete it")
    config, note = configured(name, epochs)
    checkpoint = load_checkpoint(fit(config, manifest, out, out.parent / "cache", lambda r: progress(name, r)))
    command = "python -m benchmarks.architectures"
    data = out / "manifest.jsonl"
    exported = export(
        checkpoint, data, out, name=name, licence="-", temperature=1.0, command=command, most_loss=100
    )  # whatever int8 loses is in the table
    report = exported.reports["int8"]
    row = {
        "parameters": sum(p.numel() for p in checkpoint.model().parameters()),
        "macs": Classifier(exported.int8).spec.provenance.macs,
        "int8_bytes": exported.int8.stat().st_size,
        "fp32_bytes": exported.fp32.stat().st_size,
        "accuracy": report.accuracy,
        "window_accuracy": report.window_accuracy,
        "note": note,
        "revision": git_revision(),
        **made,
    }
    write_text(path, json.dumps(row))
    return row


def configured(name: str, epochs: int) -> tuple[TrainConfig, str]:
    """The recipe of ``name`` for this task, and what is not as in the recipe."""
    config = replace(
        read_recipe(RECIPES.get(name, name)),
        epochs=epochs,
        views=0,
        teachers=(),
        train_folds=tuple(fold for fold in range(1, 6) if fold != TEST_FOLD),
        test_fold=TEST_FOLD,
    )
    if "bundle" not in config.model:
        return config, ""
    try:
        build(name, **config.model)
    except ValueError as error:
        click.echo(f"{name}: {error}", err=True)
        return replace(
            config, model=UNTRAINED
        ), f"a small encoder that nobody has trained, not {config.model['bundle']}"
    return config, ""


def progress(name: str, record: dict[str, Any]) -> None:
    """One line on stderr."""
    click.echo(f"{name}: epoch {record['epoch']}, loss {record['loss']:.3f}, {record['seconds']:.1f} s", err=True)


def timed(paths: list[Path], rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of a recomputed window, and of a hop of half a second, of each file, by architecture."""
    subjects = [OurModel(path, synthetic_sound, hop=0.5) for path in paths]
    stages: dict[str, dict[str, float]] = {path.parent.name: {} for path in paths}
    for path, times in zip(paths, measure_rounds(subjects, rounds), strict=True):
        precision = "int8" if path.name.endswith(FILES[0]) else "fp32"
        for stage in ("window", "hop"):
            stages[path.parent.name][f"{stage}_{precision}"] = float(np.median(times[stage])) * 1000
    return stages


def table(report: dict[str, Any]) -> str:
    """The report in Markdown, best first."""
    m = report["machine"]
    lines = [
        f"{m['cpu']}, {m['cores']} cores, onnxruntime {m['onnxruntime']}, one thread.",
        "",
        f"| architecture | {' | '.join(COLUMNS)} |",
        f"|---|{'---|' * len(COLUMNS)}",
    ]
    notes = []
    for name, r in sorted(report["rows"].items(), key=lambda item: -item[1]["accuracy"]):
        sizes = f"{r['parameters'] / 1e3:.0f} k | {r['macs'] / 1e6:.0f} | {r['int8_bytes'] / 1e3:.0f} kB"
        scores = f"{r['accuracy']:.1%} | {r['window_accuracy']:.1%}"
        times = " | ".join(f"{r[key]:.2f}" for key in ("window_int8", "window_fp32", "hop_int8", "hop_fp32"))
        lines.append(f"| {name} | {sizes} | {scores} | {times} | {r['epochs']} | {r['revision']} |")
        notes += [f"{name}: {r['note']}."] if r["note"] else []
    return "\n".join([*lines, "", *notes]).rstrip() + "\n"


if __name__ == "__main__":
    main()
