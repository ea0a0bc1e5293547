"""``edge-doctor``: each check on a device that is made for it, and the real microphone, broker and web server."""

import json
import os
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from click.testing import CliRunner

from edge.cli.doctor import asked, main
from edge.doctor import access, bundle, clock, machine, places, recording, service, storage
from edge.doctor import model as doctor_model
from edge.doctor.check import Step, examine, failure, ok
from edge.doctor.redact import REMOVED, masked, redacted, secrets_in
from edge.doctor.subject import Ear, Place, Subject
from edge.errors import DeviceError
from edge.rules import EventConfig
from edge.sinks.jsonl import JsonLinesFileConfig
from edge.sinks.metrics import MetricsConfig
from edge.sinks.mqtt import MqttConfig
from edge.sinks.sqlite import SqliteStore
from edge.sinks.webhook import WebhookConfig
from edge.sources.block import Block, Outage, Signal
from edge.store import StoreConfig
from tests.conftest import ROOT, run_module
from tests.receivers import Mosquitto, event, free_port, http_receiver, needs_mosquitto

DOCTOR = "edge.cli.doctor"
RATE = 16_000


@pytest.fixture
def root(tmp_path):
    """A device's /proc, /sys, /dev and /run, with nothing in them."""
    for folder in ("proc", "sys", "dev", "run"):
        (tmp_path / "root" / folder).mkdir(parents=True)
    return tmp_path / "root"


def put(root, path, text=""):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def only(checks):
    (check,) = checks
    return check


# How checks are run


def test_a_check_that_raises_or_hangs_ends_none_of_the_others():
    def raises(_):
        yield ok("first half", "done")
        raise ValueError("of\ntwo lines")

    def refuses(_):
        raise DeviceError("no microphone", remedy="plug one in")

    def hangs(_):
        yield ok("begun", "done")
        time.sleep(60)

    steps = [
        Step("a", raises),
        Step("b", refuses),
        Step("c", hangs, 0.2),
        Step("d", lambda _: [ok("last", "done")]),
        Step("e", lambda _: sys.exit(3)),
    ]
    started = time.monotonic()
    checks = list(examine(steps, Subject()))
    assert time.monotonic() - started < 5
    found = {check.name: (check.status, check.found) for check in checks}
    assert found == {
        "first half": ("ok", "done"),
        "a": ("failure", "the check itself failed: ValueError: of two lines"),
        "b": ("failure", "no microphone"),
        "begun": ("ok", "done"),
        "c": ("failure", "no answer within 0.2 s"),
        "last": ("ok", "done"),
        "e": ("failure", "the check itself failed: SystemExit: 3"),
    }
    assert str(checks[2]) == "failure  b: no microphone (plug one in)"


# Access


def test_permissions(root, monkeypatch):
    subject = Subject(root=root)
    look = lambda may: only(access.permissions(subject, may))  # noqa: E731
    assert look(lambda _: True).found == "there is no /dev/snd: the kernel knows no sound card"
    put(root, ".dockerenv")
    assert "--device /dev/snd" in look(lambda _: True).remedy
    put(root, "dev/snd/pcmC0D0p")
    assert look(lambda _: True).status == "warning"  # it can play only
    put(root, "dev/snd/pcmC1D0c")
    assert look(lambda _: True).status == "ok"
    monkeypatch.setattr(access.os, "getgroups", list)
    monkeypatch.setattr(access.os, "getgid", lambda: 65_534)
    refused = look(lambda _: False)
    assert (refused.status, "pcmC1D0c" in refused.found, "usermod -aG audio" in refused.remedy) == (
        "failure",
        True,
        True,
    )


def test_who_holds_a_device_is_named(root):
    subject = Subject(root=root)
    assert only(access.in_use(subject)).status == "ok"
    put(root, "proc/77/comm", "arecord\n")
    (root / "proc/77/fd").mkdir()
    (root / "proc/77/fd/4").symlink_to("/dev/snd/pcmC1D0c")
    (root / "proc/77/fd/5").symlink_to("/dev/snd/pcmC1D0p")  # it plays as well
    put(root, "proc/asound/card2/pcm0c/sub0/status", "state: RUNNING\nowner_pid   : 99\n")
    put(root, "proc/99/status", "Name:\tx\nTgid:\t98\n")
    put(root, "proc/98/cmdline", "/usr/bin/python3\0/opt/edge-listen/bin/edge-listen\0--config\0x")
    put(root, "proc/98/comm", "python3")
    check = only(access.in_use(subject))
    assert check.status == "warning"
    assert "arecord (process 77): pcmC1D0c" in check.found
    assert "(process 98): pcmC2D0c" in check.found
    assert check.remedy.startswith("stop it: sudo kill 77")


