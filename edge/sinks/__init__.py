"""Where records go: one file for each place. A sink has ``write(record)`` and ``close()``."""

from __future__ import annotations

from typing import Protocol

from edge.records import Record


class Sink(Protocol):
    """A place for records."""

    def write(self, record: Record) -> None:
        """Take one record."""

    def close(self) -> None:
        """Nothing more will come."""
