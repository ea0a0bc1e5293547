"""What is looked at: what edge-listen was asked to do, as far as the doctor must know it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.rules import EventConfig

RATE = 16_000  # Hz, where the model does not tell


@dataclass(frozen=True)
class Ear:
    """A source that edge-listen would open."""

    name: str = ""  # where there are several, what its records call it
    input: str | None = None  # file, URL or "-"; None: a microphone
    device: str | None = None  # index, id or a part of the name of a microphone; None: the system's
    channel: int | None = None  # from 0; None mixes
    events: EventConfig = EventConfig()
    site: Path | None = None  # thresholds of edge-calibrate

    def called(self, check: str) -> str:
        """The name of a check of this source."""
        return f"{check} of {self.name}" if self.name else check


@dataclass(frozen=True)
class Place:
    """A place for records."""

    name: str  # as the configuration names it
    kind: str  # of sink: key of edge.cli.sinks.KINDS, or "metrics"
    config: Any  # the configuration of that kind
    spool: Path | None = None  # where records wait while it is away


@dataclass(frozen=True)
class Subject:
    """A device that listens, or is to."""

    ears: tuple[Ear, ...] = (Ear(),)
    model: str | None = None  # as edge.models.resolve takes it
    provider: str = "auto"
    threads: int | None = None  # None: the pick of edge-bench --tune
    hop: float | None = None  # seconds; None: the model's default
    places: tuple[Place, ...] = ()
    clips: str = ""  # folder; empty: none are kept
    seconds: float = 3.0  # to record
    root: Path = Path("/")  # of /proc, /sys, /dev, /run; another one in tests

    @property
    def microphones(self) -> tuple[Ear, ...]:
        """Those of the ears that are devices."""
        return tuple(ear for ear in self.ears if ear.input is None)


def read(path: Path) -> str:
    """A small file's text without the space around it; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").replace("\0", " ").strip()
    except OSError:
        return ""
