"""A sink behind a bounded queue and a thread: whoever writes never waits, and what fails is tried again, in order."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Lock, Thread
from time import monotonic

from edge.errors import SinkError
from edge.records import Record
from edge.sinks import Sink
from edge.spool import MAX_BYTES, MAX_RECORDS, Kept, Spool, SpoolError

log = logging.getLogger("edge.delivery")

TROUBLE_SECONDS = 30.0  # that a record is tried, after which its receiver counts as failing
LOSS_SECONDS = 60.0  # after a loss, for which it does so as well
CRASHES = 2  # of the sink on one record, then the record is given up
WAITING_TURN = 0.5  # seconds between two looks at a receiver that is waited for
CLOSING_PAUSE = 0.2  # seconds at most between two attempts while closing
# Of the time that close() may take: to deliver, then for the thread to end. The rest saves what is left.
DELIVERING, ENDING = 0.7, 0.85


@dataclass(frozen=True)
class DeliveryStats:
    """What became of the records. Each is counted in one of the first three, or waits in one of the next two."""

    delivered: int  # that the sink took, or passed over
    dropped: int  # never taken: the oldest of a full queue or spool, and what was left when there was no time any more
    failed: int  # that the receiver has refused for good, or on which the sink crashed
    queued: int  # that wait in memory
    spooled: int  # that wait on disk, also from former runs
    retries: int  # attempts beyond the first
    restarts: int  # of a sink that has crashed
    spool_errors: int  # times that the spool could not be used
    last_error: str | None


class Delivery:
    """A sink that passes records on to another, from a thread of its own.

    ``sink`` may say in an attribute ``types`` which types of records it wants; others are not queued. ``factory`` makes
    the sink again after it has crashed; without, the crashed one is used on. With ``spool``, a file, records wait on
    disk while the receiver is away. ``first_wait`` and ``longest_wait`` bound the back-off, in seconds.
    """

    def __init__(
        self,
        sink: Sink,
        name: str,
        *,
        factory: Callable[[], Sink] | None = None,
        capacity: int = 1000,
        spool: Path | None = None,
        spool_records: int = MAX_RECORDS,
        spool_bytes: int = MAX_BYTES,
        first_wait: float = 0.5,
        longest_wait: float = 30.0,
    ) -> None:
        if capacity < 1:
            raise SinkError(f"{name}: capacity is {capacity}", remedy="use 1 or more", retry=False)
        self._sink: Sink | None = sink
        self._name, self._factory, self._capacity = name, factory, capacity
        self._types: frozenset[str] | None = getattr(sink, "types", None)
        self._spool = None if spool is None else Spool(spool, max_records=spool_records, max_bytes=spool_bytes)
        self._first_wait, self._longest_wait = first_wait, longest_wait
        self._changed = Condition()  # guards the queue and the four below; never held while something is done
        self._moving = Lock()  # held while records go from the queue to the spool
        self._queue: deque[Record] = deque()
        self._held = 0  # records at the queue's head that the thread has in hand
        self._deadline: float | None = None  # for delivering, once close() was called
        self._abandoned = False  # the thread hangs, and what it left was saved
        self._dropped = 0
        self._delivered = self._failed = self._retries = self._restarts = self._spool_errors = 0
        self._failures = self._crashes = 0  # in a row, of the oldest record
        self._tried_since: float | None = None  # when its first attempt began, by the monotonic clock
        self._vain_since: float | None = None  # when the first attempt began since a record was taken
        self._lost, self._lost_at = (
            0,
            float("-inf"),
        )  # records that trouble() knew to be lost, and when it learnt of one
        self._last_error: str | None = None
        self._said: dict[str, str] = {}  # what was logged last, by its kind
        self._thread = Thread(target=self._run, name=f"delivery-{name}", daemon=True)
        self._thread.start()

    def write(self, record: Record) -> None:
        """Queue ``record``. Never waits and never raises; when the queue is full, its oldest goes."""
        if self._types is not None and record["type"] not in self._types:
            return
        with self._changed:
            if self._deadline is not None:
                self._dropped += 1
                return
            if len(self._queue) - self._held >= self._capacity:
                del self._queue[self._held]
                self._dropped += 1
            self._queue.append(record)
            self._changed.notify_all()

    def wait(self, turn: Callable[[], None], *, to_end: bool = False) -> None:
        """Until one more record can be queued without a loss, or, ``to_end``, all are delivered. For whoever can wait;
        ``turn`` is called at least every WAITING_TURN seconds.

        A receiver that has taken nothing for TROUBLE_SECONDS, be it that it fails or hangs, is not waited for.
        """
        most = 0 if to_end else self._capacity - 1
        while True:
            with self._changed:
                if len(self._queue) <= most or self._stuck():
                    return
                self._changed.wait(WAITING_TURN)
            turn()

    def close(self, timeout: float = 3.0) -> None:
        """Deliver what can be delivered, and end; it takes at most ``timeout`` seconds, also when the sink hangs.

        What is left then waits in the spool for the next start, or is counted as dropped.
        """
        end = monotonic() + timeout
        with self._changed:
            if self._deadline is None:
                self._deadline = monotonic() + DELIVERING * timeout
            self._changed.notify_all()
        self._thread.join(ENDING * timeout)
        if self._thread.is_alive() and not self._abandoned:
            rescue = Thread(target=self._rescue, name=f"rescue-{self._name}", daemon=True)  # a disk may hang as well
            rescue.start()
            rescue.join(max(0.0, end - monotonic()))

    def stats(self) -> DeliveryStats:
        """What has happened so far."""
        with self._changed:
            dropped, queued = self._dropped, len(self._queue)
        spooled, evicted = (0, 0) if self._spool is None else (len(self._spool), self._spool.evicted)
        return DeliveryStats(
            delivered=self._delivered,
            dropped=dropped + evicted,
            failed=self._failed,
            queued=queued,
            spooled=spooled,
            retries=self._retries,
            restarts=self._restarts,
            spool_errors=self._spool_errors,
            last_error=self._last_error,
        )

    def trouble(self) -> bool:
        """Whether its receiver is failing: a record is tried for long, the sink hangs, or records were lost lately."""
        stats, since, now = self.stats(), self._tried_since, monotonic()
        if (lost := stats.dropped + stats.failed) > self._lost:
            self._lost, self._lost_at = lost, now
        return now - self._lost_at < LOSS_SECONDS or (since is not None and now - since > TROUBLE_SECONDS)

    def _stuck(self) -> bool:
        """Whether records have been tried for long, and none was taken."""
        since = self._vain_since
        return since is not None and monotonic() - since > TROUBLE_SECONDS

    def _run(self) -> None:
        """The thread."""
        if self._spool is not None:
            with suppress(SpoolError):  # said when a record needs it
                self._spool.open()
        while self._has_work():
            self._step()
        if not self._abandoned:
            self._leave()
            self._close_sink()

    def _has_work(self) -> bool:
        """Wait for a record; False at the end. While closing, what is on disk may stay there."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._spooled() or self._deadline is not None)
            if self._deadline is None:
                return True
            return bool(self._queue) and not self._spooled() and not self._abandoned and monotonic() < self._deadline

    def _spooled(self) -> int:
        return 0 if self._spool is None else len(self._spool)

    def _step(self) -> None:
        """One attempt at the oldest record; after a failure, a pause."""
        if self._tried_since is None:
            self._tried_since = monotonic()
            self._vain_since = self._vain_since or self._tried_since
        kept, record = self._oldest()
        if record is None:
            if self._spooled():  # but it cannot be read
                self._failures += 1
                self._pause(0.0)
            else:
                self._tried_since = self._vain_since = None
            return
        self._retries += self._failures > 0
        try:
            self._running().write(record)
        except SinkError as error:
            self._refused(error, kept)
        except Exception as error:  # a bug of the sink, or of its library: it starts anew
            self._crashed(error, kept)
        else:
            self._delivered += 1
            self._vain_since = None
            if self._said.pop("retry", None):
                log.info("%s: delivers again", self._name)
            self._finish(kept)

    def _oldest(self) -> tuple[Kept | None, Record | None]:
        """The oldest record that waits. While any is on disk, all go there: that keeps their order."""
        if self._spool is not None and len(self._spool):
            self._put_aside()
            try:
                kept = self._spool.first()
            except SpoolError as error:
                self._spool_failed(error)
                kept = None
            if kept is not None:
                return kept, kept.record
        with self._changed:
            self._held = min(1, len(self._queue))
            return None, self._queue[0] if self._queue else None

    def _running(self) -> Sink:
        """The sink; made again where it has crashed."""
        if self._sink is None:
            assert self._factory is not None
            try:
                self._sink = self._factory()
            except Exception as error:
                raise SinkError(f"cannot be started again: {error}", remedy="look at its settings") from error
        return self._sink

    def _refused(self, error: SinkError, kept: Kept | None) -> None:
        self._last_error = str(error)
        if error.retry:
            self._say("retry", "%s; tried again", error)
            self._failures += 1
            self._pause(error.after)
        else:
            self._say("refused", "%s; the record is given up", error)
            self._failed += 1
            self._finish(kept)

    def _crashed(self, error: Exception, kept: Kept | None) -> None:
        self._last_error = f"{type(error).__name__}: {error}"
        self._say("crash", "crashed: %s; it starts anew", self._last_error)
        log.debug("%s", self._name, exc_info=error)
        if self._factory is not None:
            self._close_sink()
            self._sink = None
            self._restarts += 1
        self._crashes += 1
        if self._crashes >= CRASHES:
            self._failed += 1
            self._finish(kept)
        else:
            self._failures += 1
            self._pause(0.0)

    def _finish(self, kept: Kept | None) -> None:
        """The oldest record is done with."""
        self._failures = self._crashes = 0
        self._tried_since = None
        if kept is None:
            with self._changed:
                if not self._abandoned:
                    self._queue.popleft()
                    self._held = 0
                self._changed.notify_all()
        elif self._spool is not None and not self._abandoned:
            try:
                self._spool.remove(kept)
            except SpoolError as error:
                self._spool_failed(error)

    def _pause(self, least: float) -> None:
        """Back off, exponentially, with jitter. What comes meanwhile goes to the spool; closing ends the pause."""
        with self._changed:
            self._held = 0
            closing = self._deadline is not None
        wait = max(least, backoff(self._failures, self._first_wait, self._longest_wait))
        until = monotonic() + (min(wait, CLOSING_PAUSE) if closing else wait)
        while not self._abandoned and (left := until - monotonic()) > 0:
            self._put_aside()
            with self._changed:
                known = len(self._queue)
                self._changed.wait_for(lambda: len(self._queue) > known or self._closes(closing), left)  # noqa: B023
                if self._closes(closing):
                    return

    def _closes(self, closing: bool) -> bool:
        """Whether close() was called since the pause began, or there is no time any more."""
        return self._deadline is not None and (not closing or monotonic() >= self._deadline)

    def _put_aside(self) -> None:
        """What is queued goes to the spool, where there is one that works; else it stays, as much as fits."""
        if self._spool is None:
            return
        with self._moving:
            with self._changed:
                waiting = list(self._queue)
                self._held = len(waiting)
            moved = len(waiting) if waiting and self._append(self._spool, waiting) else 0
            with self._changed:
                self._held = 0
                surplus = max(0, len(self._queue) - moved - self._capacity)
                self._dropped += surplus
                for _ in range(moved + surplus):
                    self._queue.popleft()
                self._changed.notify_all()

    def _append(self, spool: Spool, records: list[Record]) -> bool:
        """Whether they are in the spool."""
        try:
            spool.append(records)
        except SpoolError as error:
            self._spool_failed(error)
            return False
        self._said.pop("spool", None)
        return True

    def _spool_failed(self, error: SpoolError) -> None:
        self._spool_errors += 1
        self._last_error = str(error)
        self._say("spool", "%s", error)

    def _say(self, kind: str, message: str, what: object) -> None:
        """Warn, once for as long as the same thing is wrong."""
        if self._said.get(kind) != str(what):
            self._said[kind] = str(what)
            log.warning(f"%s: {message}", self._name, what)

    def _rescue(self) -> None:
        """The thread hangs: leave it behind, and save what it was to deliver."""
        with self._changed:
            self._abandoned = True
            self._held = 0
        if (abort := getattr(self._sink, "abort", None)) is not None:
            with suppress(Exception):
                abort()
        self._leave()

    def _leave(self) -> None:
        """At the end: what is left goes to the spool, or is counted."""
        self._put_aside()
        with self._changed:
            self._dropped += len(self._queue)
            self._queue.clear()
        if self._spool is not None:
            self._spool.close()

    def _close_sink(self) -> None:
        if self._sink is not None:
            try:
                self._sink.close()
            except Exception as error:  # it is gone either way
                log.debug("%s: closing failed", self._name, exc_info=error)


def backoff(failures: int, first: float, longest: float) -> float:
    """Seconds to wait after so many failures in a row, from 1: twice as long each time, up to ``longest``.

    Of that, half to all by chance, so that devices that lost the same receiver do not come back all at once.
    """
    return min(longest, first * 2.0 ** min(failures - 1, 30)) * random.uniform(0.5, 1)
