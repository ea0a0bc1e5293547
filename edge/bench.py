"""Latency of front end, network and whole hop; of fp32 beside int8, in interleaved rounds of the same run."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.audio import to_channels
from edge.classifier import Classifier
from edge.features import make_frontend

F32 = NDArray[np.float32]

COLD_BYTES = 64 << 20  # touched before each cold hop, more than the caches of any small computer
STAGES = ("frontend_window", "network_window", "window", "frontend_hop", "network_hop", "hop")


@dataclass(frozen=True)
class Percentiles:
    """Milliseconds."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Percentiles:
        """Of measured seconds."""
        return cls(*(round(float(q) * 1000, 4) for q in np.percentile(seconds, (50, 95, 99))))


@dataclass
class ModelResult:
    """What was measured of one model file."""

    path: str
    name: str
    precision: str
    hop_seconds: float
    start_ms: float = 0.0  # loading, self-test and first decision, in a process of its own, after the imports
    process_ms: float = 0.0  # the same from the start of the process, with the interpreter and the imports
    memory_mb: float = 0.0  # resident memory of that process
    hot: dict[str, Percentiles] = field(default_factory=dict)  # by stage, one after the other without a pause
    cold: dict[str, Percentiles] = field(default_factory=dict)  # caches emptied before each
    paced: dict[str, Percentiles] = field(default_factory=dict)  # one hop each hop_seconds, as a listener does
    paced_cpu: float = 0.0  # share of one core, by the process clock
    hop_over_window: float = 0.0  # cost of a streamed hop over that of recomputing the window, hot medians


