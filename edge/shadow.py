"""A candidate that listens beside the model in use, on the same blocks, in a process of its own; nobody hears of it but
the report.
"""

from __future__ import annotations

import json
import math
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from edge.records import Record
from edge.shadow_child import packed
from edge.sources.block import Block
from edge.update.prove import REFUSED, at_fault

COMMAND = [sys.executable, "-m", "edge.shadow_child"]
BEHIND_SECONDS = 30.0  # of sound that may wait for the candidate; then it has failed
SETTLED_WINDOWS = 20  # until then a process that starts still takes memory
KEPT = 4096  # latencies, and windows that wait for their counterpart
OWN, THEIRS = "candidate", "model in use"
STOPPING_SECONDS = 2.0  # that the process has to end by itself


@dataclass(frozen=True)
class Asked:
    """What the candidate is to do: the same as the model in use."""

    hop: float | None  # seconds
    channels: int
    sample_rate: int  # Hz
    hop_seconds: float  # what ``hop`` comes to
    events: dict[str, Any] = field(default_factory=dict)  # the table [events]
    site: Path | None = None  # of edge-calibrate
    provider: str = "auto"
    threads: int = 1


@dataclass(frozen=True)
class Observed:
    """What became of a candidate so far."""

    seconds: float  # of sound that both have decided on
    windows: int  # in which they have
    disagreements: int  # of them, to which they gave different names, or only one gave a name
    events: int  # of the candidate
    current_events: int  # of the model in use, in the same time
    busy_ms: tuple[float, ...]  # what front end and network took, of the candidate's newest windows
    current_busy_ms: tuple[float, ...]
    memory_growth_mib: float  # of the candidate's process, since it had settled
    failed: str  # why it has crashed, or hangs; empty while it goes on
    ended: str  # why its process has, through no fault of its own; empty while it goes on


class Shadow:
    """One candidate's process. Give it each block, and each record of the model in use; :meth:`observed` tells."""

    def __init__(self, model: Path, asked: Asked) -> None:
        self._waiting: queue.Queue[bytes | None] = queue.Queue(max(1, round(BEHIND_SECONDS / asked.hop_seconds)))
        self._rate, self._hop_seconds = asked.sample_rate, asked.hop_seconds
        self._lock = threading.Lock()  # guards what is below
        # of windows that wait for their counterpart: offset, label, ms
        self._decided: dict[str, deque[tuple[float, str | None, float]]] = {
            w: deque(maxlen=KEPT) for w in (OWN, THEIRS)
        }
        self._busy: dict[str, deque[float]] = {w: deque(maxlen=KEPT) for w in (OWN, THEIRS)}  # ms
        self._events = {OWN: 0, THEIRS: 0}
        self._since = math.inf  # seconds of stream: the end of the first window
        self._windows = self._disagreements = self._weighed = 0
        self._settled = self._resident = 0.0  # MiB
        self._failed = self._ended = ""
        self._closing = False
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us
        )
        first = {
            "model": str(model), "provider": asked.provider, "threads": asked.threads, "hop": asked.hop,
            "events": asked.events, "site": asked.site and str(asked.site),
            "sound": [asked.sample_rate, asked.channels],
        }  # fmt: skip
        self._waiting.put(json.dumps(first).encode() + b"\n")
        for work in (self._write, self._read):
            threading.Thread(target=work, name="shadow", daemon=True).start()

    def heard(self, block: Block) -> None:
        """A block, the first one a whole window. It never waits."""
        self._since = min(self._since, (block.position + len(block.samples)) / self._rate)
        try:
            self._waiting.put_nowait(packed(block))
        except queue.Full:
            self._fail(f"it was {BEHIND_SECONDS:g} seconds behind")

    def told(self, record: Record) -> None:
        """A record of the model in use."""
        self._count(THEIRS, record)

    def observed(self) -> Observed:
        """What has happened so far."""
        with self._lock:
            growth = max(0.0, self._resident - self._settled) if self._settled else 0.0
            return Observed(
                self._windows * self._hop_seconds, self._windows, self._disagreements,
                self._events[OWN], self._events[THEIRS], tuple(self._busy[OWN]), tuple(self._busy[THEIRS]), growth,
                self._failed, self._ended,
            )  # fmt: skip

    def close(self) -> None:
        """End the process."""
        self._closing = True
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        try:
            self._process.wait(STOPPING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _fail(self, why: str) -> None:
        with self._lock:
            self._failed = self._failed or why

    def _write(self) -> None:
        """The thread that feeds the process."""
        file = self._pipe(self._process.stdin)
        with suppress(OSError), file:  # it has ended: the other thread says why
            while (data := self._waiting.get()) is not None:
                file.write(data)
                file.flush()

    def _read(self) -> None:
        """The thread that hears what it says, to its end."""
        last: deque[bytes] = deque(maxlen=1)  # line of its complaints
        with self._pipe(self._process.stdout) as lines, self._pipe(self._process.stderr) as said:
            # Meanwhile, however much that is: a full pipe would make it wait for ever.
            complaints = threading.Thread(
                target=last.extend, args=(filter(bytes.strip, said),), name="shadow", daemon=True
            )
            complaints.start()
            for line in _whole(lines):
                self._count(OWN, json.loads(line))
            complaints.join()
        code = self._process.wait()
        words = b"".join(last).decode(errors="replace").strip()
        if self._closing:
            return
        if at_fault(code):
            self._fail(words[:200] if words and code == REFUSED else f"it ended with {_ending(code)}")
        else:
            with self._lock:
                self._ended = f"{_ending(code)} {words[:200]}".rstrip()

    @staticmethod
    def _pipe(file: IO[bytes] | None) -> IO[bytes]:
        assert file is not None
        return file

    def _count(self, whose: str, record: Record) -> None:
        with self._lock:
            if record["type"] == "event":
                self._events[whose] += record["phase"] == "begin" and record["onset"] >= self._since
            elif record["type"] == "window":
                self._decided[whose].append((record["offset"], record["label"], record["busy_ms"]))
                self._compare()
                if whose == OWN:
                    self._weigh(record["resident_mib"])

    def _weigh(self, resident: float) -> None:
        self._weighed += 1
        self._resident = resident
        if self._weighed == SETTLED_WINDOWS:
            self._settled = resident

    def _compare(self) -> None:
        """Pair the windows of the same offset; those of one alone are left out."""
        own, theirs = self._decided[OWN], self._decided[THEIRS]
        while own and theirs:
            if own[0][0] != theirs[0][0]:
                (own if own[0][0] < theirs[0][0] else theirs).popleft()
                continue
            (_, label, busy), (_, other, others) = own.popleft(), theirs.popleft()
            self._windows += 1
            self._disagreements += label != other
            self._busy[OWN].append(busy)
            self._busy[THEIRS].append(others)


def _whole(lines: Iterable[bytes]) -> Iterable[bytes]:
    """Those that end as lines do: a process that is killed may leave half of one."""
    return (line for line in lines if line.endswith(b"\n"))


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
