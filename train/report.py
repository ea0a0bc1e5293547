"""One HTML page for a run: settings, history, metrics, pictures. It needs no other file."""

from __future__ import annotations

import base64
import json
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from edge.config import FrontendConfig
from edge.errors import EdgeError
from edge.features import make_frontend
from edge.files import replacing
from edge.sources.file import SoundFile
from train import figures
from train.manifest import ManifestError, ReadOptions
from train.metrics import metrics_of
from train.predictions import Mistake, Predictions, read_predictions
from train.readers import read_listing
from train.readers.listing import Listing
from train.settings import flat

TEMPLATE = Path(__file__).with_name("report.html.jinja")
SOURCES = ("config.json", "history.jsonl", "predictions.json", "manifest.jsonl")
N_MISTAKES = 10
N_MAPS = 4  # clips over which an attention map is drawn
LONGEST = 20.0  # seconds of a clip in a picture


@dataclass(frozen=True)
class Run:
    """What a run's folder holds; what is missing is empty, and named in ``notes``."""

    config: dict[str, Any]
    history: list[dict[str, Any]]
    predictions: Predictions | None
    listing: Listing | None  # the data set; its files may be elsewhere by now
    notes: list[str]

    @property
    def frontend(self) -> FrontendConfig:
        """The front end of the run."""
        return FrontendConfig(**self.config.get("frontend", {}))


def write_report(run: Path) -> Path:
    """Write ``run``/report.html from what ``fit`` left there.

    Raises:
        ValueError: when ``run`` is no folder of a run.
    """
    found = read_run(run)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["picture"] = _data_uri
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        name=run.resolve().name,
        run=found,
        settings=list(flat(found.config)),
        history=_history(found.history),
        data=_data(found.listing),
        recognition=_recognition(found),
        attention=_attention(run, found),
    )  # the parts above may add notes: the page shows them all
    with replacing(run / "report.html") as part:
        part.write_text(page, encoding="utf-8", errors="backslashreplace")  # a file's name need not be UTF-8
    return run / "report.html"


def read_run(run: Path) -> Run:
    """What is in the folder of a run. Raises ValueError when that is nothing."""
    if not any((run / name).is_file() for name in SOURCES):
        raise ValueError(f"{run} holds no run, none of {', '.join(SOURCES)}; give a folder that `fit` wrote")
    notes: list[str] = []
    readers: tuple[Callable[[Path], Any], ...] = (_read_json, _read_lines, read_predictions, _read_listing)
    config, history, predictions, listing = (
        _read(run / name, reader, notes) for name, reader in zip(SOURCES, readers, strict=True)
    )
    return Run(config or {}, history or [], predictions, listing, notes)


def _read(path: Path, reader: Callable[[Path], Any], notes: list[str]) -> Any:
    if not path.is_file():
        notes.append(f"{path.name} is not there: the page lacks what would be read from it")
        return None
    try:
        return reader(path)
    except (OSError, ValueError, ManifestError) as error:
        notes.append(str(error))
        return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        FrontendConfig(**values.get("frontend", {}))
    except (AttributeError, TypeError, ValueError, EdgeError) as error:
        raise ValueError(f"{path} holds no configuration: {error}") from None
    return values


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of whole lines; a run that is being written may end in half of one."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    try:
        return [json.loads(line) for line in lines if line.endswith("\n")]
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def _read_listing(path: Path) -> Listing:
    return read_listing(path, ReadOptions())


