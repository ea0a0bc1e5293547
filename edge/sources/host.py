"""PortAudio is one for the whole process: who opens, closes and re-initialises it, several microphones at a time.

It learns of new devices by being started anew, which ends every stream that is open, and leaks. So that happens only
where a device that is wanted is not in its list, and something has changed since the list was made; and the streams
that are open are asked to close for that moment, and open again.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from edge.sources.devices import portaudio
from edge.sources.identity import hardware
from edge.sources.pulse import Unanswered, sources

CLOSING_SECONDS = 1.0  # that a stream may take to close: it waits for a server that hangs
YIELDING_SECONDS = 3.0  # that others have to close theirs
UNASKED_SECONDS = (60.0, 3600.0)  # first and longest time between lists that are made without a visible change
PERIODS = 40  # parts that ALSA's buffer is delivered in, where PortAudio asks for four


class Host:
    """See the module. One for the process: HOST."""

    def __init__(self) -> None:
        self.renewals = 0  # times that PortAudio was started anew
        self.often = False  # whether ALSA delivers a long buffer in small parts
        self.yielding = False  # whoever has a stream open is to close it, and to open it again
        self._lock = threading.RLock()
        self._open: dict[int, bool] = {}  # streams by id(), and whether their owners look at ``yielding``
        self._closing: list[threading.Thread] = []
        self._known: str | None = None  # the surroundings when the list was made
        self._listed, self._pause = time.monotonic(), UNASKED_SECONDS[0]

    @contextmanager
    def using(self) -> Iterator[None]:
        """Within, PortAudio is not started anew by others; whoever opens a stream adds it within."""
        with self._lock:
            if self._known is None:
                try:
                    self._known = surroundings()
                except Unanswered:
                    self._known = ""
                self.often = deliver_often()
            yield

    def add(self, stream: Any, *, yields: bool) -> None:
        """A stream that is open now; ``yields``: its owner looks at ``yielding``."""
        self._open[id(stream)] = yields

    def close(self, stream: Any) -> None:
        """Close it; what takes too long goes on by itself, and nothing is opened before it has ended."""
        if sys.is_finalizing():  # whoever forgot to close it: no thread starts any more
            self._close(stream)
            return
        closing = threading.Thread(target=self._close, args=(stream,), name="closing a microphone", daemon=True)
        closing.start()
        closing.join(CLOSING_SECONDS)
        if closing.is_alive():
            self._closing.append(closing)

    def _close(self, stream: Any) -> None:
        stream.close(ignore_errors=True)
        self._open.pop(id(stream), None)

    @property
    def usable(self) -> bool:
        """Whether nothing hangs in it."""
        self._closing = [thread for thread in self._closing if thread.is_alive()]
        return not self._closing

    def outdated(self) -> bool:
        """Whether a new list of devices may say something else. Raises Unanswered."""
        if self._known is not None and surroundings() != self._known:
            return True
        return time.monotonic() - self._listed > self._pause

    def renew(self) -> bool:
        """Start PortAudio anew, if a new list may say something else and all streams are or can be closed."""
        try:
            now = surroundings()
        except Unanswered:
            return False
        if not self.outdated() or not self.usable:
            return False
        with self._lock:
            if not self._yielded():
                return False
            self._pause = UNASKED_SECONDS[0] if now != self._known else min(2 * self._pause, UNASKED_SECONDS[1])
            self._known, self._listed = now, time.monotonic()
            sd = portaudio()
            with suppress(sd.PortAudioError):
                sd._terminate()
            sd._initialize()
            deliver_often()
            self.renewals += 1
            return True

    def _yielded(self) -> bool:
        if not all(self._open.values()):
            return False
        self.yielding, until = True, time.monotonic() + YIELDING_SECONDS
        try:
            while self._open and time.monotonic() < until:
                time.sleep(0.02)
        finally:
            self.yielding = False
        return not self._open


HOST = Host()


def surroundings() -> str:
    """Text that changes with what can record. Raises Unanswered."""
    return "\n".join([hardware(), *sources()])


def deliver_often() -> bool:
    """Let ALSA deliver in small parts: PortAudio takes a buffer of two seconds in four, and decisions come half a
    second late. False where PortAudio cannot.
    """
    sd = portaudio()
    with suppress(AttributeError, OSError):
        ctypes.CDLL(sd._libname).PaAlsa_SetNumPeriods(PERIODS)
        return True
    return False
