"""A run with all that it needs before: its teachers, and what it starts from, are trained first, on the same folds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge.config import FrontendConfig
from train.config import TrainConfig, read_recipe
from train.distributed import start
from train.folder import claim, locked
from train.loop import fit, make_model
from train.manifest import Manifest, ManifestError
from train.negatives import check_none_are_clips, recordings
from train.unheard import check_unheard


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
    """Train ``config`` to ``out``, and before that every network that it names by a recipe, to ``out/teachers/``.

    ``report`` gets the run's folder, its configuration and a record, for each epoch. Returns the checkpoint's path.
    Raises ManifestError and ValueError as :func:`train.loop.fit` does.
    """

    def tell(record: dict[str, Any]) -> None:
        report(out, config, record)

    def claim_out() -> None:
        with locked(out):
            claim(out, config, manifest)

    group = start(device)
    before = {teacher_folder(name, out): teacher_config(name, config) for name in recipes_before(config)}

    def there(name: str) -> str:
        return str(teacher_folder(name, out) / "checkpoint.pt") if is_recipe(name) else name

    for each in (config, *before.values()):  # before hours go into teachers
        check(each, manifest)
    if before:
        make_model(config, len(manifest.labels))  # as well
    config = replace(config, init=there(config.init), teachers=tuple(there(name) for name in config.teachers))
    group.main_does(claim_out)
    for folder, teacher in before.items() if not (out / "checkpoint.pt").exists() else ():
        run(teacher, manifest, folder, cache, report, device=device, strict=strict)
    return fit(config, manifest, out, cache, tell, device=device, strict=strict)


def check(config: TrainConfig, manifest: Manifest) -> None:
    """Raises ManifestError and ValueError for what would be trained in vain, or cheat."""
    if len(manifest.labels) == 1 and not manifest.multi_label:
        raise ManifestError(
            f"{manifest.name} has one class, {manifest.labels[0]}; needs two to tell apart: add recordings of what is "
            "none of it as another class, or give a table and --separator, which makes scores independent"
        )
    there = {label for clip in manifest.in_folds(config.train_folds) for label in clip.labels}
    if missing := [label for label in manifest.labels if label not in there]:
        raise ManifestError(
            f"no clip of class {missing[0]!r} is in the training folds, {', '.join(map(str, config.train_folds))}; "
            "add some, hold out another fold, or leave the class out (--class names those to keep)"
        )
    if config.patience and not config.validation_folds:
        raise ValueError(
            f"patience is {config.patience}, and no validation fold says when to stop; give fit a --validation-fold, "
            "or --set patience=0"
        )
    _check_folders(recipes_before(config))
    check_unheard([name for name in (config.init, *config.teachers) if not is_recipe(name)], config, manifest)
    recordings(config.backgrounds, manifest.labels)  # they can be read
    check_none_are_clips(recordings(config.outliers, manifest.labels), manifest)


def recipes_before(config: TrainConfig) -> list[str]:
    """What is trained before: teachers and ``init``, where they are recipes; each once."""
    return list(dict.fromkeys(name for name in (config.init, *config.teachers) if is_recipe(name)))


def _check_folders(recipes: list[str]) -> None:
    """Raises ValueError for two that would be trained in one folder."""
    folders: dict[Path, str] = {}
    for name in recipes:
        folder = teacher_folder(name, Path())
        if (other := folders.setdefault(folder, name)) != name:
            raise ValueError(
                f"recipes {other!r} and {name!r} would both be trained in OUT/{folder}; "
                "rename the file of one, or leave one out"
            )


def is_recipe(name: str) -> bool:
    """Whether a teacher, or what is started from, is trained here, rather than there already."""
    return name != "" and not name.endswith(".pt")


def teacher_folder(name: str, out: Path) -> Path:
    """Where the teacher ``recipe`` or ``recipe@seed`` of the run in ``out`` is trained."""
    recipe, _, seed = name.partition("@")
    return out / "teachers" / f"{Path(recipe).stem}{seed and '-'}{seed}"


def teacher_config(name: str, student: TrainConfig) -> TrainConfig:
    """The configuration of the teacher ``recipe`` or ``recipe@seed``: its own, on the student's folds.

    It hears through the student's front end, unless its recipe asks for another. What the student starts from has the
    student's network.
    """
    recipe, _, seed = name.partition("@")
    config = read_recipe(recipe)
    if seed and not seed.isdigit():
        raise ValueError(f"teacher {name!r}: the seed after @ is a whole number")
    if config.teachers:
        raise ValueError(f"teacher {name!r} has teachers itself; allowed are recipes without")
    if config.frontend not in (FrontendConfig(), student.frontend):
        raise ValueError(
            f"teacher {name!r} has another front end: {config.frontend}; the student's: {student.frontend}"
        )
    if name == student.init:
        config = replace(config, architecture=student.architecture, model=student.model)
    return replace(
        config,
        frontend=student.frontend,
        train_folds=student.train_folds,
        validation_folds=student.validation_folds,
        test_fold=student.test_fold,
        seed=int(seed) if seed else config.seed,
    )
