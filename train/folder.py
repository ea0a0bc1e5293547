"""The folder of a run: whose it is, what it takes to go on, and what is left in the end."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edge.config import CONTROL
from edge.files import write_text
from edge.names import encodable
from models.checkpoint import MORE, Checkpoint, load_checkpoint, load_tensors, save_checkpoint
from train.config import TrainConfig
from train.fingerprints import check_same_sound, write_fingerprints
from train.manifest import Manifest
from train.settings import flat, replaced


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Only one process may write to ``out``. Raises ValueError when another one does."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"another process trains in {out}; wait for it, or give another --out") from None
        yield


def claim(out: Path, config: TrainConfig, manifest: Manifest) -> None:
    """Write the run's configuration and data set to ``out``, which is locked, or see that those there are the same.

    Raises ValueError where they are others, or the recordings have changed.
    """
    out.mkdir(parents=True, exist_ok=True)
    data = {"data": manifest.name, "digest": manifest.digest()}
    text = json.dumps(dataclasses.asdict(config) | data, indent=2, sort_keys=True)
    path = out / "config.json"
    if not any((out / name).exists() for name in ("state.pt", "history.jsonl", "checkpoint.pt", "teachers")):
        path.unlink(missing_ok=True)  # of a run that has not learnt anything, such as one that could not begin
    if path.exists() and not same_run(_read_config(path), json.loads(text)):
        raise ValueError(f"{out} holds a run of another configuration or data set; give another --out, or delete it")
    if path.exists():
        check_same_sound(out, manifest.clips)
    else:
        manifest.save(out / "manifest.jsonl")
        write_fingerprints(out, manifest.clips)
        write_text(path, text)


def _read_config(path: Path) -> dict[str, Any]:
    """What :func:`claim` wrote. Raises ValueError, naming ``path``, for anything else."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise ValueError(
            f"{path} is damaged, so whose run it is is unknown; give another --out, or delete {path.parent}"
        )
    return config


def same_run(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether two configurations are equal; a field that ``before`` is too old to have counts as its default, also one
    of a table such as ``augment``.
    """
    default = json.loads(json.dumps(dataclasses.asdict(TrainConfig())))
    return replaced(default, dict(flat(before))) == now


def resume(out: Path, parts: dict[str, Any], *, main: bool) -> tuple[int, dict[str, Any]]:
    """Load ``state.pt`` into ``parts`` and cut the history to its epoch. Returns the epochs done, and the best one."""
    path, history = out / "state.pt", out / "history.jsonl"
    if not path.exists():
        if main:
            history.unlink(missing_ok=True)
        return 0, {"accuracy": -1.0, "epoch": 0, "state": None}
    try:
        state = load_tensors(path)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        epochs, best = int(state["epoch"]), dict(state["best"])
    except Exception:  # a part raises a different type for every kind of damage
        raise ValueError(f"{path} is damaged; delete state.pt to begin again") from None
    try:
        done = history.read_text(encoding="utf-8").splitlines(keepends=True)[:epochs]
    except (OSError, ValueError):
        raise ValueError(f"{history} is gone, or is damaged; delete state.pt to begin again") from None
    if main:
        write_text(history, "".join(done))
    return epochs, best


def save(path: Path, model: nn.Module, config: TrainConfig, manifest: Manifest, revision: str) -> None:
    """The checkpoint, with what is known of its origin."""
    epochs = len((path.parent / "history.jsonl").read_text(encoding="utf-8").splitlines())
    before = load_checkpoint(Path(config.init)).provenance if config.init else {}
    if before.get("digest") == manifest.digest():
        epochs += before["epochs"]  # the steps of one recipe
    provenance = {
        "dataset": manifest.name,
        "digest": manifest.digest(),
        "train_folds": config.train_folds,
        "test_fold": config.test_fold,
        "seed": config.seed,
        "epochs": epochs,
        "git_revision": revision,
        "multi_label": manifest.multi_label,
        "other_data": other_data(config, manifest, before),
    }
    state = {name: tensor.contiguous() for name, tensor in copied(model).items()}
    model_config = dataclasses.asdict(model.config)
    save_checkpoint(
        path, Checkpoint(config.architecture, model_config, config.frontend, manifest.labels, provenance, state)
    )


def other_data(config: TrainConfig, manifest: Manifest, before: dict[str, Any]) -> list[str]:
    """What is learnt from beside the data set: in this run, by the weights that it began from, whose provenance is
    ``before``, and by its teachers.
    """
    found = [f"{name}{MORE}" for name in manifest.more]
    found += [f"{_named(folder)} (none of its classes)" for folder in config.outliers]
    found += [f"{_named(folder)} (in the background)" for folder in config.backgrounds if folder not in config.outliers]
    teachers = [load_checkpoint(Path(teacher)).provenance for teacher in config.teachers]
    for part, origin in (("the weights before", before), *(("a teacher", origin) for origin in teachers)):
        if origin and origin["dataset"] != manifest.name:
            found.append(f"{origin['dataset']} ({part})")
        found += origin.get("other_data", ())
    return list(dict.fromkeys(found))


def _named(folder: str) -> str:
    return CONTROL.sub("?", encodable(Path(folder).resolve().name))  # as a contract holds it


def copied(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights and buffers, on the processor."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def git_revision() -> str:
    """The checkout's revision, with ``-dirty`` where something is changed; "unknown" outside of one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    folder = Path(__file__).parent
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
