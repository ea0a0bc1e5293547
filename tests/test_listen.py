"""``edge-listen`` as its users run it: in a process of its own, with files, pipes, signals, and no microphone."""

import importlib
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import click
import jsonschema
import numpy as np
import pytest
import soundfile

from edge.cli.common import OurCommand
from edge.errors import DeviceError
from edge.health import REASONS
from edge.models import BUNDLED
from edge.sources.devices import input_devices
from tests.conftest import ROOT, not_emulated, run_module

SCHEMA = jsonschema.Draft202012Validator(json.loads((ROOT / "docs" / "jsonl.schema.json").read_text()))
BASE = {k: v for k, v in os.environ.items() if not k.startswith("EDGE_LISTEN_")}


def command(*arguments):
    return [sys.executable, "-m", "edge.cli.listen", *map(str, arguments)]


def listen(*arguments, code=0, env=None):
    """``edge-listen`` to its end, in an environment without options of the person who runs the tests."""
    return run_module("edge.cli.listen", *arguments, code=code, env=BASE | (env or {}))


def records(done):
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for line in lines:
        SCHEMA.validate(line)
    return lines


def of_type(kind, lines):
    return [line for line in lines if line["type"] == kind]


def test_jsonl_of_a_recording(demo):
    lines = records(listen("--input", demo, "--output", "jsonl", "--top-k", 5))
    assert [line["type"] for line in lines[:4]] == ["start", "health", "health", "window"]
    assert [line["state"] for line in of_type("health", lines)] == ["starting", "listening"]
    start, windows, end = lines[0], of_type("window", lines), lines[-1]
    assert all(line["source"] == str(demo) for line in lines)
    assert end["type"] == "end"
    assert end["reason"] == "end of input"
    assert end["windows"] == len(windows)
    assert windows[0]["onset"] == 0
    assert windows[0]["offset"] == pytest.approx(start["window_seconds"], abs=1e-3)
    steps = np.diff([w["offset"] for w in windows])
    assert np.allclose(steps, start["hop_seconds"], atol=2e-3)
    for w in windows:
        scores = [score for _, score in w["top"]]
        assert len(scores) == 5
        assert scores == sorted(scores, reverse=True)
        assert {label for label, _ in w["top"]} <= set(start["labels"])
        assert w["label"] in (None, w["top"][0][0])
    for line in lines:
        datetime.fromisoformat(line["time"])
    assert 60 - windows[-1]["offset"] < start["hop_seconds"]


def test_text_names_each_class_once(demo):
    out = listen("--input", demo, "--output", "text").stdout.splitlines()
    assert out[0].startswith(f"listening to {demo}")
    assert out[-1].startswith("end of input: ")
    named = [line.split()[1] for line in out[1:-1]]
    assert len(named) >= 5
    assert all(a != b for a, b in itertools.pairwise(named))


def test_verbose_text_has_every_window_and_the_settings(demo):
    done = listen("--input", demo, "--duration", 10, "-v", "--output", "text")
    assert len(done.stdout.splitlines()) >= 2 + 12
    assert f"input = {demo} (command line)" in done.stderr
    assert "threshold = what edge-calibrate has found, else the model's, else 0.5 (default)" in done.stderr
    assert "output = text (command line)" in done.stderr
    assert "the nearest that the model can is 0.48 s" in done.stderr


def test_not_a_terminal_means_text(demo):
    assert listen("--input", demo, "--duration", 5).stdout.startswith("listening to")


def test_threshold_decides_what_is_named(demo):
    everything = of_type("window", records(listen("--input", demo, "--output", "jsonl", "--threshold", 0)))
    nothing = of_type("window", records(listen("--input", demo, "--output", "jsonl", "--threshold", 1)))
    assert all((w["label"] is None) == w["unknown"] for w in everything)
    assert sum(w["unknown"] for w in everything) < len(everything) / 4
    assert not any(w["label"] for w in nothing)
    assert [w["top"] for w in everything] == [w["top"] for w in nothing]