def test_a_sound_server_and_edge_listen_itself_may_hold_it(root):
    put(root, "proc/7/comm", "pipewire")
    put(root, "proc/8/cmdline", "/opt/edge-listen/bin/python\0-m\0edge.cli.listen")
    for pid in (7, 8):
        (root / f"proc/{pid}/fd").mkdir()
        (root / f"proc/{pid}/fd/3").symlink_to("/dev/snd/pcmC0D0c")
    assert only(access.in_use(Subject(root=root))).status == "ok"
    assert [h.is_listener for h in access.holders(root)] == [False, True]


def test_sound_servers(root):
    subject = Subject(root=root)
    assert only(access.sound_server(subject, {"XDG_RUNTIME_DIR": "/run/user/7"})).status == "skipped"
    put(root, "run/user/7/pulse/native")
    put(root, "run/user/7/pipewire-0")
    assert "PulseAudio and PipeWire" in only(access.sound_server(subject, {"XDG_RUNTIME_DIR": "/run/user/7"})).found


# Sound


class Sound:
    """A source of given blocks."""

    name = "test"

    def __init__(self, *blocks):
        self._blocks = blocks

    def blocks(self, sample_rate, length, first=None, channels=1):
        yield from self._blocks


def judged(samples, signal=None, **fields):
    block = Block(np.asarray(samples, np.float32), 0, 0.0, signal=signal, **fields)
    return {c.name: c for c in recording.judged(recording.record(Sound(block), RATE, 1.0))}


NOISE = np.random.default_rng(0).normal(0, 0.01, RATE)
GOOD = Signal(0.0, 0.0, (), 12.0)


def test_a_good_microphone():
    checks = judged(NOISE, GOOD)
    assert {c.status for c in checks.values()} == {"ok"}
    assert checks["level"].data["level_dbfs"] == pytest.approx(-40, abs=0.2)


@pytest.mark.parametrize(
    ("samples", "signal", "fields", "name", "status"),
    [
        (np.zeros(RATE), None, {}, "level", "failure"),
        (NOISE / 1000, None, {}, "level", "warning"),
        (NOISE * 60, None, {}, "level", "warning"),
        (NOISE, None, {}, "clipping", "skipped"),
        (NOISE, Signal(0.01, 0.0), {}, "clipping", "warning"),
        (NOISE, Signal(0.0, -0.1), {}, "dc offset", "warning"),
        (NOISE, Signal(0.0, 0.0, (1,)), {}, "channels", "warning"),
        (NOISE, Signal(0.0, 0.0), {}, "clock of the microphone", "skipped"),
        (NOISE, Signal(0.0, 0.0, (), -2000.0), {}, "clock of the microphone", "warning"),
        (NOISE, GOOD, {"lost": 5}, "lost samples", "warning"),
        (NOISE, GOOD, {"overflows": 1}, "lost samples", "warning"),
    ],
)
def test_every_fault_of_the_sound(samples, signal, fields, name, status):
    check = judged(samples, signal, **fields)[name]
    assert check.status == status
    assert bool(check.remedy) == (status in ("warning", "failure"))


def test_a_microphone_that_goes_away():
    heard = recording.record(Sound(Outage("stopped", "it stopped", "plug it in", 1.0)), RATE, 1.0)
    check = only(recording.judged(heard))
    assert (check.status, check.found, check.remedy) == ("failure", "it stopped", "plug it in")


# The computer


@pytest.mark.parametrize(("degrees", "status"), [(45, "ok"), (76, "warning"), (90, "failure")])
def test_temperature(root, degrees, status):
    assert only(machine.temperature(Subject(root=root))).status == "skipped"
    put(root, "sys/class/thermal/thermal_zone0/type", "cpu-thermal")
    put(root, "sys/class/thermal/thermal_zone0/temp", f"{degrees}000")
    check = only(machine.temperature(Subject(root=root)))
    assert (check.status, check.found) == (status, f"{degrees} °C (cpu-thermal)")