class Subject:
    """One model file, and each of its stages as a function without arguments."""

    def __init__(self, path: Path | None, audio: F32, hop: float | None, provider: str, threads: int) -> None:
        self.classifier = Classifier(path, provider=provider, threads=threads)
        spec = self.classifier.spec
        audio = to_channels(audio[:, None], spec.frontend.channels)
        window = _looped(audio, spec.window_samples)
        stream = self.classifier.stream(hop)
        self.result = ModelResult(
            str(self.classifier.path),
            spec.name,
            spec.provenance.precision,
            stream.hop_samples / spec.frontend.sample_rate,
        )
        whole, streamed = make_frontend(spec.frontend), make_frontend(spec.frontend)
        # Every hop gets other samples: the audio goes round.
        hops = _looped(audio, stream.hop_samples * max(2, len(audio) // stream.hop_samples))
        self._hops = hops.reshape(-1, stream.hop_samples, *audio.shape[1:])
        self._next = 0
        ring, new_ring = self.classifier.new_ring(), self.classifier.new_ring()
        network_window = self.classifier.bind(spec.window_frames, ring, new_ring)
        network_hop = self.classifier.bind(stream.keep + stream.hop_frames, ring, new_ring)
        frames = make_frontend(spec.frontend)(window)
        network_window.frames[:] = frames
        network_hop.frames[:] = frames[:, :, : stream.keep + stream.hop_frames]

        def recompute() -> None:
            network_window.frames[:] = whole(window)
            network_window()

        streamed.push(window)
        stream.push(window)
        self.stages: dict[str, Callable[[], object]] = {
            "frontend_window": lambda: whole(window),
            "network_window": network_window,
            "window": recompute,
            "frontend_hop": lambda: streamed.push(self._hop()),
            "network_hop": network_hop,
            "hop": lambda: stream.push(self._hop()),
        }

    def _hop(self) -> F32:
        self._next = (self._next + 1) % len(self._hops)
        hop: F32 = self._hops[self._next]
        return hop


def bench(
    models: Sequence[Path | None],
    audio: F32,
    *,
    hop: float | None = None,
    rounds: int = 200,
    paced_seconds: float = 10.0,
    provider: str = "auto",
    threads: int = 1,
) -> list[ModelResult]:
    """Measure ``models`` (None: the bundled one) on ``audio`` [n_samples] at the models' rate, for each channel.

    Rounds are interleaved: each measures every stage of every model once, so that what slows the machine slows all.
    Raises EdgeError for a model that cannot be used.
    """
    subjects = [Subject(path, audio, hop, provider, threads) for path in models]
    cold_memory = np.zeros(COLD_BYTES, np.uint8)
    hot = measure_rounds(subjects, rounds, lambda: None)
    cold = measure_rounds(subjects, max(10, rounds // 4), lambda: cold_memory.__iadd__(1))
    for subject, hot_times, cold_times in zip(subjects, hot, cold, strict=True):
        result = subject.result
        fresh = fresh_process(subject.classifier.path, provider, threads)
        result.start_ms, result.process_ms, result.memory_mb = fresh
        result.hot = {stage: Percentiles.of(times) for stage, times in hot_times.items()}
        result.cold = {stage: Percentiles.of(times) for stage, times in cold_times.items()}
        result.hop_over_window = round(result.hot["hop"].p50 / result.hot["window"].p50, 4)
        if paced_seconds > 0:
            _paced(subject, paced_seconds)
    return [subject.result for subject in subjects]


def measure_rounds(
    subjects: Sequence[Subject], rounds: int, before: Callable[[], object]
) -> list[dict[str, list[float]]]:
    """Seconds of each stage of each subject; ``before`` runs ahead of each measurement, untimed."""
    times: list[dict[str, list[float]]] = [{stage: [] for stage in STAGES} for _ in subjects]
    for round_number in range(rounds + 5):
        for subject, of_subject in zip(subjects, times, strict=True):
            for stage, function in subject.stages.items():
                before()
                started = time.perf_counter()
                function()
                elapsed = time.perf_counter() - started
                if round_number >= 5:  # the first ones warm up
                    of_subject[stage].append(elapsed)
    return times


def _paced(subject: Subject, seconds: float) -> None:
    """Hops in real time, with the CPU share by the process clock."""
    result = subject.result
    times: dict[str, list[float]] = {"hop": []}
    hop = subject.stages["hop"]
    begun, cpu = time.perf_counter(), time.process_time()
    for index in range(max(2, round(seconds / result.hop_seconds))):
        time.sleep(max(0.0, begun + index * result.hop_seconds - time.perf_counter()))
        started = time.perf_counter()
        hop()
        times["hop"].append(time.perf_counter() - started)
    spent = time.process_time() - cpu
    result.paced = {stage: Percentiles.of(seconds) for stage, seconds in times.items()}
    result.paced_cpu = round(spent / (len(times["hop"]) * result.hop_seconds), 5)


FRESH = """
import sys, time
import edge.cli
from edge.audio import to_channels
from edge.classifier import Classifier
from edge.bench import resident_bytes, synthetic_audio
started = time.perf_counter()
classifier = Classifier(sys.argv[1], provider=sys.argv[2], threads=int(sys.argv[3]))
classifier.windows(synthetic_audio(classifier.spec.frontend.sample_rate))
print(time.perf_counter() - started, resident_bytes())
"""


def fresh_process(path: Path, provider: str, threads: int) -> tuple[float, float, float]:
    """A new interpreter up to its first decision: ``start_ms``, ``process_ms``, ``memory_mb``; the best of three."""
    runs = []
    for _ in range(3):
        begun = time.perf_counter()
        arguments = [sys.executable, "-c", FRESH, str(path), provider, str(threads)]
        printed = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
        whole = time.perf_counter() - begun
        start, memory = printed.split()
        runs.append((float(start) * 1000, whole * 1000, int(memory) / 1e6))
    best = min(runs)
    return round(best[0], 1), round(best[1], 1), round(best[2], 1)


def synthetic_audio(sample_rate: int) -> F32:
    """Ten seconds of sweeps and noise: never silence, whose zeros some processors multiply faster."""
    seconds = np.arange(10 * sample_rate) / sample_rate
    sweep = np.sin(2 * np.pi * (200 * seconds + 300 * seconds**2)) * (0.6 + 0.4 * np.sin(5 * seconds))
    noise = np.random.default_rng(0).standard_normal(len(seconds))
    return (0.2 * sweep + 0.05 * noise).astype(np.float32)


def resident_bytes() -> int:
    """The process's resident memory now, or its peak where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _looped(audio: F32, n_samples: int) -> F32:
    """``audio`` repeated or cut to ``n_samples``."""
    looped: F32 = np.resize(audio, (n_samples, *audio.shape[1:]))
    return looped
