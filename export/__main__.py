"""``python -m export CHECKPOINT``: model files with their contract, verified, and a model card.

``python -m export wrap MODEL.onnx``: a classifier of others', with our contract.

``python -m export upgrade MODEL.onnx``: a file of a former version, as this version reads it.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from edge.cli.number import AT_ONCE, Finite
from edge.config import CONTROL
from edge.errors import EdgeError
from export.artefacts import COMPARE, Exported, export
from export.graphs import ALWAYS, SUFFIXES
from export.package import package
from export.quantize import RANGES
from export.upgrade import upgrade
from export.verify import CHANCE, MOST_LOSS, ParityError
from export.wrap import wrap_apart
from models.checkpoint import load_checkpoint
from train.manifest import ManifestError

MANIFEST = "manifest.jsonl"  # as train.loop writes it


class Commands(click.Group):
    """A group whose command ``checkpoint`` need not be named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the name in front of what is neither a command nor a call for help."""
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["checkpoint", *args]
        return super().parse_args(ctx, args)


@click.group(cls=Commands)
def main() -> None:
    """Make model files: of a CHECKPOINT (python -m export CHECKPOINT ...), or of another's ONNX file (wrap)."""


class RegularFile(click.Path):
    """A file that is there; what is no file is not opened: a pipe would be waited for."""

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See the class."""
        path = super().convert(value, param, ctx)
        if not path.is_file():
            self.fail(f"{str(path)!r} is a pipe or a device, no file", param, ctx)
        return path


def line(_: click.Context, __: click.Parameter, value: str) -> str:
    """``value``, if a contract can say it."""
    if not value.strip() or CONTROL.search(value):
        raise click.BadParameter(f"{value!r}; allowed: text of one line without control characters, such as CC-BY-4.0")
    return value


def stem(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """``value``, if it can begin a file's name."""
    if value is not None and (
        not value.strip() or Path(value).name != value or value.startswith(".") or CONTROL.search(value)
    ):
        raise click.BadParameter(f"{value!r} is no stem of a file's name; give one without a folder, such as birds")
    return value


