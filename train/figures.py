"""Pictures of a run, as matplotlib figures, in colours that everybody can tell apart (Okabe and Ito 2008)."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from edge.files import replacing

F32 = NDArray[np.float32]

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"
CELL_NUMBERS = 16  # classes up to which a confusion matrix has its numbers written in
LONGEST = 28  # characters of a label in a picture
FRAME_SECONDS = 0.01  # between the frames of the default front end
COLUMNS = 5  # of a grid of spectrograms


def loss_figure(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss by epoch: of training and, where it was measured, of the validation fold."""
    figure, ax = _curves(history, (("loss", "training", BLUE), ("validation_loss", "validation", ORANGE)))
    ax.set_ylabel("loss, nats")
    return figure


def accuracy_figure(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Validation accuracy by epoch: of clips and of single windows."""
    figure, ax = _curves(history, (("accuracy", "clips", BLUE), ("window_accuracy", "single windows", ORANGE)))
    ax.set_ylabel("validation accuracy, %")
    ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}")
    ax.set_ylim(0, 1.02)
    return figure


def folds_figure(networks: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> Figure:
    """Training loss by epoch: a panel for each network of a cross-validation, a line for each fold's history."""
    figure = Figure(figsize=(3 * len(networks) + 1, 3.2), layout="constrained")
    panels = figure.subplots(1, len(networks), squeeze=False)[0]
    for ax, (name, histories) in zip(panels, networks.items(), strict=True):
        for fold, history in histories.items():
            ax.plot([r["epoch"] for r in history], [r["loss"] for r in history], label=plain(fold), linewidth=1)
        ax.set_title(plain(name))
        ax.set_xlabel("epoch")
        ax.grid(alpha=0.3)
    panels[0].set_ylabel("training loss, nats")
    panels[-1].legend(fontsize=8)
    return figure


def confusion_figure(confusion: Sequence[Sequence[int]], labels: Sequence[str]) -> Figure:
    """Counts [K, K], row: true, column: recognised. Colour: share of the row; few classes have numbers too."""
    counts = np.asarray(confusion)
    n = len(labels)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = max(4.0, 1.5 + 0.21 * n)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    ax = figure.subplots()
    image = ax.imshow(100 * share, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, ax=ax, label="share of the row, %", shrink=0.8)
    font = 9 if n <= CELL_NUMBERS else 7
    names = [plain(label) for label in labels]
    ax.set_xticks(range(n), names, rotation=90, fontsize=font)
    ax.set_yticks(range(n), names, fontsize=font)
    ax.set_xlabel("recognised as")
    ax.set_ylabel("true class")
    if n <= CELL_NUMBERS:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if share[row, column] > 0.5 else "black"
            ax.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=font)
    return figure


def reliability_figure(bins: Sequence[tuple[float, float, int]]) -> Figure:
    """How often a confidence is right (Guo 2017). A bin: confidence, accuracy, decisions."""
    figure = Figure(figsize=(4.5, 5), layout="constrained")
    top, bottom = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    filled = np.array([b for b in bins if b[2]], float).reshape(-1, 3)
    top.plot([0, 100], [0, 100], color=GREY, linestyle="--", label="perfect")
    top.plot(100 * filled[:, 0], 100 * filled[:, 1], color=BLUE, marker="o", label="measured")
    top.set_ylabel("accuracy, %")
    top.set_xlim(0, 100)
    top.set_ylim(0, 100)
    top.legend()
    bottom.bar(100 * filled[:, 0], filled[:, 2], width=5, color=BLUE)
    bottom.set_ylabel("decisions")
    bottom.set_xlabel("confidence, %")
    return figure


def log_mel_figure(log_mel: F32, title: str, frame_seconds: float = FRAME_SECONDS) -> Figure:
    """Frames [n_mels, T] or [channels, n_mels, T] as a spectrogram."""
    figure = Figure(figsize=(6, 2.6), layout="constrained")
    ax = figure.subplots()
    draw_frames(ax, log_mel, frame_seconds)
    ax.set_title(plain(title, 80))
    return figure


def mistakes_figure(panels: Sequence[tuple[str, F32 | None]], frame_seconds: float = FRAME_SECONDS) -> Figure:
    """A grid of spectrograms, each with its title; None: a recording that cannot be read."""
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(2.9 * COLUMNS, 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    for ax, (title, frames) in zip(axes, panels, strict=False):
        ax.set_title("\n".join(plain(line) for line in title.splitlines()), fontsize=9)
        if frames is None:
            ax.set_axis_off()
            ax.text(0.5, 0.5, "cannot be read", ha="center", va="center")
        else:
            draw_frames(ax, frames, frame_seconds)
    return figure


def attention_figure(log_mel: F32, attention: F32, title: str = "", frame_seconds: float = FRAME_SECONDS) -> Figure:
    """Where a network looks, [T'] or [n_mels', T'], in orange over the grey spectrogram [n_mels, T] that it saw."""
    figure = Figure(figsize=(6, 2.8), layout="constrained")
    ax = figure.subplots()
    extent = draw_frames(ax, log_mel, frame_seconds, colours="Greys")
    weight = np.atleast_2d(attention)  # [n_mels' or 1, T']
    weight = (weight - weight.min()) / max(float(np.ptp(weight)), 1e-12)
    overlay = ax.imshow(
        weight, cmap="Oranges", vmin=0, vmax=1, alpha=0.6 * weight, extent=extent, origin="lower", aspect="auto"
    )
    figure.colorbar(overlay, ax=ax, label="attention, of its range")
    ax.set_title(plain(title, 80))
    return figure


def draw_frames(
    ax: Axes, frames: F32, frame_seconds: float, colours: str = "viridis"
) -> tuple[float, float, float, float]:
    """Draw frames [n_mels, T] or [channels, n_mels, T] (their mean); one band is a wave. Returns the extent."""
    bands = frames.mean(axis=0) if frames.ndim == 3 else frames  # [n_mels, T]
    seconds = bands.shape[1] * frame_seconds
    ax.set_xlabel("time, s")
    if len(bands) == 1:
        ax.plot(np.arange(bands.shape[1]) * frame_seconds, bands[0], color=BLUE, linewidth=0.5)
        ax.set_ylabel("sample")
        return 0.0, seconds, *ax.get_ylim()
    extent = (0.0, seconds, 0.0, float(len(bands)))
    ax.imshow(bands, origin="lower", aspect="auto", cmap=colours, extent=extent)
    ax.set_ylabel("mel band")
    return extent


def plain(text: str, longest: int = LONGEST) -> str:
    """``text`` as matplotlib draws it unchanged: no formula, nothing that cannot be printed, not too long."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    if len(text) > longest:
        text = text[: longest - 1] + "…"
    return text.replace("$", r"\$")


def png(figure: Figure, dpi: int = 100) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # a label in a script that the font lacks: boxes, but a picture
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def save_png(figure: Figure, path: Path) -> None:
    """Write the figure to ``path``: whole, or not at all."""
    with replacing(path) as part:
        part.write_bytes(png(figure))


def _curves(history: Sequence[Mapping[str, Any]], curves: Sequence[tuple[str, str, str]]) -> tuple[Figure, Axes]:
    """The epochs that have a value, for each of (key, label, colour)."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    ax = figure.subplots()
    for key, label, colour in curves:
        points = [(r["epoch"], r[key]) for r in history if r.get(key) is not None]
        if points:
            ax.plot(*zip(*points, strict=True), color=colour, label=label, marker="." if len(points) < 60 else "")
    if ax.lines:
        ax.legend()
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_xlabel("epoch")
    ax.grid(alpha=0.3)
    return figure, ax
