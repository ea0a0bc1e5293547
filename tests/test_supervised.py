"""A source that goes away and comes back, by clocks of the tests' own; what a device delivers, measured."""

import contextlib
import errno
import math
import os
import subprocess
import tempfile
import threading
import time
from contextlib import closing
from itertools import islice

import numpy as np
import pytest

from edge.errors import DeviceError, InputError
from edge.health import LOST
from edge.sources import host as host_module
from edge.sources import pulse as pulse_module
from edge.sources import url as url_module
from edge.sources.block import Block, Outage
from edge.sources.clock import StreamClock
from edge.sources.identity import Card, card_at, card_number, hardware, number_of
from edge.sources.pulse import SoundServer, Unanswered
from edge.sources.quality import Quality
from edge.sources.supervised import Supervised

RATE, LENGTH = 16_000, 8000


class Clock:
    """Time that passes when somebody sleeps; the wall's clock is an hour ahead, and may jump."""

    def __init__(self):
        self.now, self.ahead = 1000.0, 3600.0

    def __call__(self):
        return self.now

    def wall(self):
        return self.now + self.ahead

    def sleep(self, seconds):
        time.sleep(0.001)  # whoever opens a source does so in a thread
        self.now += seconds


class Flaky:
    """Half a second of sound at a time; ``script`` holds for each opening the number of its blocks, or an error."""

    name = "flaky"

    def __init__(self, clock, script, over=False):
        self.clock, self.script, self.over = clock, list(script), over
        self.openings, self.closed, self.away = 0, 0, False
        self.firsts = []

    def ready(self):
        return not self.away

    def ended(self):
        return self.over

    def blocks(self, sample_rate, length, first=None, channels=1):
        self.openings += 1
        self.firsts.append(first)
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        return self._blocks(step, length)

    def _blocks(self, count, length):
        try:
            for at in range(count):
                self.clock.now += length / RATE
                samples = np.full(length, self.openings, np.float32)
                yield Block(samples, at * length, self.clock.wall() - length / RATE)
            if not self.over:
                raise DeviceError("it stopped", remedy="plug it in")
        finally:
            self.closed += 1


def supervised(script, **options):
    clock = Clock()
    source = Flaky(clock, script, over=options.pop("over", False))
    wrapped = Supervised(source, clock=clock, wall=clock.wall, sleep=clock.sleep, **options)
    return clock, source, wrapped.blocks(RATE, LENGTH, 2 * LENGTH)


def until_block(blocks):
    """The outages until the next block, and that block."""
    outages = []
    for told in blocks:
        if isinstance(told, Block):
            return outages, told
        outages.append(told)
    raise AssertionError("it has ended")


def busy():
    return DeviceError("it is busy", remedy="stop the other", reason="busy")


def test_positions_go_on_by_the_clock():
    clock, source, blocks = supervised([3, 4])
    assert [b.position for b in islice(blocks, 3)] == [0, LENGTH, 2 * LENGTH]
    source.away = True
    outages = [next(blocks) for _ in range(10)]
    assert {o.reason for o in outages} == {"stopped"} <= set(LOST)
    assert outages[0].seconds == pytest.approx(0.0, abs=0.01)  # at once
    assert np.diff([o.seconds for o in outages]) == pytest.approx(1.0, abs=0.15)
    clock.ahead += 7200.0  # the computer learns the time meanwhile
    source.away = False
    before = clock.now
    _, block = until_block(blocks)
    assert clock.now - before < 2.0
    assert block.samples[0] == 2  # of the second opening
    gap = clock.now - LENGTH / RATE - outages[0].seconds - (1000.0 + 1.5)
    assert block.lost == pytest.approx(gap * RATE, abs=0.12 * RATE)
    assert block.position == 3 * LENGTH + block.lost
    after = next(blocks)
    assert (after.position, after.lost) == (block.position + LENGTH, 0)
    assert source.firsts == [2 * LENGTH, None]  # of the window at the beginning there is one
    blocks.close()
    assert source.closed == 2


def test_attempts_become_rarer_and_what_they_say_is_told():
    clock, source, blocks = supervised([1, *[busy() for _ in range(8)], 1])
    next(blocks)
    times = []
    for told in blocks:
        times.append((clock.now, source.openings))
        if isinstance(told, Block):
            break
        assert told.reason in ("stopped", "busy")
    assert told.samples[0] == 10
    assert clock.now - 1000.0 < 8 * 3.0 + 3.0  # never more than three seconds apart
    assert max(n for at, n in times if at < 1004.0) <= 5


