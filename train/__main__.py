"""``python -m train COMMAND``: the commands are in :mod:`train.cli`, one file each."""

from __future__ import annotations

import importlib

import click

COMMANDS = ("crossval", "describe", "evaluate", "fit", "more", "outliers", "preview", "report", "search")


class Commands(click.Group):
    """The commands by name; a module is imported when its command is called, or its help shown."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command ``name``: ``command`` of its module."""
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"train.cli.{name}").command
        return command


@click.group(cls=Commands)
def main() -> None:
    """Train on labelled recordings, and evaluate model files."""


if __name__ == "__main__":
    main(prog_name="python -m train")
