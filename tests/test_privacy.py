"""No sound on the disk where that was asked for, and no clip in which a voice is heard."""

import csv
import resource
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from edge.config import build
from edge.errors import EdgeError
from edge.listener import Window
from edge.privacy import PrivacyError, VoiceConfig, VoiceFilter, require_ram_only
from edge.voice import features, pitches, threshold, voice_score
from tests.conftest import ESC50, ROOT, SHARED, needs_esc50

NEGATIVES = SHARED / "data" / "negatives"
needs_negatives = pytest.mark.skipif(not NEGATIVES.is_dir(), reason=f"real recordings are not there: {NEGATIVES}")
RATE = 16_000


@pytest.fixture(autouse=True)
def _core_limit():
    """What a test lowers stays lowered in this process, so the soft limit is put back."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)


class Uploader:
    sound_option = "upload"


@pytest.mark.parametrize(
    ("settings", "sinks", "named"),
    [
        ({"clips": "/clips", "db": "/x.db"}, [], "--clips"),
        ({"clips": None}, [object(), Uploader()], "--upload"),
    ],
)
def test_ram_only_refuses_what_would_keep_sound_and_names_it(settings, sinks, named):
    with pytest.raises(PrivacyError, match=named) as caught:
        require_ram_only(settings, sinks)
    assert caught.value.exit_code == 2
    assert "--privacy ram-only" in str(caught.value)


def test_ram_only_lets_words_and_numbers_pass_and_forbids_core_dumps():
    require_ram_only({"clips": None, "db": "/x.db", "output": "jsonl"}, [object()])
    require_ram_only({"clips": ""})
    assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0


def glides(seconds=3.0, rate=RATE, syllables=4.0):
    """Something like a voice: a gliding pitch of 100 to 160 Hz with formants that move, in syllables."""
    time = np.arange(round(seconds * rate)) / rate
    pitch = 130 + 30 * np.sin(2 * np.pi * 0.7 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    sound = np.zeros_like(time)
    for harmonic in range(1, 25):
        f = harmonic * pitch
        first, second = 500 + 250 * np.sin(2 * np.pi * 1.9 * time), 1500 + 600 * np.sin(2 * np.pi * 2.7 * time)
        gain = sum(1 / (1 + ((f - centre) / 120) ** 2) for centre in (first, second))
        sound += gain * np.sin(harmonic * phase)
    envelope = np.clip(np.sin(np.pi * syllables * time), 0, None) ** 0.7
    return (0.1 * sound * envelope).astype(np.float32)


def test_the_pitch_of_a_tone_complex():
    time = np.arange(8000) / 8000
    for hertz in (80, 125, 220, 390):
        tone = sum(np.sin(2 * np.pi * hertz * n * time) / n for n in range(1, 6)).astype(np.float32)
        strength, pitch = pitches(tone)
        assert strength.min() > 0.9
        assert np.abs(2 ** np.median(pitch) / hertz - 1) < 0.03
    strength, _ = pitches(np.random.default_rng(0).normal(size=8000).astype(np.float32))
    assert np.median(strength) < 0.55


@pytest.mark.parametrize("n", [0, 1, 100, RATE, 2 * RATE + 1])
@pytest.mark.parametrize("rate", [8000, RATE, 44_100])
def test_any_length_and_rate_has_a_finite_score(n, rate):
    noise = np.random.default_rng(0).normal(0, 0.1, n).astype(np.float32)
    assert 0 <= voice_score(noise, rate) <= 1
    if n:
        assert np.isfinite(features(noise, rate)).all()


def test_noise_and_tones_are_no_voices_and_syllables_are():
    time = np.arange(3 * RATE) / RATE
    noise = np.random.default_rng(0).normal(0, 0.05, 3 * RATE).astype(np.float32)
    assert voice_score(noise, RATE) < threshold()
    assert voice_score(0.3 * np.sin(2 * np.pi * 1000 * time).astype(np.float32), RATE) < threshold()
    assert voice_score(np.zeros(RATE, np.float32), RATE) == 0
    assert voice_score(glides(), RATE) >= threshold()


def test_a_voice_in_one_channel_or_at_the_end_is_heard():
    quiet = np.random.default_rng(0).normal(0, 1e-3, 10 * RATE).astype(np.float32)
    late = quiet.copy()
    late[-3 * RATE :] += glides()
    assert voice_score(quiet, RATE) < threshold() <= voice_score(late, RATE)
    assert voice_score(np.stack([quiet, late], axis=1), RATE) >= threshold()
    assert voice_score(np.stack([late, -late], axis=1), RATE) >= threshold()  # whose mix is silent


def window(onset, offset, **scores):
    return Window(
        labels=tuple(scores), probs=np.array(list(scores.values()), np.float32), energy=None, unknown=False,
        onset=onset, offset=offset, time=0.0, level_dbfs=None, latency_ms=0.0, busy_ms=0.0, silent=False, lost=0,
        overflows=0,
    )  # fmt: skip


def test_the_models_own_classes_are_witnesses():
    heard = VoiceFilter(VoiceConfig(labels=("speech",), label_score=0.3))
    silence = np.zeros(RATE, np.float32)
    heard.window(window(0, 4, speech=0.29, dog=0.71))
    heard.window(window(10, 14, speech=0.31, dog=0.69))
    assert [heard(silence, RATE, *span) for span in ((0, 10), (0, 10.1), (13.9, 20), (14, 20))] == [
        False,
        True,
        True,
        False,
    ]
    other = VoiceFilter(VoiceConfig(labels=("speech",)))
    other.window(window(0, 4, dog=1.0))  # a model that knows no voices
    assert not other(silence, RATE, 0, 4)


def test_in_doubt_it_is_a_voice():
    assert VoiceFilter(VoiceConfig())(np.full(2 * RATE, np.nan, np.float32), RATE, 0, 2)
    assert VoiceFilter(VoiceConfig(threshold=0.0))(np.zeros(RATE, np.float32), RATE, 0, 1)


def test_its_settings_come_from_json_and_are_checked():
    made = build(VoiceConfig, {"threshold": None, "labels": ["speech"], "label_score": 1})
    assert made == VoiceConfig(None, ("speech",), 1.0)
    for wrong in ({"threshold": 1.1}, {"label_score": -0.1}):
        with pytest.raises(EdgeError, match=next(iter(wrong))):
            VoiceConfig(**wrong)


def test_the_weights_are_plain_numbers():
    code = "import edge.voice as v; w = v._weights(); print(sorted((k, a.dtype.str) for k, a in w.items()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.count("<f4") == 7


def clips_of(path, seconds=5):
    samples, rate = soundfile.read(path, dtype="float32")
    step = seconds * rate
    return [(samples[at : at + step], rate) for at in range(0, max(1, len(samples) - step + 1), step)]


@needs_negatives
@pytest.mark.slow
def test_speech_that_it_has_not_learnt_from_is_withheld():
    heard = VoiceFilter(VoiceConfig())
    files = [
        p
        for p in sorted((NEGATIVES / "speech").iterdir())
        if p.name.startswith(("librivox", "grid", "ls_other", "ami_dev"))
    ]
    told = [heard(clip, rate, 0, 5) for path in files for clip, rate in clips_of(path)]
    assert len(told) > 100
    assert np.mean(told) >= 0.99


@needs_esc50
@pytest.mark.slow
def test_most_other_sounds_are_kept():
    heard = VoiceFilter(VoiceConfig())
    with (ESC50 / "meta" / "esc50.csv").open(newline="") as file:
        rows = [
            r for r in csv.DictReader(file) if r["fold"] == "5" and r["category"] not in ("laughing", "crying_baby")
        ]
    paths = [ESC50 / "audio" / row["filename"] for row in rows[::4]]
    told = [heard(*clips_of(p if p.exists() else p.with_suffix(".ogg"))[0], 0, 5) for p in paths]
    assert np.mean(told) <= 0.4
