"""``python -m train more OUT``."""

from __future__ import annotations

from pathlib import Path

import click

from train.cli.outliers import tell, written_to


@click.command(name="more")
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
def command(out: Path) -> None:
    """Write some 250 clips of ESC-50's classes to OUT, a folder for each: for --more, or to evaluate on.

    They are taken out of packages of this machine's Debian, all of free licences; 3 GB are downloaded, a package at a
    time. An interrupted run goes on when the same command is given again.
    """
    from train.debian import CLIPS, collect, read_packages

    with written_to(out):
        tell(collect(out, read_packages(CLIPS)))
