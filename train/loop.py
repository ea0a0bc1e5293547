"""The training loop, on one page: data, model, optimiser, epochs, checkpoints."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models import build
from models.checkpoint import Checkpoint, save_checkpoint, save_tensors
from train import distributed
from train.augment import make_augment
from train.config import TrainConfig
from train.initial import initialise
from train.losses import Loss, class_weights
from train.manifest import Manifest
from train.optim import Schedule, make_optimiser
from train.parts import Parts
from train.teachers import Teachers
from train.validate import Predictions, predict


def fit(  # noqa: PLR0912, PLR0915  # one page, read from top to bottom
    config: TrainConfig,
    manifest: Manifest,
    out: Path,
    cache: Path | None,
    report: Callable[[dict[str, Any]], None],
    *,
    device: str = "auto",
    strict: bool = False,
) -> Path:
    """Train, or go on where an interrupted run of the same configuration stopped.

    Writes ``state.pt`` (all that it takes to go on), ``history.jsonl``, ``config.json``, ``manifest.jsonl`` and, at the
    end, ``predictions.json`` of what was held out and ``checkpoint.pt``, whose path is returned. ``report`` gets one
    record for each epoch. Clips that cannot be read are logged and left out, or end the run when ``strict``.

    Raises:
        ValueError: when ``out`` holds a run of another configuration, or the configuration contradicts itself.
        ManifestError: for a fold without clips, or nothing that can be read.
    """
    group = distributed.start(device)
    if group.main:
        _claim(out, config, manifest)
    group.wait()
    if (out / "checkpoint.pt").exists():
        return out / "checkpoint.pt"
    revision = git_revision()  # of the code that trains, not of what is checked out hours later
    torch.manual_seed(config.seed)
    labels = manifest.labels
    model = build(config.architecture, **config.model, **_sizes(config, len(labels)))
    if config.init:
        initialise(model, config, labels)
    model = model.to(group.device, memory_format=torch.channels_last)
    trained = group.wrap(model)  # before the optimiser: it replaces batch norms

    with group.main_first():  # it fills the cache
        data = Parts(config, manifest, model.window_frames, cache, group.device, strict=strict)
    sampler, targets = data.sampler(), torch.from_numpy(data.targets).to(group.device)
    teachers = Teachers(config, labels, group.device) if config.teachers else None
    augment = make_augment(config.augment, config.frontend, multi_label=manifest.multi_label)
    weights = class_weights(data.targets[data.train]) if config.balance == "loss" else None
    loss_of = Loss(
        manifest.multi_label,
        config.label_smoothing,
        None if weights is None else torch.from_numpy(weights).to(group.device),
        config.distil,
        config.distil_temperature,
    )
    batch_size = min(config.batch_size, len(sampler))
    group.check(batch_size)
    steps = len(sampler) // batch_size
    optimiser = make_optimiser(model, config, "classifier" if config.init else None)
    schedule = Schedule(optimiser, config, config.epochs * steps)
    scaler = torch.amp.GradScaler(enabled=config.precision == "float16")
    decay = 1 - 1 / max(1.0, config.average * config.epochs * steps)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(decay), use_buffers=True
    )
    parts = {"model": model, "average": average, "optimiser": optimiser, "schedule": schedule, "scaler": scaler}
    first_epoch, best = _resume(out, parts, main=group.main)
    autocast = torch.autocast(
        group.device.partition(":")[0],
        torch.float16 if config.precision == "float16" else torch.bfloat16,
        enabled=config.precision != "float32",
    )

    def look(network: nn.Module, clips: NDArray[np.int64]) -> Predictions:
        return predict(network, data.features, clips, data.targets, config.frontend, loss_of)

    for epoch in range(first_epoch, config.epochs):
        rng = np.random.default_rng([config.seed, epoch])  # an epoch's randomness is its own: resuming repeats it
        model.train()
        started, data_seconds, losses = time.perf_counter(), 0.0, []
        mark = started
        for step, (power, clips) in enumerate(sampler.epoch(batch_size, config.augment.stretch, rng)):
            torch.manual_seed((config.seed * 1_000_003 + epoch) * 100_003 + step)  # the same in all processes
            frames, soft_targets = augment(power, targets[clips], data.backgrounds(len(clips), rng))
            frames = group.share(frames).contiguous(memory_format=torch.channels_last)
            soft_targets = group.share(soft_targets)
            data_seconds += time.perf_counter() - mark
            with autocast:
                logits = trained(frames)  # [B, n_labels]
                opinion = teachers.opinion(frames, loss_of) if teachers else None
            loss = loss_of(logits.float(), soft_targets, opinion)
            optimiser.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.unscale_(optimiser)
            nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm or float("inf"))
            scaler.step(optimiser)
            scaler.update()
            schedule.step()
            average.update_parameters(model)
            losses.append(loss.detach())
            mark = time.perf_counter()
        last = epoch + 1 == config.epochs
        record = {
            "epoch": epoch + 1,
            "loss": group.mean(float(torch.stack(losses).mean())),
            "learning_rate": max(g["lr"] for g in optimiser.param_groups),
            "seconds": time.perf_counter() - started,
            "data_seconds": data_seconds,
        }
        if validated := len(data.validation) > 0 and (last or (epoch + 1) % config.validate_every == 0):
            record |= look(average.module, data.validation).summary(multi_label=manifest.multi_label)
        if validated or len(data.validation) == 0:
            schedule.end_epoch(record.get("validation_loss", record["loss"]))
        if validated and config.patience and record["accuracy"] > best["accuracy"]:
            best = {"accuracy": record["accuracy"], "epoch": epoch + 1, "state": _copy(average.module)}
        stopped = validated and config.patience and epoch + 1 - best["epoch"] >= config.patience
        if group.main:
            report(record)
            with (out / "history.jsonl").open("a", encoding="utf-8") as history:
                history.write(json.dumps(record) + "\n")
            if last or stopped or (epoch + 1) % config.checkpoint_every == 0:
                states = {name: part.state_dict() for name, part in parts.items()}
                done = config.epochs if stopped else epoch + 1
                save_tensors(out / "state.pt", {"epoch": done, "best": best, **states})
        if stopped:
            break

    if best["state"]:
        average.module.load_state_dict(best["state"])
    if group.main:
        if len(held_out := data.validation if len(data.validation) else data.test):
            look(average.module, held_out).write(out / "predictions.json", manifest)
        _save(out / "checkpoint.pt", average.module, config, manifest, revision)
    group.wait()
    return out / "checkpoint.pt"


def _sizes(config: TrainConfig, n_labels: int) -> dict[str, int]:
    return {"n_mels": config.frontend.n_mels, "channels": config.frontend.channels, "n_labels": n_labels}


def _copy(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def _save(path: Path, model: nn.Module, config: TrainConfig, manifest: Manifest, revision: str) -> None:
    """The checkpoint, with what is known of its origin."""
    history = (path.parent / "history.jsonl").read_text(encoding="utf-8")
    provenance = {
        "dataset": manifest.name,
        "train_folds": config.train_folds,
        "test_fold": config.test_fold,
        "seed": config.seed,
        "epochs": len(history.splitlines()),
        "git_revision": revision,
        "multi_label": manifest.multi_label,
    }
    state = {name: tensor.contiguous() for name, tensor in _copy(model).items()}
    model_config = dataclasses.asdict(model.config)
    save_checkpoint(
        path, Checkpoint(config.architecture, model_config, config.frontend, manifest.labels, provenance, state)
    )


def _claim(out: Path, config: TrainConfig, manifest: Manifest) -> None:
    """Write the run's configuration and data set to ``out``, or see that those there are the same."""
    out.mkdir(parents=True, exist_ok=True)
    data = {"data": manifest.name, "digest": manifest.digest()}
    text = json.dumps(dataclasses.asdict(config) | data, indent=2, sort_keys=True)
    path = out / "config.json"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ValueError(f"{out} holds a run of another configuration or data set; give another --out, or delete it")
    if not path.exists():
        manifest.save(out / "manifest.jsonl")
        path.write_text(text, encoding="utf-8")


def _resume(out: Path, parts: dict[str, Any], *, main: bool) -> tuple[int, dict[str, Any]]:
    """Load ``state.pt`` into ``parts`` and cut the history to its epoch. Returns the epochs done, and the best one."""
    path, history = out / "state.pt", out / "history.jsonl"
    if not path.exists():
        if main:
            history.unlink(missing_ok=True)
        return 0, {"accuracy": -1.0, "epoch": 0, "state": None}
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    if main:
        lines = history.read_text(encoding="utf-8").splitlines(keepends=True)[: state["epoch"]]
        history.with_suffix(".part").write_text("".join(lines), encoding="utf-8")
        history.with_suffix(".part").replace(history)
    return int(state["epoch"]), state["best"]


def git_revision() -> str:
    """The checkout's revision, with ``-dirty`` where something is changed; "unknown" outside of one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    folder = Path(__file__).parent
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
