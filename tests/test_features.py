"""One front end, several proofs: numpy whole, numpy streamed, torchaudio, the exported model, and by hand."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.config import FrontendConfig
from edge.features import LogMel, hz_to_mel, make_frontend, mel_filterbank, mel_to_hz
from train.frontend import log_scale, power_of

STEREO = FrontendConfig(channels=2)
WAVEFORM = FrontendConfig(kind="waveform", win_length=1, hop_length=1, n_mels=1)
MELS = [
    FrontendConfig(),
    STEREO,
    FrontendConfig(sample_rate=32_000, win_length=1024, n_fft=1024, hop_length=320, f_max=14_000.0),
    FrontendConfig(win_length=400, n_mels=40, mel_scale="slaney", mel_norm="slaney", f_min=0.0),
    FrontendConfig(win_length=511, hop_length=511, n_mels=20),
]
CONFIGS = [*MELS, WAVEFORM, dataclasses.replace(WAVEFORM, channels=2)]
# Of the network's input, whose standard deviation is about 1: the float32 FFTs of numpy and torch differ by rounding.
TORCH_TOLERANCE = 2e-4


def noise(n: int, seed: int = 0, channels: int = 1) -> np.ndarray:
    shape = n if channels == 1 else (n, channels)
    return (np.random.default_rng(seed).standard_normal(shape) * 0.1).astype(np.float32)


@pytest.mark.parametrize("config", CONFIGS)
def test_numpy_equals_torchaudio(config):
    samples = noise(20_000, channels=config.channels)
    samples[5000:8000] = 0  # silence, where the floor decides
    ours = make_frontend(config)(samples)
    by_channel = np.ascontiguousarray(np.atleast_2d(samples.T))
    theirs = log_scale(power_of(config)(torch.from_numpy(by_channel)), config).permute(1, 2, 0).numpy()
    assert ours.shape == theirs.shape == (config.channels, config.n_mels, config.n_frames(20_000))
    assert np.abs(ours - theirs).max() < TORCH_TOLERANCE


def test_each_channel_has_the_frames_that_it_has_alone():
    samples = noise(5000, channels=2)
    both = LogMel(STEREO)(samples)
    for channel in (0, 1):
        assert np.array_equal(both[channel], LogMel(FrontendConfig())(samples[:, channel])[0])


@pytest.mark.parametrize("config", CONFIGS)
@given(chunks=st.lists(st.integers(0, 3000), min_size=1, max_size=30), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_streamed_equals_whole_bit_for_bit(config, chunks, seed):
    samples = noise(sum(chunks), seed, config.channels)
    stream, start, parts = make_frontend(config), 0, []
    for n in chunks:
        parts.append(stream.push(samples[start : start + n]).copy())
        start += n
    whole = make_frontend(config)(samples)
    assert np.array_equal(np.concatenate(parts, axis=2), whole)


def test_single_frames_equal_whole():
    config = FrontendConfig()
    samples = noise(config.n_samples(50))
    stream = LogMel(config)
    edges = [0, *range(config.win_length, len(samples) + 1, config.hop_length)]
    parts = [stream.push(samples[a:b]).copy() for a, b in itertools.pairwise(edges)]
    assert all(part.shape[2] == 1 for part in parts)
    assert np.array_equal(np.concatenate(parts, axis=2), LogMel(config)(samples))


def test_a_tone_lands_in_its_band():
    config = FrontendConfig()
    frequency = 1000.0
    time = np.arange(config.win_length) / config.sample_rate
    frame = LogMel(config)(np.sin(2 * np.pi * frequency * time).astype(np.float32))[0, :, 0]
    ends = hz_to_mel(np.array([config.f_min, config.f_max]), "htk")
    centres = mel_to_hz(np.linspace(*ends, config.n_mels + 2)[1:-1], "htk")
    assert np.argmax(frame) == np.argmin(np.abs(centres - frequency))


def test_silence_is_the_floor():
    config = FrontendConfig()
    expected = (np.log(np.float32(config.log_floor)) - config.log_mean) / config.log_std
    assert np.allclose(LogMel(config)(np.zeros(4000, np.float32)), expected)


def test_too_short_gives_no_frame():
    config = FrontendConfig()
    for n in (0, 1, config.win_length - 1):
        assert LogMel(config)(noise(n)).shape == (1, config.n_mels, 0)
        assert LogMel(config).push(noise(n)).shape == (1, config.n_mels, 0)


@pytest.mark.parametrize("scale", ["htk", "slaney"])
def test_mel_scales_invert(scale):
    hz = np.array([0.0, 20.0, 999.0, 1000.0, 1001.0, 7999.0])
    assert np.allclose(mel_to_hz(hz_to_mel(hz, scale), scale), hz)


@pytest.mark.parametrize("config", MELS)
def test_every_band_hears_something(config):
    assert (mel_filterbank(config).sum(axis=0) > 0).all()


def test_buffers_are_reused():
    log_mel, samples = LogMel(FrontendConfig()), noise(20_000)
    first = log_mel(samples)
    assert np.shares_memory(first, log_mel(samples))


def test_front_ends_differ_where_their_fields_do():
    samples = noise(4000)
    base = LogMel(FrontendConfig())(samples)
    for change in ({"f_min": 50.0}, {"log_floor": 1e-3}, {"log_mean": 0.0}, {"mel_norm": "slaney"}):
        other = LogMel(dataclasses.replace(FrontendConfig(), **change))(samples)
        assert not np.allclose(base, other)
