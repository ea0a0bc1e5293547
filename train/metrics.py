"""How good probabilities are: accuracy, precision, recall, F1, average precision, calibration, confusion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

F32 = NDArray[np.float32]
Ints = NDArray[np.integer[Any]]

THRESHOLD = 0.5  # of an independent score, from which a class is called present
N_BINS = 15  # of confidence (Guo 2017, section 5)


class Bin(NamedTuple):
    """Decisions of about the same confidence."""

    confidence: float  # mean
    accuracy: float  # share that is right
    count: int


@dataclass(frozen=True)
class ClassMetrics:
    """One class, against all others."""

    label: str
    precision: float
    recall: float
    f1: float
    average_precision: float
    clips: int  # that have the label


@dataclass(frozen=True)
class Metrics:
    """Of clips. Averages are over the classes that have clips, each counting the same."""

    accuracy: float  # multi-label: mean of |true and found| / |true or found| (Jaccard)
    macro_precision: float
    macro_recall: float
    macro_f1: float
    mean_average_precision: float
    calibration_error: float  # expected: mean of |confidence - accuracy| over the decisions, in bins
    mean_confidence: float  # of the best class
    bins: tuple[Bin, ...]  # those with decisions, by rising confidence
    confusion: tuple[tuple[int, ...], ...]  # [true][found], counts; multi-label has none
    classes: tuple[ClassMetrics, ...]  # those with clips


def metrics_of(targets: Ints, probs: F32, labels: Sequence[str], multi_label: bool = False) -> Metrics:
    """The metrics of ``probs`` [n, K] against ``targets``: class numbers [n], or, multi-label, zeros and ones [n, K].

    One class of many is decided by the highest probability; with several labels a clip, a class counts as found from
    :data:`THRESHOLD` on.
    """
    truth = np.asarray(targets) if multi_label else np.eye(len(labels), dtype=int)[targets]  # [n, K]
    found = decisions(probs, multi_label)  # [n, K]
    bins, error = calibration(truth, probs, multi_label)
    classes = _classes(truth, found, probs, labels)
    return Metrics(
        accuracy=accuracy_of(truth, probs, multi_label=multi_label),
        macro_precision=_mean([c.precision for c in classes]),
        macro_recall=_mean([c.recall for c in classes]),
        macro_f1=_mean([c.f1 for c in classes]),
        mean_average_precision=_mean([c.average_precision for c in classes]),
        calibration_error=error,
        mean_confidence=float(probs.max(axis=1).mean()),
        bins=bins,
        confusion=() if multi_label else tuple(map(tuple, (truth.T @ found).tolist())),
        classes=classes,
    )


def decisions(probs: F32, multi_label: bool) -> Ints:
    """What is called present: zeros and ones [n, K]."""
    if multi_label:
        return (probs >= THRESHOLD).astype(int)
    return np.eye(probs.shape[1], dtype=int)[probs.argmax(axis=1)]


def accuracy_of(truth: Ints, probs: F32, *, multi_label: bool = False) -> float:
    """The accuracy of :class:`Metrics`; ``truth`` is zeros and ones [n, K]."""
    found = decisions(probs, multi_label)
    both, either = (truth * found).sum(axis=1), np.maximum(truth, found).sum(axis=1)
    return float(np.where(either > 0, both / np.maximum(either, 1), 1.0).mean())  # no label, and none found: right


def calibration(truth: Ints, probs: F32, multi_label: bool) -> tuple[tuple[Bin, ...], float]:
    """Bins of equal width, and the expected calibration error (Guo 2017, equation 3).

    A decision is a clip with its best class; with several labels a clip, every class of every clip with its score.
    """
    if multi_label:
        confidence, right = probs.ravel(), truth.ravel()
    else:
        best = probs.argmax(axis=1)[:, None]
        confidence, right = probs.max(axis=1), np.take_along_axis(truth, best, axis=1)[:, 0]
    number = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    bins = []
    for i in np.unique(number):
        here = number == i
        bins.append(Bin(float(confidence[here].mean()), float(right[here].mean()), int(here.sum())))
    error = sum(abs(b.confidence - b.accuracy) * b.count for b in bins) / len(confidence)
    return tuple(bins), float(error)


def _classes(truth: Ints, found: Ints, probs: F32, labels: Sequence[str]) -> tuple[ClassMetrics, ...]:
    # One column at a time: scikit-learn reads a matrix of one class as something else.
    rows = []
    for label, true, there, score in zip(labels, truth.T, found.T, probs.T, strict=True):
        if true.any():
            precision, recall, f1, _ = precision_recall_fscore_support(true, there, average="binary", zero_division=0)
            area = average_precision_score(true, score)
            rows.append(ClassMetrics(label, float(precision), float(recall), float(f1), float(area), int(true.sum())))
    return tuple(rows)


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else 0.0
