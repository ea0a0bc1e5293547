"""The unit of the Raspberry Pi, held against a real systemd: on its own here, and running in a virtual machine."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.conftest import ROOT, run_module
from tests.machine import Machine, Unavailable

UNITS = ROOT / "deployment" / "raspberry_pi"
HANGS = int(os.environ.get("EDGE_LISTEN_HANGS", "2"))  # in a row
EXPOSURE = 2.0  # of 10, as systemd-analyze counts it
OUT = "/run/edge-listen.jsonl"
CONFIG = 'wait = true\ndevice = "hw:0,1"\noutput = "jsonl"\nverbose = true\n'
# The program is that of the checkout, and so are Python and its packages, in places that the sandbox lets see.
# Everything else is as it is shipped.
PACKAGES = Path(sysconfig.get_path("platlib"))
SERVICE = f"""[Service]
BindReadOnlyPaths={sys.base_prefix}:/opt/python {PACKAGES.resolve()}:/opt/packages {ROOT}:/opt/source
Environment=PYTHONPATH=/opt/source:/opt/packages
ExecStart=
ExecStart=/opt/python/bin/python3 -m edge.cli."""
DROP_IN = f"""{SERVICE}listen --config /etc/edge-listen/edge-listen.toml
ExecStartPre=/bin/sh /opt/probe
StandardOutput=append:{OUT}
"""
UPDATE_DROP_IN = f"{SERVICE}update run --config /etc/edge-listen/edge-listen.toml\n"
# The updater takes releases from a folder, and trusts what the owner has brought.
UPDATE = """
[update]
url = "/srv/repository"
root = "/etc/edge-listen/root.json"
state = "/var/lib/edge-listen/update"
shadow = { seconds = 10, min-windows = 20, max-disagreement = 1.0, max-latency-ratio = 10, max-latency-ms = 1000 }
"""
# Runs in the sandbox before the program: what may be written, what is seen.
PROBE = """exec 2>/dev/null
for folder in / /etc /etc/edge-listen /usr /opt /opt/source /boot /home /root /run /var/lib /var/log /dev/shm; do
    if true >$folder/probe; then echo "writes $folder"; fi
