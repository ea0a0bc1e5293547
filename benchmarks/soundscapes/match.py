"""Which report is of which event: at most one of each, as many pairs as possible, and of those the nearest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from benchmarks.soundscapes.truth import Detection, Span

TOLERANCE = 1e-9  # seconds: what is exactly at a collar is within it, in binary as well

Fits = NDArray[np.bool_]
Pair = tuple[Span, Detection]


@dataclass(frozen=True)
class Collar:
    """When a report counts as of an event: sed_eval's rule for events (Mesaros 2016, section 3.2)."""

    onset: float = 0.5  # seconds, from the true onset, at most
    length_share: float | None = None  # of the event; the offset must be within that, or within ``onset``; None: any

    def fits(self, events: Sequence[Span], reports: Sequence[Detection]) -> Fits:
        """[n_events, n_reports]"""
        fits: Fits = np.abs(_differences(events, reports, "onset")) <= self.onset + TOLERANCE
        if self.length_share is not None:
            most = [max(self.onset, self.length_share * (e.offset - e.onset)) for e in events]
            fits &= np.abs(_differences(events, reports, "offset")) <= np.array(most)[:, None] + TOLERANCE
        return fits


@dataclass(frozen=True)
class Touch:
    """A report is of an event that it overlaps, or is nearly next to: looser than any collar."""

    margin: float = 0.5  # seconds

    def fits(self, events: Sequence[Span], reports: Sequence[Detection]) -> Fits:
        """[n_events, n_reports]"""
        times = [
            [np.array([getattr(s, key) for s in spans]) for key in ("onset", "offset")] for spans in (events, reports)
        ]
        (onsets, offsets), (first, last) = times
        late = first[None] - offsets[:, None] > self.margin + TOLERANCE
        early = onsets[:, None] - last[None] > self.margin + TOLERANCE
        fits: Fits = ~(late | early)
        return fits


def by_label(events: Sequence[Span], reports: Sequence[Detection]) -> Iterator[tuple[str, list[Span], list[Detection]]]:
    """Both of each label."""
    groups: dict[str, tuple[list[Span], list[Detection]]] = defaultdict(lambda: ([], []))
    for event in events:
        groups[event.label][0].append(event)
    for report in reports:
        groups[report.label][1].append(report)
    for label, (own_events, own_reports) in sorted(groups.items()):
        yield label, own_events, own_reports


def pairs(events: Sequence[Span], reports: Sequence[Detection], rule: Collar | Touch) -> list[Pair]:
    """A maximum matching of events and reports of one label, with the smallest sum of onset errors."""
    if not events or not reports:
        return []
    fits = rule.fits(events, reports)
    cost = np.abs(_differences(events, reports, "onset"))
    cost[~fits] = cost[fits].sum() + 1  # more than all others together: as many pairs as possible come first
    rows, columns = linear_sum_assignment(cost)
    return [(events[row], reports[column]) for row, column in zip(rows, columns) if fits[row, column]]


def _differences(events: Sequence[Span], reports: Sequence[Detection], key: str) -> NDArray[np.float64]:
    true, told = ([getattr(span, key) for span in spans] for spans in (events, reports))
    differences: NDArray[np.float64] = np.array(told)[None] - np.array(true)[:, None]
    return differences
