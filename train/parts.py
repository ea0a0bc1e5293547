"""What a run trains on, looks at, and holds out: the clips of its folds, with their features."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from train.config import TrainConfig
from train.dataset import View, WindowSampler, load_features
from train.losses import clip_weights
from train.manifest import Clip, Manifest, ManifestError
from train.negatives import Negative, kind_weights, passed_over, recordings

log = logging.getLogger(__name__)


def views_of(config: TrainConfig) -> list[View]:
    """The other microphones of a run."""
    return [View(number, config.microphone) for number in range(1, config.views + 1)]


def fill_cache(config: TrainConfig, manifest: Manifest, cache: Path) -> None:
    """Compute the features that a run will ask for, so that several runs at once need not each."""
    backgrounds = _clips(recordings(config.backgrounds, manifest.labels, faint=True))
    for clips in filter(None, (manifest.clips, _clips(recordings(config.outliers, manifest.labels)))):
        for view in (None, *views_of(config)):
            load_features(clips, config.frontend, cache, view=view)
    if backgrounds:
        load_features(backgrounds, config.frontend, cache)


def _clips(negatives: Sequence[Negative]) -> list[Clip]:
    return [Clip(n.path, (), 0) for n in negatives]


class Parts:
    """The clips of a run. ``train``, ``validation`` and ``test`` are numbers of clips in the manifest."""

    def __init__(
        self,
        config: TrainConfig,
        manifest: Manifest,
        window_frames: int,
        cache: Path | None,
        device: str,
        *,
        strict: bool = False,
    ) -> None:
        """Raises ManifestError for a fold without clips, and when no clip can be read, or one cannot and ``strict``."""
        self.config, self.clips, self.window_frames = config, manifest.clips, window_frames
        self._device = device
        for folds in (config.train_folds, config.validation_folds, (config.test_fold,) if config.test_fold else ()):
            manifest.in_folds(list(folds))  # they must be there
        frontend = config.frontend
        self.features = load_features(manifest.clips, frontend, cache, device=device)
        self._views = [
            load_features(manifest.clips, frontend, cache, view=view, device=device) for view in views_of(config)
        ]
        self._leave_out(strict=strict)
        self.targets = np.zeros((len(manifest.clips), len(manifest.labels)), np.float32)  # 1 where a clip has a label
        for row, clip in zip(self.targets, manifest.clips, strict=True):
            row[[manifest.labels.index(label) for label in clip.labels]] = 1
        self.train = self._numbers(config.train_folds)
        self.validation = self._numbers(config.validation_folds)
        self.test = self._numbers((config.test_fold,) if config.test_fold else ())
        self._check_labels(manifest.labels)
        backgrounds = recordings(config.backgrounds, manifest.labels, faint=True)
        self._background = self._unlabelled(config.backgrounds, backgrounds, cache)
        outliers = recordings(config.outliers, manifest.labels)
        self._outlier = self._unlabelled(config.outliers, outliers, cache, views_of(config))

    def sampler(self) -> WindowSampler:
        """Of the training windows."""
        return WindowSampler(
            self.features,
            self.window_frames,
            chosen=self.train,
            views=self._views,
            view_share=self.config.view_share,
            weights=clip_weights(self.targets[self.train]) if self.config.balance == "sampling" else None,
            time_shift=self.config.augment.time_shift,
        )

    def backgrounds(self, count: int, rng: np.random.Generator) -> Tensor | None:
        """Windows of background noise, stretched: [count, channels, window_frames, n_mels]; None without any."""
        if self._background is None:
            return None
        return self._background.drawn(count, self.config.augment.stretch, rng).to(self._device)

    def outliers(self, count: int, rng: np.random.Generator) -> Tensor:
        """Windows of none of the classes, heard and stretched like theirs: [count, channels, window_frames, n_mels]."""
        assert self._outlier is not None
        return self._outlier.drawn(count, self.config.augment.stretch, rng).to(self._device)

    def _numbers(self, folds: Sequence[int]) -> NDArray[np.int64]:
        there = [n for n, clip in enumerate(self.clips) if clip.fold in folds and n not in self.features.errors]
        for fold in folds:
            if not any(self.clips[n].fold == fold for n in there):
                raise ManifestError(f"no clip of fold {fold} can be read; the first error: {self._first_error(fold)}")
        return np.array(there, np.int64)

    def _first_error(self, fold: int) -> str:
        return next(error for n, error in self.features.errors.items() if self.clips[n].fold == fold)

    def _check_labels(self, labels: Sequence[str]) -> None:
        """Raises ManifestError for a class that has nothing to learn from."""
        for label, count in zip(labels, self.targets[self.train].sum(0), strict=True):
            if not count:
                raise ManifestError(
                    f"no clip of class {label!r} can be read in the training folds {self.config.train_folds}; "
                    "add some, or leave the class out"
                )

    def _leave_out(self, *, strict: bool) -> None:
        errors = list(self.features.errors.values())
        if errors and (strict or len(errors) == len(self.clips)):
            raise ManifestError(f"{len(errors)} of {len(self.clips)} clips cannot be read, the first: {errors[0]}")
        for error in errors:
            log.warning("left out: %s", error)

    def _unlabelled(
        self, folders: Sequence[str], negatives: Sequence[Negative], cache: Path | None, views: Sequence[View] = ()
    ) -> WindowSampler | None:
        """Windows of the recordings ``negatives`` of ``folders``, of each kind as many; None where none are given."""
        if not folders:
            return None
        frontend, device, clips = self.config.frontend, self._device, _clips(negatives)
        features = load_features(clips, frontend, cache, device=device)
        usable = [n for n in range(len(clips)) if n not in features.errors]
        if not usable:
            raise ManifestError(
                f"{', '.join(folders)} has no recording that can be read and is none of the classes; give others"
            )
        for error in (*passed_over(folders), *features.errors.values()):
            log.warning("left out: %s", error)
        return WindowSampler(
            features,
            self.window_frames,
            chosen=usable,
            views=[load_features(clips, frontend, cache, view=view, device=device) for view in views],
            view_share=self.config.view_share,
            weights=kind_weights([negatives[n] for n in usable]),
        )
