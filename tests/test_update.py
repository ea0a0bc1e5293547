"""edge-update: what is published reaches a device, and what must not does not, each refusal by its name."""

import errno
import http.server
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edge.models import BUNDLED
from edge.update import keys as publisher_keys
from edge.update.device import device_id
from edge.update.download import RESERVE
from edge.update.errors import REFUSALS, UpdateError
from edge.update.keys import Keys
from edge.update.prove import prove
from edge.update.release import Release, release_of
from edge.update.transport import Web
from edge.update.updates import UpdateConfig, Updates, choose
from tests.conftest import ROOT, not_emulated, run_module
from tests.update_world import FALLBACK, World, content, disk_fails, in_memory

TINY = BUNDLED.with_name("edge-listen-tiny.int8.onnx")


@pytest.fixture
def tmp_path():
    with in_memory() as folder:
        yield folder


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def refused(world, refusal, match=None, **config):
    """A look at the repository is refused by that name, in one line, and the model stays."""
    before = world.current()
    with pytest.raises(UpdateError, match=match) as caught:
        world.fetch(**config)
    assert str(caught.value).startswith(f"{refusal}: "), caught.value
    assert "\n" not in str(caught.value)
    assert refusal in REFUSALS
    assert caught.value.exit_code == 9
    assert world.current() == before
    return caught.value


def copy(world, name):
    return shutil.copytree(world.repository.folder, world.folder / name)


# Refusals


def test_rollback(world):
    world.publish(1)
    old = copy(world, "old")
    world.publish(2)
    world.adopt()
    refused(world, "rollback", "timestamp.json", url=str(old))
    shutil.rmtree(world.state / "metadata")  # what the device had seen is lost
    refused(world, "rollback", "release 1 is offered, and release 2 is the current one", url=str(old))
    assert world.current() == content(2)


def test_expired(world, monkeypatch):
    world.publish(1)
    world.adopt()
    world.publish(2, days=-1)
    refused(world, "expired", r"timestamp.json is expired; this device's clock says 20\d\d-.*edge-update refresh")
    world.repository.refresh()
    assert world.adopt().news


def test_expired_of_each_role(tmp_path, monkeypatch):
    monkeypatch.setattr("edge.update.repository.LONG_DAYS", -1)
    world = World(tmp_path)
    world.publish(1, days=-1)
    assert world.repository._load("snapshot").signed.is_expired()
    timestamp = world.repository._load("timestamp")
    timestamp.signed.expires = publisher_keys.expiry(1)
    world.keys.sign(timestamp, "timestamp")
    (world.repository.folder / "metadata" / "timestamp.json").write_bytes(timestamp.to_bytes())
    refused(world, "expired", "snapshot.json is expired")
    monkeypatch.undo()
    world.repository.refresh()  # renews them all
    assert world.fetch().news


def test_frozen(world):
    """The same old files for ever: known when they expire, and no later than that."""
    world.publish(1, days=1.5 / 86_400)
    world.adopt()
    frozen = copy(world, "frozen")
    world.publish(2)
    time.sleep(1.6)
    refused(world, "expired", url=str(frozen))


def test_wrong_key(world, tmp_path):
    world.publish(1)
    world.adopt()
    other = World(tmp_path / "other")
    for number in (2, 3):
        other.publish(number)
    refused(world, "wrong key", "is --root that of this repository", url=str(other.repository.folder))


def test_mixed_files(world):
    world.publish(1)
    old = copy(world, "old")
    world.publish(2)
    for role in ("snapshot", "targets"):
        mixed = copy(world, f"mixed {role}")
        shutil.copy(old / "metadata" / f"1.{role}.json", mixed / "metadata" / f"2.{role}.json")
        refused(world, "mixed", f"{role}.json", url=str(mixed))


def test_a_model_of_another_release(world):
    first, second = world.publish(1), world.publish(2)
    targets = world.repository.folder / "targets" / "stable"
    path = targets / "2" / f"{second.sha256}.model.onnx"
    path.write_bytes((targets / "1" / f"{first.sha256}.model.onnx").read_bytes())
    refused(world, "tampered", "release 2 has another SHA-256")
    path.write_bytes(content(2) + b"x")
    refused(world, "tampered", "is longer than the 100000 bytes signed")
    path.write_bytes(content(2))
    assert world.adopt().news


def test_no_repository_and_no_metadata(world, tmp_path):
    refused(world, "unreachable", "is not there")
    world.publish(1)
    (world.repository.folder / "metadata" / "timestamp.json").write_text("<html>log in to the hotel's network</html>")
    refused(world, "damaged", "timestamp.json")
    refused(world, "usage", "root", root=str(tmp_path / "none.json"))
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    refused(world, "damaged", "the root is none", root=str(bad))
    refused(world, "usage", "no url is given", url="")


