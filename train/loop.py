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
from torch import Tensor, nn

from edge.config import FrontendConfig
from models import build
from models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, save_tensors
from train.augment import Augment
from train.config import TrainConfig
from train.dataset import Features, WindowSampler, load_features
from train.frontend import log_scale
from train.manifest import Manifest

VALIDATION_HOP = 48  # frames between the windows of a validated clip


def fit(  # noqa: PLR0915  # one page, read from top to bottom
    config: TrainConfig, manifest: Manifest, out: Path, cache: Path, report: Callable[[dict[str, Any]], None]
) -> Path:
    """Train, or go on where an interrupted run of the same configuration stopped.

    Writes ``state.pt`` (all that it takes to go on), ``history.jsonl``, ``config.json`` and, at the end,
    ``checkpoint.pt``, whose path is returned. ``report`` gets one record for each epoch.

    Raises:
        ValueError: when ``out`` holds a run of another configuration.
    """
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, config, manifest)
    revision = git_revision()  # of the code that trains, not of what is checked out hours later
    torch.manual_seed(config.seed)
    labels, n_labels = list(manifest.labels), len(manifest.labels)
    model = build(config.architecture, **config.model, n_mels=config.frontend.n_mels, n_labels=n_labels)
    model = model.to(memory_format=torch.channels_last)

    clips = manifest.in_folds(list(config.train_folds))
    features = load_features(clips, config.frontend, model.window_frames, cache)
    targets = np.array([labels.index(clip.label) for clip in clips], np.int64)
    sampler = WindowSampler(features, targets, model.window_frames)
    held_out = manifest.in_folds(list(config.validation_folds))
    held_features = load_features(held_out, config.frontend, model.window_frames, cache) if held_out else None
    held_targets = np.array([labels.index(clip.label) for clip in held_out], np.int64)

    teachers = Teachers(config, manifest.labels) if config.teachers else None
    augment = Augment(config.augment, config.frontend, n_labels)
    batch_size = min(config.batch_size, len(sampler))
    steps = len(sampler) // batch_size
    optimiser = torch.optim.AdamW(_weight_groups(model, config.weight_decay), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=config.epochs * steps, pct_start=config.warm_up
    )
    decay = 1 - 1 / max(1.0, config.average * config.epochs * steps)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(decay), use_buffers=True
    )
    parts = {"model": model, "average": average, "optimiser": optimiser, "schedule": schedule}
    first_epoch = _resume(out, parts)

    for epoch in range(first_epoch, config.epochs):
        torch.manual_seed(config.seed * 1_000_003 + epoch)  # an epoch's randomness is its own: resuming repeats it
        rng = np.random.default_rng([config.seed, epoch])
        model.train()
        started, data_seconds, losses = time.perf_counter(), 0.0, []
        mark = started
        for power, batch_labels in sampler.epoch(batch_size, config.augment.stretch, rng):
            frames, soft_targets = augment(power, batch_labels)
            frames = frames.contiguous(memory_format=torch.channels_last)
            data_seconds += time.perf_counter() - mark
            with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
                logits = model(frames)  # [B, n_labels]
                opinion = teachers.opinion(frames) if teachers else None
            loss = nn.functional.cross_entropy(logits.float(), soft_targets, label_smoothing=config.label_smoothing)
            if opinion is not None:
                loss = torch.lerp(loss, distillation(logits.float(), opinion, config.distil_temperature), config.distil)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimiser.step()
            schedule.step()
            average.update_parameters(model)
            losses.append(loss.item())
            mark = time.perf_counter()
        last = epoch + 1 == config.epochs
        record = {
            "epoch": epoch + 1,
            "loss": float(np.mean(losses)),
            "seconds": time.perf_counter() - started,
            "data_seconds": data_seconds,
        }
        if held_features is not None and (last or (epoch + 1) % config.validate_every == 0):
            record |= validate(average.module, held_features, held_targets, config.frontend)
        report(record)
        with (out / "history.jsonl").open("a", encoding="utf-8") as history:
            history.write(json.dumps(record) + "\n")
        if last or (epoch + 1) % config.checkpoint_every == 0:
            states = {name: part.state_dict() for name, part in parts.items()}
            save_tensors(out / "state.pt", {"epoch": epoch + 1, **states})

    provenance = {
        "dataset": manifest.name,
        "train_folds": config.train_folds,
        "test_fold": config.test_fold,
        "seed": config.seed,
        "epochs": config.epochs,
        "git_revision": revision,
    }
    state = {key: value.contiguous() for key, value in average.module.state_dict().items()}
    model_config = dataclasses.asdict(model.config)
    save_checkpoint(
        out / "checkpoint.pt",
        Checkpoint(config.architecture, model_config, config.frontend, manifest.labels, provenance, state),
    )
    return out / "checkpoint.pt"


