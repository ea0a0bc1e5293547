"""The gate: torch, fp32 and int8 must agree on real clips, streamed and whole, or nothing is exported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge.classifier import Classifier
from edge.config import ModelSpec
from export.to_onnx import probabilities

F32 = NDArray[np.float32]


class ParityError(Exception):
    """The artefacts do not agree; says which, by how much, and what is allowed."""


@dataclass(frozen=True)
class Tolerance:
    """How far an artefact may stray from the one it was made of."""

    top1_agreement: float  # least share of windows with the same best class
    mean_difference: float  # largest mean, over the windows, of the largest difference of a probability
    max_difference: float  # largest difference of a probability


FP32 = Tolerance(top1_agreement=0.999, mean_difference=1e-4, max_difference=2e-3)
INT8 = Tolerance(top1_agreement=0.95, mean_difference=0.05, max_difference=0.6)


@dataclass(frozen=True)
class Parity:
    """What was found."""

    name: str
    top1_agreement: float
    mean_difference: float
    max_difference: float


def compare(name: str, expected: F32, found: F32, allowed: Tolerance) -> Parity:
    """Two sets of probabilities [n_windows, n_labels]. Raises ParityError beyond ``allowed``."""
    difference = np.abs(expected - found).max(axis=1)
    parity = Parity(
        name,
        float((expected.argmax(axis=1) == found.argmax(axis=1)).mean()),
        float(difference.mean()),
        float(difference.max()),
    )
    for what in ("mean_difference", "max_difference"):
        if not getattr(parity, what) <= getattr(allowed, what):
            raise ParityError(f"{name}: {what} is {getattr(parity, what):.3g}; allowed: {getattr(allowed, what)}")
    if not parity.top1_agreement >= allowed.top1_agreement:
        raise ParityError(f"{name}: top-1 agreement is {parity.top1_agreement:.4f}; least: {allowed.top1_agreement}")
    return parity


def torch_probs(model: nn.Module, windows: Sequence[F32], spec: ModelSpec) -> F32:
    """The checkpoint's own probabilities of ``windows`` of frames: [n_windows, n_labels]."""
    model.eval()
    with torch.inference_mode():
        logits = torch.stack([model(torch.from_numpy(w)[None])[0] for w in windows])
        return probabilities(logits, spec.temperature, spec.scores).numpy()


def file_probs(classifier: Classifier, windows: Sequence[F32]) -> F32:
    """The probabilities of a model file: [n_windows, n_labels]."""
    return np.stack([classifier.run(w, classifier.new_ring())[0].probs for w in windows])


def check_streaming(classifier: Classifier, samples: F32, hop: float | None = None) -> int:
    """Streamed decisions must equal those of whole windows, bit for bit. Returns how many were compared."""
    spec = classifier.spec
    hop_frames = spec.hop_frames(hop)
    streamed = classifier.stream(hop).push(samples)
    for index, decision in enumerate(streamed):
        start = index * hop_frames * spec.frontend.hop_length
        (whole,) = classifier.stream(hop).push(samples[start : start + spec.window_samples])
        if whole.energy != decision.energy or not np.array_equal(whole.probs, decision.probs):
            off = float(np.abs(whole.probs - decision.probs).max())
            raise ParityError(f"{classifier.path.name}: window {index} streamed differs from whole by {off:.3g}")
    return len(streamed)