def test_a_clock_of_1970(world, monkeypatch):
    world.publish(1)
    world.adopt()
    world.publish(2, days=-1)
    with monkeypatch.context() as then:
        then.setattr(time, "time", lambda: 12.0)
        refused(world, "clock", "clock says 1970-01-01T00:00.*timedatectl")
    refused(world, "expired")


def test_a_clock_that_has_gone_back(world, monkeypatch):
    world.publish(1)
    world.adopt()
    now = time.time()
    with monkeypatch.context() as then:
        then.setattr(time, "time", lambda: now - 3 * 86_400)
        refused(world, "clock", "or later: what has expired cannot be told")


def test_another_process_is_at_work(world):
    world.publish(1)
    updates = world.updates()
    with updates._alone():
        refused(world, "busy", "another edge-update uses")
    assert world.fetch().news


def test_a_model_that_does_not_work_here_is_remembered(world):
    def proof(path):
        raise UpdateError("model", "loading it ended in SIGABRT", remedy="publish another")

    world.publish(1)
    world.proof = proof
    refused(world, "model", "SIGABRT")
    world.proof = None  # is not asked again
    assert "was rejected here: model: loading it ended in SIGABRT" in world.fetch().told
    assert not list((world.state / "downloads").iterdir())
    world.proof = lambda path: None
    world.versions().forget_rejections()
    assert world.fetch().news


def test_what_cannot_be_proven_now_is_tried_again_without_a_download(world, server):
    def proof(path):
        raise UpdateError("unproven", "loading it ended in SIGKILL", remedy="free some memory")

    world.publish(1)
    world.proof = proof
    for _ in range(2):
        with pytest.raises(UpdateError, match=r"^unproven: loading it ended in SIGKILL"):
            by_web(world, server).fetch()
    world.proof = lambda path: None
    assert by_web(world, server).fetch().news
    assert models(server) == [None]


# The proof, in a process of its own


def test_the_bundled_model_proves_itself():
    prove(TINY)


