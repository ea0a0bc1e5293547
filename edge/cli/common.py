"""What the commands share: configuration files, error lines and exit codes, the model's options."""

from __future__ import annotations

import logging
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from edge.errors import EdgeError

Command = TypeVar("Command", bound=Callable[..., Any])

PROVIDER_CHOICES = ("auto", "cpu", "cuda", "tensorrt")


def read_config(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Callback of ``--config``: the file's values become the defaults of the other options."""
    if path is None:
        return None
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise click.BadParameter(f"{path}: {error}", context, parameter) from None
    known = {p.name for p in context.command.params if p.name not in ("config", "version", "help", "list_devices")}
    values = {key.replace("-", "_"): value for key, value in values.items()}
    if unknown := sorted(set(values) - known):
        allowed = ", ".join(sorted(k.replace("_", "-") for k in known if k))
        raise click.BadParameter(f"{path}: unknown key {', '.join(unknown)}; allowed: {allowed}", context, parameter)
    context.default_map = values
    return path


def config_option(command: Command) -> Command:
    """``--config FILE.toml``."""
    return click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        is_eager=True,
        callback=read_config,
        help="TOML file with any of these options.",
    )(command)


def model_options(command: Command) -> Command:
    """``--model`` and ``--provider``."""
    for option in (
        click.option(
            "--provider",
            type=click.Choice(PROVIDER_CHOICES),
            default="auto",
            show_default=True,
            help="Where the network runs; auto is the CPU, which wins for a network this small.",
        ),
        click.option("--model", type=click.Path(path_type=Path), help="ONNX file. [default: the bundled int8 model]"),
    ):
        command = option(command)
    return command


def channel_value(context: click.Context, parameter: click.Parameter, value: str) -> int | None:
    """Callback of ``--channel``: a number from 0, or None for a mix."""
    if value == "mix":
        return None
    if value.isdigit():
        return int(value)
    raise click.BadParameter(f"{value!r} is neither a channel, counted from 0, nor 'mix'", context, parameter)


def channel_option(command: Command) -> Command:
    """``--channel``."""
    return click.option(
        "--channel",
        default="mix",
        show_default=True,
        callback=channel_value,
        help="Channel to listen to, counted from 0, or mix.",
    )(command)


def log_to_stderr(verbose: bool) -> None:
    """Logs go to stderr: stdout is for results."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(message)s", stream=sys.stderr)


def log_settings(context: click.Context) -> None:
    """The effective settings, and where each comes from."""
    log = logging.getLogger("edge.settings")
    for name, value in sorted(context.params.items()):
        source = context.get_parameter_source(name)
        log.info("%s = %s (%s)", name.replace("_", "-"), value, source.name.lower() if source else "unknown")


def fail(error: EdgeError) -> NoReturn:
    """One line on stderr, and the documented exit code."""
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(error.exit_code)