def test_what_is_not_there_at_the_beginning():
    with pytest.raises(DeviceError, match="busy"):
        supervised([busy()])
    _, source, blocks = supervised([busy(), 1], wait=True)
    outages, block = until_block(blocks)
    assert [o.reason for o in outages[:1]] in ([], ["busy"])
    assert (block.position, block.lost) == (0, 0)
    assert source.firsts == [2 * LENGTH, 2 * LENGTH]


def test_a_loss_before_the_first_block_is_an_error_unless_it_is_waited_for():
    _, _, blocks = supervised([0])
    with pytest.raises(DeviceError, match="it stopped"):
        next(blocks)


def test_what_waiting_does_not_help_against_is_raised():
    wrong = InputError("there is no ffmpeg", remedy="install it")
    with pytest.raises(InputError):
        supervised([wrong])
    _, _, blocks = supervised([wrong], wait=True)
    with pytest.raises(InputError, match="no ffmpeg"):
        until_block(blocks)


def test_one_that_is_over_ends():
    _, source, blocks = supervised([2], over=True)
    assert len(list(blocks)) == 2
    assert (source.openings, source.closed) == (1, 1)


def test_it_can_be_closed_while_it_waits():
    _, source, blocks = supervised([1])
    with closing(blocks):
        next(blocks)
        source.away = True
        assert isinstance(next(blocks), Outage)
    assert source.openings == source.closed == 1


