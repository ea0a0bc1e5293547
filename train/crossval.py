"""Cross-validation: each fold held out in turn, trained on the others, exported, and measured as a device runs it."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from edge.classifier import Classifier
from edge.files import write_text
from edge.workers import start_worker
from train.config import TrainConfig
from train.evaluate import evaluate
from train.fingerprints import check_same_sound, write_fingerprints
from train.loop import make_model
from train.manifest import Manifest, ManifestError, read_manifest
from train.parts import fill_cache
from train.run import check, recipes_before, run, teacher_config

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class FoldResult:
    """What the files of one fold's network make of that fold."""

    fold: int
    accuracy: float  # int8, of clips: the mean of their windows' probabilities
    window_accuracy: float  # int8, of single windows
    fp32_accuracy: float  # of clips
    fp32_window_accuracy: float
    clips: int


@dataclass(frozen=True)
class CrossValidation:
    """All folds."""

    model: str  # architecture
    macs: int  # multiply-accumulates of a window
    bytes: int  # of the int8 file, the largest
    folds: tuple[FoldResult, ...]
    mean: float  # int8, of clips
    spread: float  # standard deviation over the folds
    window_mean: float
    fp32_mean: float
    dataset: str
    clips: int
    seconds: float  # from the beginning to the end of this call
    command: str
    git_revision: str  # of the code that trained
    machine: str


@dataclass(frozen=True)
class _Task:
    config: TrainConfig
    manifest: Path
    out: Path
    cache: Path | None
    device: str
    threads: int
    strict: bool


def cross_validate(
    config: TrainConfig,
    manifest: Manifest,
    out: Path,
    cache: Path | None,
    *,
    folds: Sequence[int] | None = None,
    device: str = "auto",
    jobs: int = 1,
    threads: int = 1,
    strict: bool = False,
    command: str = "",
    tick: Callable[[], None] = lambda: None,
) -> CrossValidation:
    """Train and measure every fold of ``manifest`` (or ``folds``), ``jobs`` at a time. Goes on where it stopped.

    ``tick`` is called about every second. Raises ManifestError, ValueError, EdgeError as ``fit`` does.
    """
    started = time.monotonic()
    there = sorted({clip.fold for clip in manifest.clips})
    if len(there) < 2:
        raise ManifestError(f"{manifest.name} has one fold, {there}; cross-validation needs two at least")
    out = out.resolve()  # the export runs in another folder
    tasks = [
        _Task(
            replace(config, train_folds=tuple(f for f in there if f != fold), test_fold=fold, validation_folds=()),
            out / "manifest.jsonl", out / f"fold-{fold}", cache, device, threads, strict,
        )
        for fold in dict.fromkeys(folds or there)
    ]  # fmt: skip
    for task in tasks:  # before an hour goes into features
        check(task.config, manifest)
    make_model(config, len(manifest.labels))  # it can be built
    out.mkdir(parents=True, exist_ok=True)
    before = out / "manifest.jsonl"
    if before.exists() and read_manifest(before).digest() != manifest.digest():
        raise ManifestError(f"{out} holds a cross-validation of another data set; give another --out, or delete it")
    if any(out.glob("fold-*/**/history.jsonl")):
        check_same_sound(out, manifest.clips)
    else:  # nothing is learnt yet, and a file that could not be read may have been replaced
        write_fingerprints(out, manifest.clips)
    manifest.save(before)
    if cache is not None:
        for every in (config, *(teacher_config(name, config) for name in recipes_before(config))):
            fill_cache(every, manifest, cache)
    _in_processes(_train, tasks, jobs, tick)
    results = [_measure(task, manifest) for task in tasks]
    specs = [Classifier(_file(task, "int8")).spec for task in tasks]
    return CrossValidation(
        model=config.architecture,
        macs=specs[0].provenance.macs,
        bytes=max(_file(task, "int8").stat().st_size for task in tasks),
        folds=tuple(results),
        mean=statistics.mean(r.accuracy for r in results),
        spread=statistics.stdev(r.accuracy for r in results) if len(results) > 1 else 0.0,
        window_mean=statistics.mean(r.window_accuracy for r in results),
        fp32_mean=statistics.mean(r.fp32_accuracy for r in results),
        dataset=manifest.name,
        clips=sum(r.clips for r in results),
        seconds=round(time.monotonic() - started, 1),
        command=command,
        git_revision=", ".join(sorted({spec.provenance.git_revision for spec in specs})),
        machine=f"{platform.machine()}, {os.cpu_count()} cores, device {device}",
    )


def histories(out: Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """What was trained in ``out``: the records of each epoch, by network (teachers first) and by fold."""
    networks: dict[str, dict[str, list[dict[str, Any]]]] = {}
    paths = sorted(out.glob("fold-*/teachers/*/history.jsonl")) + sorted(out.glob("fold-*/history.jsonl"))
    for path in paths:
        fold, *others = path.parent.relative_to(out).parts
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        networks.setdefault(others[-1] if others else "result", {})[fold] = records
    return networks


def write_json(result: CrossValidation, path: Path) -> None:
    """``result`` to ``path``: whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(asdict(result), indent=2) + "\n")


def _in_processes(work: Callable[[_Task], Any], tasks: Sequence[_Task], jobs: int, tick: Callable[[], None]) -> None:
    """``work`` on every task; the first error ends all. Spawned, not forked: torch's threads do not survive a fork."""
    with ProcessPoolExecutor(jobs, get_context("spawn")) as executor:
        pending: set[Future[Any]] = {executor.submit(work, task) for task in tasks}
        try:
            while pending:
                done, pending = wait(pending, timeout=1, return_when=FIRST_COMPLETED)
                tick()
                for future in done:
                    future.result()
        except BrokenProcessPool:
            raise ValueError("a process ended while it trained: too little memory? use fewer --jobs") from None
        except BaseException:
            for process in multiprocessing.active_children():  # each has hours to go
                process.terminate()
            raise


def _train(task: _Task) -> None:
    start_worker()
    torch.set_num_threads(task.threads)
    manifest = read_manifest(task.manifest)
    run(task.config, manifest, task.out, task.cache, lambda *_: None, device=task.device, strict=task.strict)


def _measure(task: _Task, manifest: Manifest) -> FoldResult:
    """Export by the command that users have: nothing here may know how."""
    if not _file(task, "int8").exists():
        command = ["-m", "export", task.out / "checkpoint.pt", "--out", task.out, "--name", "fold", "--licence", "none"]
        command += ["--temperature", "1"]  # one that was learnt from this fold would be measured on it
        command += ["--most-loss", "100"]  # what int8 loses is measured below
        done = subprocess.run(
            [sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ValueError(f"the export of {task.out} failed: {done.stderr.strip()}")
    assert task.config.test_fold is not None
    clips = manifest.in_folds([task.config.test_fold])
    int8, fp32 = (evaluate(_file(task, precision), clips, strict=task.strict) for precision in ("int8", "fp32"))
    return FoldResult(
        task.config.test_fold, int8.accuracy, int8.window_accuracy, fp32.accuracy, fp32.window_accuracy, int8.clips
    )


def _file(task: _Task, precision: str) -> Path:
    return task.out / ("fold.int8.onnx" if precision == "int8" else "fold.onnx")
