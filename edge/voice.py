"""Whether a voice is heard: a small detector of our own, for what must not be kept.

Speech is told from other sounds by three things, over a second and a bit: its loudness goes up and down with the
syllables, 2 to 8 times a second (Houtgast & Steeneken 1985; Scheirer & Slaney 1997); it has a pitch of 70 to 400 Hz
that glides; and its spectrum changes its shape, between vowels and consonants. A network of one hidden layer weighs
them. ``benchmarks/voice.py`` has trained it, and measures it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.audio import Resampler
from edge.config import FrontendConfig
from edge.features import LogMel

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Weights = dict[str, F32]

WEIGHTS = Path(__file__).parent / "assets" / "voice.npz"
RATE = 8000  # Hz: voices are told by what a telephone carries
FRONTEND = FrontendConfig(
    sample_rate=RATE, win_length=256, hop_length=80, n_fft=256, n_mels=20, f_min=100, f_max=3800, log_mean=0, log_std=1
)
SEGMENT, STEP = 120, 40  # frames that are judged together, and between two judgements: 1.2 and 0.4 s
BANDS = ((0, 4), (4, 9), (9, 14), (14, 20), (4, 18))  # of mels; the last one is about 300 to 3400 Hz
PITCH_WINDOW = 400  # samples, 50 ms: three periods of the lowest pitch
LAGS = np.arange(20, 115)  # samples: 400 down to 70 Hz
VOICED = 0.55  # correlation with itself a period later, from which a frame has a pitch
CEPSTRA = np.cos(np.pi / 20 * np.arange(1, 11)[:, None] * (np.arange(20) + 0.5)) * np.sqrt(2 / 20)  # [10, 20] DCT-II
QUIET = 1e-5  # power that is added before logarithms, of a band


def voice_score(samples: F32, sample_rate: int) -> float:
    """How surely a voice is heard somewhere in [n] or [n, channels], 0 to 1: the greatest score of all segments.

    Each channel is heard for itself; exact silence has no voice.
    """
    return max(
        (
            float(_network(features(channel, sample_rate)).max())
            for channel in np.atleast_2d(samples.T)
            if channel.any()
        ),
        default=0.0,
    )


def threshold() -> float:
    """The score from which a voice is said to be heard."""
    return float(_weights()["threshold"])


def features(samples: F32, sample_rate: int) -> F32:
    """[n] → [segments, n_features], one segment at least."""
    samples = Resampler(sample_rate, RATE)(np.ascontiguousarray(samples, np.float32), last=True)
    least = FRONTEND.n_samples(SEGMENT) + PITCH_WINDOW
    samples = np.pad(samples, (0, max(0, least - len(samples))))
    log_mel = LogMel(FRONTEND)(samples)[0]  # [mels, frames]
    strength, pitch = pitches(samples)
    n_frames = min(log_mel.shape[1], len(pitch))
    return np.array(
        [
            _segment(log_mel[:, at : at + SEGMENT], strength[at : at + SEGMENT], pitch[at : at + SEGMENT])
            for at in range(0, n_frames - SEGMENT + 1, STEP)
        ],
        np.float32,
    )


def pitches(samples: F32) -> tuple[F64, F64]:
    """How periodic each frame is, -1 to 1, and its pitch in octaves above 1 Hz: [frames] each."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, PITCH_WINDOW)[:: FRONTEND.hop_length]
    frames = frames - frames.mean(axis=1, keepdims=True)
    power = np.abs(np.fft.rfft(frames, 1024)) ** 2
    correlation = np.fft.irfft(power)[:, LAGS]
    energy = np.pad(np.cumsum(frames**2, axis=1), ((0, 0), (1, 0)))  # [frames, samples + 1]
    both = energy[:, PITCH_WINDOW - LAGS] * (energy[:, -1:] - energy[:, LAGS])
    correlation /= np.sqrt(both + 1e-8)
    best = correlation.max(axis=1)
    lag = np.argmax(correlation > 0.9 * best[:, None], axis=1)  # the first that is nearly as good: not an octave below
    rows = np.arange(len(lag))
    for _ in range(6):  # from there up to its peak
        above = np.minimum(lag + 1, len(LAGS) - 1)
        lag = np.where(correlation[rows, above] > correlation[rows, lag], above, lag)
    return best, np.log2(RATE / LAGS[lag])


def _segment(log_mel: F32, strength: F64, pitch: F64) -> list[float]:
    """[mels, SEGMENT], [SEGMENT], [SEGMENT] → [n_features]."""
    power = np.exp(log_mel)
    loudness = power[:18].sum(axis=0)
    weights = loudness / loudness.sum()
    cepstra = CEPSTRA @ log_mel  # [10, SEGMENT]
    return [
        *(value for low, high in BANDS for value in _modulation(np.log(power[low:high].sum(axis=0) + QUIET))),
        *_pitch(strength, pitch, weights),
        *(cepstra * weights).sum(axis=1),
        *cepstra.std(axis=1),
    ]


def _modulation(envelope: F32) -> list[float]:
    """How much a log envelope moves, and which shares of that are slow, of syllables, and fast."""
    spectrum = np.abs(np.fft.rfft((envelope - envelope.mean()) * np.hanning(SEGMENT))) ** 2
    rates = np.fft.rfftfreq(SEGMENT, FRONTEND.hop_length / RATE)
    total = spectrum[1:31].sum() + 1e-3
    shares = [
        spectrum[(rates >= low) & (rates < high)].sum() / total for low, high in ((0.8, 2.0), (2.0, 8.0), (8.0, 16.0))
    ]
    return [float(envelope.std()), *map(float, shares)]


def _pitch(strength: F64, pitch: F64, weights: F32) -> list[float]:
    """How much of the segment has a pitch, where that lies, and how it moves."""
    voiced = strength > VOICED
    pairs = voiced[1:] & voiced[:-1]
    steps = np.abs(np.diff(pitch))[pairs]  # octaves in 10 ms
    enough = len(steps) > 3
    return [
        float(voiced.mean()),
        float(strength.mean()),
        float(strength.std()),
        float((strength * weights).sum()),
        float((voiced * weights).sum()),
        float(np.percentile(strength, 90)),
        float(pitch[voiced].std()) if voiced.sum() > 3 else 0.0,
        float(pitch[voiced].mean()) if voiced.any() else 0.0,
        float((steps < 0.05).mean()) if enough else 0.0,  # goes on
        float(((steps > 0.003) & (steps < 0.06)).sum() / SEGMENT),  # glides
        float((steps > 0.2).mean()) if enough else 0.0,  # jumps
        float(np.abs(np.diff(voiced.astype(int))).sum() / SEGMENT),  # comes and goes
    ]


def _network(features: F32) -> F32:
    """[segments, n_features] → [segments] scores, 0 to 1."""
    w = _weights()
    hidden = np.maximum(0, (features - w["mean"]) / w["scale"] @ w["hidden"] + w["hidden_bias"])
    logits: F32 = np.clip(hidden @ w["out"] + w["out_bias"], -50, 50)
    return np.asarray(1 / (1 + np.exp(-logits)), np.float32)


@cache
def _weights() -> Weights:
    with np.load(WEIGHTS, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