@pytest.mark.parametrize(
    ("told", "status", "words"),
    [
        ("throttled=0x0", "ok", "none"),
        ("throttled=0x50005", "failure", "under-voltage"),
        ("throttled=0x50000", "warning", "under-voltage before"),
        ("throttled=0x4", "warning", "throttled"),
    ],
)
def test_throttling_and_power(root, tmp_path, monkeypatch, told, status, words):
    put(root, "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "0")
    tool = put(tmp_path, "bin/vcgencmd", f"#!/bin/sh\necho {told}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=os.pathsep)
    check = only(machine.throttling(Subject(root=root)))
    assert (check.status, words in check.found) == (status, True)
    assert "power supply" in check.remedy or "voltage" not in words


@pytest.mark.parametrize(("free", "status"), [(900_000, "ok"), (80_000, "warning"), (20_000, "failure")])
def test_memory(root, free, status):
    put(root, "proc/meminfo", f"MemTotal: 1000000 kB\nHugePages_Total:\nMemAvailable: {free} kB\n")
    assert only(machine.memory(Subject(root=root))).status == status


def test_load(root):
    put(root, "proc/loadavg", "0.1 999.0 0.2 1/100 200")
    assert only(machine.load(Subject(root=root))).status == "warning"


@pytest.mark.parametrize(
    ("year", "kernel", "files", "status"),
    [
        (1970, 0, (), "failure"),
        (2026, 0, (), "ok"),
        (2026, 5, (), "warning"),
        (2026, 5, ("sys/class/rtc/rtc0",), "warning"),
        (2026, 5, ("run/systemd/timesync/synchronized",), "ok"),
        (2026, None, (), "ok"),
    ],
)
def test_clock(root, year, kernel, files, status):
    for file in files:
        put(root, file)
    now = datetime(year, 5, 1, tzinfo=timezone.utc)
    check = only(clock.clock(Subject(root=root), lambda: now, lambda: kernel))
    assert check.status == status
    if status == "warning":
        assert ("battery" in check.found) == (not files)


def test_the_kernel_is_asked():
    assert clock.kernel_state() in (None, 0, 1, 2, 3, 4, 5)


# The disk


def status_of(*, free=10**9, inodes=10**6, read_only=False):
    flags = os.ST_RDONLY if read_only else 0
    return lambda _: os.statvfs_result((4096, 1, free, free, free, 10**6, inodes, inodes, flags, 255))


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({}, "ok", "1000 MB free"),
        ({"free": 10**8}, "warning", "100 MB free"),
        ({"free": 10**7}, "failure", "10 MB free"),
        ({"inodes": 3}, "failure", "3 inodes"),
        ({"read_only": True}, "failure", "read-only"),
    ],
)
def test_disk(tmp_path, fields, status, words):
    place = Place("store", "store", StoreConfig(path=str(tmp_path / "new" / "events.db")))
    check = only(storage.disk(Subject(places=(place,)), status_of(**fields)))
    assert (check.status, words in check.found) == (status, True)
    assert not (tmp_path / "new").exists()


def test_a_file_in_the_place_of_a_folder(tmp_path):
    put(tmp_path, "taken")
    check = only(storage.disk(Subject(clips=str(tmp_path / "taken"))))
    assert check.status == "failure"


def test_wear(root, tmp_path):
    put(root, "proc/self/mounts", "/dev/mmcblk0p2 / ext4 rw 0 0\ntmpfs /run tmpfs rw 0 0\n")

    def of(file, *types):
        return Subject(places=(Place("file", "file", JsonLinesFileConfig(file, types=types)),), root=root)

    assert only(storage.wear(of("/var/log/x.jsonl"))).status == "warning"
    assert only(storage.wear(of("/var/log/x.jsonl", "event"))).status == "ok"
    assert "nothing" in only(storage.wear(of("/run/x.jsonl"))).found
    put(root, "proc/self/mounts", "/dev/root / ext4 rw 0 0\n")
    put(root, "proc/cmdline", "console=tty1 root=PARTUUID=1234-02 rootfstype=ext4")
    assert "nothing" in only(storage.wear(of("/var/log/x.jsonl"))).found
    (root / "sys/block/mmcblk0").mkdir(parents=True)
    assert only(storage.wear(of("/var/log/x.jsonl"))).status == "warning"


