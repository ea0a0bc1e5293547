"""A data set in one picture: clips by fold, durations, levels and silence of each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge.errors import EdgeError
from edge.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from train.describe import Description, Measured, Summary

ROW, FRAME = 0.19, 1.6  # inches for a class, and for what is above and below
SUFFIXES = (".png", ".svg", ".pdf")
MOST_ROWS = 200  # classes that are told apart; a picture cannot be of any height


def overview(description: Description, measured: Sequence[Measured]) -> Figure:
    """One row for each class; columns for the clips of each fold, and a dot for each clip in the others."""
    from matplotlib.figure import Figure

    classes = description.classes[:MOST_ROWS]
    figure = Figure(figsize=(14, FRAME + ROW * max(len(classes), 8)), layout="constrained")
    counts, duration, level, silence = figure.subplots(1, 4, sharey=True)
    _folds(counts, classes, list(description.total.folds))
    rows = {summary.label: row for row, summary in enumerate(classes)}
    points = [
        (rows[label], facts) for clip, facts in measured if not facts.error for label in clip.labels if label in rows
    ]
    places = np.array([row for row, _ in points]) + np.random.default_rng(0).uniform(-0.3, 0.3, len(points))
    _dots(duration, "duration, seconds", [facts.seconds for _, facts in points], places)
    _dots(level, "level, dB of full scale", [facts.level_db for _, facts in points], places)
    _dots(silence, "silence, % of the clip", [100 * facts.silence for _, facts in points], places)
    _duration_axis(duration, description.total.shortest, description.total.longest)
    silence.set_xlim(-3, 103)
    counts.set_yticks(range(len(classes)), [summary.label for summary in classes], fontsize=8, parse_math=False)
    counts.set_ylim(len(classes) - 0.5, -0.5)
    figure.legend(*counts.get_legend_handles_labels(), loc="outside lower left", ncols=12, fontsize=8)
    total = description.total
    size = f"{total.clips} clips, {len(description.classes)} classes, {total.seconds / 60:.1f} minutes"
    figure.suptitle(f"{description.name}: {size}", parse_math=False)  # a name may have dollars in it
    return figure


def _folds(ax: Axes, classes: Sequence[Summary], folds: Sequence[int]) -> None:
    """One bar on the other for each fold."""
    left = np.zeros(len(classes))
    for fold in folds:
        counts = np.array([summary.folds.get(fold, 0) for summary in classes])
        ax.barh(range(len(classes)), counts, left=left, height=0.8, label=f"fold {fold}")
        left += counts
    ax.set_title("clips", fontsize=10)


def _dots(ax: Axes, title: str, values: Sequence[float], places: NDArray[np.float64]) -> None:
    ax.scatter(values, places, s=6, alpha=0.5, linewidths=0)
    ax.set_title(title, fontsize=10)
    ax.grid(alpha=0.25)
    ax.set_axisbelow(True)


def _duration_axis(ax: Axes, shortest: float, longest: float) -> None:
    """From 0, but where the longest would squeeze the others."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    if longest < 30 * shortest:
        ax.set_xlim(0, 1.05 * longest)
        return
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def save(figure: Figure, path: Path) -> None:
    """Write PNG, SVG or PDF, as the suffix, one of :data:`SUFFIXES`, says.

    Raises:
        EdgeError: when it cannot be written.
    """
    try:
        with replacing(path) as part:
            figure.savefig(part, format=path.suffix[1:].lower(), dpi=110)
    except OSError as error:
        why = error.strerror or error  # a pipe, in which nothing can be sought, has no number of the system
        raise EdgeError(f"{path} cannot be written: {why}", remedy="give another --picture") from None
