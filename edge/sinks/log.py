"""The log on stderr, beside a sink for programs: what a person must know, once."""

from __future__ import annotations

import logging

from edge.records import Record
from edge.sinks.text import LOST, SILENT

log = logging.getLogger("edge.listen")


class Log:
    """Warns when a status says something new."""

    def __init__(self) -> None:
        self._silent, self._lost = False, (0, 0)

    def write(self, record: Record) -> None:
        """Log what is new in a status record; other records are passed over."""
        if record["type"] != "status":
            return
        if record["silent"] and not self._silent:
            log.warning(SILENT)
        lost = (record["overflows"], record["lost_samples"])
        if lost != self._lost:
            log.warning(LOST, *lost)
        self._silent, self._lost = record["silent"], lost

    def close(self) -> None:
        """The log is not ours to close."""
