"""By what a candidate is judged that has run in the shadow of the current model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edge.settings import require, settings_of

SMOOTHING = 5  # events added to both sides of the ratio: of few events, one more says nothing
EARLY_WINDOWS = 20  # before so many, the time of the first calls weighs too much

# What a publisher may ask for, least and most; what is beyond is cut to it.
BOUNDS = {
    "seconds": (10.0, 7 * 86_400.0),
    "min_windows": (20, 1_000_000),
    "max_disagreement": (0.0, 0.5),
    "max_event_ratio": (1.0, 20.0),
    "max_latency_ratio": (1.0, 10.0),
    "max_latency_ms": (1.0, 1_000.0),
    "max_memory_mib": (1.0, 512.0),
}


@dataclass(frozen=True)
class ShadowRules:
    """How long a candidate runs in shadow, and what it may do meanwhile."""

    seconds: float = 3600.0  # of sound that both models have heard
    min_windows: int = 500  # decisions of both
    max_disagreement: float = 0.2  # share of the windows of which the two name different classes
    max_event_ratio: float = 3.0  # events of the candidate to those of the current model, and the other way round
    # of what front end and network take for a decision, 95th percentile: to that of the current model, and by itself
    max_latency_ratio: float = 2.0
    max_latency_ms: float = 250.0
    max_memory_mib: float = 64.0  # that the process has grown by since the candidate was loaded and had run once

    def __post_init__(self) -> None:
        for name in BOUNDS:
            value = getattr(self, name)
            require(math.isfinite(value) and value >= 0, name, value, "a finite number from 0")


@dataclass(frozen=True)
class ShadowReport:
    """What was seen of a candidate and of the current model on the same frames."""

    seconds: float = 0.0  # of sound that both have heard
    windows: int = 0  # decisions of both
    disagreements: int = 0  # windows of which the two name different classes
    events_current: int = 0
    events_candidate: int = 0
    latency_p50_current: float = 0.0  # ms
    latency_p95_current: float = 0.0  # ms
    latency_p50_candidate: float = 0.0  # ms
    latency_p95_candidate: float = 0.0  # ms
    memory_mib: float = 0.0  # that the process has grown by
    crashed: str | None = None  # the candidate's error, in one line


@dataclass(frozen=True)
class Verdict:
    """What becomes of a candidate."""

    decision: Literal["promote", "reject", "wait"]
    reason: str  # for people


def judge(rules: ShadowRules, report: ShadowReport) -> Verdict:
    """Promote, reject or wait. Whatever is not a number counts against the candidate."""
    if reason := _harm(rules, report):
        return Verdict("reject", reason)
    if report.seconds < rules.seconds or report.windows < rules.min_windows:
        return Verdict(
            "wait",
            f"{report.seconds:.0f} of {rules.seconds:.0f} s, {report.windows} of {rules.min_windows} windows",
        )
    if reason := _difference(rules, report):
        return Verdict("reject", reason)
    return Verdict("promote", f"{report.windows} windows in {report.seconds:.0f} s within the rules")


def _harm(rules: ShadowRules, report: ShadowReport) -> str:
    """What is not waited for: it costs the device something now."""
    if report.crashed is not None:
        return f"it crashed: {report.crashed}"
    if not report.memory_mib <= rules.max_memory_mib:
        return f"memory grew by {report.memory_mib:.1f} MiB; allowed: {rules.max_memory_mib:g}"
    p95 = report.latency_p95_candidate
    if report.windows >= EARLY_WINDOWS and not p95 <= rules.max_latency_ms:
        return f"latency is {p95:.1f} ms (95th percentile); allowed: {rules.max_latency_ms:g}"
    return ""


def _difference(rules: ShadowRules, report: ShadowReport) -> str:
    """What is judged at the end, of all windows."""
    share = report.disagreements / max(report.windows, 1)
    if not share <= rules.max_disagreement:
        return f"it disagrees in {share:.1%} of the windows; allowed: {rules.max_disagreement:.1%}"
    ours, theirs = report.events_current + SMOOTHING, report.events_candidate + SMOOTHING
    if not max(theirs / ours, ours / theirs) <= rules.max_event_ratio:
        counts = f"{report.events_candidate} events, where the current model has {report.events_current}"
        return f"{counts}; allowed ratio: {rules.max_event_ratio:g}"
    p95, of_current = report.latency_p95_candidate, report.latency_p95_current
    if not p95 <= rules.max_latency_ratio * of_current:
        latencies = f"latency is {p95:.1f} ms, of the current model {of_current:.1f}"
        return f"{latencies}; allowed ratio: {rules.max_latency_ratio:g}"
    return ""


def rules_of(asked: Mapping[str, Any], local: Mapping[str, float] | None = None) -> ShadowRules:
    """The defaults, with what a release asks for as far as BOUNDS allow, with what this device's ``local`` table says.

    Raises SettingsError for a key that is unknown, or a value of another type.
    """
    rules = settings_of(ShadowRules, asked, "shadow")
    cut = {name: min(max(getattr(rules, name), least), most) for name, (least, most) in BOUNDS.items()}
    # A configuration reads all numbers as fractions.
    whole = {key: int(value) if value == int(value) else value for key, value in (local or {}).items()}
    return settings_of(ShadowRules, whole, "shadow", base=dataclasses.replace(rules, **cut))