def test_a_model_that_is_none(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(TINY.read_bytes()[:-100])
    with pytest.raises(UpdateError, match=r"^model: .*damaged"):
        prove(path)


def test_a_machine_that_is_too_slow_says_nothing_of_the_model():
    with pytest.raises(UpdateError, match=r"^unproven: it has not proven itself within 0.05 s"):
        prove(TINY, seconds=0.05)


@not_emulated
def test_a_model_that_takes_too_much():
    with pytest.raises(UpdateError, match=r"^model: "):
        prove(TINY, memory_mib=8)


# In place of "python -m edge.update.prove MODEL MEMORY_MIB SECONDS".
HANGS = """
import sys, edge.classifier, edge.update.prove
edge.classifier.Classifier = lambda path: any(iter(int, 1))
edge.update.prove.main(*sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("instead", "expected"),
    [
        (["sh", "-c", "kill -ABRT $$"], "^model: loading it ended in SIGABRT"),
        (["sh", "-c", "kill -SEGV $$"], "^model: loading it ended in SIGSEGV"),
        ([sys.executable, "-c", HANGS], "^model: loading it ended in SIGXCPU"),
        (["sh", "-c", "kill -KILL $$"], "^unproven: loading it ended in SIGKILL"),
        (["sh", "-c", "kill -TERM $$"], "^unproven: loading it ended in SIGTERM"),
        ([sys.executable, "-c", "import half_an_upgrade"], "^unproven: it cannot be loaded: ModuleNotFoundError"),
    ],
)
def test_how_the_process_ends_tells_whether_the_model_is_at_fault(monkeypatch, instead, expected):
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **how: run([*instead, *command[3:]], **how))
    with pytest.raises(UpdateError, match=expected):
        prove(TINY, processor_seconds=1)


# Staged roll-out


def test_percentages_are_met_and_monotone():
    def share(percent):
        release = Release(7, "0" * 64, 1, "a", "1", percent=percent)
        return {device for device in map(str, range(4000)) if release.wanted(device)}

    shares = {percent: share(percent) for percent in (0, 1, 10, 50, 99.5, 100)}
    for less, more in zip(list(shares)[:-1], list(shares)[1:]):
        assert shares[less] < shares[more]
    assert (len(shares[0]), len(shares[100])) == (0, 4000)
    assert len(shares[10]) == pytest.approx(400, abs=80)
    other = Release(8, "0" * 64, 1, "a", "1", percent=10)
    both = {device for device in shares[10] if other.wanted(device)}
    assert len(both) == pytest.approx(40, abs=30)  # not the same devices each time


def test_the_newest_release_that_the_device_takes():
    releases = [
        Release(1, "0" * 64, 1, "a", "1"),
        Release(2, "0" * 64, 1, "a", "2", percent=0),
        Release(3, "0" * 64, 1, "a", "3", channel="beta"),
    ]
    assert choose(releases, "stable", "x").number == 1
    assert choose(releases, "beta", "x").number == 3
    assert choose(releases, "none", "x") is None


def test_a_roll_out_from_ten_per_cent_to_all(world):
    world.publish(1)
    devices = {str(n): World(world.folder / f"device {n}", url=str(world.repository.folder)) for n in range(12)}
    for device in devices.values():
        shutil.copy(world.root, device.root)
    world.publish(2, percent=30)
    first = {n for n, device in devices.items() if device.fetch(device_id=n).release.number == 2}
    assert 0 < len(first) < 12
    with pytest.raises(UpdateError, match="is at 30 %"):
        world.repository.promote(None, 20, "stable")
    world.repository.promote(None, 100, "stable")
    assert {n for n, device in devices.items() if device.fetch(device_id=n).release.number == 2} == set(devices)


def test_the_device_knows_itself(tmp_path, monkeypatch):
    monkeypatch.setattr("edge.update.device.MACHINE_ID", tmp_path / "machine-id")
    (tmp_path / "machine-id").write_text("uninitialized\n")
    made = device_id(tmp_path / "state")
    assert re.fullmatch("[0-9a-f]{32}", made)
    assert device_id(tmp_path / "state") == made
    (tmp_path / "machine-id").write_text("4f2a\n")
    assert device_id(tmp_path / "state") == made  # it stays what it was
    assert device_id(tmp_path / "other") == "4f2a"


# Going back


def test_what_is_withdrawn_goes_at_once_and_without_a_download(world):
    for number in (1, 2):
        world.publish(number)
        world.adopt()
    again = world.repository.withdraw(None, "stable")
    assert (again.number, again.withdraws) == (3, (2,))
    shutil.rmtree(world.repository.folder / "targets")
    assert world.fetch().news
    assert world.current() == content(1)
    assert world.versions().candidate() is None
    assert not world.fetch().news


def test_a_candidate_that_is_withdrawn_is_dropped(world):
    world.publish(1)
    world.adopt()
    world.publish(2)
    world.fetch()
    world.repository.withdraw(2, "stable")
    world.fetch()
    assert world.versions().candidate() is None
    assert (world.current(), world.versions().state().current.number) == (content(1), 3)


def test_there_is_nothing_before_the_first(world):
    with pytest.raises(UpdateError, match="no release in stable"):
        world.repository.withdraw(None, "stable")
    world.publish(1)
    with pytest.raises(UpdateError, match="no release before 1"):
        world.repository.withdraw(None, "stable")


# Keys


def test_keys_are_secret_and_rotate(world):
    world.publish(1)
    world.adopt()
    pems = set(world.keys.folder.glob("*.pem"))
    assert {stat.S_IMODE(path.stat().st_mode) for path in pems} == {0o600}
    for expected in (2, 3, 4):
        publisher_keys.rotate(world.keys, publisher_keys.ROLES)
        if expected == 3:
            continue  # a device follows several steps at once
        world.repository.refresh()
        world.publish(expected)
        assert world.adopt().news
        assert world.current() == content(expected)
    assert not pems & set(world.keys.folder.glob("*.pem"))
    assert len(list(world.keys.folder.glob("*.pem"))) == 4


def test_a_root_that_only_the_new_key_has_signed(world, tmp_path):
    world.publish(1)
    world.adopt()
    attacker = World(tmp_path / "attacker")
    attacker.publish(2)
    publisher_keys.rotate(attacker.keys, ("root",))
    shutil.copy(attacker.keys.folder / "2.root.json", world.repository.folder / "metadata")
    refused(world, "wrong key", "root.json")


def test_the_timestamp_alone_is_signed_by_a_server_that_has_no_other_key(world, tmp_path):
    world.publish(1, days=-1)
    server = Keys(tmp_path / "server")
    shutil.copytree(world.keys.folder, server.folder)
    for role in ("root", "targets", "snapshot"):
        next(server.folder.glob(f"{role}-*.pem")).unlink()
    from edge.update.repository import Repository

    repository = Repository(world.repository.folder, server)
    repository.refresh()
    assert world.adopt().news
    with pytest.raises(UpdateError, match="has no key of targets"):
        repository.promote(None, 100, "stable", days=400)
    with pytest.raises(UpdateError, match="has no key of root"):
        publisher_keys.rotate(server, ("timestamp",))


def test_keys_with_a_password(tmp_path):
    keys = Keys(tmp_path / "keys", "secret")
    publisher_keys.new(keys)
    assert b"ENCRYPTED" in next(keys.folder.glob("root-*.pem")).read_bytes()
    assert keys.signers("root")
    for password in (None, "wrong"):
        with pytest.raises(UpdateError, match=r"encrypted|password"):
            Keys(keys.folder, password).signers("root")


# Downloads


class Server(http.server.BaseHTTPRequestHandler):
    """A web server of a folder, with Range or without, that breaks off as it is told."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        path = Path(server.folder, self.path.lstrip("/").replace("%20", " "))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        asked = self.headers.get("Range")
        server.requests.append((path.name, asked))
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and server.ranges else 0
        if server.failures and path.suffix == ".onnx":
            failure = server.failures.pop(0)
            if 400 <= failure < 600:
                self.send_error(failure)
                return
            end = start + failure
        else:
            end = len(data)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:end])
        self.close_connection = end < len(data)


