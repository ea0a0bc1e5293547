"""A planned scene as sound, block by block: hours of it never stand in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.soundscapes.backgrounds import sound_of
from benchmarks.soundscapes.decoded import Decoded, as_float
from benchmarks.soundscapes.scene import Placement, Room, Scene, Stretch
from edge.errors import InputError
from edge.sources.block import Block
from edge.sources.file import played
from edge.sources.reblock import reblock
from train.effects import gain, match_power, reverberate

F32 = NDArray[np.float32]

BLOCK_SECONDS = 10.0  # rendered at once
FADE_SECONDS = 0.005  # at the cuts of a clip
STRETCH_FADE_SECONDS = 0.1  # at the ends of a background, so that none begins with a click
QUIETEST_DB = -20.0  # a background counts as at least this, against its mean: in its pauses sounds would vanish


class Renderer:
    """The sound of a scene."""

    def __init__(self, scene: Scene, decoded: Decoded) -> None:
        self.scene = scene
        self._decoded = decoded
        self._stretches: dict[Stretch, F32] = {}  # those around the present block
        self._sounds: dict[Placement, F32] = {}

    def blocks(self) -> Iterator[F32]:
        """All of it, in blocks of BLOCK_SECONDS; beyond full scale it is cut, as by a microphone."""
        step = round(BLOCK_SECONDS * self.scene.rate)
        for start in range(0, self.scene.length, step):
            background, sounds = self.layers(start, min(start + step, self.scene.length))
            yield np.clip(background + sounds, -1, 1)

    def layers(self, start: int, end: int) -> tuple[F32, F32]:
        """Samples ``start`` to ``end`` of the backgrounds, and of the sounds: [n] each."""
        background, sounds = self._background(start, end), np.zeros(end - start, np.float32)
        heard = {p: self._sound(p) for p in self.scene.placements if p.start < end and _latest(p, self.scene) > start}
        for placement, samples in heard.items():
            _add(sounds, samples, placement.start - start)
        self._sounds = heard
        near = 60 * self.scene.rate  # a sound may begin before the block
        self._stretches = {s: samples for s, samples in self._stretches.items() if s.end > start - near}
        return background, sounds

    def _background(self, start: int, end: int) -> F32:
        samples = np.zeros(end - start, np.float32)
        for stretch in self.scene.stretches:
            if stretch.start < end and stretch.end > start:
                _add(samples, self._stretch(stretch), stretch.start - start)
        return samples

    def _stretch(self, stretch: Stretch) -> F32:
        if stretch not in self._stretches:
            self._stretches[stretch] = self._render_stretch(stretch)
        return self._stretches[stretch]

    def _render_stretch(self, stretch: Stretch) -> F32:
        n = stretch.end - stretch.start
        samples = np.zeros(n, np.float32)
        for layer in stretch.layers:
            samples += gain(sound_of(layer.background, self._decoded)[layer.first : layer.first + n], layer.gain_db)
        samples = match_power(_in_room(samples, self.scene.rate, stretch.room), np.ones(1, np.float32))
        return _faded(gain(samples, stretch.level_dbfs), round(STRETCH_FADE_SECONDS * self.scene.rate))

    def _sound(self, placement: Placement) -> F32:
        if placement not in self._sounds:
            self._sounds[placement] = self._render_sound(placement)
        return self._sounds[placement]

    def _render_sound(self, placement: Placement) -> F32:
        """The clip, with what its room adds, at its SNR."""
        rate = self.scene.rate
        clip = as_float(self._decoded.read(placement.clip.path, placement.clip.start, placement.clip.end))
        samples = _faded(clip[placement.first : placement.last], round(FADE_SECONDS * rate))
        tail = _tail(placement.room, rate)
        samples = _in_room(np.pad(samples, (0, tail)), rate, placement.room)
        active = _active_power(samples, placement)
        wanted = self._reference(placement) * 10 ** (placement.snr_db / 10)
        return samples * np.float32(np.sqrt(wanted / active))

    def _reference(self, placement: Placement) -> float:
        """Power of the background where the sound is active; in silence, of the background that might be there."""
        there = [s for s in self.scene.stretches if s.start < placement.end and s.end > placement.start]
        least = max(s.level_dbfs + (QUIETEST_DB if s.layers else 0.0) for s in there)
        measured = _active_power(self._background(placement.start, placement.end), placement)
        return max(measured, 10 ** (least / 10))


@dataclass(frozen=True)
class SceneSource:
    """A scene as a source: see :class:`edge.sources.block.Source`."""

    scene: Scene
    decoded: Decoded
    name: str

    def blocks(self, sample_rate: int, length: int, first: int | None = None, channels: int = 1) -> Iterator[Block]:
        """As fast as they are taken. Raises InputError for another rate than the scene's."""
        if sample_rate != self.scene.rate:
            raise InputError(f"{self.name} is at {self.scene.rate} Hz, not {sample_rate}", remedy="plan another scene")
        mono = Renderer(self.scene, self.decoded).blocks()
        chunks = mono if channels == 1 else (np.repeat(block[:, None], channels, axis=1) for block in mono)
        return played(reblock(chunks, length, first), sample_rate)


def _active_power(samples: F32, placement: Placement) -> float:
    """Mean square where the sound is active; above zero."""
    total = sum(float(np.vdot(samples[a:b], samples[a:b])) for a, b in placement.regions)
    return max(total / sum(b - a for a, b in placement.regions), 1e-20)


def _in_room(samples: F32, rate: int, room: Room | None) -> F32:
    if room is None:
        return samples
    return reverberate(samples, rate, room.rt60, room.direct_db, np.random.default_rng(room.seed))


def _tail(room: Room | None, rate: int) -> int:
    """Samples for which a room is heard after the sound."""
    return 0 if room is None else round(room.rt60 * rate)


def _latest(placement: Placement, scene: Scene) -> int:
    return placement.end + _tail(placement.room, scene.rate)


def _faded(samples: F32, n: int) -> F32:
    """A copy with linear ramps of ``n`` samples, or half of it, at both ends."""
    n = min(n, len(samples) // 2)
    ramp = np.arange(1, n + 1, dtype=np.float32) / np.float32(n + 1)
    faded = samples.copy()
    faded[:n] *= ramp
    faded[len(faded) - n :] *= ramp[::-1]
    return faded


def _add(to: F32, samples: F32, at: int) -> None:
    """``samples`` into ``to``, from place ``at``, which may lie outside."""
    first, last = max(0, at), min(len(to), at + len(samples))
    if first < last:
        to[first:last] += samples[first - at : last - at]
