"""Several sources at once: a thread for each, their records in one stream."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from time import monotonic

from edge.board import Board
from edge.errors import EdgeError, SettingsError
from edge.names import slug
from edge.records import Record
from edge.session import Session

log = logging.getLogger("edge.listen")

WAITING = 1000  # records that sinks may be behind, until the sources wait for them
ENDING_SECONDS = 1.5  # that sources have to end when they are told to
TURN_SECONDS = 1.0  # between two signs that records are taken, where there are none
HANGING_SECONDS = 5.0  # after which the loop that takes them counts as hanging
LOOP = "\0records"  # its name on the board; no source is called so


def require_names(names: Iterable[str]) -> None:
    """Raises SettingsError for two sources of one name, or of names that differ in spaces, signs or capitals alone."""
    found: dict[str, str] = {}  # by what topics and ids call them
    for name in names:
        if (other := found.get(slug(name))) is not None:
            called = repr(name) if other == name else f"{other!r} and {name!r}, which are one name in topics and ids"
            raise SettingsError(f"two sources are called {called}", remedy="give each a name of its own")
        found[slug(name)] = name


class Several:
    """Sessions that run beside each other. One that fails does not stop the others.

    Raises SettingsError for two of one name: see :func:`require_names`.
    """

    def __init__(self, sessions: Sequence[Session], board: Board | None = None) -> None:
        """``board`` is that of the sessions: it is told that their records are taken."""
        require_names(session.name for session in sessions)
        self._sessions, self._board = sessions, board or Board()
        self.patient = all(session.patient for session in sessions)
        self._waiting: queue.Queue[Record | Session] = queue.Queue(WAITING)  # a session: it has ended
        self._errors: list[EdgeError] = []
        self._failures: list[BaseException] = []  # mistakes of ours, which must not be hidden in a thread
        self._running: list[Session] = []

    @property
    def labels(self) -> set[str]:
        """See :attr:`edge.session.Session.labels`; of all of them."""
        return set().union(*(session.labels for session in self._sessions))

    def records(self) -> Generator[Record]:
        """All records, of each source in order. Raises the first EdgeError, once every source has ended."""
        self._running = list(self._sessions)
        for session in self._sessions:
            threading.Thread(target=self._follow, args=(session,), name=session.name, daemon=True).start()
        try:
            yield from self._taken(None)
        finally:
            self._stop()
        self._raise()

    def interrupted(self) -> Iterator[Record]:
        """What is left of the sources after they were told to end: the ends of their events, and the summaries."""
        self._stop()
        with suppress(queue.Empty):
            yield from self._taken(monotonic() + ENDING_SECONDS)
        for session in self._running:  # its source hangs, or has no window yet; its thread is not heard any more
            yield from session.interrupted(0.0)
        self._raise()

    def _stop(self) -> None:
        for session in self._sessions:
            session.stop()

    def _follow(self, session: Session) -> None:
        try:
            for record in session.records():
                self._waiting.put(record)
        except EdgeError as error:
            log.warning("%s: %s", session.name, error)  # at once: the others may go on for months
            self._errors.append(error)
        except BaseException as failure:  # raised again in the main thread
            log.exception("%s has crashed", session.name)
            self._failures.append(failure)
            for record in session.crashed(failure):
                self._waiting.put(record)
        finally:
            self._waiting.put(session)

    def _taken(self, until: float | None) -> Iterator[Record]:
        """What the sessions say, to their end. Raises queue.Empty when the clock is past ``until``."""
        try:
            while self._running:
                self._board.promise(LOOP, HANGING_SECONDS)
                try:
                    taken = self._waiting.get(timeout=TURN_SECONDS if until is None else max(0.0, until - monotonic()))
                except queue.Empty:
                    if until is None:
                        continue
                    raise
                if isinstance(taken, Session):
                    self._running.remove(taken)
                else:
                    yield taken
        finally:
            self._board.leave(LOOP)

    def _raise(self) -> None:
        for failure in (*self._failures, *self._errors):
            raise failure
