"""The pick: which precision, provider and number of threads are cheapest on this device, measured once and kept.

``edge-bench --tune`` measures and keeps the candidates; ``edge-listen`` and ``edge-classify`` take :func:`pick` for
whatever their user has not named.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edge.errors import EdgeError
from edge.files import is_there, state_folder, write_json

log = logging.getLogger("edge.tuning")

SCHEMA_VERSION = 1  # of the kept file; another one is not read
ROUNDS = 100
# How many times cheaper than the default another candidate must be: more than the noise of medians. A file of another
# precision costs nothing besides; a second core or a GPU costs power, for latency that nobody hears.
MARGIN = 1.03
COSTLY_MARGIN = 1.5
MOST_KEPT = 32  # files of picks: every release of a model that is tuned leaves one, and nobody tunes so many


@dataclass(frozen=True)
class Candidate:
    """One way to run a model, and what a hop cost."""

    file: str  # its name; it lies beside the default
    sha256: str  # of the file
    precision: str
    provider: str
    threads: int
    hop_ms: float  # median of interleaved cold rounds: what a listener pays, who does other things between two hops
    hot_ms: float  # the same of hot rounds, to be read by people


@dataclass(frozen=True)
class Setup:
    """How a model is opened."""

    model: Path
    provider: str
    threads: int


def best(candidates: Sequence[Candidate]) -> Candidate:
    """The cheapest of those that beat the first one, the default, by their margin; else the default."""
    default = candidates[0]

    def wins(other: Candidate) -> bool:
        costly = (other.provider, other.threads) != (default.provider, default.threads)
        return other.hop_ms * (COSTLY_MARGIN if costly else MARGIN) <= default.hop_ms

    return min(filter(wins, candidates[1:]), key=lambda c: c.hop_ms, default=default)


def pick(model: str | Path | None = None, provider: str = "auto", threads: int | None = None) -> Setup:
    """How to open ``model``: what the user has named, and for the rest (None, "auto") what is best on this device.

    What was kept and cannot be read, or is of other files, is ignored, and logged. Raises ContractError where a folder
    or a repository has no model.
    """
    from edge.classifier import available_providers
    from edge.models import variants

    default, *others = variants(model)
    named = Setup(default, provider, threads or 1)
    candidates = _kept(default)
    there = available_providers() if candidates else []
    fitting = [
        c
        for c in candidates
        if default.with_name(c.file) in (default, *others)
        and c.provider == (provider if provider != "auto" else c.provider)
        and c.threads == (threads or c.threads)
        and c.provider in there
    ]
    if not fitting:
        return named
    found = best(fitting)
    log.info(
        "pick of edge-bench --tune: %s, %d thread%s, %s",
        found.file, found.threads, "" if found.threads == 1 else "s", found.provider,
    )  # fmt: skip
    return Setup(default.with_name(found.file), found.provider, found.threads)


def tune(
    models: Sequence[Path], *, recording: Path | None = None, hop: float | None = None, rounds: int = ROUNDS
) -> list[Candidate]:
    """Measure each of ``models``, files of one folder, with each provider, on one thread and on two; the first of them
    is the default.

    Raises EdgeError for a model that cannot be used.
    """
    from edge.bench.rounds import Latency, measure_rounds
    from edge.bench.sound import sound_of
    from edge.bench.subjects import OurModel
    from edge.classifier import available_providers

    sound = sound_of(recording)
    subjects: list[OurModel] = []
    candidates: list[Candidate] = []
    ways = [("cpu", 1)] + [("cpu", 2)] * ((os.cpu_count() or 1) > 1)
    ways += [(name, 1) for name in available_providers() if name != "cpu"]
    for provider, threads in ways:
        for model in models:
            try:
                subject = OurModel(model, sound, hop=hop, provider=provider, threads=threads)
            except EdgeError as error:
                if provider == "cpu":
                    raise
                log.info("%s is no candidate: %s", provider, error.what)
                continue
            path = subject.classifier.path
            precision = subject.classifier.spec.provenance.precision
            subjects.append(subject)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            candidates.append(Candidate(path.name, digest, precision, provider, threads, 0, 0))
    hot = measure_rounds(subjects, rounds, stages=["hop"])
    cold = measure_rounds(subjects, rounds, stages=["hop"], cold=True)
    return [
        replace(c, hop_ms=Latency.of(of_cold["hop"]).p50, hot_ms=Latency.of(of_hot["hop"]).p50)
        for c, of_cold, of_hot in zip(candidates, cold, hot, strict=True)
    ]


def keep(model: Path, candidates: Sequence[Candidate]) -> Path:
    """Write what was measured of ``model`` to this device's file, and return its path.

    Raises EdgeError where it cannot be written.
    """
    from edge.bench.machine import cpu_name

    path = _file(model)
    if path is None:
        raise EdgeError("there is no home folder to keep the pick in", remedy="set XDG_STATE_HOME to a folder")
    document = {
        "schema_version": SCHEMA_VERSION,
        "device": cpu_name(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "candidates": [asdict(c) for c in candidates],
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, document)
        _forget_oldest(path.parent)
    except OSError as error:
        raise EdgeError(
            f"the pick cannot be kept in {path}: {error.strerror}", remedy="set XDG_STATE_HOME to a folder of yours"
        ) from None
    return path


def _forget_oldest(folder: Path) -> None:
    """Delete all but the latest MOST_KEPT picks: those of models that are gone, or of former names. Raises OSError."""
    picks = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    for path in picks[:-MOST_KEPT]:
        path.unlink(missing_ok=True)


def _kept(default: Path) -> list[Candidate]:
    """The candidates that were measured here for ``default``; none where they do not hold any more."""
    folder = _folder()
    if folder is None or not is_there(folder):  # so that a device without picks reads no model for its digest
        return []
    path = _file(default)
    if path is None or not is_there(path):
        return []
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if document["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version {document['schema_version']!r}")
        candidates = [_candidate(values) for values in document["candidates"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s cannot be used: %s (edge-bench --tune writes it anew)", path, error)
        return []
    for file, digest in {c.file: c.sha256 for c in candidates}.items():
        if _sha256(default.with_name(file)) != digest:
            log.warning("the pick for %s was of another file (edge-bench --tune measures anew)", file)
            return []
    return candidates


def _candidate(values: dict[str, Any]) -> Candidate:
    """Raises TypeError or ValueError for what is none."""
    candidate = Candidate(**values)
    texts = isinstance(candidate.file, str) and isinstance(candidate.provider, str)
    texts = texts and candidate.file == Path(candidate.file).name  # beside the default, and nowhere else
    if not (texts and candidate.hop_ms > 0 and type(candidate.threads) is int and 1 <= candidate.threads <= 64):
        raise ValueError(f"{values} is no candidate")
    return candidate


def _folder() -> Path | None:
    """Of all picks; None without a home folder. Not created yet."""
    state = state_folder()
    return None if state is None else state / "tuning"


def _file(default: Path) -> Path | None:
    """Where this device keeps what it knows of a model; None without a home folder, or a file that can be read.

    The name says which processor was measured, because homes are shared between computers; and by its digest which
    file, because those of all packages have the same name.
    """
    from edge.bench.machine import cpu_name

    folder, digest = _folder(), _sha256(default)
    if folder is None or digest is None:
        return None
    device = hashlib.sha256(f"{cpu_name()}, {os.cpu_count()} cores".encode()).hexdigest()[:12]
    return folder / f"{default.stem}-{digest[:12]}-{device}.json"


def _sha256(path: Path) -> str | None:
    """Of a file; None of one that cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
