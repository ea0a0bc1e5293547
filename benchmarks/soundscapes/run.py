"""A run: scenes by seed, heard by a model in several processes, decided and scored."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import soundfile

from benchmarks.soundscapes.backgrounds import Background
from benchmarks.soundscapes.decide import detect, names_of, scaled
from benchmarks.soundscapes.decoded import Decoded, identity
from benchmarks.soundscapes.figures import Figures, figures
from benchmarks.soundscapes.generate import Renderer, SceneSource
from benchmarks.soundscapes.hear import Heard, hear, load_heard, save_heard
from benchmarks.soundscapes.scene import Scene, SceneConfig, make_scene
from benchmarks.soundscapes.score import Score, score
from benchmarks.soundscapes.truth import write_spans
from edge.classifier import Classifier
from edge.config import ModelSpec
from edge.files import replacing
from edge.workers import mapped
from train.clip import Clip

VERSION = 1  # raised when the same request makes other sound
SCALES = (0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8)  # of the thresholds, for the operating curve
CURVE = ("event_f1", "event_f1_macro", "event_precision", "event_recall", "segment_f1", "false_alarms_per_hour")


@dataclass(frozen=True)
class Scenes:
    """What is played."""

    config: SceneConfig
    clips: tuple[Clip, ...]
    backgrounds: tuple[Background, ...]
    seconds: float  # in all
    seed: int
    cache: Path | None = None  # folder of decoded recordings and heard windows; None keeps nothing
    part_seconds: float = 1800.0  # of one scene, which does not depend on how many there are

    @property
    def parts(self) -> range:
        """Numbers of the scenes; the last may be shorter."""
        return range(math.ceil(self.seconds / self.part_seconds))

    def scene(self, part: int, decoded: Decoded) -> Scene:
        """Scene number ``part``."""
        return make_scene(self.config, self.clips, self.backgrounds, self._seconds(part), (self.seed, part), decoded)

    def decoded(self, rate: int) -> Decoded:
        """The recordings at ``rate`` Hz."""
        return Decoded(rate, self.cache / "audio" if self.cache else None)

    def digest(self, part: int) -> str:
        """Changes when the sound of a scene does."""
        clips = [(identity(c.path), c.labels, c.start, c.end) for c in self.clips]
        backgrounds = [(b.path and identity(b.path), b.kind, b.classes) for b in self.backgrounds]
        everything = repr((VERSION, self.config, clips, backgrounds, self._seconds(part), self.seed, part))
        return hashlib.sha256(everything.encode()).hexdigest()

    def _seconds(self, part: int) -> float:
        return min(self.part_seconds, self.seconds - part * self.part_seconds)


@dataclass(frozen=True)
class Listener:
    """What hears it."""

    model: Path
    spec: ModelSpec
    hop: float | None = None  # seconds; None: the default

    def key(self) -> str:
        """Changes when what it hears may."""
        return f"{self.spec.graph_sha256} {self.spec.frontend} {self.spec.unknown} {self.spec.hop_frames(self.hop)}"


def hear_all(scenes: Scenes, listener: Listener, jobs: int = 1) -> Iterator[Heard]:
    """Every scene, in order, as soon as it was heard; ``jobs`` processes."""
    yield from _in_processes(partial(_hear_part, scenes, listener), scenes.parts, jobs)


def render_all(scenes: Scenes, rate: int, out: Path, jobs: int = 1) -> Iterator[Path]:
    """Every scene as a WAV file, with its truth as CSV beside it; see :func:`_render_part`."""
    out.mkdir(parents=True, exist_ok=True)
    yield from _in_processes(partial(_render_part, scenes, rate, out), scenes.parts, jobs)


def score_all(heard: Sequence[Heard], spec: ModelSpec, config: Any = None) -> Score:
    """All recordings added up, decided by the rules of ``config``."""
    names, total = names_of(spec, config), Score()
    for recording in heard:
        total.add(score(recording.truth.renamed(names), detect(recording.windows, spec, config)))
    return total


def operating_curve(heard: Sequence[Heard], spec: ModelSpec, config: Any = None) -> list[Figures]:
    """F1 and false alarms with all thresholds multiplied by each of SCALES."""
    points = []
    for scale in SCALES:
        found = figures(score_all(heard, *scaled(spec, config, scale)))
        points.append({"scale": scale} | {key: found[key] for key in CURVE})
    return points


def _hear_part(scenes: Scenes, listener: Listener, part: int) -> Heard:
    stored = None
    if scenes.cache:
        key = hashlib.sha256(f"{scenes.digest(part)} {listener.key()}".encode()).hexdigest()
        stored = scenes.cache / "heard" / f"{key[:32]}.npz"
        if stored.exists():
            return load_heard(stored)
    classifier = _classifier(listener.model)
    decoded = scenes.decoded(listener.spec.frontend.sample_rate)
    scene = scenes.scene(part, decoded)
    source = SceneSource(scene, decoded, name_of(part))
    heard = Heard(source.name, scene.truth(), hear(source, classifier, listener.hop))
    if stored:
        save_heard(heard, stored)
    return heard


@lru_cache(1)
def _classifier(model: Path) -> Classifier:
    return Classifier(model)


def _render_part(scenes: Scenes, rate: int, out: Path, part: int) -> Path:
    """``NAME.wav``; ``NAME.csv``, its events; ``NAME.ignored.csv``, classes that may be in the backgrounds;
    ``NAME.backgrounds.csv``, their kinds.
    """
    decoded = scenes.decoded(rate)
    scene, path = scenes.scene(part, decoded), out / f"{name_of(part)}.wav"
    with replacing(path) as temporary, soundfile.SoundFile(temporary, "w", rate, 1, "PCM_16", format="WAV") as file:
        for block in Renderer(scene, decoded).blocks():
            file.write(block)
    truth = scene.truth()
    write_spans(path.with_suffix(".csv"), truth.events)
    write_spans(path.with_suffix(".ignored.csv"), truth.ignored)
    write_spans(path.with_suffix(".backgrounds.csv"), truth.stretches)
    return path


def name_of(part: int) -> str:
    """What a scene is called."""
    return f"scene-{part + 1:03}"


def _in_processes(work: Any, parts: Sequence[int], jobs: int) -> Iterator[Any]:
    """``work`` of each part, in order."""
    jobs = min(jobs, len(parts))
    if jobs <= 1:
        yield from map(work, parts)
        return
    yield from mapped(work, parts, jobs)
