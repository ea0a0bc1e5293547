"""Where records go: one file for each place. A sink has ``write(record)`` and ``close()``."""

from __future__ import annotations

from typing import Protocol

from edge.errors import SinkError
from edge.records import Record

LONGEST_WAIT = 86_400.0  # seconds that a sink may be told to wait; the system cannot wait for any number of them


class Sink(Protocol):
    """A place for records.

    It may also have ``types``, those of the records that it wants, and ``abort()``, which ends, from another thread, a
    ``write`` that goes on; :class:`edge.delivery.Delivery` uses both.
    """

    def write(self, record: Record) -> None:
        """Take one record."""

    def close(self) -> None:
        """Nothing more will come."""


def require_timeout(seconds: float, sink: str) -> None:
    """Raises SinkError, which begins with ``sink``, for what cannot be waited for."""
    if not 0 < seconds <= LONGEST_WAIT:
        remedy = f"use seconds above 0, at most {LONGEST_WAIT:g}"
        raise SinkError(f"{sink}: timeout is {seconds}", remedy=remedy, retry=False)
