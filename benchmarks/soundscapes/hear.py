"""What the runtime hears in a recording: its windows, kept on disk, because they are what costs time."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.soundscapes.truth import Span, Truth
from edge.classifier import Classifier
from edge.files import replacing
from edge.listener import Window, listen
from edge.sources.block import Source

Column = NDArray[Any]


@dataclass(frozen=True)
class Heard:
    """A recording: what is in it, and what the model made of it."""

    name: str
    truth: Truth
    windows: tuple[Window, ...]


def hear(source: Source, classifier: Classifier, hop: float | None = None) -> tuple[Window, ...]:
    """The windows of ``source``, by the loop that listens. Wall time is that of the stream, so that two runs agree."""
    return tuple(
        replace(window, time=window.offset, latency_ms=0.0, busy_ms=0.0) for window in listen(source, classifier, hop)
    )


def save_heard(heard: Heard, path: Path) -> None:
    """Write what :func:`load_heard` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"name": heard.name, "truth": dataclasses.asdict(heard.truth), "labels": heard.windows[0].labels}
    with replacing(path) as part, part.open("wb") as file:
        np.savez(file, about=np.array(json.dumps(about)), **_packed(heard.windows))


def load_heard(path: Path) -> Heard:
    """What :func:`save_heard` has written."""
    with np.load(path) as file:
        columns = dict(file)
    about = json.loads(str(columns.pop("about")))
    truth = {key: _spans(value) if key != "seconds" else value for key, value in about["truth"].items()}
    return Heard(about["name"], Truth(**truth), tuple(_unpacked(columns, tuple(about["labels"]))))


def _spans(rows: Iterable[dict[str, Any]]) -> tuple[Span, ...]:
    return tuple(Span(**row) for row in rows)


def _packed(windows: Sequence[Window]) -> dict[str, Column]:
    """Every field as columns: arrays one after the other along their last axis, and how long each is; None as NaN."""
    columns: dict[str, Column] = {}
    for field in dataclasses.fields(Window):
        values = [getattr(window, field.name) for window in windows]
        if any(isinstance(value, np.ndarray) for value in values):
            columns[f"{field.name}.sizes"] = np.array([value.shape[-1] for value in values])
            columns[field.name] = np.concatenate(values, axis=-1)
        elif any(value is None for value in values):
            columns[f"{field.name}.none"] = np.array([value is None for value in values])
            columns[field.name] = np.array([0.0 if value is None else value for value in values])
        elif field.name != "labels":
            columns[field.name] = np.array(values)
    return columns


def _unpacked(columns: dict[str, Column], labels: tuple[str, ...]) -> Iterable[Window]:
    values: dict[str, Sequence[Any]] = {}
    for name in [name for name in columns if "." not in name]:
        if (sizes := columns.get(f"{name}.sizes")) is not None:
            values[name] = np.split(columns[name], np.cumsum(sizes)[:-1], axis=-1)
        else:
            none = columns.get(f"{name}.none", np.zeros(len(columns[name]), bool))
            values[name] = [None if gone else value for value, gone in zip(columns[name].tolist(), none)]
    for row in zip(*values.values(), strict=True):
        yield Window(labels=labels, **dict(zip(values, row)))
