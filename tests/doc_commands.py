"""The commands of a page: ``python tests/doc_commands.py PAGE PLACE`` prints those that are run at PLACE.

A comment before each fence of sh says where the check runs it, ``<!-- run: here -->`` or ``<!-- run: pi -->``, or why
it does not: ``<!-- not run: a card is written -->``.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"(?:<!-- (?P<how>run|not run): (?P<what>[^>]+?) -->\n)?```sh\n(?P<text>.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Commands:
    """A fence."""

    place: str | None  # where it is run; None: nowhere
    reason: str | None  # why it is not run
    lines: tuple[str, ...]  # as a person types them, without comments


def commands_of(page: str) -> list[Commands]:
    """Every sh fence of a page. Raises ValueError for one that says neither."""
    found = []
    for match in FENCE.finditer(page):
        how, what = match["how"], match["what"]
        if how is None:
            raise ValueError(f"neither run nor said why not: {match['text']!r}")
        lines = tuple(re.sub(r"\s+#.*", "", line) for line in match["text"].splitlines() if line.strip())
        found.append(Commands(what if how == "run" else None, what if how == "not run" else None, lines))
    return found


def main(page: str, place: str) -> None:
    for commands in commands_of(Path(page).read_text()):
        if commands.place == place:
            print(*commands.lines, sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
