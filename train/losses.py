"""What is minimised: labels, one or several a clip, and the opinion of teachers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True)
class Loss:
    """The loss of a batch.

    One label a clip: cross-entropy over a softmax; what has none is an outlier, to be given to all classes alike
    (Hendrycks 2019). Several or none (``multi_label``): the mean binary cross-entropy of
    independent sigmoids, times the number of classes, so that both have the same size.
    """

    multi_label: bool = False
    smoothing: float = 0.0  # share of each label that is spread over all classes
    weights: Tensor | None = None  # [n_labels], mean 1: rare classes count more
    distil: float = 0.0  # share of the teachers
    temperature: float = 2.0  # softens both sides (Hinton 2015, section 2)

    def __call__(self, logits: Tensor, targets: Tensor, opinion: Tensor | None = None) -> Tensor:
        """``logits``, ``targets`` and the teachers' ``opinion`` (:meth:`soften`), each [B, n_labels] → a scalar."""
        loss = self._labels(logits, targets)
        if opinion is None:
            return loss
        # Softened gradients are smaller by the temperature's square: give them their size back.
        taught = self._against(logits / self.temperature, opinion) * self.temperature**2
        return loss.lerp(taught, self.distil)

    def soften(self, logits: Tensor) -> Tensor:
        """A teacher's opinion: [B, n_labels] logits → probabilities."""
        softened = logits.float() / self.temperature
        return softened.sigmoid() if self.multi_label else softened.softmax(1)

    def _labels(self, logits: Tensor, targets: Tensor) -> Tensor:
        floor = 0.5 if self.multi_label else 1 / targets.shape[1]
        if not self.multi_label:
            targets = targets.masked_fill(unlabelled(targets)[:, None], floor)
        weights = None if self.weights is None else self.weights.to(logits.device)
        return self._against(logits, targets * (1 - self.smoothing) + self.smoothing * floor, weights)

    def _against(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        if self.multi_label:
            losses = nn.functional.binary_cross_entropy_with_logits(logits, targets, weights, reduction="none")
            return losses.sum(1).mean()
        return nn.functional.cross_entropy(logits, targets, weights)


@dataclass(frozen=True)
class EnergyHinge:
    """Moves the energy ln Σ exp(logit) of outliers below one bound, and that of all else above another (Liu 2020).

    For scores that exclude each other. Independent ones need none: all of an outlier's are taught to be low, and so is
    the energy, their sum.
    """

    weight: float
    low: float  # outliers shall be below
    high: float  # the classes shall be above

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """``logits`` and ``targets``, [B, n_labels] → a scalar: the mean square of what is missing, weighted."""
        energy = logits.logsumexp(1)
        missing = torch.where(unlabelled(targets), energy - self.low, self.high - energy)
        return self.weight * missing.relu().square().mean()


def unlabelled(targets: Tensor) -> Tensor:
    """Which windows have no label: [B, n_labels] → [B]."""
    return targets.sum(1) == 0


def class_weights(targets: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights that make every class count alike: [n_clips, n_labels] of 0 and 1 → [n_labels], mean 1."""
    inverse = 1 / np.maximum(targets.sum(0), 1)
    return (inverse / inverse.mean()).astype(np.float32)


def clip_weights(targets: NDArray[np.float32]) -> NDArray[np.float64]:
    """How often to draw each clip, so that every class comes alike: that of its rarest label. [n_clips]"""
    inverse = 1 / np.maximum(targets.sum(0), 1)
    weights = (targets * inverse).max(1)
    return np.where(weights > 0, weights, inverse.min()).astype(np.float64)  # a clip without labels: as the commonest
