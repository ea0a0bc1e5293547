"""The options that every command that trains has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from train.config import RECIPES

CACHE = Path(".cache/features")


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --recipe, --set, --epochs, --seed, --backgrounds, --device, --threads, --cache and --no-cache."""
    options = (
        click.option(
            "--recipe",
            default="default",
            show_default=True,
            help=f"Name in {RECIPES.parent.name}/{RECIPES.name}/, or a TOML file.",
        ),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="KEY=VALUE",
            help="Change a field of the recipe, as in --set augment.mix=0.5. Repeatable.",
        ),
        click.option("--epochs", type=click.IntRange(min=1), help="[default: the recipe's]"),
        click.option("--seed", type=click.IntRange(min=0), help="[default: the recipe's]"),
        click.option(
            "--backgrounds",
            type=click.Path(exists=True, path_type=Path),
            help="Folder of noise that is mixed in (augment.background).",
        ),
        click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1; auto takes a GPU if any."),
        click.option("--threads", type=click.IntRange(min=1), help="Of torch, for each process. [default: its own]"),
        click.option("--cache", type=click.Path(file_okay=False, path_type=Path), default=CACHE, show_default=True),
        click.option("--no-cache", is_flag=True, help="Decode the clips again whenever they are needed."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def all_settings(
    settings: tuple[str, ...], epochs: int | None, seed: int | None, backgrounds: Path | None
) -> list[str]:
    """The shortcuts among the options, as settings."""
    shortcuts = {"epochs": epochs, "seed": seed, "backgrounds": backgrounds and str(backgrounds)}
    return [*settings, *(f"{key}={value}" for key, value in shortcuts.items() if value is not None)]
