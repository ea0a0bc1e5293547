"""Where ``edge-listen`` sends its events: options and tables, all at once, to real receivers; and their mistakes."""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import threading
import time
import urllib.request
from contextlib import nullcontext, suppress
from datetime import datetime

import pytest
import soundfile

from edge.board import Board
from edge.cli.sinks import asked_sinks, host_and_port, make_sinks, tables_of_options
from edge.errors import SettingsError, SinkError
from edge.records import TYPES
from tests.conftest import ROOT, run_module
from tests.receivers import Mosquitto, Subscriber, event, free_port, http_receiver, needs_mosquitto, wait_until
from tests.test_listen import BASE, SCHEMA, command, listen, of_type, records


@pytest.fixture
def env(tmp_path):
    """What is kept goes to a folder of the test's own."""
    return BASE | {"XDG_STATE_HOME": str(tmp_path / "state")}


def events_in(lines):
    return [(r["id"], r["phase"]) for r in of_type("event", lines)]


def test_every_place_has_the_same_events(tmp_path, demo, env):
    program = f"sh -c 'cat >> {tmp_path}/ran; echo >> {tmp_path}/ran'"
    with http_receiver() as web:
        done = listen(
            "--input", demo, "--output", "jsonl", "--log", tmp_path / "log.jsonl", "--db", tmp_path / "e.db",
            "--exec", program, "--webhook", web.url, "--clips", tmp_path / "clips",
            "--keep-voices", "--config", quiet_disk(tmp_path), env=env,
        )  # fmt: skip
        posted = [json.loads(body) for _, body in web.requests]
    lines = records(done)
    told = events_in(lines)
    assert len(told) >= 8
    assert events_in(posted) == told
    assert events_in(json.loads(line) for line in (tmp_path / "ran").read_text().splitlines() if line) == told
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert logged == lines
    with sqlite3.connect(tmp_path / "e.db") as db:
        kept = dict(db.execute("SELECT id, clip FROM events"))
    assert kept.keys() == {key for key, _ in told}
    clips = {r["id"]: r["path"] for r in of_type("clip", lines)}
    assert kept == clips
    for end in of_type("event", lines):
        if end["phase"] == "end":
            assert end["clip"] == clips[end["id"]]
            heard = soundfile.info(end["clip"])
            assert heard.duration <= end["duration"] + 3 + 2 + 0.01
            assert heard.duration >= min(end["duration"], 20)
    shown = json.loads(run_module("edge.cli.events", "list", "--db", tmp_path / "e.db", "--output", "json").stdout)
    assert {r["id"] for r in shown} == kept.keys()


def test_a_recording_whose_name_is_no_text_loses_nothing(tmp_path, demo, env):
    odd = tmp_path / os.fsdecode(b"caf\xe9.ogg")
    odd.write_bytes(demo.read_bytes())
    with http_receiver() as web:
        done = listen(
            "--input", odd, "--duration", 12, "--output", "jsonl", "--log", tmp_path / "log.jsonl",
            "--db", tmp_path / "e.db", "--exec", f"tee -a {tmp_path}/ran", "--webhook", web.url, env=env,
        )  # fmt: skip
        posted = [json.loads(body) for _, body in web.requests]
    lines = records(done)
    assert {r["source"] for r in lines} == {f"{tmp_path}/caf\\udce9.ogg"}
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == lines
    assert events_in(posted) == events_in(lines) != []
    assert events_in(json.loads(line) for line in (tmp_path / "ran").read_text().splitlines()) == events_in(lines)
    with sqlite3.connect(tmp_path / "e.db") as db:
        assert set(db.execute("SELECT id, source FROM events")) == {(r["id"], r["source"]) for r in posted}


def test_a_recording_waits_for_a_program_that_is_slower(tmp_path, demo, env):
    """It is heard in half a second; at the end of what is heard as it happens, only so much is waited for."""
    config = tmp_path / "small.toml"
    config.write_text("[sinks.command]\ncapacity = 3\n")
    program = f"sh -c 'sleep 0.4; cat >> {tmp_path}/ran'"
    done = listen("--input", demo, "--output", "jsonl", "--exec", program, "--config", config, env=env)
    told = events_in(records(done))
    assert len(told) >= 12
    assert events_in(map(json.loads, (tmp_path / "ran").read_text().splitlines())) == told
    assert "dropped" not in done.stderr