done >$STATE_DIRECTORY/probe
true >$CACHE_DIRECTORY/probe && true >/tmp/probe && echo "writes its own"  >>$STATE_DIRECTORY/probe
{
    [ -e /proc/asound/cards ] && echo "sees the sound cards"
    [ -r /etc/edge-listen/ours ] && echo "reads a password of its group"
    [ -r /etc/edge-listen/roots ] && echo "reads one of root"
    [ -r /dev/mem ] && echo "reads memory"
    ls /home/* /root/* && echo "sees homes"
    [ -d /proc/1 ] && echo "sees other processes"
    chown 1 /tmp/probe && echo "gives files away"
    mount -t tmpfs none /tmp && echo mounts
    unshare -U true && echo "makes namespaces"
    kill -0 1 && echo "sends signals"
    grep -q '^CapEff:.0*$' /proc/self/status || echo "has capabilities"
    grep -q '^NoNewPrivs:.1$' /proc/self/status || echo "may get more"
    [ "$(id -u)" = 0 ] && echo "is root"
} >>$STATE_DIRECTORY/probe
true
"""
SETUP = f"""
mkdir -p /opt/python /opt/packages /opt/source /etc/edge-listen /etc/systemd/system/edge-listen.service.d
cp {UNITS}/edge-listen.service /etc/systemd/system
install -m 640 -g audio /dev/null /etc/edge-listen/ours
install -m 600 /dev/null /etc/edge-listen/roots
systemctl daemon-reload
"""
PLAY = """systemctl reset-failed player 2>/dev/null
systemd-run -q --unit=player -p Restart=always aplay -q -D hw:Loopback,0 -f S16_LE -r 16000 -c 2 /dev/urandom"""
# A decision that is made after this line.
HEARS = f"""
before=$(grep -c '"type": "window"' {OUT}); until [ "$(grep -c '"type": "window"' {OUT})" -gt "$before" ]
do sleep 0.2; done"""
PID = "until pid=$(systemctl show -P MainPID edge-listen); [ $pid != 0 ]; do sleep 0.3; done"
NOW = "cut -d ' ' -f 1 /proc/uptime"


def analysed(*arguments):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not there")
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("name", ["edge-listen.service", "edge-update.service", "edge-update.timer"])
def test_systemd_has_nothing_to_say_about_a_unit(tmp_path, name):
    # The only thing that it would rightly say here: the commands are not installed.
    for path in UNITS.glob("edge-*"):
        (tmp_path / path.name).write_text(path.read_text().replace("/opt/edge-listen/bin/edge-", "/bin/true edge-"))
    done = analysed("verify", "--man=no", str(tmp_path / name))
    assert (done.stderr, done.returncode) == ("", 0)


@pytest.mark.parametrize("name", ["edge-listen.service", "edge-update.service"])
def test_a_unit_is_hardly_exposed(name):
    done = analysed(
        "security", "--offline=true", f"--threshold={round(EXPOSURE * 10)}", "--no-pager", str(UNITS / name)
    )
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def machine():
    if shutil.which("aplay") is None:
        pytest.skip("alsa-utils not installed")
    if not Path("/lib/systemd/systemd").exists():
        pytest.skip("systemd not installed")
    try:
        started = Machine(system=True)
    except Unavailable as reason:
        pytest.skip(str(reason))
    with started:
        started.run(SETUP)
        for path, text in {
            "/opt/probe": PROBE,
            "/etc/edge-listen/edge-listen.toml": CONFIG,
            "/etc/systemd/system/edge-listen.service.d/test.conf": DROP_IN,
        }.items():
            (started.folder / "text").write_text(text)
            started.run(f"cp text {path}")
        yield started


@pytest.fixture(scope="module")
def service(machine):
    """It runs, and hears."""
    machine.run(f"modprobe snd-aloop pcm_substreams=1; {PLAY}")
    machine.run("systemctl daemon-reload; systemctl start edge-listen", timeout=60)
    heard(machine, 30)
    yield machine
    print(machine.run("journalctl -u edge-listen -o short-monotonic --no-pager | tail -30", check=False).stdout)


def heard(machine, seconds):
    """Wait for a window, so many seconds of the guest's at most."""
    done = machine.run(f"touch {OUT}; {HEARS}", timeout=seconds, check=False)
    assert done.returncode == 0, machine.run("systemctl status -l edge-listen --no-pager", check=False).stdout


def shown(machine, name):
    return machine.run(f"systemctl show -P {name} edge-listen").stdout.strip()


@pytest.mark.slow
def test_listens_in_a_sandbox(service):
    assert shown(service, "ActiveState") == "active"
    seen = service.run("cat /var/lib/edge-listen/probe").stdout.splitlines()
    assert seen == ["writes its own", "sees the sound cards", "reads a password of its group"]
    assert service.run("ls -ld /var/lib/private/edge-listen").stdout.startswith("drwx------")
    status = service.run("cat /proc/$(systemctl show -P MainPID edge-listen)/status").stdout
    assert "Seccomp:\t2" in status
    assert int(shown(service, "MemoryCurrent")) < 300 * 2**20, "near to MemoryHigh"


@pytest.mark.slow
def test_a_reload_reads_the_settings_again(service):
    before = shown(service, "MainPID"), shown(service, "NRestarts")
    service.run("echo 'hop = 0.96' >>/etc/edge-listen/edge-listen.toml; systemctl reload edge-listen")
    service.run(f"until grep -q '\"hop_seconds\": 0.96' {OUT}; do sleep 0.2; done", timeout=30)
    heard(service, 30)
    assert (shown(service, "MainPID"), shown(service, "NRestarts")) == before


@pytest.mark.slow
def test_a_hung_process_listens_again_within_fifteen_seconds(service):
    took = []
    for _ in range(HANGS):
        script = f"""
        {PID}
        {NOW}
        kill -STOP $pid
        while [ "$(systemctl show -P MainPID edge-listen)" = $pid ]; do sleep 0.3; done
        {NOW}
        {HEARS}
        {NOW}"""
        hung, noticed, again = map(float, service.run(script, timeout=90).stdout.split())
        took.append((round(noticed - hung, 1), round(again - hung, 1)))
    print(took)
    assert max(again for _, again in took) <= 15.0


@pytest.mark.slow
def test_repeated_faults_are_no_end(service):
    restarts = int(shown(service, "NRestarts"))
    for _ in range(6):  # more than five in ten seconds, which ends a unit that does not say otherwise
        service.run(f"{PID}; kill -KILL $pid; while [ -e /proc/$pid ]; do sleep 0.1; done")
    heard(service, 30)
    assert int(shown(service, "NRestarts")) >= restarts + 6


@pytest.mark.slow
def test_ends_within_five_seconds(service):
    began, ended = map(float, service.run(f"{NOW}; systemctl stop edge-listen; {NOW}").stdout.split())
    assert ended - began <= 5.0
    assert shown(service, "Result") == "success"


@pytest.mark.slow
def test_hears_a_card_whose_driver_was_loaded_later(service):
    gone = "systemctl stop player edge-listen; for m in snd-aloop snd-pcm snd-timer snd; do rmmod $m; done"
    service.run(f"{gone}; test ! -e /proc/asound")
    service.run("systemctl start edge-listen", timeout=60)
    service.run(f"modprobe snd-aloop pcm_substreams=1; {PLAY}")
    heard(service, 30)


@pytest.fixture
def published(machine):
    """A release of another model in a repository, which the device trusts; the services know of it."""
    keys, repository = machine.folder / "keys", machine.folder / "repository"
    run_module("edge.cli.update", "keys", "new", keys)
    tiny = ROOT / "edge" / "assets" / "edge-listen-tiny.int8.onnx"
    run_module("edge.cli.update", "publish", repository, tiny, "--keys", keys)
    (machine.folder / "more").write_text(UPDATE)
    (machine.folder / "drop-in").write_text(UPDATE_DROP_IN)
    machine.run(f"""
    systemctl stop edge-listen
    cp {UNITS}/edge-update.* /etc/systemd/system; mkdir -p /etc/systemd/system/edge-update.service.d
    cp drop-in /etc/systemd/system/edge-update.service.d/test.conf
    cp -r repository /srv/repository; cp keys/root.json /etc/edge-listen; chmod -R a+rX /srv/repository
    {{ echo 'model = "update"'; cat /etc/edge-listen/edge-listen.toml more; }} >with-update
    cp with-update /etc/edge-listen/edge-listen.toml; chmod 644 /etc/edge-listen/*
    systemctl daemon-reload""")


@pytest.mark.slow
def test_a_new_model_is_fetched_tried_and_taken_up(service, published):
    service.run("systemctl start edge-listen", timeout=60)
    heard(service, 30)
    before = shown(service, "MainPID")
    done = service.run("systemctl start edge-update", timeout=120, check=False)
    assert done.returncode == 0, service.run("journalctl -u edge-update --no-pager | tail -20").stdout
    service.run(f'until grep -q \'"model": "edge-listen-tiny"\' {OUT}; do sleep 0.5; done', timeout=180)
    heard(service, 30)
    assert shown(service, "MainPID") == before