def test_what_was_calibrated_decides_what_is_named(classifier, demo):
    from edge.rules import EventConfig
    from edge.session import Plan, Session
    from edge.sources.file import SoundFile

    def named(config):
        found = Session(SoundFile(demo), classifier, Plan(config, duration=20.0)).records()
        return {r["label"] for r in of_type("window", found)} - {None}

    (label, *_) = sorted(named(EventConfig()))
    assert label not in named(EventConfig(calibrated={label: 1.0}))


def test_hop_and_duration(demo):
    lines = records(listen("--input", demo, "--output", "jsonl", "--hop", 1.0, "--duration", 12))
    assert lines[0]["hop_seconds"] == pytest.approx(1.0, abs=0.05)
    assert lines[-1]["reason"] == "duration"
    assert 12 <= lines[-1]["seconds"] < 12 + lines[0]["hop_seconds"]


def test_options_from_environment_and_file(tmp_path, demo):
    config = tmp_path / "edge.toml"
    config.write_text(f'input = "{demo}"\noutput = "jsonl"\ntop-k = 2\nduration = 5\nthreshold = 0.1\n')
    lines = records(listen("--config", config))
    assert len(of_type("window", lines)[0]["top"]) == 2
    lines = records(listen("--config", config, env={"EDGE_LISTEN_TOP_K": "4"}))  # the environment wins over the file
    assert len(of_type("window", lines)[0]["top"]) == 4
    done = listen("--top-k", 3, "-v", env={"EDGE_LISTEN_TOP_K": "4", "EDGE_LISTEN_CONFIG": str(config)})
    assert len(of_type("window", records(done))[0]["top"]) == 3  # and the command line over both
    assert "top-k = 3 (command line)" in done.stderr
    assert "threshold = 0.1 (file)" in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("volume = 3", "unknown key volume; allowed: "),
        ("hop = [", "edge.toml"),
        ("top_k = 'many'", "not a valid integer"),
        ("threshold = 7", "7.0 is not in the range"),
        ("threshold = true", "threshold is True; allowed: text or a number"),
        ("top-k = 2.7", "'2.7' is not a valid integer"),
        ("realtime = 1", "realtime is 1; allowed: true or false"),
        ("hop = [1]", "hop is [1]; allowed"),
        ("output = 2026-01-01", "allowed: text or a number"),
        ("top-k = 1\ntop_k = 5", "top-k is given twice, with - and with _"),
        ("db = ''", "db is empty: give a value, or leave it out"),
        ("[update]\nx = 1", "update has an unknown key 'x' (allowed: url, "),
    ],
)
def test_a_wrong_file(tmp_path, demo, text, message):
    config = tmp_path / "edge.toml"
    config.write_text(text)
    assert message in listen("--config", config, "--input", demo, code=2).stderr


def test_what_comes_from_nearer_wins(tmp_path, demo):
    """A file that names the usual microphone does not stop anybody from listening to a recording."""
    config = tmp_path / "edge.toml"
    config.write_text('device = "usb"\noutput = "jsonl"\nduration = 5\n')
    assert records(listen("--config", config, "--input", demo))[0]["source"] == str(demo)
    assert records(listen("--input", demo, "--config", config, env={"EDGE_LISTEN_DEVICE": "usb"}))
    config.write_text('device = "usb"\ninput = "x.wav"\n')
    assert "exclude each other" in listen("--config", config, code=2).stderr


def test_a_container_s_version_variable_is_no_option(demo):
    done = listen("--input", demo, "--duration", 5, env={"EDGE_LISTEN_VERSION": "1.2.3"})
    assert done.stdout.startswith("listening to")


def test_output_that_cannot_be_written(demo):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command("--input", demo, "--output", "jsonl"), stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            env=BASE,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "error: the output cannot be written: No space left on device (free some space)\n"


