"""``python -m train crossval DATA``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from train.cli.data import data_options
from train.cli.pictures import check_picture
from train.cli.runs import RunOptions, one_line_errors, run_options
from train.crossval import CrossValidation, cross_validate, histories, write_json
from train.manifest import ReadOptions, read_manifest
from train.progress import RunProgress, Watch


@click.command(name="crossval")
@data_options
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("runs/crossval"), show_default=True
)
@click.option("--fold", type=int, multiple=True, help="Hold out only this one. Repeatable. [default: each in turn]")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Folds trained at once.")
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Also write the result here."
)
@click.option(
    "--curves", type=click.Path(dir_okay=False, path_type=Path), help="Also draw the training loss of all folds here."
)
@run_options("default")
def command(
    data: Path,
    options: ReadOptions,
    out: Path,
    fold: tuple[int, ...],
    jobs: int,
    json_path: Path | None,
    curves: Path | None,
    asked: RunOptions,
) -> None:
    """Hold out each fold of DATA in turn, train on the others, export, and measure the int8 file as a device runs it.

    An interrupted cross-validation goes on when the same command is given again.
    """
    from train.figures import folds_figure, save_png

    with one_line_errors():
        check_picture(curves)
        manifest = read_manifest(data, options)
        manifest.in_folds(list(fold))  # they must be there
        config = asked.config()
        with RunProgress() as progress:
            result = cross_validate(
                config,
                manifest,
                out,
                asked.features,
                folds=fold,
                device=asked.device,
                jobs=jobs,
                threads=asked.threads or 1,
                strict=options.strict,
                command=shlex.join(["python", "-m", "train", *sys.argv[1:]]),
                tick=Watch(out, progress).look,
            )
        for path in filter(None, (out / "crossval.json", json_path)):
            write_json(result, path)
        for path in filter(None, (out / "curves.png", curves)):
            save_png(folds_figure(histories(out)), path)
    click.echo(table(result))


def table(result: CrossValidation) -> str:
    """In Markdown."""
    lines = ["| fold held out | int8, clips | int8, windows | fp32, clips |", "|---|---|---|---|"]
    lines += [
        f"| {row.fold} | {row.accuracy:.2%} | {row.window_accuracy:.2%} | {row.fp32_accuracy:.2%} |"
        for row in result.folds
    ]
    mean = f"**{result.mean:.2%}** ± {100 * result.spread:.1f}"
    lines.append(f"| mean | {mean} | {result.window_mean:.2%} | {result.fp32_mean:.2%} |")
    cost = f"{result.macs / 1e6:.0f} MMAC a window, {result.bytes / 1000:.0f} kB"
    return "\n".join([*lines, "", f"`{result.model}` on {result.clips} clips of {result.dataset}: {cost}"])
