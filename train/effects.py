"""What rooms, microphones, lines and codecs do to sound: effects on samples, seeded where they are random.

An effect takes float32 samples [n] or [channels, n] in [-1, 1] at ``rate`` Hz and gives as many; what it draws, and the
levels that it goes by, are the same for all channels, so that they keep their balance. :data:`DEGRADATIONS` are fixed:
``python -m train evaluate --degrade`` measures with them. :func:`another_microphone` draws a chain: the views of a clip
that training sees beside the recording itself.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from scipy import signal

from train.bounds import Decibels, Hertz, Level, Seconds, Share, Shares, check_bounds

F32 = NDArray[np.float32]
Rng = np.random.Generator
Effect = Callable[[F32, int, Rng], F32]

TELEPHONE_RATE = 8_000  # Hz
MU = 255  # G.711
MOST_COMPRESSED = 0.9999  # libsndfile rounds what is nearer to 1 up to a quality that its MP3 encoder does not have
CODECS = {"vorbis": ("OGG", "VORBIS"), "mp3": ("MP3", "MPEG_LAYER_III")}  # libsndfile's format and subtype
# The microphone of a small device: 500 to 6000 Hz, and a resonance of its case.
SMALL_DEVICE_HZ = np.array([100, 300, 500, 1000, 2500, 4000, 6000, 8000, 16000.0])
SMALL_DEVICE_DB = np.array([-36, -12, -3, 0, 5, 2, -3, -18, -40.0])


def gain(samples: F32, db: float) -> F32:
    """Louder or quieter."""
    return samples * np.float32(10 ** (db / 20))


def quantise(samples: F32) -> F32:
    """As 16-bit integers: what is far below full scale becomes coarse."""
    return np.round(samples * 32768) / np.float32(32768)


def band(samples: F32, rate: int, low: float | None, high: float | None, order: int = 4) -> F32:
    """Butterworth band limits in Hz; None, or near the Nyquist frequency, for no limit."""
    for edge, kind in ((low, "high"), (high, "low")):
        if edge is not None and edge < 0.49 * rate:
            samples = signal.sosfilt(signal.butter(order, edge, kind, fs=rate, output="sos"), samples)
    return samples.astype(np.float32)


def equalise(samples: F32, rate: int, hz: NDArray[np.float64], db: NDArray[np.float64]) -> F32:
    """A linear-phase filter whose gain at ``hz`` is ``db``, interpolated over the logarithm of frequency."""
    grid = np.linspace(0, rate / 2, 129)
    level = np.interp(np.log(np.maximum(grid, 20)), np.log(hz), db)
    taps = signal.firwin2(257, grid, 10 ** (level / 20), fs=rate)
    return convolve(samples, taps, "same")


def reverberate(samples: F32, rate: int, rt60: float, direct_db: float, rng: Rng) -> F32:
    """A room as decaying noise (Polack 1988): level falls by 60 dB in ``rt60`` seconds; the direct sound is
    ``direct_db`` above all reflections together. The power stays that of the samples.
    """
    n = max(1, round(1.2 * rt60 * rate))
    time = np.arange(n) / rate
    tail = rng.standard_normal(n) * 10 ** (-3 * time / rt60)
    tail[: round(0.003 * rate)] = 0  # the first reflection comes later
    norm = float(np.sqrt(np.sum(tail**2)))
    response = tail / norm * 10 ** (-direct_db / 20) if norm else tail
    response[0] = 1.0
    wet = convolve(samples, response, "full")[..., : samples.shape[-1]]
    return match_power(wet, samples)


def convolve(samples: F32, response: NDArray[np.float64], mode: str) -> F32:
    """Each channel with ``response`` [m]."""
    return signal.fftconvolve(samples, response if samples.ndim == 1 else response[None], mode, axes=-1).astype(
        np.float32
    )


def add_noise(samples: F32, noise: F32, snr_db: float) -> F32:
    """``noise`` [n], the same in all channels, at ``snr_db`` below the samples' power."""
    scale = np.sqrt(power(samples) / max(power(noise), 1e-20) * 10 ** (-snr_db / 10))
    return (samples + noise * np.float32(scale)).astype(np.float32)


