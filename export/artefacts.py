"""A checkpoint's artefacts: fp32 and int8 files with their contract, verified and measured, and a model card."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edge.audio import padded
from edge.classifier import Classifier
from edge.config import FrontendConfig, ModelSpec
from edge.errors import EdgeError
from edge.features import make_frontend
from export.calibration import Calibration, calibrate
from export.card import model_card
from export.contract import build_spec, write, write_with_golden
from export.quantize import float_convolutions, quantize
from export.to_onnx import to_onnx
from export.verify import FP32, INT8, Parity, ParityError, check_streaming, compare, file_probs, torch_probs
from models.checkpoint import Checkpoint
from train.evaluate import Report, evaluate, hear
from train.manifest import Clip, ManifestError, read_manifest
from train.robustness import Robustness, degraded_reports

F32 = NDArray[np.float32]

CALIBRATION_CLIPS = 200
HOPS = 4  # that are compared at least, streamed against whole
STEM = 1  # convolutions that may stay in float32: the first, whose input is float32


@dataclasses.dataclass(frozen=True)
class Exported:
    """What :func:`export` has made."""

    fp32: Path
    int8: Path
    card: Path
    parities: list[Parity]
    reports: dict[str, Report]  # by precision; empty where nothing was held out
    robustness: Robustness | None  # of the int8 file, where it was asked for
    calibration: Calibration | None  # of the int8 file, where something was held out


def export(
    checkpoint: Checkpoint,
    data: Path,
    out: Path,
    *,
    name: str,
    licence: str,
    temperature: float | None,
    command: str,
    workers: int | None = None,
    degrade: bool = False,
    same: bool = False,
) -> Exported:
    """Make, calibrate, verify and measure both files in a temporary folder, then move them to ``out``.

    ``temperature`` None is learnt from the held-out fold; where nothing was held out, it is 1.

    ``degrade`` measures the int8 file on degraded recordings as well, for the card. ``same`` refuses ``data`` that is
    not, to the last clip, what the checkpoint was trained on: other clips would be held out.

    Raises:
        ParityError: when the files do not agree with the checkpoint; ``out`` is left as it was.
        ManifestError, EdgeError: when the data or a clip cannot be read.
        ValueError: for ``degrade`` where nothing was held out.
    """
    if degrade and checkpoint.provenance["test_fold"] is None:
        raise ValueError("--degrade measures the fold that was held out, and none was; leave --degrade out")
    manifest = read_manifest(data)
    if same and checkpoint.provenance.get("digest", manifest.digest()) != manifest.digest():
        raise ManifestError(f"{data} is not the data set that it was trained on; leave --data out")
    specs = {
        precision: build_spec(
            checkpoint, name=name, temperature=temperature or 1.0, licence=licence, precision=precision
        )
        for precision in ("fp32", "int8")
    }
    clips = draw(manifest.in_folds(list(specs["fp32"].provenance.train_folds)), CALIBRATION_CLIPS)
    clips = readable(clips, checkpoint.frontend)
    windows = [clip_window(clip, specs["fp32"]) for clip in clips]
    models = graphs(checkpoint, windows, specs["int8"])
    fold = specs["int8"].provenance.test_fold
    held_out = [] if fold is None else manifest.in_folds([fold])
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".export-") as folder:
        paths = {"fp32": Path(folder) / f"{name}.onnx", "int8": Path(folder) / f"{name}.int8.onnx"}
        calibration = None
        if held_out:
            write_with_golden(models["int8"], dataclasses.replace(specs["int8"], temperature=1.0), paths["int8"])
            calibration = calibrate(hear(paths["int8"], held_out, workers=workers), temperature)
            learnt = {name: getattr(calibration, name) for name in ("temperature", "thresholds", "unknown")}
            specs = {precision: dataclasses.replace(spec, **learnt) for precision, spec in specs.items()}
        for precision, path in paths.items():
            specs[precision] = write_with_golden(models[precision], specs[precision], path)
        parities = _verify(checkpoint, paths, windows, specs["fp32"], clips)
        reports: dict[str, Report] = {}
        for precision, path in paths.items() if held_out else ():
            reports[precision] = report = evaluate(path, held_out, workers=workers)
            provenance = dataclasses.replace(specs[precision].provenance, accuracy=round(report.accuracy, 4))
            specs[precision] = dataclasses.replace(specs[precision], provenance=provenance)
            write(models[precision], specs[precision], path)
        robustness = None
        if degrade:
            degraded = dict(degraded_reports(paths["int8"], held_out, workers=workers))
            robustness = Robustness(reports["int8"], degraded)
        card = Path(folder) / f"{name}.md"
        sizes = {precision: path.stat().st_size for precision, path in paths.items()}
        text = model_card(specs["int8"], reports, robustness, calibration, parities, sizes, command)
        card.write_text(text, encoding="utf-8")
        for path in (*paths.values(), card):
            path.replace(out / path.name)
    return Exported(
        out / f"{name}.onnx", out / f"{name}.int8.onnx", out / card.name, parities, reports, robustness, calibration
    )


def graphs(checkpoint: Checkpoint, windows: Sequence[F32], spec: ModelSpec) -> dict[str, onnx.ModelProto]:
    """The network as fp32 and int8 graph that end in logits; the same where static int8 serves nothing of a network.

    Raises ParityError when convolutions are left in float32.
    """
    network = checkpoint.model()
    fp32 = to_onnx(network)
    if not network.int8:
        return {"fp32": fp32, "int8": fp32}
    int8 = quantize(fp32, windows, spec)
    left = float_convolutions(int8)
    if len(left) > STEM:
        raise ParityError(f"{len(left)} convolutions stay in float32 after optimisation: {', '.join(left)}")
    return {"fp32": fp32, "int8": int8}


def _verify(
    checkpoint: Checkpoint, paths: dict[str, Path], windows: Sequence[F32], spec: ModelSpec, clips: Sequence[Clip]
) -> list[Parity]:
    classifiers = {precision: Classifier(path) for precision, path in paths.items()}
    probs = {precision: file_probs(classifier, windows) for precision, classifier in classifiers.items()}
    expected = torch_probs(checkpoint.model(), windows, spec)
    minute = np.concatenate([read(clip, spec.frontend) for clip in clips[:12]])
    least = spec.window_samples + HOPS * spec.hop_samples()
    if len(minute) < least:
        minute = np.resize(minute, (least, *minute.shape[1:]))  # repeated
    for classifier in classifiers.values():
        check_streaming(classifier, minute)
    return [
        compare("fp32 against torch", expected, probs["fp32"], FP32),
        compare("int8 against fp32", probs["fp32"], probs["int8"], INT8),
    ]


def readable(clips: Sequence[Clip], frontend: FrontendConfig) -> list[Clip]:
    """Those of ``clips`` that can be read; training has named the others. Raises ManifestError when none can."""
    there = []
    for clip in clips:
        with contextlib.suppress(EdgeError):
            read(clip, frontend)
            there.append(clip)
    if not there:
        raise ManifestError(f"none of {len(clips)} training clips can be read; the first is {clips[0].path}")
    return there


def draw(clips: Sequence[Clip], count: int) -> list[Clip]:
    """About ``count`` clips, the same number of each class, seeded."""
    by_label: dict[tuple[str, ...], list[Clip]] = defaultdict(list)
    for clip in clips:
        by_label[clip.labels[:1]].append(clip)  # of several labels, the first
    each = max(1, count // len(by_label))
    rng = random.Random(0)
    return [clip for group in by_label.values() for clip in rng.sample(group, min(each, len(group)))]


def clip_window(clip: Clip, spec: ModelSpec) -> F32:
    """Frames of a clip's loudest window, padded with silence where it is shorter: [channels, n_mels, window_frames]."""
    samples = padded(read(clip, spec.frontend), spec.window_samples)
    powers = np.square(samples, dtype=np.float64).reshape(len(samples), -1).sum(axis=1)
    energy = np.concatenate([[0.0], np.cumsum(powers)])
    start = int(np.argmax(energy[spec.window_samples :] - energy[: -spec.window_samples]))
    return np.ascontiguousarray(make_frontend(spec.frontend)(samples[start : start + spec.window_samples]))


def read(clip: Clip, frontend: FrontendConfig) -> F32:
    """A clip's samples as the front end takes them: [n] or [n, channels]."""
    return clip.source().read(frontend.sample_rate, frontend.channels)