class Teachers:
    """Trained networks, as one."""

    def __init__(self, config: TrainConfig, labels: tuple[str, ...]) -> None:
        self.temperature, self.models = config.distil_temperature, []
        for path in config.teachers:
            checkpoint = load_checkpoint(Path(path))
            model = checkpoint.model().to(memory_format=torch.channels_last)
            for what, theirs, ours in (
                ("front end", checkpoint.frontend, config.frontend),
                ("classes", checkpoint.labels, labels),
            ):
                if theirs != ours:
                    raise ValueError(f"teacher {path} has another {what}: {theirs}; the student's: {ours}")
            self.models.append(model)

    @torch.no_grad()
    def opinion(self, frames: Tensor) -> Tensor:
        """[B, 1, n_mels, T] → the mean of the softened probabilities, [B, n_labels]."""
        return torch.stack([(m(frames).float() / self.temperature).softmax(1) for m in self.models]).mean(0)


def distillation(logits: Tensor, opinion: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of softened ``logits`` against ``opinion``, scaled so that its gradient keeps its size."""
    return nn.functional.cross_entropy(logits / temperature, opinion) * temperature**2


def validate(
    model: nn.Module, features: Features, targets: np.ndarray[Any, Any], frontend: FrontendConfig
) -> dict[str, float]:
    """Accuracy of clips (mean of their windows' probabilities) and of single windows."""
    model.eval()
    right_clips, right_windows, n_windows = 0, 0, 0
    with torch.inference_mode():
        for index, target in enumerate(targets):
            frames = log_scale(torch.tensor(features.clip(index)), frontend).T  # [n_mels, n_frames]
            windows = frames.unfold(1, model.window_frames, VALIDATION_HOP).transpose(0, 1).unsqueeze(1)
            probs = model(windows.contiguous(memory_format=torch.channels_last)).softmax(1)  # [n_windows, n_labels]
            right_clips += int(probs.mean(0).argmax() == target)
            right_windows += int((probs.argmax(1) == int(target)).sum())
            n_windows += len(probs)
    return {"accuracy": right_clips / len(targets), "window_accuracy": right_windows / n_windows}


def _weight_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices and kernels, none for biases and batch norm."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _claim(out: Path, config: TrainConfig, manifest: Manifest) -> None:
    """Write the run's configuration and data set to ``out``, or see that those there are the same."""
    data = {"data": manifest.name, "digest": manifest.digest()}
    text = json.dumps(dataclasses.asdict(config) | data, indent=2, sort_keys=True)
    path = out / "config.json"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ValueError(f"{out} holds a run of another configuration or data set; give another --out, or delete it")
    path.write_text(text, encoding="utf-8")


def _resume(out: Path, parts: dict[str, Any]) -> int:
    """Load ``state.pt`` into ``parts`` and cut the history to its epoch. Returns the epochs done."""
    path = out / "state.pt"
    if not path.exists():
        (out / "history.jsonl").unlink(missing_ok=True)
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    history = out / "history.jsonl"
    lines = history.read_text(encoding="utf-8").splitlines(keepends=True)[: state["epoch"]]
    history.with_suffix(".part").write_text("".join(lines), encoding="utf-8")
    history.with_suffix(".part").replace(history)
    return int(state["epoch"])


def git_revision() -> str:
    """The checkout's revision, with ``-dirty`` where something is changed; "unknown" outside of one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    folder = Path(__file__).parent
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
