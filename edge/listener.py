"""The loop: source → front end → network → windows."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge.audio import padded, require_frame, silence
from edge.classifier import Classifier
from edge.config import FrontendConfig
from edge.envelope import banded
from edge.sources.block import Block, Outage, Signal, Source

F32 = NDArray[np.float32]

SILENT_SECONDS = 5.0  # of nothing but zeros, until the microphone is called silent


@dataclass(frozen=True)
class Window:
    """One decision, and what was heard for it."""

    labels: tuple[str, ...]  # the classes, in the order of ``probs``
    probs: F32  # [n_labels]
    energy: float | None  # see edge.config.Unknown; None of a model that does not tell
    unknown: bool  # probably none of the classes
    onset: float  # seconds of stream
    offset: float  # seconds of stream
    time: float  # when its last sample was recorded, seconds since the Unix epoch
    level_dbfs: float | None  # RMS of what is new since the window before, 0 dB is full scale; None for all zeros
    latency_ms: float  # from its last sample to the decision
    busy_ms: float  # time that front end and network took
    silent: bool  # nothing but zeros for SILENT_SECONDS
    lost: int  # samples that were lost since the window before; not those of an outage
    overflows: int  # overflows that the device has flagged since the window before
    signal: Signal | None = None  # what the device delivers; None of a source that is none
    bands: F32 | None = None  # see edge.envelope.banded; of the frames that are new; None of a model of the waveform

    def top(self, k: int) -> list[tuple[str, float]]:
        """The ``k`` best classes and their probabilities, best first."""
        best = np.argsort(-self.probs, kind="stable")[:k]
        return [(self.labels[i], float(self.probs[i])) for i in best]


@dataclass(frozen=True)
class Successor:
    """A model that takes over from the one that listens, at the next block."""

    classifier: Classifier  # of the same sample rate, channels and hop
    samples: F32  # the newest: a window less a hop, and those since the last window; [n] or [n, channels]


class Succession(Protocol):
    """Who follows the blocks, and may have a successor."""

    def follow(self, block: Block, since: int | None) -> Successor | None:
        """After each block: the one that takes over now. ``since``: samples that came after the last window; None while
        the first one is gathered, at the beginning and again after an outage. Nobody takes over then.
        """


def listen(source: Source, classifier: Classifier, hop: float | None = None) -> Iterator[Window]:
    """The windows of :func:`attend`: the outages of a source that comes back are passed over."""
    return _only_windows(attend(source, classifier, hop))


def _only_windows(told: Iterator[Window | Outage | Classifier]) -> Iterator[Window]:
    with closing(told):  # type: ignore[type-var]  # a generator, which mypy knows as an iterator only
        for window in told:
            if isinstance(window, Window):
                yield window


def attend(
    source: Source, classifier: Classifier, hop: float | None = None, succession: Succession | None = None
) -> Iterator[Window | Outage | Classifier]:
    """Open ``source``, and classify it for as long as it lasts, every ``hop`` seconds or the nearest possible (see
    :meth:`edge.config.ModelSpec.hop_frames`). While it is away, the source's outages come instead of windows. Where
    ``succession`` has a successor, its classifier comes before its first window.

    A source that ends before its first window is followed by silence; a rest shorter than a hop is left out. Lost
    samples count as silence, so that positions stay true. After an outage a new window is gathered.

    Raises:
        EdgeError: from the source, at once when it cannot be opened.
    """
    spec = classifier.spec
    f = spec.frontend
    blocks = source.blocks(f.sample_rate, spec.hop_samples(hop), spec.window_samples, f.channels)
    return _windows(blocks, source.name, classifier, hop, succession)


def _windows(
    blocks: Iterator[Block | Outage],
    name: str,
    classifier: Classifier,
    hop: float | None,
    succession: Succession | None,
) -> Iterator[Window | Outage | Classifier]:
    spec = classifier.spec
    rate = spec.frontend.sample_rate
    # origin: the stream's first sample, in the source; last: the end of the newest window
    stream, origin, decided = classifier.stream(hop), -1, 0
    end = last = zeros = lost = overflows = 0
    away = False
    with closing(blocks):  # type: ignore[type-var]  # a generator, which mypy knows as an iterator only
        for block in blocks:
            if isinstance(block, Outage):
                away = True
                yield block
                continue
            started = time.perf_counter()
            samples, end = block.samples, block.position + len(block.samples)
            if origin < 0:
                origin = block.position - block.lost
            lost, overflows = lost + (0 if away else block.lost), overflows + block.overflows
            padding = 0  # frames of silence that stand at the end
            if end < spec.window_samples:  # the end of a source that is shorter than a window
                samples = _padded(samples, name, classifier)
                padding = spec.window_frames - spec.frontend.n_frames(end)
            if away or block.lost >= spec.window_samples:
                stream, origin, decided, zeros, away = classifier.stream(hop), block.position, 0, 0, False
            elif block.lost:
                samples = np.concatenate([silence(block.lost, spec.frontend.channels), samples])
            power = float(np.vdot(block.samples, block.samples)) / block.samples.size
            zeros = zeros + len(block.samples) if power == 0 else 0
            decisions = stream.push(samples)
            busy_ms = (time.perf_counter() - started) * 1000
            for probs, energy, frames in decisions:  # one, but after a gap and at the end
                last = min(end, origin + spec.window_samples + decided * stream.hop_samples)
                decided += 1
                heard = block.adc_time + (last - block.position) / rate
                yield Window(
                    labels=spec.labels,
                    probs=probs,
                    energy=energy,
                    unknown=spec.unknown is not None and energy is not None and energy < spec.unknown.threshold,
                    onset=max(0, last - spec.window_samples) / rate,
                    offset=last / rate,
                    time=heard,
                    level_dbfs=10 * math.log10(power) if power > 0 else None,
                    # A recording may be ahead of the clock, or the clock set back.
                    latency_ms=max(time.time() - heard, time.perf_counter() - started) * 1000,
                    busy_ms=busy_ms / len(decisions),
                    silent=zeros >= SILENT_SECONDS * rate,
                    lost=lost,
                    overflows=overflows,
                    signal=block.signal,
                    bands=_bands(frames, padding, spec.frontend),
                )
                lost, overflows = 0, 0
            since = end - last if decided else None
            if succession is not None and (following := succession.follow(block, since)) is not None:
                classifier, spec = following.classifier, following.classifier.spec
                stream, origin, decided = classifier.stream(hop), end - len(following.samples), 0
                stream.push(following.samples)
                yield classifier
    if end == 0:  # less than one sample at the model's rate
        _padded(silence(0, spec.frontend.channels), name, classifier)


def _padded(samples: F32, name: str, classifier: Classifier) -> F32:
    """``samples`` and silence, one window in all. Raises InputError for less than a frame."""
    require_frame(len(samples), name, classifier.spec.frontend)
    return padded(samples, classifier.spec.window_samples)


def _bands(frames: F32 | None, padding: int, frontend: FrontendConfig) -> F32 | None:
    """Those of ``frames`` without the last ``padding``; None of a model of the waveform."""
    if frames is None or frontend.kind != "log_mel":
        return None
    return banded(frames)[:, : frames.shape[2] - padding]