# Where records go


def place_check(kind, config, **fields):
    return list(places.places(Subject(places=(Place(kind, kind, config, **fields),))))


@needs_mosquitto
def test_a_broker_is_asked_with_its_credentials(tmp_path):
    tmp_path.chmod(0o755)
    passwords = put(tmp_path, "passwords", "")
    subprocess.run(["mosquitto_passwd", "-b", passwords, "ear", "right"], check=True, capture_output=True)
    passwords.chmod(0o600)
    put(tmp_path, "right", "right\n")
    put(tmp_path, "wrong", "wrong\n")
    with Mosquitto(tmp_path, "allow_anonymous false", f"password_file {passwords}") as broker:

        def look(file):
            config = MqttConfig("127.0.0.1", broker.port, username="ear", password_file=str(tmp_path / file))
            return only(place_check("mqtt", config))

        assert look("right").status == "ok"
        assert (look("wrong").status, "refuses" in look("wrong").found) == ("failure", True)
        assert "cannot be read" in look("missing").found
    assert "refused" in look("right").found


def test_what_is_no_broker(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "ANSWER_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        check = only(place_check("home_assistant", MqttConfig("127.0.0.1", server.getsockname()[1])))
    assert check.status == "failure"


def test_a_webhook_is_asked_without_an_event():
    with http_receiver() as server:
        assert only(place_check("webhook", WebhookConfig(server.url))).status == "ok"
        assert server.requests == []
        tls = server.url.replace("http:", "https:")
        assert only(place_check("webhook", WebhookConfig(tls))).status == "failure"
    check = only(place_check("webhook", WebhookConfig(server.url + "/s3cret")))
    assert (check.status, "s3cret" in str(check)) == ("failure", False)
    assert "url is" in only(place_check("webhook", WebhookConfig("nowhere"))).found


def test_a_store_is_looked_through(tmp_path):
    file = tmp_path / "events.db"
    config = StoreConfig(path=str(file), max_days=36_500)
    assert "will be made" in only(place_check("store", config)).found
    assert not file.exists()
    file.touch()
    assert only(place_check("store", config)).found == f"{file} is empty, and will be made"
    assert file.stat().st_size == 0
    store = SqliteStore(config)
    for number in range(300):
        store.write(event(number))
    store.close()
    assert only(place_check("store", config)).data["events"] == 300
    content = bytearray(file.read_bytes())
    content[8192:20_480] = b"x" * 12_288
    file.write_bytes(content)
    check = only(place_check("store", config))
    assert (check.status, "damaged" in check.found) == ("failure", True)


def test_a_log_that_is_something_else_is_told(tmp_path):
    """edge-listen refuses it."""
    (tmp_path / "x").write_text("[sinks]")
    (found,) = places.places(Subject(places=(Place("file", "file", JsonLinesFileConfig(str(tmp_path / "x"))),)))
    assert (found.status, "something else than JSON Lines" in found.found) == ("failure", True)


def test_records_that_wait_are_counted(tmp_path):
    from edge.spool import Spool

    spool = Spool(tmp_path / "spool.sqlite")
    spool.append([event(1), event(2)])
    spool.close()
    place = Place("file", "file", JsonLinesFileConfig(str(tmp_path / "x")), spool=tmp_path / "spool.sqlite")
    checks = list(places.places(Subject(places=(place,))))
    assert [c.status for c in checks] == ["ok", "warning"]
    assert checks[1].data["waiting"] == 2


class Listener(BaseHTTPRequestHandler):
    """As a listener answers."""

    code, state = 200, {"state": "listening", "sources": {"usb": {"state": "listening", "reasons": [], "message": ""}}}
    metrics = b"edge_audio_windows_total 1\n"

    def do_GET(self):
        body = self.metrics if self.path == "/metrics" else json.dumps(self.state).encode()
        self.send_response(200 if self.path == "/metrics" else self.code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def listener():
    """A server that answers as a listener, and as its class's attributes say."""
    handler = type("Handler", (Listener,), {})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield handler, server.server_port
        server.shutdown()
        thread.join()


LOST = {"state": "lost", "sources": {"usb": {"state": "lost", "reasons": ["missing"], "message": "not there"}}}


def test_the_port_of_metrics_is_free_or_ours(listener):
    handler, port = listener
    look = lambda number: only(place_check("metrics", MetricsConfig(port=number)))  # noqa: E731
    assert "is free" in look(free_port()).found
    assert look(port).found.endswith("listening; usb: listening")
    handler.code, handler.state = 503, LOST
    assert (look(port).status, "usb: lost (missing): not there" in look(port).found) == ("failure", True)
    handler.metrics = b"something else"
    assert "another program answers" in look(port).found


def ready(*arguments, code=0):
    done = CliRunner().invoke(main, ["--ready", *arguments])
    assert done.exit_code == code
    return done.output


def test_ready(listener):
    handler, port = listener
    url = f"http://127.0.0.1:{port}/readyz"
    assert run_module(DOCTOR, "--ready", url).stdout == "listening\nusb: listening\n"
    handler.code, handler.state = 503, LOST
    assert ready(url, code=1) == "lost\nusb: lost (missing): not there\n"
    assert json.loads(ready(url, "--json", code=1)) == LOST
    handler.code, handler.state = 200, ["another program"]
    assert "is no edge-listen" in ready(url, code=1)
    assert "Connection refused" in ready(f"http://127.0.0.1:{free_port()}/", code=1)
    assert "address" in ready("nonsense", code=1)
    assert "9464/readyz" in ready(code=1)


def test_ready_imports_nothing_heavy():
    script = "import sys, edge.cli.doctor as d; d.ask('http://127.0.0.1:1/'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"numpy", "onnxruntime", "sounddevice", "rich", "httpx"} & {m.split(".")[0] for m in done.stdout.split()}


@pytest.mark.parametrize(
    "imports", ["from edge import Classifier", "import export\nimport onnxruntime\nfrom edge import Classifier"]
)
def test_onnxruntime_keeps_no_record_of_its_use(tmp_path, imports):
    """Its telemetry, which begins with a database in the cache folder; it keeps quiet by itself where CI is set."""
    env = {k: v for k, v in os.environ.items() if k not in ("CI", "ORT_DISABLE_TELEMETRY")}
    env |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path / "home")}
    script = f"{imports}\nClassifier('tiny')"
    subprocess.run([sys.executable, "-c", script], check=True, env=env, cwd=ROOT)
    assert list(tmp_path.iterdir()) == []


