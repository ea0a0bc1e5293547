"""Hours of listening through real PortAudio, much faster than real time, with a fault in each of them.

First faults come one after the other, until all buffers, caches and heaps are as large as they get; then the hours are
measured. What is heard goes to every sink that keeps or runs something on this device, and its sound to clips.

ALSA's ``file`` device delivers as fast as it is asked; the clock of the sources is the sound's own, so that all that
waits and gives up by time does so as it would. Run by itself, it prints its findings as JSON:

    python -m tests.soak --hours 720 --folder /tmp/soak
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sqlite3
import sys
import threading
import time
import urllib.request
from collections import Counter, defaultdict, deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click
import numpy as np

from edge.bench.machine import resident_bytes

RATE = 16_000
CALLBACK_SECONDS = 0.3  # longer than it is: each call costs as much as the sound in it
AHEAD = 0.8  # of the ring: the device is not faster than the listener, who waits for half of it at most
FAULT_SECONDS = 30.0  # that a fault lasts
OFTEN = 10  # faults an hour, until it has settled
MIB = 1 << 20
LOG, KEPT, STORE, CLIPS = MIB, 3, 8 * MIB, 20 * MIB  # bounds of bytes; KEPT logs beside the one that is written
# What is broken, and by what it must be known afterwards: a reason of health.
FAULTS = {
    "unplugged": "stopped",  # the callback falls silent, and the device is not there for a while
    "aborted": "stopped",  # the stream ends
    "busy": "busy",  # it stops, and somebody else has it then
    "refused": "refused",
    "muted": "silent",
    "clipping": "clipping",
    "offset": "dc_offset",
    "overflow": "lost_samples",  # flagged
    "gap": "lost_samples",  # that nobody flags
    "receiver": "",  # of webhooks: it is away
    "locked": "",  # the database is locked by somebody else
    "crash": "",  # of a sink
    "renewed": "",  # the session ends and a new one begins, as with SIGHUP
}


KINDS = ("file", "store", "webhook", "command")
HEARD = ("siren", "car_horn")  # a hundred events an hour: of all classes, four times as many, clips take the longest
METRICS = (
    "edge_audio_windows_total",
    "edge_audio_outages_total",
    "edge_audio_lost_samples_total",
    "edge_audio_overflows_total",
    "edge_audio_sink_dropped_total",
    "edge_audio_sink_failed_total",
)


class SoundTime:
    """The module ``time`` as the sources see it: it goes on with the sound, and by sleeping where there is none."""

    def __init__(self):
        self._lock = threading.Lock()
        self._now = time.monotonic()
        self._epoch = time.time() - self._now
        self.flowing = True
        self.perf_counter = time.perf_counter

    def monotonic(self):
        return self._now

    def time(self):
        return self._epoch + self._now

    def advance(self, seconds):
        with self._lock:
            self._now += seconds

    def sleep(self, seconds):
        if not self.flowing:
            self.advance(seconds)
        time.sleep(0.002)


class Fault:
    """What is wrong with the device now."""

    def __init__(self, clock):
        self.clock, self.kind, self.until, self.attempts = clock, "", 0.0, 0
        self.stream = None

    def begin(self, kind):
        self.kind, self.until, self.attempts = kind, self.clock.monotonic() + FAULT_SECONDS, 3
        if kind == "aborted":
            threading.Thread(target=self.stream.abort, daemon=True).start()
        if kind in ("unplugged", "busy", "refused", "aborted"):
            self.clock.flowing = False

    def over(self):
        return self.clock.monotonic() >= self.until


class World:
    """The sources' clock, device and samples, in the place of the real ones."""

    def __init__(self, sound):
        from edge.errors import DeviceError
        from edge.ring import RingBuffer
        from edge.sources import capture, host, microphone

        self.clock = SoundTime()
        self.fault = Fault(self.clock)
        self.at, self.sound = 0, sound
        clock, fault = self.clock, self.fault

        class Tracked(RingBuffer):
            """Knows how far it has been read."""

            read_to, closing = 0, False

            def read(self, position, n):
                try:
                    return super().read(position, n)
                finally:  # not before the copy: the device goes on at once
                    self.read_to = position + n

        real_open, real_callback = capture.open_stream, capture.Capture.callback

        def open_stream(device, channels, rate, held, *, often):
            if fault.kind in ("busy", "refused", "aborted", "unplugged") and fault.attempts > 0:
                fault.attempts -= 1
                reason = fault.kind if fault.kind in ("busy", "refused") else "missing"
                raise DeviceError(f"{device.name!r} is {reason}", remedy="wait", reason=reason)
            if fault.kind in ("busy", "refused", "aborted", "unplugged"):
                fault.kind = ""
            clock.flowing = True
            fault.stream = real_open(device, channels, rate, held, often=often)
            fault.stream.ring = held.ring
            return fault.stream

        def callback(held, data, frames, times, status):
            if not clock.flowing or held.ring.closing:
                return
            while held.ring.written - held.ring.read_to > AHEAD * held.ring.capacity and not held.ring.closing:
                time.sleep(0.002)
            clock.advance(frames / RATE)
            real_callback(held, self.samples(frames), frames, times, self.status(held, frames))

        real_close = host.HOST.close

        def close(stream):
            stream.ring.closing = True
            real_close(stream)

        host.HOST.close = close
        capture.time = microphone.time = clock
        capture.CALLBACK_SECONDS = CALLBACK_SECONDS
        capture.Capture.callback = callback
        microphone.open_stream, microphone.RingBuffer = open_stream, Tracked

    def samples(self, frames):
        """The next ones, with what is wrong with them."""
        if self.at + frames > len(self.sound):
            self.at = 0
        piece = self.sound[self.at : self.at + frames]
        self.at += frames
        kind = self.fault.kind
        if kind in ("muted", "clipping", "offset"):
            if self.fault.over():
                self.fault.kind = ""
            elif kind == "muted":
                piece = np.zeros_like(piece)
            elif kind == "clipping":
                piece = np.clip(40 * piece, -1, 1)
            else:
                piece = piece + np.float32(0.3)
        return piece

    def status(self, held, frames):
        flagged = False
        if self.fault.kind in ("overflow", "gap"):
            flagged = self.fault.kind == "overflow"
            self.clock.advance(0.5)
            self.fault.kind = ""
        return type("Status", (), {"input_overflow": flagged})()


