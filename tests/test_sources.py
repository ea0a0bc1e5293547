"""Sound files and raw PCM: formats, rates, channels, and everything that can be wrong with them."""

import io
import os
import struct
import subprocess
import time
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.audio import to_channels
from edge.errors import InputError
from edge.sources.block import Block
from edge.sources.file import SoundFile
from edge.sources.pcm import PcmStream
from edge.sources.reblock import reblock
from edge.sources.watched import Watched

RATE = 16_000


def tone(frequency: float, seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    wave = 0.3 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)
    return np.repeat(wave[:, None], channels, axis=1)


def strongest(samples: np.ndarray, rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * rate / len(samples))


@pytest.mark.parametrize(
    ("suffix", "rate", "channels", "subtype"),
    [
        ("wav", 16_000, 1, "PCM_16"),
        ("wav", 8_000, 1, "ULAW"),
        ("wav", 44_100, 2, "PCM_24"),
        ("wav", 48_000, 6, "FLOAT"),
        ("wav", 192_000, 8, "PCM_32"),
        ("wav", 11_025, 1, "PCM_U8"),
        ("flac", 96_000, 2, None),
        ("ogg", 32_000, 1, "VORBIS"),
        ("ogg", 48_000, 2, "OPUS"),
        ("mp3", 44_100, 2, None),
        ("aiff", 22_050, 1, None),
    ],
)
def test_every_format_rate_and_channel_count(tmp_path, suffix, rate, channels, subtype):
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, tone(1000, 2.0, rate, channels), rate, subtype=subtype)
    samples = SoundFile(path).read(RATE)
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(2.0 * RATE, rel=0.03)  # MP3 pads
    middle = samples[4000:28_000]
    assert strongest(middle, RATE) == pytest.approx(1000, abs=2)
    assert np.abs(middle).max() == pytest.approx(0.3, rel=0.1)


def test_channel_and_mix(tmp_path):
    path = tmp_path / "stereo.wav"
    soundfile.write(path, np.column_stack([np.full(4000, 0.5), np.full(4000, -0.25)]), RATE, subtype="FLOAT")
    assert np.allclose(SoundFile(path).read(RATE), 0.125)
    assert np.allclose(SoundFile(path, channel=0).read(RATE), 0.5)
    assert np.allclose(SoundFile(path, channel=1).read(RATE), -0.25)
    with pytest.raises(InputError, match=r"channel 2 .* has 2"):
        SoundFile(path, channel=2).read(RATE)


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_a_mix_is_the_mean_and_leaves_the_channels_alone(channels):
    samples = np.random.default_rng(1).standard_normal((1000, channels)).astype(np.float32)
    before = samples.copy()
    mixed = to_channels(samples, 1)
    assert mixed.dtype == np.float32
    assert np.allclose(mixed, samples.mean(axis=1), atol=1e-6)
    assert np.array_equal(samples, before)


def test_two_channels(tmp_path):
    """Of stereo both, of one channel or a chosen one that twice, of more the first two."""
    rng = np.random.default_rng(0)
    for n, expected in ((1, [0, 0]), (2, [0, 1]), (6, [0, 1])):
        samples = rng.uniform(-0.5, 0.5, (4000, n)).astype(np.float32)
        soundfile.write(tmp_path / "x.wav", samples, RATE, subtype="FLOAT")
        assert np.array_equal(SoundFile(tmp_path / "x.wav").read(RATE, 2), samples[:, expected])
        chosen = SoundFile(tmp_path / "x.wav", channel=n - 1).read(RATE, 2)
        assert np.array_equal(chosen, samples[:, [n - 1, n - 1]])


def test_two_channels_are_resampled_each_for_itself(tmp_path):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (50_000, 2))
    soundfile.write(tmp_path / "x.wav", samples, 44_100, subtype="FLOAT")
    blocks = list(SoundFile(tmp_path / "x.wav").blocks(RATE, 1000, None, 2))
    assert {b.samples.shape for b in blocks[:-1]} == {(1000, 2)}
    both = np.concatenate([b.samples for b in blocks])
    for channel in (0, 1):
        assert np.allclose(both[:, channel], SoundFile(tmp_path / "x.wav", channel=channel).read(RATE), atol=1e-6)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
@pytest.mark.parametrize(("start", "end"), [(0.5, 1.25), (0.0, 0.1), (1.9, None), (1.9, 60.0), (0.0, np.inf)])
def test_a_segment_is_that_part_of_the_recording(tmp_path, suffix, start, end):
    path = tmp_path / f"x.{suffix}"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.3, 0.3, 2 * RATE), RATE)
    whole = SoundFile(path).read(RATE)
    part = SoundFile(path, start=start, end=end).read(RATE)
    assert np.array_equal(part, whole[round(start * RATE) : None if end in (None, np.inf) else round(end * RATE)])


