"""The loop: source → front end → network → windows."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.classifier import DEFAULT_HOP, Classifier
from edge.errors import InputError
from edge.sources.block import Source

F32 = NDArray[np.float32]

SILENT_SECONDS = 5.0  # of nothing but zeros, until the microphone is called silent


@dataclass(frozen=True)
class Window:
    """One decision, and what was heard for it."""

    labels: tuple[str, ...]  # the classes, in the order of ``probs``
    probs: F32  # [n_labels]
    onset: float  # seconds of stream
    offset: float  # seconds of stream
    time: float  # when its last sample was recorded, seconds since the Unix epoch
    level_dbfs: float | None  # RMS of what is new since the window before, 0 dB is full scale; None for all zeros
    latency_ms: float  # from its last sample to the decision
    busy_ms: float  # time that front end and network took
    silent: bool  # nothing but zeros for SILENT_SECONDS
    lost: int  # samples that were lost since the window before
    overflows: int  # overflows that the device has flagged since the window before

    def top(self, k: int) -> list[tuple[str, float]]:
        """The ``k`` best classes and their probabilities, best first."""
        best = np.argsort(-self.probs, kind="stable")[:k]
        return [(self.labels[i], float(self.probs[i])) for i in best]


def listen(source: Source, classifier: Classifier, hop: float = DEFAULT_HOP) -> Iterator[Window]:
    """Classify ``source`` for as long as it lasts, every ``hop`` seconds or the nearest that the model can.

    A source that ends before its first window is followed by silence; a rest shorter than a hop is left out.

    Raises:
        EdgeError: from the source.
    """
    spec = classifier.spec
    stream = classifier.stream(hop)
    rate, length = spec.frontend.sample_rate, stream.hop_samples
    zeros, lost, overflows, first = 0, 0, 0, True
    with closing(source.blocks(rate, length, spec.window_samples)) as blocks:  # type: ignore[type-var]
        for block in blocks:
            started = time.perf_counter()
            samples, end = block.samples, block.position + len(block.samples)
            lost, overflows = lost + block.lost, overflows + block.overflows
            if first and len(samples) < spec.frontend.win_length:
                raise InputError(
                    f"{source.name} ends after {len(samples)} samples at {rate} Hz",
                    remedy=f"give at least one frame, {spec.frontend.win_length} samples",
                )
            if first and len(samples) < spec.window_samples:
                samples = np.pad(samples, (0, spec.window_samples - len(samples)))
            power = float(np.dot(block.samples, block.samples)) / len(block.samples)
            zeros = zeros + len(block.samples) if power == 0 else 0
            heard = block.adc_time + len(block.samples) / rate if source.live else block.adc_time
            for probs in stream.push(samples):  # one, but for the rest at the end of a source
                done = time.time()
                yield Window(
                    labels=spec.labels,
                    probs=probs,
                    onset=max(0.0, (end - spec.window_samples) / rate),
                    offset=end / rate,
                    time=heard,
                    level_dbfs=10 * math.log10(power) if power > 0 else None,
                    latency_ms=max(0.0, done - heard) * 1000,
                    busy_ms=(time.perf_counter() - started) * 1000,
                    silent=zeros >= SILENT_SECONDS * rate,
                    lost=lost,
                    overflows=overflows,
                )
                lost, overflows = 0, 0
            first = False
