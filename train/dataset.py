"""Clips as mel power, and the training windows cut out of them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from edge.audio import require_frame
from edge.config import FrontendConfig
from edge.errors import EdgeError
from edge.files import replacing, write_text
from edge.workers import mapped
from train.effects import MicrophoneConfig, another_microphone
from train.frontend import power_of
from train.manifest import Clip

log = logging.getLogger(__name__)

CLIPS_A_WORKER = 100  # at least, for a process to be worth its start
CACHE_VERSION = 4  # raise it when the same clip, front end and view would give other features


@dataclass(frozen=True)
class View:
    """A clip as another microphone in another room hears it; the number seeds what is drawn."""

    number: int
    microphone: MicrophoneConfig


class Features(Protocol):
    """Mel power of many clips."""

    errors: dict[int, str]  # clips that cannot be read, and why; they have no features

    def __len__(self) -> int:
        """Clips, with those that cannot be read."""

    def clip(self, index: int) -> Tensor:
        """One clip: [n_frames, channels, n_mels]."""


class Decoder:
    """Recordings → mel power, one at a time."""

    def __init__(self, clips: Sequence[Clip], frontend: FrontendConfig, view: View | None) -> None:
        self.clips, self.frontend, self.view = clips, frontend, view
        self._power = power_of(frontend)
        self.errors: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.clips)

    def samples(self, index: int) -> NDArray[np.float32]:
        """One clip: [channels, n_samples]. Raises EdgeError, also for less than a frame, as a listener does."""
        frontend, clip = self.frontend, self.clips[index]
        samples = clip.source().read(frontend.sample_rate, frontend.channels).reshape(-1, frontend.channels)
        require_frame(len(samples), clip.name, frontend)
        return samples.T

    def clip(self, index: int) -> Tensor:
        """One clip: [n_frames, channels, n_mels], at least one frame. Raises EdgeError."""
        frontend, clip, channels = self.frontend, self.clips[index], self.samples(index)
        if self.view is not None:
            name = f"{clip.path.name} {clip.start}".encode(errors="surrogateescape")  # it need not be UTF-8
            rng = np.random.default_rng([self.view.number, zlib.crc32(name)])
            channels = another_microphone(channels, frontend.sample_rate, rng, self.view.microphone)
        with torch.inference_mode():
            return self._power(torch.from_numpy(np.ascontiguousarray(channels))).clone()


class CachedFeatures:
    """Mel power of many clips, end to end in one array: memory-mapped, or on an accelerator."""

    def __init__(self, power: Tensor, lengths: NDArray[np.int64], errors: dict[int, str]) -> None:
        self.power = power  # [total_frames, channels, n_mels]
        self.lengths, self.errors = lengths, errors  # frames of each clip; 0 for one that cannot be read
        self._ends = np.cumsum(lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def clip(self, index: int) -> Tensor:
        """One clip: [n_frames, channels, n_mels]."""
        return self.power[self._ends[index] - self.lengths[index] : self._ends[index]]

    def to(self, device: str) -> CachedFeatures:
        """The same on ``device``."""
        return self if device == "cpu" else CachedFeatures(self.power.to(device), self.lengths, self.errors)


def load_features(
    clips: Sequence[Clip],
    frontend: FrontendConfig,
    cache: Path | None,
    *,
    view: View | None = None,
    device: str = "cpu",
) -> Features:
    """Features of ``clips``: from ``cache`` where they are there; without a cache, decoded whenever they are asked for.

    The cache's key holds the front end, the view, and each file's path, size, time of change and part that is the
    clip: it is never stale. An entry that is damaged is computed again, and the log says so.
    """
    decoder = Decoder(clips, frontend, view)
    if cache is None:
        return _checked(decoder) if view is None else decoder
    power_of_what = {name: value for name, value in asdict(frontend).items() if not name.startswith("log_")}
    view_key = None if view is None else asdict(view)
    key = json.dumps([CACHE_VERSION, power_of_what, [_identity(c) for c in clips], view_key])
    folder = cache / hashlib.sha256(key.encode()).hexdigest()[:24]
    if (folder / "clips.json").exists():
        try:
            lengths, errors = _read_index(folder, decoder)
        except ValueError as error:
            log.warning("%s; its features are computed again", error)
            lengths, errors = _fill(folder, decoder)
    else:
        lengths, errors = _fill(folder, decoder)
    if any(isinstance(_attempt(decoder, number), np.ndarray) for number in errors):
        # The cause of an error is gone, and the file did not change: a permission, say.
        lengths, errors = _fill(folder, decoder)
    shape = (sum(lengths), frontend.channels, frontend.n_mels)
    # Copy on write: torch takes no array that cannot be written.
    power = np.memmap(folder / "power.f32", np.float32, "c", shape=shape) if shape[0] else np.empty(shape, np.float32)
    return CachedFeatures(torch.from_numpy(power), np.array(lengths, np.int64), errors).to(device)


def _identity(clip: Clip) -> list[str | int | float | None]:
    """What changes when the clip's sound does."""
    try:
        status = clip.path.stat()
    except OSError:
        return [str(clip.path), None]
    return [str(clip.path.resolve()), status.st_size, status.st_mtime_ns, clip.start, clip.end]


