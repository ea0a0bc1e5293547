"""``python -m export CHECKPOINT --data DATA``: fp32 and int8 files with their contract, verified, and a model card."""

from __future__ import annotations

import dataclasses
import random
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from edge.classifier import Classifier
from edge.config import ModelSpec
from edge.errors import EdgeError
from edge.features import LogMel
from edge.sources.file import SoundFile
from export.card import model_card
from export.contract import build_spec, write, write_with_golden
from export.quantize import float_convolutions, quantize
from export.to_onnx import to_onnx
from export.verify import FP32, INT8, Parity, ParityError, check_streaming, compare, file_probs, torch_probs
from models.checkpoint import Checkpoint, load_checkpoint
from train.evaluate import Report, evaluate
from train.manifest import Clip, ManifestError, read_manifest

F32 = NDArray[np.float32]

CALIBRATION_CLIPS = 200
STEM = 1  # convolutions that may stay in float32: the first, whose input is float32


@dataclasses.dataclass(frozen=True)
class Exported:
    """What :func:`export` has made."""

    fp32: Path
    int8: Path
    card: Path
    parities: list[Parity]
    reports: dict[str, Report]  # by precision; empty where nothing was held out


def export(
    checkpoint: Checkpoint,
    data: Path,
    out: Path,
    *,
    name: str,
    licence: str,
    temperature: float,
    command: str,
    workers: int | None = None,
) -> Exported:
    """Make, verify and measure both files in a temporary folder, then move them to ``out``.

    Raises:
        ParityError: when the files do not agree with the checkpoint; ``out`` is left as it was.
        ManifestError, EdgeError: when the data or a clip cannot be read.
    """
    manifest = read_manifest(data)
    specs = {
        precision: build_spec(checkpoint, name=name, temperature=temperature, licence=licence, precision=precision)
        for precision in ("fp32", "int8")
    }
    clips = draw(manifest.in_folds(list(specs["fp32"].provenance.train_folds)), CALIBRATION_CLIPS)
    windows = [clip_window(clip, specs["fp32"]) for clip in clips]
    fp32 = to_onnx(checkpoint.model(), temperature)
    models = {"fp32": fp32, "int8": quantize(fp32, windows, specs["int8"])}
    left = float_convolutions(models["int8"])
    if len(left) > STEM:
        raise ParityError(f"{len(left)} convolutions stay in float32 after optimisation: {', '.join(left)}")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".export-") as folder:
        paths = {"fp32": Path(folder) / f"{name}.onnx", "int8": Path(folder) / f"{name}.int8.onnx"}
        for precision, path in paths.items():
            specs[precision] = write_with_golden(models[precision], specs[precision], path)
        parities = _verify(checkpoint, paths, windows, temperature, clips)
        reports = {}
        if (fold := specs["int8"].provenance.test_fold) is not None:
            held_out = manifest.in_folds([fold])
            for precision, path in paths.items():
                reports[precision] = report = evaluate(path, held_out, workers=workers)
                provenance = dataclasses.replace(specs[precision].provenance, accuracy=round(report.accuracy, 4))
                specs[precision] = dataclasses.replace(specs[precision], provenance=provenance)
                write(models[precision], specs[precision], path)
        card = Path(folder) / f"{name}.md"
        sizes = {precision: path.stat().st_size for precision, path in paths.items()}
        card.write_text(model_card(specs["int8"], reports, parities, sizes, command), encoding="utf-8")
        for path in (*paths.values(), card):
            path.replace(out / path.name)
    return Exported(out / f"{name}.onnx", out / f"{name}.int8.onnx", out / card.name, parities, reports)


def _verify(
    checkpoint: Checkpoint, paths: dict[str, Path], windows: Sequence[F32], temperature: float, clips: Sequence[Clip]
) -> list[Parity]:
    classifiers = {precision: Classifier(path) for precision, path in paths.items()}
    probs = {precision: file_probs(classifier, windows) for precision, classifier in classifiers.items()}
    expected = torch_probs(checkpoint.model(), windows, temperature)
    rate = checkpoint.frontend.sample_rate
    minute = np.concatenate([SoundFile(clip.path).read(rate) for clip in clips[:12]])
    for classifier in classifiers.values():
        check_streaming(classifier, minute, hop=0.5)
    return [
        compare("fp32 against torch", expected, probs["fp32"], FP32),
        compare("int8 against fp32", probs["fp32"], probs["int8"], INT8),
    ]


def draw(clips: Sequence[Clip], count: int) -> list[Clip]:
    """About ``count`` clips, the same number of each class, seeded."""
    by_label: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        by_label[clip.label].append(clip)
    each = max(1, count // len(by_label))
    rng = random.Random(0)
    return [clip for group in by_label.values() for clip in rng.sample(group, min(each, len(group)))]


def clip_window(clip: Clip, spec: ModelSpec) -> F32:
    """The log-mel of a clip's loudest window, padded with silence where it is shorter: [n_mels, window_frames]."""
    samples = SoundFile(clip.path).read(spec.frontend.sample_rate)
    samples = np.pad(samples, (0, max(0, spec.window_samples - len(samples))))
    energy = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    start = int(np.argmax(energy[spec.window_samples :] - energy[: -spec.window_samples]))
    return np.ascontiguousarray(LogMel(spec.frontend)(samples[start : start + spec.window_samples]))


@click.command()
@click.argument("checkpoint", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="The data set it was trained on.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("runs/export"), show_default=True)
@click.option("--name", default="edge-listen", show_default=True, help="Stem of the files' names.")
@click.option("--licence", required=True, help="Licence of the weights, as the data's owners allow it.")
@click.option("--temperature", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True)
@click.option("--workers", type=click.IntRange(min=1), help="Processes that measure the files. [default: one a core]")
def main(
    checkpoint: Path, data: Path, out: Path, name: str, licence: str, temperature: float, workers: int | None
) -> None:
    """Export CHECKPOINT to OUT/NAME.onnx and OUT/NAME.int8.onnx, with a model card."""
    command = f"python -m export {checkpoint.name} --data DATA --licence '{licence}' --temperature {temperature:g}"
    try:
        exported = export(
            load_checkpoint(checkpoint),
            data,
            out,
            name=name,
            licence=licence,
            temperature=temperature,
            command=command,
            workers=workers,
        )
    except (EdgeError, ManifestError, ParityError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    for parity in exported.parities:
        click.echo(
            f"{parity.name}: top-1 agreement {parity.top1_agreement:.1%}, "
            f"mean difference {parity.mean_difference:.2g}, largest {parity.max_difference:.2g}"
        )
    for precision, report in exported.reports.items():
        click.echo(f"{precision}: accuracy {report.accuracy:.2%} of clips, {report.window_accuracy:.2%} of windows")
    click.echo(f"wrote {exported.int8}, {exported.fp32} and {exported.card}")


if __name__ == "__main__":
    main()
