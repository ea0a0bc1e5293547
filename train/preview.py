"""What augmentation does to a clip, to look at and to listen to: each part alone, then all together."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

import jinja2
import numpy as np
import soundfile
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchaudio.transforms import GriffinLim, InverseMelScale

from edge.config import FrontendConfig
from edge.errors import EdgeError
from edge.files import replacing, write_text
from train.augment import OF_POWER, OF_SAMPLES, AugmentConfig, make_augment
from train.config import TrainConfig
from train.dataset import CachedFeatures, WindowSampler
from train.effects import DEGRADATIONS, F32, PARTS, TITLES, MicrophoneConfig, another_microphone, fit_length
from train.figures import draw_frames, mistakes_figure, save_png
from train.frontend import log_scale, mel_settings, power_of
from train.manifest import Clip, ManifestError

VIEWS = 3  # random chains of microphones that are shown
SECONDS = 4.0  # of the clip that are shown
TEMPLATE = Path(__file__).with_name("preview.html.jinja")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Example:
    """The clip, with something done to it."""

    group: str  # "clip", "augmentation", "microphone" or "degradation"
    name: str  # of the part, safe in a file name
    title: str
    samples: F32  # [n]
    log_mel: F32  # [n_mels, n_frames]

    @property
    def stem(self) -> str:
        """Of its files."""
        return f"{self.group}-{self.name}"


def drawn(clips: Sequence[Clip], count: int, rate: int, rng: np.random.Generator) -> list[Clip]:
    """``count`` of ``clips``, again from the first where there are fewer; the log names those that cannot be read.

    Raises:
        ManifestError: where none can be read.
    """
    found = list(islice(_readable(clips, rate, rng), count))
    if not found:
        raise ManifestError(f"none of {len(clips)} recordings can be read, such as {clips[0].name}; give others")
    return list(islice(cycle(found), count))


def _readable(clips: Sequence[Clip], rate: int, rng: np.random.Generator) -> Iterator[Clip]:
    """In an order that is drawn."""
    for number in rng.permutation(len(clips)):
        try:
            clips[number].source().read(rate)
        except EdgeError as error:
            log.warning("left out: %s", error)
        else:
            yield clips[number]


def examples(clips: Sequence[Clip], config: TrainConfig, seed: int, *, multi_label: bool = False) -> Iterator[Example]:
    """The first of ``clips`` as it is, then augmented, heard by other microphones, and degraded.

    The second is mixed with it, the third is its background. Raises EdgeError for a clip that cannot be read.
    """
    frontend = replace(config.frontend, channels=1)
    rate = frontend.sample_rate
    sounds = [fit_length(clip.source().read(rate), round(SECONDS * rate)) for clip in clips]
    samples = sounds[0]
    seen = frontend if frontend.kind == "log_mel" else FrontendConfig(sample_rate=rate, f_max=rate / 2)

    def heard(group: str, name: str, title: str, sound: F32) -> Example:
        power = power_of(seen)(torch.from_numpy(sound)[None])[:, 0]  # [n_frames, n_mels]
        return Example(group, name, title, sound, log_scale(power, seen).T.numpy())

    yield heard("clip", "original", "as recorded", samples)
    augment = config.augment
    for name, part in [*((name, augment.alone(name)) for name in _parts(augment, frontend)), ("together", augment)]:
        title = "together" if part is augment else f"{name} {getattr(augment, name):g}"
        frames = _augmented(sounds, part, frontend, seed, multi_label)
        if frontend.kind == "waveform":
            yield heard("augmentation", name, title, frames[0].numpy())
        else:
            yield Example("augmentation", name, title, rebuilt(frames, frontend), frames.numpy())
    microphone = config.microphone
    for part in PARTS:
        if getattr(microphone, part):
            alone = replace(microphone, **dict.fromkeys(PARTS, 0.0) | {part: 1.0})
            yield heard("microphone", part, part, _through(samples, rate, seed, alone))
    for view in range(1, VIEWS + 1):
        yield heard(
            "microphone", f"view{view}", f"together, view {view}", _through(samples, rate, (seed, view), microphone)
        )
    for name, effect in DEGRADATIONS.items():
        yield heard("degradation", name, TITLES[name], effect(samples, rate, np.random.default_rng(seed)))


def _through(samples: F32, rate: int, seed: int | tuple[int, int], microphone: MicrophoneConfig) -> F32:
    return another_microphone(samples, rate, np.random.default_rng(seed), microphone)


def _parts(augment: AugmentConfig, frontend: FrontendConfig) -> list[str]:
    """The switches that are on."""
    there = OF_SAMPLES if frontend.kind == "waveform" else OF_POWER
    return [part for part in there if getattr(augment, part)]


def _augmented(
    sounds: Sequence[F32], augment: AugmentConfig, frontend: FrontendConfig, seed: int, multi_label: bool
) -> Tensor:
    """The first of ``sounds`` as the network is trained with it: frames [n_mels, n_frames]."""
    torch.manual_seed(seed)
    power = [power_of(frontend)(torch.from_numpy(sound)[None]) for sound in sounds]  # [n_frames, 1, n_mels] each
    if augment.stretch or augment.time_shift:
        features = CachedFeatures(torch.cat(power), np.array([len(p) for p in power]), {})
        sampler = WindowSampler(features, len(power[0]), time_shift=augment.time_shift)
        windows = sampler.windows(np.arange(len(sounds)), augment.stretch, np.random.default_rng(seed))
    else:
        windows = torch.stack(power).transpose(1, 2)  # [sounds, 1, n_frames, n_mels]
    backgrounds = windows[2:].expand(2, -1, -1, -1)
    frames, _ = make_augment(augment, frontend, multi_label=multi_label)(windows[:2], torch.eye(2), backgrounds)
    return frames[0, 0]


def rebuilt(frames: Tensor, frontend: FrontendConfig) -> F32:
    """Sound whose log-mel is about ``frames`` [n_mels, T]: phases are guessed (Griffin and Lim 1984). [n]"""
    power = (frames * frontend.log_std + frontend.log_mean).exp() - frontend.log_floor  # the inverse of log_scale
    spectrum = InverseMelScale(frontend.n_fft // 2 + 1, **mel_settings(frontend))(power.clamp_min(0))
    return GriffinLim(frontend.n_fft, win_length=frontend.win_length, hop_length=frontend.hop_length)(spectrum).numpy()


def write_preview(examples: Sequence[Example], rate: int, out: Path, title: str) -> Path:
    """A picture and a WAV of each example, the first of them the original, ``sheet.png``, and ``index.html``, whose
    path is returned.
    """
    out.mkdir(parents=True, exist_ok=True)
    original = examples[0]
    limits = float(original.log_mel.min()), float(original.log_mel.max())
    for example in examples:
        save_png(_beside(original, example, limits), out / f"{example.stem}.png")
        _save_wav(np.clip(example.samples, -1, 1), rate, out / f"{example.stem}.wav")
    sheet = mistakes_figure([(f"{e.group}\n{e.title}", e.log_mel) for e in examples])
    _same_colours(sheet, limits)
    save_png(sheet, out / "sheet.png")
    page = jinja2.Template(TEMPLATE.read_text(encoding="utf-8"), autoescape=True)
    write_text(out / "index.html", page.render(examples=examples, title=title))
    return out / "index.html"


def _beside(original: Example, example: Example, limits: tuple[float, float]) -> Figure:
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    for ax, shown in zip(figure.subplots(1, 2, sharey=True), (original, example), strict=True):
        draw_frames(ax, shown.log_mel, SECONDS / shown.log_mel.shape[1])
        ax.set_title(shown.title)
    _same_colours(figure, limits)
    return figure


def _same_colours(figure: Figure, limits: tuple[float, float]) -> None:
    """So that louder looks louder."""
    for ax in figure.axes:
        for image in ax.images:
            image.set_clim(*limits)


def _save_wav(samples: F32, rate: int, path: Path) -> None:
    with replacing(path) as part:
        soundfile.write(part, samples, rate, "PCM_16", format="WAV")