@main.command(name="checkpoint")
@click.argument("checkpoint", type=RegularFile())
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="The data set that it was trained on. [default: manifest.jsonl beside CHECKPOINT]",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("runs/export"), show_default=True)
@click.option("--name", default="edge-listen", callback=stem, show_default=True, help="Stem of the files' names.")
@click.option("--licence", required=True, callback=line, help="Licence of the weights, as the data's owners allow it.")
@click.option(
    "--temperature",
    type=Finite(min=0, min_open=True),
    help="Of the scores. [default: learnt from the held-out fold]",
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(list(SUFFIXES)),
    multiple=True,
    help=f"Also write this one; {' and '.join(ALWAYS)} are always there. Repeatable.",
)
@click.option(
    "--ranges",
    type=click.Choice([*RANGES, COMPARE]),
    default="minmax",
    show_default=True,
    help="How int8 finds the ranges of activations; compare takes the best on other training clips.",
)
@click.option(
    "--most-loss",
    type=Finite(min=0),
    default=MOST_LOSS,
    show_default=True,
    metavar="POINTS",
    help="Of accuracy on the held-out fold, that a file may lose against fp32.",
)
@click.option("--degrade", is_flag=True, help="Also measure on degraded recordings, for the card.")
@click.option(
    "--package",
    "as_package",
    is_flag=True,
    help="Make OUT a model package: model.int8.onnx, model.onnx, README.md, labels.csv, report.csv.",
)
@click.option("--made-by", help="Command that the card names. [default: this one]")
@click.option("--workers", type=AT_ONCE, help="Processes that measure the files. [default: one a core]")
def export_checkpoint(
    checkpoint: Path,
    data: Path | None,
    out: Path,
    name: str,
    licence: str,
    temperature: float | None,
    precisions: tuple[str, ...],
    ranges: str,
    most_loss: float,
    degrade: bool,
    as_package: bool,
    made_by: str | None,
    workers: int | None,
) -> None:
    """Export CHECKPOINT to OUT/NAME.onnx and OUT/NAME.int8.onnx, with a model card; or to a package (--package).

    --precision int8-s8s8 and --precision fp16 write NAME.s8s8.onnx and NAME.fp16.onnx as well, for TensorRT and CUDA.
    """
    options = ["--data", str(data)] if data else []
    options += [
        "--name",
        name,
        "--licence",
        licence,
        *(["--temperature", f"{temperature:g}"] if temperature else []),
        *(part for precision in precisions for part in ("--precision", precision)),
        *(["--ranges", ranges] if ranges != "minmax" else []),
        *(["--most-loss", f"{most_loss:g}"] if most_loss != MOST_LOSS else []),
        *["--degrade"] * degrade,
        *["--package"] * as_package,
    ]
    command = made_by or f"python -m export {shlex.join([checkpoint.name, *options])}"
    try:
        trained = load_checkpoint(checkpoint)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{checkpoint} cannot be read: {error.strerror}") from None
    try:
        exported = (package if as_package else export)(
            trained,
            data or beside(checkpoint),
            out,
            name=name,
            licence=licence,
            temperature=temperature,
            command=command,
            precisions=precisions,
            ranges=ranges,
            most_loss=most_loss,
            workers=workers,
            degrade=degrade,
        )
    except (EdgeError, ManifestError, ParityError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise unwritable(out, error) from None
    show(exported)


def show(exported: Exported) -> None:
    """What was found."""
    for precision, found in exported.trials.items():
        for parity in found.values():
            click.echo(f"ranges, on other training clips: {parity}")
        click.echo(f"ranges of {precision}: {next(iter(found))}")
    for parity in exported.parities:
        click.echo(parity)
    for precision, report in exported.reports.items():
        click.echo(f"{precision}: accuracy {report.accuracy:.2%} of clips, {report.window_accuracy:.2%} of windows")
    for loss in exported.losses:
        chance = "" if loss.points <= 0 or loss.chance < CHANCE else ", as chance would have it"
        click.echo(
            f"{loss.name} loses {loss.points:.2f} points against fp32: {loss.lost} clips lost, {loss.won} won{chance}"
        )
    if exported.calibration is not None:
        c = exported.calibration
        click.echo(f"temperature {c.temperature:g}: calibration error {c.error_before:.3f} → {c.error_after:.3f}")
    if exported.robustness is not None:
        click.echo(f"other microphones: {exported.robustness.summary()}")
    click.echo(f"wrote {', '.join(map(str, exported.files.values()))} and {exported.card}")


@main.command(name="wrap")
@click.argument("model", type=RegularFile())
@click.option(
    "--contract",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML or JSON: labels, front end, layout, scores, licence, data set (docs/packages.md).",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("runs/export"), show_default=True)
@click.option("--name", callback=stem, show_default="MODEL's", help="Stem of the file's name.")
def wrap_model(model: Path, contract: Path, out: Path, name: str | None) -> None:
    """Give MODEL, any classifier in ONNX, a contract, as OUT/NAME.onnx: edge-listen then runs it."""
    try:
        path, spec = wrap_apart(model, contract, out, name=name)
    except EdgeError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise unwritable(out, error) from None
    cost = (
        f"{spec.provenance.macs / 1e6:.3g} million multiply-accumulates" if spec.provenance.macs else "cost not counted"
    )
    click.echo(f"{len(spec.labels)} classes, windows of {spec.window_seconds:.2f} s, {cost}; proven by the runtime")
    click.echo(f"wrote {path}")


@main.command(name="upgrade")
@click.argument("models", nargs=-1, required=True, type=RegularFile())
def upgrade_models(models: tuple[Path, ...]) -> None:
    """Write MODELS of a former version anew: the same network, labels and thresholds, for this version's runtime."""
    for path in models:
        try:
            done = upgrade(path)
        except EdgeError as error:
            raise click.ClickException(str(error)) from None
        except OSError as error:
            raise click.ClickException(f"{path} cannot be read or written: {error.strerror}") from None
        click.echo(f"{path}: {'upgraded' if done else 'needs nothing'}")


def unwritable(out: Path, error: OSError) -> click.ClickException:
    """One line for a folder that does not take what was made."""
    return click.ClickException(f"{out} cannot be written: {error.strerror}; give another --out")


def beside(checkpoint: Path) -> Path:
    """The manifest that training wrote beside ``checkpoint``. Raises ValueError where there is none."""
    manifest = checkpoint.parent / MANIFEST
    if not manifest.is_file():
        raise ValueError(f"there is no {MANIFEST} beside {checkpoint}; give --data that of its run, or the data set")
    return manifest


if __name__ == "__main__":
    main(prog_name="python -m export")
