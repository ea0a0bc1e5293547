"""A run with all that it needs before: its teachers are trained first, on the same folds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from train.config import TrainConfig, read_recipe
from train.loop import fit
from train.manifest import Manifest


def run(
    config: TrainConfig,
    manifest: Manifest,
    out: Path,
    cache: Path | None,
    report: Callable[[Path, TrainConfig, dict[str, Any]], None],
    *,
    device: str = "auto",
    strict: bool = False,
) -> Path:
    """Train ``config`` to ``out``, and every teacher that is named by its recipe to ``out/teachers/`` before.

    ``report`` gets the run's folder, its configuration and a record, for each epoch. Returns the checkpoint's path.
    """

    def tell(record: dict[str, Any]) -> None:
        report(out, config, record)

    teachers = []
    for name in config.teachers:
        if name.endswith(".pt"):
            teachers.append(name)
            continue
        recipe, _, seed = name.partition("@")
        folder = out / "teachers" / f"{Path(recipe).stem}{seed and '-'}{seed}"
        checkpoint = run(teacher_config(name, config), manifest, folder, cache, report, device=device, strict=strict)
        teachers.append(str(checkpoint))
    config = replace(config, teachers=tuple(teachers))
    return fit(config, manifest, out, cache, tell, device=device, strict=strict)


def teacher_config(name: str, student: TrainConfig) -> TrainConfig:
    """The configuration of the teacher ``recipe`` or ``recipe@seed``: its own, on the student's folds."""
    recipe, _, seed = name.partition("@")
    config = read_recipe(recipe)
    if seed and not seed.isdigit():
        raise ValueError(f"teacher {name!r}: the seed after @ is a whole number")
    return replace(
        config,
        train_folds=student.train_folds,
        validation_folds=student.validation_folds,
        test_fold=student.test_fold,
        seed=int(seed) if seed else config.seed,
    )