def test_a_terminal_that_cannot_show_everything(demo, tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.ogg")
    path.write_bytes(demo.read_bytes())
    done = listen("--input", path, "--duration", 12, env={"PYTHONIOENCODING": "ascii"})
    assert "caf\\udce9.ogg" in done.stdout
    records(listen("--input", path, "--duration", 5, "--output", "jsonl"))


def test_closed_standard_input():
    script = f"exec {sys.executable} -m edge.cli.listen --input - --output jsonl <&-"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=ROOT, env=BASE)
    assert done.returncode == 5
    assert done.stderr.startswith("error: standard input ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--no-such-option"],
        ["--channel", "left"],
        ["--channel", "-1"],
        ["--channel", "²"],
        ["--threshold", "2"],
        ["--top-k", "0"],
        ["--provider", "npu"],
        ["--config", "no.toml"],
        ["--input", "x.wav", "--device", "1"],
        ["--duration", "0"],
    ],
)
def test_usage_errors(arguments):
    done = listen(*arguments, code=2)
    assert "Error: " in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "a.wav", "--input", "b.wav"], "--input is given twice: several are tables [[sources]] of"),
        (["--device", "a", "--device", "a"], "--device is given twice: several are tables [[sources]]"),
        (["--exec", "a", "--exec", "b"], "--exec is given twice: several are tables [[sinks.command]]"),
        (["--top-k", "3", "--top-k=3"], "--top-k is given twice: it takes one value"),
        *(
            ([f"--{name}", ""], f"'--{name}': it is empty: give a value, or leave it out")
            for name in ("log", "db", "mqtt", "home-assistant", "webhook", "exec", "metrics", "clips", "model")
        ),
        (["--db="], "'--db': it is empty"),
    ],
)  # fmt: skip
def test_nothing_that_is_asked_for_is_passed_over(demo, arguments, message):
    """Neither all but the last of several, nor what a variable holds that is not set."""
    source = [] if "--input" in arguments else ["--input", demo]
    done = listen(*source, *arguments, code=2)
    assert f"Error: {message}" in done.stderr or f"Error: Invalid value for {message}" in done.stderr
    assert done.stdout == ""


def test_what_may_be_said_twice_or_be_empty(demo):
    """A flag, and a variable of the environment, which counts as not set."""
    done = listen("--input", demo, "--duration", 5, "-v", "-v", env={"EDGE_LISTEN_DB": "", "EDGE_LISTEN_INPUT": ""})
    assert "db = none (default)" in done.stderr


def test_every_command_is_as_careful():
    def all_of(command):
        return [command, *itertools.chain(*map(all_of, getattr(command, "commands", {}).values()))]

    names = ("bench", "calibrate", "classify", "doctor", "events", "inspect", "listen", "update")
    found = [c for name in names for c in all_of(importlib.import_module(f"edge.cli.{name}").main)]
    assert len(found) > 20
    assert [c.name for c in found if not isinstance(c, OurCommand)] == []
    events, classify = (importlib.import_module(f"edge.cli.{name}").main for name in ("events", "classify"))
    for command, arguments, message in (
        (events.commands["list"], ["--limit", "3", "--limit", "4"], "--limit is given twice: it takes one value"),
        (events.commands["list"], ["--label", ""], "it is empty"),
        (events.commands["correct"], ["x", ""], "it is empty"),
        (classify, [""], "it is empty"),  # which would be the folder that one is in
    ):
        with pytest.raises(click.UsageError, match=message):
            command.make_context("edge", arguments)
    assert events.commands["correct"].make_context("edge", ["x", "dog", "--note", ""]).params["note"] == ""


def assert_fails_in_one_line(done, code):
    lines = records(done)
    kinds = [line["type"] for line in lines]
    assert kinds in (["error"], ["error", "health"]) or (
        kinds[0] == "start" and kinds[-3:] == ["error", "health", "end"]
    )
    (error,) = of_type("error", lines)
    assert error["code"] == code
    assert error["remedy"]
    assert done.stderr.splitlines() == [f"error: {error['message']} ({error['remedy']})"]


