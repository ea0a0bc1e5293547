"""Synthesise ``demo.ogg``, a minute of street and home, and ``demo.csv``, its truth. No recording goes into it.

    python examples/make_demo.py [FOLDER]

Every sound is made of oscillators, noise and envelopes; the seed makes the scene the same on every machine.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

F64 = NDArray[np.float64]

RATE = 32_000  # Hz
SEED = 7
BACKGROUND_DB = -62.0


def seconds(duration: float) -> F64:
    """Time axis of ``duration`` seconds."""
    return np.arange(round(duration * RATE)) / RATE


def coloured_noise(rng: np.random.Generator, duration: float, shape: Callable[[F64], F64]) -> F64:
    """Noise whose amplitude over frequency in Hz is ``shape``; peak about 1."""
    spectrum = np.fft.rfft(rng.standard_normal(round(duration * RATE)))
    noise = np.fft.irfft(spectrum * shape(np.fft.rfftfreq(round(duration * RATE), 1 / RATE)), round(duration * RATE))
    return noise / (4 * noise.std())


def band(low: float, high: float, order: int = 2) -> Callable[[F64], F64]:
    """A band-pass shape for :func:`coloured_noise`."""

    def shape(f: F64) -> F64:
        f = np.maximum(f, 1e-3)
        return 1 / np.sqrt((1 + (low / f) ** (2 * order)) * (1 + (f / high) ** (2 * order)))

    return shape


def place(out: F64, sound: F64, at: float) -> None:
    """Add ``sound`` to ``out`` at ``at`` seconds, cut at the end."""
    start = round(at * RATE)
    sound = sound[: max(0, len(out) - start)]
    out[start : start + len(sound)] += sound


def chirp(frequency: F64) -> F64:
    """A sine of changing ``frequency`` in Hz."""
    return np.sin(2 * np.pi * np.cumsum(frequency) / RATE)


def siren(rng: np.random.Generator, duration: float) -> F64:
    """A wailing siren, with the harmonics of its horn."""
    t = seconds(duration)
    frequency = 1050 + 400 * np.sin(2 * np.pi * t / 4.5 - 1.5)
    return sum(chirp(k * frequency) / k**1.2 for k in (1, 2, 3, 4, 5)) * (0.8 + 0.2 * np.sin(2 * np.pi * 0.2 * t))


def clock_alarm(rng: np.random.Generator, duration: float) -> F64:
    """An electronic alarm: groups of four beeps."""
    t = seconds(duration)
    beep = sum(np.sin(2 * np.pi * 2048 * k * t) / k**1.5 for k in (1, 2, 3, 5))
    gate = ((t % 0.125) < 0.07) & ((t % 1.0) < 0.5)
    return beep * np.convolve(gate.astype(float), np.ones(64) / 64, "same")


def church_bells(rng: np.random.Generator, duration: float) -> F64:
    """Three bells, with the partials of a bell: hum, prime, tierce, quint, nominal and above."""
    out = np.zeros(round(duration * RATE))
    t = seconds(5.0)
    for index, at in enumerate(np.arange(0, duration - 0.4, 0.85)):
        nominal = (880.0, 784.0, 660.0)[index % 3]
        strike = np.zeros(len(t))
        for ratio, level, decay in (
            (0.25, 0.5, 0.5), (0.5, 0.7, 0.8), (0.6, 0.8, 1.0), (0.75, 0.4, 1.2), (1.0, 1.0, 1.5), (1.25, 0.3, 2.0),
            (1.5, 0.5, 2.2), (2.0, 0.6, 3.0), (2.67, 0.35, 4.5), (3.4, 0.2, 6.0), (4.1, 0.1, 8.0),
        ):  # fmt: skip
            beat = 1 + 0.15 * np.sin(2 * np.pi * rng.uniform(0.7, 2.0) * t)
            strike += level * beat * np.exp(-t * decay) * np.sin(2 * np.pi * 2 * nominal * ratio * t / 2)
        strike *= np.minimum(1, t / 0.002)
        place(out, strike * rng.uniform(0.8, 1.0), at)
    return out


def rain(rng: np.random.Generator, duration: float) -> F64:
    """Steady rain: a rush, and before it drops that burst on the ground, each with a colour and a size of its own."""
    out = 0.3 * coloured_noise(rng, duration, band(600, 9000, 1))
    for at in rng.uniform(0, duration - 0.03, round(200 * duration)):
        t = seconds(rng.uniform(0.004, 0.02))
        burst = coloured_noise(rng, len(t) / RATE, band(rng.uniform(800, 3000), rng.uniform(5000, 14000), 1))
        place(out, burst * np.exp(-t * rng.uniform(200, 700)) * min(2.0, rng.pareto(1.5) * 0.1), at)
    return out


def crackling_fire(rng: np.random.Generator, duration: float) -> F64:
    """Crackles of many sizes over a soft roar."""
    out = 0.06 * coloured_noise(rng, duration, lambda f: 1 / (1 + (f / 300) ** 1.2))
    for at in rng.uniform(0, duration - 0.03, round(28 * duration)):
        t = seconds(rng.uniform(0.002, 0.015))
        crackle = np.exp(-t * rng.uniform(300, 1500)) * rng.standard_normal(len(t))
        place(out, crackle * min(1.5, rng.pareto(1.6) * 0.12), at)
    return out


def door_wood_knock(rng: np.random.Generator, duration: float) -> F64:
    """Knuckles on a wooden door, in groups."""
    out = np.zeros(round(duration * RATE))
    for group in np.arange(0.1, duration - 0.8, 1.5):
        for index in range(4):
            t = seconds(0.25)
            knock = sum(
                level * np.exp(-t * decay) * np.sin(2 * np.pi * f * t)
                for f, level, decay in ((135, 1.0, 32), (240, 0.7, 42), (410, 0.45, 60), (690, 0.25, 85))
            )
            knock += 0.5 * np.exp(-t * 500) * rng.standard_normal(len(t))
            place(out, knock * rng.uniform(0.8, 1.1), group + 0.19 * index)
    return out


def vacuum_cleaner(rng: np.random.Generator, duration: float) -> F64:
    """A motor at 24,000 turns a minute, a little unsteady, with its harmonics and its fan's, in a rush of air."""
    motor = 400 * (1 + 0.004 * coloured_noise(rng, duration, band(0.2, 3, 1)))
    whine = sum(chirp(k * motor) / k for k in (1, 2, 3, 4, 6, 8)) + 0.5 * chirp(15 * motor) + 0.3 * chirp(20 * motor)
    return 0.1 * whine + 0.9 * coloured_noise(rng, duration, band(200, 7000, 1))


