"""The gate: torch, fp32 and every other file must agree on real clips, streamed and whole, or nothing is exported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest
from torch import nn

from edge.classifier import SAME_SUMS, Classifier
from edge.config import ModelSpec
from export.to_onnx import probabilities
from train.evaluate import Heard
from train.metrics import accuracy_of

F32 = NDArray[np.float32]


class ParityError(Exception):
    """The artefacts do not agree; says which, by how much, and what is allowed."""


@dataclass(frozen=True)
class Tolerance:
    """How far an artefact may stray from the one it was made of."""

    top1_agreement: float  # least share of windows with the same best class
    mean_difference: float  # largest mean, over the windows, of the largest difference of a probability
    max_difference: float  # largest difference of a probability
    streamed: float = 0.0  # largest difference of a probability, streamed against whole; 0: bit for bit


# onnxruntime's float32 convolutions for ARM sum in another order where the length is another; those for x86 do not.
# int8's first convolution is such a one, and what follows is rounded.
FLOAT32_STREAMED, INT8_STREAMED = (0.0, 0.0) if SAME_SUMS else (1e-6, 0.02)
# Of fp32 against torch, of the others against fp32. Each allows several times what sound networks show (docs/export.md)
# and much less than what a step of the conversion that goes wrong does.
TOLERANCES = {
    "fp32": Tolerance(top1_agreement=0.999, mean_difference=1e-4, max_difference=2e-3, streamed=FLOAT32_STREAMED),
    "int8": Tolerance(top1_agreement=0.95, mean_difference=0.05, max_difference=0.6, streamed=INT8_STREAMED),
    # What is made for a GPU is summed in float32 before it is rounded, in an order that may depend on the shape.
    "int8-s8s8": Tolerance(top1_agreement=0.95, mean_difference=0.05, max_difference=0.6, streamed=0.05),
    "fp16": Tolerance(top1_agreement=0.99, mean_difference=2e-3, max_difference=0.05, streamed=0.02),
}
MOST_LOSS = 0.3  # points of accuracy that a file may lose against fp32
CHANCE = 0.05  # of a loss that means nothing: a loss less likely than this by chance is one


@dataclass(frozen=True)
class Parity:
    """What was found."""

    name: str
    top1_agreement: float
    mean_difference: float
    max_difference: float

    def __str__(self) -> str:
        return (
            f"{self.name}: top-1 agreement {self.top1_agreement:.1%}, "
            f"mean difference {self.mean_difference:.2g}, largest {self.max_difference:.2g}"
        )


@dataclass(frozen=True)
class Loss:
    """What a file loses of the accuracy that fp32 has on held-out clips."""

    name: str
    points: float  # of accuracy; negative: it has more
    lost: int  # clips that fp32 gets better
    won: int  # clips that it gets better than fp32
    chance: float  # that as many or more of the two were lost, if losing and winning were as likely (sign test)


def measure(name: str, expected: F32, found: F32) -> Parity:
    """Two sets of probabilities [n_windows, n_labels]."""
    difference = np.abs(expected - found).max(axis=1)
    agreement = float((expected.argmax(axis=1) == found.argmax(axis=1)).mean())
    return Parity(name, agreement, float(difference.mean()), float(difference.max()))


def compare(name: str, expected: F32, found: F32, allowed: Tolerance) -> Parity:
    """The same; raises ParityError beyond ``allowed``."""
    parity = measure(name, expected, found)
    for what in ("mean_difference", "max_difference"):
        if not getattr(parity, what) <= getattr(allowed, what):
            raise ParityError(f"{name}: {what} is {getattr(parity, what):.3g}; allowed: {getattr(allowed, what)}")
    if not parity.top1_agreement >= allowed.top1_agreement:
        raise ParityError(f"{name}: top-1 agreement is {parity.top1_agreement:.4f}; least: {allowed.top1_agreement}")
    return parity


def measure_loss(name: str, fp32: Heard, other: Heard) -> Loss:
    """What two files make of the same held-out clips, clip by clip."""
    before, after = _scores(fp32), _scores(other)
    lost, won = int((after < before).sum()), int((after > before).sum())
    chance = binomtest(lost, lost + won, alternative="greater").pvalue if lost + won else 1.0
    return Loss(name, float(100 * (before - after).mean()), lost, won, float(chance))


def check_loss(loss: Loss, most: float) -> None:
    """Raises ParityError for a ``loss`` of more than ``most`` points that is none of chance.

    On 400 clips, a file as good as fp32 often loses one clip, a quarter of a point, or two.
    """
    if loss.points <= most or loss.chance >= CHANCE:
        return
    remedy = "leave this precision out"
    if loss.name.startswith("int8"):
        remedy = "fine-tune with its rounding: python -m train fit DATA --recipe qat --init CHECKPOINT --out runs/qat"
    raise ParityError(
        f"{loss.name} loses {loss.points:.2f} points of accuracy against fp32, {loss.lost} clips lost and "
        f"{loss.won} won; allowed: {most:g} ({remedy}; or allow more with --most-loss)"
    )


def _scores(heard: Heard) -> NDArray[np.float64]:
    """The accuracy of each clip that could be read: [n]."""
    multi_label = heard.spec.scores == "sigmoid"
    return np.array(
        [
            accuracy_of(truth[None], result.probs[None], multi_label=multi_label)
            for truth, result in zip(heard.targets, heard.results, strict=True)
            if result.error is None
        ]
    )


def torch_probs(model: nn.Module, windows: Sequence[F32], spec: ModelSpec) -> F32:
    """The checkpoint's own probabilities of ``windows`` of frames: [n_windows, n_labels]."""
    model.eval()
    with torch.inference_mode():
        logits = torch.stack([model(torch.from_numpy(w)[None])[0] for w in windows])
        return probabilities(logits, spec.temperature, spec.scores).numpy()


def file_probs(classifier: Classifier, windows: Sequence[F32]) -> F32:
    """The probabilities of a model file: [n_windows, n_labels]."""
    return np.stack([classifier.run(w).probs for w in windows])


def check_streaming(classifier: Classifier, samples: F32, hop: float | None = None) -> int:
    """Streamed decisions must equal those of whole windows, bit for bit or as its precision allows.

    Returns how many were compared. Raises ParityError.
    """
    spec = classifier.spec
    allowed = TOLERANCES[spec.provenance.precision].streamed
    hop_frames = spec.hop_frames(hop)
    streamed = classifier.stream(hop).push(samples)
    for index, decision in enumerate(streamed):
        start = index * hop_frames * spec.frontend.hop_length
        (whole,) = classifier.stream(hop).push(samples[start : start + spec.window_samples])
        off = float(np.abs(whole.probs - decision.probs).max())
        if not off <= allowed or (whole.energy != decision.energy and allowed == 0):
            raise ParityError(f"{classifier.path.name}: window {index} streamed differs from whole by {off:.3g}")
    return len(streamed)
