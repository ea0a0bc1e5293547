"""What of an event a sink is told of: that it begins, that it ends, and that its clip is there."""

from __future__ import annotations

from collections.abc import Sequence

from edge.errors import SinkError
from edge.records import Record

PHASES = ("begin", "end", "clip")
DEFAULT_PHASES = ("begin", "end")


def phase_of(record: Record) -> str | None:
    """Which of PHASES ``record`` is; None: of no interest, as a clip that was not written."""
    if record["type"] == "event":
        phase: str = record["phase"]
        return phase
    return "clip" if record["type"] == "clip" and record["state"] == "written" else None


def types_of(phases: Sequence[str]) -> frozenset[str]:
    """The types of the records that are of one of ``phases``."""
    return frozenset({"event", "clip"} if "clip" in phases else {"event"})


def require_phases(phases: Sequence[str], sink: str) -> None:
    """Raises SinkError for another one."""
    if set(phases) - set(PHASES):
        raise SinkError(f"{sink}: phases are {list(phases)}", remedy="use begin, end and clip", retry=False)
