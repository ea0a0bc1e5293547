"""``python -m train report RUN``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(name="report")
@click.argument("run", type=click.Path(file_okay=False, path_type=Path))
def command(run: Path) -> None:
    """Write RUN/report.html: settings, curves, metrics, mistakes; RUN is a folder that `fit` wrote.

    The page needs no other file. What the folder lacks, the page lacks, and says so.
    """
    from train.report import write_report

    try:
        click.echo(write_report(run))
    except ValueError as error:
        raise click.ClickException(str(error)) from None
