"""A checkpoint in place of a model file: the runtime's front end, windows and hops, with the network in torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edge.classifier import F32, Call, Classifier, Decision
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

    def bind(self, n_frames: int, ring: F32 | None, new_ring: F32 | None) -> TorchCall:
        """See :meth:`edge.classifier.Classifier.bind`."""
        return TorchCall(self.model, self.spec, n_frames, ring, new_ring)


class TorchCall(Call):
    """What :class:`edge.classifier.Call` does, with a network of torch."""

    def __init__(
        self, model: nn.Module, spec: ModelSpec, n_frames: int, ring: F32 | None, new_ring: F32 | None
    ) -> None:
        self.frames = np.zeros((spec.frontend.channels, spec.frontend.n_mels, n_frames), np.float32)
        self._model, self._spec, self._ring, self._new_ring = model, spec, ring, new_ring

    @torch.inference_mode()
    def __call__(self) -> Decision:
        """See :class:`edge.classifier.Call`."""
        batch = torch.from_numpy(self.frames)[None]  # [1, channels, n_mels, n_frames]
        if self._ring is None or self._new_ring is None:
            return self._decision(self._model(batch))
        columns = torch.cat([torch.from_numpy(self._ring)[None], self._model.columns(batch)], dim=2)
        columns = columns[..., -self._spec.n_columns :]
        self._new_ring[:] = columns[0].numpy()
        return self._decision(self._model.head(columns))

    def _decision(self, logits: Tensor) -> Decision:
        """[1, n_labels] → the decision."""
        probs = logits.sigmoid() if self._spec.scores == "sigmoid" else logits.softmax(1)
        return Decision(probs[0].numpy(), None)