def car_horn(rng: np.random.Generator, duration: float) -> F64:
    """Two reeds a third apart, pressed a few times."""
    t = seconds(duration)
    reeds = sum(np.sin(2 * np.pi * f * k * t) / k**0.7 for f in (415, 522) for k in range(1, 13))
    gate = np.convolve(((t % 1.3) < 0.8).astype(float), np.ones(400) / 400, "same")
    return reeds * gate


SOUNDS: dict[str, Callable[[np.random.Generator, float], F64]] = {
    f.__name__: f
    for f in (
        siren,
        clock_alarm,
        church_bells,
        rain,
        crackling_fire,
        door_wood_knock,
        vacuum_cleaner,
        car_horn,
    )
}

# What is heard, and when: onset and duration in seconds, level in dB below full scale.
SCENE = [
    ("vacuum_cleaner", 1.5, 6.5, -18.0),
    ("car_horn", 9.5, 5.0, -15.0),
    ("siren", 16.0, 7.0, -14.0),
    ("church_bells", 24.5, 7.0, -16.0),
    ("rain", 33.0, 6.5, -20.0),
    ("door_wood_knock", 41.0, 5.0, -16.0),
    ("crackling_fire", 47.5, 5.5, -20.0),
    ("clock_alarm", 54.5, 5.0, -18.0),
]


def sound(label: str, duration: float, level_db: float = -16.0, seed: int = SEED) -> F64:
    """One synthesised sound with short fades, its loudest second at ``level_db`` RMS."""
    samples = SOUNDS[label](np.random.default_rng([seed, *label.encode()]), duration)
    fade = np.minimum(1, np.minimum(seconds(duration), seconds(duration)[::-1]) / 0.02)
    samples = samples * fade
    total = np.cumsum(np.append(0.0, samples**2))
    length = min(RATE, len(samples))
    power = (total[length:] - total[:-length]) / length
    samples *= 10 ** (level_db / 20) / np.sqrt(power.max())
    return np.tanh(samples)


def scene() -> tuple[F64, list[tuple[float, float, str]]]:
    """The minute and its truth: samples, and (onset, offset, label)."""
    rng = np.random.default_rng(SEED)
    out = coloured_noise(rng, 60.0, lambda f: 1 / (1 + (f / 200) ** 0.8)) * 10 ** (BACKGROUND_DB / 20) * 4
    truth = []
    for label, onset, duration, level in SCENE:
        place(out, sound(label, duration, level), onset)
        truth.append((onset, onset + duration, label))
    return out, truth


def main(folder: Path) -> None:
    """Write ``demo.ogg`` and ``demo.csv`` into ``folder``."""
    samples, truth = scene()
    soundfile.write(folder / "demo.ogg", samples, RATE, subtype="VORBIS")
    with (folder / "demo.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["onset", "offset", "label"])
        writer.writerows(truth)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
