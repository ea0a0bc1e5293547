"""A process of its own for each subject: start-up to the first decision, memory and its slope.

A model of ours goes through the loop of ``edge-listen``; a peer through its calls alone, which is to its advantage.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import edge.cli  # noqa: F401  # keeps BLAS at one thread, as in the commands
from edge.errors import EdgeError

STARTS = 3  # processes of which the fastest start counts
SAMPLES = 200  # readings of the memory over all hops
SETTLED = 0.5  # of the hops, before which the memory does not count: allocators take time to find their size


@dataclass(frozen=True)
class Fresh:
    """What a process is started with."""

    path: Path
    kind: str  # of the subject
    hop_seconds: float
    window_seconds: float
    sample_rate: int  # Hz, of the subject
    provider: str
    threads: int
    input: Path | None
    hops: int  # over which the memory is watched


@dataclass(frozen=True)
class Started:
    """What became of it."""

    start_ms: float  # loading, self-test and the first decision, after the imports
    process_ms: float  # the same from the start of the process, with the interpreter and the imports
    memory_mb: float  # resident after it, in millions of bytes
    memory_slope: float  # bytes for each hop more, by least squares over the later half of the hops


def measure_fresh(settings: Fresh) -> Started:
    """The fastest of some starts, and the memory over ``settings.hops`` hops of the last. Raises EdgeError."""
    starts = [_run(replace(settings, hops=settings.hops if last else 0)) for last in (*[False] * (STARTS - 1), True)]
    return replace(min(starts, key=lambda s: s.start_ms), memory_slope=starts[-1].memory_slope)


def _run(settings: Fresh) -> Started:
    command = [sys.executable, "-m", "edge.bench.fresh", json.dumps(asdict(settings), default=str)]
    begun = time.time()
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:]
        raise EdgeError(
            ": ".join([f"a process of its own for {settings.path.name} ended with {done.returncode}", *said]),
            remedy="measure it alone, or leave it out" if said else "is memory short?",
        )
    decided, start, memory, slope = map(float, done.stdout.split())
    return Started(
        start_ms=round(start * 1000, 1),
        process_ms=round((decided - begun) * 1000, 1),
        memory_mb=round(memory / 1e6, 1),
        memory_slope=round(slope, 2),
    )


def main() -> None:
    """In the process: time of the first decision, seconds until it, bytes then, bytes for each hop more."""
    values = json.loads(sys.argv[1])
    values |= {name: values[name] and Path(values[name]) for name in ("path", "input")}
    settings = Fresh(**values)
    prepare = _ours if settings.kind == "edge-listen" else _peer
    first = prepare(settings)
    from edge.bench.machine import resident_bytes

    started = time.perf_counter()
    decisions = first()
    next(decisions)
    elapsed, decided = time.perf_counter() - started, time.time()
    memory = resident_bytes()
    print(decided, elapsed, memory, memory_slope(decisions, settings.hops))


def memory_slope(decisions: Iterator[object], hops: int) -> float:
    """Bytes of resident memory for each decision more, over the later half of ``hops``."""
    from edge.bench.machine import resident_bytes

    every = max(1, hops // SAMPLES)
    readings = array("d", bytes(8 * (hops // every + 1)))  # made ahead: the benchmark's own memory must not grow
    for n, _ in enumerate(islice(decisions, hops)):
        if n % every == 0:
            readings[n // every] = resident_bytes()
    points = [(n, readings[n // every]) for n in range(0, hops, every)]
    return slope([point for point in points if point[0] >= SETTLED * hops])


def slope(readings: Sequence[tuple[float, float]]) -> float:
    """Of the straight line through points (x, y), by least squares; 0 for fewer than two."""
    if len(readings) < 2:
        return 0.0
    import numpy as np

    x, y = np.array(readings, np.float64).T
    x -= x.mean()
    return float(x @ (y - y.mean()) / (x @ x))


def _ours(settings: Fresh) -> Callable[[], Iterator[object]]:
    """The imports; then a function that loads the model, and decides for ever."""
    from edge.bench.sound import Endless, sound_of
    from edge.classifier import Classifier
    from edge.listener import listen
    from edge.sources.file import SoundFile

    sound = sound_of(settings.input)
    if settings.input is None:
        sound(settings.sample_rate)  # synthesised ahead of the clock; a recording is read on it
    sources = [] if settings.input is None else [SoundFile(settings.input)]

    def decisions() -> Iterator[object]:
        classifier = Classifier(settings.path, provider=settings.provider, threads=settings.threads)
        for source in sources:  # the first decision on the file itself; then on its samples, round and round
            yield next(listen(source, classifier, settings.hop_seconds))
        yield from listen(Endless(sound), classifier, settings.hop_seconds)

    return decisions


def _peer(settings: Fresh) -> Callable[[], Iterator[object]]:
    """The same of a peer."""
    from edge.bench.peers import Peer
    from edge.bench.sound import sound_of

    if settings.kind == "tflite":
        import ai_edge_litert.interpreter  # noqa: F401
    sound = sound_of(settings.input)
    sound(settings.sample_rate)

    def decisions() -> Iterator[object]:
        peer = Peer(
            settings.path,
            sound,
            hop_seconds=settings.hop_seconds,
            window_seconds=settings.window_seconds,
            sample_rate=settings.sample_rate,
            threads=settings.threads,
        )
        while True:
            yield peer.stages["hop"]()

    return decisions


if __name__ == "__main__":
    try:
        main()
    except EdgeError as error:
        sys.exit(str(error))  # which the benchmark passes on
