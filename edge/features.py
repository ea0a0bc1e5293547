"""The front end in numpy: whole-window and streamed, from one definition, bit for bit the same."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge.audio import silence
from edge.config import FrontendConfig

F32 = NDArray[np.float32]

# The mel matrix product is computed in slabs of this many frames, and a frame always has the same place in its slab.
# BLAS picks its kernel by the shape of the matrices, and the kernels differ in the last bit: one fixed shape makes
# streamed frames equal whole-window frames on every BLAS, by construction.
SLAB = 8


def hz_to_mel(hz: NDArray[np.float64], scale: str) -> NDArray[np.float64]:
    """Frequencies in Hz on the mel scale: "htk" (O'Shaughnessy 1987) or "slaney" (Auditory Toolbox 1998)."""
    if scale == "htk":
        return 2595.0 * np.log10(1.0 + hz / 700.0)
    linear, log = hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1000.0) / 1000.0) / np.log(6.4)
    return np.where(hz < 1000.0, linear, log)


def mel_to_hz(mel: NDArray[np.float64], scale: str) -> NDArray[np.float64]:
    """The inverse of :func:`hz_to_mel`."""
    if scale == "htk":
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    return np.where(mel < 15, mel * 200 / 3, 1000.0 * np.exp(np.log(6.4) * (np.maximum(mel, 15) - 15) / 27))


def mel_filterbank(config: FrontendConfig) -> F32:
    """Triangular mel filters, float32 [n_fft // 2 + 1, n_mels]."""
    bins = np.linspace(0, config.sample_rate / 2, config.n_fft // 2 + 1)
    ends = hz_to_mel(np.array([config.f_min, config.f_max]), config.mel_scale)
    edges = mel_to_hz(np.linspace(ends[0], ends[1], config.n_mels + 2), config.mel_scale)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins[:, None] - lower) / (centre - lower)
    falling = (upper - bins[:, None]) / (upper - centre)
    filters = np.maximum(0, np.minimum(rising, falling))  # [n_bins, n_mels]
    if config.mel_norm == "slaney":
        filters *= 2 / (upper - lower)
    return filters.astype(np.float32)


class Frontend(Protocol):
    """Samples → frames: [n_samples] of one channel or [n_samples, channels], in [-1, 1] → [channels, n_mels, n_frames].

    What is returned may be overwritten by the next call.
    """

    def __call__(self, samples: F32) -> F32:
        """The frames of a whole recording."""

    def push(self, samples: F32) -> F32:
        """The frames that ``samples`` complete, perhaps none, of a stream that begins with the first push."""


def make_frontend(config: FrontendConfig) -> Frontend:
    """The front end that ``config`` describes."""
    return Waveform() if config.kind == "waveform" else LogMel(config)


class Waveform:
    """The samples themselves, one a frame."""

    def __call__(self, samples: F32) -> F32:
        """See :class:`Frontend`."""
        return np.atleast_2d(np.asarray(samples, np.float32).T)[:, None]

    push = __call__


class LogMel:
    """Log-mel frames, of each channel for itself. Buffers are reused."""

    def __init__(self, config: FrontendConfig) -> None:
        self.config = config
        self._window = np.hanning(config.win_length + 1)[:-1].astype(np.float32)  # periodic
        self._filters = mel_filterbank(config)
        self._capacity = 0  # frames that the buffers hold
        self._tail = silence(0, config.channels)  # samples that belong to frames not yet complete
        self._first = 0  # place in its slab of the next streamed frame

    def __call__(self, samples: F32) -> F32:
        """See :class:`Frontend`."""
        return self._frames(np.ascontiguousarray(samples, np.float32), 0)

    def push(self, samples: F32) -> F32:
        """See :class:`Frontend`."""
        pending = np.concatenate([self._tail, samples], dtype=np.float32)
        n_new = self.config.n_frames(len(pending))
        frames = self._frames(pending, self._first)
        self._tail = pending[n_new * self.config.hop_length :]
        self._first = (self._first + n_new) % SLAB
        return frames

    def _frames(self, samples: F32, first: int) -> F32:
        """Frames of contiguous ``samples``, the first of them at place ``first`` of its slab."""
        config = self.config
        n_frames = config.n_frames(len(samples))
        if n_frames == 0:
            return np.empty((config.channels, config.n_mels, 0), np.float32)
        end = first + n_frames
        slabs = -(-end // SLAB)
        self._reserve(slabs * SLAB)
        for channel, of_channel in enumerate(samples.reshape(len(samples), config.channels).T):
            self._mel_power(of_channel, first, end, self._mel[channel, :slabs])
        mel = self._mel[:, :slabs].reshape(config.channels, slabs * SLAB, -1)[
            :, first:end
        ]  # [channels, n_frames, n_mels]
        mel += np.float32(config.log_floor)
        np.log(mel, out=mel)
        mel -= np.float32(config.log_mean)
        mel /= np.float32(config.log_std)
        return mel.transpose(0, 2, 1)

    def _mel_power(self, samples: F32, first: int, end: int, out: F32) -> None:
        """Mel power of one channel [n_samples] into ``out`` [slabs, SLAB, n_mels], from frame ``first`` to ``end``."""
        n_frames, config = end - first, self.config
        framed = np.lib.stride_tricks.sliding_window_view(samples, config.win_length)[:: config.hop_length]
        np.multiply(framed[:n_frames], self._window, out=self._windowed[:n_frames])
        spectrum = np.fft.rfft(self._windowed[:n_frames], config.n_fft, axis=-1, out=self._spectrum[:n_frames])  # type: ignore[arg-type]
        power, scratch = self._power[first:end], self._scratch[:n_frames]
        np.square(spectrum.real, out=power)
        np.square(spectrum.imag, out=scratch)
        power += scratch
        n_rows = len(out) * SLAB
        self._power[:first] = 0  # rows of no interest; zero, so that nothing stale (inf, NaN) slows the product
        self._power[end:n_rows] = 0
        np.matmul(self._power[:n_rows].reshape(len(out), SLAB, -1), self._filters, out=out)

    def _reserve(self, n_frames: int) -> None:
        if n_frames <= self._capacity:
            return
        n_bins = self.config.n_fft // 2 + 1
        self._capacity = n_frames
        self._windowed = np.empty((n_frames, self.config.win_length), np.float32)
        self._spectrum = np.empty((n_frames, n_bins), np.complex64)
        self._power = np.zeros((n_frames, n_bins), np.float32)
        self._scratch = np.empty((n_frames, n_bins), np.float32)
        self._mel = np.empty((self.config.channels, n_frames // SLAB, SLAB, self.config.n_mels), np.float32)
