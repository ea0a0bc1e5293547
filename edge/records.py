"""What is said of a source, as records: start, health, window, event, status, error, end. See ``docs/jsonl.md``."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import Any

import edge
from edge.classifier import Classifier
from edge.errors import EdgeError
from edge.events import Event
from edge.health import Health
from edge.listener import Window
from edge.names import encodable
from edge.rules import DEFAULT_THRESHOLD, EventConfig, Outcome, outcomes_of

Record = dict[str, Any]

CLIP_STATES = ("written", "withheld", "dropped", "pruned")  # what becomes of a clip: docs/clips.md
TYPES = ("start", "health", "window", "event", "clip", "status", "error", "end")

SCHEMA_VERSION = 1  # of the records; raised when a reader of the former version could misread them
STATUS_SECONDS = 60.0  # of stream, between two status records without news
FIRST_STATUS_SECONDS = 10.0
LATENCIES = 4096  # kept for the summary: half an hour at two a second


class Recorder:
    """The records of one source, and the counts that go into them."""

    def __init__(self, classifier: Classifier, events: EventConfig, *, hop_seconds: float, top_k: int) -> None:
        self.source = ""  # what records call it
        self._classifier, self._events = classifier, events
        self._hop_seconds, self._top_k = hop_seconds, top_k
        self._windows = self._overflows = self._lost = 0
        self._time = 0.0  # of the last window
        self._silent, self._next_status = False, FIRST_STATUS_SECONDS
        self.offset = 0.0  # seconds of stream, at the end of the last window
        self._latencies: deque[float] = deque(maxlen=LATENCIES)
        self._busy = 0.0  # ms, smoothed

    def succeed(self, classifier: Classifier, events: EventConfig) -> None:
        """Another model, and its rules, from here on."""
        self._classifier, self._events = classifier, events

    def start(self) -> Record:
        """What is listened to, and with what; it is told again when another model takes over."""
        spec, events = self._classifier.spec, self._events
        outcomes = outcomes_of(spec, events)
        site: Record = {"site": _site(outcomes, events)} if events.site else {}
        return self._record(
            "start",
            schema_version=SCHEMA_VERSION,
            version=edge.__version__,
            model=spec.name,
            precision=spec.provenance.precision,
            provider=self._classifier.provider,
            labels=list(spec.labels),
            event_labels=[outcome.label for outcome in outcomes],
            sample_rate=spec.frontend.sample_rate,
            window_seconds=round(spec.window_seconds, 6),
            hop_seconds=round(self._hop_seconds, 6),
            **site,
        )

    def window(self, window: Window) -> Record:
        """A decision."""
        top = window.top(self._top_k)
        label, score = top[0]
        self._windows += 1
        self._overflows += window.overflows
        self._lost += window.lost
        self._latencies.append(window.latency_ms)
        self._busy += (window.busy_ms - self._busy) / min(self._windows, 20)
        self.offset, self._time = window.offset, window.time
        return self._record(
            "window",
            at=window.time,
            onset=round(window.onset, 3),
            offset=round(window.offset, 3),
            label=label if score >= self._least(label) and not window.unknown else None,
            unknown=window.unknown,
            top=[[label, round(score, 4)] for label, score in top],
            level_dbfs=_level(window),
            latency_ms=round(window.latency_ms, 2),
            busy_ms=round(window.busy_ms, 2),
        )

    def status(self, window: Window, late: int = 0, *, news: bool = False) -> Iterator[Record]:
        """How it goes, when there is ``news`` or it is time; ``late`` windows came later than a hop so far."""
        news = news or bool(window.lost or window.overflows) or window.silent != self._silent
        self._silent = window.silent
        if news or window.offset >= self._next_status:
            self._next_status = window.offset + STATUS_SECONDS
            yield self._record(
                "status",
                at=window.time,
                silent=window.silent,
                load=round(self._busy / 1000 / self._hop_seconds, 4),
                level_dbfs=_level(window),
                **_quality(window),
                late=late,
                **self._counts(),
            )

    def end(self, reason: str) -> Record:
        """The summary."""
        ordered = sorted(self._latencies)
        latency = {f"p{q}": _percentile(ordered, q) for q in (50, 95, 99)} if ordered else None
        at = max(time.time(), self._time)  # a recording may be ahead of the clock
        seconds = round(self.offset, 3)
        return self._record("end", at=at, reason=reason, seconds=seconds, latency_ms=latency, **self._counts())

    def _counts(self) -> Record:
        return {"windows": self._windows, "overflows": self._overflows, "lost_samples": self._lost}

    def _least(self, label: str) -> float:
        """The score from which ``label`` is named: the user's threshold, the calibrated, the model's, the default."""
        asked = self._events.labels.get(label, self._events.rule).threshold
        asked = self._events.calibrated.get(label) if asked is None else asked
        return self._classifier.spec.thresholds.get(label, DEFAULT_THRESHOLD) if asked is None else asked

    def _record(self, kind: str, *, at: float | None = None, **fields: Any) -> Record:
        return record(kind, self.source, at, **fields)


def _site(outcomes: Sequence[Outcome], events: EventConfig) -> Record:
    """What edge-calibrate has changed here."""
    raised = {o.label: o.threshold for o in outcomes if o.rule.threshold is None and o.label in events.calibrated}
    return {"file": encodable(events.site), "raised": raised, "muted": list(events.muted)}


def _level(window: Window) -> float | None:
    return None if window.level_dbfs is None else round(window.level_dbfs, 1)


def _quality(window: Window) -> Record:
    """What the device delivers; each is None where there is no device."""
    signal = window.signal
    return {
        "clipped": None if signal is None else round(signal.clipped, 6),
        "dc_offset": None if signal is None else round(signal.dc_offset, 5),
        "dead_channels": None if signal is None else list(signal.dead_channels),
        "drift_ppm": None if signal is None or signal.drift_ppm is None else round(signal.drift_ppm, 1),
    }


def health_record(source: str, health: Health) -> Record:
    """How it is with ``source`` from now on."""
    return record("health", source, state=health.state, reasons=list(health.reasons), message=health.message)


def error_record(source: str, error: EdgeError) -> Record:
    """Why ``source`` cannot be listened to, or not any longer."""
    return record("error", source, code=error.exit_code, message=error.what, remedy=error.remedy)


def event_record(source: str, event: Event) -> Record:
    """An event that has begun, or ended; its time is that of its onset or offset."""
    ended = event.offset is not None and event.offset_time is not None
    return record(
        "event",
        source,
        event.offset_time if ended else event.onset_time,
        id=event.id,
        phase=event.phase,
        label=event.label,
        classes=list(event.classes),
        onset=round(event.onset, 3),
        offset=None if event.offset is None else round(event.offset, 3),
        duration=None if event.offset is None else round(event.offset - event.onset, 3),
        onset_time=rfc3339(event.onset_time),
        offset_time=None if event.offset_time is None else rfc3339(event.offset_time),
        peak=round(event.peak, 4),
        mean=round(event.mean, 4),
        level_dbfs=None if event.level_dbfs is None else round(event.level_dbfs, 1),
        model=event.model,
        latency_ms=round(event.latency_ms, 2),
    )


def record(kind: str, source: str, at: float | None = None, /, **fields: Any) -> Record:
    """A record of ``source`` at a time (now): what all of them have, and ``fields``."""
    return {"type": kind, "source": encodable(source), "time": rfc3339(time.time() if at is None else at), **fields}


def rfc3339(seconds: float) -> str:
    """Seconds since the Unix epoch in RFC 3339, UTC, with milliseconds."""
    text = datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _percentile(ordered: list[float], q: float) -> float:
    """The nearest-rank percentile."""
    return round(ordered[max(0, math.ceil(q / 100 * len(ordered)) - 1)], 2)
