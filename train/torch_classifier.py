"""A checkpoint in place of a model file: the runtime's front end, windows and hops, with the network in torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edge.classifier import Call, Classifier, Decision
from edge.config import ModelSpec
from models.checkpoint import load_checkpoint
from models.spec import spec_of
from train.manifest import ManifestError


class TorchClassifier(Classifier):
    """What :func:`edge.listener.listen` needs of a classifier, from ``checkpoint.pt``. Raises ManifestError."""

    def __init__(self, path: Path) -> None:
        try:
            checkpoint = load_checkpoint(path)
            self.model = checkpoint.model()
        except (OSError, ValueError) as error:
            raise ManifestError(f"model {path} cannot be read: {error}; give a checkpoint of python -m train") from None
        self.path = path
        self.spec = spec_of(checkpoint, self.model, name=path.parent.name, precision="checkpoint")

    def bind(self, n_frames: int) -> TorchCall:
        """See :meth:`edge.classifier.Classifier.bind`."""
        return TorchCall(self.model, self.spec, n_frames)


class TorchCall(Call):
    """What :class:`edge.classifier.Call` does, with a network of torch, which keeps its columns alone."""

    def __init__(self, model: nn.Module, spec: ModelSpec, n_frames: int) -> None:
        self.frames = np.zeros((spec.frontend.channels, n_frames, spec.frontend.n_mels), np.float32)
        self._model, self._spec = model, spec
        self._whole = n_frames == spec.window_frames
        self._columns = torch.zeros(1, spec.n_channels, 0)
        self._before = self

    def follow(self, other: Call) -> None:
        """See :meth:`edge.classifier.Call.follow`."""
        assert isinstance(other, TorchCall)
        self._before = other

    @torch.inference_mode()
    def __call__(self) -> Decision:
        """See :class:`edge.classifier.Call`."""
        batch = torch.from_numpy(self.frames)[None].transpose(2, 3)  # [1, channels, n_mels, n_frames]
        if not self._spec.streams:
            return self._decision(self._model(batch))
        columns = self._model.columns(batch)
        if not self._whole:
            columns = torch.cat([self._before._columns, columns], dim=2)[..., -self._spec.n_columns :]
        self._columns = columns
        return self._decision(self._model.head(columns))

    def _decision(self, logits: Tensor) -> Decision:
        """[1, n_labels] → the decision."""
        probs = logits.sigmoid() if self._spec.scores == "sigmoid" else logits.softmax(1)
        return Decision(probs[0].numpy(), None)
