"""Whether ``edge-calibrate`` keeps its promise, and what that costs: thresholds from some hours, counted in others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from scipy.stats import poisson

from benchmarks.soundscapes.figures import Figures, figures, shown, table
from benchmarks.soundscapes.hear import Heard
from benchmarks.soundscapes.run import Listener, score_all
from benchmarks.soundscapes.score import Score
from edge.calibration import DAY, Calibration, Site, poisson_bound
from edge.rules import EventConfig

MADE = "1970-01-01T00:00:00.000Z"  # two runs agree
COST = {
    "event_f1": "event F1, onset within 0.5 s",
    "event_precision": "event precision",
    "event_recall": "event recall",
    "segment_f1": "segment F1, 1 s",
    "found_share": "share of the events found",
}


def learnt(heard: Iterable[Heard], listener: Listener, config: EventConfig, max_false_per_day: float) -> Site:
    """What ``edge-calibrate`` would have made of it. Raises SettingsError where it is too short."""
    calibration = Calibration(listener.spec, config, listener.hop)
    for recording in heard:
        for window in recording.windows:
            calibration.push(window)
    return calibration.site(max_false_per_day, MADE)


def judged(
    site: Site, quiet: Iterable[Heard], scenes: Iterable[Heard], listener: Listener, config: EventConfig
) -> Figures:
    """Events told in ``quiet``, where all are false, and recognition in ``scenes``: without the site, and with it."""
    configs = (config, site.applied(config))
    before, after = _scores((_all_false(h) for h in quiet), listener, configs)
    costs = [figures(score) for score in _scores(scenes, listener, configs)]
    days = before.seconds / DAY
    count = after.false_alarms.total()
    found: Figures = {
        "promised": site.max_false_per_day,
        "expected_per_day": site.expected_per_day,
        "at_most_per_day": site.at_most_per_day,
        "hours": site.hours,
        "test_hours": before.seconds / 3600,
        "false_events": _both(before.false_alarms.total(), count),
        "false_per_day": _both(before.false_alarms.total() / days, count / days),
        "false_per_day_at_most": poisson_bound(count) / days,
        "chance_if_kept": float(poisson.sf(count - 1, site.max_false_per_day * days)),
        "false_by_class": _by_class(after),
        "muted": list(site.muted),
        "thresholds": site.thresholds,
        "scene_hours": costs[0]["hours"],
    }
    return found | {key: _both(*(cost[key] for cost in costs)) for key in COST}


def _scores(heard: Iterable[Heard], listener: Listener, configs: Sequence[EventConfig]) -> list[Score]:
    """By each of ``configs``, with one recording in memory at a time."""
    totals = [Score() for _ in configs]
    for recording in heard:
        for total, config in zip(totals, configs, strict=True):
            total.add(score_all([recording], listener.spec, config))
    return totals


def _all_false(heard: Heard) -> Heard:
    """As ``edge-calibrate`` takes it: what is heard is false, also where a class may be in the background."""
    return replace(heard, truth=replace(heard.truth, ignored=()))


def _both(before: Any, after: Any) -> Figures:
    return {"before": before, "after": after}


def _by_class(score: Score) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for (label, _), n in score.false_alarms.items():
        counts[label] += n
    return dict(counts.most_common())


def site_tables(found: Figures) -> str:
    """The promise, and its price, in Markdown."""
    promise = [
        ("promised", shown(found["promised"])),
        ("expected, by the tails", shown(found["expected_per_day"])),
        (f"proven by counting in the {found['hours']:.2f} h of listening", f"≤ {shown(found['at_most_per_day'])}"),
        (f"told in other {found['test_hours']:.2f} h, without it", shown(found["false_per_day"]["before"])),
        ("the same with it", f"{shown(found['false_per_day']['after'])} ({found['false_events']['after']} events)"),
        ("which proves, with 95 % confidence", f"≤ {shown(found['false_per_day_at_most'])}"),
        ("chance of so many or more, were the promise kept", shown(found["chance_if_kept"])),
    ]
    cost = [(title, shown(found[key]["before"]), shown(found[key]["after"])) for key, title in COST.items()]
    raised = ", ".join(f"{label} {score:.3g}" for label, score in sorted(found["thresholds"].items()))
    return "\n\n".join(
        [
            table(("events a day where there are none", ""), promise),
            table((f"{found['scene_hours']:.2f} h of scenes", "before", "after"), cost),
            f"raised: {raised or 'none'}\nmuted: {', '.join(sorted(found['muted'])) or 'none'}",
        ]
    )
