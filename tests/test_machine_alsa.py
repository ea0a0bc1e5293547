"""Through the kernel's own ALSA, in a virtual machine: a loop of snd-aloop is the microphone, and really goes."""

import json
import os
import shutil

import pytest

from tests.conftest import ROOT
from tests.machine import HERE, Machine, Unavailable

pytestmark = pytest.mark.slow

CYCLES = int(os.environ.get("EDGE_LISTEN_CYCLES", "6"))  # of unplugging; 100 take half an hour
LOOP = "pcm_substreams=1"


@pytest.fixture(scope="module")
def machine():
    if shutil.which("aplay") is None:
        pytest.skip("alsa-utils not installed")
    try:
        started = Machine()
    except Unavailable as reason:
        pytest.skip(str(reason))
    with started:
        yield started


@pytest.fixture
def listening(machine):
    """Runs our microphone in the machine; returns what it saw."""

    def run(what, *, cards=LOOP, timeout=120):
        machine.run(f"modprobe snd-aloop {cards}")
        # The environment is that of the unit: each opening starts threads, and glibc would give each a heap of its own.
        set_up = f"cd {ROOT} && export PYTHONPATH={ROOT} OMP_NUM_THREADS=1 MALLOC_ARENA_MAX=2"
        command = f"{set_up} && {ROOT}/.venv/bin/python {HERE}/listener.py {what}"
        done = machine.run(command, timeout=timeout, check=False)
        assert done.returncode == 0, done.stderr + done.stdout
        return json.loads(done.stdout.splitlines()[-1])

    yield run
    machine.run("rmmod snd-aloop", check=False)


def test_unplugged_and_plugged_in_again(listening):
    seen = listening(f"cycles --count {CYCLES}", timeout=120 + 20 * CYCLES)
    print(json.dumps(seen))
    assert len(seen["rounds"]) == CYCLES
    assert {turn["reason"] for turn in seen["rounds"]} <= {"stopped", "missing"}
    assert max(turn["lost"] for turn in seen["rounds"]) <= 2.0
    assert max(turn["back"] for turn in seen["rounds"]) <= 5.0
    assert (seen["breaks"], seen["foreign"]) == (0, 0)
    before, after = seen["before"], seen["after"]
    assert (after["files"], after["threads"]) == (before["files"], before["threads"])
    assert after["kib"] - before["kib"] <= 2048


def test_another_card_is_never_heard_instead(listening):
    seen = listening("another", cards=f"enable=1,1 id=Loopback,Other {LOOP},1")
    assert seen["foreign"] == 0
    assert set(seen["reasons"]) <= {"stopped", "missing", "replaced"}
    assert "Other" in seen["cards"].splitlines()[0], "the other one has not come in its place"
    assert seen["back"] <= 5.0
    assert seen["breaks"] == 0


def test_waits_for_a_device_that_another_program_has(listening):
    seen = listening("busy")
    # PortAudio leaves a device that is busy out of its list: then it is missing.
    assert "busy" in seen["told"] or "no input device matches 'hw:0,1'" in seen["told"], seen["told"]
    assert set(seen["reasons"]) <= {"busy", "missing"}
    assert seen["back"] <= 5.0
    assert seen["breaks"] == 0


def test_a_device_that_refuses_the_rate_is_resampled(listening):
    seen = listening("rate")
    assert seen["rate"] == 44_100
    assert seen["level"] == pytest.approx(0.25, abs=0.01)
