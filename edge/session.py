"""One source from its start to its end, as records."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

from edge.classifier import Classifier
from edge.config import DEFAULT_HOP
from edge.decisions import Detector
from edge.errors import EdgeError
from edge.events import Event
from edge.listener import Window, listen
from edge.records import Record, Recorder, error_record, event_record
from edge.rules import EventConfig
from edge.sources.block import Source

log = logging.getLogger("edge.listen")


@dataclass(frozen=True)
class Plan:
    """What is made of a source."""

    events: EventConfig = EventConfig()
    hop: float | None = None  # seconds; None: the model's default
    top_k: int = 3  # classes in a record of a window
    duration: float | None = None  # seconds of stream; None: until it ends


class Session:
    """Listens to ``source`` under ``name``, the source's own where there is none.

    Raises EdgeError for rules or a hop that the model cannot do.
    """

    def __init__(self, source: Source, classifier: Classifier, plan: Plan, name: str = "") -> None:
        self._source, self._classifier, self._plan, self._name = source, classifier, plan, name
        self._detector = Detector(classifier.spec, plan.events)
        self._stopping = False
        spec = classifier.spec
        hop_seconds = spec.hop_samples(plan.hop) / spec.frontend.sample_rate
        asked = DEFAULT_HOP if plan.hop is None else plan.hop
        if abs(hop_seconds - asked) > 1e-9:
            log.info("hop of %g s: the nearest that the model can is %g s", asked, hop_seconds)
        self._recorder = Recorder(classifier, plan.events, hop_seconds=hop_seconds, top_k=plan.top_k)

    @property
    def name(self) -> str:
        """What records call the source."""
        return self._name or self._source.name

    def records(self) -> Generator[Record]:
        """All of them, to the end, but what a KeyboardInterrupt leaves to :meth:`interrupted`.

        Raises EdgeError after its record: when the source cannot be opened, or fails.
        """
        try:
            windows = listen(self._source, self._classifier, self._plan.hop)
        except EdgeError as error:
            yield error_record(self.name, error)
            raise
        with closing(windows):  # type: ignore[type-var]  # a generator, which mypy knows as an iterator only
            self._recorder.source = self.name  # a microphone knows its name once it is open
            yield self._recorder.start()
            try:
                for window in windows:
                    yield from self._window(window)
                    if self._stopping:
                        yield from self._ended("interrupted")
                        return
                    if self._plan.duration is not None and window.offset >= self._plan.duration:
                        yield from self._ended("duration")
                        return
            except EdgeError as error:
                yield from self._events(self._detector.close())
                yield error_record(self.name, error)
                yield from self._ended("error")
                raise
            yield from self._ended("end of input")

    def stop(self) -> None:
        """From another thread: it ends after the next window."""
        self._stopping = True

    def interrupted(self) -> Iterator[Record]:
        """What is left after a KeyboardInterrupt: the ends of the events that are open, and the summary."""
        return self._ended("interrupted")

    def _ended(self, reason: str) -> Iterator[Record]:
        yield from self._events(self._detector.close())
        yield self._recorder.end(reason)

    def _window(self, window: Window) -> Iterator[Record]:
        events = self._detector.push(window)
        yield self._recorder.window(window)
        yield from self._events(events)
        yield from self._recorder.status(window)

    def _events(self, events: Iterable[Event]) -> Iterator[Record]:
        return (event_record(self.name, event) for event in events)
