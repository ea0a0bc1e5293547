"""The log on stderr, beside a sink for programs: what a person must know, once."""

from __future__ import annotations

import logging

from edge.records import Record
from edge.sinks.text import FAILED, news_of

log = logging.getLogger("edge.listen")


class Log:
    """Warns when something is wrong, and when it is well again."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}  # source → its last state

    def write(self, record: Record) -> None:
        """Log what is new in a record of health; of several sources, with its name. Other records are passed over."""
        before = self._states.setdefault(record["source"], "starting")
        if record["type"] == "error":
            self._states[record["source"]] = FAILED
        if record["type"] != "health":
            return
        self._states[record["source"]] = record["state"]
        if news := news_of(record, before):
            log.warning("%s", f"{record['source']}: {news}" if len(self._states) > 1 else news)

    def close(self) -> None:
        """The log is not ours to close."""
