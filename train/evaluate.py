"""How well a model recognises labelled clips, through the very runtime that listens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge.bulk import FileResult, classify_source, classify_sources
from edge.classifier import Classifier
from edge.config import ModelSpec
from edge.sources.block import Source
from train.degraded import Degraded
from train.manifest import Clip, ManifestError
from train.metrics import Metrics, accuracy_of, metrics_of

CHECKPOINT = ".pt"  # its suffix


@dataclass(frozen=True)
class Report(Metrics):
    """A data set, or the folds of it: metrics of clips, whose probabilities are the mean of their windows'."""

    window_accuracy: float  # of single windows
    clips: int
    windows: int
    skipped: tuple[str, ...]  # why clips could not be read

    @classmethod
    def of(
        cls,
        targets: np.ndarray,  # [n, n_labels] zeros and ones
        results: Sequence[FileResult],
        labels: Sequence[str],
        multi_label: bool = False,
    ) -> Report:
        """The report of ``results``; those that could not be read are left out, and named."""
        read = [i for i, r in enumerate(results) if r.error is None]
        truth = targets[read]
        probs = np.stack([results[i].probs for i in read])
        windows = [results[i].windows for i in read]
        window_truth = np.repeat(truth, [len(w) for w in windows], axis=0)
        window_accuracy = accuracy_of(window_truth, np.concatenate(windows), multi_label=multi_label)
        metrics = metrics_of(truth if multi_label else truth.argmax(axis=1), probs, labels, multi_label)
        skipped = tuple(r.error for r in results if r.error is not None)
        return cls(
            **vars(metrics),
            window_accuracy=window_accuracy,
            clips=len(read),
            windows=len(window_truth),
            skipped=skipped,
        )


@dataclass(frozen=True)
class Heard:
    """What a model made of labelled clips; one result and one row of targets for each."""

    spec: ModelSpec
    clips: Sequence[Clip]
    targets: np.ndarray  # [n, n_labels] zeros and ones
    results: Sequence[FileResult]

    def report(self) -> Report:
        """The metrics."""
        return Report.of(self.targets, self.results, self.spec.labels, self.spec.scores == "sigmoid")


def evaluate(model: Path | None, clips: Sequence[Clip], **options: Any) -> Report:
    """The report of :func:`hear`, which see."""
    return hear(model, clips, **options).report()


def hear(
    model: Path | None,
    clips: Sequence[Clip],
    *,
    hop: float | None = None,
    workers: int | None = None,
    effect: str | None = None,
    strict: bool = False,
) -> Heard:
    """Run ``clips`` through ``model``: an ONNX file (None: the bundled one), or a checkpoint.

    ``effect`` is one of :data:`train.effects.DEGRADATIONS`. Clips that cannot be read are left out.

    Raises:
        ManifestError: for a label that the model does not have, clips of which none can be read, or, when ``strict``,
            one that cannot.
        EdgeError: when the model cannot be used, or ``hop`` is none of its.
    """
    spec = spec_of(model)
    spec.hop_frames(hop)  # so that a mistake is named once, and not as clips that cannot be read
    targets = _targets(clips, spec.labels, spec.scores == "sigmoid")
    sources: list[Source] = [clip.source() for clip in clips]
    if effect is not None:
        sources = [Degraded(source, effect) for source in sources]
    if is_checkpoint(model):
        classifier = _checkpoint(model)
        results = [classify_source(classifier, source, hop) for source in sources]
    else:
        results = list(classify_sources(sources, model, hop=hop, workers=workers))
    unreadable = [r.error for r in results if r.error]
    if len(unreadable) == len(results) or (strict and unreadable):
        raise ManifestError(f"{len(unreadable)} of {len(clips)} clips cannot be read, the first: {unreadable[0]}")
    return Heard(spec, clips, targets, results)


def spec_of(model: Path | None) -> ModelSpec:
    """The contract of a model file, or what stands for it of a checkpoint. Raises EdgeError, ManifestError."""
    return (_checkpoint(model) if is_checkpoint(model) else Classifier(model)).spec


def is_checkpoint(model: Path | None) -> bool:
    """Whether ``model`` is one that is not exported yet."""
    return model is not None and model.suffix == CHECKPOINT


def _checkpoint(model: Path) -> Classifier:
    from train.torch_classifier import TorchClassifier  # here, because torch takes seconds to import

    return TorchClassifier(model)


def _targets(clips: Sequence[Clip], labels: tuple[str, ...], multi_label: bool) -> np.ndarray:
    """Zeros and ones [n, n_labels]. Raises ManifestError."""
    if unknown := sorted({label for clip in clips for label in clip.labels} - set(labels)):
        raise ManifestError(f"the model has no class {', '.join(unknown)}; it has: {', '.join(labels)}")
    if not multi_label and (odd := [clip for clip in clips if len(clip.labels) != 1]):
        raise ManifestError(
            f"{odd[0].path} has {len(odd[0].labels)} labels; the model decides for one: train it on this data set"
        )
    targets = np.zeros((len(clips), len(labels)), int)
    for row, clip in zip(targets, clips, strict=True):
        row[[labels.index(label) for label in clip.labels]] = 1
    return targets
