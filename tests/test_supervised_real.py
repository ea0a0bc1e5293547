"""Microphones that go away, through real PortAudio and PulseAudio: recipe and faults of a real sound server."""

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.hears import MODULUS, OTHER, RATE
from tests.virtual_mic import VirtualMicrophone, missing

pytestmark = pytest.mark.slow

CYCLES = int(os.environ.get("EDGE_LISTEN_CYCLES", "20"))  # 100 of them take twelve minutes
RAMP = (np.arange(MODULUS * 20) % MODULUS) / 32767  # play() multiplies by 32767


class Hearer:
    """A process that listens; its lines as they come."""

    def __init__(self, env, *arguments, seconds=1000):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.hears", str(seconds), *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env, cwd=ROOT,
        )  # fmt: skip
        self.all = []
        self._lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self._lines.put(json.loads(line))

    def next(self, wanted, within):
        """The first line from now on that is as ``wanted``; all lines are kept."""
        until = time.monotonic() + within
        while True:
            try:
                line = self._lines.get(timeout=max(0.01, until - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"nothing within {within} s; the last lines: {self.all[-3:]}") from None
            self.all.append(line)
            if wanted(line):
                return line

    def lost(self, since, reason=None):
        line = self.next(lambda line: "outage" in line, 2.5 + SLACK)
        assert line["at"] - since <= 2.0 + SLACK
        assert reason is None or line["outage"] == reason
        return line

    def heard(self, within=5.0):
        return self.next(lambda line: "position" in line and not line["zero"], within + SLACK)

    def whole(self, blocks=3):
        """Some blocks one after the other without a break: the ramp counts on."""
        got = [self.heard() for _ in range(blocks)]
        for before, after in pairwise(got):
            assert (after["lost"], after["position"]) == (0, before["position"] + 8000)
        return got[-1]

    def stand_still(self, seconds):
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


SLACK = 1.0  # seconds, for machines that are busy with other tests


@pytest.fixture
def hearing():
    """A microphone of its own that hears the ramp, and who listens to it."""
    if why := missing():
        pytest.skip(f"no virtual microphone: {why}")
    with contextlib.ExitStack() as stack:
        microphone = stack.enter_context(VirtualMicrophone())
        player = looped(microphone)
        stack.callback(player.wait)
        stack.callback(player.kill)
        hearer = stack.enter_context(contextlib.closing(Hearer(microphone.env)))
        hearer.heard(within=15)
        hearer.whole()
        yield microphone, hearer


def looped(microphone):
    return microphone.play(np.tile(RAMP, 1 + CYCLES * 10 // 40))


def same_ramp(before, after):
    """How far the position after a gap is from where the ramp says that it is, in samples."""
    off = (after["position"] - before["position"]) - (after["last"] - before["last"])
    return (off + MODULUS // 2) % MODULUS - MODULUS // 2


def test_unplugged_and_plugged_in_again(hearing):
    """Another microphone stays: not a frame of it is heard."""
    microphone, hearer = hearing
    microphone.plug_another(OTHER)
    hearer.whole()
    at = time.monotonic()
    microphone.pactl("set-default-source", "other.monitor")  # the server moves the stream to it, ours is still there
    hearer.lost(at, "replaced")
    hearer.heard()
    before = hearer.whole()
    first, took, offs = None, [], []
    for cycle in range(CYCLES):
        at = time.monotonic()
        microphone.unplug(all_of_them=False)
        gone = hearer.lost(at)["at"] - at
        time.sleep(0.2 + cycle % 3)
        at = time.monotonic()
        microphone.plug(rate=RATE if cycle % 4 else 48_000)
        back = hearer.heard()
        took.append((gone, back["at"] - at))
        assert back["at"] - at <= 5.0 + SLACK
        offs.append(same_ramp(before, back))
        before = hearer.whole(2)
        if cycle == 2:
            first = before
    heard = [line for line in hearer.all if "position" in line]
    assert not [line for line in heard if line["others"]]
    gone_s, back_s = np.array(took).T
    print(f"{CYCLES} cycles: gone after {gone_s.max():.2f} s at most")
    print(f"back after {back_s.max():.2f} s at most, median {np.median(back_s):.2f}")
    print(f"positions off by {np.abs(offs).max()} samples at most, median {np.median(np.abs(offs))}: {offs[:8]}")
    print({key: (first[key], before[key]) for key in ("files", "threads", "mib", "renewals")})
    assert np.median(np.abs(offs)) <= 0.05 * RATE  # one by one, the player may have been too slow for its ramp as well
    assert before["files"] == first["files"]
    assert before["threads"] == first["threads"]
    assert before["mib"] - first["mib"] <= 2.0
    assert before["renewals"] == 0  # PortAudio's list names it still


def test_a_server_that_hangs_is_suspended_muted_or_dies(hearing):
    microphone, hearer = hearing
    at = time.monotonic()
    microphone.hang()
    hearer.lost(at, "stopped")
    time.sleep(max(0.0, at + 4 - time.monotonic()))
    microphone.hang(False)
    hearer.heard()
    hearer.whole(2)

    at = time.monotonic()
    microphone.pactl("suspend-source", "mic", "1")
    hearer.lost(at, "stopped")
    time.sleep(2)
    microphone.pactl("suspend-source", "mic", "0")
    hearer.heard()
    hearer.whole(2)

    microphone.pactl("set-source-mute", "mic", "1")
    hearer.next(lambda line: line.get("zero"), 3.0 + SLACK)  # which the listener calls silent
    microphone.pactl("set-source-mute", "mic", "0")
    hearer.heard()

    at = time.monotonic()
    microphone.kill()
    hearer.lost(at, "stopped")
    time.sleep(1)
    microphone.start()
    player = looped(microphone)
    try:
        hearer.heard()
        hearer.whole(2)
    finally:
        player.kill()
        player.wait()


def test_a_second_of_standing_still_loses_nothing(hearing):
    _, hearer = hearing
    before = hearer.whole()
    hearer.stand_still(1.0)
    stalled = hearer.next(lambda line: line["lag"] > 0.4, 4.0 + SLACK)
    after = hearer.whole(4)
    assert stalled["lost"] == 0
    assert abs(same_ramp(before, after)) <= 2
    assert not [line for line in hearer.all if line.get("lost") or "outage" in line]


def test_one_that_is_not_there_at_the_start_is_waited_for():
    """Without --wait it is an error; with it, it is found when the sound server starts."""
    if why := missing():
        pytest.skip(f"no virtual microphone: {why}")
    with VirtualMicrophone() as microphone:
        microphone.kill()
        with contextlib.closing(Hearer(microphone.env)) as hearer:
            assert hearer.process.wait(30) == 1
        with contextlib.closing(Hearer(microphone.env, "pulsemic", "--wait")) as hearer:
            hearer.next(lambda line: line.get("outage") in ("missing", "refused"), 15)
            microphone.start()
            player = looped(microphone)
            try:
                hearer.heard(within=8)
                assert hearer.whole(2)["renewals"] <= 2
            finally:
                player.kill()
                player.wait()


JACK = """
import os, sys, time, threading
import jack, numpy as np
feeder, count = jack.Client("feeder"), [0]
port = feeder.outports.register("out")
@feeder.set_process_callback
def process(frames):
    port.get_array()[:] = ((count[0] + np.arange(frames)) % 32749) / 32768
    count[0] += frames
feeder.activate()
print("ready", flush=True)
time.sleep(1000)
"""

OVERFLOWING = """
import json, os, sys, time
from edge.sources import capture, microphone
calls, plain = [0], capture.Capture.callback
def slow(self, data, frames, times, status):
    plain(self, data, frames, times, status)
    calls[0] += 1
    if calls[0] % 100 == 0:
        time.sleep(0.2)
capture.Capture.callback = slow
blocks = microphone.Microphone("feeder").blocks(16000, 8000)
import numpy as np
for _ in range(30):
    block = next(blocks)
    values = np.round(block.samples * 32768).astype(int)
    jumps = np.diff(values) % 32749
    print(json.dumps([block.position, block.lost, block.overflows, int(values[0]), int(values[-1]),
                      [int(j) for j in jumps if j != 1]]), flush=True)
os._exit(0)
"""


def test_an_overflow_is_counted_to_the_sample(tmp_path):
    """JACK's dummy driver: a callback that stalls for 0.2 s loses five periods, each time."""
    pytest.importorskip("jack", reason="JACK-Client not installed")
    if shutil.which("jackd") is None:
        pytest.skip("jackd not installed")
    env = os.environ | {
        "JACK_NO_START_SERVER": "1",
        "JACK_DEFAULT_SERVER": f"test{os.getpid()}",
        "PYTHONPATH": str(ROOT),
    }
    forget_dead_servers()
    with contextlib.ExitStack() as stack:
        server = ["jackd", "--no-realtime", "-d", "dummy", "-r", "16000", "-p", "512", "-C", "1", "-P", "1"]
        started(stack, server, env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(20):  # the server takes its time
            feeder = started(
                stack, [sys.executable, "-c", JACK], env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            if feeder.stdout.readline():
                break
            time.sleep(0.2)
        done = subprocess.run(
            [sys.executable, "-c", OVERFLOWING], env=env, cwd=ROOT, capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 0, done.stderr
    check_losses([json.loads(line) for line in done.stdout.splitlines()])


def forget_dead_servers():
    """JACK keeps a list of eight servers and starts no ninth, though all eight were killed long ago."""
    running = set()
    for name in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):  # it has just ended
            running.add(name.read_text().strip())
    if not running & {"jackd", "jackdbus"}:
        Path("/dev/shm/jack-shm-registry").unlink(missing_ok=True)


def started(stack, command, env, **options):
    process = stack.enter_context(subprocess.Popen(command, env=env, **options))
    stack.callback(process.terminate)  # killed, a server would stay in JACK's list
    return process


def check_losses(blocks):
    """Every jump of the ramp is a loss that the same block or the next one reports, exactly. Where the server was too
    slow itself, whole periods are lost to the ramp as well, and do not show in it.
    """
    due = reported = gaps = 0
    before = None
    for position, lost, _, first, last, jumps in blocks:
        between = [] if before is None else [j for j in [(first - before) % MODULUS] if j != 1]
        reported += lost
        assert lost % 512 == 0, f"at {position}"
        assert reported >= due, f"at {position}"
        due += sum(j - 1 for j in between + jumps)
        gaps += len(between + jumps)
        before = last
    assert gaps >= 3
    assert due % 512 == 0
    assert -2560 <= reported - due <= 2048


QUICK_CALIBRATION = """
import edge.calibration
edge.calibration.LEAST_SECONDS, edge.calibration.BLOCK_SECONDS = 10.0, 0.5  # ten minutes are too long for a test
from edge.cli.calibrate import main
main()
"""


def test_a_calibration_outlives_its_microphone(tmp_path):
    """It goes on where it is plugged in again, and keeps what it heard before."""
    if why := missing():
        pytest.skip(f"no virtual microphone: {why}")
    with contextlib.ExitStack() as stack:
        microphone = stack.enter_context(VirtualMicrophone())
        player = microphone.play(0.01 * np.random.default_rng(0).standard_normal(90 * RATE))
        stack.callback(player.wait)
        stack.callback(player.kill)
        asked = ["--device", "pulsemic", "--duration", "10", "--site", str(tmp_path / "site.json")]
        process = subprocess.Popen(
            [sys.executable, "-c", QUICK_CALIBRATION, *asked],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=microphone.env, cwd=ROOT,
        )  # fmt: skip
        time.sleep(8)
        microphone.unplug(all_of_them=False)
        time.sleep(3)
        microphone.plug()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "waiting for it" in err
    assert "listened for 0.00 hours" in out
    assert json.loads((tmp_path / "site.json").read_text())["hours"] == round(10 / 3600, 3)
