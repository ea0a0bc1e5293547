"""What a regular expression says about a file's name."""

from __future__ import annotations

import re
from pathlib import Path

from train.clip import ManifestError

GROUPS = ("label", "group", "fold")


class NamePattern:
    """A regular expression with groups named label, group and fold; a single unnamed group is the label.

    It is searched in the name without its suffix; with a ``/`` in it, in the path below the data set's folder.
    """

    def __init__(self, pattern: str) -> None:
        try:
            self._regex = re.compile(pattern)
        except re.error as error:
            raise ManifestError(f"--pattern {pattern!r} is no regular expression: {error}") from None
        self.groups = set(self._regex.groupindex)
        if not self.groups and self._regex.groups == 1:
            self.groups = {"label"}
        if unknown := self.groups - set(GROUPS) or not self.groups:
            what = f"a group {', '.join(sorted(unknown))}" if isinstance(unknown, set) else "no group"
            raise ManifestError(f"--pattern {pattern!r} has {what}; allowed: (?P<label>...), group and fold")
        self._on_path = "/" in pattern

    def match(self, path: Path, root: Path) -> dict[str, str] | None:
        """The groups' texts; None where the name does not match."""
        text = path.relative_to(root).with_suffix("").as_posix() if self._on_path else path.stem
        found = self._regex.search(text)
        if found is None:
            return None
        named = {name: value for name, value in found.groupdict().items() if value}
        return named if self._regex.groupindex else {"label": found[1]} if found[1] else None
