"""Health as one state machine: what changes it, what a session makes of outages, and how it is told to machines."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest

from edge.board import WAITING_SECONDS, Board
from edge.cli import listen as listen_command
from edge.clips import ClipsConfig
from edge.delivery import Delivery
from edge.errors import InputError
from edge.health import DEGRADED, LOST, REASONS, Health, Limits, Monitor
from edge.listener import Window
from edge.notify import Notifier
from edge.rules import EventConfig, Rule
from edge.session import Plan, Session
from edge.several import Several
from edge.sources.block import Signal
from tests.away import Away, outage
from tests.conftest import ROOT
from tests.receivers import AWAY, REFUSED, Fallible, event, free_port, wait_until
from tests.test_listen import BASE, SCHEMA, of_type

HOP = 0.5
QUIET = Signal(clipped=0.0, dc_offset=0.0)
ANY_SOUND = EventConfig(Rule(threshold=0.0, confirm=1))  # an event of each class with the first window


def window(offset, **fields):
    plain = dict(
        labels=("dog",), probs=np.ones(1, np.float32), energy=None, unknown=False, onset=max(0.0, offset - 4),
        offset=offset, time=offset, level_dbfs=-40.0, latency_ms=30.0, busy_ms=20.0, silent=False, lost=0, overflows=0,
        signal=QUIET,
    )  # fmt: skip
    return Window(**(plain | fields))


class Watch:
    """A monitor on a stream of windows, a hop apart; what it said, and when."""

    def __init__(self):
        self.monitor, self.at, self.said = Monitor(HOP), 4.0, []

    def hear(self, seconds, **fields):
        for _ in range(round(seconds / HOP)):
            self.note(self.monitor.window(window(self.at, **fields)))
            self.at += HOP
        return self

    def note(self, health):
        if health is not None:
            self.said.append((self.at, health.state, health.reasons))


@pytest.fixture
def watch():
    return Watch().hear(10)


def test_it_starts_listens_is_lost_and_listens_again(watch):
    assert Monitor(HOP).health == Health("starting", (), "")
    assert watch.said == [(4.0, "listening", ())]
    watch.note(watch.monitor.outage(outage()))
    watch.note(watch.monitor.outage(outage()))  # no news
    assert watch.monitor.health == Health("lost", ("missing",), "'usb' is not there (plug it in)")
    watch.note(watch.monitor.outage(outage(reason="busy")))
    watch.hear(1)
    assert [said[1:] for said in watch.said[1:]] == [("lost", ("missing",)), ("lost", ("busy",)), ("listening", ())]


LIMITS = Limits()


@pytest.mark.parametrize(
    ("reason", "just", "too_much"),
    [
        ("clipping", {"clipped": LIMITS.clipped}, {"clipped": 1.01 * LIMITS.clipped}),
        ("dc_offset", {"dc_offset": -LIMITS.dc_offset}, {"dc_offset": -1.01 * LIMITS.dc_offset}),
        ("clock", {"drift_ppm": LIMITS.drift_ppm}, {"drift_ppm": -1.01 * LIMITS.drift_ppm}),
        ("dead_channel", {"dead_channels": ()}, {"dead_channels": (1,)}),
    ],
)
def test_what_a_device_delivers_is_judged_and_does_not_flap(watch, reason, just, too_much):
    watch.hear(5, signal=dataclasses.replace(QUIET, **just))
    assert watch.monitor.health.state == "listening"
    begun = watch.at
    for _ in range(5):  # now and then: one reason, and not five
        watch.hear(HOP, signal=dataclasses.replace(QUIET, **too_much)).hear(8)
    last = watch.at - 8 - HOP
    watch.hear(10)
    assert watch.said[1:] == [(begun, "degraded", (reason,)), (last + LIMITS.hold, "listening", ())]


def test_several_reasons_at_a_time_are_told_together(watch):
    watch.hear(1, silent=True)
    watch.hear(1, silent=True, signal=dataclasses.replace(QUIET, dc_offset=0.3))
    assert watch.monitor.health.reasons == ("dc_offset", "silent")
    assert watch.monitor.health.message == f"{DEGRADED['dc_offset']}; {DEGRADED['silent']}"
    watch.hear(8 + HOP)
    assert watch.monitor.health.reasons == ("dc_offset", "silent")  # held
    watch.hear(3)
    assert watch.monitor.health == Health("listening", (), "")


def test_lost_samples_are_told_for_a_minute(watch):
    begun = watch.at
    watch.hear(HOP, lost=1).hear(65)
    assert watch.said[1:] == [(begun, "degraded", ("lost_samples",)), (begun + LIMITS.lost_hold, "listening", ())]
    assert watch.hear(HOP, overflows=1).monitor.health.reasons == ("lost_samples",)


def test_what_was_wrong_before_an_outage_is_forgotten(watch):
    watch.hear(HOP, lost=1)
    watch.note(watch.monitor.outage(outage()))
    assert watch.hear(HOP).monitor.health.state == "listening"


def test_a_host_that_delivers_in_lumps_is_not_late():
    """PulseAudio gives a quarter of its buffer at a time; a decision waits for the next lump."""
    for lump in (0.25, 0.5, 0.9):
        watch = Watch()
        for n in range(200):
            watch.hear(HOP, latency_ms=1000 * (n * 0.13 % lump) + 40)
        assert watch.monitor.late == 0


def test_a_machine_that_falls_behind_is_late(watch):
    watch.hear(10, latency_ms=200.0)
    begun = watch.at
    for n in range(1, 30):  # a tenth of a second more with each
        watch.hear(HOP, latency_ms=200.0 + 100 * n)
    assert watch.said[1][1:] == ("degraded", ("late",))
    assert watch.said[1][0] - begun < 6
    late = watch.monitor.late
    assert late > 20
    watch.hear(30)
    assert watch.monitor.health.state == "listening"
    assert watch.monitor.late == late


def test_one_stall_is_counted_and_no_reason(watch):
    """A second in which the machine did something else, from which nothing is lost."""
    watch.hear(20).hear(1, latency_ms=900.0).hear(10)
    assert watch.monitor.late == 2
    assert watch.monitor.health.state == "listening"


def test_a_network_that_is_slower_than_a_hop_is_late_whatever_the_latency(watch):
    assert watch.hear(3, latency_ms=0.0, busy_ms=501.0).monitor.health.reasons == ("late",)
    assert Watch().hear(30, latency_ms=0.0, busy_ms=499.0).monitor.late == 0


def test_sinks_are_named(watch):
    health = watch.monitor.window(window(30.0), ["mqtt", "webhook"])
    assert (health.state, health.reasons) == ("degraded", ("sink",))
    assert health.message.startswith("mqtt, webhook: ")
    assert watch.monitor.outage(outage(), ["mqtt"]).reasons == ("missing", "sink")
    assert watch.monitor.window(window(31.0)).state == "listening"


# Sessions


def told(source, classifier, **plan):
    records = list(Session(source, classifier, Plan(**plan), "yard").records())
    for record in records:
        SCHEMA.validate(json.loads(json.dumps(record)))
    return records


def test_an_outage_ends_what_is_open_and_begins_anew(classifier, tmp_path):
    source = Away(6.0, *map(outage, range(1, 9)), 6.0)
    clips = ClipsConfig(str(tmp_path), min_free_bytes=0)
    records = told(source, classifier, events=ANY_SOUND, clips=clips, voices=None)
    kinds = [r["type"] for r in records]
    assert [r["state"] for r in of_type("health", records)] == ["starting", "listening", "lost", "listening"]
    assert kinds[:2] == ["start", "health"]
    lost = next(n for n, r in enumerate(records) if r.get("state") == "lost")
    before, after = records[:lost], records[lost:]
    heard = of_type("window", before)[-1]["offset"]
    ends = [r for r in of_type("event", before) if r["phase"] == "end"]
    begun = {r["id"] for r in of_type("event", before) if r["phase"] == "begin"}
    assert begun
    assert {r["id"] for r in ends} == begun
    assert {r["offset"] for r in ends} == {heard}
    assert of_type("window", after)[0]["offset"] == pytest.approx(6 + 8 + 4, abs=0.6)  # a new window was gathered
    assert all(r["onset"] > 13 for r in of_type("event", after) if r["phase"] == "begin")
    assert of_type("end", records)[0]["lost_samples"] == 0  # they are the outage's
    written = {r["id"] for r in of_type("clip", records) if r["state"] == "written"}
    assert begun & written  # some were too many at a time
    assert not [r for r in of_type("clip", records) if r["reason"] == "nothing of it was recorded"]


def test_the_duration_counts_the_stream_also_while_it_is_away(classifier):
    records = told(Away(6.0, *map(outage, range(1, 100))), classifier, duration=20.0)
    assert records[-1]["reason"] == "duration"
    first = told(Away(*map(outage, range(1, 30)), 6.0), classifier, duration=5.0)  # a stream begins with its sound
    assert [r["state"] for r in of_type("health", first)] == ["starting", "lost", "listening"]
    assert of_type("window", first)[-1]["offset"] >= 5


def test_status_tells_what_the_device_delivers(classifier):
    bad = Signal(0.25, -0.3, (1,), 12.34)
    records = told(Away(16.0, signal=bad), classifier)
    status = of_type("status", records)[0]
    assert {k: status[k] for k in ("clipped", "dc_offset", "dead_channels", "drift_ppm")} == {
        "clipped": 0.25, "dc_offset": -0.3, "dead_channels": [1], "drift_ppm": 12.3,
    }  # fmt: skip
    assert of_type("health", records)[1]["reasons"] == ["clipping", "dc_offset", "dead_channel"]
    none = of_type("status", told(Away(16.0), classifier))[0]
    assert [none[k] for k in ("clipped", "dc_offset", "dead_channels", "drift_ppm")] == [None] * 4


def test_a_source_keeps_its_name_when_it_is_opened_late(classifier):
    class Late(Away):
        def _blocks(self, *arguments):
            yield outage()
            self.name = "USB PnP Sound Device"
            yield from super()._blocks(*arguments)

    records = list(Session(Late(6.0), classifier, Plan(ANY_SOUND)).records())
    assert {r["source"] for r in records} == {"usb"}


def test_a_session_stops_during_an_outage(classifier):
    session = Session(Away(5.0, *[outage()] * 1000), classifier, Plan(ANY_SOUND))
    records = session.records()
    taken = []
    for record in records:
        taken.append(record)
        if record.get("state") == "lost":
            session.stop()
    assert taken[-1]["reason"] == "interrupted"
    session = Session(Away(*[outage()] * 1000), classifier, Plan())
    begun = session.records()
    assert [next(begun)["type"] for _ in range(3)] == ["start", "health", "health"]
    begun.close()  # as a KeyboardInterrupt does
    assert [r["type"] for r in session.interrupted()] == ["end"]


def test_several_stop_during_an_outage(classifier):
    clock = Clock()
    board = Board(clock)
    plan = Plan(board=board)
    sources = [Away(5.0, *[outage()] * 1000, pause=0.2), Away(*[outage()] * 1000, pause=0.2)]
    sessions = [Session(s, classifier, plan, name) for s, name in zip(sources, "ab", strict=True)]
    assert not board.ready
    assert set(board.sources()) == {"a", "b"}
    several = Several(sessions, board)
    records, taken = several.records(), []
    while sum(r.get("state") == "lost" for r in taken) < 2:
        taken.append(next(records))
    assert board.alive()
    started = time.monotonic()
    taken += several.interrupted()
    assert time.monotonic() - started < 3
    clock.now += 60
    assert board.alive(), "nothing is expected of what has ended"
    assert {r["source"]: r["reason"] for r in of_type("end", taken)} == {"a": "interrupted", "b": "interrupted"}


def test_whoever_takes_the_records_of_several_must_go_on_as_well(classifier):
    """The sources may be well, each in its thread, and all they say go nowhere."""
    clock = Clock()
    board = Board(clock)
    plan = Plan(board=board)
    sessions = [Session(Away(*[outage()] * 10_000, pause=0.01), classifier, plan, name) for name in "ab"]
    records = Several(sessions, board).records()
    while board.state != "lost":
        next(records)
    assert board.alive()
    clock.now += 9  # nobody has asked for records since; the sources go on promising
    time.sleep(0.1)
    assert not board.alive()
    records.close()


def test_a_source_that_fails_for_good_is_lost(classifier):
    class Failing(Away):
        def _blocks(self, *arguments):
            yield from super()._blocks(*arguments)
            raise InputError("it is cut", remedy="copy it again")

    board = Board()
    session = Session(Failing(6.0), classifier, Plan(board=board), "yard")
    taken = []
    with pytest.raises(InputError):
        taken.extend(session.records())
    board_says = board.sources()["yard"]
    assert (board_says.state, board_says.reasons) == ("lost", ("refused",))
    assert board.alive()
    assert board.hopeful()
    assert not board.ready


# The board, and those who ask it


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_who_waits_for_somebody_else_is_alive():
    now = [0.0]
    board = Board(clock=lambda: now[0])
    board.renew(5.0)  # nobody is expected, and nobody is from here on
    board.promise("a", 2.0)
    board.promise("b", 60.0)
    now[0] = 1.5
    board.renew(5.0)
    now[0] = 6.4
    assert board.alive()
    now[0] = 6.6
    assert not board.alive()
    board.leave("a")
    assert board.alive()


def test_who_breaks_a_promise_is_not_alive():
    clock = Clock()
    board = Board(clock)
    assert board.alive()
    assert not board.ready
    board.show("a", Health("listening"))
    board.promise("a", 5.0)
    clock.now += 5.0
    assert board.alive()
    assert board.ready
    clock.now += 0.1
    assert not board.alive()
    board.promise("a", 5.0)
    board.show("b", Health("lost", ("missing",), "plug it in"))
    assert (board.state, board.ready, board.alive()) == ("lost", False, True)
    assert board.sentence() == "a: listening; b: lost: plug it in"
    assert board.document() == {
        "state": "lost",
        "sources": {
            "a": {"state": "listening", "reasons": (), "message": ""},
            "b": {"state": "lost", "reasons": ("missing",), "message": "plug it in"},
        },
    }
    board.leave("a")
    assert set(board.sources()) == {"b"}


def test_a_source_is_waited_for_ten_minutes_until_a_restart_is_tried():
    clock = Clock()
    board = Board(clock)
    board.show("a", Health("lost", ("missing",)))
    clock.now += WAITING_SECONDS
    board.show("a", Health("lost", ("busy",)))  # the same absence
    assert board.hopeful()
    clock.now += 0.1
    assert not board.hopeful()
    assert board.alive()
    board.show("a", Health("listening"))
    assert board.hopeful()


@pytest.fixture(params=["path", "abstract"])
def systemd(request, tmp_path):
    """The socket that systemd reads, and its name as a service is given it."""
    name = f"@edge-{os.getpid()}-{time.monotonic_ns()}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as taken:
        taken.bind("\0" + name[1:] if request.param == "abstract" else name)
        taken.settimeout(5)
        yield taken, name


def next_of(taken, wanted):
    while (said := taken.recv(4096).decode()) != wanted:
        pass
    return said


def falls_silent(taken, seconds=1.2, deadline=10):
    """Whether nothing comes for so many seconds: what hangs is not spoken for."""
    until = time.monotonic() + deadline
    taken.settimeout(seconds)
    while time.monotonic() < until:
        try:
            taken.recv(4096)
        except TimeoutError:
            return True
    return False


def test_systemd_is_told(systemd):
    taken, name = systemd
    board = Board()
    environment = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "200000", "WATCHDOG_PID": str(os.getpid())}
    board.show("usb", Health())
    with Notifier(board, environment):
        assert taken.recv(4096) == b"STATUS=starting"
        assert taken.recv(4096) == b"WATCHDOG=1"
        board.show("usb", Health("lost", ("missing",), "it is gone\n(plug it in)"))
        assert next_of(taken, "READY=1")
        assert next_of(taken, "STATUS=lost: it is gone (plug it in)")
        board.promise("usb", 0.0)
        assert falls_silent(taken)
        board.promise("usb", 60.0)
        taken.settimeout(5)
        assert taken.recv(4096) == b"WATCHDOG=1"
    assert next_of(taken, "STOPPING=1")


def test_a_reload_is_no_end_and_ready_again_is_for_the_next(systemd):
    taken, name = systemd
    clock = Clock()
    board = Board(clock)
    board.show("usb", Health())
    with Notifier(board, {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "200000"}) as notifier:
        notifier.reloading()
        board.show("usb", Health("lost", ("missing",), "plug it in"))
        said = [taken.recv(4096).decode().split("\n")[0] for _ in range(9)]
        assert said[-1] == "WATCHDOG=1", "a slow end is no hang"
        clock.now += 60.1
        assert falls_silent(taken)
    assert said.count("RELOADING=1") == 1
    taken.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            said.append(taken.recv(4096).decode())
    assert not {"READY=1", "STOPPING=1"} & set(said)


@pytest.mark.parametrize(
    "environment",
    [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "200000", "WATCHDOG_PID": "1"}],
)
def test_no_watchdog_is_no_watchdog(systemd, environment):
    taken, name = systemd
    board = Board()
    with Notifier(board, {"NOTIFY_SOCKET": name, **environment}) as notifier:
        board.show("usb", Health("listening"))
        assert next_of(taken, "READY=1")
        assert taken.recv(4096) == b"STATUS=listening"
        notifier.look()
    assert taken.recv(4096) == b"STOPPING=1"


def test_what_hangs_while_it_is_opened_makes_no_progress(monkeypatch):
    clock, seen = Clock(), []
    board = Board(clock)

    @contextlib.contextmanager
    def assembled(*_):
        seen.append(board.alive())
        clock.now += 60.1
        seen.append(board.alive())
        yield SimpleNamespace(patient=False), None, None

    monkeypatch.setattr(listen_command, "assembled", assembled)
    monkeypatch.setattr(listen_command, "follow", lambda *_: seen.append(board.alive()))
    with Notifier(board, {}) as notifier:
        assert not listen_command.listened(None, board, notifier, SimpleNamespace(again=lambda: False))
    assert seen == [True, False, True]


def test_without_systemd_there_is_no_thread():
    with Notifier(Board(), {}):
        assert "notify" not in {thread.name for thread in threading.enumerate()}


# Sinks in trouble


def test_a_receiver_that_fails_for_long_is_trouble(monkeypatch):
    now = Clock()
    monkeypatch.setattr("edge.delivery.monotonic", lambda: now.now + time.monotonic())
    sink = Fallible()
    sink.error = AWAY
    delivery = Delivery(sink, "test", first_wait=0.01, longest_wait=0.02)
    delivery.write(event(0))
    wait_until(lambda: sink.attempts > 2)
    assert not delivery.trouble()
    now.now += 31
    assert delivery.trouble()
    sink.error = None
    wait_until(lambda: delivery.stats().delivered == 1)
    assert not delivery.trouble()
    sink.open.clear()  # it hangs
    known = sink.attempts
    delivery.write(event(1))
    wait_until(lambda: sink.attempts > known)
    now.now += 31
    wait_until(delivery.trouble)
    sink.open.set()
    delivery.close()


def test_what_is_lost_is_trouble_for_a_minute(monkeypatch):
    now = Clock()
    monkeypatch.setattr("edge.delivery.monotonic", lambda: now.now + time.monotonic())
    sink = Fallible()
    sink.error = REFUSED
    delivery = Delivery(sink, "test")
    assert not delivery.trouble()
    delivery.write(event(0))
    wait_until(delivery.trouble)
    now.now += 61
    assert not delivery.trouble()
    delivery.close()


def test_a_sink_in_trouble_is_told_in_the_records_of_its_source(classifier):
    board = Board()
    board.troubles = lambda: ["webhook"]
    records = told(Away(6.0), classifier, board=board)
    assert of_type("health", records)[1]["reasons"] == ["sink"]
    assert board.sources() == {}  # it has ended


# edge-listen itself


@pytest.fixture
def running():
    """Starts ``edge-listen`` with a source of tests/away.py; what still runs in the end is killed."""
    started = []

    def start(kind, *options, env=None):
        asked = [sys.executable, "-m", "tests.away", kind, *map(str, options)]
        process = subprocess.Popen(
            asked, cwd=ROOT, env=BASE | (env or {}), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def read_until(process, state):
    """The records up to the one of health that says ``state``."""
    lines = []
    while not lines or lines[-1].get("state") != state:
        lines.append(json.loads(process.stdout.readline()))
    return lines


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["waiting", "lost"])
def test_a_signal_ends_it_in_time_while_nothing_is_heard(running, kind, tmp_path):
    """Also with a program that hangs, and clips."""
    process = running(
        kind, "--output", "jsonl", "--exec", "sleep 60", "--clips", tmp_path / "clips", "--keep-voices",
        "--threshold", 0.01,
    )  # fmt: skip
    read_until(process, "lost")
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=15)
    assert time.monotonic() - started < 5
    assert process.returncode == 0
    assert json.loads(out.splitlines()[-1])["reason"] == "interrupted"
    assert "Traceback" not in err


def asked(port, path):
    """The code and the answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


