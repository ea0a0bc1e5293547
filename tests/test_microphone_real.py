"""Through real PortAudio: PulseAudio's null sink is the microphone, ``pacat`` the world that it hears."""

import csv
import json
import subprocess
import sys
import time
from datetime import datetime

import numpy as np
import pytest

from edge.sources.file import SoundFile
from tests.conftest import ESC50, ROOT, needs_esc50, resident
from tests.virtual_mic import RATE, VirtualMicrophone, missing

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "edge.cli.listen", "--output", "jsonl"]
LEAD = 3.0  # seconds of silence before each clip
GAP = 4.5  # seconds of silence between clips: a window holds one of them


def record(microphone, samples, seconds, *options):
    """Run edge-listen while ``samples`` play. Returns its records, and when playing began (Unix time)."""
    process = subprocess.Popen(
        [*COMMAND, "--device", "pulsemic", "--threshold", "0.3", "--duration", str(seconds), *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=microphone.env, cwd=ROOT,
    )  # fmt: skip
    lines = [json.loads(process.stdout.readline())]  # start: the model is loaded, the stream about to open
    time.sleep(1.5)
    player = microphone.play(samples)
    began = time.time()
    out, err = process.communicate(timeout=seconds + 30)
    player.kill()
    player.wait()
    assert process.returncode == 0, err
    return lines + [json.loads(line) for line in out.splitlines()], began


def unix(record):
    return datetime.fromisoformat(record["time"]).timestamp()


def spaced(clips):
    """Clips one after the other, silence before and between. Returns the samples and each clip's (onset, offset)."""
    parts, spans, at = [np.zeros(round(LEAD * RATE))], [], LEAD
    for clip in clips:
        spans.append((at, at + len(clip) / RATE))
        parts += [clip, np.zeros(round(GAP * RATE))]
        at += len(clip) / RATE + GAP
    return np.concatenate(parts), spans


def check_names_and_times(lines, began, expected, spans, least):
    """Each clip must be named by the windows that hold most of it, and by stream time as well as by wall time."""
    start = lines[0]
    windows = [line for line in lines if line["type"] == "window"]
    end = lines[-1]
    assert end["type"] == "end"
    assert end["overflows"] == end["lost_samples"] == 0
    # Wall time of stream position 0, by the converter's clock: the same for every window but for its jitter.
    zeros = np.array([unix(w) - w["offset"] for w in windows])
    assert np.ptp(zeros) < start["hop_seconds"]
    lag = np.median(zeros) - began  # stream position 0 on the player's clock (negative)
    named = 0
    for label, (onset, offset) in zip(expected, spans, strict=True):
        middle = (onset + offset) / 2
        holding = [w for w in windows if abs((w["onset"] + w["offset"]) / 2 + lag - middle) <= 1.0]
        assert holding
        named += label in {w["label"] for w in holding}
    assert named >= least, f"{named} of {len(expected)} named"


def onset_of_level(lines, began):
    """When the level first rose, in stream time and on the player's clock."""
    loud = next(w for w in lines if w["type"] == "window" and (w["level_dbfs"] or -120) > -60)
    return loud["offset"], unix(loud) - began


@needs_esc50
def test_real_clips_are_named(virtual_mic):
    """ESC-10 clips of fold 5, which no weight has seen: two of each of the ten classes' first that fill their 5 s."""
    with (ESC50 / "meta" / "esc50.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["fold"] == "5" and r["esc10"] == "True"]
    chosen, expected = [], []
    for label in sorted({r["category"] for r in rows}):
        for row in [r for r in rows if r["category"] == label][:1]:
            chosen.append(SoundFile(ESC50 / "audio" / row["filename"]).read(RATE))
            expected.append(label)
    samples, spans = spaced(chosen)
    lines, began = record(virtual_mic, samples, len(samples) / RATE + 2)
    check_names_and_times(lines, began, expected, spans, least=8)


def test_the_demo_scene_is_named_through_the_microphone(virtual_mic, demo):
    with demo.with_suffix(".csv").open() as file:
        truth = list(csv.DictReader(file))
    samples = SoundFile(demo).read(RATE)
    lines, began = record(virtual_mic, samples, len(samples) / RATE + 2)
    spans = [(float(t["onset"]), float(t["offset"])) for t in truth]
    check_names_and_times(lines, began, [t["label"] for t in truth], spans, least=round(0.7 * len(truth)))


def test_stream_times_match_play_times_within_one_hop(virtual_mic):
    """A burst, 6 s after playing began, is heard at that time by the converter's clock."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, RATE)
    samples = np.concatenate([np.zeros(6 * RATE), noise, np.zeros(RATE)])
    lines, began = record(virtual_mic, samples, 11)
    hop = lines[0]["hop_seconds"]
    _, heard = onset_of_level(lines, began)
    # The window's hop, in which the burst begins, ends up to one hop later; the player's buffer adds 0.1 s.
    assert 6.0 - 0.05 <= heard <= 6.0 + hop + 0.35


def test_a_counting_ramp_arrives_whole(virtual_mic):
    """Sample i is i mod 32749: every sample that is lost, doubled or changed shows."""
    script = (
        "import sys, numpy as np\nfrom edge import Microphone\n"
        "blocks = Microphone('pulsemic').blocks(16000, 1600)\n"
        "got = [next(blocks).samples.copy() for _ in range(80)]\n"
        "np.save(sys.argv[1], np.concatenate(got))\n"
    )
    out = virtual_mic.folder / "got.npy"
    process = subprocess.Popen([sys.executable, "-c", script, str(out)], env=virtual_mic.env, cwd=ROOT)
    time.sleep(1.0)
    ramp = (np.arange(8 * RATE) % 32749).astype("<i2")
    player = virtual_mic.play(ramp / 32767)  # play() multiplies by 32767 and truncates: exact but for rounding
    assert process.wait(timeout=60) == 0
    player.kill()
    player.wait()
    got = np.round(np.load(out) * 32768).astype(int)
    first, last = np.flatnonzero(got)[[0, -1]]
    assert last - first > 4 * RATE
    steps = np.diff(got[first : last + 1]) % 32749
    assert (np.abs(steps - 1) <= 1).all()  # rounding may repeat or skip a value, never a block
    assert abs((got[last] - got[first]) % 32749 - (last - first) % 32749) <= 1


def test_devices_are_listed_and_found_by_every_name(virtual_mic):
    done = subprocess.run([*COMMAND, "--list-devices"], capture_output=True, text=True, env=virtual_mic.env, cwd=ROOT)
    assert done.returncode == 0
    assert "* " in done.stdout
    line = next(line for line in done.stdout.splitlines() if "pulsemic" in line)
    assert line.endswith("id: alsa-pulsemic")
    for name in (line.split()[0], "alsa-pulsemic", "PULSEMIC"):
        done = subprocess.run(
            [*COMMAND, "--device", name, "--duration", "1"],
            capture_output=True,
            text=True,
            env=virtual_mic.env,
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[0])["source"] == "pulsemic"


def test_a_muted_microphone_is_called_silent(virtual_mic):
    virtual_mic.pactl("set-source-mute", "mic", "1")
    try:
        lines, _ = record(virtual_mic, np.zeros(RATE), 9)
    finally:
        virtual_mic.pactl("set-source-mute", "mic", "0")
    assert {line["silent"] for line in lines if line["type"] == "status"} == {True}
    assert lines[-1]["reason"] == "duration"


def test_a_microphone_that_is_missing_ends_with_one_line():
    if why := missing():
        pytest.skip(f"no virtual microphone: {why}")
    with VirtualMicrophone() as microphone:
        microphone.unplug()
        done = subprocess.run(
            [*COMMAND, "--device", "pulsemic"], capture_output=True, text=True, env=microphone.env, cwd=ROOT, timeout=60
        )
    assert done.returncode == 4, done.stderr
    error, health = map(json.loads, done.stdout.splitlines()[-2:])
    assert (error["type"], error["code"]) == ("error", 4)
    assert (health["type"], health["state"]) == ("health", "lost")
    assert done.stderr.splitlines()[-1] == f"error: {error['message']} ({error['remedy']})"


def test_an_unplugged_microphone_is_waited_for():
    """Windows go on after it, at the stream time that it is then."""
    if why := missing():
        pytest.skip(f"no virtual microphone: {why}")
    with VirtualMicrophone() as microphone:
        process = subprocess.Popen(
            [*COMMAND, "--device", "pulsemic", "--duration", "16"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=microphone.env, cwd=ROOT,
        )  # fmt: skip
        first = next(line for line in map(json.loads, process.stdout) if line["type"] == "window")
        microphone.unplug(all_of_them=False)
        time.sleep(4)
        microphone.plug()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    windows = [line for line in map(json.loads, out.splitlines()) if line["type"] == "window"]
    steps = np.diff([window["offset"] for window in [first, *windows]])
    assert steps.max() >= 4 + 3.9  # away, and a window that is heard whole
    assert np.sort(steps)[-2] == pytest.approx(0.48, abs=0.01)


def test_the_python_interface_of_the_readme(virtual_mic):
    script = (
        "from edge import Classifier, Microphone, listen\n"
        "for window in listen(Microphone('pulsemic'), Classifier()):\n"
        "    print(window.onset, window.top(1)[0][0])\n"
        "    break\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=virtual_mic.env, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("0.0 ")


def test_memory_with_the_microphone_open(virtual_mic):
    """At most 95 MB. The sound card is ALSA's own: reading the full configuration, plugins of a desktop load FFmpeg and
    drawing libraries into every program that lists the devices, 15 MB here, whether we use them or not.
    """
    plain = virtual_mic.folder / "plain.conf"
    pcm = '{ type pulse device "mic" hint { show on description "test microphone" } }'
    plain.write_text(f"pcm.pulsemic {pcm}\npcm.!default {pcm}\nctl.!default {{ type pulse }}\n")
    process = subprocess.Popen(
        [*COMMAND, "--device", "pulsemic"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env=virtual_mic.env | {"ALSA_CONFIG_PATH": str(plain)},
    )  # fmt: skip
    for line in process.stdout:
        record = json.loads(line)
        if record["type"] == "window" and record["offset"] > 20:
            break
    taken = resident(process.pid)
    process.terminate()
    process.communicate(timeout=30)
    assert record["type"] == "window"
    assert 50e6 < taken <= 95e6