# The service


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ("LoadState=not-found", "skipped"),
        ("LoadState=loaded ActiveState=active SubState=running NRestarts=0 UnitFileState=enabled", "ok"),
        ("LoadState=loaded ActiveState=active SubState=running NRestarts=0 UnitFileState=disabled", "warning"),
        ("LoadState=loaded ActiveState=active SubState=running NRestarts=50 UnitFileState=enabled", "warning"),
        ("LoadState=loaded ActiveState=activating SubState=auto-restart NRestarts=3 ExecMainStatus=4", "failure"),
        ("LoadState=loaded ActiveState=failed SubState=failed Result=exit-code ExecMainStatus=2", "failure"),
        ("LoadState=loaded ActiveState=inactive SubState=dead Result=success", "warning"),
    ],
)
def test_the_service(root, tmp_path, monkeypatch, told, status):
    tool = put(tmp_path, "bin/systemctl", "#!/bin/sh\nfor word in " + told + "; do echo $word; done\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=os.pathsep)
    assert only(service.service(Subject(root=root))).status == "skipped"  # systemd does not run
    (root / "run/systemd/system").mkdir(parents=True)
    assert only(service.service(Subject(root=root))).status == status


# The configuration


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("thresold = 0.5", "unknown key thresold"),
        ("threshold = 2", "2"),
        ("not toml", "config.toml"),
        ("[sinks.mqtt]\nhots = 'x'", "hots"),
        ("[sinks.nowhere]\n", "nowhere"),
        ("[clips]\nfoo = 1", "foo"),
        ("[events]\nfoo = 1", "foo"),
        ("[[sources]]\nnam = 'x'", "nam"),
        ("[[sources]]\nname = 'a'\nevents.thresold = 0.5", "thresold"),
        ("[[sources]]\nname = 'a'\n[[sources]]\nname = 'A!'", "two sources are called 'a' and 'A!'"),
    ],
)
def test_a_configuration_that_edge_listen_refuses(tmp_path, text, words):
    check, subject = asked(put(tmp_path, "config.toml", text), "usb", "tiny", 1.0)
    assert (check.status, words in check.found) == ("failure", True), check
    assert subject is None


