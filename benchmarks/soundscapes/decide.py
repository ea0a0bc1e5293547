"""Windows → what the listener would have reported, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.soundscapes.truth import Detection
from edge.config import ModelSpec
from edge.listener import Window


def detect(windows: Sequence[Window], spec: ModelSpec, config: Any = None) -> list[Detection]:
    """The events of a recording, by the runtime's detector and the rules of ``config`` (an EventConfig; None: the
    defaults), by their onset.
    """
    from edge.decisions import Detector

    detector = Detector(spec) if config is None else Detector(spec, config)
    told: dict[str, float] = {}  # event → when it was told that it has begun
    found: list[Detection] = []
    for window in windows:
        _note(detector.push(window), window.offset, told, found)
    if windows:
        _note(detector.close(), windows[-1].offset, told, found)
    return sorted(found, key=lambda d: (d.onset, d.label))


def _note(events: Sequence[Any], now: float, told: dict[str, float], found: list[Detection]) -> None:
    for event in events:
        if event.phase == "begin":
            told[event.id] = now
        else:
            found.append(Detection(event.onset, event.offset, event.label, told.get(event.id, now)))


def scaled(spec: ModelSpec, config: Any, factor: float) -> tuple[ModelSpec, Any]:
    """Both, with all thresholds multiplied by ``factor``, to at most 1."""
    from edge.rules import DEFAULT_THRESHOLD, EventConfig

    def rule(of: Any) -> Any:
        return of if of.threshold is None else replace(of, threshold=min(1.0, of.threshold * factor))

    config = config or EventConfig()
    thresholds = {name: min(1.0, spec.thresholds.get(name, DEFAULT_THRESHOLD) * factor) for name in spec.labels}
    changed = replace(config, rule=rule(config.rule), labels={name: rule(r) for name, r in config.labels.items()})
    return replace(spec, thresholds=thresholds), changed


def names_of(spec: ModelSpec, config: Any) -> dict[str, str | None]:
    """What each class is reported as by the rules of ``config``; None where it is not. What is muted at a place is
    still expected, and missed.
    """
    if config is None:
        return {}
    from edge.rules import outcomes_of

    names: dict[str, str | None] = dict.fromkeys(spec.labels)
    for outcome in outcomes_of(spec, replace(config, muted=())):
        names |= {spec.labels[place]: outcome.label for place in outcome.classes}
    return names
