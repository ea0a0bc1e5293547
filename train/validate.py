"""What a network in training says of clips that it does not train on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge.config import DEFAULT_HOP, FrontendConfig
from edge.files import write_text
from train.dataset import Features, padded
from train.frontend import log_scale
from train.losses import Loss
from train.manifest import Manifest
from train.metrics import accuracy_of

BATCH = 64  # windows at once


@dataclass(frozen=True)
class Predictions:
    """Probabilities of clips, the mean of their windows."""

    clips: NDArray[np.int64]  # their numbers in the manifest
    targets: NDArray[np.float32]  # [n_clips, n_labels]
    probs: NDArray[np.float32]  # [n_clips, n_labels]
    window_accuracy: float
    loss: float  # of the windows

    def summary(self, *, multi_label: bool) -> dict[str, float]:
        """For the history."""
        return {
            "accuracy": accuracy_of(self.targets, self.probs, multi_label=multi_label),
            "window_accuracy": self.window_accuracy,
            "validation_loss": self.loss,
        }

    def write(self, path: Path, manifest: Manifest) -> None:
        """As JSON, for the report: what each clip is, and what the network says."""
        rows = []
        for number, probs in zip(self.clips, self.probs, strict=True):
            clip = manifest.clips[number]
            place = {"path": str(clip.path), "start": clip.start, "end": clip.end}
            rows.append(place | {"labels": clip.labels, "probs": [round(float(p), 6) for p in probs]})
        folds = sorted({manifest.clips[number].fold for number in self.clips})
        page = {"fold": folds, "labels": manifest.labels, "multi_label": manifest.multi_label, "clips": rows}
        write_text(path, json.dumps(page))


@torch.inference_mode()
def predict(
    model: nn.Module,
    features: Features,
    clips: NDArray[np.int64],
    targets: NDArray[np.float32],
    frontend: FrontendConfig,
    loss: Loss,
) -> Predictions:
    """``model`` on every window of ``clips``, as far apart as a listener's decisions; ``targets`` are of all clips."""
    model.eval()
    device = next(model.parameters()).device
    windows, owners = [], []
    logits: list[Tensor] = []

    def flush() -> None:
        if windows:
            batch = torch.cat(windows).to(device).contiguous(memory_format=torch.channels_last)
            logits.append(model(log_scale(batch, frontend)).float().cpu())
            windows.clear()

    hop = hop_frames(model, frontend)
    for place, number in enumerate(clips):
        power = padded(features.clip(int(number)), model.window_frames).permute(1, 2, 0)  # [channels, n_mels, n_frames]
        own = power.unfold(2, model.window_frames, hop).permute(2, 0, 1, 3)  # [n_windows, channels, n_mels, T]
        owners += [place] * len(own)
        for part in own.split(BATCH):  # a clip may be an hour long
            windows.append(part)
            if sum(map(len, windows)) >= BATCH:
                flush()
    flush()
    joined, owner = torch.cat(logits), torch.tensor(owners)
    probs = joined.sigmoid() if loss.multi_label else joined.softmax(1)
    by_clip = torch.zeros(len(clips), probs.shape[1]).index_add(0, owner, probs)
    by_clip /= torch.bincount(owner, minlength=len(clips))[:, None]
    own_targets = targets[clips]
    truth = torch.from_numpy(own_targets)[owner]
    window_accuracy = accuracy_of(truth.numpy(), probs.numpy(), multi_label=loss.multi_label)
    return Predictions(clips, own_targets, by_clip.numpy(), window_accuracy, float(loss(joined, truth.float())))


def hop_frames(model: nn.Module, frontend: FrontendConfig) -> int:
    """Frames between decisions: the listener's own choice."""
    step = max(1, model.column_stride)
    steps = round(DEFAULT_HOP * frontend.sample_rate / frontend.hop_length / step)
    return min(max(1, steps), model.window_frames // step) * step