@pytest.fixture
def server(world, monkeypatch):
    """The world's repository, served; ``failures``: bytes after which, or codes with which, a model breaks off."""
    monkeypatch.setattr("edge.update.download.PAUSE", 0.01)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as made:
        made.folder, made.ranges, made.failures, made.requests = world.repository.folder, True, [], []
        made.url = f"http://127.0.0.1:{made.server_port}"
        threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield made
        made.shutdown()


def models(server):
    return [asked for name, asked in server.requests if name.endswith(".onnx")]


def by_web(world, server):
    config = UpdateConfig(**world.config | {"url": server.url})
    return Updates(config, proof=world.proof, transport=Web(timeout=2, retries=1))


def test_by_http(world, server):
    world.publish(1)
    assert by_web(world, server).fetch().news
    world.promote()
    assert world.current() == content(1)
    assert models(server) == [None]
    assert not by_web(world, server).fetch().news
    refused(world, "unreachable", "not there", url=server.url + "/elsewhere")


def test_a_refusal_shows_no_password(world, server):
    release = world.publish(1)
    url = server.url.replace("://", "://device:SECRET@")
    target = world.repository.folder / "targets" / "stable" / "1" / f"{release.sha256}.model.onnx"
    target.write_bytes(content(1) + b"x")
    for refusal, words, where in (
        ("unreachable", "is not there", f"{url}/elsewhere"),
        ("unreachable", "Failed to parse", url.replace(str(server.server_port), "99999")),
        ("tampered", "is longer than", url),
    ):
        assert "SECRET" not in str(refused(world, refusal, words, url=where))


def test_an_interrupted_download_goes_on_where_it_was(world, server):
    world.publish(1)
    server.failures = [30_000, 20_000]
    assert by_web(world, server).fetch().news
    assert models(server) == [None, "bytes=30000-", "bytes=50000-"]
    assert world.promote().read_bytes() == content(1)


def test_one_that_is_given_up_goes_on_the_next_day(world, server):
    world.publish(1)
    server.failures = [40_000, 0, 0, 0, 0]
    with pytest.raises(UpdateError, match=r"^unreachable: .*40000 of 100000 bytes"):
        by_web(world, server).fetch()
    assert world.current() == FALLBACK
    server.requests.clear()
    server.failures = []
    assert by_web(world, server).fetch().news
    assert models(server) == ["bytes=40000-"]


def test_a_server_without_ranges(world, server):
    world.publish(1)
    server.ranges, server.failures = False, [30_000, 60_000]
    assert by_web(world, server).fetch().news
    assert world.promote().read_bytes() == content(1)


def test_a_server_that_is_busy(world, server):
    world.publish(1)
    server.failures = [503]
    assert by_web(world, server).fetch().news
    server.failures = [500] * 20
    world.publish(2)
    with pytest.raises(UpdateError, match=r"^unreachable: "):
        by_web(world, server).fetch()


def test_a_part_that_a_power_cut_has_spoilt(world, server):
    release = world.publish(1)
    part = world.state / "downloads" / f"{release.sha256}.part"
    part.parent.mkdir(parents=True)
    for spoilt in (b"\x00" * 5000, b"x" * 200_000, b"y" * 100_000):
        part.write_bytes(spoilt)
        by_web(world, server).fetch()
        assert world.versions().candidate().path.read_bytes() == content(1)
        world.versions().drop_candidate()