def test_a_configuration_that_cannot_be_read(tmp_path):
    for path, words in ((tmp_path / "none.toml", "does not exist"), (tmp_path, "is a directory")):
        check, subject = asked(path, None, None, 1.0)
        assert (check.status, words in check.found, subject) == ("failure", True, None)


def test_the_defaults_are_not_judged_in_place_of_a_configuration_that_is_refused(tmp_path, no_microphone):
    config = put(tmp_path, "c.toml", "input = 'x.wav'\nfoo = 1\n")
    done = run_module(DOCTOR, "--json", "--config", config, code=1, env=no_microphone)
    document = json.loads(done.stdout)
    statuses = {check["name"]: check["status"] for check in document["checks"]}
    assert not document["ok"]
    assert statuses["configuration"] == "failure"
    asked_for = ("device", "rates", "recording", "model", "input", "sinks", "disk", "wear")
    assert [statuses[name] for name in asked_for] == ["skipped"] * len(asked_for)
    assert statuses["python"] == "ok"
    assert {"memory", "portaudio", "service"} < set(statuses)


@pytest.mark.parametrize(
    ("over_the_air", "site", "expected"),
    [
        (False, None, ("failure", "a class in events is 'hound'")),
        (True, None, ("warning", "a class in events is 'hound'")),
        (True, "none.json", ("failure", "is not there")),
    ],
)
def test_rules_of_another_model_are_a_warning_where_models_come_over_the_air(tmp_path, over_the_air, site, expected):
    model = f"update:{tmp_path}" if over_the_air else None
    path = site and tmp_path / site
    subject = Subject(model=model, ears=(Ear(events=EventConfig(only=("hound", "dog")), site=path),))
    *_, check = Step("model", doctor_model.model).run(subject)
    assert check.status == expected[0]
    assert expected[1] in check.found


def test_the_rules_of_each_source_are_tried_on_the_model(tmp_path):
    text = """
    threshold = 0.6
    [events]
    confirm = 3
    [[sources]]
    name = "yard"
    site = "gone.json"
    [[sources]]
    name = "gate"
    events.only = ["hound"]
    """
    config = put(tmp_path, "config.toml", text)
    _, subject = asked(config, None, None, 1.0)
    *_, yard, gate = Step("model", doctor_model.model).run(subject)
    assert (yard.name, yard.status, yard.found) == ("rules of yard", "failure", "gone.json is not there")
    assert (gate.name, gate.status) == ("rules of gate", "failure")
    assert "a class in events is 'hound'" in gate.found
    assert [(ear.events.rule.threshold, ear.events.rule.confirm) for ear in subject.ears] == [(0.6, 3)] * 2
    _, subject = asked(config, "usb", None, 1.0)  # which listens by the rules of all
    *_, only = Step("model", doctor_model.model).run(subject)
    assert (only.name, only.status) == ("rules", "ok")


def test_what_a_configuration_asks_for(tmp_path):
    text = """
    model = "tiny"
    db = "/x/events.db"
    [clips]
    folder = "/x/clips"
    [sinks.mqtt]
    host = "broker"
    [[sinks.webhook]]
    url = "http://one/"
    [[sinks.webhook]]
    url = "http://two/"
    spool = false
    [[sources]]
    name = "yard"
    device = "usb"
    [[sources]]
    name = "camera"
    input = "rtsp://u:p@camera/"
    """
    check, subject = asked(put(tmp_path, "config.toml", text), None, None, 1.0)
    assert check.status == "ok"
    assert (subject.model, subject.clips) == ("tiny", "/x/clips")
    assert [ear.name for ear in subject.ears] == ["yard", "camera"]
    assert [ear.device for ear in subject.microphones] == ["usb"]
    found = {place.name: place.spool is not None for place in subject.places}
    assert found == {"mqtt": True, "webhook": True, "webhook-2": False, "store": False}
    assert asked(tmp_path / "missing.toml", None, None, 1.0)[0].status == "failure"


