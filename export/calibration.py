"""From what a model makes of held-out clips: its temperature, each class's threshold, and what is none of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit, softmax
from sklearn.metrics import precision_recall_curve
from sklearn.model_selection import GroupKFold

from edge.config import Unknown
from train.evaluate import Heard
from train.metrics import calibration

F64 = NDArray[np.float64]

KNOWN_SHARE = 0.95  # of held-out windows of the classes that stay known
PRECISION = 0.9  # a class is named from the score on above which this share of its namings is right
# The least and the greatest of a class; some have few clips. Among clips of the classes a naming may be right from less
# on. In continuous sound the false alarms are there: more than half of them, and an eighth of the events
# (docs/experiments.md, "The least threshold").
THRESHOLDS = (0.7, 0.9)
LEAST_PROBABILITY = 1e-7
TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True)
class Calibration:
    """What the contract says beside the weights, learnt from windows that no weight has seen."""

    temperature: float
    thresholds: dict[str, float]
    unknown: Unknown | None
    error_before: float  # expected calibration error of windows at temperature 1
    error_after: float  # the same at the temperature; see ``given``
    given: bool  # the temperature; else the error is with ones learnt on one half of the clips, measured on the other


def calibrate(heard: Heard, temperature: float | None = None) -> Calibration:
    """Calibrate a model that was exported with temperature 1 on what it ``heard``; a ``temperature`` may be given."""
    multi_label = heard.spec.scores == "sigmoid"
    read = [i for i, result in enumerate(heard.results) if result.error is None]
    counts = [len(heard.results[i].windows) for i in read]
    truth = np.repeat(heard.targets[read], counts, axis=0)  # [n_windows, n_labels] zeros and ones
    logits = _logits(np.concatenate([heard.results[i].windows for i in read]), multi_label)
    sources = np.repeat([heard.clips[i].origin for i in read], counts)
    given = temperature is not None
    temperature = temperature or best_temperature(logits, truth, multi_label)
    probs = probabilities(logits / temperature, multi_label)
    if given:
        error = calibration(truth, probs, multi_label)[1]
    else:
        error = _cross_fitted_error(logits, truth, sources, multi_label)
    return Calibration(
        temperature=temperature,
        thresholds={
            label: best_threshold(truth[:, k], probs[:, k])
            for k, label in enumerate(heard.spec.labels)
            if 0 < truth[:, k].sum() < len(truth)
        },
        unknown=_unknown(heard, read),
        error_before=calibration(truth, probabilities(logits, multi_label), multi_label)[1],
        error_after=error,
        given=given,
    )


def best_temperature(logits: F64, truth: NDArray[np.int_], multi_label: bool) -> float:
    """The temperature that makes ``truth`` [n, K] most likely (Guo 2017), to three digits."""

    def loss(log_temperature: float) -> float:
        probs = probabilities(logits / np.exp(log_temperature), multi_label)
        likely = np.where(truth == 1, probs, 1 - probs) if multi_label else (probs * truth).sum(axis=1)
        return float(-np.log(np.maximum(likely, LEAST_PROBABILITY)).mean())

    found = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded")
    return float(f"{np.exp(found.x):.3g}")


def best_threshold(truth: NDArray[np.int_], scores: F64) -> float:
    """The least score of one class from which PRECISION of its namings are right; of a class that never gets there, the
    one with the best F1. [n], [n] → a score within THRESHOLDS, to three digits.
    """
    precision, recall, thresholds = precision_recall_curve(truth, scores)
    precision, recall = precision[:-1], recall[:-1]  # the last is of no threshold
    good = np.flatnonzero(precision >= PRECISION)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    best = good[0] if len(good) else int(np.argmax(f1))
    return round(float(np.clip(thresholds[best], *THRESHOLDS)), 3)


def probabilities(logits: F64, multi_label: bool) -> F64:
    """[n, K] → [n, K]."""
    return expit(logits) if multi_label else softmax(logits, axis=1)


def _logits(probs: NDArray[np.float32], multi_label: bool) -> F64:
    """Logits that give ``probs``; those of a softmax are known but for a constant, which changes nothing."""
    clipped = np.clip(probs.astype(np.float64), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return logit(clipped) if multi_label else np.log(clipped)


def _cross_fitted_error(logits: F64, truth: NDArray[np.int_], sources: NDArray[np.str_], multi_label: bool) -> float:
    if len(np.unique(sources)) < 2:
        return float("nan")
    scaled = np.empty_like(logits)
    for fitted, measured in GroupKFold(2).split(logits, groups=sources):
        scaled[measured] = logits[measured] / best_temperature(logits[fitted], truth[fitted], multi_label)
    return calibration(truth, probabilities(scaled, multi_label), multi_label)[1]


def _unknown(heard: Heard, read: list[int]) -> Unknown | None:
    energies = [heard.results[i].energies for i in read]
    if any(e is None for e in energies):
        return None
    threshold = np.quantile(np.concatenate(energies), 1 - KNOWN_SHARE)
    return Unknown(threshold=float(f"{threshold:.4g}"), known_share=KNOWN_SHARE)
