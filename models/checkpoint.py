"""Checkpoints: a state_dict with its configuration as JSON. Written and read here alone, without pickled objects."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edge.config import FrontendConfig
from edge.files import replacing
from models.registry import build

ORIGIN = ("dataset", "train_folds", "test_fold", "seed", "epochs", "git_revision")  # what provenance has at least


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and what it takes to use it."""

    architecture: str  # name in the registry
    config: dict[str, Any]  # fields of the architecture's configuration
    frontend: FrontendConfig
    labels: tuple[str, ...]
    provenance: dict[str, Any]  # data set, folds, seed, epochs, revision, licence
    state: dict[str, torch.Tensor]  # weights and buffers

    def model(self) -> nn.Module:
        """The network in evaluation mode, with its weights. Raises ValueError where they do not fit."""
        model = build(self.architecture, **self.config)
        try:
            model.load_state_dict(self.state)
        except RuntimeError as error:
            why = " ".join(str(error).split())
            raise ValueError(f"the weights do not fit the architecture {self.architecture}: {why:.200}") from None
        return model.eval()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write ``checkpoint`` to ``path``: whole, or not at all."""
    header = {
        "architecture": checkpoint.architecture,
        "config": checkpoint.config,
        "frontend": dataclasses.asdict(checkpoint.frontend),
        "labels": checkpoint.labels,
        "provenance": checkpoint.provenance,
    }
    save_tensors(path, {"header": json.dumps(header), "state": checkpoint.state})


def load_checkpoint(path: Path) -> Checkpoint:
    """Read what :func:`save_checkpoint` wrote.

    Raises:
        ValueError: when the file is no checkpoint of ours, or is damaged.
        OSError: when it cannot be read.
    """
    data = load_tensors(path)
    try:
        header = json.loads(data["header"])
        if missing := [name for name in ORIGIN if name not in header["provenance"]]:
            raise ValueError(f"its provenance lacks {', '.join(missing)}")
        return Checkpoint(
            architecture=header["architecture"],
            config=header["config"],
            frontend=FrontendConfig(**header["frontend"]),
            labels=tuple(header["labels"]),
            provenance=header["provenance"],
            state=data["state"],
        )
    except Exception as error:  # whatever else torch has saved
        why = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is not a checkpoint of edge-listen: {why:.200}; give another") from None


def load_tensors(path: Path) -> Any:
    """Read what :func:`save_tensors` wrote. Raises OSError, and ValueError for a file that is damaged, or another."""
    content = io.BytesIO(path.read_bytes())  # torch raises OSError for a file that is not whole
    try:
        with zipfile.ZipFile(content) as archive:  # torch compares no checksums
            if archive.testzip() is not None:
                raise ValueError
        content.seek(0)
        return torch.load(content, map_location="cpu", weights_only=True)
    except Exception:  # a different type for every kind of damage, with advice that would be dangerous
        raise ValueError(
            f"{path} is not a checkpoint of edge-listen, or is damaged; give another, or delete it and train again"
        ) from None


def save_tensors(path: Path, data: dict[str, Any]) -> None:
    """``torch.save`` to ``path``: an interrupted run leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, part.open("wb") as file:
        torch.save(data, file)  # into a path it would write the temporary name as well