def white_noise(n: int, rng: Rng) -> F32:
    """Gaussian noise of unit power, [n]."""
    return rng.standard_normal(n).astype(np.float32)


def clip(samples: F32, over_db: float) -> F32:
    """Overdriven: raised until the peak of all channels is ``over_db`` above full scale, and cut there."""
    peak = float(np.max(np.abs(samples), initial=0))
    return np.clip(gain(samples / peak, over_db), -1, 1) if peak else samples


def mu_law(samples: F32) -> F32:
    """Eight bits, companded (G.711)."""
    limited = np.clip(samples, -1, 1)
    companded = np.sign(limited) * np.log1p(MU * np.abs(limited)) / np.log1p(MU)
    coarse = np.round((companded + 1) / 2 * MU) / MU * 2 - 1
    return (np.sign(coarse) * np.expm1(np.abs(coarse) * np.log1p(MU)) / MU).astype(np.float32)


def telephone(samples: F32, rate: int) -> F32:
    """300 to 3400 Hz, 8 kHz, mu-law."""
    narrow = resample(band(samples, rate, 300, 3400), rate, TELEPHONE_RATE)
    return fit_length(resample(mu_law(narrow), TELEPHONE_RATE, rate), samples.shape[-1])


def codec(samples: F32, rate: int, name: str, level: float, coded_rate: int | None = None) -> F32:
    """Through a lossy codec of :data:`CODECS` and back, at compression ``level`` 0 to 1, coded at ``coded_rate`` Hz."""
    format_, subtype = CODECS[name]
    coded_rate = coded_rate or rate
    sent, buffer = np.clip(resample(samples, rate, coded_rate), -1, 1), io.BytesIO()
    if sent.size == 0:  # a sample or two, at a lower rate
        return np.zeros_like(samples)
    soundfile.write(buffer, sent.T, coded_rate, subtype, format=format_, compression_level=min(level, MOST_COMPRESSED))
    buffer.seek(0)
    heard = soundfile.read(buffer, dtype="float32", always_2d=samples.ndim > 1)[0].T
    return fit_length(resample(heard, coded_rate, rate), samples.shape[-1])


def small_device(samples: F32, rate: int) -> F32:
    """The microphone of a small device."""
    return equalise(samples, rate, SMALL_DEVICE_HZ, SMALL_DEVICE_DB)


def power(samples: F32) -> float:
    """Mean square, over all channels."""
    return float(np.mean(np.square(samples, dtype=np.float64))) if samples.size else 0.0


def match_power(samples: F32, reference: F32) -> F32:
    """``samples`` with the power of ``reference``."""
    there = power(samples)
    return samples * np.float32(np.sqrt(power(reference) / there)) if there > 0 else samples


def resample(samples: F32, rate: int, to_rate: int) -> F32:
    """At another rate, [about n * to_rate / rate]."""
    return samples if rate == to_rate else soxr.resample(samples.T, rate, to_rate).T.astype(np.float32)


def fit_length(samples: F32, n: int) -> F32:
    """Cut, or followed by silence: [n] or [channels, n]."""
    missing = max(0, n - samples.shape[-1])
    return np.pad(samples[..., :n], [*[(0, 0)] * (samples.ndim - 1), (0, missing)])


# What `evaluate --degrade` measures with, and what tables call them.
DEGRADATIONS: dict[str, Effect] = {
    "low_pass": lambda x, rate, _: band(x, rate, None, 4000, order=8),
    "telephone": lambda x, rate, _: telephone(x, rate),
    "small_device": lambda x, rate, _: small_device(x, rate),
    "clipping": lambda x, *_: clip(x, 12),
    "quiet": lambda x, *_: gain(x, -30),
    "reverberation": lambda x, rate, rng: reverberate(x, rate, 0.6, 0, rng),
    "noise": lambda x, _, rng: add_noise(x, white_noise(x.shape[-1], rng), 10),
}
TITLES = {
    "low_pass": "low-pass at 4 kHz",
    "telephone": "telephone band, mu-law",
    "small_device": "small device, 500–6000 Hz",
    "clipping": "clipping 12 dB over",
    "quiet": "gain −30 dB",
    "reverberation": "reverberation, RT60 0.6 s",
    "noise": "white noise, 10 dB SNR",
}