def calls(clock, seconds, start, written, *, rate=RATE, lump=1, noise=0.0, period=320):
    """Let a host call for ``seconds`` of its own clock, at ``rate``; returns the time and the position."""
    random = np.random.default_rng(0)
    n = round(seconds * rate / period)
    for i in range(n):
        written += period
        arrival = start + (i // lump + 1) * lump * period / rate + random.exponential(noise)
        clock.called(written, arrival, False)
    return start + n * period / rate, written


def test_the_clock_forgives_lumps_noise_and_a_stall_that_lost_nothing():
    clock = StreamClock(RATE)
    now, written = calls(clock, 20, 0.0, 0, lump=10, noise=0.03)
    for _ in range(50):  # a second in which nothing came, all of it at once
        written += 320
        clock.called(written, now + 1.0, False)
    now, written = calls(clock, 20, now + 1.0, written, lump=10, noise=0.03)
    assert clock.lost == 0
    assert clock.time_of(written) == pytest.approx(now, abs=0.02)


@pytest.mark.parametrize("gap", [0.1, 0.5, 10.0])
def test_a_gap_that_nobody_flags_is_counted(gap):
    clock = StreamClock(RATE)
    now, written = calls(clock, 20, 0.0, 0, noise=0.003)
    now, written = calls(clock, 4, now + gap, written, noise=0.003)
    assert clock.lost == pytest.approx(gap * RATE, abs=0.01 * RATE)
    lost = clock.lost
    now, written = calls(clock, 60, now, written, noise=0.003)
    assert clock.lost == lost
    assert clock.time_of(written) == pytest.approx(now, abs=0.02)
    assert abs(clock.drift_ppm) < 200  # a loss is no drift


@pytest.mark.parametrize("ppm", [-80, 0, 80, -20_000, 90_000])
def test_the_drift_is_known_after_a_minute(ppm):
    clock = StreamClock(RATE)
    rate = RATE * (1 + ppm / 1e6)
    now, written = calls(clock, 50, 0.0, 0, rate=rate, noise=0.001)
    assert clock.drift_ppm is None
    calls(clock, 40, now, written, rate=rate, noise=0.001)
    assert clock.drift_ppm == pytest.approx(ppm, abs=max(20, abs(ppm) * 0.05))


def test_an_hour_of_drift_loses_nothing():
    clock = StreamClock(RATE)
    now, written = calls(clock, 3600, 0.0, 0, rate=RATE * (1 - 100e-6), noise=0.002, period=1600)
    assert clock.lost == 0
    assert clock.time_of(written) == pytest.approx(now, abs=0.02)
    assert clock.drift_ppm == pytest.approx(-100, abs=5)


def test_hosts_lose_whole_periods():
    """JACK's: what the clock says of them is off by some milliseconds, and they are exact all the same."""
    clock = StreamClock(RATE, whole=True)
    random, written, now = np.random.default_rng(0), 0, 0.0
    for i in range(100):
        written, now = written + 512, now + 512 / RATE
        if i == 50:
            now += 2560 / RATE
        # One flag is of the loss; others are of nothing, before it is settled and after it.
        clock.called(written, now + random.uniform(0, 0.008), i in (20, 47, 50, 51, 70), 512)
    assert clock.lost == 2560


@pytest.mark.parametrize("period", [320, 1600, 4800, 8192])
def test_what_is_flagged_is_counted_once_whenever_it_happens(period):
    """Also where the calls that settle it last for seconds, in which what is lost is not yet known."""
    calls_a_second = RATE / period
    for phase in range(math.ceil(calls_a_second * 2)):
        clock, written, now = StreamClock(RATE), 0, 0.0
        for i in range(math.ceil(60 * calls_a_second)):
            written, now = written + period, now + period / RATE
            flagged, gap = (i == math.ceil(10 * calls_a_second) + phase, i == math.ceil(40 * calls_a_second))
            now += 0.5 * (flagged or gap)
            clock.called(written, now, flagged, period)
            if i == math.ceil(35 * calls_a_second):
                assert clock.lost == 8000, phase
        assert clock.lost == 16_000, phase
        assert abs(clock.drift_ppm) < 200, phase  # a loss is no drift


def test_quality_of_a_clean_signal():
    quality = Quality(RATE, 2)
    assert (quality.clipped, quality.dc_offset, quality.dead_channels) == (0.0, 0.0, ())
    sound = np.random.default_rng(0).uniform(-0.9, 0.9, (RATE, 2)).astype(np.float32)
    quality.push(sound)
    assert quality.clipped == 0
    assert abs(quality.dc_offset) < 0.02
    assert quality.dead_channels == ()


def test_quality_tells_clipping_offset_and_dead_channels():
    quality = Quality(RATE, 2)
    left = np.clip(np.sin(np.arange(RATE) / 5) * 2, -1, 32767 / 32768)
    quality.push(np.column_stack([left, np.zeros(RATE)]).astype(np.float32))
    assert quality.clipped == pytest.approx(np.mean(np.abs(left) > 0.9999) / 2)
    assert quality.dead_channels == (1,)
    for _ in range(6):  # all of it is forgotten
        quality.push(np.column_stack([np.full(RATE, -0.2), np.full(RATE, 0.1)]).astype(np.float32))
    assert quality.clipped == 0
    assert quality.dc_offset == pytest.approx(-0.2, abs=1e-4)
    assert quality.dead_channels == ()


def test_silence_is_not_dead():
    quality = Quality(RATE, 2)
    quality.push(np.zeros((RATE, 2), np.float32))
    assert quality.dead_channels == ()


def plug(root, number, card):
    """A card in a folder that stands for /proc/asound and /sys/class/sound."""
    folder = root / "proc" / f"card{number}"
    (folder / "pcm0c" / "sub0").mkdir(parents=True)
    (folder / "id").write_text(card.id + "\n")
    (folder / "pcm0c" / "sub0" / "status").write_text("closed\n")
    if card.usb:
        (folder / "usbid").write_text(card.usb + "\n")
        port = root / "devices" / card.port
        (port / f"{card.port}:1.0").mkdir(parents=True)
        if card.serial:
            (port / "serial").write_text(card.serial + "\n")
        (root / "sys" / f"card{number}").mkdir(parents=True)
        (root / "sys" / f"card{number}" / "device").symlink_to(port / f"{card.port}:1.0")


MIC = Card("Device", "0d8c:0014", "", "1-1.2")
CASES = {
    "the same, with another number": (MIC, [(2, MIC)], 2),
    "in another port, the only one": (MIC, [(1, Card("Device", "0d8c:0014", "", "1-1.4"))], 1),
    "twins, told apart by their port": (MIC, [(1, Card("Device_1", MIC.usb, "", "1-1.3")), (2, MIC)], 2),
    "a twin that is left, and one more": (
        MIC,
        [(1, Card("Device", MIC.usb, "", "1-1.3")), (2, Card("Device_1", MIC.usb, "", "1-1.4"))],
        None,
    ),
    "another microphone": (MIC, [(1, Card("Device", "046d:0825", "AB12", "1-1.2"))], None),
    "another serial number": (
        Card("Cam", "046d:0825", "AB12", "1-1"),
        [(1, Card("Cam", "046d:0825", "CD", "1-1"))],
        None,
    ),
    "no USB device": (Card("Loopback"), [(0, Card("PCH")), (1, Card("Loopback"))], 1),
    "nothing": (MIC, [], None),
}


@pytest.mark.parametrize("case", CASES)
def test_a_card_is_known_again(tmp_path, case):
    wanted, there, number = CASES[case]
    for at, card in there:
        plug(tmp_path, at, card)
        assert card_at(at, tmp_path / "proc", tmp_path / "sys") == card
    assert number_of(wanted, tmp_path / "proc", tmp_path / "sys") == number


def test_the_number_in_a_name():
    assert card_number("USB PnP Sound Device: Audio (hw:12,0)") == 12
    assert card_number("pulse") is None


def test_what_comes_goes_or_is_taken_is_seen(tmp_path):
    seen = [hardware(tmp_path / "proc")]
    plug(tmp_path, 1, MIC)
    (tmp_path / "proc" / "cards").write_text(" 1 [Device]: USB-Audio\n")
    seen.append(hardware(tmp_path / "proc"))
    (tmp_path / "proc" / "card1" / "pcm0c" / "sub0" / "status").write_text("state: RUNNING\nhw_ptr: 12\n")
    seen.append(hardware(tmp_path / "proc"))
    (tmp_path / "proc" / "card1" / "pcm0c" / "sub0" / "status").write_text("state: RUNNING\nhw_ptr: 99\n")
    assert hardware(tmp_path / "proc") == seen[-1]  # it moves on by itself
    assert len(set(seen)) == 3


class Stream:
    """Open until somebody closes it."""

    def __init__(self, taking=0.0):
        self.taking, self.open = taking, True

    def close(self, ignore_errors=True):
        time.sleep(self.taking)
        self.open = False


class PortAudio:
    """As far as it is started and ended."""

    PortAudioError, _libname = RuntimeError, "none"

    def __init__(self, streams):
        self.streams, self.starts = streams, 0

    def _terminate(self):
        assert not any(stream.open for stream in self.streams)

    def _initialize(self):
        self.starts += 1


@pytest.fixture
def host(monkeypatch):
    """A host with two streams; what is around it can be changed."""
    around, streams = [""], [Stream(), Stream()]
    portaudio = PortAudio(streams)
    monkeypatch.setattr(host_module, "portaudio", lambda: portaudio)
    monkeypatch.setattr(host_module, "surroundings", lambda: around[0])
    host = host_module.Host()
    with host.using():
        for stream in streams:
            host.add(stream, yields=True)
    return host, portaudio, streams, around


def test_portaudio_is_started_anew_once_for_each_change(host):
    host, portaudio, streams, around = host
    for stream in streams:
        host.close(stream)
    assert not host.renew()
    around[0] = "a card"
    assert host.renew()
    assert not host.renew()
    assert portaudio.starts == host.renewals == 1


def test_others_close_for_that_moment(host):
    host, portaudio, streams, around = host
    around[0] = "a card"

    def follow(stream):
        while not host.yielding:
            time.sleep(0.01)
        host.close(stream)

    followers = [threading.Thread(target=follow, args=(stream,)) for stream in streams]
    for follower in followers:
        follower.start()
    assert host.renew()
    for follower in followers:
        follower.join()
    assert (portaudio.starts, host.yielding) == (1, False)


def test_one_that_does_not_yield_is_left_alone(host, monkeypatch):
    host, portaudio, _, around = host
    around[0] = "a card"
    monkeypatch.setattr(host_module, "YIELDING_SECONDS", 0.1)
    assert not host.renew()  # they do not close
    host.add(Stream(), yields=False)
    assert not host.renew()
    assert portaudio.starts == 0


def test_a_stream_that_hangs_in_closing_is_not_waited_for(host, monkeypatch):
    host, _, streams, _ = host
    monkeypatch.setattr(host_module, "CLOSING_SECONDS", 0.05)
    streams[0].taking = 0.3
    before = time.monotonic()
    host.close(streams[0])
    assert time.monotonic() - before < 0.25
    assert not host.usable
    until = time.monotonic() + 5
    while not host.usable and time.monotonic() < until:
        time.sleep(0.02)
    assert host.usable


def test_a_sound_server_that_hangs_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(pulse_module, "_library", lambda: None)
    server, pause = SoundServer(), threading.Event()
    server._connected = lambda: "pulse"
    with pytest.raises(Unanswered):
        server.ask(lambda _: pause.wait(), timeout=0.05)
    with pytest.raises(Unanswered):  # while it hangs, nothing is answered
        server.ask(lambda pulse: pulse, timeout=0.05)
    pause.set()
    until = time.monotonic() + 5
    while time.monotonic() < until:
        with contextlib.suppress(Unanswered):
            assert server.ask(lambda pulse: pulse, timeout=5) == "pulse"
            return
    pytest.fail("it does not answer any more")


@pytest.fixture
def ffmpeg(monkeypatch, tmp_path):
    """Puts a shell script in the place of ffmpeg."""

    def install(script):
        path = tmp_path / "ffmpeg"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return install


def unreachable(blocks, match):
    with pytest.raises(InputError, match=match) as error:
        next(blocks)
    assert error.value.reason == "unreachable"
    assert "secret" not in str(error.value)


# The second one says something all the time, which is no sound.
@pytest.mark.parametrize("then", ["exec sleep 100", "while :; do echo of no use >&2; sleep 0.02; done"])
def test_a_stream_of_the_network_that_stalls_is_lost(monkeypatch, ffmpeg, then):
    ffmpeg(f"head -c 64000 /dev/zero; {then}")
    monkeypatch.setattr(url_module, "STALL_SECONDS", 0.2)
    blocks = url_module.UrlStream("rtsp://me:secret@cam/1").blocks(RATE, LENGTH)
    for _ in range(4):
        next(blocks)
    unreachable(blocks, r"no sound for 0\.2 s")


@pytest.mark.parametrize(
    ("url", "pace", "over"),
    [("http://host/a.ogg", "", True), ("rtsp://cam/1", "", False), ("http://host/radio", "sleep 1.5", False)],
)
def test_a_recording_ends_and_a_live_stream_is_lost(ffmpeg, url, pace, over):
    ffmpeg(f"head -c 48000 /dev/zero; {pace}")  # a second and a half
    stream = url_module.UrlStream(url)
    assert len(list(stream.blocks(RATE, LENGTH))) == 3
    assert stream.ended() is over


@pytest.mark.parametrize("size", [0, 48_000])
def test_an_ffmpeg_that_does_not_end_after_its_output_is_killed(monkeypatch, ffmpeg, size):
    ffmpeg(f"head -c {size} /dev/zero; exec >&-; exec sleep 100")
    monkeypatch.setattr(url_module, "ENDING_SECONDS", 0.1)
    before = time.monotonic()
    blocks = url_module.UrlStream("rtsp://cam/1").blocks(RATE, LENGTH)
    for _ in range(size // 16_000):
        next(blocks)
    unreachable(blocks, "cannot be heard: it has ended")
    assert time.monotonic() - before < 5


def test_of_what_ffmpeg_complains_of_the_end_is_kept_and_in_memory(monkeypatch, ffmpeg, tmp_path):
    """More than its pipe holds, which must not hold it up; and nothing is written, as where no disk takes it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no folder"))
    complaints = "yes 'a broken packet' | head -c 300000 >&2"
    ffmpeg(f"{complaints}; head -c 16000 /dev/zero; echo rtsp://me:secret@cam: 404 >&2; exit 1")
    blocks = url_module.UrlStream("rtsp://me:secret@cam").blocks(RATE, LENGTH)
    next(blocks)
    unreachable(blocks, "^rtsp://cam cannot be heard: rtsp://cam: 404 ")


def test_an_ffmpeg_that_cannot_be_started_is_waited_for(monkeypatch, ffmpeg):
    def refuse(*_, **__):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    ffmpeg("")
    monkeypatch.setattr(subprocess, "Popen", refuse)
    unreachable(url_module.UrlStream("rtsp://cam/1").blocks(RATE, LENGTH), "ffmpeg cannot be started: Cannot allocate")
