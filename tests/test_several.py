"""Several sources at once, from a configuration file, and streams of the network through ffmpeg."""

import contextlib
import functools
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.sources import cost
from edge.board import Board
from edge.calibration import Site
from edge.classifier import Classifier
from edge.cli.sources import rules_of, sessions_of, source_configs
from edge.decisions import model_id
from edge.errors import InputError, SettingsError
from edge.rules import EventConfig, Rule, events_of
from edge.secret import is_url, without_password
from edge.session import Plan, Session
from edge.several import Several
from edge.sources.block import Block
from edge.sources.file import SoundFile
from edge.sources.url import UrlStream, _Children
from tests.conftest import ROOT
from tests.receivers import wait_until
from tests.test_listen import BASE, command, listen, of_type, records

FFMPEG = '''#!{python}
"""Stands in for ffmpeg: the recording at a URL, as PCM of 16 bits."""
import sys, time, urllib.request, io
import soundfile
arguments = sys.argv[1:]
url, rate = arguments[arguments.index("-i") + 1], int(arguments[arguments.index("-ar") + 1])
if "missing" in url:
    sys.exit("Error opening input: " + url + ": Server returned 404 Not Found")
samples, native = soundfile.read(io.BytesIO(urllib.request.urlopen(url).read()), dtype="int16")
assert native == 2 * rate
sys.stdout.buffer.write(samples[::2].tobytes())
sys.stdout.flush()
while "forever" in url:
    time.sleep(1)
'''


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch):
    """A folder with a stand-in for ffmpeg, first in the PATH."""
    script = tmp_path / "bin" / "ffmpeg"
    script.parent.mkdir()
    script.write_text(FFMPEG.format(python=sys.executable))
    script.chmod(0o755)
    path = f"{script.parent}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    return {"PATH": path}


