"""A live source that is waited for when it goes away: outages while it is gone, then blocks again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from edge.errors import DeviceError, EdgeError
from edge.sources.block import Block, Outage

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 3.0  # seconds between attempts to open; what is back is to be heard within five
TELL_SECONDS = 1.0  # between two outages
SETTLING_SECONDS = 10.0  # in which a source finds out when its first sample was recorded
LOOK_SECONDS = 0.1  # between two looks at what an attempt has come to


class Yielded(DeviceError):
    """Not lost: it was asked to close for a moment, and is opened again at once."""


class Live(Protocol):
    """A source that can be opened again."""

    @property
    def name(self) -> str:
        """See :class:`edge.sources.block.Source`."""

    def blocks(self, sample_rate: int, length: int, first: int | None = None, channels: int = 1) -> Iterator[Block]:
        """See :class:`edge.sources.block.Source`; without outages. An error's ``reason`` tells what it is lost by; one
        without a reason is not waited for.
        """

    def ready(self) -> bool:
        """Whether it is worth an attempt to open it; cheap."""

    def ended(self) -> bool:
        """Of one whose blocks have come to their end: whether it is over, and not to be opened again."""


class Supervised:
    """``source`` for as long as it takes. Positions go on by the clock: what was not heard is ``lost`` before the first
    block that is heard again.
    """

    def __init__(
        self,
        source: Live,
        *,
        wait: bool = False,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``wait``: also for one that is not there at the beginning."""
        self._source, self._wait = source, wait
        self._clock, self._wall, self._sleep = clock, wall, sleep
        self._heard: tuple[int, float] | None = None  # the position after the last block, and when it was recorded
        self._late = 0.0  # seconds by which an opening's first block was said to be later than it was
        self._since = 0.0  # when its absence began: the last sample, or the start

    @property
    def name(self) -> str:
        """The source's."""
        return self._source.name

    def blocks(
        self, sample_rate: int, length: int, first: int | None = None, channels: int = 1
    ) -> Iterator[Block | Outage]:
        """See :class:`edge.sources.block.Source`. Raises EdgeError: without ``wait``, of all before the first block."""
        self._heard, self._since = None, self._clock()

        def opened() -> Iterator[Block]:
            return self._source.blocks(sample_rate, length, first if self._heard is None else None, channels)

        return self._all(opened, None if self._wait else opened(), sample_rate)

    def _all(
        self, opened: Callable[[], Iterator[Block]], blocks: Iterator[Block] | None, rate: int
    ) -> Iterator[Block | Outage]:
        while True:
            if blocks is None:  # it is not open yet: no outage before the first attempt had its time
                lost: EdgeError = Yielded(f"{self.name} is not there yet", remedy="plug it in", reason="missing")
                blocks = yield from self._back(opened, lost)
            try:
                yield from self._through(blocks, rate)
                if self._source.ended():
                    return
                lost = DeviceError(f"{self.name} has ended", remedy="it is opened again", reason="unreachable")
            except EdgeError as error:
                if not reason_of(error) or (self._heard is None and not self._wait):
                    raise
                lost = error
            blocks = yield from self._back(opened, lost)

    def _through(self, blocks: Iterator[Block], rate: int) -> Iterator[Block]:
        """The blocks of one opening, with positions that go on from the one before."""
        shift = 0
        begun: float | None = None  # when position 0 was recorded, as its first block tells
        try:
            for block in blocks:
                # When its first sample was, by the clock that does not jump.
                recorded = block.adc_time - self._wall() + self._clock()
                missing = block.lost
                if begun is None and self._heard is not None:
                    position, until = self._heard
                    missing = max(0, round((recorded - until - self._late) * rate))
                    shift = position + missing - block.position
                zero = recorded - block.position / rate
                if begun is None:
                    begun, self._late = zero, 0.0
                if block.position < SETTLING_SECONDS * rate:
                    self._late = max(self._late, begun - zero)
                heard = replace(block, position=block.position + shift, lost=missing)
                self._since = recorded + len(block.samples) / rate
                self._heard = heard.position + len(block.samples), self._since
                yield heard
        finally:
            _close(blocks)

    def _back(self, opened: Callable[[], Iterator[Block]], lost: EdgeError) -> Generator[Outage, None, Iterator[Block]]:
        """Outages until it is back; then its blocks."""
        pause, due = FIRST_PAUSE, self._clock()
        told = due if isinstance(lost, Yielded) else due - TELL_SECONDS
        attempt: _Attempt | None = None
        try:
            while True:
                now = self._clock()
                if attempt is not None and attempt.done.is_set():
                    if attempt.failed is None:
                        blocks, attempt = attempt.taken(), None
                        return blocks
                    lost, attempt, due = self._failed(attempt.failed), None, now + pause
                    pause = min(2 * pause, LONGEST_PAUSE)
                if attempt is None and now >= due:
                    if self._source.ready():
                        attempt = _Attempt(opened)
                    else:
                        pause, due = FIRST_PAUSE, now + FIRST_PAUSE
                if now - told >= TELL_SECONDS:
                    told = now
                    yield Outage(reason_of(lost) or "refused", lost.what, lost.remedy, max(0.0, now - self._since))
                self._sleep(LOOK_SECONDS)
        finally:
            if attempt is not None:
                attempt.give_up()

    def _failed(self, failed: BaseException) -> EdgeError:
        """What is told of an attempt. Raises what waiting does not help against."""
        if not isinstance(failed, EdgeError) or (self._heard is None and not reason_of(failed)):
            raise failed
        return failed


class _Attempt:
    """To open, in a thread: a sound server that hangs, or a network, may keep it for minutes."""

    def __init__(self, opened: Callable[[], Iterator[Block]]) -> None:
        self.done = threading.Event()
        self.failed: BaseException | None = None
        self._opened, self._lock = opened, threading.Lock()
        self._blocks: Iterator[Block] | None = None
        self._first: list[Block] = []
        self._given_up = False
        threading.Thread(target=self._run, name="opening a source", daemon=True).start()

    def _run(self) -> None:
        blocks: Iterator[Block] | None = None
        try:
            blocks = self._opened()
            self._first = [block for block in [next(blocks, None)] if block is not None]
        except BaseException as failed:  # whoever waits for it gets it
            self.failed = failed
        with self._lock:
            self._blocks = blocks
            self.done.set()
            if self._given_up and blocks is not None:
                _close(blocks)

    def taken(self) -> Iterator[Block]:
        """The blocks, the first one as well. Closing them closes the source."""
        assert self._blocks is not None
        try:
            yield from self._first
            yield from self._blocks
        finally:
            _close(self._blocks)

    def give_up(self) -> None:
        """Nobody waits for it any more."""
        with self._lock:
            self._given_up = True
            if self.done.is_set() and self._blocks is not None:
                _close(self._blocks)


def reason_of(error: EdgeError) -> str:
    """A key of edge.health.LOST; empty where waiting does not help."""
    return str(getattr(error, "reason", ""))


def _close(blocks: Iterator[Block]) -> None:
    close = getattr(blocks, "close", None)
    if close is not None:
        with suppress(EdgeError):
            close()
