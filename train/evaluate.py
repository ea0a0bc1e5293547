"""How well a model file recognises labelled clips, through the very runtime that listens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.metrics import precision_recall_fscore_support

from edge.bulk import FileResult, classify_files
from edge.classifier import Classifier
from edge.config import DEFAULT_HOP
from train.manifest import Clip, ManifestError


@dataclass(frozen=True)
class ClassReport:
    """One class, of clips."""

    label: str
    precision: float
    recall: float
    f1: float
    clips: int


@dataclass(frozen=True)
class Report:
    """A data set, or the folds of it."""

    accuracy: float  # of clips: the mean of their windows' probabilities
    window_accuracy: float  # of single windows
    clips: int
    windows: int
    mean_confidence: float  # mean of the best probability of a clip
    classes: tuple[ClassReport, ...]

    @classmethod
    def of(cls, targets: Sequence[int], results: Sequence[FileResult], labels: Sequence[str]) -> Report:
        """The report of ``results``, all readable, whose true labels are ``targets``."""
        truth = np.array(targets)
        probs = np.stack([r.probs for r in results])
        best = probs.argmax(axis=1)
        window_right = np.concatenate([r.windows.argmax(axis=1) == t for r, t in zip(results, targets, strict=True)])
        scores = precision_recall_fscore_support(truth, best, labels=range(len(labels)), zero_division=0)
        classes = tuple(
            ClassReport(label, float(p), float(r), float(f), int(n))
            for label, p, r, f, n in zip(labels, *scores, strict=True)
            if n
        )
        accuracy, window_accuracy = float((best == truth).mean()), float(window_right.mean())
        confidence = float(probs.max(axis=1).mean())
        return cls(accuracy, window_accuracy, len(truth), len(window_right), confidence, classes)


def evaluate(
    model: Path | None, clips: Sequence[Clip], *, hop: float = DEFAULT_HOP, workers: int | None = None
) -> Report:
    """Run ``clips`` through ``model`` (None: the bundled one).

    Raises:
        ManifestError: for a label that the model does not have, or a clip that cannot be read.
        EdgeError: when the model cannot be used.
    """
    labels = list(Classifier(model).labels)
    if unknown := sorted({clip.label for clip in clips} - set(labels)):
        raise ManifestError(f"the model has no class {', '.join(unknown)}; it has: {', '.join(labels)}")
    results = list(classify_files([clip.path for clip in clips], model, hop=hop, workers=workers))
    if unreadable := [r.error for r in results if r.error]:
        raise ManifestError(f"{len(unreadable)} of {len(clips)} clips cannot be read, the first: {unreadable[0]}")
    return Report.of([labels.index(clip.label) for clip in clips], results, labels)
