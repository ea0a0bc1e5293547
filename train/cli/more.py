"""``python -m train more OUT``."""

from __future__ import annotations

from pathlib import Path

import click

from edge.errors import EdgeError
from train.cli.outliers import tell


@click.command(name="more")
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
def command(out: Path) -> None:
    """Write some 240 clips of ESC-50's classes to OUT, a folder for each: for --more, or to evaluate on.

    They are taken out of packages of this machine's Debian, all of free licences; 3 GB are downloaded, a package at a
    time. An interrupted run goes on when the same command is given again.
    """
    from train.debian import CLIPS, collect, read_packages

    try:
        tell(collect(out, read_packages(CLIPS)))
    except EdgeError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}; give another OUT, or free space") from None
    click.echo(str(out))
