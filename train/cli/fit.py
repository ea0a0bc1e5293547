"""``python -m train fit DATA``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from edge.errors import EdgeError
from train.config import RECIPES, read_recipe
from train.manifest import ManifestError, read_manifest


@click.command(name="fit")
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
def command(
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

    from train.loop import fit

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

            path = fit(config, manifest, out, cache, report)
    except (EdgeError, ManifestError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(path)
