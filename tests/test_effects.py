"""Rooms, microphones, lines and codecs: what each does to sound, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile

from edge.sources.file import SoundFile
from train.degraded import Degraded
from train.effects import (
    CODECS,
    DEGRADATIONS,
    PARTS,
    TITLES,
    MicrophoneConfig,
    another_microphone,
    codec,
    mu_law,
    power,
    quantise,
    reverberate,
)

RATE = 16_000
OFF = replace(MicrophoneConfig(), **dict.fromkeys(PARTS, 0.0))


def tone(frequency, amplitude=0.3, seconds=1.0, rate=RATE):
    time = np.arange(round(seconds * rate)) / rate
    return (amplitude * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def noise(n, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def rng(seed=0):
    return np.random.default_rng(seed)


def change_db(name, frequency):
    """What a degradation does to the level of a tone, away from its ends."""
    sound = tone(frequency)
    middle = slice(RATE // 4, -RATE // 4)
    return 10 * np.log10(power(DEGRADATIONS[name](sound, RATE, rng())[middle]) / power(sound[middle]))


@pytest.mark.parametrize("name", DEGRADATIONS)
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_degradations_keep_length_and_type_down_to_one_sample(name, rate):
    for n in (1, 100, rate):
        sound = noise(n)
        there = DEGRADATIONS[name](sound, rate, rng())
        assert (there.shape, there.dtype) == (sound.shape, np.float32)
        assert np.isfinite(there).all()
        assert np.array_equal(DEGRADATIONS[name](sound, rate, rng()), there)
    if (name, rate) != ("low_pass", 8_000):  # nothing is above 4 kHz there
        assert not np.array_equal(there, sound)
    assert np.abs(DEGRADATIONS[name](np.zeros(100, np.float32), rate, rng())).max() < 2e-4  # no step of mu-law is zero


def test_every_degradation_has_a_title_and_a_name_for_files():
    assert TITLES.keys() == DEGRADATIONS.keys()
    assert all(name.isidentifier() for name in DEGRADATIONS)


@pytest.mark.parametrize(
    ("name", "kept", "lost"),
    [
        ("low_pass", (100, 1000, 3000), (6000,)),
        ("telephone", (600, 1000, 2500), (100, 5000)),
        ("small_device", (1000,), (100,)),
    ],
)
def test_bands(name, kept, lost):
    assert all(abs(change_db(name, frequency)) < 2.5 for frequency in kept)
    assert all(change_db(name, frequency) < -20 for frequency in lost)


def test_levels():
    assert change_db("quiet", 1000) == pytest.approx(-30, abs=0.01)
    clipped = DEGRADATIONS["clipping"](tone(1001), RATE, rng())
    assert np.abs(clipped).max() == 1
    assert (np.abs(clipped) == 1).mean() == pytest.approx(1 - 2 / np.pi * np.arcsin(10 ** (-12 / 20)), abs=0.01)


def test_noise_has_its_level():
    sound = tone(1000)
    added = DEGRADATIONS["noise"](sound, RATE, rng()) - sound
    assert 10 * np.log10(power(sound) / power(added)) == pytest.approx(10, abs=0.05)


def test_a_room_decays_in_its_time():
    impulse = np.zeros(RATE, np.float32)
    impulse[0] = 1
    response = reverberate(impulse, RATE, 0.6, 0, rng())
    assert power(response) == pytest.approx(power(impulse), rel=1e-5)
    left = 10 * np.log10(np.cumsum(response[::-1] ** 2)[::-1])  # Schroeder 1965
    assert left[round(0.05 * RATE)] - left[round(0.45 * RATE)] == pytest.approx(40, abs=3)
    direct, reflected = response[0] ** 2, np.sum(response[1:] ** 2)
    assert 10 * np.log10(direct / reflected) == pytest.approx(0, abs=0.1)


def test_mu_law_has_eight_bits():
    sound = noise(50_000) * 3
    coded = mu_law(sound)
    assert len(np.unique(coded)) <= 256
    assert 10 * np.log10(power(sound) / power(coded - sound)) > 30


@pytest.mark.parametrize("name", ["vorbis", "mp3"])
@pytest.mark.parametrize("coded_rate", [8_000, 11_025, None])
def test_codecs_lose_detail_but_not_the_sound(name, coded_rate):
    sound = tone(440) + tone(1200)
    heard = codec(sound, RATE, name, 0.9, coded_rate)
    assert heard.shape == sound.shape
    assert not np.array_equal(heard, sound)
    spectrum = np.abs(np.fft.rfft(heard))
    assert set(np.argsort(spectrum)[-2:]) == {440, 1200}
    assert codec(sound[:1], RATE, name, 0.9, coded_rate).shape == (1,)


# A random chain


def test_another_microphone_can_be_switched_off():
    sound = noise(RATE)
    assert np.array_equal(another_microphone(sound, RATE, rng(), OFF), sound)


@pytest.mark.parametrize("part", PARTS)
def test_every_part_works_alone(part):
    sound = noise(RATE)
    config = replace(OFF, **{part: 1.0})
    there = another_microphone(sound, RATE, rng(3), config)
    assert (there.shape, there.dtype) == (sound.shape, np.float32)
    assert np.isfinite(there).all()
    assert not np.array_equal(there, sound)
    assert np.array_equal(there, another_microphone(sound, RATE, rng(3), config))
    for n in (1, 2, 50):
        assert another_microphone(sound[:n], 44_100, rng(3), config).shape == (n,)


def test_a_part_leaves_the_draws_of_the_others():
    sound = noise(RATE)
    offset = another_microphone(sound, RATE, rng(1), replace(OFF, dc_offset=1.0)) - sound
    both = another_microphone(sound, RATE, rng(1), replace(OFF, dc_offset=1.0, mu_law=1.0)) - mu_law(sound)
    assert np.allclose(offset, offset[0], atol=1e-6)
    assert np.allclose(both, offset[0], atol=1e-6)


def test_chains_differ_by_their_seed():
    sound = noise(RATE)
    chains = {another_microphone(sound, RATE, rng(seed)).tobytes() for seed in range(10)}
    assert len(chains) >= 9
    assert another_microphone(sound, RATE, rng(4)).tobytes() in chains


def test_quiet_recordings_are_coarse():
    assert len(np.unique(quantise(noise(RATE) * 1e-3))) < 40


# As a source


def test_a_degraded_recording_is_a_source(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(3 * RATE), RATE, "FLOAT")
    recording = SoundFile(tmp_path / "a.wav")
    for name, effect in DEGRADATIONS.items():
        blocks = list(Degraded(recording, name).blocks(RATE, 4_000, 6_000))
        joined = np.concatenate([block.samples for block in blocks])
        assert [len(block.samples) for block in blocks[:2]] == [6_000, 4_000]
        assert [block.position for block in blocks[:3]] == [0, 6_000, 10_000]
        again = np.concatenate([b.samples for b in Degraded(recording, name).blocks(RATE, 48_000)])
        assert np.array_equal(joined, again)
        if name not in ("noise", "reverberation"):  # those are seeded by the file's name
            assert np.array_equal(joined, effect(noise(3 * RATE), RATE, rng()))


def balance_db(channels):
    return 10 * np.log10(power(channels[0]) / power(channels[1]))


LEVELS = np.stack([tone(1000, 0.3), tone(1000, 0.03)])  # 20 dB apart


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_the_balance_of_channels_stays(name):
    """About, where the louder is cut, or the same noise is added to both."""
    there = DEGRADATIONS[name](LEVELS, RATE, rng())
    assert there.shape == LEVELS.shape
    assert (7 if name in ("clipping", "noise") else 19) < balance_db(there) < 21


@pytest.mark.parametrize("part", [part for part in PARTS if part != "dc_offset"])  # which is the same in both
def test_the_balance_of_channels_stays_in_a_chain(part):
    config = replace(OFF, clipping_db=(12.0, 12.0), **{part: 1.0})
    there = another_microphone(LEVELS, RATE, rng(3), config)
    assert (10 if part == "clipping" else 18) < balance_db(there) < 21
    mono = another_microphone(LEVELS[:1], RATE, rng(3), config)
    assert np.array_equal(mono[0], another_microphone(LEVELS[0], RATE, rng(3), config))


def test_nothing_is_degraded_to_nothing(tmp_path):
    """One sample at 48 kHz is none at 16 kHz."""
    soundfile.write(tmp_path / "a.wav", [0.5], 48_000)
    for name in DEGRADATIONS:
        for channels in (1, 2):
            assert list(Degraded(SoundFile(tmp_path / "a.wav"), name).blocks(RATE, RATE, channels=channels)) == []


def test_both_channels_are_degraded_alike(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.stack([noise(RATE), noise(RATE)], axis=1), RATE, "FLOAT")
    (block,) = Degraded(SoundFile(tmp_path / "a.wav"), "reverberation").blocks(RATE, RATE, channels=2)
    assert block.samples.shape == (RATE, 2)
    assert np.array_equal(block.samples[:, 0], block.samples[:, 1])


@pytest.mark.parametrize("name", sorted(CODECS))
@pytest.mark.parametrize("level", [0.0, 0.99999, 1.0])
def test_codecs_take_every_level(name, level):
    samples = tone(440) + tone(1200)
    heard = codec(samples, RATE, name, level, 8_000)
    assert heard.shape == samples.shape
    assert 0.9 < np.corrcoef(heard[200:-200], samples[200:-200])[0, 1] < 1 - 1e-6