@pytest.mark.parametrize("capacity", [3, 1000])  # it waits while it listens, or at the end
def test_a_signal_ends_the_waiting(tmp_path, demo, env, capacity):
    config = tmp_path / "small.toml"
    config.write_text(f"[sinks.command]\ncapacity = {capacity}\n")
    program = f"sh -c 'touch {tmp_path}/ran; sleep 20'"
    asked = command("--input", demo, "--output", "jsonl", "--exec", program, "--config", config)
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen(asked, cwd=ROOT, env=env, **pipes) as process:
        wait_until((tmp_path / "ran").exists, 20)
        time.sleep(1)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert time.monotonic() - start < 8
    assert process.returncode == 0
    assert [json.loads(line)["type"] for line in out.splitlines()].count("end") == 1
    assert "records were dropped" in err


def quiet_disk(tmp_path, more=""):
    path = tmp_path / "clips.toml"
    path.write_text("[clips]\nmin_free_bytes = 0\n" + more)
    return path


@needs_mosquitto
def test_events_reach_a_broker(tmp_path, demo, env):
    with Mosquitto(tmp_path) as broker, Subscriber(broker) as subscriber:
        done = listen("--input", demo, "--output", "jsonl", "--mqtt", f"127.0.0.1:{broker.port}", env=env)
        told = events_in(records(done))
        wait_until(lambda: len(subscriber.events()) >= len(told), 10)
        assert events_in(subscriber.events()) == told


@needs_mosquitto
def test_a_broker_that_is_away_gets_the_events_of_the_run_before(tmp_path, demo, env):
    """They waited on disk; audio did not wait for them."""
    port = free_port()
    started = time.monotonic()
    done = listen("--input", demo, "--output", "jsonl", "--mqtt", f"127.0.0.1:{port}", env=env)
    assert time.monotonic() - started < 20
    assert re.search(r"^\d+ records wait on disk for mqtt", done.stderr, re.MULTILINE)
    with Mosquitto(tmp_path, port=port) as broker, Subscriber(broker) as subscriber:
        some = ("--input", demo, "--realtime", "--duration", 6)  # while closing, what is on disk stays there
        again = listen(*some, "--output", "jsonl", "--mqtt", f"127.0.0.1:{port}", env=env)
        told = events_in(records(done)) + events_in(records(again))
        wait_until(lambda: len(subscriber.events()) >= len(told), 10)
        assert events_in(subscriber.events()) == told


def test_metrics_while_it_listens(demo, env):
    pytest.importorskip("prometheus_client")
    port = free_port()
    asked = command("--input", demo, "--realtime", "--output", "none", "--metrics", port, "--exec", "true")
    with subprocess.Popen(asked, env=env, cwd=ROOT) as process:
        try:

            def scraped():
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                    return answer.read().decode()

            def heard():
                try:
                    return f'edge_audio_windows_total{{source="{demo}"}} 2.0' in scraped()
                except OSError:
                    return False

            wait_until(heard, 20)
            assert 'edge_audio_sink_dropped_total{sink="command"} 0.0' in scraped()
        finally:
            process.terminate()
    assert process.returncode == 0


def test_tables_of_a_configuration(tmp_path, demo, env):
    """Two of one kind, an option on top of a table, and types of records."""
    config = quiet_disk(tmp_path, f"""
        [[sinks.file]]
        path = "{tmp_path}/a.jsonl"
        types = ["event"]
        [[sinks.file]]
        path = "{tmp_path}/b.jsonl"
        types = ["start", "end"]
        [sinks.store]
        max_days = 3
    """)  # fmt: skip
    lines = records(
        listen("--config", config, "--input", demo, "--output", "jsonl", "--db", tmp_path / "x.db", env=env)
    )
    a, b = ([json.loads(line) for line in (tmp_path / f"{n}.jsonl").read_text().splitlines()] for n in "ab")
    assert a == of_type("event", lines)
    assert [r["type"] for r in b] == ["start", "end"]
    assert (tmp_path / "x.db").exists()


def test_output_none_is_quiet(demo, env):
    assert listen("--input", demo, "--duration", 8, "--output", "none", env=env).stdout == ""