def test_by_fsspec(world):
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    world.publish(1)
    memory = fsspec.filesystem("memory")
    memory.put(str(world.repository.folder), "/models", recursive=True)
    release = world.publish(1)
    part = world.state / "downloads" / f"{release.sha256}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(content(1)[:777])
    assert world.fetch(url="memory://models").news
    assert world.promote().read_bytes() == content(1)
    refused(world, "unreachable", "not there", url="memory://elsewhere")


def test_by_file_url(world):
    world.publish(1)
    assert world.fetch(url=world.repository.folder.as_uri()).news


# The disk


def test_a_disk_without_room(world, monkeypatch):
    world.publish(1)
    free = RESERVE + 99_000
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": free}))
    refused(world, "disk", "MiB free; needed: ")


def test_a_disk_that_fills_up(world, monkeypatch):
    world.publish(1)
    write, written = os.write, []

    def full(descriptor, data):
        written.append(len(data))
        if sum(written) > 70_000:
            disk_fails(errno.ENOSPC)()
        return write(descriptor, data)

    with monkeypatch.context() as then:
        then.setattr(os, "write", full)
        refused(world, "disk", "No space left on device")
    assert world.adopt().news
    assert world.current() == content(1)


def test_a_real_disk_that_is_full(world, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        world.publish(1)
        refused(world, "disk", state=str(small / "state"))
    finally:
        subprocess.run(["umount", small], check=True)


# What is signed


@pytest.mark.parametrize(
    ("facts", "match"),
    [
        ({"number": 0}, "number 0"),
        ({"sha256": "../../etc/passwd"}, "sha256"),
        ({"length": 1 << 40}, "length"),
        ({"channel": "../x"}, "channel"),
        ({"percent": 101}, "percent"),
        ({"percent": "all"}, "release.percent is 'all'"),
        ({"shadow": {"seconds": "long"}}, "shadow.seconds"),
        ({"shadow": 3}, "no sense"),
    ],
)
def test_a_release_that_makes_no_sense(facts, match):
    whole = {"number": 1, "sha256": "0" * 64, "length": 1, "name": "a", "version": "1"}
    assert release_of({**whole, "of a later version": 1, "shadow": {"of a later version": 1}}) == Release(**whole)
    with pytest.raises(UpdateError, match=match):
        release_of(whole | facts)


# The command


def command(*arguments, **options):
    return run_module("edge.cli.update", *arguments, **options).stdout


def test_the_command_from_keys_to_the_current_model(tmp_path):
    keys, repository, state = tmp_path / "keys", tmp_path / "repository", tmp_path / "state"
    config = tmp_path / "edge-listen.toml"
    config.write_text(
        f'device = "a microphone"\n[update]\nurl = "{repository}"\nroot = "{keys / "root.json"}"\n'
        f'state = "{state}"\nshadow = {{ min-windows = 5 }}\n'
    )
    environment = os.environ | {"PASSWORD": "secret"}
    password = ("--password-env", "PASSWORD")
    command("keys", "new", keys, *password, env=environment)
    told = command("publish", repository, TINY, "--keys", keys, "--version", "7", *password, env=environment)
    assert told == "release 1: edge-listen-tiny 7, 100 % of stable\n"
    assert json.loads(command("run", "--config", config, "--json"))["news"]
    assert "candidate  release 1 (edge-listen-tiny 7)" in command("status", "--config", config)
    current = command("apply", "--config", config).removeprefix("current: ").strip()
    assert Path(current).read_bytes() == TINY.read_bytes()
    found = json.loads(command("status", "--state", state, "--json"))
    assert found["current"]["name"] == "edge-listen-tiny"
    assert command("rollback", "--config", config) == f"current: {BUNDLED}\n"


def test_errors_are_one_line_with_code_9(tmp_path):
    done = run_module("edge.cli.update", "check", "--url", tmp_path, "--state", tmp_path / "state", code=9)
    assert done.stderr == "error: usage: no root is given (give --root, or set it in [update])\n"
    config = tmp_path / "bad.toml"
    config.write_text("[update]\nurls = 3\n")
    assert "unknown key 'urls'" in run_module("edge.cli.update", "check", "--config", config, code=2).stderr


def test_without_tuf_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr("edge.extras.find_spec", lambda name: None)
    with pytest.raises(UpdateError, match=r"^usage: tuf is not installed \(pip install 'edge-listen\[update\]'\)$"):
        Updates(UpdateConfig(url=str(tmp_path), root=str(tmp_path)))


def test_the_listener_never_imports_tuf(tmp_path):
    code = (
        "import sys; from edge.update.versions import Versions; from edge.update.rules import judge; "
        "Versions(__import__('pathlib').Path('none')).current(); "
        "sys.exit(any(name.split('.')[0] in ('tuf', 'cryptography', 'urllib3') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
