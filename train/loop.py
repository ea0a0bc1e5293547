"""The training loop, on one page: data, model, optimiser, epochs, checkpoints."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models import build
from models.checkpoint import load_checkpoint, save_tensors
from models.quantised import hold_norms, quantised, settle
from train import distributed
from train.augment import make_augment
from train.averaging import Averages
from train.config import TrainConfig
from train.distributed import Group
from train.folder import claim, copied, git_revision, locked, resume, save
from train.initial import initialise
from train.losses import EnergyHinge, Loss, class_weights
from train.manifest import Manifest
from train.optim import Schedule, make_optimiser
from train.parts import Parts
from train.precision import forward_dtype
from train.teachers import Teachers
from train.validate import Predictions, predict

log = logging.getLogger(__name__)


def fit(
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
    record for each epoch. Clips that cannot be read are logged and left out, or end the run when ``strict``. Of a run
    that is finished, the log says so.

    Raises:
        ValueError: when ``out`` holds a run of another configuration or other recordings, or what is damaged, or the
            configuration contradicts itself.
        ManifestError: for a fold without clips, or nothing that can be read.
    """
    group = distributed.start(device)
    with ExitStack() as stack:

        def claim_out() -> None:
            stack.enter_context(locked(out))
            claim(out, config, manifest)
            if (out / "checkpoint.pt").exists():
                load_checkpoint(out / "checkpoint.pt")  # a damaged one is no result

        group.main_does(claim_out)
        if not (out / "checkpoint.pt").exists():
            _train(config, manifest, out, cache, report, group, strict=strict)
        elif group.main:
            log.warning("%s is already trained; nothing was done", out)
    return out / "checkpoint.pt"


def _train(  # noqa: PLR0912, PLR0915  # one page, read from top to bottom
    config: TrainConfig,
    manifest: Manifest,
    out: Path,
    cache: Path | None,
    report: Callable[[dict[str, Any]], None],
    group: Group,
    *,
    strict: bool,
) -> None:
    """See :func:`fit`; each process of ``group`` computes its share of every batch."""
    revision = git_revision()  # of the code that trains, not of what is checked out hours later
    dtype = forward_dtype(config.precision, group.device)
    if config.quantised and not config.init:
        raise ValueError("quantised fine-tunes weights that are trained already; name them with --init")
    torch.manual_seed(config.seed)
    labels = manifest.labels
    model = make_model(config, len(labels))
    knows_all = initialise(model, config, labels) if config.init else False
    if config.quantised:
        quantised(model)
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
    hinge = EnergyHinge(config.energy_loss, *config.energy_margins)
    batch_size = min(config.batch_size, len(sampler))
    group.check(batch_size)
    n_outliers = config.outliers_in(batch_size)
    unnamed = targets.new_zeros(n_outliers, len(labels))  # what outliers are: none of the classes
    batch_size -= n_outliers
    steps = len(sampler) // batch_size
    optimiser = make_optimiser(model, config, "classifier" if config.init else None)
    schedule = Schedule(optimiser, config, steps)
    scaler = torch.amp.GradScaler(enabled=dtype == torch.float16)
    averages = Averages(model, config, steps, with_beginning=knows_all)
    average = averages.last
    parts = {"model": model, "optimiser": optimiser, "schedule": schedule, "scaler": scaler, **averages.parts()}
    first_epoch, best = resume(out, parts, main=group.main)
    autocast = torch.autocast(group.device.partition(":")[0], dtype, enabled=dtype != torch.float32)

    def look(network: nn.Module, clips: NDArray[np.int64]) -> Predictions:
        return predict(network, data.features, clips, data.targets, config.frontend, loss_of)

    for epoch in range(first_epoch, config.epochs):
        rng = np.random.default_rng([config.seed, epoch])  # an epoch's randomness is its own: resuming repeats it
        model.train()
        if config.quantised:
            hold_norms(model)
        started, data_seconds, losses = time.perf_counter(), 0.0, []
        mark = started
        for step, (power, clips) in enumerate(sampler.epoch(batch_size, config.augment.stretch, rng)):
            torch.manual_seed(((config.seed * 1_000_003 + epoch) * 100_003 + step) % 2**63)  # in all processes the same
            backgrounds = data.backgrounds(len(clips), rng)
            frames, soft_targets = augment(power.to(group.device), targets[clips], backgrounds)
            if n_outliers:  # apart from the clips, so that they are not mixed with them
                outliers = augment.elsewhere(data.outliers(n_outliers, rng))
                others = augment(outliers, unnamed, data.backgrounds(n_outliers, rng))
                frames, soft_targets = (torch.cat(pair) for pair in zip((frames, soft_targets), others, strict=True))
            frames = group.share(frames).contiguous(memory_format=torch.channels_last)
            soft_targets = group.share(soft_targets)
            data_seconds += time.perf_counter() - mark
            with autocast:
                logits = trained(frames)  # [B, n_labels]
                opinion = teachers.opinion(frames, loss_of) if teachers else None
            loss = loss_of(logits.float(), soft_targets, opinion)
            if n_outliers and config.energy_loss and not manifest.multi_label:
                loss = loss + hinge(logits.float(), soft_targets)
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
        averages.end_epoch(epoch + 1)
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
            best = {"accuracy": record["accuracy"], "epoch": epoch + 1, "state": copied(average.module)}
        stopped = validated and config.patience and epoch + 1 - best["epoch"] >= config.patience
        if group.main:
            report(record)
        if not math.isfinite(record["loss"]) or not all(
            p.isfinite().all() for p in average.module.state_dict().values()
        ):
            raise ValueError(
                f"the training diverged in epoch {epoch + 1}: its loss is {record['loss']:g}; lower learning_rate "
                f"({config.learning_rate:g}), or limit the gradients (clip_norm, {config.clip_norm:g})"
            )
        if group.main:
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
    if config.quantised:
        settle(average.module)
    if group.main:
        if len(held_out := data.validation if len(data.validation) else data.test):
            look(average.module, held_out).write(out / "predictions.json", manifest)
        save(out / "checkpoint.pt", average.module, config, manifest, revision)
    group.wait()


def make_model(config: TrainConfig, n_labels: int) -> nn.Module:
    """The network of a configuration, freshly initialised. Raises ValueError for sizes that do not fit, or are given
    by the data or the front end.
    """
    frontend = config.frontend
    sizes = {"n_mels": frontend.n_mels, "channels": frontend.channels, "n_labels": n_labels}
    for name, size in sizes.items():
        if config.model.get(name, size) != size:
            whose = "the classes of the data set" if name == "n_labels" else f"frontend.{name}"
            raise ValueError(f"model.{name} is {config.model[name]!r}; {whose} decide it, {size} here: leave it out")
    try:
        return build(config.architecture, **(config.model | sizes))
    except (IndexError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{config.architecture} cannot be built with {config.model}: {reason}") from None
