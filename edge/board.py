"""The one place where the health of all sources is known, and whether they make progress; read from any thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from threading import Condition
from typing import Any

from edge.health import Health, State

WORST: tuple[State, ...] = ("lost", "starting", "degraded", "listening")  # of several, the first one is that of all
HEARING = ("listening", "degraded")
WAITING_SECONDS = 600.0  # that a source may be waited for, until a restart is tried: it may cure what waiting cannot


class Board:
    """Sessions write on it; ``/healthz``, ``/readyz`` and the watchdog read it.

    Progress is a promise: whoever goes on says within how many seconds it will say so again.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` gives seconds that never go back."""
        self.troubles: Callable[[], Sequence[str]] = tuple  # the names of the sinks that do not take records
        self._clock = clock
        self._changed = Condition()
        self._health: dict[str, Health] = {}  # by source
        self._due: dict[str, float] = {}  # who makes progress → when it is to be heard of again
        self._lost: dict[str, float] = {}  # source → since when it has been waited for

    def show(self, source: str, health: Health) -> None:
        """The health of ``source`` from now on."""
        with self._changed:
            self._health[source] = health
            if health.state == "lost":
                self._lost.setdefault(source, self._clock())
            else:
                self._lost.pop(source, None)
            self._changed.notify_all()

    def promise(self, who: str, seconds: float) -> None:
        """``who``, a source or a loop, goes on, and will say so again within ``seconds``."""
        with self._changed:
            self._due[who] = self._clock() + seconds

    def renew(self, seconds: float) -> None:
        """All who make progress wait for somebody else: nobody is to be heard of again within ``seconds``."""
        with self._changed:
            until = self._clock() + seconds
            self._due = {who: max(due, until) for who, due in self._due.items()}

    def leave(self, who: str) -> None:
        """``who`` has ended: nothing is expected of it any more. A source that is lost stays so."""
        with self._changed:
            self._due.pop(who, None)
            self._lost.pop(who, None)
            if who in self._health and self._health[who].state != "lost":
                del self._health[who]
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Until a health has changed, ``seconds`` at most."""
        with self._changed:
            self._changed.wait(seconds)

    def wake(self) -> None:
        """Who waits in :meth:`wait` looks at once."""
        with self._changed:
            self._changed.notify_all()

    def alive(self) -> bool:
        """Whether all keep their promises: the process makes progress, be it that it waits for a microphone."""
        with self._changed:
            now = self._clock()
            return all(now <= due for due in self._due.values())

    def hopeful(self) -> bool:
        """Whether no source has been waited for so long that a restart should be tried."""
        with self._changed:
            now = self._clock()
            return all(now - since <= WAITING_SECONDS for since in self._lost.values())

    def sources(self) -> Mapping[str, Health]:
        """The health of each."""
        with self._changed:
            return dict(self._health)

    @property
    def state(self) -> State:
        """That of all: of several, the worst."""
        states = {health.state for health in self.sources().values()}
        return next((state for state in WORST if state in states), "starting")

    @property
    def ready(self) -> bool:
        """Whether every source is heard."""
        return self.state in HEARING

    def sentence(self) -> str:
        """All of it in one line."""
        told = self.sources()
        named = len(told) > 1
        return "; ".join(f"{name}: {said(h)}" if named else said(h) for name, h in told.items()) or "starting"

    def document(self) -> dict[str, Any]:
        """All of it for programs."""
        return {"state": self.state, "sources": {name: asdict(health) for name, health in self.sources().items()}}


def said(health: Health) -> str:
    """A state and its message."""
    return f"{health.state}: {health.message}" if health.message else health.state
