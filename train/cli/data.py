"""DATA and the options that say how to read it, the same for every command."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from train.readers.options import LAYOUTS, ReadOptions

Command = Callable[..., Any]

COLUMNS = {
    "path": "the file, absolute or from --audio",
    "label": "the class",
    "fold": "a number, or train, validation, test for 1, 2, 3",
    "start": "where the clip starts in the file, seconds",
    "end": "where it ends, seconds",
    "group": "what stays in one fold, such as the source recording",
}
_columns = [
    click.option(f"--{name}-column", default="", help=f"Table: {what}; a name, or a number from 1 without a header.")
    for name, what in COLUMNS.items()
]
OPTIONS = [
    click.option("--layout", type=click.Choice(LAYOUTS), default="auto", show_default=True, help="Of DATA."),
    click.option("--pattern", default="", help="Regular expression for names, with (?P<label>...) or (?P<group>...)."),
    *_columns,
    click.option("--separator", default="", help="Table: what stands between several labels of a clip."),
    click.option("--audio", default="", help="Table: folder of its files. [default: the table's, or audio/ there]"),
    click.option("--where", multiple=True, metavar="COLUMN=VALUE", help="Only these rows of a table; repeatable."),
    click.option("--class", "classes", multiple=True, help="Only this class; repeatable."),
    click.option(
        "--n-folds", type=click.IntRange(1), default=5, show_default=True, help="Where DATA has none; 1: no split."
    ),
    click.option("--split-seed", "split_seed", type=int, default=0, show_default=True, help="Of the dealing."),
    click.option("--strict", is_flag=True, help="A file that cannot be used is an error; else it is skipped."),
]  # fmt: skip

OWN_NAMES = {"seed": "split_seed"}  # a command may have a --seed of its own


def reading_options(command: Command) -> Command:
    """The options of reading a data set; the command gets them as ``options``, a ReadOptions."""

    @functools.wraps(command)
    def with_options(*arguments: Any, **values: Any) -> Any:
        read = {f.name: values.pop(OWN_NAMES.get(f.name, f.name)) for f in fields(ReadOptions)}
        return command(*arguments, options=ReadOptions(**read), **values)

    for option in reversed(OPTIONS):
        with_options = option(with_options)
    return with_options


def data_options(command: Command) -> Command:
    """The argument DATA, as ``data``, and :func:`reading_options`. Where DATA may be left out, give an argument of your
    own, and ``reading_options``.
    """
    argument = click.argument("data", type=click.Path(path_type=Path))
    return argument(reading_options(command))