def _read_index(folder: Path, decoder: Decoder) -> tuple[list[int], dict[int, str]]:
    """Frames of each clip, and errors by the number of the clip, as :func:`_fill` has written them.

    Raises ValueError, naming the file, where ``clips.json`` or ``power.f32`` is not what was written.
    """
    path, frontend = folder / "clips.json", decoder.frontend
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        lengths = [int(length) for length in index["lengths"]]
        errors = {int(number): str(error) for number, error in index["errors"].items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(f"{path} is damaged") from None
    if len(lengths) != len(decoder) or min(lengths, default=0) < 0 or not errors.keys() <= set(range(len(decoder))):
        raise ValueError(f"{path} is damaged")
    power, size = folder / "power.f32", 4 * sum(lengths) * frontend.channels * frontend.n_mels
    if not power.is_file() or power.stat().st_size != size:
        raise ValueError(f"{power} is damaged: it has not its {size} bytes")
    return lengths, errors


def _fill(folder: Path, decoder: Decoder) -> tuple[list[int], dict[int, str]]:
    """Write ``power.f32``, then ``clips.json``, which says that the folder is complete. Returns what is in the latter:
    frames of each clip, and errors by the number of the clip.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lengths: list[int] = []
    errors: dict[int, str] = {}
    with replacing(folder / "power.f32") as part, part.open("wb") as file:
        for index, power in enumerate(_decoded(decoder)):
            if isinstance(power, str):
                errors[index], power = power, np.empty(0, np.float32)  # noqa: PLW2901
            power.tofile(file)
            lengths.append(len(power))
    write_text(folder / "clips.json", json.dumps({"lengths": lengths, "errors": errors}))
    return lengths, errors


def _decoded(decoder: Decoder) -> Iterator[NDArray[np.float32] | str]:
    """The mel power of each clip, or why it cannot be read: by as many processes as are worth their start."""
    workers = min(os.cpu_count() or 1, len(decoder) // CLIPS_A_WORKER)
    if workers < 2:
        yield from (_attempt(decoder, index) for index in _progress(decoder))
        return
    results = mapped(_work, range(len(decoder)), workers, start=_start_worker, arguments=(decoder,), chunk=8)
    yield from (next(results) for _ in _progress(decoder))


def _attempt(decoder: Decoder, index: int) -> NDArray[np.float32] | str:
    try:
        return decoder.clip(index).numpy()
    except EdgeError as error:
        return str(error)


_worker: Decoder  # of this process


def _start_worker(decoder: Decoder) -> None:
    global _worker  # noqa: PLW0603
    torch.set_num_threads(1)
    _worker = decoder


def _work(index: int) -> NDArray[np.float32] | str:
    return _attempt(_worker, index)


def _checked(decoder: Decoder) -> Decoder:
    """``decoder``, knowing which clips cannot be read."""
    for index in _progress(decoder):
        try:
            decoder.samples(index)
        except EdgeError as error:
            decoder.errors[index] = str(error)
    return decoder


def _progress(decoder: Decoder) -> Iterator[int]:
    """The clips' numbers, with a bar on a terminal."""
    title = "features" if decoder.view is None else f"features, microphone {decoder.view.number}"
    console = Console(stderr=True)
    yield from track(range(len(decoder)), title, console=console, disable=not sys.stderr.isatty(), transient=True)


def padded(power: Tensor, n_frames: int) -> Tensor:
    """[n, channels, n_mels] → at least ``n_frames`` of them: a clip that is shorter than a window ends in silence."""
    return nn.functional.pad(power, (0, 0, 0, 0, 0, max(0, n_frames - len(power))))


class WindowSampler:
    """Random training windows: an energy-aware place, a stretch in time; a clip goes on from its own start."""

    TRIES = 4  # places looked at for one that is not silence

    def __init__(
        self,
        features: Features,
        window_frames: int,
        *,
        chosen: Sequence[int] | None = None,
        views: Sequence[Features] = (),
        view_share: float = 0.5,
        weights: NDArray[np.float64] | None = None,
        time_shift: float = 1.0,
    ) -> None:
        """``chosen``: the clips to draw from (all); ``weights``: how often each is drawn (each once an epoch);
        ``time_shift``: the share of a clip, from its beginning, in which windows begin.
        """
        self.features, self.window_frames = features, window_frames
        self.chosen = np.arange(len(features)) if chosen is None else np.asarray(chosen)
        self._stores, self._view_share = (features, *views), view_share if views else 0.0
        self.shares = None if weights is None else weights / weights.sum()
        self._time_shift = time_shift
        self._energies: dict[int, NDArray[np.float64]] = {}

    def __len__(self) -> int:
        return len(self.chosen)

    def epoch(self, batch_size: int, stretch: float, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled: (mel power [B, channels, window_frames, n_mels], clip numbers [B]). The last batch is dropped
        where it is not full. ``stretch``: up to this many octaves faster or slower.
        """
        order = rng.choice(self.chosen, len(self), replace=self.shares is not None, p=self.shares)
        for first in range(0, len(order) - batch_size + 1, batch_size):
            batch = order[first : first + batch_size]
            yield self.windows(batch, stretch, rng), torch.from_numpy(batch)

    def drawn(self, count: int, stretch: float, rng: np.random.Generator) -> Tensor:
        """Windows of ``count`` clips: mel power [count, channels, window_frames, n_mels]."""
        return self.windows(rng.choice(self.chosen, count, p=self.shares), stretch, rng)

    def windows(self, clips: NDArray[np.int64], stretch: float, rng: np.random.Generator) -> Tensor:
        """One window of each clip: mel power [B, channels, window_frames, n_mels]."""
        speeds = 2.0 ** rng.uniform(-stretch, stretch, len(clips))
        places = self._time_shift * rng.random((len(clips), self.TRIES))
        viewed = rng.random(len(clips)) < self._view_share
        views = viewed * rng.integers(len(self._stores) > 1, len(self._stores), len(clips))  # 0: the recording itself
        return torch.stack([self._window(*draw) for draw in zip(clips, speeds, places, views, strict=True)])

    def _window(self, clip: int, speed: float, places: NDArray[np.float64], view: int) -> Tensor:
        power = padded(self._stores[view].clip(int(clip)), self.window_frames)  # [n_frames, channels, n_mels]
        place = self._place(int(clip), (places * len(power)).astype(np.int64))
        time = place + speed * np.arange(self.window_frames)  # in frames of the clip
        before = np.floor(time).astype(np.int64)
        weight = torch.from_numpy((time - before).astype(np.float32)).to(power.device)[:, None, None]
        left = power[torch.from_numpy(before % len(power)).to(power.device)]
        right = power[torch.from_numpy((before + 1) % len(power)).to(power.device)]
        return torch.lerp(left, right, weight).transpose(0, 1)  # [channels, window_frames, n_mels]

    def _place(self, clip: int, tries: NDArray[np.int64]) -> int:
        """A start frame: the first of ``tries`` whose window has a fair share of the recording's energy."""
        if clip not in self._energies:
            frames = padded(self.features.clip(clip), self.window_frames).sum((1, 2), dtype=torch.float64)
            self._energies[clip] = np.concatenate([[0.0], np.cumsum(frames.cpu().numpy())])
        energy = self._energies[clip]
        length = len(energy) - 1
        stop = tries + self.window_frames
        inside = energy[np.minimum(stop, length)] - energy[tries] + energy[np.clip(stop - length, 0, length)]  # wrapped
        fair = inside >= 0.4 * energy[-1] * min(1.0, self.window_frames / length)
        return int(tries[np.argmax(fair)])