@pytest.mark.slow
def test_all_say_the_same_of_a_microphone_that_is_lost(running, tmp_path):
    pytest.importorskip("prometheus_client")
    port = free_port()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        process = running("lost", "--output", "jsonl", "--metrics", port, env=environment)
        read_until(process, "lost")
        assert next_of(systemd, "READY=1")
        assert next_of(systemd, "STATUS=lost: 'usb' is not there (plug it in)")
        assert next_of(systemd, "WATCHDOG=1")  # waiting is progress
        code, body = asked(port, "readyz")
        assert (code, json.loads(body)["state"]) == (503, "lost")
        assert json.loads(body)["sources"]["usb"]["reasons"] == ["missing"]
        assert asked(port, "healthz") == (200, body)
        assert asked(port, "nothing")[0] == 404
        metrics = asked(port, "metrics")[1]
        assert 'edge_audio_health{source="usb",state="lost"} 1.0' in metrics
        assert 'edge_audio_health_reason{reason="missing",source="usb"} 1.0' in metrics
        assert 'edge_audio_outages_total{source="usb"} 1.0' in metrics
        process.send_signal(signal.SIGTERM)
        assert next_of(systemd, "STOPPING=1")


@pytest.mark.slow
def test_a_loop_that_hangs_is_seen_from_outside(running, tmp_path):
    pytest.importorskip("prometheus_client")
    port = free_port()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        process = running("hanging", "--output", "jsonl", "--metrics", port, env=environment)
        read_until(process, "listening")
        wait_until(lambda: asked(port, "readyz")[0] == 200)
        assert asked(port, "healthz")[0] == 200
        wait_until(lambda: asked(port, "healthz")[0] == 503, 20, "it hangs, and says that it is well")
        assert asked(port, "readyz")[0] == 503
        assert falls_silent(systemd)
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert time.monotonic() - started < 5


def test_the_reasons_of_the_schema_are_those_of_the_code():
    properties = SCHEMA.schema["$defs"]["health"]["properties"]
    assert set(properties["reasons"]["items"]["enum"]) == set(REASONS) == set(LOST) | set(DEGRADED)
