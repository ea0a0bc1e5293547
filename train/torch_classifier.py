"""A checkpoint in place of a model file: the runtime's front end, windows and hops, with the network in torch."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from edge.classifier import F32, Classifier
from edge.config import ModelSpec, Provenance
from models.checkpoint import Checkpoint, load_checkpoint
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
        self.spec = _spec(path, checkpoint, self._model)

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


def _spec(path: Path, checkpoint: Checkpoint, model: torch.nn.Module) -> ModelSpec:
    """The contract as far as a checkpoint has one."""
    made = checkpoint.provenance
    streams = model.column_stride > 0
    return ModelSpec(
        name=path.parent.name,
        labels=checkpoint.labels,
        frontend=checkpoint.frontend,
        window_frames=model.window_frames,
        column_stride=model.column_stride,
        receptive_field=model.receptive_field if streams else 0,
        n_columns=model.n_columns if streams else 0,
        n_channels=model.config.column_width if streams else 0,
        temperature=1.0,
        thresholds={},
        scores="sigmoid" if made.get("multi_label") else "softmax",
        provenance=Provenance(
            architecture=checkpoint.architecture,
            dataset=made["dataset"],
            train_folds=tuple(made["train_folds"]),
            test_fold=made["test_fold"],
            seed=made["seed"],
            epochs=made["epochs"],
            git_revision=made["git_revision"],
            precision="checkpoint",
            macs=0,
        ),
        licence="",
        graph_bytes=0,
        graph_sha256="",
    )
