"""``python -m train fit DATA`` and ``python -m train evaluate DATA``."""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from edge.config import DEFAULT_HOP
from edge.errors import EdgeError
from train.manifest import ManifestError, read_manifest

RECIPES = Path(__file__).parent / "recipes"
ESC50 = Path(__file__).parents[2] / "shared" / "data" / "esc50"


@click.group()
def main() -> None:
    """Train on labelled recordings, and evaluate model files."""


@main.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("runs/fit"), show_default=True)
@click.option(
    "--recipe",
    default="default",
    show_default=True,
    help=f"Name in {RECIPES.parent.name}/{RECIPES.name}/, or a TOML file.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="[default: the recipe's]")
@click.option("--seed", type=click.IntRange(min=0), help="[default: the recipe's]")
@click.option("--test-fold", type=int, default=5, show_default=True, help="Never looked at; 0 holds nothing out.")
@click.option("--validation-fold", type=int, default=0, help="Looked at while training, not trained on; 0: none.")
@click.option("--threads", type=click.IntRange(min=1), help="Of torch. [default: one a core]")
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), default=Path(".cache/features"))
def fit(
    data: Path,
    out: Path,
    recipe: str,
    epochs: int | None,
    seed: int | None,
    test_fold: int,
    validation_fold: int,
    threads: int | None,
    cache: Path,
) -> None:
    """Train on DATA: ESC-50's official layout, or a folder for each class.

    An interrupted run goes on when the same command is given again. Writes OUT/checkpoint.pt.
    """
    import torch

    from train.loop import fit as run

    if threads:
        torch.set_num_threads(threads)
    try:
        manifest = read_manifest(data)
        manifest.in_folds([fold for fold in (test_fold, validation_fold) if fold])  # they must be there
        folds = tuple(sorted({clip.fold for clip in manifest.clips} - {test_fold, validation_fold}))
        config = replace(
            read_recipe(recipe),
            train_folds=folds,
            test_fold=test_fold or None,
            validation_folds=(validation_fold,) if validation_fold else (),
        )
        config = replace(config, epochs=epochs or config.epochs, seed=config.seed if seed is None else seed)
        with click.progressbar(length=config.epochs, label=str(out)) as bar:

            def report(record: dict[str, Any]) -> None:
                bar.update(record["epoch"] - bar.pos)
                bar.label = f"{out} loss {record['loss']:.3f}"
                if "accuracy" in record:
                    click.echo(f"\nepoch {record['epoch']}: validation accuracy {record['accuracy']:.2%}", err=True)

            path = run(config, manifest, out, cache, report)
    except (EdgeError, ManifestError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(path)


@main.command(name="evaluate")
@click.argument("data", type=click.Path(path_type=Path), default=ESC50)
@click.option("--model", type=click.Path(dir_okay=False, path_type=Path), help="ONNX file. [default: the bundled int8]")
@click.option("--fold", type=int, multiple=True, help="Repeatable. [default: the fold that the model never saw]")
@click.option(
    "--hop", type=float, default=DEFAULT_HOP, show_default=True, help="Seconds between the windows of a clip."
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes. [default: one a core]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def evaluate_command(
    data: Path, model: Path | None, fold: tuple[int, ...], hop: float, workers: int | None, as_json: bool
) -> None:
    """Accuracy of a model file on DATA, through the runtime that listens.

    DATA is a folder as `fit` takes it; without it, ESC-50 in ../shared/data/esc50.
    """
    from edge.classifier import Classifier
    from train.evaluate import evaluate

    try:
        manifest, spec = read_manifest(data), Classifier(model).spec
        folds = list(fold)
        if not folds and spec.provenance.test_fold is not None and spec.provenance.dataset == manifest.name:
            folds = [spec.provenance.test_fold]
        clips = manifest.in_folds(folds) if folds else list(manifest.clips)
        report = evaluate(model, clips, hop=hop, workers=workers)
    except (EdgeError, ManifestError) as error:
        raise click.ClickException(str(error)) from None
    precision = spec.provenance.precision
    if as_json:
        click.echo(json.dumps({"model": spec.name, "precision": precision, "folds": folds, **asdict(report)}))
        return
    for row in report.classes:
        click.echo(f"{row.label:24} precision {row.precision:.2f}  recall {row.recall:.2f}  F1 {row.f1:.2f}")
    where = f"fold {', '.join(map(str, folds))}" if folds else "all folds"
    click.echo(
        f"{spec.name} {precision} on {where} of {manifest.name}: "
        f"{report.accuracy:.2%} of {report.clips} clips, {report.window_accuracy:.2%} of {report.windows} windows"
    )


def read_recipe(name: str) -> Any:
    """A :class:`train.loop.TrainConfig` from a TOML file. Raises ValueError for what it does not know."""
    from edge.config import FrontendConfig
    from train.augment import AugmentConfig
    from train.loop import TrainConfig

    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
        raise ValueError(f"there is no recipe {name!r}; there are {there}, or give a TOML file")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        values["frontend"] = FrontendConfig(**values.get("frontend", {}))
        augment = {k: tuple(v) if isinstance(v, list) else v for k, v in values.get("augment", {}).items()}
        values["augment"] = AugmentConfig(**augment)
        return TrainConfig(**values)
    except (tomllib.TOMLDecodeError, TypeError) as error:
        raise ValueError(f"recipe {path}: {error}") from None


if __name__ == "__main__":
    main()