@dataclass(frozen=True)
class MicrophoneConfig:
    """Probabilities of the parts of :func:`another_microphone`, zero for off, and what they draw from."""

    reverberation: Share = 0.4  # a room
    rt60: Seconds = (0.15, 1.0)  # seconds
    direct_db: Decibels = (-4.0, 12.0)  # the direct sound above all reflections
    clipping: Share = 0.3  # overdriven
    clipping_db: Decibels = (0.0, 20.0)  # of the peak above full scale
    response: Share = 0.5  # the response of a device
    response_db: Level = 6.0  # standard deviation, at seven frequencies
    band_limit: Share = 0.5  # a high-pass, a low-pass, or both
    low_hz: Hertz = (60.0, 700.0)
    high_hz: Hertz = (2500.0, 7500.0)
    codec: Share = 0.15  # Vorbis or MP3
    codec_level: Shares = (0.6, 1.0)  # 1 is the lowest bit rate
    telephone: Share = 0.2  # 300 to 3400 Hz, 8 kHz, mu-law
    mu_law: Share = 0.1  # at the full rate
    quiet: Share = 0.15  # far below full scale, in 16 bits
    quiet_db: Decibels = (-35.0, 0.0)
    dc_offset: Share = 0.1  # a constant in the samples
    dc_most: Share = 0.02  # of full scale, either way

    def __post_init__(self) -> None:
        check_bounds(self, "microphone.")


CODED_RATES = (8_000, 11_025, None)  # Hz; None: the recording's own


def another_microphone(samples: F32, rate: int, rng: Rng, config: MicrophoneConfig = MicrophoneConfig()) -> F32:
    """Another place and device heard it, [n] or [channels, n]: a random chain, in the order of :data:`PARTS`.

    Every part has a generator of its own, so that switching one off leaves what the others draw.
    """
    for (part, apply), own in zip(PARTS.items(), rng.spawn(len(PARTS)), strict=True):
        if own.random() < getattr(config, part):
            samples = apply(samples, rate, own, config)
    return samples.astype(np.float32)


def _response(samples: F32, rate: int, rng: Rng, config: MicrophoneConfig) -> F32:
    hz = np.geomspace(80, 0.5 * rate, 7)
    return equalise(samples, rate, hz, rng.normal(0, config.response_db, len(hz)))


def _band_limit(samples: F32, rate: int, rng: Rng, config: MicrophoneConfig) -> F32:
    low, high = (float(np.exp(rng.uniform(*np.log(limits)))) for limits in (config.low_hz, config.high_hz))
    which = rng.integers(3)  # both, low, high
    return band(samples, rate, low if which != 2 else None, high if which != 1 else None, int(rng.integers(1, 9)))


def _codec(samples: F32, rate: int, rng: Rng, config: MicrophoneConfig) -> F32:
    name, coded_rate = list(CODECS)[rng.integers(len(CODECS))], CODED_RATES[rng.integers(len(CODED_RATES))]
    return codec(samples, rate, name, rng.uniform(*config.codec_level), coded_rate)


# The parts of a chain, by the field that holds their probability.
PARTS: dict[str, Callable[[F32, int, Rng, MicrophoneConfig], F32]] = {
    "reverberation": lambda x, rate, rng, c: reverberate(x, rate, rng.uniform(*c.rt60), rng.uniform(*c.direct_db), rng),
    "clipping": lambda x, _, rng, c: clip(x, rng.uniform(*c.clipping_db)),
    "response": _response,
    "band_limit": _band_limit,
    "codec": _codec,
    "telephone": lambda x, rate, *_: telephone(x, rate),
    "mu_law": lambda x, *_: mu_law(x),
    "quiet": lambda x, _, rng, c: quantise(gain(x, rng.uniform(*c.quiet_db))),
    "dc_offset": lambda x, _, rng, c: x + np.float32(rng.uniform(-c.dc_most, c.dc_most)),
}