def test_a_crashing_program_is_counted_and_said(demo, env):
    done = listen("--input", demo, "--output", "jsonl", "--exec", "false", env=env)
    n_events = len(of_type("event", records(done)))
    assert f"command: 0 records were dropped, {n_events} refused: " in done.stderr


def test_an_output_that_nobody_reads_does_not_keep_it_from_ending(tmp_path, env):
    """All other places have the end."""
    asked = command("--input", "-", "--output", "jsonl", "--log", tmp_path / "log.jsonl")
    with subprocess.Popen(asked, env=env, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        feed = threading.Thread(target=fed, args=(process.stdin,), daemon=True)
        feed.start()
        wait_until(lambda: (tmp_path / "log.jsonl").exists() and len(logged(tmp_path)) > 100, 20)
        known = -1
        while known != (known := len(logged(tmp_path))):  # it goes no further
            time.sleep(0.5)
        started = time.monotonic()
        process.terminate()
        assert process.wait(10) == 0
        assert time.monotonic() - started < 5
        feed.join()
    assert logged(tmp_path)[-1]["type"] == "end"


def fed(pipe):
    with suppress(BrokenPipeError):
        while True:
            pipe.write(bytes(32_000))


def logged(tmp_path):
    return [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]


def test_a_reader_that_goes_away_costs_the_others_nothing(tmp_path, demo, env):
    """Each event that has begun in the file ends there."""
    asked = command("--input", demo, "--output", "jsonl", "--log", tmp_path / "log.jsonl")
    with subprocess.Popen(asked, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        while json.loads(process.stdout.readline())["type"] != "event":
            pass
        process.stdout.close()
    assert process.returncode == 0
    lines = logged(tmp_path)
    ids = [key for key, _ in events_in(lines)]
    assert lines[-1]["type"] == "end"
    assert ids
    assert all(ids.count(key) == 2 for key in ids)


# Privacy


def test_by_default_no_sound_touches_the_disk(tmp_path, demo, env):
    listen("--input", demo, "--output", "none", "--db", tmp_path / "e.db", "--log", tmp_path / "l.jsonl", env=env)
    written = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {"e.db", "l.jsonl"}


def test_ram_only_refuses_clips(tmp_path, demo, env):
    for options in (("--clips", tmp_path / "c"), ("--config", quiet_disk(tmp_path, f'folder = "{tmp_path}/c"'))):
        done = listen("--input", demo, "--privacy", "ram-only", *options, env=env, code=2)
        assert "--clips would keep sound, and --privacy ram-only forbids it" in done.stderr
    assert not (tmp_path / "c").exists()
    assert "duration: " in listen("--input", demo, "--duration", 5, "--privacy", "ram-only", env=env).stdout


# Mistakes


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--mqtt", "host:99999"), 2, "--mqtt 'host:99999' has no port that can be"),
        (("--mqtt", "host", "--home-assistant", "host"), 2, "mqtt and home_assistant are both asked for"),
        (("--exec", "echo 'a"), 2, "No closing quotation"),
        (("--exec", "no-such-program-anywhere"), 7, "no-such-program-anywhere cannot be run"),
        (("--webhook", "ftp://x"), 7, "url is 'ftp://x'"),
        (("--metrics", "a" * 70 + ".:0"), 7, "metrics cannot be served on aaa"),
        (("--log", "/proc/none/x.jsonl"), 7, "/proc/none/x.jsonl cannot be written"),
        (("--db", "/proc/none/x.db"), 8, "/proc/none/x.db"),
        (("--clips", "/proc/none"), 1, "clips cannot be written to /proc/none"),
        (("--clips", os.fsdecode(b"/proc/caf\xe9")), 2, r"clips folder is '/proc/caf\udce9'; allowed: a path in UTF-8"),
    ],
)
def test_mistakes_of_options_are_named(demo, env, options, code, message):
    done = listen("--input", demo, *options, env=env, code=code)
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[sinks.pigeon]", "there is no sink 'pigeon' (allowed: file, store, mqtt"),
        ("sinks = 3", "sinks is 3"),
        ("[sinks.mqtt]\nhots = 'x'", "sinks.mqtt has an unknown key 'hots'"),
        ("[sinks.mqtt]\nport = 'x'", "sinks.mqtt.port is 'x'; allowed: a whole number"),
        ("[sinks]\nmqtt = 3", "sinks.mqtt is 3"),
        ("[clips]\nfolder = '/tmp/x'\npre_roll = -1", "clips.pre_roll is -1.0"),
        ("[sink.mqtt]", "unknown key sink; allowed: "),
        ("[sinks]\nmetrics = []", "there are 0 tables sinks.metrics"),
        ("[[sinks.metrics]]\nport = 0\n[[sinks.metrics]]\nport = 0", "there are 2 tables sinks.metrics"),
        ("[sinks.file]\ntypes = ['evnt']", "sinks.file.types is 'evnt'; allowed: start, health, window, event"),
        ("[sinks.store]\nmax_days = 0", "sinks.store.max_days is 0.0; allowed: above 0"),
    ],
)
def test_mistakes_of_tables_are_named(tmp_path, demo, env, text, message):
    config = tmp_path / "c.toml"
    config.write_text(text)
    assert message in listen("--config", config, "--input", demo, env=env, code=2).stderr


