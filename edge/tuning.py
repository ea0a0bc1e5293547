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
from typing import TYPE_CHECKING, Any

from edge.errors import EdgeError
from edge.files import is_there, require_folder, state_folder, write_json

if TYPE_CHECKING:
    from edge.bench.subjects import Subject

log = logging.getLogger("edge.tuning")

SCHEMA_VERSION = 1  # of the kept file; another one is not read
# Hot and cold in turns, so that a burst of other work lies in both, and the candidates in another order in each block:
# else one of them may be the one that is always interrupted, at the end of its time slice.
ROUNDS, BLOCKS = 100, 4
# Of a candidate's times. Other work only ever adds to one: what is left is right where a tenth was undisturbed.
QUANTILE = 0.1
MEASUREMENTS = 3  # at most, while what is cheapest cold is dear hot, or the other way round
# How many times cheaper than the default another candidate must be: more than the noise of such quantiles. A file of
# another precision costs nothing besides; a second core or a GPU costs power, for latency that nobody hears.
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
    hop_ms: float  # QUANTILE of interleaved cold rounds: what a listener pays, who does other things between two hops
    hot_ms: float  # the same of hot rounds, which must not speak against it


@dataclass(frozen=True)
class Setup:
    """How a model is opened."""

    model: Path
    provider: str
    threads: int


def best(candidates: Sequence[Candidate]) -> Candidate:
    """The cheapest, cold, of those that beat the first one, the default, by their margin, and that hot rounds do not
    speak against; else the default.
    """
    default = candidates[0]
    return _cheapest([default, *(c for c in candidates[1:] if _stands(c, default))], "hop_ms")


def doubt(candidates: Sequence[Candidate]) -> str | None:
    """In words, how the cold and the hot hops contradict each other; None where they do not."""
    default = candidates[0]
    by_cold, by_hot = _cheapest(candidates, "hop_ms"), _cheapest(candidates, "hot_ms")
    if by_cold is not default and not _stands(by_cold, default):
        return f"{_named(by_cold)}: it is the pick by cold hops, and not by hot ones"
    if by_hot.hop_ms > MARGIN * default.hop_ms:
        return f"{_named(by_hot)}: it is the pick by hot hops, and dearer than {default.file} by cold ones"
    return None


def _named(candidate: Candidate) -> str:
    threads = f"{candidate.threads} thread{'' if candidate.threads == 1 else 's'}"
    return f"{candidate.file}, {threads}, {candidate.provider}"


def _margin(candidate: Candidate, default: Candidate) -> float:
    costly = (candidate.provider, candidate.threads) != (default.provider, default.threads)
    return COSTLY_MARGIN if costly else MARGIN


def _stands(candidate: Candidate, default: Candidate) -> bool:
    """Whether hot rounds agree: what costs power pays for itself there too, and another file is not dearer."""
    margin = _margin(candidate, default)
    return candidate.hot_ms <= (default.hot_ms / margin if margin == COSTLY_MARGIN else default.hot_ms * margin)


def _cheapest(candidates: Sequence[Candidate], cost: str) -> Candidate:
    """By ``cost``, the cheapest of those that beat the first one by their margin; else the first."""
    default = candidates[0]
    winners = [c for c in candidates[1:] if getattr(c, cost) * _margin(c, default) <= getattr(default, cost)]
    return min(winners, key=lambda c: getattr(c, cost), default=default)


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
    log.info("pick of edge-bench --tune: %s", _named(found))
    return Setup(default.with_name(found.file), found.provider, found.threads)


def tune(
    models: Sequence[Path], *, recording: Path | None = None, hop: float | None = None, rounds: int = ROUNDS
) -> list[Candidate]:
    """Measure each of ``models``, files of one folder, with each provider, on one thread and on two; the first of them
    is the default. Again, while there is :func:`doubt`, up to MEASUREMENTS times in all.

    Raises EdgeError for a model that cannot be used.
    """
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
    hot: list[list[float]] = [[] for _ in subjects]  # seconds, of all measurements so far
    cold: list[list[float]] = [[] for _ in subjects]
    for number in range(MEASUREMENTS):
        if number:
            log.info("measured again: %s", doubt(candidates))
        _measure(subjects, rounds, hot, cold)
        candidates = [
            replace(c, hop_ms=_milliseconds(of_cold), hot_ms=_milliseconds(of_hot))
            for c, of_cold, of_hot in zip(candidates, cold, hot, strict=True)
        ]
        if doubt(candidates) is None:
            break
    return candidates


def _measure(subjects: Sequence[Subject], rounds: int, hot: list[list[float]], cold: list[list[float]]) -> None:
    """``rounds`` more of each, in blocks: seconds of a hop."""
    from edge.bench.rounds import measure_rounds

    places = list(range(len(subjects)))
    for _ in range(BLOCKS):
        for kept, is_cold in ((hot, False), (cold, True)):
            ordered = [subjects[place] for place in places]
            times = measure_rounds(ordered, -(-rounds // BLOCKS), stages=["hop"], cold=is_cold)
            for place, of_subject in zip(places, times, strict=True):
                kept[place] += of_subject["hop"]
        places = [*places[1:], places[0]]


def _milliseconds(seconds: Sequence[float]) -> float:
    """What a hop costs, of measured seconds."""
    import numpy as np

    return round(float(np.quantile(seconds, QUANTILE)) * 1000, 4)


def keep(model: Path, candidates: Sequence[Candidate]) -> Path:
    """Write what was measured of ``model`` to this device's file, and return its path.

    Raises EdgeError where it cannot be written.
    """
    from edge.bench.machine import cpu_name

    require_place()
    path = _file(model)
    assert path is not None
    document = {
        "schema_version": SCHEMA_VERSION,
        "device": cpu_name(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "candidates": [asdict(c) for c in candidates],
    }
    try:
        write_json(path, document)
        _forget_oldest(path.parent)
    except OSError as error:
        raise _not_kept(path, error) from None
    return path


def require_place() -> None:
    """Raises EdgeError where no pick could be kept: to be found out before minutes of measuring."""
    folder = _folder()
    if folder is None:
        raise EdgeError("there is no home folder to keep the pick in", remedy="set XDG_STATE_HOME to a folder")
    try:
        require_folder(folder)
    except OSError as error:
        raise _not_kept(folder, error) from None


def _not_kept(path: Path, error: OSError) -> EdgeError:
    what = f"the pick cannot be kept in {path}: {error.strerror}"
    return EdgeError(what, remedy="set XDG_STATE_HOME to a folder of yours")


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
