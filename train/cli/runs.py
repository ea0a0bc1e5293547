"""The options that every command that trains has."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import click

from edge.cli.number import AT_ONCE
from edge.errors import EdgeError
from train.bounds import MAX_SEED
from train.config import RECIPES, TrainConfig, read_recipe
from train.manifest import ManifestError

CACHE = Path(".cache/features")
SETTINGS = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a field of the recipe, as in --set augment.mix=0.5. Repeatable.",
)
BACKGROUNDS = click.option(
    "--backgrounds",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="Folder of noise that is mixed in (augment.background). Repeatable.",
)
OPTIONS = [
    SETTINGS,
    click.option("--epochs", type=click.IntRange(min=1), help="[default: the recipe's]"),
    click.option("--seed", type=click.IntRange(0, MAX_SEED), help="[default: the recipe's]"),
    BACKGROUNDS,
    click.option(
        "--outliers",
        multiple=True,
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Folder of recordings that are none of the classes, to learn what is unknown (outlier_share). Repeatable.",
    ),
    click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1; auto takes a GPU if any."),
    click.option("--threads", type=AT_ONCE, help="Of torch, for each process. [default: its own]"),
    click.option("--cache", type=click.Path(file_okay=False, path_type=Path), default=CACHE, show_default=True),
    click.option("--no-cache", is_flag=True, help="Decode the clips again whenever they are needed."),
]


@dataclass(frozen=True)
class RunOptions:
    """What was asked for."""

    recipe: str | None
    settings: tuple[str, ...]  # "key=value"
    epochs: int | None
    seed: int | None
    backgrounds: tuple[Path, ...]
    outliers: tuple[Path, ...]
    device: str
    threads: int | None
    cache: Path
    no_cache: bool

    def config(self, recipe: str = "default") -> TrainConfig:
        """The recipe that was asked for, or else ``recipe``, with all settings. Raises ValueError."""
        config, default = read_recipe(self.recipe or recipe, self.settings), TrainConfig()
        for name in ("train_folds", "validation_folds", "test_fold"):
            if getattr(config, name) != getattr(default, name):
                raise ValueError(f"{name} belongs to the data; give --test-fold and --validation-fold instead")
        shortcuts: dict[str, Any] = {"epochs": self.epochs, "seed": self.seed}
        shortcuts |= {"backgrounds": _texts(self.backgrounds), "outliers": _texts(self.outliers)}
        return replace(config, **{name: value for name, value in shortcuts.items() if value is not None})

    @property
    def features(self) -> Path | None:
        """Where features are cached; None: nowhere."""
        return None if self.no_cache else self.cache

    def set_threads(self) -> None:
        """Of torch, in this process."""
        import torch

        if self.threads:
            torch.set_num_threads(self.threads)


def _texts(paths: tuple[Path, ...]) -> tuple[str, ...] | None:
    return tuple(map(str, paths)) or None


@contextmanager
def one_line_errors() -> Iterator[None]:
    """What goes wrong for a reason that the user can change ends in one line."""
    try:
        yield
    except (EdgeError, ManifestError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise click.ClickException(f"{reason}; give another --out or --cache, or free space") from None


def run_options(recipe: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds the options; the command gets them as ``asked``, a RunOptions. ``recipe``: its default, in words."""
    named = f"Name in {RECIPES.parent.name}/{RECIPES.name}/, or a TOML file. [default: {recipe}]"

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_options(*arguments: Any, **values: Any) -> Any:
            asked = RunOptions(**{f.name: values.pop(f.name) for f in fields(RunOptions)})
            return command(*arguments, asked=asked, **values)

        for option in reversed([click.option("--recipe", help=named), *OPTIONS]):
            with_options = option(with_options)
        return with_options

    return add