def test_segments_that_are_none(tmp_path, tone_wav):
    for start, end, message in (
        (5.0, None, r"ends at 5\.000 s, before its segment from 5 s"),
        (2.0, 2.0, "2 to 2 s of .* is no segment"),
        (-1.0, 2.0, "-1 to 2 s of .* is no segment"),
        (float("nan"), None, "is no segment"),
    ):
        with pytest.raises(InputError, match=message):
            SoundFile(tone_wav, start=start, end=end).read(RATE)


def test_a_cut_file_is_told_by_the_segment_that_reaches_the_cut(tmp_path):
    path = tmp_path / "cut.flac"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 80_000), RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert len(SoundFile(path, end=1.0).read(RATE)) == RATE
    with pytest.raises(InputError, match=r"truncated|cannot be read"):
        SoundFile(path, start=1.0).read(RATE)


def test_resampled_blocks_equal_the_whole(tmp_path):
    path = tmp_path / "noise.flac"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 150_000), 44_100)
    blocks = list(SoundFile(path).blocks(RATE, 1000))
    assert {len(b.samples) for b in blocks[:-1]} == {1000}
    assert [b.position for b in blocks] == list(range(0, 1000 * len(blocks), 1000))
    assert np.array_equal(np.concatenate([b.samples for b in blocks]), SoundFile(path).read(RATE))
    assert all(b.lost == 0 for b in blocks)


@given(st.lists(st.integers(0, 50), max_size=20), st.integers(1, 40), st.none() | st.integers(1, 60))
@settings(deadline=None)
def test_reblock_keeps_every_sample(sizes, length, first):
    samples = np.arange(sum(sizes), dtype=np.float32)
    chunks = np.split(samples, np.cumsum(sizes)[:-1]) if sizes else []
    blocks = list(reblock(chunks, length, first))
    assert np.array_equal(np.concatenate([*blocks, samples[:0]]), samples)
    wanted = [first or length] + [length] * len(blocks)
    assert all(len(block) == want for block, want in zip(blocks[:-1], wanted, strict=False))
    assert all(0 < len(block) <= want for block, want in zip(blocks, wanted, strict=False))


def test_realtime_keeps_the_recording_s_pace(tone_wav):
    started = time.monotonic()
    for block in SoundFile(tone_wav, realtime=True).blocks(RATE, 4000):
        due = (block.position + len(block.samples)) / RATE
        assert time.monotonic() - started >= due - 0.02
        if due >= 0.75:
            break
    assert time.monotonic() - started < 1.5


def assert_fails(path, match):
    with pytest.raises(InputError, match=match) as error:
        SoundFile(path).read(RATE)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 5


def test_missing_file(tmp_path):
    assert_fails(tmp_path / "no.wav", "does not exist")


def test_folder(tmp_path):
    assert_fails(tmp_path, "is a folder")


def test_empty_file(tmp_path):
    (tmp_path / "empty.wav").touch()
    assert_fails(tmp_path / "empty.wav", "is empty")


def test_not_a_sound_file(tmp_path):
    (tmp_path / "text.wav").write_text("no sound here, only words\n" * 100)
    assert_fails(tmp_path / "text.wav", "cannot be read: .*")


def test_a_pipe_without_sound_is_not_waited_for_again(tmp_path, monkeypatch):
    os.mkfifo(pipe := tmp_path / "pipe")
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("who opens it once more waits for another writer"))
    with subprocess.Popen(["tee", pipe], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as writer:
        writer.stdin.write(b"no sound here, only words\n")
        writer.stdin.close()
        assert_fails(pipe, "cannot be read: .*")


def test_file_without_samples(tmp_path):
    soundfile.write(tmp_path / "zero.wav", np.zeros(0), RATE)
    assert_fails(tmp_path / "zero.wav", "has no samples")


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff", "au", "w64", "rf64", "caf", "ogg", "opus", "mp3"])
def test_truncated_file(tmp_path, suffix):
    path = tmp_path / f"cut.{suffix}"
    format_ = "OGG" if suffix == "opus" else suffix.upper()
    subtype = "OPUS" if suffix == "opus" else None
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 80_000)
    soundfile.write(path, samples, RATE, format=format_, subtype=subtype)
    assert len(SoundFile(path).read(RATE)) == pytest.approx(80_000, abs=2000)  # MP3 pads
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert_fails(path, "truncated|cannot be read")