@contextlib.contextmanager
def serving(folder):
    """The files of a folder, over HTTP."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


@pytest.fixture(scope="module")
def server():
    """The bundled recording, over HTTP."""
    with serving(ROOT / "examples") as url:
        yield url


def configured(tmp_path, text):
    path = tmp_path / "several.toml"
    path.write_text(text)
    return path


def test_each_source_has_its_name_and_its_rules(tmp_path, demo):
    config = configured(tmp_path, f"""
        output = "jsonl"
        [events]
        only = ["siren", "car_horn"]
        [[sources]]
        name = "yard"
        input = "{demo}"
        realtime = false
        [[sources]]
        name = "kitchen"
        input = "{demo}"
        realtime = false
        events.labels.siren.threshold = 1.0
        events.report = ["unknown"]
    """)  # fmt: skip
    lines = records(listen("--config", config))
    heard = {name: [r for r in lines if r["source"] == name] for name in ("yard", "kitchen")}
    assert len(lines) == sum(map(len, heard.values()))
    labels = {name: {r["label"] for r in of_type("event", found)} for name, found in heard.items()}
    assert labels["yard"] == {"siren", "car_horn"}
    assert labels["kitchen"] - {"unknown"} == {"car_horn"}
    for found in heard.values():
        assert [found[0]["type"], found[-1]["type"]] == ["start", "end"]
        offsets = [r["offset"] for r in of_type("window", found)]
        assert offsets == sorted(offsets)


def test_options_are_of_the_sources_that_name_none():
    from edge.cli.listen import settings_from

    tables = {"sources": [{"name": "a", "realtime": False}, {"name": "b", "channel": 0, "realtime": False}]}

    def heard(**options):
        asked = dict.fromkeys(
            ("duration", "threshold", "clips", "model", "input", "device", "channel", "hop", "provider")
        )
        asked |= dict.fromkeys(
            ("threads", "site", "pcm_rate", "pcm_channels", "top_k", "wait", "keep_voices", "verbose")
        )
        asked |= {"privacy": "default", "output": "text", "realtime": False} | options
        return [(s.channel, s.realtime) for s in settings_from(asked, tables).sources]

    assert heard() == [(None, False), (0, False)]
    assert heard(channel=1) == [(1, False), (0, False)]
    assert heard(realtime=True) == [(None, True), (0, True)]


def test_a_source_that_fails_does_not_stop_the_others(tmp_path, demo):
    config = configured(tmp_path, f"""
        output = "jsonl"
        [[sources]]
        name = "gone"
        input = "{tmp_path}/nothing.wav"
        [[sources]]
        name = "yard"
        input = "{demo}"
        realtime = false
    """)  # fmt: skip
    done = listen("--config", config, code=5)
    lines = records(done)
    assert [r["type"] for r in lines if r["source"] == "gone"] == ["error", "health"]
    assert next(r["state"] for r in of_type("health", lines) if r["source"] == "gone") == "lost"
    assert lines[-1]["source"] == "yard"
    assert lines[-1]["reason"] == "end of input"
    assert "gone: " in done.stderr


def test_a_signal_ends_all_of_them(tmp_path, demo):
    config = configured(tmp_path, "output = 'jsonl'\n" + "".join(
        f'[[sources]]\nname = "{name}"\ninput = "{demo}"\n' for name in "abc"
    ))  # fmt: skip
    with subprocess.Popen(
        command("--config", config), stdout=subprocess.PIPE, text=True, env=BASE, cwd=ROOT
    ) as process:
        per_source = 1 + 2 + 2  # start, health, a window and its event
        lines = [json.loads(process.stdout.readline()) for _ in range(3 * per_source)]
        assert len(of_type("window", lines)) >= 3
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        lines += map(json.loads, process.stdout)
    assert process.returncode == 0
    assert time.monotonic() - started < 5
    assert {r["source"]: r["reason"] for r in of_type("end", lines)} == dict.fromkeys("abc", "interrupted")


def test_text_says_whose_event_it_is(tmp_path, demo):
    tables = "".join(f'[[sources]]\nname = "{name}"\ninput = "{demo}"\nrealtime = false\n' for name in ("yard", "hall"))
    out = listen("--config", configured(tmp_path, tables), "--output", "live").stdout.splitlines()
    assert all(line.startswith(("yard: ", "hall: ")) for line in out[1:])
    assert {line.split()[0] for line in out if "siren" in line} == {"yard:", "hall:"}


def test_what_is_named_on_the_command_line_comes_first(tmp_path, demo):
    config = configured(tmp_path, '[[sources]]\nname = "x"\ninput = "nothing.wav"\n')
    assert records(listen("--config", config, "--input", demo, "--output", "jsonl"))[0]["source"] == str(demo)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sources = 3", "sources is 3"),
        ("[[sources]]\ninput = 'a.wav'", "sources[0] has no 'name'"),
        ("[[sources]]\nname = 'a'\nfile = 'a.wav'", "sources[0] has an unknown key 'file'"),
        ("[[sources]]\nname = 'a'\ninput = 'a.wav'\ndevice = 'usb'", "allowed: nothing beside device"),
        ("[[sources]]\nname = 'a'\ninput = '-'", "sources[0].input is '-'; allowed: a file or a URL"),
        ("[[sources]]\nname = ''", r"sources[0].name is ''"),
        ("[[sources]]\nname = 'a'\n[[sources]]\nname = 'a'", "two sources are called 'a' ("),
        (
            "[[sources]]\nname = 'The yard'\n[[sources]]\nname = 'the-yard'",
            "called 'The yard' and 'the-yard', which are",
        ),
        ("[[sources]]\nname = 'a'\nevents.confirm = 0", "confirm is 0; allowed: 1 to 1000"),
        ("[events]\nonly = ['hund']", "a class in events is 'hund'"),
        ("events = 3", "events is 3"),
        ("device = 'usb'\n[[sources]]\nname = 'a'", "the file has device beside [[sources]]"),
        ("[[events]]\nconfirm = 1", "events is [{'confirm': 1}]"),
        ("[events]\nonly = 'dog'", "events.only is 'dog'; allowed: a list"),
        ("[[sources]]\nname = 'a'\nevents = 3", "sources[0].events is 3"),
        ("[[sources]]\nname = 'a'\nchannel = -1", r"sources[0].channel is -1; allowed: 0 or more"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    assert message in listen("--config", configured(tmp_path, text), code=2).stderr


def test_one_model_serves_threads_bit_for_bit(classifier, demo):
    """Eight at once say what one says alone."""

    def windows(found):
        return [(r["offset"], r["top"]) for r in found if r["type"] == "window"]

    alone = windows(Session(SoundFile(demo), classifier, Plan(duration=20)).records())
    sessions = [Session(SoundFile(demo), classifier, Plan(duration=20), str(n)) for n in range(8)]
    together = list(Several(sessions).records())
    assert all(windows(r for r in together if r["source"] == str(n)) == alone for n in range(8))


class Hanging:
    """A source of so many seconds of silence, after which nothing comes, and no end."""

    name = "hanging"

    def __init__(self, seconds):
        self.seconds, self.waits, self.end = seconds, threading.Event(), threading.Event()

    def blocks(self, sample_rate, length, first=None, channels=1):
        position, end = 0, self.seconds * sample_rate
        while position < end:
            size = length if position else first
            yield Block(np.zeros(size, np.float32), position, time.time())
            position += size
        self.waits.set()
        self.end.wait()


@pytest.mark.parametrize(("seconds", "phases"), [(0, []), (9, ["begin", "end"])])
def test_of_a_source_that_hangs_the_end_is_told(classifier, seconds, phases):
    """Also before its first window; and soon."""
    sources = [Hanging(seconds), Hanging(seconds)]
    plan = Plan(EventConfig(report=("silence",)))
    several = Several([Session(source, classifier, plan, str(n)) for n, source in enumerate(sources)])
    following = several.records()
    told = [next(following) for _ in range(2)]  # the others wait to be taken
    for source in sources:
        assert source.waits.wait(10)
    started = time.monotonic()
    told += several.interrupted()
    assert time.monotonic() - started < 2.5
    for source in sources:
        source.end.set()
    for name in "01":
        assert [r["reason"] for r in of_type("end", told) if r["source"] == name] == ["interrupted"]
        assert [r["phase"] for r in of_type("event", told) if r["source"] == name] == phases


def test_two_of_one_name_are_refused(classifier, demo):
    with pytest.raises(SettingsError, match="two sources are called"):
        Several([Session(SoundFile(demo), classifier, Plan()) for _ in range(2)])


class Broken:
    """A source that crashes, at once or after so many seconds of silence."""

    name = "broken"

    def __init__(self, seconds):
        self.seconds = seconds

    def blocks(self, sample_rate, length, first=None, channels=1):
        if not self.seconds:
            raise RuntimeError("a bug")
        return self._blocks(sample_rate)

    def _blocks(self, sample_rate):
        yield Block(np.zeros(self.seconds * sample_rate, np.float32), 0, time.time())
        raise RuntimeError("a bug")


@pytest.mark.parametrize(
    ("seconds", "types"),
    [(0, ["error", "health"]), (4, ["start", "health", "health", "window", "error", "health", "end"])],
)
def test_a_mistake_of_ours_is_not_hidden_in_a_thread(classifier, caplog, seconds, types):
    """It is told at once, while the others go on, and raised at the end."""
    hanging, board = Hanging(0), Board()
    plan = Plan(board=board)
    sources = {"broken": Broken(seconds), "yard": hanging}
    several = Several([Session(source, classifier, plan, name) for name, source in sources.items()], board)
    told = []
    for record in several.records():
        told += [record] * (record["source"] == "broken")
        if told and told[-1]["type"] == types[-1] and len(told) >= len(types):
            break
    hanging.end.set()
    assert [r["type"] for r in told if r["type"] != "status"] == types
    assert of_type("error", told)[0]["message"] == "RuntimeError: a bug"
    assert (board.sources()["broken"].state, board.ready) == ("lost", False)
    assert "broken has crashed" in caplog.text
    with pytest.raises(RuntimeError, match="a bug"):
        list(several.interrupted())


def thresholds(classifier, text, *, threshold=None, site=None, succession=None):
    """Of dog and cat, by source."""
    tables = tomllib.loads(text)
    plan = Plan(events_of(tables.get("events", {})), succession=succession)
    configs = source_configs(tables["sources"])
    found = sessions_of(configs, tables.get("events", {}), threshold, site, classifier, plan)
    rules = {s.name: {o.label: o.threshold for o in s._detector.outcomes} for s in found}
    return {name: (rule["dog"], rule["cat"]) for name, rule in rules.items()}


def test_a_source_s_own_threshold_comes_before_that_of_all(classifier, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    text = """
        [events]
        threshold = 0.6
        [[sources]]
        name = "a"
        events.threshold = 0.9
        [[sources]]
        name = "b"
        events.labels.cat.confirm = 1
    """
    assert thresholds(classifier, text) == {"a": (0.9, 0.9), "b": (0.6, 0.6)}
    assert thresholds(classifier, text, threshold=0.7) == {"a": (0.7, 0.7), "b": (0.7, 0.7)}


def test_the_site_of_the_command_line_is_of_all_sources(classifier, tmp_path):
    with pytest.raises(SettingsError, match=r"nothing\.json"):
        thresholds(classifier, "[[sources]]\nname = 'a'", site=tmp_path / "nothing.json")


def test_a_site_of_another_model_ends_nothing_where_models_follow_each_other(classifier, tmp_path, caplog):
    path, text = tmp_path / "yard.json", "[[sources]]\nname = 'a'"
    site = Site(model_id(classifier.spec), "2026-01-01T00:00:00Z", 4.0, 1.0, 0.5, 0, 18.0, {"dog": 0.9}, (), {})
    site.save(path)
    over_the_air = {"site": path, "succession": lambda name: None}
    assert thresholds(classifier, text, **over_the_air)["a"][0] == 0.9
    replace(site, model="the one before").save(path)
    with pytest.raises(SettingsError, match="is of the model 'the one before'"):
        thresholds(classifier, text, site=path)
    assert thresholds(classifier, text, **over_the_air) == thresholds(classifier, text)
    assert "not used: " in caplog.text
    path.write_text("{")
    with pytest.raises(SettingsError, match="cannot be read"):
        thresholds(classifier, text, **over_the_air)


def test_names_of_labels_are_left_as_they_are():
    table = tomllib.loads("min-duration = 1\n[labels.fire-alarm]\nconfirm = 2")
    more = tomllib.loads("min_duration = 2\n[labels.fire-alarm]\nmin-level-dbfs = -40")
    config = rules_of(table, None, more)
    assert config.rule.min_duration == 2
    assert config.labels["fire-alarm"] == Rule(min_duration=2.0, confirm=2, min_level_dbfs=-40.0)
    with pytest.raises(SettingsError, match="yard has both min_duration and min-duration"):
        rules_of(table, None, more | {"min-duration": 3}, "yard")


# The network


def test_what_is_a_url():
    assert is_url("rtsp://camera/stream")
    assert is_url("https://radio.example/live.mp3")
    assert not is_url("street.flac")
    assert not is_url("C:/street.flac")


def test_what_is_no_url_is_named():
    for url in ("http://[me:secret", "rtmps://me:secret@host/a"):
        with pytest.raises(InputError, match="is no stream") as caught:
            UrlStream(url)
        assert "secret" not in str(caught.value)
    assert UrlStream("RTSP://me:secret@cam/1").name == "rtsp://cam/1"


def test_errors_and_settings_show_no_password(ffmpeg):
    url = "RTSP://me:secret@127.0.0.1:1/missing?key=secret"
    done = listen("--input", url, "--model", "none.onnx", "--output", "jsonl", code=3)
    assert records(done)[0]["source"] == "rtsp://127.0.0.1:1/missing"
    shown = listen("--input", url, "-v", "--webhook", "https://me:secret@host/secret", env=ffmpeg, code=5)
    assert "input = rtsp://127.0.0.1:1/missing (command line)" in shown.stderr
    assert "webhook = https://host (command line)" in shown.stderr
    assert "secret" not in done.stderr + done.stdout + shown.stderr + shown.stdout


def test_records_show_no_password():
    assert without_password("rtsp://me:secret@cam:554/1?token=x#y") == "rtsp://cam:554/1"
    assert UrlStream("http://me:secret@host/a").name == "http://host/a"


def test_a_stream_of_the_network_is_heard(ffmpeg, server):
    lines = records(listen("--input", f"{server}/demo.ogg", "--output", "jsonl", env=ffmpeg))
    assert {"siren", "car_horn"} <= {r["label"] for r in of_type("event", lines)}
    assert lines[-1]["reason"] == "end of input"


def test_a_stream_that_is_missing(ffmpeg, server):
    done = listen("--input", "http://me:secret@127.0.0.1:1/missing", "--output", "jsonl", env=ffmpeg, code=5)
    assert "http://127.0.0.1:1/missing cannot be heard: " in done.stderr
    assert "404" in done.stderr
    assert "secret" not in done.stderr + done.stdout


def test_ffmpeg_ends_with_the_listener(ffmpeg, server, classifier: Classifier):
    source = UrlStream(f"{server}/demo.ogg?forever")
    blocks = source.blocks(16_000, 8000)
    next(blocks)
    before = subprocess.run(["pgrep", "-f", "demo.ogg.forever"], capture_output=True, text=True).stdout.split()
    blocks.close()
    after = subprocess.run(["pgrep", "-f", "demo.ogg.forever"], capture_output=True, text=True).stdout.split()
    assert (len(before), len(after)) == (1, 0)


@pytest.mark.parametrize("stop", [lambda pid: os.killpg(pid, signal.SIGINT), lambda pid: os.kill(pid, signal.SIGTERM)])
def test_no_ffmpeg_is_left_behind(tmp_path, ffmpeg, stop):
    """Ctrl-C in a terminal goes to both, and is no error of the stream; one without sound ends as well."""
    started = tmp_path / "started"
    script = f"#!/bin/sh\necho $$ >> {started}\nhead -c 320000 /dev/zero\nexec sleep 60\n"
    (tmp_path / "bin" / "ffmpeg").write_text(script)
    tables = "".join(f'[[sources]]\nname = "{n}"\ninput = "http://host/{n}"\n' for n in range(2))
    config = configured(tmp_path, "output = 'jsonl'\n" + tables)
    with subprocess.Popen(
        command("--config", config), stdout=subprocess.PIPE, text=True, env=BASE | ffmpeg, cwd=ROOT,
        start_new_session=True,
    ) as process:  # fmt: skip
        lines = []
        while len(of_type("window", lines)) < 2 * 12:  # most of ten seconds
            lines.append(json.loads(process.stdout.readline()))
        stop(process.pid)
        lines += map(json.loads, process.stdout)
    assert process.returncode == 0
    assert of_type("error", lines) == []
    assert {r["reason"] for r in of_type("end", lines)} == {"interrupted"}
    wait_until(lambda: not [pid for pid in started.read_text().split() if runs(int(pid))])


def test_no_ffmpeg_is_started_while_the_program_ends(tmp_path):
    """By a thread that opens a lost stream again, just then."""
    children = _Children()
    running = children.start(["sleep", "60"])
    children.end()
    assert running.wait(5) == -signal.SIGKILL
    with pytest.raises(OSError, match="canceled"):
        children.start(["sleep", "60"])
    running.stdout.close()
    running.stderr.close()


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"  # a zombie, in a container without init
    except OSError:
        return False


def test_without_ffmpeg_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="needs ffmpeg, which is not there"):
        UrlStream("http://host/a").blocks(16_000, 8000)


@pytest.mark.slow
@pytest.mark.timed
def test_eight_files_in_real_time(demo):
    """No decision is late, and a core is mostly idle."""
    found = cost([("input", str(demo))] * 8, seconds=19.0)
    assert found.ended == 8
    assert len(found.latencies_ms) > 8 * 30
    assert max(found.latencies_ms) < 480
    assert 0 < found.share < 0.2
    assert (found.start_seconds + 19 * found.share) / 20 < 0.5