# The bundle

SECRETS = """
# a comment with s3cret-0 in it
input = "rtsp://viewer:s3cret-1@camera/live?token=s3cret-2"
exec = "notify --token s3cret-3"
webhook = "https://user:s3cret-4@example.org/hook/s3cret-5?key=s3cret-6"
pasword = "s3cret-7"
threshold = 0.5
device = "usb"
[sinks.mqtt]
host = "broker.local"
username = "ear"
password = "s3cret-8"
password_env = "s3cret-9"
password_file = "{folder}/password"
[[sinks.webhook]]
url = "https://hooks.example.org/services/s3cret-10"
secret_env = "HOOK_KEY"
template = '{{"token": "s3cret-11", "text": "$label"}}'
headers = {{ Authorization = "Bearer s3cret-12", X-Other = "s3cret-13" }}
[sinks.command]
argv = ["/usr/bin/curl", "-H", "s3cret-14"]
[sinks.home_assistant]
secret_file = "{folder}/secret"
note = "my pin is s3cret-15"
[[sources]]
name = "camera"
input = "https://s3cret-16@example.org/s3cret-17"
[events.aliases]
dog = "Rex"
"""


@pytest.fixture
def secretive(tmp_path, monkeypatch):
    """A configuration with a secret in every place that could hold one."""
    put(tmp_path, "password", "s3cret-18\n")
    put(tmp_path, "secret", "s3cret-19\n")
    monkeypatch.setenv("HOOK_KEY", "s3cret-20")
    return put(tmp_path, "config.toml", SECRETS.format(folder=tmp_path))