@pytest.mark.parametrize(("rate", "tag"), [(RATE, 30_000), (44_100, 0), (44_100, 30_000)])
def test_mp3_without_its_length_is_not_taken_for_truncated(tmp_path, rate, tag):
    """Of a constant bit rate, as old encoders wrote it: libsndfile guesses a length, and a tag makes it guess more."""
    path = tmp_path / "old.mp3"
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 5 * rate)
    soundfile.write(path, samples, rate, format="MP3", bitrate_mode="CONSTANT", compression_level=0.5)
    data = path.read_bytes()
    second = data.index(data[:2], data.index(b"Info"))  # the first frame holds the length alone
    path.write_bytes((id3(tag) if tag else b"") + data[second:])
    assert soundfile.info(path).frames > len(soundfile.read(path)[0])  # else this would test nothing
    assert len(SoundFile(path).read(rate)) == pytest.approx(5 * rate, abs=3000)


def id3(length):
    """A tag of ``length`` bytes, such as a picture."""
    return b"ID3\x03\x00\x00" + bytes((length >> shift) & 0x7F for shift in (21, 14, 7, 0)) + bytes(length)


def test_mp3_with_a_tag_is_found_truncated(tmp_path):
    path = tmp_path / "cut.mp3"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 80_000), RATE, format="MP3")
    data = id3(20_000) + path.read_bytes()
    path.write_bytes(data)
    assert len(SoundFile(path).read(RATE)) == pytest.approx(80_000, abs=2000)
    path.write_bytes(data[: (20_000 + len(data)) // 2])
    assert_fails(path, "truncated|cannot be read")


def test_streamed_wav_is_not_taken_for_truncated(tmp_path, tone_wav):
    path, data = tmp_path / "piped.wav", bytearray(tone_wav.read_bytes())
    at = data.index(b"data") + 4
    data[4:8] = data[at : at + 4] = b"\xff\xff\xff\xff"  # what ffmpeg writes into a pipe
    path.write_bytes(data)
    assert len(SoundFile(path).read(RATE)) == 80_000


def test_truncated_header(tmp_path, tone_wav):
    (tmp_path / "cut.wav").write_bytes(tone_wav.read_bytes()[:30])
    assert_fails(tmp_path / "cut.wav", "cannot be read")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_values_that_are_no_samples(tmp_path, bad):
    samples = tone(500, 1.0, RATE)[:, 0]
    samples[8000] = bad
    soundfile.write(tmp_path / "bad.wav", samples, RATE, subtype="FLOAT")
    assert_fails(tmp_path / "bad.wav", r"no sample, .*, at 0\.500 s")


@pytest.mark.parametrize(("channels", "rate"), [(1, 1), (1, 4_000_000), (500, 16_000)])
def test_absurd_headers(tmp_path, channels, rate):
    path = tmp_path / "absurd.wav"
    size = 2 * channels
    header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + 64 * size, b"WAVE", b"fmt ", 16, 1, channels, rate,
                         (rate * size) & 0xFFFFFFFF, size, 16, b"data", 64 * size)  # fmt: skip
    path.write_bytes(header + bytes(64 * size))
    assert_fails(path, "claims|cannot be read")


def test_unreadable_file(tone_wav, monkeypatch):
    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(soundfile, "SoundFile", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    assert_fails(tone_wav, "Permission denied")


def test_names_that_are_no_text(tmp_path, tone_wav):
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    path.write_bytes(tone_wav.read_bytes())
    assert len(SoundFile(path).read(RATE)) == 80_000


def test_a_name_that_is_too_long(tmp_path):
    assert_fails(tmp_path / ("x" * 300 + ".wav"), "cannot be read: File name too long")


def test_a_format_that_cannot_be_told(tmp_path):
    (tmp_path / "x.raw").write_bytes(bytes(1000))
    assert_fails(tmp_path / "x.raw", "cannot be read")


class Trickle(io.RawIOBase):
    """A pipe that gives a few bytes at a time, not whole samples."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, _size: int = -1) -> bytes:
        piece, self.data = self.data[:7], self.data[7:]
        return piece


def test_raw_pcm_in_odd_pieces():
    values = np.arange(-3000, 3000, dtype="<i2")
    stream = PcmStream(RATE, 2, channel=1, file=Trickle(values.tobytes()))
    samples = np.concatenate([b.samples for b in stream.blocks(RATE, 100)])
    assert np.allclose(samples, values[1::2] / 32768)


class HungUp(io.RawIOBase):
    """A pipe of odd pieces that a signal interrupts, before every third of them."""

    def __init__(self, data: bytes) -> None:
        self.pipe, self.calls = Trickle(data), 0

    def read(self, size: int = -1) -> bytes:
        self.calls += 1
        if self.calls % 3 == 0:
            raise KeyboardInterrupt
        return self.pipe.read(size)


def test_raw_pcm_stays_in_step_over_a_reload():
    """Wherever a stream ends, in the middle of a frame or of a wait: another one goes on with a whole frame."""
    values = np.repeat(np.arange(900, dtype="<i2"), 2).reshape(-1, 2) * np.array([1, -1], "<i2")
    pipe, heard = HungUp(values.tobytes()), []
    while pipe.pipe.data:
        with suppress(KeyboardInterrupt):
            heard.extend(b.samples * 32768 for b in PcmStream(RATE, 2, file=pipe).blocks(RATE, 1, None, 2))
    heard = np.concatenate(heard)
    assert len(heard) > 100
    assert np.array_equal(heard[:, 0], -heard[:, 1])
    assert np.isin(heard, values).all()
    assert (np.diff(heard[:, 0]) > 0).all()


def test_raw_pcm_of_two_channels():
    values = np.random.default_rng(0).integers(-3000, 3000, (900, 2)).astype("<i2")
    stream = PcmStream(RATE, 2, file=Trickle(values.tobytes()))
    samples = np.concatenate([b.samples for b in stream.blocks(RATE, 100, None, 2)])
    assert np.array_equal(samples, values.astype(np.float32) / 32768)


def test_raw_pcm_is_resampled():
    values = (tone(1000, 1.0, 48_000)[:, 0] * 32767).astype("<i2")
    stream = PcmStream(48_000, file=io.BytesIO(values.tobytes()))
    samples = np.concatenate([b.samples for b in stream.blocks(RATE, 800)])
    assert len(samples) == RATE
    assert strongest(samples, RATE) == pytest.approx(1000, abs=2)


def test_raw_pcm_is_timed_when_it_came():
    """A pipe is live: its last sample is as old as the reading of it."""
    before = time.time()
    blocks = list(PcmStream(RATE, file=io.BytesIO(bytes(2 * RATE))).blocks(RATE, 800))
    for block in blocks:
        assert before - 0.1 <= block.adc_time + len(block.samples) / RATE <= time.time() + 0.001


def test_a_recording_is_timed_as_it_would_be_played(tmp_path):
    """However fast it is read: what comes later in it is later, by as much."""
    soundfile.write(tmp_path / "a.wav", np.zeros(10 * RATE), RATE)
    before = time.time()
    times = [b.adc_time - b.position / RATE for b in SoundFile(tmp_path / "a.wav").blocks(RATE, 800)]
    assert before - 0.05 <= min(times)
    assert max(times) <= time.time()
    assert max(times) - min(times) < 0.1


def test_who_takes_longer_than_it_lasts_is_not_behind(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(1600), RATE)
    for block in SoundFile(tmp_path / "a.wav").blocks(RATE, 400):
        assert time.time() - (block.adc_time + len(block.samples) / RATE) < 0.04
        time.sleep(0.05)  # of 0.025 s of sound


def test_raw_pcm_without_a_sample():
    with pytest.raises(InputError, match="ended without a sample"):
        list(PcmStream(RATE, file=io.BytesIO(b"\x01")).blocks(RATE, 100))


@pytest.mark.parametrize(("rate", "channels", "channel"), [(10, 1, None), (RATE, 0, None), (RATE, 2, 2)])
def test_impossible_raw_pcm(rate, channels, channel):
    with pytest.raises(InputError):
        PcmStream(rate, channels, channel=channel)


def test_a_source_is_watched():
    class Numbers:
        name = "numbers"
        closed = False

        def blocks(self, sample_rate, length, first=None, channels=1):
            assert (sample_rate, length, first, channels) == (16_000, 500, 4000, 1)
            try:
                for at in range(0, 20_000, 500):
                    yield Block(np.full(500, 0.5, np.float32), at, 0.0)
            finally:
                Numbers.closed = True

    seen = []
    watched = Watched(Numbers(), seen.append)
    assert watched.name == "numbers"
    with closing(watched.blocks(16_000, 500, 4000)) as blocks:
        taken = [next(blocks) for _ in range(10)]
    assert taken == seen
    assert taken[-1].position == 4500
    assert Numbers.closed
