"""A checkpoint's contract with the device, as far as the checkpoint knows it."""

from __future__ import annotations

from torch import nn

from edge.config import ModelSpec, Provenance
from models.checkpoint import Checkpoint


def spec_of(
    checkpoint: Checkpoint,
    model: nn.Module,
    *,
    name: str,
    precision: str,
    macs: int = 0,
    temperature: float = 1.0,
    licence: str = "",
) -> ModelSpec:
    """The contract of ``checkpoint``, whose network is ``model``, without golden vectors and the graph's digest."""
    made, streams = checkpoint.provenance, model.column_stride > 0
    return ModelSpec(
        name=name,
        labels=checkpoint.labels,
        frontend=checkpoint.frontend,
        window_frames=model.window_frames,
        column_stride=model.column_stride,
        receptive_field=model.receptive_field if streams else 0,
        n_columns=model.n_columns if streams else 0,
        n_channels=model.config.column_width if streams else 0,
        kept_frames=model.receptive_field - model.column_stride if streams else 0,  # nothing else is kept
        caches=(),
        scores="sigmoid" if made.get("multi_label") else "softmax",
        temperature=temperature,
        thresholds={},
        unknown=None,
        licence=licence,
        graph_bytes=0,
        graph_sha256="",
        provenance=Provenance(
            architecture=checkpoint.architecture,
            dataset=made["dataset"],
            train_folds=tuple(made["train_folds"]),
            test_fold=made["test_fold"],
            seed=made["seed"],
            epochs=made["epochs"],
            git_revision=made["git_revision"],
            precision=precision,
            macs=macs,
            other_data=tuple(made.get("other_data", ())),
        ),
    )
