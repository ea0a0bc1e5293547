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
        """Log what is new in a status record; other records are passed over."""
        if record["type"] != "status":
            return
        silent, before = self._known.get(record["source"], (False, (0, 0)))
        if record["silent"] and not silent:
            log.warning(SILENT)
        lost = (record["overflows"], record["lost_samples"])
        if lost != before:
            log.warning(LOST, *lost)
        self._known[record["source"]] = record["silent"], lost

    def close(self) -> None:
        """The log is not ours to close."""