@pytest.mark.parametrize(
    ("text", "alone", "expected"),
    [
        ("host", "host", ("host", None)),
        ("host:1", "host", ("host", 1)),
        ("[::1]:1", "host", ("::1", 1)),
        ("[::1]", "host", ("::1", None)),
        ("::1", "port", ("::1", None)),
        ("9000", "port", ("", 9000)),
        ("0.0.0.0:9000", "port", ("0.0.0.0", 9000)),
        ("host", "port", ("host", None)),
    ],
)
def test_hosts_and_ports(text, alone, expected):
    assert host_and_port(text, "--x", alone) == expected
    with pytest.raises(SettingsError, match="--x 'a:b' has no port"):
        host_and_port("a:b", "--x")


def test_nothing_asked_nothing_made():
    assert tables_of_options({}) == {}
    assert make_sinks({}, {}) == []


def test_disks_that_matter_are_those_that_are_written_to(tmp_path, monkeypatch):
    """Folders of files, the database, spools and clips; and a sink in trouble is told by name."""
    pytest.importorskip("prometheus_client")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    board = Board()
    tables = {"webhook": {"url": "http://127.0.0.1:9/"}, "command": {"argv": ["true"]}, "metrics": {"port": 0}}
    options = {"log": str(tmp_path / "logs/l.jsonl"), "db": str(tmp_path / "db/e.db")}
    deliveries, metrics = make_sinks(tables, options, board=board, folders=[tmp_path / "clips"])
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    for folder in ("logs", "db", "state/edge-listen/spool", "clips"):
        assert f'edge_device_disk_free_bytes{{folder="{tmp_path / folder}"}}' in text
    assert board.troubles() == []
    monkeypatch.setattr("edge.delivery.TROUBLE_SECONDS", 0.0)
    deliveries.write(event(0))
    wait_until(lambda: board.troubles() == ["webhook"])
    deliveries.close()
    metrics.close()


