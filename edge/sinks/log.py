"""The log on stderr, beside a sink for programs: what a person must know, once."""

from __future__ import annotations

import logging

from edge.records import Record
from edge.sinks.text import LOST, SILENT

log = logging.getLogger("edge.listen")


class Log:
    """Warns when a status says something new."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[bool, tuple[int, int]]] = {}  # source → silent; overflows and samples lost

    def write(self, record: Record) -> None:
        """Log what is new in a status record; of several sources, with its name. Other records are passed over."""
        silent, before = self._known.setdefault(record["source"], (False, (0, 0)))
        if record["type"] != "status":
            return
        whose = f"{record['source']}: " if len(self._known) > 1 else ""
        if record["silent"] and not silent:
            log.warning("%s", whose + SILENT)
        lost = (record["overflows"], record["lost_samples"])
        if lost != before:
            log.warning("%s", whose + LOST % lost)
        self._known[record["source"]] = record["silent"], lost

    def close(self) -> None:
        """The log is not ours to close."""
