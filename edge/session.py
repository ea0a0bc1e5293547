"""One source from its start to its end, as records."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock

from edge.board import Board
from edge.classifier import Classifier
from edge.clip_folder import ClipFolder
from edge.clips import ClipRecorder, ClipsConfig
from edge.config import DEFAULT_HOP, ModelSpec
from edge.decisions import Detector
from edge.errors import EdgeError
from edge.events import Event
from edge.health import LOST, Health, Monitor
from edge.listener import Succession, Window, attend
from edge.names import encodable
from edge.privacy import VoiceConfig, VoiceFilter
from edge.records import Record, Recorder, error_record, event_record, health_record
from edge.rules import EventConfig
from edge.sources.block import Block, Outage, Source
from edge.sources.file import SoundFile
from edge.sources.watched import Watched

log = logging.getLogger("edge.listen")

CLIPS_SECONDS = 10.0  # that clips have to be written at the end
INTERRUPTED_SECONDS = 1.2  # the same after a signal: all sinks have to end within five seconds
OPENING_SECONDS = 30.0  # that a source may take to open, until it counts as hanging
SLACK_SECONDS = 3.0  # that a sign of life may come later than it should: of a busy machine


@dataclass(frozen=True)
class Plan:
    """What is made of a source."""

    events: EventConfig = EventConfig()
    hop: float | None = None  # seconds; None: the model's default
    top_k: int = 3  # classes in a record of a window
    duration: float | None = None  # seconds of stream; None: until it ends
    clips: ClipsConfig = ClipsConfig()  # of events; without a folder none are kept
    folder: ClipFolder | None = None  # that of the clips, where several sessions share it
    voices: VoiceConfig | None = VoiceConfig()  # in which clips are withheld; None: voices are kept as well
    board: Board = field(default_factory=Board)  # where health and progress are shown
    # of a source, by what gives its name, which a microphone knows once it is open; and the rules of another model
    succession: Callable[[Callable[[], str]], Succession] | None = None
    events_of: Callable[[ModelSpec], EventConfig] | None = None


class Session:
    """Listens to ``source`` under ``name``, the source's own where there is none.

    Raises EdgeError for rules or a hop that the model cannot do, or a folder that clips cannot be written to.
    """

    def __init__(self, source: Source, classifier: Classifier, plan: Plan, name: str = "") -> None:
        self._source, self._classifier, self._plan, self._name = source, classifier, plan, name
        self._board = plan.board
        self._detector = Detector(classifier.spec, plan.events)
        self._untold: deque[Event] = deque()  # what whoever breaks off leaves to interrupted()
        self._stopping = False
        spec = classifier.spec
        hop_seconds = spec.hop_seconds(plan.hop)
        asked = DEFAULT_HOP if plan.hop is None else plan.hop
        if abs(hop_seconds - asked) > 1e-9:
            log.info("hop of %g s: the nearest that the model can is %g s", asked, hop_seconds)
        self._recorder = Recorder(classifier, plan.events, hop_seconds=hop_seconds, top_k=plan.top_k)
        self._monitor = Monitor(hop_seconds)
        # How long it may be quiet after a block, and after an outage, when a whole window may be gathered.
        self._patience = 2 * hop_seconds + SLACK_SECONDS, spec.window_seconds + 2 * SLACK_SECONDS
        # A recording can wait, for clips and for sinks: it is heard faster than these are written.
        self.patient = isinstance(source, SoundFile) and not source.realtime
        self._clips = Clips(self._source, classifier.spec, plan, patient=self.patient) if plan.clips.folder else None
        if self._clips is not None:
            self._source = self._clips.source
        if name:
            self._board.show(name, Health())

    @property
    def name(self) -> str:
        """What records call the source; of one without a name, it stays as it was when the first one was told."""
        return encodable(self._name or self._source.name)

    @property
    def labels(self) -> set[str]:
        """What its records may call a sound: the model's classes, and what events are called."""
        return {*self._classifier.spec.labels, *(outcome.label for outcome in self._detector.outcomes)}

    def records(self) -> Generator[Record]:
        """All of them, to the end, but what a KeyboardInterrupt leaves to :meth:`interrupted`.

        Raises EdgeError after its record: when the source cannot be opened, or fails.
        """
        opening = self.name
        self._board.promise(opening, OPENING_SECONDS)
        try:
            succession = None if self._plan.succession is None else self._plan.succession(lambda: self.name)
            watched = Watched(self._source, self._progress)
            told = attend(watched, self._classifier, self._plan.hop, succession)
        except EdgeError as error:
            yield error_record(self.name, error)
            yield from self._shown(self._failed(error))
            raise
        self._name = self._recorder.source = self.name  # a microphone knows its own once it is open
        if self._name != opening:
            self._board.leave(opening)
        self._board.promise(self._name, OPENING_SECONDS)
        try:
            with closing(told):  # type: ignore[type-var]  # a generator, which mypy knows as an iterator only
                yield self._recorder.start()
                yield from self._shown(self._monitor.health)
                yield from self._told(told)
        finally:
            self._board.leave(self._name)

    def _told(self, told: Iterator[Window | Outage | Classifier]) -> Iterator[Record]:
        """Everything between the start and the end, and the end."""
        try:
            for news in told:
                if isinstance(news, Classifier):
                    yield from self._succeeded(news)
                    continue
                yield from self._outage(news) if isinstance(news, Outage) else self._window(news)
                if self._stopping:
                    yield from self.interrupted()
                    return
                if self._plan.duration is not None and self._reached(news) >= self._plan.duration:
                    yield from self._ended("duration")
                    return
        except EdgeError as error:
            yield from self._events(self._detector.close())
            yield error_record(self.name, error)
            yield from self._shown(self._failed(error))
            yield from self._ended("error")
            raise
        yield from self._ended("end of input")

    def stop(self) -> None:
        """From another thread: it ends after the next window, or the next outage."""
        self._stopping = True

    def interrupted(self, timeout: float = INTERRUPTED_SECONDS) -> Iterator[Record]:
        """What is left after a KeyboardInterrupt: the ends of the events that are open, and the summary.

        Clips that take longer than ``timeout`` seconds to be written are dropped.
        """
        return self._ended("interrupted", timeout)

    def crashed(self, failure: BaseException) -> Iterator[Record]:
        """What is left after :meth:`records` has raised ``failure``, a mistake of ours: that, and the end."""
        error = EdgeError(f"{type(failure).__name__}: {failure}", remedy="restart edge-listen, and report this")
        yield error_record(self.name, error)
        yield from self._shown(self._failed(error))
        if self._recorder.source:  # it had started
            yield from self._ended("error", 0.0)

    def _ended(self, reason: str, timeout: float = CLIPS_SECONDS) -> Iterator[Record]:
        self._recorder.source = self.name
        self._board.leave(self.name)
        yield from self._events(self._detector.close())
        if self._clips is not None:
            yield from self._clips.close(self.name, timeout)
        yield self._recorder.end(reason)

    def _window(self, window: Window) -> Iterator[Record]:
        self._untold.extend(self._detector.push(window))
        if self._clips is not None:
            self._clips.window(window)
        changed, is_first = self._monitor.window(window, self._board.troubles()), not self._recorder.offset
        yield from self._shown(changed)
        yield self._recorder.window(window)
        yield from self._events()
        if self._clips is not None:
            yield from self._clips.news(self.name)
        yield from self._recorder.status(window, self._monitor.late, news=changed is not None and not is_first)

    def _outage(self, outage: Outage) -> Iterator[Record]:
        """What was open ends where it was last heard; after it, everything begins anew."""
        yield from self._events(self._detector.close())
        if self._clips is not None:
            self._clips.pause()
            yield from self._clips.news(self.name)
        yield from self._shown(self._monitor.outage(outage, self._board.troubles()))

    def _succeeded(self, classifier: Classifier) -> Iterator[Record]:
        """Another model listens from here on."""
        yield from self._events(self._detector.close())
        events = self._plan.events if self._plan.events_of is None else self._plan.events_of(classifier.spec)
        self._detector = Detector(classifier.spec, events)
        self._recorder.succeed(classifier, events)
        yield self._recorder.start()

    def _shown(self, health: Health | None) -> Iterator[Record]:
        if health is not None:
            self._board.show(self.name, health)
            yield health_record(self.name, health)

    def _failed(self, error: EdgeError) -> Health | None:
        reason = getattr(error, "reason", "")
        health = self._monitor.failed(str(error), reason if reason in LOST else "refused")
        self._board.show(self.name, self._monitor.health)
        self._board.leave(self.name)
        return health

    def _progress(self, news: Block | Outage) -> None:
        after_block, after_outage = self._patience
        self._board.promise(self.name, after_outage if isinstance(news, Outage) else after_block)

    def _reached(self, news: Window | Outage) -> float:
        """Seconds of stream; they go on during an outage, but before the first sample."""
        if isinstance(news, Window):
            return news.offset
        return self._recorder.offset + news.seconds if self._recorder.offset else 0.0

    def _events(self, more: Iterable[Event] = ()) -> Iterator[Record]:
        self._untold.extend(more)
        while self._untold:
            event = self._untold.popleft()
            path = None if self._clips is None else self._clips.event(event)
            yield event_record(self.name, event) | ({} if path is None else {"clip": str(path)})