def test_what_is_left_on_disk_is_said_at_the_end(tmp_path, monkeypatch, caplog):
    """Once, until a run has delivered it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def run(url, *written, until):
        (deliveries,) = make_sinks({}, {"webhook": url})
        for record in written:
            deliveries.write(record)
        wait_until(lambda: until(deliveries._deliveries["webhook"].stats()))
        caplog.clear()
        deliveries.close()
        return [message for message in caplog.messages if "wait on disk" in message]

    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    said = run(url, event(0), event(1), until=lambda stats: stats.spooled == 2)
    assert said == ["2 records wait on disk for webhook, until it is run again"]
    with http_receiver(port):
        assert run(url, until=lambda stats: stats.delivered == 2 and not stats.spooled) == []


def test_where_one_cannot_be_made_none_is_left(tmp_path):
    """Two that deliver from one spool would both deliver all of it."""
    pytest.importorskip("prometheus_client")
    before = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = {"log": str(tmp_path / "l.jsonl"), "metrics": str(taken.getsockname()[1])}
        with pytest.raises(SinkError):
            make_sinks({}, options)
    assert set(threading.enumerate()) == before


def test_several_sources_have_topics_of_their_own(monkeypatch, tmp_path):
    pytest.importorskip("paho.mqtt")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for several in (False, True):
        (deliveries,) = make_sinks({}, {"mqtt": "localhost"}, several=several)
        (delivery,) = deliveries._deliveries.values()
        assert delivery._sink.config.by_source is several
        deliveries.close()


def test_the_schema_knows_every_type():
    assert {ref["$ref"].rpartition("/")[2] for ref in SCHEMA.schema["oneOf"]} == set(TYPES)


def test_events_of_a_recording_are_in_its_order_and_as_long(tmp_path, demo, env):
    """It is read many times faster than it lasts."""
    done = listen("--input", demo, "--output", "jsonl", env=env)
    windows, events = (of_type(kind, records(done)) for kind in ("window", "event"))
    begun = {e["id"]: e for e in events if e["phase"] == "begin"}
    zero = datetime.fromisoformat(windows[0]["time"]).timestamp() - windows[0]["offset"]
    for e in events:
        assert datetime.fromisoformat(e["onset_time"]).timestamp() - zero == pytest.approx(e["onset"], abs=0.3)
    onsets = [(e["onset"], e["onset_time"]) for e in begun.values()]
    assert len(onsets) > 5
    assert sorted(onsets) == sorted(onsets, key=lambda pair: pair[1])
    assert all(0 < w["latency_ms"] < 2000 for w in windows)


def test_an_option_leaves_the_tables_of_its_kind():
    """One that is alone has its keys replaced; beside several, the option is one more."""
    a, b = {"path": "a.jsonl", "keep": 2}, {"path": "b.jsonl"}

    def files(tables):
        return [(s.name, s.config.path, s.config.keep) for s in asked_sinks({"file": tables}, {"log": "c.jsonl"})]

    assert files(a) == files([a]) == [("file", "c.jsonl", 2)]
    assert files([a, b]) == [("file", "a.jsonl", 2), ("file-2", "b.jsonl", 5), ("file-3", "c.jsonl", 5)]
    assert files([]) == [("file", "c.jsonl", 5)]


def test_a_key_in_two_spellings_is_refused():
    """One of them would count, and nothing say which."""
    with pytest.raises(SettingsError, match=r"^sinks has both home-assistant and home_assistant "):
        asked_sinks({"home-assistant": {"port": 1}, "home_assistant": {"port": 2}}, {})
    for keys in ({"max-bytes": 1, "max_bytes": 2}, {"spool-file": "a", "spool_file": "b"}):
        with pytest.raises(SettingsError, match=f"^sinks.file has both {' and '.join(keys)} "):
            asked_sinks({"file": keys}, {})


def test_two_sinks_in_one_file_are_refused(tmp_path):
    """They would rotate it under each other, or write lines into a database."""
    (tmp_path / "link").symlink_to(tmp_path / "f")
    for other in ("f", "link", "no/../f"):
        tables = {"file": {"path": str(tmp_path / "f")}, "store": {"path": str(tmp_path / other)}}
        with pytest.raises(SettingsError, match="is a file of the sinks file and store"):
            asked_sinks(tables, {})
    for name, refused in (("f.1", True), ("f.2", True), ("f.3", False), ("f.x", False)):
        tables = {"file": [{"path": str(tmp_path / name)}, {"path": str(tmp_path / "f"), "keep": 2}]}
        with pytest.raises(SettingsError, match="of the sinks") if refused else nullcontext():
            asked_sinks(tables, {})


def test_labels_that_sinks_name_and_nothing_has_are_warned_of(tmp_path, demo, env):
    config = quiet_disk(tmp_path, """
        [sinks.webhook]
        url = "http://127.0.0.1:9/"
        cooldowns = { Dog = 60, dog = 60 }
        [sinks.mqtt]
        host = "127.0.0.1"
        labels = ["siren", "huond"]
        [events.aliases]
        siren = "alarm"
    """)  # fmt: skip
    done = listen("--config", config, "--input", demo, "--duration", 5, "--output", "jsonl", env=env)
    assert "sinks.webhook names 'Dog', which nothing is called here" in done.stderr
    assert "sinks.mqtt names 'huond', which nothing is called here" in done.stderr
    assert done.stderr.count("which nothing is called") == 2
