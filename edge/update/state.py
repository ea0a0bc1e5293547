"""What a device remembers of its models: one small file, replaced as a whole, so that no two facts can disagree."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.errors import EdgeError
from edge.settings import settings_of
from edge.update import disk
from edge.update.release import Release, release_of
from edge.update.rules import ShadowRules

SCHEMA_VERSION = 1
MAX_REJECTED = 50  # that are remembered


@dataclass(frozen=True)
class Rejected:
    """A release that this device does not take again."""

    number: int
    reason: str
    time: str  # RFC 3339
    report: dict[str, Any] | None = None  # the ShadowReport


@dataclass(frozen=True)
class State:
    """What is there, and what was decided."""

    current: Release | None = None  # None: the bundled model
    candidate: Release | None = None  # whole and proven, in shadow or waiting for it
    rules: ShadowRules = dataclasses.field(default_factory=ShadowRules)  # of the candidate
    former: tuple[Release, ...] = ()  # kept, the latest first
    rejected: tuple[Rejected, ...] = ()  # the latest first
    clock: float = 0.0  # seconds since 1970: it was later than this once
    since: str = ""  # RFC 3339, when the current one became current
    report: dict[str, Any] | None = None  # the ShadowReport by which it did

    def releases(self) -> tuple[Release, ...]:
        """All whose files are kept."""
        return (*filter(None, (self.current, self.candidate)), *self.former)

    def rejection(self, number: int) -> Rejected | None:
        """Why the release is not taken; None for one that may be."""
        return next((entry for entry in self.rejected if entry.number == number), None)

    def without(self, *numbers: int) -> tuple[Release, ...]:
        """The former releases but for these."""
        return tuple(release for release in self.former if release.number not in numbers)


class BrokenStateError(Exception):
    """The file is there, and makes no sense."""


def read(path: Path) -> State:
    """The state; an empty one where there is no file. Raises BrokenStateError."""
    try:
        return _state(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return State()
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, EdgeError) as error:
        raise BrokenStateError(f"{path}: {error}") from None


def write(path: Path, state: State) -> None:
    """Replace the file. Raises OSError; the file is the old one or the new one then, and whole."""
    document = {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(state)}
    disk.write(path, (json.dumps(document, indent=2) + "\n").encode())


def _state(document: dict[str, Any]) -> State:
    if document["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"schema_version {document['schema_version']!r}")
    return State(
        current=_release(document["current"]),
        candidate=_release(document["candidate"]),
        rules=settings_of(ShadowRules, document["rules"], "rules"),
        former=tuple(map(release_of, document["former"])),
        rejected=tuple(map(_rejected, document["rejected"])),
        clock=float(document["clock"]),
        since=str(document["since"]),
        report=document["report"],
    )


def _rejected(document: dict[str, Any]) -> Rejected:
    report = document["report"]
    entry = settings_of(Rejected, {key: document[key] for key in ("number", "reason", "time")}, "rejected")
    return dataclasses.replace(entry, report=report)


def _release(document: dict[str, Any] | None) -> Release | None:
    return None if document is None else release_of(document)
