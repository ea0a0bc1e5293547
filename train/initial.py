"""Starting from the weights of a trained network, for other classes or the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from models.checkpoint import Checkpoint, load_checkpoint
from models.pretrained import BUNDLED
from train.config import TrainConfig


def start_from(config: TrainConfig, init: str) -> TrainConfig:
    """``config`` with the network and the front end of the checkpoint ``init``, a path or "bundled"."""
    path = BUNDLED if init == "bundled" else Path(init)
    checkpoint = _load(path)
    model = {k: v for k, v in checkpoint.config.items() if k not in ("n_mels", "n_labels", "channels")}
    return replace(
        config, init=str(path), architecture=checkpoint.architecture, model=model, frontend=checkpoint.frontend
    )


def initialise(model: nn.Module, config: TrainConfig, labels: tuple[str, ...]) -> bool:
    """Give ``model`` the weights of ``config.init``; rows of its ``classifier`` go by label, new ones stay as they are.
    Returns whether there are none of these: whether it knows all classes.
    """
    checkpoint = _load(Path(config.init))
    state = model.state_dict()
    for name, theirs in checkpoint.state.items():
        if name.startswith("classifier."):
            with torch.no_grad():
                for row, label in enumerate(labels):
                    if label in checkpoint.labels:
                        state[name][row] = theirs[checkpoint.labels.index(label)]
        elif name not in state or state[name].shape != theirs.shape:
            raise ValueError(f"{config.init} does not fit the network: {name} differs")
        else:
            state[name] = theirs
    model.load_state_dict(state)
    return set(labels) <= set(checkpoint.labels)


def _load(path: Path) -> Checkpoint:
    if not path.is_file():
        raise ValueError(f"checkpoint {path} does not exist; give --init bundled, or a checkpoint.pt of a run")
    return load_checkpoint(path)
