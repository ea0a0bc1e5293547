"""Trained networks that teach another one (Hinton 2015): their mean opinion of what the student hears."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from models.checkpoint import load_checkpoint
from models.layers import fold_batch_norm
from train.config import TrainConfig
from train.losses import Loss


class Teachers:
    """Checkpoints, as one."""

    def __init__(self, config: TrainConfig, labels: tuple[str, ...], device: str) -> None:
        """Raises ValueError for a teacher of another front end or other classes."""
        self.models = []
        for path in config.teachers:
            if not Path(path).is_file():
                raise ValueError(f"teacher {path} does not exist; give a checkpoint.pt, or a recipe")
            checkpoint = load_checkpoint(Path(path))
            for what, theirs, ours in (
                ("front end", checkpoint.frontend, config.frontend),
                ("classes", checkpoint.labels, labels),
            ):
                if theirs != ours:
                    raise ValueError(f"teacher {path} has another {what}: {theirs}; the student's: {ours}")
            model = checkpoint.model()
            fold_batch_norm(model)  # it only listens, and is heard sooner
            self.models.append(model.to(device, memory_format=torch.channels_last))

    @torch.no_grad()
    def opinion(self, frames: Tensor, loss: Loss) -> Tensor:
        """The mean of the softened probabilities, [B, n_labels], of ``frames`` [B, channels, n_mels, T].

        A teacher that reads a shorter window hears its middle; one that reads a longer one cannot teach.
        """
        opinions = []
        for model in self.models:
            start = (frames.shape[-1] - model.window_frames) // 2
            heard = frames[..., start : start + model.window_frames] if start > 0 else frames
            opinions.append(loss.soften(model(heard)))
        return torch.stack(opinions).mean(0)
