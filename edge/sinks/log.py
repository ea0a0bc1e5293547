"""The log on stderr: what a person must know, once."""

from __future__ import annotations

import logging

from edge.records import Record
from edge.sinks.text import FAILED, calibrated, news_of, no_clip

log = logging.getLogger("edge.listen")


class Log:
    """Beside a sink for programs: warns when something is wrong, and when it is well again; of clips, when they begin
    to be dropped.
    """

    def __init__(self) -> None:
        self._states: dict[str, str] = {}  # source → its last state
        self._dropping: set[str] = set()  # sources whose clips are dropped, until one is written

    def write(self, record: Record) -> None:
        """Log what is new in a record of health or of a clip; of several sources, with its name. Of a start, by what
        other thresholds it listens. Others pass.
        """
        before = self._states.setdefault(record["source"], "starting")
        if record["type"] == "error":
            self._states[record["source"]] = FAILED
        if record["type"] == "start":
            for line in calibrated(record):
                log.warning("listening to %s %s", record["source"], line)
        news = None
        if record["type"] == "clip":
            news = self._clip(record)
        elif record["type"] == "health":
            self._states[record["source"]] = record["state"]
            news = news_of(record, before)
        if news:
            log.warning("%s", f"{record['source']}: {news}" if len(self._states) > 1 else news)

    def _clip(self, clip: Record) -> str | None:
        if clip["state"] == "written":
            self._dropping.discard(clip["source"])
        if clip["state"] != "dropped" or clip["source"] in self._dropping:
            return None
        self._dropping.add(clip["source"])
        return no_clip(clip)

    def close(self) -> None:
        """The log is not ours to close."""


class DroppedClips:
    """Says at the end how many clips were dropped, where any was."""

    def __init__(self) -> None:
        self._number, self._reason = 0, ""

    def write(self, record: Record) -> None:
        """Count ``record`` where it is of a clip that was dropped."""
        if record["type"] == "clip" and record["state"] == "dropped":
            self._number, self._reason = self._number + 1, record["reason"]

    def close(self) -> None:
        """Say it."""
        if self._number:
            log.warning("clips: %d were dropped, the last one: %s", self._number, self._reason)
