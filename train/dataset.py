"""Clips as mel power, computed once, and training windows cut out of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge.config import FrontendConfig
from edge.sources.file import SoundFile
from train.frontend import MelPower
from train.manifest import Clip

CACHE_VERSION = 1  # raise it when the same clip and front end would give other features


@dataclass(frozen=True)
class Features:
    """Mel power of many clips, end to end in one array that may lie on disk."""

    power: NDArray[np.float32]  # [total_frames, n_mels]
    starts: NDArray[np.int64]  # [n_clips] first frame of each clip
    lengths: NDArray[np.int64]  # [n_clips] frames of each clip

    def clip(self, index: int) -> NDArray[np.float32]:
        """[n_frames, n_mels] of one clip."""
        return self.power[self.starts[index] : self.starts[index] + self.lengths[index]]


def load_features(clips: list[Clip], frontend: FrontendConfig, min_frames: int, cache: Path) -> Features:
    """Features of ``clips``, from ``cache`` where they are there. A clip shorter than ``min_frames`` ends in silence.

    The cache's key holds the front end and each file's path, size and time of change: it is never stale.
    """
    files = [(str(c.path.resolve()), c.path.stat().st_size, c.path.stat().st_mtime_ns) for c in clips]
    key = json.dumps([CACHE_VERSION, asdict(frontend), min_frames, files])
    folder = cache / hashlib.sha256(key.encode()).hexdigest()[:24]
    if not (folder / "lengths.npy").exists():
        _compute(clips, frontend, min_frames, folder)
    lengths = np.load(folder / "lengths.npy")
    power = np.load(folder / "power.npy", mmap_mode="r")
    return Features(power, np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)


def _compute(clips: list[Clip], frontend: FrontendConfig, min_frames: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    mel_power = MelPower(frontend)
    lengths = []
    part = folder / f"power.{os.getpid()}.part"
    with part.open("wb") as file:
        for clip in clips:
            samples = SoundFile(clip.path).read(frontend.sample_rate)
            missing = frontend.n_samples(min_frames) - len(samples)
            samples = np.pad(samples, (0, max(0, missing)))
            power = mel_power(torch.from_numpy(samples)).T.contiguous().numpy()
            power.tofile(file)
            lengths.append(len(power))
    raw = np.memmap(part, np.float32, "r", shape=(sum(lengths), frontend.n_mels))
    array = folder / f"power.{os.getpid()}.npy"
    np.save(array, raw)
    part.unlink()
    array.replace(folder / "power.npy")
    done = folder / f"lengths.{os.getpid()}.npy"
    np.save(done, np.array(lengths, np.int64))
    done.replace(folder / "lengths.npy")  # last: it says that the folder is complete


class WindowSampler:
    """Random training windows: an energy-aware place, a stretch in time; a clip goes on from its own start."""

    TRIES = 4  # places looked at for one that is not silence

    def __init__(self, features: Features, labels: NDArray[np.int64], window_frames: int) -> None:
        self.features, self.labels, self.window_frames = features, labels, window_frames
        self._energy = np.concatenate([[0.0], np.cumsum(features.power.sum(axis=1, dtype=np.float64))])

    def __len__(self) -> int:
        return len(self.labels)

    def epoch(self, batch_size: int, stretch: float, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Every clip once, shuffled: (mel power [B, window_frames, n_mels], label [B]). The last batch is dropped
        where it is not full. ``stretch``: up to this many octaves faster or slower.
        """
        order = rng.permutation(len(self))
        for first in range(0, max(1, len(self) - batch_size + 1), batch_size):
            chosen = order[first : first + batch_size]
            yield self.windows(chosen, stretch, rng), torch.from_numpy(self.labels[chosen])

    def windows(self, chosen: NDArray[np.int64], stretch: float, rng: np.random.Generator) -> Tensor:
        """One window of each chosen clip: mel power [B, window_frames, n_mels]."""
        speed = 2.0 ** rng.uniform(-stretch, stretch, len(chosen))
        start = self._place(chosen, rng)
        length = self.features.lengths[chosen][:, None]
        time = start[:, None] + speed[:, None] * np.arange(self.window_frames)  # [B, T] in frames of the clip
        before = np.floor(time).astype(np.int64)
        weight = torch.from_numpy((time - before).astype(np.float32))[..., None]
        base = self.features.starts[chosen][:, None]
        left = torch.from_numpy(self.features.power[base + before % length])
        right = torch.from_numpy(self.features.power[base + (before + 1) % length])
        return torch.lerp(left, right, weight)

    def _place(self, chosen: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """A start frame for each clip: the first of a few whose window has a fair share of the clip's energy."""
        starts, lengths = self.features.starts[chosen], self.features.lengths[chosen]
        tries = (rng.random((self.TRIES, len(chosen))) * lengths).astype(np.int64)
        stop = tries + self.window_frames
        total = self._energy[starts + lengths] - self._energy[starts]
        inside = self._energy[starts + np.minimum(stop, lengths)] - self._energy[starts + tries]
        inside += self._energy[starts + np.clip(stop - lengths, 0, lengths)] - self._energy[starts]  # wrapped
        fair = inside >= 0.4 * total * np.minimum(1, self.window_frames / lengths)
        return np.take_along_axis(tries, np.argmax(fair, axis=0)[None], axis=0)[0]
