"""How it is measured: interleaved rounds hot and cold, and in real time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edge.bench.subjects import Subject

COLD_BYTES = 64 << 20  # touched before each cold measurement, more than the caches of any small computer
WARM_UP = 5  # rounds that do not count
TURN_SECONDS = 2.5  # of the paced run, before the next subject has its turn

Seconds = dict[str, list[float]]  # by stage


@dataclass(frozen=True)
class Latency:
    """Milliseconds."""

    p50: float
    p95: float
    p99: float
    worst: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """Of measured seconds."""
        return cls(*(round(float(q) * 1000, 4) for q in np.percentile(seconds, (50, 95, 99, 100))))


@dataclass
class Paced:
    """Decisions in real time, of one subject."""

    seconds: list[float]  # that each took
    missed: int = 0  # that ended after the next one was due
    cpu: float = 0.0  # seconds by the process clock, with the waiting between them


def measure_rounds(
    subjects: Sequence[Subject], rounds: int, *, cold: bool = False, stages: Sequence[str] | None = None
) -> list[Seconds]:
    """Seconds of each stage (of ``stages``, or all) of each subject.

    Rounds are interleaved: each measures every stage of every subject once, so that what slows the machine slows all.
    Before each measurement, untimed, the same is called once, so that the caches are its own and not those of the
    subject before; of ``cold`` ones, they are emptied.
    """
    others = np.zeros(COLD_BYTES, np.uint8) if cold else None
    chosen = [{name: f for name, f in s.stages.items() if stages is None or name in stages} for s in subjects]
    times: list[Seconds] = [{name: [] for name in functions} for functions in chosen]
    for number in range(WARM_UP + rounds):
        for functions, of_subject in zip(chosen, times, strict=True):
            for name, function in functions.items():
                if others is None:
                    function()
                else:
                    others += 1
                seconds = timed(function)
                if number >= WARM_UP:
                    of_subject[name].append(seconds)
    return times


def measure_paced(subjects: Sequence[Subject], seconds: float) -> list[Paced]:
    """One decision every hop, for ``seconds`` of each subject; in turns of each alone, so that the CPU is its own."""
    results = [Paced([]) for _ in subjects]
    counts = [max(2, round(seconds / subject.facts.hop_seconds)) for subject in subjects]
    while any(len(r.seconds) < count for r, count in zip(results, counts, strict=True)):
        for subject, result, count in zip(subjects, results, counts, strict=True):
            turn = max(1, round(TURN_SECONDS / subject.facts.hop_seconds))
            _pace(subject, result, min(turn, count - len(result.seconds)))
    return results


def _pace(subject: Subject, result: Paced, decisions: int) -> None:
    hop, period = subject.stages["hop"], subject.facts.hop_seconds
    begun, cpu = time.perf_counter(), time.process_time()
    for index in range(decisions):
        time.sleep(max(0.0, begun + (index + 1) * period - time.perf_counter()))
        result.seconds.append(timed(hop))
        result.missed += time.perf_counter() > begun + (index + 2) * period
    result.cpu += time.process_time() - cpu


def timed(function: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started
