"""The detector of voices: trained, and measured on recordings and speakers that it has not learnt from.

    python -m benchmarks.voice fit ESC-50 NEGATIVES DIGITS --out edge/assets/voice.npz
    python -m benchmarks.voice measure ESC-50 NEGATIVES DIGITS

NEGATIVES is a folder with ``negatives.csv`` (filename, kind, description): speech, music, ambience. DIGITS is one with
``fsdd.csv`` (filename, speaker): single words. Learnt from are ESC-50's folds 1 to 3, LibriSpeech's clean half, AMI's
training part, three speakers of digits, and half of the music and ambience; measured is on the others.

What is withheld is a clip of five seconds. Laughter, babies, crowds and songs are neither examples of a voice nor of
none: they are measured, and not learnt from.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import soundfile
from numpy.typing import NDArray

from edge.audio import Resampler, to_channels
from edge.files import replacing
from edge.voice import FRONTEND, RATE, SEGMENT, STEP, features, threshold, voice_score

F32 = NDArray[np.float32]

CLIP = 5 * RATE  # samples of one decision
VOICES = ("laughing", "crying_baby")  # of ESC-50: neither speech nor its absence
VOCAL = ("voices", "playground", "vocals", "imitating")  # in descriptions: the same
OTHERS = ("librivox", "grid", "ls_other", "ami_dev", "ami_tst")  # speech that is only measured on
FALSE = 0.2  # share of the clips without a voice, of those learnt from, that the threshold withholds
SNRS = (10.0, 0.0, -5.0)  # dB, of speech above another sound


@dataclass(frozen=True)
class Clip:
    """Five seconds or less, and what they are."""

    samples: F32  # [n] at RATE
    kind: str  # a line of the table
    what: str  # class of ESC-50, or description
    held_out: bool


def load(path: Path) -> F32:
    """A recording as mono at RATE."""
    path = path if path.exists() else path.with_suffix(".ogg")
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return Resampler(rate, RATE)(to_channels(samples, 1), last=True)


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def cut(samples: F32) -> list[F32]:
    """Clips of five seconds; a shorter recording is one."""
    return [samples[at : at + CLIP] for at in range(0, max(1, len(samples) - CLIP + 1), CLIP)]


def recordings(esc50: Path, negatives: Path) -> Iterator[Clip]:
    """All clips of one kind alone; those with hardly any sound are left out."""
    rows = [
        (esc50 / "audio" / r["filename"], "esc50", r["fold"] in "45", r["category"])
        for r in table(esc50 / "meta" / "esc50.csv")
    ]
    for r in table(negatives / "negatives.csv"):
        name = Path(r["filename"]).name
        held_out = name.startswith(OTHERS) if r["kind"] == "speech" else sum(map(ord, name[:9])) % 2 == 0
        rows.append((negatives / r["filename"], r["kind"], held_out, r["description"]))
    for path, kind, held_out, what in rows:
        if what in VOICES:
            kind, held_out = what, True  # noqa: PLW2901
        elif kind != "speech" and any(word in what for word in VOCAL):
            kind, held_out = f"{kind} with voices", True  # noqa: PLW2901
        yield from (Clip(clip, kind, what, held_out) for clip in cut(load(path)) if np.mean(clip**2) > 1e-7)


def mixtures(clips: list[Clip], digits: Path, rng: np.random.Generator) -> Iterator[tuple[Clip, F32]]:
    """Speech in other sounds, speech that is far away, and single words: the clip, and the speech alone."""
    noises = {
        held_out: [c.samples for c in clips if c.kind == "esc50" and c.held_out == held_out]
        for held_out in (False, True)
    }

    def mixed(speech: F32, kind: str, snr: float, held_out: bool, power: float) -> tuple[Clip, F32]:
        choice = noises[held_out][rng.integers(len(noises[held_out]))]
        noise = np.resize(choice, len(speech))
        noise = noise * np.sqrt(power / (np.mean(noise**2) + 1e-12)) * 10 ** (-snr / 20)
        both = speech + noise
        gain = 10 ** (rng.uniform(-40, 0) / 20) / (np.abs(both).max() + 1e-9)
        return Clip((gain * both).astype(np.float32), kind, "", held_out), speech

    for clip in [c for c in clips if c.kind == "speech"]:
        power = float(np.mean(clip.samples**2))
        for snr in SNRS if clip.held_out else (rng.uniform(-5, 20), rng.uniform(-5, 20)):
            yield mixed(clip.samples, f"speech at {snr:+.0f} dB", snr, clip.held_out, power)
        far = clip.samples * np.float32(10 ** (rng.uniform(-45, -10) / 20))
        yield Clip(far, "speech, 10 to 45 dB down", "", clip.held_out), clip.samples
    rows = table(digits / "fsdd.csv")
    speakers = sorted({row["speaker"] for row in rows})
    for row in (rows[i] for i in rng.permutation(len(rows))[:800]):
        word, speech = load(digits / "audio" / row["filename"])[:CLIP], np.zeros(CLIP, np.float32)
        at = rng.integers(0, CLIP - len(word) + 1)
        speech[at : at + len(word)] = word
        held_out = speakers.index(row["speaker"]) >= 3
        yield mixed(speech, "one word at 0 to 15 dB", rng.uniform(0, 15), held_out, float(np.mean(word**2)))


def spoken(speech: F32, segments: int) -> NDArray[np.bool_]:
    """[segments]: in which of them the speech alone is loud."""
    level = np.convolve(speech**2, np.ones(400) / 400, "same")
    loud = level > 0.02 * np.percentile(level[level > 0], 90) if level.any() else level > 0
    hop = FRONTEND.hop_length
    return np.array([loud[i * STEP * hop : (i * STEP + SEGMENT) * hop].mean() > 0.1 for i in range(segments)])


@click.group()
def main() -> None:
    """Train the detector of voices, or measure it."""


folder = click.Path(exists=True, file_okay=False, path_type=Path)


@main.command()
@click.argument("esc50", type=folder)
@click.argument("negatives", type=folder)
@click.argument("digits", type=folder)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def fit(esc50: Path, negatives: Path, digits: Path, out: Path) -> None:
    """Train, and set the threshold."""
    from sklearn.neural_network import MLPClassifier
    from sklearn.preprocessing import StandardScaler

    clips = list(recordings(esc50, negatives))
    x, y, of_clip = [], [], []
    examples = [(c, c.samples) for c in clips if not c.held_out]
    examples += [pair for pair in mixtures(clips, digits, np.random.default_rng(0)) if not pair[0].held_out]
    for number, (clip, speech) in enumerate(examples):
        found = features(clip.samples, RATE)
        is_speech = clip.kind not in ("esc50", "music", "ambience")
        used = spoken(speech, len(found)) if is_speech else np.ones(len(found), bool)
        x.append(found[used])
        y.extend([is_speech] * int(used.sum()))
        of_clip.extend([number if clip.kind == "esc50" else -1] * int(used.sum()))
    scaler = StandardScaler().fit(np.concatenate(x))
    network = MLPClassifier((24,), alpha=1.0, max_iter=80, early_stopping=True, random_state=0)
    scaled = scaler.transform(np.concatenate(x))
    network.fit(scaled, np.array(y))
    scores = network.predict_proba(scaled)[:, 1]
    highest: dict[int, float] = defaultdict(float)
    for number, score in zip(of_clip, scores, strict=True):
        highest[number] = max(highest[number], float(score))
    del highest[-1]
    weights = {
        "mean": scaler.mean_,
        "scale": scaler.scale_,
        "hidden": network.coefs_[0],
        "hidden_bias": network.intercepts_[0],
        "out": network.coefs_[1][:, 0],
        "out_bias": network.intercepts_[1][0],
        "threshold": np.quantile(list(highest.values()), 1 - FALSE),
    }
    with replacing(out) as part, part.open("wb") as file:
        np.savez(file, **{name: np.asarray(value, np.float32) for name, value in weights.items()})


@main.command()
@click.argument("esc50", type=folder)
@click.argument("negatives", type=folder)
@click.argument("digits", type=folder)
def measure(esc50: Path, negatives: Path, digits: Path) -> None:
    """Print how many clips are withheld, of those that were not learnt from."""
    clips = list(recordings(esc50, negatives))
    held_out = [clip for clip in clips if clip.held_out]
    held_out += [clip for clip, _ in mixtures(clips, digits, np.random.default_rng(1)) if clip.held_out]
    withheld: dict[str, list[bool]] = defaultdict(list)
    classes: dict[str, list[bool]] = defaultdict(list)
    for clip in held_out:
        told = voice_score(clip.samples, RATE) >= threshold()
        withheld[clip.kind].append(told)
        if clip.kind == "esc50":
            classes[clip.what].append(told)
    print("| clips of 5 s | number | withheld |\n|---|---|---|")
    for kind, answers in withheld.items():
        print(f"| {kind} | {len(answers)} | {np.mean(answers):.1%} |")
    most = sorted(classes, key=lambda name: -np.mean(classes[name]))
    print("\nclasses:", ", ".join(f"{name} {np.mean(classes[name]):.0%}" for name in most[:15]))


if __name__ == "__main__":
    main()
