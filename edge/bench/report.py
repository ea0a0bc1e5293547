"""The report: what was measured of each subject, and how many times cheaper the first one is.

``docs/bench.schema.json`` is the schema of its JSON.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import edge
from edge.bench.fresh import Started
from edge.bench.machine import machine, throttled
from edge.bench.rounds import Latency, Paced, Seconds
from edge.bench.subjects import Facts
from edge.bench.theirs import Theirs

SCHEMA_VERSION = 1  # of the JSON; raised when a reader of the former version could misread it


@dataclass(frozen=True)
class Settings:
    """What is measured, and how."""

    models: tuple[Path | None, ...] = (None,)  # files with our contract; None: the bundled one
    compare: tuple[Theirs, ...] = ()
    compare_rate: int = 16_000  # Hz, of the sound that those hear which have no rate of their own
    input: Path | None = None  # a recording; None: synthesised
    hop: float | None = None  # seconds between decisions; None: the model's default
    rounds: int = 200  # of each stage, hot; a quarter as many cold
    seconds: float = 10.0  # of the paced run of each; 0 for none
    hops: int = 1000  # over which the memory is watched
    provider: str = "auto"
    threads: int = 1


@dataclass(frozen=True)
class Result:
    """What was measured of one subject."""

    facts: Facts
    hot: dict[str, Latency]  # by stage, one after the other without a pause
    cold: dict[str, Latency]  # caches emptied before each
    paced: Latency | None  # of the hop, in real time; None where it was not asked for
    paced_cpu: float | None  # share of one core, by the process clock
    deadline_misses: int | None  # decisions that ended after the next one was due
    paced_decisions: int
    hop_over_window: float  # cost of a hop over that of the whole window, hot medians
    started: Started | None  # None for a subject that is no file


@dataclass(frozen=True)
class Report:
    """Everything; ``results`` by name, the first of them is the one that ``ratios`` speak of."""

    settings: Settings
    results: dict[str, Result]
    before: dict[str, Any]  # conditions of the machine
    after: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=machine)

    @property
    def ratios(self) -> dict[str, dict[str, float | None]]:
        """Of each other subject: how many times cheaper the first one is."""
        reference, *names = self.results
        return {name: ratios(self.results[reference], self.results[name]) for name in names}

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        chosen = self.settings
        return {
            "schema_version": SCHEMA_VERSION,
            "version": edge.__version__,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": self.machine,
            "conditions": {
                "before": self.before,
                "after": self.after,
                "throttled": throttled(self.before, self.after),
            },
            "settings": {
                "sound": "synthesised" if chosen.input is None else "a recording",
                "provider": chosen.provider,
                "threads": chosen.threads,
                "rounds": chosen.rounds,
                "seconds": chosen.seconds,
                "hops": chosen.hops,
            },
            "reference": next(iter(self.results)),
            "results": {name: _flat(result) for name, result in self.results.items()},
            "ratios": self.ratios,
        }


def ratios(ours: Result, theirs: Result) -> dict[str, float | None]:
    """How many times cheaper we are: a hop hot, cold, and in CPU time when paced; and a whole window, recomputed."""
    return {
        "hot": _ratio(theirs.hot["hop"].p50, ours.hot["hop"].p50),
        "cold": _ratio(theirs.cold["hop"].p50, ours.cold["hop"].p50),
        "paced_cpu": _ratio(theirs.paced_cpu, ours.paced_cpu),
        "window": _ratio(theirs.hot["window"].p50, ours.hot["window"].p50),
    }


def _ratio(theirs: float | None, ours: float | None) -> float | None:
    return round(theirs / ours, 3) if theirs and ours else None


def result_of(facts: Facts, hot: Seconds, cold: Seconds, paced: Paced | None, started: Started | None) -> Result:
    """What the measured seconds come to."""
    of_hot = {stage: Latency.of(times) for stage, times in hot.items()}
    n = len(paced.seconds) if paced else 0
    return Result(
        facts=facts,
        hot=of_hot,
        cold={stage: Latency.of(times) for stage, times in cold.items()},
        paced=Latency.of(paced.seconds) if paced else None,
        paced_cpu=round(paced.cpu / (n * facts.hop_seconds), 6) if paced else None,
        deadline_misses=paced.missed if paced else None,
        paced_decisions=n,
        hop_over_window=round(of_hot["hop"].p50 / of_hot["window"].p50, 4),
        started=started,
    )


def _flat(result: Result) -> dict[str, Any]:
    """Facts and start-up beside the measurements, as a reader of JSON looks for them."""
    values: dict[str, Any] = asdict(result)
    started = values.pop("started") or dict.fromkeys(Started.__dataclass_fields__)
    facts: dict[str, Any] = values.pop("facts")
    return facts | values | started
