"""Scores of windows → events that begin and end."""

from __future__ import annotations

import math
import uuid
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge.config import ModelSpec
from edge.envelope import Beginning, Envelope
from edge.events import Event
from edge.listener import Window
from edge.rules import SILENCE, UNKNOWN, EventConfig, Outcome, outcomes_of

F64 = NDArray[np.float64]

FAINT = 0.06  # score from which it is worth knowing how a sound began, even where it cannot count
RISEN = 0.1  # share of its score now, from which a score before was of the same sound
HEARD_SECONDS = 0.7  # of a sound, as a rule, when it is first of that score
ONSET_SECONDS = 2.0, 1.0  # before and after where it is expected, in which a beginning is looked for
MEMORY_SECONDS = 10.0  # of envelope
# What a beginning is worth, as a factor of the score's odds: a rise of CLEAR_RISE that is recognised at once makes them
# CLEAREST times as high; half the rise, half of that; every HALF_LIFE that it takes to be recognised halves them again.
# Found on scenes: docs/experiments.md, "A beginning is evidence".
CLEAREST = 5.0
CLEAR_RISE, LEAST_RISE = 12.0, 0.5  # dB
HALF_LIFE = 1.0  # seconds


@dataclass
class _Run:
    """Windows in a row that count for one outcome, and the event that they become."""

    beginning: Beginning
    onset_time: float  # seconds since the Unix epoch
    worth: float = 1.0  # of its beginning, when it first counted: what it must wait for since makes it no less
    id: str = ""  # empty until the event has begun
    windows: int = 0
    total: float = 0.0  # of the scores
    peak: float = 0.0
    level: float | None = None
    classes: dict[int, None] = field(default_factory=dict)  # those that reached the threshold, in their order

    @property
    def onset(self) -> float:
        """Seconds of stream."""
        return self.beginning.time