@pytest.fixture
def no_microphone():
    try:
        if input_devices():
            pytest.skip("this machine has a microphone")
    except DeviceError:
        pass  # no PortAudio either


@pytest.mark.usefixtures("no_microphone")
def test_no_microphone():
    assert_fails_in_one_line(listen("--output", "jsonl", code=4), 4)


def test_a_microphone_that_is_not_there():
    assert_fails_in_one_line(listen("--device", "no such webcam", "--output", "jsonl", code=4), 4)


@pytest.mark.usefixtures("no_microphone")
def test_list_devices_without_any():
    done = listen("--list-devices")
    assert (done.stdout, done.stderr) == ("", "no input devices\n")


def test_a_cut_mp3_is_told_in_one_line(tmp_path):
    path = tmp_path / "cut.mp3"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.3, 0.3, 160_000), 16_000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert_fails_in_one_line(listen("--input", path, "--output", "jsonl", code=5), 5)


def test_missing_recording():
    done = listen("--input", "no.wav", "--output", "jsonl", code=5)
    assert_fails_in_one_line(done, 5)
    assert not of_type("start", records(done))
    assert listen("--input", "no.wav", code=5).stdout == ""


@pytest.mark.parametrize("n", [0, 1, 100])
def test_recordings_of_few_samples(tmp_path, n):
    soundfile.write(tmp_path / "few.wav", np.zeros(n), 16_000)
    assert_fails_in_one_line(listen("--input", tmp_path / "few.wav", "--output", "jsonl", code=5), 5)


def test_nan_in_the_middle_of_listening(tmp_path):
    samples = np.random.default_rng(0).uniform(-0.1, 0.1, 30 * 16_000)
    samples[25 * 16_000] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 16_000, subtype="FLOAT")
    done = listen("--input", tmp_path / "nan.wav", "--output", "jsonl", code=5)
    assert_fails_in_one_line(done, 5)
    assert of_type("window", records(done))  # what came before it was classified


def test_model_that_is_none(tmp_path, demo):
    (tmp_path / "x.onnx").write_text("no model")
    assert_fails_in_one_line(listen("--model", tmp_path / "x.onnx", "--input", demo, "--output", "jsonl", code=3), 3)


def test_provider_that_is_not_there(demo):
    assert_fails_in_one_line(listen("--provider", "cuda", "--input", demo, "--output", "jsonl", code=6), 6)


@pytest.mark.parametrize("hop", ["0", "-1", "5", "nan"])
def test_impossible_hop(demo, hop):
    assert_fails_in_one_line(listen("--hop", hop, "--input", demo, "--output", "jsonl", code=3), 3)


def test_a_short_recording_is_followed_by_silence(tmp_path):
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "short.wav", rng.uniform(-0.1, 0.1, 16_000), 16_000)
    lines = records(listen("--input", tmp_path / "short.wav", "--output", "jsonl"))
    (window,) = of_type("window", lines)
    assert (window["onset"], window["offset"]) == (0, 1)


