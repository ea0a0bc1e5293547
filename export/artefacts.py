"""A checkpoint's artefacts: a file for each precision with its contract, verified and measured, and a model card."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import tempfile
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.audio import padded
from edge.classifier import Classifier
from edge.config import FrontendConfig, ModelSpec
from edge.errors import EdgeError
from edge.features import make_frontend
from export.calibration import Calibration, calibrate
from export.card import model_card
from export.contract import build_spec, named, write, write_with_golden
from export.graphs import ALWAYS, SUFFIXES, graphs
from export.ranges import compare_ranges
from export.verify import (
    MOST_LOSS,
    TOLERANCES,
    Loss,
    Parity,
    check_loss,
    check_streaming,
    compare,
    file_probs,
    measure_loss,
    torch_probs,
)
from models.checkpoint import Checkpoint
from train.evaluate import Report, hear
from train.manifest import Clip, Manifest, ManifestError, ReadOptions, read_manifest
from train.readers import read_listing
from train.robustness import Robustness, degraded_reports

F32 = NDArray[np.float32]

CALIBRATION_CLIPS = 200
COMPARE = "compare"  # the ranges: whichever way is best on other clips
HOPS = 4  # that are compared at least, streamed against whole


@dataclasses.dataclass(frozen=True)
class Exported:
    """What :func:`export` has made."""

    files: dict[str, Path]  # by precision
    card: Path
    parities: list[Parity]
    reports: dict[str, Report]  # by precision; empty where nothing was held out
    losses: list[Loss]  # of all precisions but fp32, where something was held out
    robustness: Robustness | None  # of the int8 file, where it was asked for
    calibration: Calibration | None  # of the int8 file, where something was held out
    trials: dict[str, dict[str, Parity]]  # by precision and ranges, the best first; empty where none were compared

    @property
    def fp32(self) -> Path:
        """The file that all others were held against."""
        return self.files["fp32"]

    @property
    def int8(self) -> Path:
        """The file that a device runs by default."""
        return self.files["int8"]


def export(
    checkpoint: Checkpoint,
    data: Path,
    out: Path,
    *,
    name: str,
    licence: str,
    temperature: float | None,
    command: str,
    precisions: Collection[str] = (),
    ranges: str = "minmax",
    most_loss: float = MOST_LOSS,
    workers: int | None = None,
    degrade: bool = False,
) -> Exported:
    """Make, calibrate, verify and measure all files in a temporary folder, then move them to ``out``.

    Files: fp32, int8, and what ``precisions`` names beside them. ``ranges``: one of :data:`export.quantize.RANGES`, or
    "compare". ``most_loss``: points of accuracy on the held-out fold that a file may lose against fp32.
    ``temperature`` None is learnt from the held-out fold; where nothing was held out, it is 1.

    ``degrade`` measures the int8 file on degraded recordings as well, for the card.

    Raises:
        ParityError: when the files do not agree with the checkpoint, or lose accuracy; ``out`` is left as it was.
        ManifestError, EdgeError: when the data is not what the checkpoint was trained on, or it or a clip cannot be
            read.
        ValueError: for ``degrade`` where nothing was held out, ranges to compare where there are too few clips.
    """
    if degrade and checkpoint.provenance["test_fold"] is None:
        raise ValueError("--degrade measures the fold that was held out, and none was; leave --degrade out")
    manifest = read_manifest(data)
    check_same(checkpoint, data, manifest)
    precisions = [precision for precision in SUFFIXES if precision in (*ALWAYS, *precisions)]
    specs = {
        precision: build_spec(
            checkpoint, name=name, temperature=temperature or 1.0, licence=licence, precision=precision
        )
        for precision in precisions
    }
    training = manifest.in_folds(list(specs["fp32"].provenance.train_folds))
    clips = readable(draw(training, CALIBRATION_CLIPS), checkpoint.frontend)
    windows = [clip_window(clip, specs["fp32"]) for clip in clips]
    trials: dict[str, dict[str, Parity]] = {}
    if ranges == COMPARE:
        others = [clip_window(clip, specs["fp32"]) for clip in unlike(training, clips, checkpoint.frontend)]
        for precision in ("int8", *({"int8-s8s8"} & set(precisions))):
            trials[precision] = compare_ranges(checkpoint, precision, windows, others, specs[precision])
    chosen = {precision: next(iter(found)) for precision, found in trials.items()} or dict.fromkeys(precisions, ranges)
    models = graphs(checkpoint, windows, precisions, chosen)
    fold = specs["int8"].provenance.test_fold
    held_out = [] if fold is None else manifest.in_folds([fold])
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".export-") as folder, named(Path(folder), out):
        paths = {precision: Path(folder) / f"{name}{SUFFIXES[precision]}" for precision in precisions}
        calibration = None
        if held_out:
            write_with_golden(models["int8"], dataclasses.replace(specs["int8"], temperature=1.0), paths["int8"])
            calibration = calibrate(hear(paths["int8"], held_out, workers=workers), temperature)
            learnt = {name: getattr(calibration, name) for name in ("temperature", "thresholds", "unknown")}
            specs = {precision: dataclasses.replace(spec, **learnt) for precision, spec in specs.items()}
        for precision, path in paths.items():
            specs[precision] = write_with_golden(models[precision], specs[precision], path)
        parities = _verify(checkpoint, paths, windows, specs["fp32"], clips)
        heard = {precision: hear(path, held_out, workers=workers) for precision, path in paths.items() if held_out}
        losses = [
            measure_loss(precision, heard["fp32"], each) for precision, each in heard.items() if precision != "fp32"
        ]
        for loss in losses:
            check_loss(loss, most_loss)
        reports = {precision: each.report() for precision, each in heard.items()}
        for precision, report in reports.items():
            provenance = dataclasses.replace(specs[precision].provenance, accuracy=round(report.accuracy, 4))
            specs[precision] = dataclasses.replace(specs[precision], provenance=provenance)
            write(models[precision], specs[precision], paths[precision])
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
    files = {precision: out / path.name for precision, path in paths.items()}
    return Exported(files, out / card.name, parities, reports, losses, robustness, calibration, trials)


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
    parities = [compare("fp32 against torch", expected, probs["fp32"], TOLERANCES["fp32"])]
    for precision, found in probs.items():
        if precision != "fp32":
            parities.append(compare(f"{precision} against fp32", probs["fp32"], found, TOLERANCES[precision]))
    return parities


def check_same(checkpoint: Checkpoint, data: Path, manifest: Manifest) -> None:
    """Raises ManifestError where ``data``, read as ``manifest``, is not, to the last clip, what ``checkpoint`` was
    trained on: other clips would be held out. Of a saved manifest, or folds of the data set's own, files may be gone.
    """
    digest = checkpoint.provenance.get("digest")
    if digest in (None, manifest.digest()):
        return
    named = dataclasses.replace(manifest, clips=tuple(read_listing(data, ReadOptions()).clips))
    if digest != named.digest():
        raise ManifestError(
            f"{data} is not the data set that it was trained on, or has other folds; give --data the manifest.jsonl of "
            "its run"
        )


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


def unlike(clips: Sequence[Clip], drawn: Sequence[Clip], frontend: FrontendConfig) -> list[Clip]:
    """Those of ``clips`` that are drawn alike, of other recordings than ``drawn``, and can be read.

    Raises ValueError when there are none.
    """
    origins = {clip.origin for clip in drawn}
    if not (left := [clip for clip in clips if clip.origin not in origins]):
        raise ValueError(
            f"the ranges are of all {len(drawn)} training clips, and none is left to compare them on; choose --ranges"
        )
    return readable(draw(left, CALIBRATION_CLIPS), frontend)


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
