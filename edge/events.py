"""An event: one sound from its beginning to its end."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """What was heard. It is told twice: when it has begun, with what is known by then, and when it has ended."""

    id: str  # of this event alone, the same when it begins and when it ends
    phase: str  # "begin" or "end"
    label: str  # what it is reported as: the class, or the alias or group that the user gave it
    classes: tuple[str, ...]  # the model's classes that were heard in it, most often one
    onset: float  # seconds of stream
    offset: float | None  # seconds of stream; None when it has begun
    onset_time: float  # seconds since the Unix epoch
    offset_time: float | None  # seconds since the Unix epoch; None when it has begun
    peak: float  # highest score so far, 0 to 1
    mean: float  # of the scores so far
    level_dbfs: float | None  # highest level so far, 0 dB is full scale; None for all zeros
    model: str  # name, precision and the beginning of the graph's digest
    latency_ms: float  # from the last sample that the decision heard to the decision