def test_eight_channels_at_192_khz(tmp_path, demo):
    samples, rate = soundfile.read(demo, start=8 * 32_000, frames=8 * 32_000)  # a horn
    soundfile.write(tmp_path / "narrow.wav", samples, rate)
    wide = np.repeat(np.repeat(samples, 192_000 // rate)[:, None], 8, axis=1)
    soundfile.write(tmp_path / "wide.wav", wide, 192_000)
    narrow = of_type("window", records(listen("--input", tmp_path / "narrow.wav", "--output", "jsonl")))
    windows = of_type("window", records(listen("--input", tmp_path / "wide.wav", "--output", "jsonl", "--channel", 7)))
    assert windows[-1]["top"][0][0] == narrow[-1]["top"][0][0] == "car_horn"
    assert windows[-1]["offset"] <= 8


def test_silence_is_said_once_and_listening_goes_on(tmp_path):
    soundfile.write(tmp_path / "silence.flac", np.zeros(12 * 16_000), 16_000)
    done = listen("--input", tmp_path / "silence.flac", "--output", "jsonl")
    lines = records(done)
    assert [status["silent"] for status in of_type("status", lines)] == [True]
    assert all(status["level_dbfs"] is None for status in of_type("status", lines))
    assert done.stderr == f"degraded: {REASONS['silent']}\n"
    assert [(h["state"], h["reasons"]) for h in of_type("health", lines)] == [
        ("starting", []), ("listening", []), ("degraded", ["silent"]),
    ]  # fmt: skip
    windows = of_type("window", lines)
    assert windows[-1]["offset"] > 11
    assert all(w["level_dbfs"] is None for w in windows)


def test_raw_pcm_on_standard_input(demo):
    samples, rate = soundfile.read(demo, frames=10 * 32_000, dtype="int16")
    done = subprocess.run(
        command("--input", "-", "--pcm-rate", rate, "--output", "jsonl"),
        input=samples.tobytes(), capture_output=True, cwd=ROOT, env=BASE, timeout=60,
    )  # fmt: skip
    piped = of_type("window", [json.loads(line) for line in done.stdout.splitlines()])
    direct = of_type("window", records(listen("--input", demo, "--duration", 9.5, "--output", "jsonl")))
    assert [w["top"][0][0] for w in piped[: len(direct)]] == [w["top"][0][0] for w in direct]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_a_summary(demo, signum):
    process = subprocess.Popen(
        command("--input", demo, "--realtime", "--output", "jsonl"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=BASE,
    )  # fmt: skip
    lines = [process.stdout.readline() for _ in range(6)]  # start, health, an event, two windows: over four seconds
    process.send_signal(signum)
    out, err = process.communicate(timeout=10)
    end = json.loads((lines + out.splitlines())[-1])
    SCHEMA.validate(end)
    assert (end["type"], end["reason"]) == ("end", "interrupted")
    assert end["windows"] >= 2
    assert process.returncode == 0
    assert err == ""


@pytest.mark.parametrize("delay", [0.15, 0.2, 0.25, 0.3, 0.4])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_starting(demo, signum, delay):
    """Before our handler stands, the signal's own meaning holds; after it, the end is clean. Never a traceback."""
    process = subprocess.Popen(
        command("--input", demo, "--realtime", "--output", "jsonl"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=BASE,
    )  # fmt: skip
    time.sleep(delay)
    process.send_signal(signum)
    out, err = process.communicate(timeout=10)
    if process.returncode == 0:
        assert err == ""
        end = json.loads(out.splitlines()[-1])
        assert (end["reason"], end["windows"]) == ("interrupted", 0)
    else:
        assert process.returncode in (-signum, 1, 130)
        assert out == ""


def test_realtime_decides_on_time(demo):
    started = time.time()
    lines = records(listen("--input", demo, "--realtime", "--duration", 6, "--output", "jsonl"))
    assert time.time() - started > 6
    for w in of_type("window", lines):
        assert w["latency_ms"] < 1000 * lines[0]["hop_seconds"]


def test_a_reader_that_goes_away(demo):
    process = subprocess.Popen(
        command("--input", demo, "--output", "jsonl"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=BASE,
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=30) == 0
    with process.stderr as stderr:
        assert stderr.read() == b""


def test_fp32_beside_int8_names_the_same(demo):
    def named(model):
        return [
            w["top"][0][0] for w in of_type("window", records(listen(*model, "--input", demo, "--output", "jsonl")))
        ]

    int8, fp32 = named([]), named(["--model", BUNDLED.with_name("edge-listen.onnx")])
    assert np.mean([a == b for a, b in zip(int8, fp32, strict=True)]) > 0.9


def test_live_view_on_a_terminal(demo):
    """In a pseudo-terminal, as a person sees it."""
    pty = pytest.importorskip("pty")
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        command("--input", demo, "--duration", 8, "--realtime"), stdout=follower, stderr=follower, cwd=ROOT,
        env=BASE | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"},
    )  # fmt: skip
    os.close(follower)
    shown = b""
    while True:
        try:
            piece = os.read(leader, 4096)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    assert process.wait(timeout=10) == 0
    text = shown.decode()
    for expected in ("level", "latency", "overflows", "█", "duration: "):
        assert expected in text


def test_the_live_view_shows_the_last_events():
    from rich.console import Console

    from edge.sinks.live import EVENTS, LiveView
    from tests.receivers import event

    console = Console(file=io.StringIO(), width=100)
    view = LiveView(console)
    for number in range(EVENTS + 1):
        view.write(event(number, label=f"dog {number}"))
    view.write(event(0, phase="end", label="dog 0"))
    view.write(event(2, phase="end", label="dog 2"))
    view.write({"type": "clip", "source": "microphone", "state": "written"})
    view.write({"type": "error", "source": "microphone", "code": 4})
    console.print(
        view.render({"source": "x", "top": [], "label": None, "level_dbfs": None, "offset": 9, "latency_ms": 1})
    )
    shown = [line.strip() for line in console.file.getvalue().splitlines() if "dog" in line]
    assert shown == [
        "00:01.0  dog 1  …", "00:02.0  dog 2  0.5 s", "00:03.0  dog 3  …", "00:04.0  dog 4  …", "00:05.0  dog 5  …",
    ]  # fmt: skip


def test_text_and_log_say_whose_health_it_is_and_what_helps(caplog):
    from edge.sinks.log import Log
    from edge.sinks.text import Text

    out = io.StringIO()
    sinks = Text(out), Log()
    changes = [
        ("starting", ""), ("listening", ""), ("lost", "'x' is gone (plug it in)"), ("lost", "'x' is busy (wait)"),
        ("degraded", "only zeros"), ("listening", ""),
    ]  # fmt: skip
    for sink in sinks:
        sink.write({"type": "clip", "source": "yard", "state": "written"})
        for state, message in changes:
            sink.write({"type": "health", "source": "hall", "state": state, "message": message})
        sink.write({"type": "error", "source": "yard"})  # it is said elsewhere, once
        sink.write({"type": "health", "source": "yard", "state": "lost", "message": "never"})
    for lines in (out.getvalue().splitlines(), caplog.messages):
        assert lines == [
            "hall: lost: 'x' is gone (plug it in)", "hall: lost: 'x' is busy (wait)", "hall: degraded: only zeros",
            "hall: listening again",
        ]  # fmt: skip


def clip(state, reason=None):
    return {"type": "clip", "source": "hall", "id": "e", "state": state, "path": "/c/dog.flac", "reason": reason}


CLIPS = [
    clip("written"), clip("dropped", "the disk is too slow"), clip("dropped", "the disk is too slow"),
    clip("withheld", "a voice is heard"), clip("pruned"), clip("written"), clip("dropped", "the disk is too slow"),
]  # fmt: skip


@pytest.mark.parametrize("every", [False, True])
def test_text_says_which_clips_there_are_not(every):
    from edge.sinks.text import Text

    out = io.StringIO()
    for record in CLIPS:
        Text(out, every=every).write(record)
    slow = "clip dropped: the disk is too slow"
    assert out.getvalue().splitlines() == [slow, slow, *(["clip withheld: a voice is heard"] if every else []), slow]


def test_the_log_says_once_that_clips_are_dropped(caplog):
    from edge.sinks.log import Log

    sink = Log()
    for record in CLIPS:
        sink.write(record)
    assert caplog.messages == ["clip dropped: the disk is too slow"] * 2


@pytest.mark.parametrize("output", ["live", "text", "jsonl", "none"])
def test_how_many_clips_were_dropped_is_said_at_the_end(output, caplog):
    from edge.cli.listen import Spread
    from edge.cli.sinks import terminal_sinks

    for clips, said in ((CLIPS, ["clips: 3 were dropped, the last one: the disk is too slow"]), (CLIPS[:1], [])):
        spread = Spread(terminal_sinks(output, verbose=False))
        for record in clips:
            spread.write(record)
        caplog.clear()
        spread.close()
        assert caplog.messages == said


def test_the_live_view_says_why_there_is_no_clip():
    from rich.console import Console

    from edge.sinks.live import LiveView

    window = {"source": "x", "top": [], "label": None, "level_dbfs": None, "offset": 9, "latency_ms": 1}
    console = Console(file=io.StringIO(), width=100)
    view = LiveView(console)
    for record, shown in zip(CLIPS, (None, "dropped", "dropped", "withheld", "withheld", None, "dropped"), strict=True):
        view.write(record)
        console.file.truncate(0)
        console.print(view.render(window))
        assert ("clip " in console.file.getvalue()) == (shown is not None)
        assert shown is None or f"clip {shown}: {record['reason'] or 'a voice is heard'}" in console.file.getvalue()


def test_the_live_view_says_how_it_is():
    from rich.console import Console

    from edge.sinks.live import LiveView

    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    view = LiveView(console)
    site = {"file": "[s].json", "raised": {"dog": 0.9}, "muted": ["cat"]}
    view.write({"type": "start", "source": "x", "model": "m", "precision": "int8", "site": site})
    view.write({"type": "health", "source": "x", "state": "lost", "reasons": ["missing"], "message": "plug it in"})
    shown = console.file.getvalue()
    assert shown.count("by the thresholds of [s].json: 1 raised; muted: cat") == 1
    assert "x · m int8 · lost" in shown
    assert "plug it in" in shown
    view.write({"type": "health", "source": "x", "state": "listening", "reasons": [], "message": ""})
    window = {"source": "x", "top": [], "label": None, "level_dbfs": None, "offset": 9, "latency_ms": 1}
    console.file.truncate(0)
    console.print(view.render(window))
    assert "x · m int8 · listening" in console.file.getvalue()
    view.close()


def test_nothing_that_is_not_asked_for_is_loaded(demo):
    script = (
        "import sys\nimport edge.cli.listen as listen\n"
        f"sys.argv = ['edge-listen', '--input', {str(demo)!r}, '--duration', '4', '--output', 'jsonl']\n"
        "try:\n    listen.main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "others = {'httpx', 'paho', 'prometheus_client', 'sqlite3', 'rich', 'logging.handlers', 'sounddevice'}\n"
        "assert not others & set(sys.modules), others & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, env=BASE, stdout=subprocess.DEVNULL)


def test_nothing_heavy_is_loaded():
    script = (
        "import sys\nfrom click.testing import CliRunner\nfrom edge.cli.listen import main\n"
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'torchaudio', 'scipy', 'sklearn', 'onnx', 'librosa', 'onnxruntime'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, env=BASE)


@not_emulated
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_listening_takes_little_memory_and_neither_torch_nor_scipy(demo):
    script = (
        "import sys\nfrom pathlib import Path\nimport edge.cli.listen as listen\n"
        f"sys.argv = ['edge-listen', '--input', {str(demo)!r}, '--output', 'jsonl']\n"
        "try:\n    listen.main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "status = Path('/proc/self/status').read_text()\n"
        "peak = next(int(l.split()[1]) for l in status.splitlines() if l.startswith('VmHWM'))\n"
        "assert not {'torch', 'scipy', 'onnx'} & set(sys.modules)\n"
        "print(peak, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, env=BASE)
    assert done.returncode == 0, done.stderr
    assert int(done.stderr) * 1024 < 110e6
