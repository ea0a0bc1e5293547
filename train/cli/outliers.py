"""``python -m train outliers OUT``."""

from __future__ import annotations

from pathlib import Path

import click

from edge.errors import EdgeError


@click.command(name="outliers")
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--kind", "kinds", type=click.Choice(["speech", "music", "noise"]), multiple=True, help="Only this.  [default: all]"
)
@click.option(
    "--minutes", type=click.FloatRange(0, min_open=True), default=6.0, show_default=True, help="At most, of a package."
)
def command(out: Path, kinds: tuple[str, ...], minutes: float) -> None:
    """Write hours of speech, music and steady noise to OUT, for --outliers and --backgrounds.

    Speech and music are taken out of packages of this machine's Debian, all of free licences; 5 GB are downloaded, a
    package at a time. Noise is synthesised. An interrupted run goes on when the same command is given again.
    """
    from train.debian import collect, read_packages
    from train.steady import write_steady

    packages = [p for p in read_packages() if not kinds or p.kind in kinds]
    try:
        if not kinds or "noise" in kinds:
            click.echo(f"{len(list(write_steady(out / 'noise')))} recordings of noise")
        for package, taken in collect(out, packages, minutes):
            files = sum(len(recording.files) for recording in taken)
            click.echo(f"{package.name}: {files} files of {package.kind} in {len(taken)} recordings")
    except EdgeError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}; give another OUT, or free space") from None
    click.echo(str(out))