class Detector:
    """The events of one source, by the rules of ``config``. Raises SettingsError where they do not fit the model."""

    def __init__(self, spec: ModelSpec, config: EventConfig | None = None) -> None:
        self.outcomes = outcomes_of(spec, config or EventConfig())
        self._spec = spec
        self._model = model_id(spec)
        self._on = np.array([o.threshold for o in self.outcomes])
        self._weight = np.array([o.rule.beginning if o.classes else 0.0 for o in self.outcomes])
        # A clear beginning makes less than the threshold enough, but not where the user has named it.
        most = [CLEAREST if o.rule.threshold is None else 1.0 for o in self.outcomes]
        self._most = np.array(most) ** self._weight
        # Scores that count after the clearest beginning; rounded they must not be above the threshold itself.
        self._least = np.minimum(weighed(self._on, 1 / self._most), self._on)
        self._smoothing = np.array([o.rule.smoothing for o in self.outcomes])
        self._least_level = np.array([_least_level(o) for o in self.outcomes])
        self._of_classes = np.array([bool(o.classes) for o in self.outcomes], bool)  # of none, where all are ignored
        self._single = np.array([o.classes[0] if len(o.classes) == 1 else -1 for o in self.outcomes], int)
        self._smoothed: F64 | None = None
        self._recent: deque[tuple[float, F64]] = deque()  # seconds of stream, and scores, of what is in the window
        self._runs: dict[int, _Run] = {}  # by outcome
        self._new: dict[int, _Run] = {}  # by outcome: what may begin with the newest window
        self._blocked: dict[int, float] = {}  # outcome → seconds of stream, until which none begins
        self._over: dict[int, tuple[float, float]] = {}  # outcome → of its last event, the end, and when it was told
        frontend = spec.frontend
        seconds, frame_seconds = MEMORY_SECONDS + spec.window_seconds, frontend.hop_length / frontend.sample_rate
        self._envelope = Envelope(seconds, frame_seconds, frontend.log_std)
        self._last: Window | None = None

    def push(self, window: Window) -> list[Event]:
        """What begins or ends with ``window``."""
        events = self._after_gap(window)
        scores, evidence = self._heard(window, self._least)
        counts = (evidence >= self._on) & self._admitted(window)
        for place in np.flatnonzero(counts | self._running()):
            events += self._step(int(place), float(scores[place]), bool(counts[place]), window)
        self._last = window
        return events

    def evidence(self, window: Window) -> F64:
        """What would be held against the thresholds, 0 of what may not begin: [n_outcomes]. Instead of :meth:`push`,
        for who wants to know that and no events.
        """
        self._after_gap(window)
        _, evidence = self._heard(window, np.minimum(FAINT, self._least))
        self._last = window
        return np.where(self._admitted(window), evidence, 0.0)

    def close(self) -> list[Event]:
        """Ends what has begun: the stream is over."""
        window, self._last, self._smoothed = self._last, None, None
        self._recent.clear()
        runs, self._runs = self._runs, {}
        self._blocked.clear()
        self._over.clear()
        if window is None:
            return []
        return [self._ended(place, run, window, window.offset) for place, run in runs.items() if run.id]

    def _after_gap(self, window: Window) -> list[Event]:
        # A shorter gap is silence, decided on hop by hop; after a longer one a whole window is gathered first.
        if self._last is None or 0 <= window.offset - self._last.offset <= 1.5 * self._spec.window_seconds:
            return []
        return self.close()  # a gap, or another stream: nobody knows what was there

    def _heard(self, window: Window, least: F64) -> tuple[F64, F64]:
        """The score of each outcome and, from ``least`` on, what it is worth as evidence that an event begins.

        [n_outcomes] all of them.
        """
        if window.bands is not None:
            self._envelope.push(window.bands, window.offset)
        scores = self._scores(window)
        self._recent.append((window.offset, scores))
        while self._recent[0][0] < window.onset:
            self._recent.popleft()
        candidates = np.flatnonzero(scores >= least).tolist()
        self._new = {place: self._candidate(place, window) for place in candidates if place not in self._runs}
        worth = np.ones(len(scores))
        for place, run in (self._runs | self._new).items():
            worth[place] = run.worth
        return scores, weighed(scores, worth)

    def _scores(self, window: Window) -> F64:
        """Of each outcome, smoothed: [n_outcomes]. Several classes have the sum of their shares, or the best of their
        independent scores.
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

    def _admitted(self, window: Window) -> NDArray[np.bool_]:
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
                return self._begin(place, score, window)
            self._runs.pop(place, None)
            return []
        if score < outcome.rule.release * min(outcome.threshold, run.peak):
            return [self._end(place, run, window, self._heard_until(run, window))]
        self._add(run, score, window, outcome)
        if window.offset - run.onset < outcome.rule.max_duration:
            return []
        ended = self._end(place, run, window, window.offset)
        self._blocked.pop(place, None)
        run = self._runs[place] = _Run(Beginning(window.offset), window.time, id=str(uuid.uuid4()))
        self._add(run, score, window, outcome)
        return [ended, self._event("begin", place, run, window, None)]

    def _begin(self, place: int, score: float, window: Window) -> list[Event]:
        rule = self.outcomes[place].rule
        if place not in self._runs:
            self._runs[place] = self._new[place]
        run = self._runs[place]
        self._add(run, score, window, self.outcomes[place])
        if run.windows < rule.confirm or window.offset - run.onset < rule.min_duration:
            return []
        if rule.min_duration and self._heard_until(run, window) - run.onset < rule.min_duration:
            return []  # a short sound counts for as long as it is in the window
        run.id = str(uuid.uuid4())
        return [self._event("begin", place, run, window, None)]

    def _candidate(self, place: int, window: Window) -> _Run:
        beginning = self._beginning(place, window)
        worth = min(self._most[place], odds_of(beginning, window.offset) ** self._weight[place])
        return _Run(beginning, window.time - (window.offset - beginning.time), float(worth))

    def _beginning(self, place: int, window: Window) -> Beginning:
        """Where the sound began that may be an event from ``window`` on."""
        over, told = self._over.get(place, (0.0, -math.inf))
        since, least = window.offset, RISEN * self._recent[-1][1][place]
        for offset, scores in reversed(self._recent):
            if scores[place] < least or offset <= told:
                break
            since = offset
        if window.bands is None:
            before = window.onset if self._last is None else self._last.offset
            return Beginning(max(over, min(before, since)))
        if self._last is None:  # all of the window is new, and nobody knows what was before
            return Beginning(self._envelope.onset(max(over, window.onset), window.offset).time)
        expected = since - HEARD_SECONDS
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
        self._over[place] = max(offset, run.onset), window.offset
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


def odds_of(beginning: Beginning, now: float) -> float:
    """How many times as likely a sound is an event that begins like this, as heard ``now`` (seconds of stream)."""
    if beginning.rise is None:
        return 1.0
    clarity = min(1.0, max(beginning.rise, LEAST_RISE) / CLEAR_RISE)
    return float(CLEAREST * clarity * 0.5 ** ((now - beginning.time) / HALF_LIFE))


def weighed(scores: F64, odds: F64) -> F64:
    """``scores`` whose odds are multiplied: [n] both → [n]."""
    return scores * odds / (1 + scores * (odds - 1))  # odds of 1 leave them as they are, to the last bit


def model_id(spec: ModelSpec) -> str:
    """Which model an event is of: name, precision, and the beginning of the graph's digest."""
    return f"{spec.name} {spec.provenance.precision} {spec.graph_sha256[:12]}"


def _joint(probs: F64, spec: ModelSpec) -> float:
    return min(1.0, float(probs.sum())) if spec.scores == "softmax" else float(probs.max())


def _other(outcome: Outcome, window: Window) -> float:
    """Of what is no class: 1 or 0. Silence is not unknown as well."""
    return float({UNKNOWN: window.unknown and not window.silent, SILENCE: window.silent}[outcome.label])


def _least_level(outcome: Outcome) -> float:
    """In dBFS, from which a window may begin it; what is unknown is a sound, and nothing but zeros is none."""
    if outcome.rule.min_level_dbfs is not None:
        return outcome.rule.min_level_dbfs
    return float(np.finfo(np.float64).min) if outcome.label == UNKNOWN and not outcome.classes else -math.inf
