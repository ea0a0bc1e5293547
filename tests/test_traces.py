"""Privacy, and the life of an SD card, proved by the system calls that edge-listen makes: see docs/privacy.md."""

import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest

from edge.sources.file import SoundFile
from tests import strace
from tests.conftest import ROOT
from tests.receivers import free_port
from tests.virtual_mic import RATE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not strace.works(), reason="strace cannot trace here: apt-get install strace"),
]

LISTEN = [sys.executable, "-m", "edge.cli.listen"]
SAMPLES = 4  # in a row, of those that were played: what is looked for in all that goes out
HOUR = 3600


@pytest.fixture
def environment(tmp_path):
    """A home of its own. Python's cache of bytecode is written when a package is installed, and not later."""
    names = {"HOME": "home", "XDG_STATE_HOME": "state", "XDG_CACHE_HOME": "cache", "XDG_CONFIG_HOME": "config"}
    return {name: str(tmp_path / folder) for name, folder in names.items()} | {
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }


def noise(seconds, seed=0):
    """Sound that does not occur by chance, and that the model has something to say about."""
    return np.random.default_rng(seed).integers(-20_000, 20_000, seconds * RATE).astype("<i2")


def fingerprints(samples):
    """Every run of a few samples, as 16-bit integers and as the floats that they become."""
    for values in (samples.astype("<i2"), (samples / 32768).astype("<f4")):
        raw, size = values.tobytes(), values.itemsize
        for at in range(0, len(raw) - SAMPLES * size, size):
            yield raw[at : at + SAMPLES * size]


def holds_sound(calls, samples):
    """The targets to which sound went out."""
    known = set(fingerprints(samples))
    sizes = {len(one) for one in known}
    found = set()
    for call in calls:
        if call.name in strace.OUTPUT:
            payload = call.payload
            found |= {
                call.target
                for size in sizes
                for at in range(len(payload) - size + 1)
                if payload[at : at + size] in known
            }
    return found


def is_allowed(target):
    """Standard output and error are pipes here, and what C libraries say goes to /dev/null; threads wake each other;
    the sound server is asked for sound.
    """
    return target.startswith(("pipe:", "/dev/null", "anon_inode:[eventfd", "UNIX", "socket:["))


def networks(calls):
    """Addresses of the network that were connected or sent to."""
    return [
        c.arguments
        for c in calls
        if c.name in ("connect", "sendto", "sendmsg") and re.search(r"AF_INET|TCP|UDP", c.arguments)
    ]


def is_of_sound_server(path):
    """PulseAudio's cookie, and memory that sound servers share, which lies on no disk: PortAudio asks JACK as well."""
    return (
        path.endswith("/pulse/cookie")
        or "memfd:pulseaudio" in path
        or path.startswith(("/dev/shm/pulse", "/dev/shm/jack"))
    )


def assert_private(calls, samples):
    """Nothing on a disk, nothing on a network, and no sound anywhere."""
    assert {path for path in strace.opened_for_writing(calls) if not is_of_sound_server(path)} == set()
    assert {
        target for target in strace.written(calls) if not (is_allowed(target) or is_of_sound_server(target))
    } == set()
    assert {path for path in strace.shared_mappings(calls) if not is_of_sound_server(path)} == set()
    assert networks(calls) == []
    assert not [c for c in calls if c.name in ("io_uring_setup", "shmat")]  # ways out that would not be seen
    assert holds_sound(calls, samples) == set()


@pytest.fixture
def through_microphone(virtual_mic, tmp_path, environment):
    """Run a program under strace while noise plays into the microphone. Returns its calls, the noise, its output."""

    def run(program):
        trace, samples = tmp_path / "trace", noise(10)
        env = virtual_mic.env | {k: v for k, v in environment.items() if k != "HOME"}
        env.pop("CI", None)  # onnxruntime keeps quiet where it is set, for the reason that we want to see
        process = subprocess.Popen(
            strace.command(trace, program, calls=[*strace.OUTPUT, *strace.CHANGES]),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=ROOT,
        )  # fmt: skip
        time.sleep(2.0)
        player = virtual_mic.play(
            (samples + 0.5) / 32767
        )  # play() multiplies and truncates: exact again, but for signs
        out, err = process.communicate(timeout=90)
        player.kill()
        player.wait()
        assert process.returncode == 0, err
        return strace.read(trace), samples, out

    return run


def test_from_the_microphone_no_sound_reaches_disk_or_network(through_microphone):
    calls, samples, out = through_microphone([*LISTEN, "--device", "pulsemic", "--duration", "9"])
    assert "listening to pulsemic" in out
    assert strace.written(calls)  # something was seen
    assert any("pulse" in c.arguments for c in calls if c.name == "connect")
    assert_private(calls, samples)
    assert len(out) < 2000  # lines for people; the sound would be a quarter of a million bytes


