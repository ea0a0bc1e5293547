"""A checkpoint in place of a model file: the runtime's front end, windows and hops, with the network in torch."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from edge.classifier import F32, Classifier
from models.checkpoint import load_checkpoint
from models.spec import spec_of
from train.manifest import ManifestError


class TorchClassifier(Classifier):
    """What :func:`edge.listener.listen` needs of a classifier, from ``checkpoint.pt``. Raises ManifestError."""

    def __init__(self, path: Path) -> None:
        try:
            checkpoint = load_checkpoint(path)
            self._model = checkpoint.model()
        except (OSError, ValueError) as error:
            raise ManifestError(f"model {path} cannot be read: {error}; give a checkpoint of python -m train") from None
        self.path = path
        self.spec = spec_of(checkpoint, self._model, name=path.parent.name, precision="checkpoint")

    @torch.inference_mode()
    def run(self, frames: F32, ring: F32 | None) -> tuple[F32, F32 | None]:
        """See :meth:`edge.classifier.Classifier.run`."""
        batch = torch.from_numpy(frames)[None]  # [1, channels, n_mels, T]
        if ring is None:
            return self._probs(self._model(batch)), None
        columns = torch.cat([torch.from_numpy(ring)[None], self._model.columns(batch)], dim=2)
        columns = columns[..., -self.spec.n_columns :]
        return self._probs(self._model.head(columns)), columns[0].numpy()

    def _probs(self, logits: Tensor) -> F32:
        """[1, n_labels] → [n_labels]."""
        return (logits.sigmoid() if self.spec.scores == "sigmoid" else logits.softmax(1))[0].numpy()
