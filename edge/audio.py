"""Sound as arrays: [n] for one channel, [n, channels] for more; channels chosen, rates changed, silence added."""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray

from edge.config import FrontendConfig
from edge.errors import InputError

F32 = NDArray[np.float32]

MOST = 1000.0  # full scale is 1; float files may exceed it, but not by this


def to_channels(samples: F32, channels: int, channel: int | None = None) -> F32:
    """[n, m] → [n] for one channel, [n, 2] for two.

    One is the mean of all; two are the first two, or the only one twice. ``channel`` (from 0): of that one alone.
    """
    if channel is not None:
        samples = samples[:, channel : channel + 1]
    if channels == 1:
        return np.ascontiguousarray(samples[:, 0]) if samples.shape[1] == 1 else _mixed(samples)
    return (
        np.repeat(samples, channels, axis=1) if samples.shape[1] == 1 else np.ascontiguousarray(samples[:, :channels])
    )


def _mixed(samples: F32) -> F32:
    """[n, m] → [n], the mean, by columns: ``samples.mean(axis=1)`` sums each few by themselves, which is slow."""
    total = samples[:, 0].copy()
    for other in samples.T[1:]:
        total += other
    total /= samples.shape[1]
    return total


def silence(n: int, channels: int) -> F32:
    """``n`` samples of nothing: [n] or [n, channels]."""
    return np.zeros(n if channels == 1 else (n, channels), np.float32)


def padded(samples: F32, length: int) -> F32:
    """[n] or [n, channels] → the same, followed by silence up to ``length`` samples."""
    missing = max(0, length - len(samples))
    return np.pad(samples, [(0, missing), *[(0, 0)] * (samples.ndim - 1)]) if missing else samples


def require_frame(n_samples: int, name: str, frontend: FrontendConfig) -> None:
    """Raises InputError where all ``n_samples`` of ``name`` are less than a frame."""
    if n_samples < frontend.win_length:
        raise InputError(
            f"{name} ends after {n_samples} samples at {frontend.sample_rate} Hz",
            remedy=f"give at least one frame, {frontend.win_length} samples",
        )


def first_bad(samples: F32) -> tuple[int, float] | None:
    """Place and value of the first that cannot be a sample: NaN, infinite, or a thousand times full scale."""
    fine = np.abs(samples) < MOST
    if fine.all():
        return None
    at = int(np.argmin(fine))  # in [n, channels], counted over both
    return at // (samples.size // len(samples)), float(samples.flat[at])


def without_bad(samples: F32) -> F32:
    """The same, with silence in place of what :func:`first_bad` finds."""
    return np.where(np.abs(samples) < MOST, samples, np.float32(0))


class Resampler:
    """A streaming resampler for float32: soxr where the rates differ, nothing where they are equal."""

    def __init__(self, from_rate: int, to_rate: int, channels: int = 1) -> None:
        same = from_rate == to_rate
        self._stream = None if same else soxr.ResampleStream(from_rate, to_rate, channels, dtype="float32")

    def __call__(self, samples: F32, *, last: bool = False) -> F32:
        """[n, …] → [about n * to_rate / from_rate, …]; ``last`` flushes what the filter holds."""
        if self._stream is None:
            return samples
        resampled: F32 = self._stream.resample_chunk(samples, last=last)
        return resampled