def test_the_bundle_has_no_secrets(secretive, tmp_path, monkeypatch):
    said = "\n".join(
        ["2025-11-25T01:02:03 pi edge-listen[7]: " + line for line in (
            "mqtt refuses s3cret-18, s3cret-20 and s3cret-8",
            "cannot open rtsp://viewer:s3cret-1@camera/live?token=s3cret-2",
            "00:09.5  car_horn             ███ 95%",
            "usb: 01:09.5  siren                ███ 95%",
            '{"type": "event", "label": "dog"}',
            "the microphone is silent",
        )]
    )  # fmt: skip
    for name, text in (("journalctl", said), ("dmesg", "usb 1-1: new device\nsomething else\n")):
        tool = put(tmp_path, f"bin/{name}", f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    out = tmp_path / "bundle.tar.gz"
    bundle.write(out, [failure("sink mqtt", "s3cret-18 is wrong", "x", why="s3cret-8")], secretive)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    with tarfile.open(out) as archive:
        texts = {m.name.split("/")[1]: archive.extractfile(m).read().decode() for m in archive.getmembers()}
    assert set(texts) == {
        "doctor.json", "doctor.txt", "configuration.json", "versions.json", "journal.txt", "kernel.txt"
    }  # fmt: skip
    assert {name: text for name, text in texts.items() if "s3cret" in text} == {}
    shown = json.loads(texts["configuration.json"])
    assert (shown["threshold"], shown["device"], shown["pasword"]) == (0.5, "usb", REMOVED)
    assert shown["sinks"]["mqtt"]["host"] == "broker.local"
    assert shown["sinks"]["mqtt"]["password_file"] == f"{tmp_path}/password"
    assert shown["sinks"]["webhook"][0]["secret_env"] == "HOOK_KEY"
    assert shown["sinks"]["webhook"][0]["url"] == "https://hooks.example.org"
    assert shown["sinks"]["command"]["argv"] == ["/usr/bin/curl", REMOVED]
    assert shown["events"]["aliases"] == {"dog": "Rex"}
    assert "the microphone is silent" in texts["journal.txt"]
    for heard in ("car_horn", "siren", "dog"):  # what was heard stays here
        assert heard not in texts["journal.txt"]
    assert texts["kernel.txt"] == "usb 1-1: new device\n"
    assert [p.name for p in tmp_path.glob("*.part")] == []


def test_texts_are_masked():
    assert masked("a rtsp://u:p@h/x b http://h/y?k=v c") == f"a rtsp://{REMOVED}@h/x b http://h/y?{REMOVED} c"
    assert masked("as of yes", ["of", "", "yes!"]) == "as of yes"  # too short, or not there
    assert redacted({"pin": 1234, "port": 1883}) == {"pin": REMOVED, "port": 1883}
    assert list(secrets_in({"token": "abcdef", "host": "x"})) == ["abcdef"]


def test_a_configuration_that_is_no_toml_is_not_shown(tmp_path):
    text, secrets = bundle.configuration(put(tmp_path, "x.toml", "password = 's3cret"))
    assert "s3cret" not in text
    assert not secrets


# The command


@pytest.fixture
def no_microphone(tmp_path):
    """An environment in which PortAudio finds nothing."""
    put(tmp_path, "asound.conf", "</usr/share/alsa/alsa.conf>\n")
    return os.environ | {"ALSA_CONFIG_PATH": str(tmp_path / "asound.conf"), "JACK_NO_START_SERVER": "1"}


def test_the_command(tmp_path, no_microphone):
    out = tmp_path / "bundle.tar.gz"
    done = run_module(DOCTOR, "--json", "--model", "tiny", "--bundle", out, code=1, env=no_microphone)
    document = json.loads(done.stdout)
    checks = {check["name"]: check for check in document["checks"]}
    assert (document["schema_version"], document["ok"]) == (1, False)
    assert checks["model"]["data"]["model"] == "edge-listen-tiny"
    assert [name for name, check in checks.items() if check["status"] == "failure"] == ["device"]
    assert all(check["remedy"] for check in checks.values() if check["status"] in ("warning", "failure"))
    assert out.exists()
    again = run_module(DOCTOR, "--bundle", out, code=2, env=no_microphone)
    assert again.stderr.splitlines() == [f"error: {out} is there already (name another file, or give --force)"]


def test_lines_for_people(tmp_path, no_microphone, tone_wav):
    config = put(tmp_path, "c.toml", f'input = "{tone_wav}"\n')
    lines = run_module(DOCTOR, "--config", config, env=no_microphone).stdout.splitlines()
    assert lines[0] == f"ok       configuration: {config} is valid"
    assert all(line.split()[0] in ("ok", "warning", "failure", "skipped") for line in lines[:-1])
    assert f"ok       input: {tone_wav} can be read" in lines
    assert lines[-1].startswith("0 failures, ")


def test_a_broken_configuration_of_alsa_ends_portaudio_and_not_the_doctor(tmp_path, no_microphone):
    put(tmp_path, "asound.conf", "")  # ALSA ends the process where it finds nothing
    done = run_module(DOCTOR, "--json", "--model", "tiny", code=1, env=no_microphone)
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    if checks["portaudio"]["status"] == "ok":
        pytest.skip("this ALSA lives without a configuration")
    assert (checks["portaudio"]["status"], checks["device"]["status"]) == ("failure", "skipped")
    assert checks["model"]["status"] == "ok"


@pytest.mark.slow
def test_a_real_microphone(virtual_mic):
    player = virtual_mic.play(np.random.default_rng(0).normal(0, 0.1, 20 * RATE))
    arguments = ("--device", "pulsemic", "--model", "tiny", "--json")
    try:
        done = run_module(DOCTOR, *arguments, env=virtual_mic.env)
    finally:
        player.kill()
        player.wait()
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert (checks["device"]["status"], checks["device"]["data"]["id"]) == ("ok", "alsa-pulsemic")
    assert RATE in checks["rates"]["data"]["rates"]
    assert checks["level"]["status"] == "ok"
    assert checks["level"]["data"]["level_dbfs"] == pytest.approx(-20, abs=3)
    assert checks["lost samples"]["status"] == "ok"
    virtual_mic.pactl("set-source-mute", "mic", "1")
    try:
        done = run_module(DOCTOR, *arguments, code=1, env=virtual_mic.env)
    finally:
        virtual_mic.pactl("set-source-mute", "mic", "0")
    (failed,) = (c for c in json.loads(done.stdout)["checks"] if c["status"] == "failure")
    assert (failed["name"], "nothing but zeros" in failed["found"]) == ("level", True)
