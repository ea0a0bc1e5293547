"""Reports against the truth: F1 of events and of segments, false alarms, delays.

Events and segments are counted as sed_eval counts them (Mesaros, Heittola, Virtanen 2016, "Metrics for polyphonic sound
event detection"); the tests hold both against it. The pairs themselves, which it does not give, tell the delays.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from benchmarks.soundscapes.match import Collar, Pair, Touch, by_label, pairs
from benchmarks.soundscapes.truth import Detection, Span, Truth

SEGMENT = 1.0  # seconds
COLLARS = {
    "event": Collar(0.5),  # the headline
    "event_200ms": Collar(0.2),
    "event_offset": Collar(0.5, 0.5),
}
TOUCH = Touch(0.5)
# Classes of sounds that are over, or have struck, at once: a report of them must be quick to be of use.
IMPULSIVE = frozenset(
    [
        *("dog", "door_wood_knock", "mouse_click", "clapping", "footsteps", "glass_breaking", "can_opening"),
        *("sneezing", "coughing", "keyboard_typing", "clock_tick", "water_drops"),
    ]
)
NO_BACKGROUND = "unknown"  # the kind where the truth names none


@dataclass(frozen=True)
class Counts:
    """Of a class, or of all."""

    hits: int = 0  # events, or segments, that were found
    events: int = 0  # that are there
    reports: int = 0  # that were told

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.hits + other.hits, self.events + other.events, self.reports + other.reports)

    @property
    def precision(self) -> float:
        """Share of the reports that are right; NaN without reports."""
        return self.hits / self.reports if self.reports else math.nan

    @property
    def recall(self) -> float:
        """Share of the events that were found; NaN without events."""
        return self.hits / self.events if self.events else math.nan

    @property
    def f1(self) -> float:
        """Harmonic mean of both; NaN where there are neither events nor reports."""
        return 2 * self.hits / (self.events + self.reports) if self.events + self.reports else math.nan


@dataclass
class Score:
    """Of one recording, or of several added up."""

    seconds: float = 0.0
    counts: dict[str, dict[str, Counts]] = field(default_factory=dict)  # of COLLARS and "segment" → label → counts
    found: list[Pair] = field(default_factory=list)  # events, and the reports that touch them
    false_alarms: Counter[tuple[str, str]] = field(default_factory=Counter)  # (label, kind of background)
    seconds_by_kind: Counter[str] = field(default_factory=Counter)

    def add(self, other: Score) -> None:
        """Another recording."""
        self.seconds += other.seconds
        self.found += other.found
        self.false_alarms.update(other.false_alarms)
        self.seconds_by_kind.update(other.seconds_by_kind)
        for name, counts in other.counts.items():
            mine = self.counts.setdefault(name, {})
            for label, count in counts.items():
                mine[label] = mine.get(label, Counts()) + count

    def micro(self, name: str) -> Counts:
        """All classes together."""
        return sum(self.counts[name].values(), Counts())

    def macro_f1(self, name: str) -> float:
        """Mean over the classes that are there. One that is never reported counts as 0; sed_eval leaves it out."""
        return mean(count.f1 for count in self.counts[name].values() if count.events)


def score(truth: Truth, reports: Sequence[Detection]) -> Score:
    """Of one recording. What may be heard in a background is neither expected nor false while that lasts."""
    truth, reports = counted(truth, reports)
    result = Score(truth.seconds)
    for span in truth.stretches or (Span(0.0, truth.seconds, NO_BACKGROUND),):
        result.seconds_by_kind[span.label] += span.offset - span.onset
    result.counts = {name: {} for name in COLLARS} | {"segment": segment_counts(truth, reports)}
    for label, events, own in by_label(truth.events, reports):
        for name, collar in COLLARS.items():
            result.counts[name][label] = Counts(len(pairs(events, own, collar)), len(events), len(own))
        result.found += pairs(events, own, TOUCH)
        for report in false_alarms(events, own):
            result.false_alarms[label, kind_at(truth, report.onset)] += 1
    return result


def counted(truth: Truth, reports: Sequence[Detection]) -> tuple[Truth, list[Detection]]:
    """Events and reports that count: not those of a class that may be heard in the background then."""
    events = [e for e in truth.events if not _touched(e, truth.ignored, 0.0)]
    kept = [r for r in reports if not _touched(r, truth.ignored, TOUCH.margin) or _touched(r, events, TOUCH.margin)]
    return replace(truth, events=tuple(events)), kept


def false_alarms(events: Sequence[Span], reports: Sequence[Detection]) -> list[Detection]:
    """Reports of a class that touch no event of it. One that is late, or tells an event twice, is none of them."""
    if not events:
        return list(reports)
    touching = TOUCH.fits(events, reports).any(axis=0) if reports else []
    return [report for report, touches in zip(reports, touching) if not touches]


def kind_at(truth: Truth, time: float) -> str:
    """The kind of background at a time."""
    return next((s.label for s in reversed(truth.stretches) if s.onset <= time), NO_BACKGROUND)


def segment_counts(truth: Truth, reports: Sequence[Detection]) -> dict[str, Counts]:
    """Segments of SEGMENT seconds in which a class is active, by class."""
    true, told, ignored = (_segments(spans) for spans in (truth.events, reports, truth.ignored))
    told -= ignored - true  # an event that is expected is, even where a background ends
    sets = (true & told, true, told)
    hits, events, reported = (Counter(label for label, _ in cells) for cells in sets)
    return {label: Counts(hits[label], events[label], reported[label]) for label in sorted({*events, *reported})}


def _segments(spans: Iterable[Span]) -> set[tuple[str, int]]:
    """(label, segment) of each that a span reaches into."""
    return {
        (span.label, segment)
        for span in spans
        for segment in range(math.floor(span.onset / SEGMENT), math.ceil(span.offset / SEGMENT))
    }


def _touched(span: Span, others: Iterable[Span], margin: float) -> bool:
    return any(
        o.label == span.label and o.onset < span.offset + margin and o.offset > span.onset - margin for o in others
    )


def mean(values: Iterable[float]) -> float:
    """NaN of none."""
    listed = list(values)
    return float(np.mean(listed)) if listed else math.nan


def delays(found: Iterable[Pair]) -> list[float]:
    """Seconds from each event's onset to the decision."""
    return [report.decided - event.onset for event, report in found]


def onset_errors(found: Iterable[Pair]) -> list[float]:
    """Seconds between each event's onset and the reported one."""
    return [abs(report.onset - event.onset) for event, report in found]


def quantile(values: Sequence[float], share: float) -> float:
    """NaN of none."""
    return float(np.quantile(values, share)) if len(values) else math.nan