def _history(history: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    if not history:
        return None
    validated = [record for record in history if "accuracy" in record]
    keys = list(dict.fromkeys(key for record in history for key in record))
    seconds = sum(record.get("seconds", 0.0) for record in history)
    data_seconds = sum(record.get("data_seconds", 0.0) for record in history)
    return {
        "epochs": len(history),
        "seconds": statistics.median(record.get("seconds", 0.0) for record in history),
        "data_share": data_seconds / seconds if seconds else 0.0,
        "best": max(validated, key=lambda record: record["accuracy"], default=None),
        "last": history[-1],
        "keys": keys,
        "records": history,
        "figures": {"loss by epoch": figures.loss_figure(history)}
        | ({"accuracy by epoch": figures.accuracy_figure(history)} if validated else {}),
    }


def _data(listing: Listing | None) -> dict[str, Any] | None:
    if listing is None:
        return None
    counts = Counter((label, clip.fold) for clip in listing.clips for label in clip.labels)
    folds = sorted({clip.fold for clip in listing.clips})
    rows = [(label, [counts[label, fold] for fold in folds]) for label in listing.labels]
    return {"name": listing.name, "clips": len(listing.clips), "folds": folds, "rows": rows}


def _recognition(run: Run) -> dict[str, Any] | None:
    """Metrics, their pictures, and the worst mistakes."""
    predictions = run.predictions
    if predictions is None:
        return None
    labels = predictions.labels
    metrics = metrics_of(predictions.targets, predictions.probs, labels, multi_label=predictions.multi_label)
    mistakes = predictions.mistakes(N_MISTAKES)
    pictures = {"reliability diagram": figures.reliability_figure(metrics.bins)}
    if not predictions.multi_label:
        pictures = {"confusion matrix": figures.confusion_figure(metrics.confusion, labels)} | pictures
    return {
        "fold": ", ".join(map(str, predictions.fold)),
        "clips": len(predictions.clips),
        "metrics": metrics,
        "figures": pictures,
        "mistakes": mistakes,
        "mistakes_figure": _mistakes_figure(mistakes, run) if mistakes else None,
    }


def _mistakes_figure(mistakes: Sequence[Mistake], run: Run) -> Figure:
    panels = []
    for mistake in mistakes:
        title = f"{mistake.recognised}, {mistake.probability:.0%}\nis: {', '.join(mistake.truth) or 'none'}"
        panels.append((title, _frames(mistake.path, mistake.start, mistake.end, run)))
    return figures.mistakes_figure(panels, frame_seconds(run.frontend))


def _frames(path: Path, start: float, end: float | None, run: Run, min_frames: int = 1) -> NDArray[np.float32] | None:
    """[channels, n_mels, T] of a clip, at least ``min_frames``; None, and a note, when it cannot be read."""
    frontend = run.frontend
    end = min(start + LONGEST, end if end is not None else np.inf)
    try:
        samples = SoundFile(path, start=start, end=end).read(frontend.sample_rate, frontend.channels)
    except EdgeError as error:
        run.notes.append(str(error))
        return None
    missing = max(0, frontend.n_samples(min_frames) - len(samples))
    samples = np.pad(samples, [(0, missing)] + [(0, 0)] * (samples.ndim - 1))
    return make_frontend(frontend)(samples).copy()


def frame_seconds(frontend: FrontendConfig) -> float:
    """Time between frames."""
    return frontend.hop_length / frontend.sample_rate


def _attention(run: Path, found: Run) -> list[Figure]:
    """Maps over a clip of each of a few classes, for a network that has them."""
    path = run / "checkpoint.pt"
    if found.predictions is None or not path.is_file():
        return []
    import torch

    from models.checkpoint import load_checkpoint

    try:
        model = load_checkpoint(path).model()
    except ValueError as error:
        found.notes.append(str(error))
        return []
    if not hasattr(model, "attention"):
        return []
    one_of_each = {tuple(clip["labels"]): clip for clip in reversed(found.predictions.clips)}
    maps = []
    for labels, clip in sorted(one_of_each.items())[:N_MAPS]:
        frames = _frames(Path(clip["path"]), clip.get("start") or 0.0, clip.get("end"), found, model.window_frames)
        if frames is not None:
            window = frames[..., : model.window_frames]  # [channels, n_mels, T]
            with torch.inference_mode():
                attention = model.attention(torch.from_numpy(window)[None])[0].numpy()  # [T'] or [n_mels', T']
            maps.append(figures.attention_figure(window, attention, ", ".join(labels), frame_seconds(found.frontend)))
    return maps


def _data_uri(figure: Figure) -> str:
    return "data:image/png;base64," + base64.b64encode(figures.png(figure)).decode()
