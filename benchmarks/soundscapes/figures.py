"""A score as numbers for programs, and as tables for people."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from benchmarks.soundscapes.match import Pair
from benchmarks.soundscapes.score import COLLARS, IMPULSIVE, Counts, Score, delays, onset_errors, quantile

HOUR = 3600.0

Figures = dict[str, Any]


def figures(score: Score) -> Figures:
    """Everything, in JSON's types; None where there is nothing to count."""
    found: Figures = {"hours": score.seconds / HOUR}
    for name in (*COLLARS, "segment"):
        total = score.micro(name)
        found |= {f"{name}_f1": total.f1, f"{name}_f1_macro": score.macro_f1(name)}
        found |= {f"{name}_precision": total.precision, f"{name}_recall": total.recall}
    total = score.micro("event")
    found |= {"events": total.events, "reports": total.reports, "found": len(score.found)}
    found |= {"found_share": len(score.found) / total.events if total.events else math.nan}
    found |= _false_alarms(score) | _times(score.found)
    found["by_class"] = by_class(score)
    return _plain(found)


def by_class(score: Score) -> dict[str, Figures]:
    """Of each class that is there, or was reported."""
    hours = score.seconds / HOUR
    own: dict[str, list[Pair]] = defaultdict(list)
    for pair in score.found:
        own[pair[0].label].append(pair)
    alarms: dict[str, int] = defaultdict(int)
    for (label, _), n in score.false_alarms.items():
        alarms[label] += n
    return {
        label: {
            "events": count.events,
            "reports": count.reports,
            "event_precision": count.precision,
            "event_recall": count.recall,
            **{f"{name}_f1": score.counts[name].get(label, Counts()).f1 for name in (*COLLARS, "segment")},
            "false_alarms_per_hour": alarms[label] / hours,
            "median_delay_s": quantile(delays(own[label]), 0.5),
            "onset_error_s": quantile(onset_errors(own[label]), 0.5),
        }
        for label, count in sorted(score.counts["event"].items())
    }


def _false_alarms(score: Score) -> Figures:
    by_kind: dict[str, int] = defaultdict(int)
    for (_, kind), n in score.false_alarms.items():
        by_kind[kind] += n
    kinds = {kind: seconds / HOUR for kind, seconds in sorted(score.seconds_by_kind.items())}
    return {
        "false_alarms": sum(by_kind.values()),
        "false_alarms_per_hour": sum(by_kind.values()) / (score.seconds / HOUR),
        "false_alarms_per_hour_by_kind": {kind: by_kind[kind] / hours for kind, hours in kinds.items() if hours},
        "hours_by_kind": kinds,
    }


def _times(found: Sequence[Pair]) -> Figures:
    quick = [pair for pair in found if pair[0].label in IMPULSIVE]
    return {
        "median_delay_s": quantile(delays(found), 0.5),
        "p90_delay_s": quantile(delays(found), 0.9),
        "median_delay_impulsive_s": quantile(delays(quick), 0.5),
        "p90_delay_impulsive_s": quantile(delays(quick), 0.9),
        "onset_error_s": quantile(onset_errors(found), 0.5),
    }


def _plain(value: Any) -> Any:
    """NaN as None, at any depth."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def summary(found: Figures) -> str:
    """The figures of all classes together, in Markdown."""
    rows = [("hours", f"{found['hours']:.2f}")]
    if found["events"]:
        rows += [("events, reported, found", f"{found['events']}, {found['reports']}, {found['found']}")]
        rows += [(title, _f1(found, name)) for name, title in TITLES.items()]
        rows += [
            ("delay, median (90 %)", f"{shown(found['median_delay_s'], 's')} ({shown(found['p90_delay_s'], 's')})"),
            (
                "delay of impulsive classes, median (90 %)",
                f"{shown(found['median_delay_impulsive_s'], 's')} ({shown(found['p90_delay_impulsive_s'], 's')})",
            ),
            ("error of the onset, median", shown(found["onset_error_s"], "s")),
        ]
    rows += [("false alarms an hour", shown(found["false_alarms_per_hour"]))]
    hours = found["hours_by_kind"]
    for kind, rate in found["false_alarms_per_hour_by_kind"].items():
        rows.append((f"— over {kind} ({hours[kind]:.2f} h)", shown(rate)))
    return table(("", ""), rows)


TITLES = {
    "event": "event F1, onset within 0.5 s",
    "event_200ms": "event F1, onset within 0.2 s",
    "event_offset": "event F1, onset and offset",
    "segment": "segment F1, 1 s",
}


def _f1(found: Figures, name: str) -> str:
    return f"{shown(found[f'{name}_f1'])} (macro {shown(found[f'{name}_f1_macro'])})"


def class_table(found: Figures) -> str:
    """A line for each class, in Markdown."""
    columns = {"event_f1": "F1", "event_precision": "precision", "event_recall": "recall", "segment_f1": "segment F1"}
    times = {"false_alarms_per_hour": "false/h", "median_delay_s": "delay (s)", "onset_error_s": "onset error (s)"}
    keys = ("events", "reports", *columns, *times)
    rows = [
        (label, *(str(own[k]) if isinstance(own[k], int) else shown(own[k]) for k in keys))
        for label, own in found["by_class"].items()
    ]
    return table(("class", "events", "reports", *columns.values(), *times.values()), rows)


def curve_table(curve: Sequence[Figures]) -> str:
    """A line for each scale of the thresholds, in Markdown."""
    keys = ("scale", "event_f1", "event_precision", "event_recall", "segment_f1", "false_alarms_per_hour")
    titles = ("thresholds ×", "event F1", "precision", "recall", "segment F1", "false/h")
    return table(titles, [tuple(shown(point[key]) for key in keys) for point in curve])


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(value: float | None, unit: str = "") -> str:
    """Two digits after the point; a dash for what could not be counted."""
    return "–" if value is None else f"{value:.2f} {unit}".rstrip()
