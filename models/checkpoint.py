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
from edge.settings import settings_of
from models.registry import build

HEADER = {"architecture": str, "config": dict, "frontend": dict, "labels": list, "provenance": dict}
ORIGIN = {  # what provenance has at least
    "dataset": str, "train_folds": list, "test_fold": int | None, "seed": int, "epochs": int, "git_revision": str,
}  # fmt: skip
MORE = " of its classes"  # how clips that were only trained on end, in the list of other data
UNBUILT = (IndexError, RuntimeError, TypeError, ZeroDivisionError)  # of sizes that torch cannot make a network of


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
        """The network in evaluation mode, with its weights.

        Raises ValueError where they do not fit, or there is no network of its configuration, front end and labels.
        """
        try:
            model = build(self.architecture, **self.config)
        except UNBUILT as error:
            raise ValueError(f"{self.architecture} cannot be built with its configuration: {_why(error)}") from None
        sizes = {"n_mels": self.frontend.n_mels, "channels": self.frontend.channels, "n_labels": len(self.labels)}
        for name, size in sizes.items():
            if (built := getattr(model.config, name)) != size:
                raise ValueError(f"{name} of the network is {built}; of its front end and labels: {size}")
        try:
            model.load_state_dict(self.state)
        except RuntimeError as error:
            raise ValueError(f"the weights do not fit the architecture {self.architecture}: {_why(error)}") from None
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
        _require_types(header, HEADER, "")
        _require_origin(header["provenance"])
        for name, kind, values in (("labels", str, header["labels"]), ("state", torch.Tensor, data["state"].values())):
            if odd := [value for value in values if not isinstance(value, kind)]:
                raise ValueError(f"{name} has {odd[0]!r:.40}")
        return Checkpoint(
            architecture=header["architecture"],
            config=header["config"],
            frontend=settings_of(FrontendConfig, header["frontend"], "frontend"),
            labels=tuple(header["labels"]),
            provenance=header["provenance"],
            state=data["state"],
        )
    except Exception as error:  # whatever else torch has saved
        raise ValueError(f"{path} is not a checkpoint of edge-listen: {_why(error)}; give another") from None


def _require_origin(origin: dict[str, Any]) -> None:
    """Raises ValueError for what a provenance lacks, or contradicts."""
    if missing := [name for name in ORIGIN if name not in origin]:
        raise ValueError(f"its provenance lacks {', '.join(missing)}")
    _require_types(origin, ORIGIN, "provenance.")
    folds, held_out = origin["train_folds"], origin["test_fold"]
    if not folds or not all(isinstance(fold, int) for fold in folds) or held_out in folds:
        raise ValueError(f"provenance.train_folds is {folds!r:.40}, test_fold {held_out}; one or more, and another")


def _require_types(table: dict[str, Any], types: dict[str, Any], place: str) -> None:
    for name, kind in types.items():
        if not isinstance(table[name], kind):
            raise ValueError(f"{place}{name} is {table[name]!r:.40}")


def _why(error: Exception) -> str:
    """In one line that is not too long."""
    return " ".join(str(error).split())[:200] or type(error).__name__


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
