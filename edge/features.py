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
BLOCK = 8 * SLAB  # frames computed at once: what they need stays in the processor's cache
BANDS = 4  # parts of the filterbank; each is multiplied with the bins that it hears alone


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


def narrowed(filters: F32) -> list[tuple[slice, F32, slice]]:
    """The filterbank [n_bins, n_mels] as ``BANDS`` smaller ones: (bins, filters of these bins and mels, mels)."""
    parts = []
    for mels in np.array_split(np.arange(filters.shape[1]), min(BANDS, filters.shape[1])):
        of_mels = slice(int(mels[0]), int(mels[-1]) + 1)
        heard = np.flatnonzero(filters[:, of_mels].any(axis=1))
        bins = slice(int(heard[0]), int(heard[-1]) + 1) if len(heard) else slice(0, 1)
        parts.append((bins, np.ascontiguousarray(filters[bins, of_mels]), of_mels))
    return parts


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
        # Periodic; n_fft times too great, which the FFT undoes: numpy computes one without a factor in float64.
        self.window = (config.n_fft * np.hanning(config.win_length + 1)[:-1]).astype(np.float32)
        self.filters = narrowed(mel_filterbank(config))
        n_bins = config.n_fft // 2 + 1
        self.windowed = np.empty((BLOCK, config.win_length), np.float32)
        self.spectrum = np.empty((BLOCK, n_bins), np.complex64)
        self.power = np.zeros((BLOCK, n_bins), np.float32)
        self.scratch = np.empty((BLOCK, n_bins), np.float32)
        self._mel = np.empty((config.channels, 0, config.n_mels), np.float32)
        self._samples = silence(0, config.channels)  # of a stream: first those of the frame that is not yet complete
        self._pending = 0  # how many these are
        self._first = 0  # place in its slab of the next streamed frame
        self._plan: tuple[int, int, Plan] | None = None  # of the last push: samples, first, plan

    def __call__(self, samples: F32) -> F32:
        """See :class:`Frontend`."""
        return self._frames(self._planned(np.ascontiguousarray(samples, np.float32), 0))

    def push(self, samples: F32) -> F32:
        """See :class:`Frontend`."""
        length = self._pending + len(samples)
        if length > len(self._samples):
            pending = self._samples[: self._pending]
            self._samples = np.empty((length, *self._samples.shape[1:]), np.float32)
            self._samples[: self._pending] = pending
            self._plan = None
        self._samples[self._pending : length] = samples
        if self._plan is None or self._plan[:2] != (length, self._first):
            self._plan = length, self._first, self._planned(self._samples[:length], self._first)
        frames = self._frames(self._plan[2])
        used = frames.shape[2] * self.config.hop_length
        self._pending = length - used
        self._samples[: self._pending] = self._samples[used:length]
        self._first = (self._first + frames.shape[2]) % SLAB
        return frames

    def _planned(self, samples: F32, first: int) -> Plan:
        """What gives the frames of contiguous ``samples``, the first of them at place ``first`` of its slab."""
        config = self.config
        end = first + config.n_frames(len(samples))  # rows before ``first`` are of no interest
        if end > self._mel.shape[1]:
            self._mel = np.empty((config.channels, -(-end // BLOCK) * BLOCK, config.n_mels), np.float32)
        blocks = [
            Block(self, samples, channel, row - first, max(0, first - row), min(BLOCK, end - row), out)
            for channel in range(config.channels)
            for row in range(0, end if end > first else 0, BLOCK)
            for out in [self._mel[channel, row : row + BLOCK]]
        ]
        return blocks, self._mel[:, first:end]

    def _frames(self, plan: Plan) -> F32:
        blocks, mel = plan
        for block in blocks:
            block()
        mel += np.float32(self.config.log_floor)
        np.log(mel, out=mel)
        mel -= np.float32(self.config.log_mean)
        mel /= np.float32(self.config.log_std)
        return mel.transpose(0, 2, 1)


class Block:
    """The mel power of up to BLOCK frames of one channel: its views of the buffers, made once."""

    def __init__(self, of: LogMel, samples: F32, channel: int, frame: int, start: int, end: int, out: F32) -> None:
        """``frame`` is in the first row; those in rows ``start`` to ``end`` go to ``out`` [BLOCK, n_mels]."""
        config, n_frames, size = of.config, end - start, samples.itemsize
        channels, hop = config.channels, config.hop_length
        self._framed: F32 = np.ndarray(
            (n_frames, config.win_length),
            np.float32,
            samples,
            offset=((frame + start) * hop * channels + channel) * size,
            strides=(hop * channels * size, channels * size),
        )
        self._window, self._n_fft = of.window, config.n_fft
        self._windowed, self._spectrum, self._scratch = (
            of.windowed[:n_frames],
            of.spectrum[:n_frames],
            of.scratch[:n_frames],
        )
        self._real, self._imaginary = self._spectrum.real, self._spectrum.imag
        rows = of.power[: -(-end // SLAB) * SLAB]
        self._power, self._unused = rows[start:end], (rows[:start], rows[end:])
        slabs, of_slabs = rows.reshape(-1, SLAB, rows.shape[1]), out[: len(rows)].reshape(-1, SLAB, out.shape[1])
        self._products = [(slabs[:, :, bins], filters, of_slabs[:, :, mels]) for bins, filters, mels in of.filters]

    def __call__(self) -> None:
        """Compute."""
        np.multiply(self._framed, self._window, out=self._windowed)
        np.fft.rfft(self._windowed, self._n_fft, axis=-1, norm="forward", out=self._spectrum)  # type: ignore[arg-type]
        np.square(self._real, out=self._power)
        np.square(self._imaginary, out=self._scratch)
        np.add(self._power, self._scratch, out=self._power)
        for unused in self._unused:
            unused.fill(0)  # so that nothing stale (inf, NaN) slows the product
        for power, filters, mel in self._products:
            np.matmul(power, filters, out=mel)


Plan = tuple[list[Block], F32]  # what is to be computed, and [channels, n_frames, n_mels], where that goes
