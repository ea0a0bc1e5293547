"""SIGHUP: the configuration file is read again, and what cannot be leaves everything as it was."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from queue import Empty, Queue

import pytest

from edge.models import BUNDLED_NAMES
from tests.conftest import ROOT
from tests.test_trials import on_probation


def reached_by_hangup():
    """In the child: whoever runs the tests may have it ignored, as nohup does."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Running:
    """edge-listen as a service would run it; its records, and what it logs."""

    def __init__(self, config, **environment):
        command = [sys.executable, "-m", "edge.cli.listen", "--config", str(config), "--output", "jsonl"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | environment, preexec_fn=reached_by_hangup,  # noqa: PLW1509 # it takes no lock
        )  # fmt: skip
        self.records, self.logged, self.threads = Queue(), Queue(), []
        for pipe, queue in ((self.process.stdout, self.records), (self.process.stderr, self.logged)):
            self.threads.append(threading.Thread(target=self._follow, args=(pipe, queue), daemon=True))
            self.threads[-1].start()

    @staticmethod
    def _follow(pipe, queue):
        with pipe:
            for line in pipe:
                queue.put(line)

    def next(self, kind, seconds=30):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                record = json.loads(self.records.get(timeout=0.5))
            except Empty:
                continue
            if record["type"] == kind:
                return record
        raise AssertionError(f"no {kind} within {seconds} s; logged: {self.log()}")

    def log(self):
        lines = []
        while not self.logged.empty():
            lines.append(self.logged.get())
        return "".join(lines)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        for thread in self.threads:
            thread.join()


@pytest.fixture
def config(tmp_path):
    return tmp_path / "edge-listen.toml"


def test_the_file_is_read_again(config, demo):
    config.write_text(f'input = "{demo}"\nrealtime = true\nhop = 0.48\n')
    with Running(config) as running:
        assert running.next("start")["hop_seconds"] == 0.48
        running.next("window")
        config.write_text(f'input = "{demo}"\nrealtime = true\nhop = 0.96\nmodel = "tiny"\n')
        running.process.send_signal(signal.SIGHUP)
        assert running.next("end")["reason"] == "interrupted"
        again = running.next("start")
        assert (again["hop_seconds"], again["model"]) == (0.96, "edge-listen-tiny")
        running.next("window")
        running.process.send_signal(signal.SIGTERM)
        assert running.next("end")["reason"] == "interrupted"
        assert running.process.wait(10) == 0
        assert "Traceback" not in running.log()


def test_systemd_hears_of_no_end_while_it_reloads(config, demo, tmp_path):
    """It would take it at its word, and kill it ten seconds later."""
    config.write_text(f'input = "{demo}"\nrealtime = true\nmodel = "tiny"\n')
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)

        def until(wanted):
            while (said := systemd.recv(4096).decode().split("\n")[0]) != wanted:
                assert said.startswith("STATUS="), said

        with Running(config, NOTIFY_SOCKET=str(tmp_path / "notify")) as running:
            until("READY=1")
            for _ in range(2):
                running.process.send_signal(signal.SIGHUP)
                until("RELOADING=1")
                until("READY=1")
            running.process.send_signal(signal.SIGTERM)
            until("STOPPING=1")
            assert running.process.wait(10) == 0


def test_a_reload_counts_nothing_against_a_model_on_probation(config, demo, tmp_path):
    versions, _ = on_probation(tmp_path / "update")
    config.write_text(f'input = "{demo}"\nrealtime = true\nmodel = "update:{versions.folder}"\n')

    def starts():
        return json.loads((versions.folder / "probation.json").read_text())["starts"]

    with Running(config) as running:
        for _ in range(2):
            running.next("window")
            assert starts() == 1
            running.process.send_signal(signal.SIGHUP)
            running.next("end")
        running.next("window")
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(10) == 0
        assert starts() == 0


def logged(running, words, seconds=20):
    """All of the log up to the line with ``words``."""
    log, end = "", time.monotonic() + seconds
    while words not in log and time.monotonic() < end:
        log += running.log()
        time.sleep(0.05)
    assert words in log, log
    return log


def goes_on(running):
    """What is heard now is heard by what was heard before: nothing has ended."""
    for _ in range(2):
        record = json.loads(running.records.get(timeout=20))
        while record["type"] != "window":
            assert record["type"] not in ("start", "end"), record
            record = json.loads(running.records.get(timeout=20))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("hop = ", "Invalid value (at end of document)"),
        ("hops = 2\n", "hops"),
        ('model = "missing.onnx"\n', "missing.onnx"),
        ('[events]\nonly = ["dgo"]\n', "'dgo'"),
        ('[sinks.webhook]\nurl = "http://127.0.0.1:9/"\nseecret_env = "X"\n', "seecret_env"),
    ],
)
def test_what_cannot_be_changes_nothing(config, demo, text, word):
    good = f'input = "{demo}"\nrealtime = true\nhop = 0.96\n'
    config.write_text(good)
    with Running(config) as running:
        running.next("window")
        config.write_text(good.replace("hop = 0.96\n", "") + text)
        running.process.send_signal(signal.SIGHUP)
        log = logged(running, "nothing is changed")
        assert word in log
        assert "Traceback" not in log
        goes_on(running)
        config.write_text(good.replace("0.96", "0.48"))
        running.process.send_signal(signal.SIGHUP)
        assert running.next("start")["hop_seconds"] == 0.48


def test_what_is_open_does_not_need_its_files_any_more(config, demo, tmp_path):
    """What has read a secret, and a model, goes on with them."""
    model, secret = tmp_path / "m.onnx", tmp_path / "secret"
    model.write_bytes(BUNDLED_NAMES["tiny"].read_bytes())
    secret.write_text("hush\n")
    webhook = f'[sinks.webhook]\nurl = "http://127.0.0.1:9/"\nsecret_file = "{secret}"\nspool = false\n'
    config.write_text(f'input = "{demo}"\nrealtime = true\nmodel = "{model}"\n{webhook}')
    with Running(config) as running:
        running.next("window")
        for file in (secret, model):
            content = file.read_bytes()
            file.write_bytes(b"")
            running.process.send_signal(signal.SIGHUP)
            assert str(file) in logged(running, "nothing is changed")
            goes_on(running)
            file.write_bytes(content)
        running.process.send_signal(signal.SIGTERM)
        assert running.next("end")["reason"] == "interrupted"
        assert running.process.wait(20) == 0


@pytest.mark.parametrize("what", ["port", "file"])
def test_what_shows_when_all_is_closed_is_followed_by_what_was_before(config, demo, what):
    good = f'input = "{demo}"\nrealtime = true\nhop = 0.96\n'
    config.write_text(good)
    with Running(config) as running, socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        running.next("window")
        more = f"[sinks.metrics]\nport = {port}\n" if what == "port" else '[sinks.file]\npath = "/proc/none/x.jsonl"\n'
        config.write_text(good.replace("hop = 0.96\n", "") + more)
        running.process.send_signal(signal.SIGHUP)
        running.next("end")
        assert running.next("start")["hop_seconds"] == 0.96
        running.next("window")
        log = running.log()
        assert (str(port) if what == "port" else "/proc/none") in log
        assert "nothing is changed" in log
        assert "Traceback" not in log
