"""The plan of a scene: which sound begins when over which background, before any of it is rendered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from benchmarks.soundscapes.activity import Activity, Region, regions
from benchmarks.soundscapes.backgrounds import Background, length_of
from benchmarks.soundscapes.decoded import Decoded, as_float
from benchmarks.soundscapes.truth import Span, Truth
from edge.errors import InputError
from train.clip import Clip

Range = tuple[float, float]
Rng = np.random.Generator

SILENCE = "silence"  # the kind of a stretch of nothing
MIXED = "mixed"  # the kind of a stretch of two recordings of different kinds
LEAST_STRETCH = 2.0  # seconds that a shorter recording is not used for
LEAST_GAP = 1.0  # seconds between sounds that do not overlap
SAME_CLASS_GAP = 2.0  # seconds, at least, from a sound to another of its class
SECOND_DB = (-10.0, 0.0)  # the second recording of a mix, against the first


@dataclass(frozen=True)
class SceneConfig:
    """What scenes are made of."""

    sounds: bool = True  # whether there are any
    snr_db: Range = (10.0, 10.0)  # of a sound where it is active, against the background there
    gap: float = 5.0  # seconds from one sound to the next, in the mean, beyond LEAST_GAP
    overlap: float = 0.15  # share of sounds that begin while the one before lasts
    reverberation: float = 0.3  # share of sounds that are heard in a room
    background_reverberation: float = 0.0  # share of backgrounds that are
    rt60: Range = (0.2, 0.8)  # seconds, of a room
    direct_db: Range = (0.0, 12.0)  # the direct sound above all reflections of a room
    level_dbfs: Range = (-55.0, -35.0)  # RMS of a background
    stretch: Range = (20.0, 60.0)  # seconds of one background, if its recording has so much
    silence: float = 0.05  # share of stretches in which there is no background at all
    mix: float = 0.0  # share of backgrounds in which two recordings are heard
    activity: Activity = field(default_factory=Activity)


# Nothing that is an event, and much that could be taken for one.
NEGATIVES = SceneConfig(sounds=False, background_reverberation=0.3, level_dbfs=(-55.0, -15.0), silence=0.02, mix=0.25)


@dataclass(frozen=True)
class Room:
    """A room that a sound is heard in."""

    rt60: float  # seconds
    direct_db: float  # the direct sound above all reflections
    seed: int  # of the reflections


@dataclass(frozen=True)
class Layer:
    """A recording in a stretch."""

    background: Background
    first: int  # its sample that the stretch begins with
    gain_db: float  # against the other


@dataclass(frozen=True)
class Stretch:
    """One background, from one sample of the scene to another."""

    start: int  # first sample
    end: int  # the one after the last
    kind: str
    layers: tuple[Layer, ...]  # none in silence
    level_dbfs: float  # RMS; in silence, that of the background that sounds are placed against
    room: Room | None

    @property
    def classes(self) -> frozenset[str]:
        """Those that may be heard in it."""
        return frozenset(name for layer in self.layers for name in layer.background.classes)


@dataclass(frozen=True)
class Placement:
    """A clip, from its first active moment to its last, in the scene."""

    start: int  # sample of the scene
    clip: Clip
    first: int  # sample of the clip that is heard first
    last: int  # the one after the last that is heard
    regions: tuple[Region, ...]  # where it is active, in samples from its first
    snr_db: float
    room: Room | None

    @property
    def end(self) -> int:
        """The sample of the scene where it ends, but for its room."""
        return self.start + self.last - self.first


@dataclass(frozen=True)
class Scene:
    """A recording that is yet to be rendered."""

    rate: int  # Hz
    length: int  # samples
    stretches: tuple[Stretch, ...]  # one after the other, without a gap
    placements: tuple[Placement, ...]  # by their start

    def truth(self) -> Truth:
        """What is in it. A sound over a background in which its class may be heard is not expected."""
        rate = self.rate
        events = [
            Span((p.start + first) / rate, (p.start + last) / rate, label)
            for p in self.placements
            for first, last in p.regions
            for label in p.clip.labels
        ]
        ignored = [Span(s.start / rate, s.end / rate, name) for s in self.stretches for name in sorted(s.classes)]
        kinds = [Span(s.start / rate, s.end / rate, s.kind) for s in self.stretches]
        return Truth(self.length / rate, tuple(events), tuple(ignored), tuple(kinds))


def make_scene(
    config: SceneConfig,
    clips: Sequence[Clip],
    backgrounds: Sequence[Background],
    seconds: float,
    seed: Sequence[int],
    decoded: Decoded,
) -> Scene:
    """A scene of ``seconds``; the same numbers in ``seed`` and the same recordings give the same scene.

    Raises InputError where the backgrounds are too short, or a recording cannot be read.
    """
    for_background, for_sounds = (np.random.default_rng([*seed, stream]) for stream in range(2))
    length = round(seconds * decoded.rate)
    stretches = _stretches(config, backgrounds, length, decoded, for_background)
    placements = _placements(config, clips, stretches, length, decoded, for_sounds) if config.sounds else ()
    return Scene(decoded.rate, length, stretches, placements)


def _stretches(
    config: SceneConfig, backgrounds: Sequence[Background], length: int, decoded: Decoded, rng: Rng
) -> tuple[Stretch, ...]:
    lengths = {b: length_of(b, decoded) for b in backgrounds}
    usable = [b for b in backgrounds if lengths[b] >= min(length, LEAST_STRETCH * decoded.rate)]
    if not usable:
        raise InputError("no background is long enough", remedy=f"give recordings of {LEAST_STRETCH:g} s or more")
    found: list[Stretch] = []
    start = 0
    while start < length:
        own = rng.spawn(1)[0]  # so that what one stretch draws leaves the others as they are
        stretch = _stretch(config, usable, lengths, start, decoded.rate, own)
        found.append(replace(stretch, end=min(stretch.end, length)))
        start = stretch.end
    return tuple(found)


def _stretch(
    config: SceneConfig, usable: Sequence[Background], lengths: dict[Background, int], start: int, rate: int, rng: Rng
) -> Stretch:
    n, level = round(rng.uniform(*config.stretch) * rate), rng.uniform(*config.level_dbfs)
    room = _room(config, rng) if rng.random() < config.background_reverberation else None
    if rng.random() < config.silence:
        return Stretch(start, start + n, SILENCE, (), level, None)
    chosen = [_draw(usable, lengths, rng)]
    if rng.random() < config.mix and len(usable) > 1:
        chosen.append(_draw([b for b in usable if b not in chosen], lengths, rng))
    n = min([n, *(lengths[b] for b in chosen)])
    gains = [0.0, rng.uniform(*SECOND_DB)]
    layers = [Layer(b, int(rng.integers(lengths[b] - n + 1)), g) for b, g in zip(chosen, gains)]
    kinds = {b.kind for b in chosen}
    return Stretch(start, start + n, kinds.pop() if len(kinds) == 1 else MIXED, tuple(layers), level, room)


def _draw(backgrounds: Sequence[Background], lengths: dict[Background, int], rng: Rng) -> Background:
    """Each kind as often as any other; of a kind, a longer recording more often."""
    kinds = sorted({b.kind for b in backgrounds})
    kind = kinds[rng.integers(len(kinds))]
    own = [b for b in backgrounds if b.kind == kind]
    weights = np.array([lengths[b] for b in own], np.float64)
    return own[rng.choice(len(own), p=weights / weights.sum())]


def _placements(
    config: SceneConfig,
    clips: Sequence[Clip],
    stretches: Sequence[Stretch],
    length: int,
    decoded: Decoded,
    rng: Rng,
) -> tuple[Placement, ...]:
    deck = _Deck([clip for clip in clips if clip.labels], rng)
    found: list[Placement] = []
    end = 0  # where the last sound ends
    while end < length:
        start = end + round((LEAST_GAP + rng.exponential(config.gap)) * decoded.rate)
        if found and rng.random() < config.overlap:
            start = int(rng.integers(found[-1].start, found[-1].end))
        placed = _place(config, deck, start, found, stretches, decoded, rng.spawn(1)[0])
        end = max(end, placed.end if placed else start)
        if placed and placed.end < length:
            found.append(placed)
    return tuple(sorted(found, key=lambda p: p.start))


def _place(
    config: SceneConfig,
    deck: _Deck,
    start: int,
    before: Sequence[Placement],
    stretches: Sequence[Stretch],
    decoded: Decoded,
    rng: Rng,
) -> Placement | None:
    """The next clip of the deck that may be heard at ``start``."""
    rate = decoded.rate
    reach = start + round((config.activity.max_event * 2 + SAME_CLASS_GAP) * rate)
    taken = {c for s in stretches if s.start < reach and s.end > start for c in s.classes}
    near = start - round(SAME_CLASS_GAP * rate)
    taken |= {label for p in before[-8:] if p.end > near for label in p.clip.labels}
    snr, room = rng.uniform(*config.snr_db), _room(config, rng) if rng.random() < config.reverberation else None
    for clip in deck.without(taken):
        samples = as_float(decoded.read(clip.path, clip.start, clip.end))
        if active := regions(samples, rate, config.activity):
            first, last = active[0][0], active[-1][1]
            return Placement(start, clip, first, last, tuple((a - first, b - first) for a, b in active), snr, room)
    return None


def _room(config: SceneConfig, rng: Rng) -> Room:
    return Room(rng.uniform(*config.rt60), rng.uniform(*config.direct_db), int(rng.integers(1 << 31)))


class _Deck:
    """Clips in random order, each once before any comes again."""

    def __init__(self, clips: Sequence[Clip], rng: Rng) -> None:
        if not clips:
            raise InputError("there are no clips with a label", remedy="choose another --fold, or --class")
        self._clips, self._rng = list(clips), rng
        self._left: list[Clip] = []

    def without(self, labels: set[str]) -> Iterator[Clip]:
        """Takes clips that have none of ``labels``, until the caller has what it wants; one round at most."""
        if all(labels & set(clip.labels) for clip in self._left):  # or there is none left
            self._left = [self._clips[i] for i in self._rng.permutation(len(self._clips))]
        for clip in [c for c in self._left if not labels & set(c.labels)]:
            self._left.remove(clip)
            yield clip