class Receiver:
    """Of webhooks; it can be told to fail."""

    def __init__(self):
        receiver = self
        self.away, self.taken = False, 0

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # a connection for all

            def do_POST(self):
                json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                receiver.taken += not receiver.away
                self.send_response(503 if receiver.away else 204)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/"


def handles():
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


def size_of(folder):
    """Bytes of the files; of one that is renamed or deleted meanwhile, none."""
    found = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            found += path.stat().st_size if path.is_file() else 0
    return found


def alsa_configuration(folder):
    """A device that delivers as fast as it is asked."""
    silence = folder / "silence.raw"
    silence.write_bytes(bytes(4 * RATE))
    path = folder / "asound.conf"
    path.write_text(
        "</usr/share/alsa/alsa.conf>\n"
        f'pcm.filemic {{ type file slave.pcm "null" file "/dev/null" infile "{silence}" format "raw" '
        'hint { show on description "test file" } }\n'
    )
    return path


class Soak:
    """The listener with its sinks, and what is found."""

    def __init__(self, folder, hours, settle, seed, model, hop, kinds=KINDS, faults=tuple(FAULTS), clips=True):
        import make_demo

        from edge.classifier import Classifier
        from edge.cli.sinks import make_sinks
        from edge.clips import ClipsConfig
        from edge.models import resolve
        from edge.rules import EventConfig
        from edge.session import Plan

        self.folder = folder
        kept = ClipsConfig(str(folder / "clips"), max_bytes=CLIPS, min_free_bytes=0) if clips else ClipsConfig()
        self.plan = Plan(EventConfig(only=HEARD), hop, clips=kept, voices=None)
        # Hours of sound at which it is measured, and the next fault begins; at the last one it ends.
        self.due = deque([i / OFTEN for i in range(settle * OFTEN)] + [settle + i for i in range(hours + 1)])
        self.settled = settle * OFTEN  # measurements before
        self.random = random.Random(seed)
        samples, _ = make_demo.scene()
        self.world = World(samples[::2].astype(np.float32)[:, None])
        self.classifier = Classifier(resolve(model))
        self.receiver = Receiver()
        tables = {
            "file": {"path": str(folder / "log.jsonl"), "max_bytes": LOG, "keep": KEPT},
            "store": {"path": str(folder / "events.db"), "max_bytes": STORE},
            "webhook": {"url": self.receiver.url, "spool_file": str(folder / "spool.sqlite")},
            "command": {"argv": ["true"]},
            "metrics": {"port": 0},
        }
        self.sinks = make_sinks({kind: tables[kind] for kind in (*kinds, "metrics")}, {})
        self.deliveries = self.sinks[0]._deliveries if kinds else {}
        self.metrics, self.kinds = self.sinks[-1], faults
        self.reasons, self.events, self.faults, self.clips = Counter(), 0, Counter(), Counter()
        self.seen = defaultdict(set)  # hour → reasons
        self.memory, self.disk, self.handles = [], [], []
        self.planned = []  # kind, hour of the sound in which it began

    def run(self):
        """All hours; returns the findings."""
        started = time.monotonic()
        self.started = self.world.clock.monotonic()
        with contextlib.suppress(KeyboardInterrupt):  # what has been found so far
            while self.due:
                self._session()
        scraped = self.scraped()
        self._let_sinks_follow(0)
        for sink in self.sinks:
            sink.close()
        stats = {name: d.stats() for name, d in self.deliveries.items()}
        return {
            "hours": len(self.memory) - self.settled - 1,
            "seconds": round(time.monotonic() - started, 1),
            "settling_mib": [round(m / MIB, 2) for m in self.memory[: self.settled]],
            "memory_mib": [round(m / MIB, 2) for m in self.memory[self.settled :]],
            "disk_mib": round(max(self.disk) / MIB, 2),
            "handles": self.handles[self.settled :],
            "faults": dict(self.faults),
            "unseen": self._unseen(),
            "reasons": dict(self.reasons),
            "events": self.events,
            "posted": self.receiver.taken,
            "clips": dict(self.clips),
            "clips_there": len(list(self.folder.glob("clips/*/*.flac"))),
            "metrics": {name: self._metric(scraped, name) for name in METRICS},
            "deliveries": {n: [s.delivered, s.dropped, s.failed, s.restarts] for n, s in stats.items()},
        }

    def hour(self):
        return (self.world.clock.monotonic() - self.started) / 3600

    def _session(self):
        """Listen until the time is over or a fault wants a new session."""
        from edge.session import Session
        from edge.sources.microphone import Microphone
        from edge.sources.supervised import Supervised

        clock = self.world.clock
        how = {"clock": clock.monotonic, "wall": clock.time, "sleep": clock.sleep}
        source = Supervised(Microphone("filemic"), wait=True, **how)
        session = Session(source, self.classifier, self.plan, "soak")
        if session._clips is not None:
            session._clips._recorder._patient = True  # as with a recording: sound comes faster than clips are written
        for record in session.records():
            self._take(record)
            if record["type"] != "window" or not self.due or self.hour() < self.due[0]:
                continue
            self.due.popleft()
            self._measure()
            if not self.due or self._break() == "renewed":
                session.stop()

    def _take(self, record):
        for sink in self.sinks:
            sink.write(record)
        if record["type"] == "health":
            self.reasons.update(record["reasons"])
            self.seen[int(self.hour())].update(record["reasons"])
        elif record["type"] == "event":
            self.events += 1
        elif record["type"] == "clip":
            self.clips[record["state"]] += 1
        self._let_sinks_follow(500)

    def _let_sinks_follow(self, behind, seconds=120.0):
        """Sound comes hundreds of times as fast as it would: wait for those that are more records behind."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            stats = [delivery.stats() for delivery in self.deliveries.values()]
            if all(s.queued + s.spooled <= behind for s in stats):
                return
            time.sleep(0.01)

    @staticmethod
    def _metric(scraped, name):
        return sum(float(line.split()[-1]) for line in scraped.splitlines() if line.split("{")[0] == name)

    def _measure(self):
        self._let_sinks_follow(0)  # a program that runs has pipes
        self.memory.append(resident_bytes())
        self.disk.append(size_of(self.folder))
        self.handles.append(handles())
        print(len(self.memory), round(self.memory[-1] / MIB, 2), *self.handles[-1], file=sys.stderr, flush=True)

    def _break(self):
        fewest = min(self.faults[kind] for kind in self.kinds)
        left = [kind for kind in self.kinds if self.faults[kind] == fewest]
        kind = self.random.choice(left)
        self.faults[kind] += 1
        self.planned.append((kind, int(self.hour())))
        print(kind, file=sys.stderr, flush=True)
        if kind == "receiver":
            self.receiver.away = True
            threading.Timer(2.0, setattr, (self.receiver, "away", False)).start()
        elif kind == "locked":
            threading.Thread(target=self._lock, daemon=True).start()
        elif kind == "crash":
            self._crash()
        elif kind != "renewed":
            self.world.fault.begin(kind)
        return kind

    def _lock(self):
        with contextlib.closing(sqlite3.connect(self.folder / "events.db", timeout=10)) as db:
            db.execute("BEGIN EXCLUSIVE")
            time.sleep(1.0)
            db.rollback()

    def _crash(self):
        sink = self.deliveries["file"]._sink

        def write(record):
            del sink.write
            raise RuntimeError("a fault that was asked for")

        sink.write = write

    def _unseen(self):
        """The faults that left no reason in the hour in which they began, or the next."""
        return [
            (kind, hour)
            for kind, hour in self.planned
            if FAULTS[kind] and FAULTS[kind] not in self.seen[hour] | self.seen[hour + 1]
        ]

    def scraped(self):
        """The metrics as Prometheus would read them."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics.port}/metrics", timeout=5) as answer:
            return answer.read().decode()


@click.command()
@click.option("--hours", type=int, default=24, show_default=True, help="That are measured.")
@click.option("--settle", type=int, default=3, show_default=True, help="Hours before, with ten faults in each.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--model", default="tiny", show_default=True)
@click.option("--hop", type=float, default=3.84, show_default=True)
@click.option("--sink", "kinds", multiple=True, default=KINDS, help="What is on; [default: all]")
@click.option("--fault", "faults", multiple=True, type=click.Choice([*FAULTS]), default=[*FAULTS])
@click.option("--clips/--no-clips", default=True, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), required=True)
def main(hours, settle, seed, model, hop, kinds, faults, clips, folder):
    """Print what is found, as JSON."""
    folder.mkdir(parents=True)
    os.environ["ALSA_CONFIG_PATH"] = str(alsa_configuration(folder))
    print(json.dumps(Soak(folder, hours, settle, seed, model, hop, kinds, faults, clips).run()))


if __name__ == "__main__":
    main()
