"""``edge-bench loopback``: the sound is found where it is, its parts add up, and real PortAudio runs it."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from edge.bench.loopback import HEARD_SECONDS, Tap, arrival, chirp, trial_of
from edge.bench.sound import Endless, synthetic_sound
from edge.listener import Window
from edge.sources.watched import Watched
from tests.conftest import ROOT, run_module
from tests.virtual_mic import RATE

NOISE = np.random.default_rng(0).standard_normal(3 * RATE).astype(np.float32)


def window(offset, label="quiet", score=0.5, busy_ms=2.0):
    labels = ("quiet", "dog", "rain")
    probs = np.full(3, (1 - score) / 2, np.float32)
    probs[labels.index(label)] = score
    return Window(
        labels=labels, probs=probs, energy=None, unknown=False, onset=max(0, offset - 4), offset=offset, time=0.0,
        level_dbfs=None, latency_ms=0.0, busy_ms=busy_ms, silent=False, lost=0, overflows=0,
    )  # fmt: skip


@pytest.mark.parametrize("gain", [1.0, 0.03, -0.5])
@pytest.mark.parametrize("at", [0, 12_345, 3 * RATE - 4000])
def test_a_chirp_is_found_to_the_sample_in_noise(gain, at):
    sound = chirp(RATE)
    captured = 0.1 * abs(gain) * NOISE
    captured[at : at + len(sound)] += gain * sound
    assert arrival(captured, sound) == at


def test_what_is_not_there_is_not_found():
    sound = chirp(RATE)
    assert arrival(NOISE, sound) is None
    assert arrival(np.zeros(RATE, np.float32), sound) is None
    assert arrival(sound[:100], sound) is None


def test_a_tap_gives_what_it_gets_and_finds_a_place_in_it():
    sound = synthetic_sound(RATE)
    tap = Tap(RATE, seconds=100)
    blocks = Watched(Endless(lambda rate: sound), tap.push).blocks(RATE, 800, first=1600)
    given = [next(blocks) for _ in range(20)]
    assert np.array_equal(np.concatenate([b.samples for b in given[1:]]), sound[: 19 * 800])
    wanted = 1600 + 3210  # a stream position; the endless sound begins anew after its first block
    position, at = tap.find(sound[3210 : 3210 + 4000], since=0)
    assert position == wanted
    block = next(b for b in given if b.position <= wanted < b.position + len(b.samples))
    assert at == pytest.approx(block.adc_time + (wanted - block.position) / RATE)
    assert tap.find(sound[3210 : 3210 + 4000], since=given[-1].adc_time + 1) is None


def test_a_tap_forgets():
    tap = Tap(RATE, seconds=0)
    blocks = Watched(Endless(synthetic_sound), tap.push).blocks(RATE, 800)
    for _ in range(10):
        next(blocks)
    assert len(tap._blocks) < 10


def test_the_first_decision_that_holds_the_sound_counts():
    before = window(10.0)
    heard = 10.3  # seconds of stream
    decisions = [
        (window(10.0 + HEARD_SECONDS), 100.1),
        (window(10.34), 100.4),
        (window(10.5), 100.9),
        (window(11.0), 101.4),
    ]
    trial = trial_of(decisions, left=100.0, heard=heard, arrived=100.2, before=before, named=False)
    assert trial.driver_ms == pytest.approx(200)
    assert trial.compute_ms == 2
    assert trial.total_ms == pytest.approx(900)
    assert trial.driver_ms + trial.waiting_ms + trial.compute_ms == pytest.approx(trial.total_ms)
    assert trial.named_ms is trial.label is None
    assert trial_of(decisions[:2], left=100.0, heard=heard, arrived=100.2, before=before, named=False) is None


def test_a_clip_is_named_by_another_class_whose_score_has_risen():
    before = window(10.0)
    decisions = [(window(10.5), 100.5), (window(11.0, "dog", 0.4), 101.0), (window(11.5, "dog", 0.6), 101.5)]
    trial = trial_of(decisions, left=100.0, heard=10.1, arrived=100.1, before=before, named=True)
    assert trial.total_ms == pytest.approx(500)
    assert (trial.named_ms, trial.label) == (pytest.approx(1500), "dog")  # 0.4 is 0.15 above what it was


def test_mistakes(tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(32_000), 16_000)
    module = ("edge.cli.bench", "loopback")
    assert "digital silence" in run_module(*module, "--clip", tmp_path / "silent.wav", code=5).stderr
    assert "model no.onnx does not exist" in run_module(*module, "--model", "no.onnx", code=3).stderr
    assert "device" in run_module(*module, "--device", "no such microphone", code=4).stderr
    environment = os.environ | {"EDGE_BENCH_LOOPBACK_REPEATS": "never"}
    assert "'never' is not a valid integer" in run_module(*module, code=2, env=environment).stderr
    (tmp_path / "loopback.toml").write_text("repeat = 3\n")
    assert "unknown key repeat" in run_module(*module, "--config", tmp_path / "loopback.toml", code=2).stderr


def loopback(microphone, *options, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "edge.cli.bench", "loopback", "--device", "pulsemic", *options],
        capture_output=True, text=True, env=microphone.env, cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.slow
def test_a_chirp_through_portaudio(virtual_mic):
    done = loopback(virtual_mic, "--output-device", "pulseout", "--repeats", "3", "--output", "json")
    found = json.loads(done.stdout)
    assert len(found["trials"]) == found["repeats"] == 3
    for trial in found["trials"]:
        assert trial["driver_ms"] + trial["waiting_ms"] + trial["compute_ms"] == pytest.approx(trial["total_ms"], abs=1)
        assert 0 < trial["compute_ms"] < 500 * found["hop_seconds"]
        assert abs(trial["driver_ms"]) < 300  # there is no air in between
        # Until its hop is full, and until the sound server has handed it over.
        assert 0 < trial["waiting_ms"] < 1000 * (found["hop_seconds"] + HEARD_SECONDS) + 1000
    assert found["total_ms"]["worst"] >= found["total_ms"]["p50"] > 0
    assert found["memory_mb"] < 110


@pytest.mark.slow
def test_a_clip_is_named_through_portaudio(virtual_mic, demo, tmp_path):
    samples, rate = soundfile.read(demo)
    soundfile.write(tmp_path / "siren.wav", samples[16 * rate : 20 * rate], rate)
    clip = str(tmp_path / "siren.wav")
    done = loopback(virtual_mic, "--output-device", "pulseout", "--repeats", "1", "--clip", clip)
    assert "siren.wav from" in done.stdout
    assert "1 of 1 heard" in done.stdout
    assert "sound to another class" in done.stdout


@pytest.mark.slow
def test_an_output_that_is_not_there_is_named(virtual_mic):
    error = loopback(virtual_mic, "--output-device", "nothing", code=4).stderr
    assert error.startswith("error: output device 'nothing' cannot be used")
    assert "pulseout" in error


def test_every_part_is_shown():
    from edge.bench.loopback import Loopback, Trial
    from edge.cli.loopback import shown, summary

    trials = (Trial(10, 300, 1, 311, None, None), Trial(20, 100, 2, 122, 900, "dog"))
    measured = Loopback("mic", "speaker", "chirp", 0.48, 90, 3, trials)
    found = summary(measured)
    assert found["total_ms"] == {"p50": 216.5, "worst": 311}
    assert found["named_ms"] == {"p50": 900, "worst": 900}
    text = shown(measured)
    assert "2 of 3 heard" in text
    assert "216.5" in text
    unnamed = dataclasses.replace(measured, trials=trials[:1])
    assert "named_ms" not in summary(unnamed)