class Clips:
    """The clips of a session's events, and what becomes of them as records."""

    def __init__(self, source: Source, spec: ModelSpec, plan: Plan, *, patient: bool) -> None:
        """``source`` is then to be listened to by way of the attribute of that name. Raises EdgeError."""
        self._voices = None if plan.voices is None else VoiceFilter(plan.voices)
        self._told: SimpleQueue[Record] = SimpleQueue()
        self._lock = Lock()  # for the paths
        self._recorder = ClipRecorder(
            plan.clips,
            spec.frontend.sample_rate,
            spec.frontend.channels,
            voice=self._voices,
            news=self._tell,
            patient=patient,
            folder=plan.folder,
        )
        self._paths: dict[str, Path | None] = {}  # of events that have begun, by id
        self.source = Watched(source, self._heard)

    def _heard(self, block: Block | Outage) -> None:
        if isinstance(block, Block):
            self._recorder.push(block.samples, block.position)

    def window(self, window: Window) -> None:
        """What the voice filter must know."""
        if self._voices is not None:
            self._voices.window(window)

    def event(self, event: Event) -> Path | None:
        """Begin or end its clip; of one that has ended, the file that it is or will be, as far as is known."""
        if event.phase == "begin":
            self._paths[event.id] = self._recorder.begin(event)  # none is finished before the next sound
            return None
        self._recorder.end(event)
        with self._lock:
            return self._paths.pop(event.id, None)

    def _tell(self, news: Record) -> None:
        """From the thread that writes as well."""
        if news["state"] in ("withheld", "dropped"):
            with self._lock:
                if news["id"] in self._paths:  # its end is still to come, and must not name what is not there
                    self._paths[news["id"]] = None
        self._told.put(news)

    def pause(self) -> None:
        """The source is away: what is being recorded is complete."""
        self._recorder.cut()

    def news(self, source: str) -> Iterator[Record]:
        """What has been told since the last call, of ``source``."""
        with suppress(Empty):
            while True:
                yield self._told.get_nowait() | {"source": source}

    def close(self, source: str, timeout: float) -> Iterator[Record]:
        """Write what waits, for ``timeout`` seconds at most, and tell it."""
        self._recorder.close(timeout)
        return self.news(source)
