"""``python -m train outliers OUT``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.cli.number import Finite
from edge.errors import EdgeError

if TYPE_CHECKING:
    from train.debian import Taken


@click.command(name="outliers")
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--kind",
    "kinds",
    type=click.Choice(["speech", "music", "sounds", "noise"]),
    multiple=True,
    help="Only this. Repeatable.  [default: all]",
)
@click.option("--minutes", type=Finite(0, min_open=True), default=6.0, show_default=True, help="At most, of a package.")
def command(out: Path, kinds: tuple[str, ...], minutes: float) -> None:
    """Write hours of speech, music, other sounds and steady noise to OUT, for --outliers and --backgrounds.

    They are taken out of packages of this machine's Debian, all of free licences; 6 GB are downloaded, a package at a
    time. Noise is synthesised. None of the sounds is one of ESC-50's classes. An interrupted run goes on when the same
    command is given again.
    """
    from train.debian import collect, read_packages
    from train.steady import write_steady

    packages = [p for p in read_packages() if not kinds or p.kind in kinds]
    with written_to(out):
        if not kinds or "noise" in kinds:
            click.echo(f"{len(list(write_steady(out / 'noise')))} recordings of noise")
        tell(collect(out, packages, minutes))


@contextmanager
def written_to(out: Path) -> Iterator[None]:
    """Prints ``out`` at the end; what goes wrong for a reason that the user can change ends in one line."""
    from soundfile import LibsndfileError

    try:
        yield
    except EdgeError as error:
        raise click.ClickException(str(error)) from None
    except (OSError, LibsndfileError) as error:
        why = getattr(error, "strerror", None) or error
        raise click.ClickException(f"{out} cannot be written: {why}; give another OUT, or free space") from None
    click.echo(str(out))


def tell(collected: Iterable[tuple[str, list[Taken]]]) -> None:
    """A line for each package."""
    for name, taken in collected:
        click.echo(f"{name}: {sum(len(recording.files) for recording in taken)} files in {len(taken)} recordings")
