"""``python -m train search DATA``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from edge.cli.number import Finite
from train.cli.data import data_options
from train.cli.fit import with_folds
from train.cli.runs import RunOptions, one_line_errors, run_options
from train.manifest import ReadOptions, read_manifest

LOOKS = 10  # times that a trial is validated, so that it can be stopped


@click.command(name="search")
@data_options
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("runs/search"), show_default=True)
@click.option(
    "--space", type=click.Path(dir_okay=False, path_type=Path), help="TOML file. [default: search_spaces/default.toml]"
)
@click.option(
    "--trials", type=click.IntRange(min=1), default=50, show_default=True, help="In all, with those of before."
)
@click.option("--timeout", type=Finite(min=0), help="Seconds after which no other trial begins.")
@click.option("--max-mmacs", type=Finite(min=0), help="Million multiply-accumulates of a window, at most.")
@click.option("--max-parameters", type=click.IntRange(min=1), help="Weights of the network, at most.")
@click.option("--pareto", is_flag=True, help="Accuracy and cost are both objectives: print the best of each cost.")
@click.option("--test-fold", type=int, help="Never looked at; 0: none. [default: the last fold]")
@click.option(
    "--validation-fold", type=int, multiple=True, required=True, help="Judges, and is not trained on. Repeatable."
)
@run_options("quick")
def command(
    data: Path,
    options: ReadOptions,
    out: Path,
    space: Path | None,
    trials: int,
    timeout: float | None,
    max_mmacs: float | None,
    max_parameters: int | None,
    pareto: bool,
    test_fold: int | None,
    validation_fold: tuple[int, ...],
    asked: RunOptions,
) -> None:
    """Search for settings and sizes that recognise the validation fold of DATA best.

    A search that stopped goes on when the same command is given again; --trials and --timeout may differ. Writes
    OUT/best.toml, a recipe, and OUT/trials.csv.
    """
    try:
        from train.search import Search, search
        from train.space import SPACES, read_space
        from train.trials import summary
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error.name} is not installed; pip install -e '.[train]'") from None

    asked.set_threads()
    with one_line_errors():
        manifest = read_manifest(data, options)
        base = asked.config("quick")
        base = with_folds(base, manifest, test_fold, validation_fold)
        base = replace(base, validate_every=min(base.validate_every, max(1, base.epochs // LOOKS)))
        task = Search(
            base=base,
            space=read_space(space or SPACES / "default.toml", base),
            trials=trials,
            max_macs=None if max_mmacs is None else round(max_mmacs * 1e6),
            max_parameters=max_parameters,
            pareto=pareto,
            timeout=timeout,
        )
        study = search(task, manifest, out, asked.features, click.echo, device=asked.device)
    click.echo(summary(study, out))
