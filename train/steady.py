"""Steady noise, as of rooms, ducts and mains: synthesised recordings that are none of a model's classes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from edge.files import replacing

RATE = 32_000  # Hz
SECONDS = 30
RECORDINGS = 60
LOWEST = 20.0  # Hz; octaves are counted from here
KNOTS = 10  # of the spectrum, between which it is straight


def write_steady(folder: Path, count: int | None = None) -> Iterator[Path]:
    """Write ``count`` (:data:`RECORDINGS`) to ``folder``/steady-N.flac, but those that are there already."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count or RECORDINGS):
        path = folder / f"steady-{number:02}.flac"
        if not path.exists():
            with replacing(path) as part:
                soundfile.write(part, steady(np.random.default_rng([7, number])), RATE, format="FLAC", subtype="PCM_16")
        yield path


def steady(rng: np.random.Generator) -> NDArray[np.float32]:
    """Noise whose spectrum falls by up to 6 dB an octave, with bumps, resonances, and the hum of the mains, [n].

    Its level wanders by a few decibels, so that it is not rain, wind or a car going by.
    """
    n = RATE * SECONDS
    octave = np.log2(np.maximum(np.fft.rfftfreq(n, 1 / RATE), LOWEST) / LOWEST)
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(n)) * 10 ** (_spectrum_db(octave, rng) / 20), n)
    points = int(rng.integers(4, 30))
    wander_db = np.interp(np.linspace(0, 1, n), np.linspace(0, 1, points), rng.normal(0, rng.uniform(0, 1.5), points))
    noise *= 10 ** (wander_db / 20) / noise.std()
    if rng.random() < 0.6:
        noise += _hum(n, rng) * 10 ** (rng.uniform(-25, 0) / 20)
    level = 10 ** (-rng.uniform(0, 40) / 20)
    return (noise * (level / np.abs(noise).max())).astype(np.float32)


def _spectrum_db(octave: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """The level at each frequency, given in octaves above the lowest."""
    knots = np.linspace(0, octave[-1], KNOTS)
    level = np.interp(octave, knots, np.cumsum(rng.normal(0, 4, KNOTS)) - rng.uniform(0, 6) * knots)
    for _ in range(rng.integers(0, 4)):  # of a duct or a room
        distance = (octave - rng.uniform(1, octave[-1] - 1)) / rng.uniform(0.05, 0.4)
        level += rng.uniform(3, 12) * np.exp(-0.5 * distance**2)
    if rng.random() < 0.5:  # behind a wall, or a cheap microphone
        highest = np.log2(rng.uniform(1500, 10_000) / LOWEST)
        level -= np.where(octave > highest, rng.uniform(6, 40), 0)
    return level


def _hum(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """The mains and its harmonics, of unit power, [n]."""
    time = np.arange(n) / RATE
    hertz = rng.choice([50, 60, 100, 120]) * (1 + rng.normal(0, 1e-3))
    fall = rng.uniform(0.5, 2)
    hum = np.zeros(n)
    for harmonic in range(1, int(rng.integers(2, 12))):
        phase = rng.uniform(0, 2 * np.pi)
        hum += rng.uniform() / harmonic**fall * np.sin(2 * np.pi * hertz * harmonic * time + phase)
    return hum / hum.std()
