"""Scores of windows → events that begin and end."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge.config import ModelSpec
from edge.envelope import Envelope
from edge.events import Event
from edge.listener import Window
from edge.rules import SILENCE, UNKNOWN, EventConfig, Outcome, outcomes_of

F64 = NDArray[np.float64]

FAINT = 0.1  # share of the threshold from which a score is more than nothing: a sound may have begun
HEARD_SECONDS = 0.7  # of a sound, as a rule, when its score first is more than nothing
ONSET_SECONDS = 2.0, 1.0  # before and after where it is expected, in which a beginning is looked for
MEMORY_SECONDS = 10.0  # of envelope


@dataclass
class _Run:
    """Windows in a row that count for one outcome, and the event that they become."""

    id: str = ""  # empty until the event has begun
    onset: float = 0.0  # seconds of stream
    onset_time: float = 0.0  # seconds since the Unix epoch
    windows: int = 0
    total: float = 0.0  # of the scores
    peak: float = 0.0
    level: float | None = None
    classes: dict[int, None] = field(default_factory=dict)  # those that reached the threshold, in their order


class Detector:
    """The events of one source, by the rules of ``config``. Raises SettingsError where they do not fit the model."""

    def __init__(self, spec: ModelSpec, config: EventConfig | None = None) -> None:
        self.outcomes = outcomes_of(spec, config or EventConfig())
        self._spec = spec
        self._model = model_id(spec)
        self._on = np.array([o.threshold for o in self.outcomes])
        self._off = self._on * [o.rule.release for o in self.outcomes]
        self._smoothing = np.array([o.rule.smoothing for o in self.outcomes])
        levels = [o.rule.min_level_dbfs for o in self.outcomes]
        self._least_level = np.array([-np.inf if level is None else level for level in levels])
        self._of_classes = np.array([bool(o.classes) for o in self.outcomes], bool)  # of none, where all are ignored
        self._single = np.array([o.classes[0] if len(o.classes) == 1 else -1 for o in self.outcomes], int)
        self._smoothed: F64 | None = None
        self._never = np.full(len(self.outcomes), np.inf)
        self._faint = self._never  # seconds of stream, since when the score is more than nothing
        self._runs: dict[int, _Run] = {}  # by outcome
        self._blocked: dict[int, float] = {}  # outcome → seconds of stream, until which none begins
        self._over: dict[int, float] = {}  # outcome → seconds of stream, at which its last event ended
        frontend = spec.frontend
        seconds, frame_seconds = MEMORY_SECONDS + spec.window_seconds, frontend.hop_length / frontend.sample_rate
        self._envelope = Envelope(seconds, frame_seconds, frontend.log_std)
        self._last: Window | None = None

    def push(self, window: Window) -> list[Event]:
        """What begins or ends with ``window``."""
        events = []
        # A shorter gap is silence, decided on hop by hop; after a longer one a whole window is gathered first.
        if self._last is not None and not 0 <= window.offset - self._last.offset <= 1.5 * self._spec.window_seconds:
            events = self.close()  # a gap, or another stream: nobody knows what was there
        if window.bands is not None:
            self._envelope.push(window.bands, window.offset)
        scores = self.scores(window)
        self._faint = np.where(scores >= FAINT * self._on, np.minimum(self._faint, window.offset), np.inf)
        begins = (scores >= self._on) & self.admitted(window)
        for place in np.flatnonzero(begins | self._running()):
            events += self._step(int(place), float(scores[place]), bool(begins[place]), window)
        self._last = window
        return events

    def close(self) -> list[Event]:
        """Ends what has begun: the stream is over."""
        window, self._last, self._smoothed, self._faint = self._last, None, None, self._never
        runs, self._runs = self._runs, {}
        self._blocked.clear()
        self._over.clear()
        if window is None:
            return []
        return [self._ended(place, run, window, window.offset) for place, run in runs.items() if run.id]

    def scores(self, window: Window) -> F64:
        """Of each outcome, smoothed: [n_outcomes]. Several classes have the sum of their shares, or the best of their
        independent scores. To be called once for each window.
        """
        probs: F64 = window.probs.astype(np.float64)
        scores: F64 = probs[self._single]
        for place in np.flatnonzero(self._single < 0):
            outcome = self.outcomes[place]
            scores[place] = (
                _joint(probs[list(outcome.classes)], self._spec) if outcome.classes else _other(outcome, window)
            )
        if self._smoothed is not None:
            scores += self._smoothing * (self._smoothed - scores)
        self._smoothed = scores
        return scores

    def admitted(self, window: Window) -> NDArray[np.bool_]:
        """Which outcomes a window may begin, whatever their scores: it is loud enough, and no unknown sound."""
        level = -np.inf if window.level_dbfs is None else window.level_dbfs
        return np.asarray((level >= self._least_level) & ~(window.unknown & self._of_classes))

    def _running(self) -> NDArray[np.bool_]:
        running = np.zeros(len(self.outcomes), bool)
        running[list(self._runs)] = True
        return running

    def _step(self, place: int, score: float, begins: bool, window: Window) -> list[Event]:
        run, outcome = self._runs.get(place), self.outcomes[place]
        if run is None or not run.id:
            if begins and window.offset >= self._blocked.get(place, 0.0):
                return self._begin(place, run, score, window)
            self._runs.pop(place, None)
            return []
        if score < self._off[place]:
            return [self._end(place, run, window, self._heard_until(run, window))]
        self._add(run, score, window, outcome)
        if window.offset - run.onset < outcome.rule.max_duration:
            return []
        ended = self._end(place, run, window, window.offset)
        self._blocked.pop(place, None)
        run = self._runs[place] = _Run(str(uuid.uuid4()), window.offset, window.time)
        self._add(run, score, window, outcome)
        return [ended, self._event("begin", place, run, window, None)]

    def _begin(self, place: int, run: _Run | None, score: float, window: Window) -> list[Event]:
        rule = self.outcomes[place].rule
        if run is None:
            onset = self._onset(place, window)
            run = self._runs[place] = _Run(onset=onset, onset_time=window.time - (window.offset - onset))
        self._add(run, score, window, self.outcomes[place])
        if run.windows < rule.confirm or window.offset - run.onset < rule.min_duration:
            return []
        if rule.min_duration and self._heard_until(run, window) - run.onset < rule.min_duration:
            return []  # a short sound counts for as long as it is in the window
        run.id = str(uuid.uuid4())
        return [self._event("begin", place, run, window, None)]

    def _onset(self, place: int, window: Window) -> float:
        """When the sound began that is first counted in ``window``."""
        faint, before = float(self._faint[place]), window.onset if self._last is None else self._last.offset
        over = self._over.get(place, 0.0)
        if window.bands is None:
            return max(over, min(before, faint))
        if self._last is None:  # all of the window is new
            return self._envelope.onset(max(over, window.onset), window.offset)
        expected = max(faint, window.onset) - HEARD_SECONDS
        earliest, latest = expected - ONSET_SECONDS[0], min(window.offset, expected + ONSET_SECONDS[1])
        return self._envelope.onset(max(over, earliest), max(over, latest), expected)

    def _heard_until(self, run: _Run, window: Window) -> float:
        return window.offset if window.bands is None else self._envelope.offset(run.onset, window.offset)

    def _add(self, run: _Run, score: float, window: Window, outcome: Outcome) -> None:
        run.windows, run.total, run.peak = run.windows + 1, run.total + score, max(run.peak, score)
        if window.level_dbfs is not None:
            run.level = window.level_dbfs if run.level is None else max(run.level, window.level_dbfs)
        if outcome.classes:
            run.classes[max(outcome.classes, key=lambda c: float(window.probs[c]))] = None

    def _end(self, place: int, run: _Run, window: Window, offset: float) -> Event:
        del self._runs[place]
        self._blocked[place] = window.offset + self.outcomes[place].rule.refractory
        self._over[place] = max(offset, run.onset)
        self._faint[place] = np.inf  # what begins next begins after this
        return self._ended(place, run, window, offset)

    def _ended(self, place: int, run: _Run, window: Window, offset: float) -> Event:
        return self._event("end", place, run, window, max(offset, run.onset))

    def _event(self, phase: str, place: int, run: _Run, window: Window, offset: float | None) -> Event:
        return Event(
            id=run.id,
            phase=phase,
            label=self.outcomes[place].label,
            classes=tuple(self._spec.labels[c] for c in run.classes),
            onset=run.onset,
            offset=offset,
            onset_time=run.onset_time,
            offset_time=None if offset is None else run.onset_time + (offset - run.onset),
            peak=run.peak,
            mean=run.total / run.windows,
            level_dbfs=run.level,
            model=self._model,
            latency_ms=window.latency_ms,
        )


def model_id(spec: ModelSpec) -> str:
    """Which model an event is of: name, precision, and the beginning of the graph's digest."""
    return f"{spec.name} {spec.provenance.precision} {spec.graph_sha256[:12]}"


def _joint(probs: F64, spec: ModelSpec) -> float:
    return min(1.0, float(probs.sum())) if spec.scores == "softmax" else float(probs.max())


def _other(outcome: Outcome, window: Window) -> float:
    """Of what is no class: 1 or 0."""
    return float({UNKNOWN: window.unknown, SILENCE: window.silent}[outcome.label])