def test_the_trace_sees_sound_that_is_written(through_microphone, tmp_path):
    """The control: a program that keeps what the microphone hears is found out."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom edge import Microphone\n"
        "blocks = Microphone('pulsemic').blocks(16000, 1600)\n"
        "with Path(sys.argv[1]).open('wb') as file:\n"
        "    for _ in range(80):\n"
        "        file.write(next(blocks).samples.tobytes())\n"
    )
    kept = str(tmp_path / "kept.raw")
    calls, samples, _ = through_microphone([sys.executable, "-c", script, kept])
    assert kept in strace.opened_for_writing(calls)
    assert holds_sound(calls, samples) == {kept}
    with pytest.raises(AssertionError):
        assert_private(calls, samples)


def piped(trace, environment, samples, *arguments, calls=(*strace.OUTPUT, *strace.CHANGES), payload=1 << 20):
    """edge-listen on raw PCM, under strace. Returns its calls and its output."""
    program = [*LISTEN, "--input", "-", *arguments]
    done = subprocess.run(
        strace.command(trace, program, calls=list(calls), payload=payload),
        input=samples.tobytes(), capture_output=True, env=environment, cwd=ROOT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return strace.read(trace), done.stdout.decode()


def test_from_a_pipe_no_sound_reaches_disk_or_network(tmp_path, environment):
    samples = noise(30)
    calls, out = piped(tmp_path / "trace", environment, samples, "--output", "jsonl")
    assert json.loads(out.splitlines()[-1])["type"] == "end"
    assert_private(calls, samples)


FILES = [*strace.OUTPUT, *strace.CHANGES]
FILES = [name for name in FILES if name not in ("mmap", "sendto", "sendmsg", "sendmmsg", "connect")]


def listened(tmp_path, environment, seconds, toml):
    """The calls that have to do with files, and the output, of a scene with an event every few seconds, played again
    and again; with the options of a service.
    """
    minute = SoundFile(ROOT / "examples" / "demo.ogg").read(RATE)
    sound = np.resize((np.clip(minute, -1, 1) * 32767).astype("<i2"), seconds * RATE)
    config = tmp_path / "edge-listen.toml"
    config.write_text(f'model = "tiny"\noutput = "text"\nmetrics = "{free_port()}"\n{toml}')
    arguments = ("--config", str(config), "--pcm-rate", str(RATE))
    calls, out = piped(tmp_path / "trace", environment, sound, *arguments, calls=FILES, payload=0)
    # The rest is less than a hop.
    assert float(re.search(r"in ([\d.]+) s", out.splitlines()[-1]).group(1)) > seconds - 1
    return calls, out


def to_files(calls):
    """Calls that write to files on a disk, or change one."""
    changes = [c for c in calls if c.name in ("fsync", "fdatasync", "ftruncate", "fallocate", "renameat", "rename")]
    return [c for c in calls if c.name in strace.OUTPUT and strace.is_file(c.target)] + changes


def test_an_hour_writes_nothing_to_the_card(tmp_path, environment):
    calls, out = listened(tmp_path, environment, HOUR, "")
    assert len(out.splitlines()) > 100  # it was heard
    assert to_files(calls) == []
    assert strace.opened_for_writing(calls) == set()
    assert not (tmp_path / "state").exists()


def test_the_count_sees_what_a_log_writes(tmp_path, environment):
    """The control: the same with a log."""
    log = tmp_path / "log.jsonl"
    calls, _ = listened(tmp_path, environment, 300, f'log = "{log}"\n')
    assert {c.target for c in to_files(calls) if c.name in strace.OUTPUT} >= {str(log)}
    assert len(to_files(calls)) >= 300


def test_what_a_store_writes_in_an_hour(tmp_path, environment):
    """With -s, the figures of docs/privacy.md."""
    store = tmp_path / "events.db"
    calls, out = listened(tmp_path, environment, HOUR, f'db = "{store}"\n')
    events = sum(bool(re.match(r"\d+:\d\d\.\d ", line)) for line in out.splitlines())
    writes = [c for c in to_files(calls) if c.name in strace.OUTPUT]
    assert {c.target.removesuffix("-wal").removesuffix("-shm").removesuffix("-journal") for c in writes} == {str(store)}
    size = sum(int(c.result) for c in writes)
    syncs = sum(c.name in ("fsync", "fdatasync") for c in calls)
    each = f"for each {len(writes) / events:.1f} writes, {size / events / 1024:.1f} kB, {syncs / events:.2f} syncs"
    print(f"\n{events} events in an hour: {len(writes)} writes, {size / 1e6:.1f} MB, {syncs} syncs; {each}")
    assert events > 100
    assert len(writes) / events < 20
    assert size / events < 64 << 10
    assert syncs / events < 0.5
