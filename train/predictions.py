"""``predictions.json`` of a run: what the trained network said of each held-out clip."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CERTAIN = 0.5  # a label of a multi-label clip is recognised from here on


@dataclass(frozen=True)
class Mistake:
    """A clip that was recognised as something else."""

    path: Path
    start: float  # seconds into the file
    end: float | None  # seconds; None: the end of the file
    truth: tuple[str, ...]
    recognised: str
    probability: float  # of what was recognised


@dataclass(frozen=True)
class Predictions:
    """The held-out clips, with their labels and probabilities."""

    fold: tuple[int, ...]
    labels: tuple[str, ...]
    multi_label: bool
    clips: tuple[dict[str, Any], ...]  # path, start, end, labels, probs

    @property
    def probs(self) -> NDArray[np.float64]:
        """[n_clips, n_labels]."""
        return np.array([clip["probs"] for clip in self.clips], float).reshape(-1, len(self.labels))

    @property
    def truth(self) -> NDArray[np.int64]:
        """[n_clips, n_labels]: 1 for the labels that a clip has."""
        return np.array([[label in clip["labels"] for label in self.labels] for clip in self.clips], np.int64)

    @property
    def targets(self) -> NDArray[np.int64]:
        """Multi-label: :attr:`truth`; else the index of each clip's label, [n_clips]."""
        return self.truth if self.multi_label else self.truth.argmax(axis=1)

    def mistakes(self, n: int) -> list[Mistake]:
        """The ``n`` worst: recognised with the highest probability, and wrong."""
        probs = self.probs
        wrong = np.where(self.truth.astype(bool), 0.0, probs)
        if self.multi_label:
            wrong[wrong < CERTAIN] = 0.0
        else:  # the best label alone was recognised
            wrong[np.arange(probs.shape[1]) != probs.argmax(axis=1)[:, None]] = 0.0
        worst = np.argsort(-wrong.max(axis=1), kind="stable")[:n]
        return [self._mistake(clip, int(wrong[clip].argmax())) for clip in worst if wrong[clip].any()]

    def _mistake(self, index: int, label: int) -> Mistake:
        clip = self.clips[index]
        span = clip.get("start") or 0.0, clip.get("end")
        return Mistake(Path(clip["path"]), *span, tuple(clip["labels"]), self.labels[label], clip["probs"][label])


def read_predictions(path: Path) -> Predictions:
    """Raises ValueError for a file that holds something else, or no clips."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        predictions = Predictions(
            tuple(data["fold"]), tuple(data["labels"]), bool(data["multi_label"]), tuple(data["clips"])
        )
        n = {len(clip["probs"]) for clip in predictions.clips}
        unknown = {label for clip in predictions.clips for label in clip["labels"]} - set(predictions.labels)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no predictions: {error!r}; train again to have them written") from None
    if n != {len(predictions.labels)} or unknown:
        raise ValueError(f"{path}: clips and labels do not belong together; train again to have them written")
    return predictions
