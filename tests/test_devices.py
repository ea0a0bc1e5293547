"""Microphones by index, id and name; and every way in which a device can refuse. PortAudio is faked only where no real
device can be made to behave so; ``test_microphone_real.py`` goes through the real one."""

import builtins
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from edge.errors import DeviceError
from edge.sources import capture as capture_module
from edge.sources import devices as devices_module
from edge.sources import host as host_module
from edge.sources import microphone as microphone_module
from edge.sources.devices import InputDevice, find_device, input_devices
from edge.sources.microphone import Microphone

DEVICES = [
    InputDevice(0, "alsa-hda-intel-pch-analog", "HDA Intel PCH: Analog (hw:0,0)", 2, 48_000, False),
    InputDevice(3, "alsa-usb-pnp-sound-device-audio", "USB PnP Sound Device: Audio (hw:1,0)", 1, 44_100, True),
    InputDevice(4, "alsa-usb-pnp-sound-device-audio#2", "USB PnP Sound Device: Audio (hw:2,0)", 1, 44_100, False),
]


class PortAudioError(Exception):
    pass


class FakeStream:
    """A stream whose callback the test calls."""

    def __init__(self, callback, **options):
        self.callback, self.options, self.active = callback, options, True
        self.created = time.time()

    @property
    def time(self):
        """The stream's clock, which goes on like any other."""
        return time.time() - self.created

    def start(self):
        pass

    def close(self, ignore_errors=True):
        self.active = False


class FakePortAudio:
    """sounddevice's surface as far as we use it, with one device at 44.1 kHz."""

    PortAudioError = PortAudioError

    def __init__(self, rates=(44_100,), check_error=("Invalid sample rate", -9997), open_error=None):
        self.rates, self.check_error, self.open_error = rates, check_error, open_error
        self.default = SimpleNamespace(device=(0, 0))
        self.devices = [
            {
                "index": 0,
                "hostapi": 0,
                "name": "USB Mic (hw:1,0)",
                "max_input_channels": 2,
                "default_samplerate": 44_100.0,
            }
        ]
        self.stream = None

    def query_hostapis(self):
        return [{"name": "ALSA", "devices": [d["index"] for d in self.devices]}]

    def query_devices(self, device=None, kind=None):
        found = next(d for d in self.devices if d["index"] == (0 if kind else device))
        return found | {"name": found["name"].decode() if isinstance(found["name"], bytes) else found["name"]}

    def check_input_settings(self, samplerate, **_):
        if samplerate not in self.rates:
            raise PortAudioError(*self.check_error)

    def InputStream(self, **options):  # noqa: N802
        if self.open_error:
            raise PortAudioError(*self.open_error)
        self.stream = FakeStream(**options)
        return self.stream


@pytest.fixture
def fake(monkeypatch):
    def install(**options):
        portaudio = FakePortAudio(**options)
        monkeypatch.setattr(devices_module, "portaudio", lambda: portaudio)
        monkeypatch.setattr(capture_module, "portaudio", lambda: portaudio)
        monkeypatch.setattr(host_module, "portaudio", lambda: portaudio)
        monkeypatch.setattr(host_module, "surroundings", lambda: "")
        monkeypatch.setattr(microphone_module, "HOST", host_module.Host())
        return portaudio

    return install


def assert_refuses(match, run):
    with pytest.raises(DeviceError, match=match) as error:
        run()
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 4


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (None, 3),
        (0, 0),
        ("4", 4),
        ("alsa-usb-pnp-sound-device-audio", 3),
        ("ALSA-USB-PnP-sound-device-audio#2", 4),
        ("HDA Intel PCH: Analog (hw:0,0)", 0),
        ("intel", 0),
        ("hda-intel", 0),
        ("(hw:2,0)", 4),
    ],
)
def test_a_device_is_found(wanted, index):
    assert find_device(wanted, DEVICES).index == index


def test_a_device_that_is_not_there():
    assert_refuses("no input device matches 'webcam'.*there are: 0 'HDA", lambda: find_device("webcam", DEVICES))
    assert_refuses("no input device matches '7'", lambda: find_device(7, DEVICES))


def test_a_name_of_several_devices():
    assert_refuses(r"'usb' matches 2 input devices \(choose by id: alsa-usb.*#2\)", lambda: find_device("usb", DEVICES))


def test_no_device_at_all():
    assert_refuses("there is no input device .*--input FILE", lambda: find_device(None, []))


def test_ids_do_not_contain_card_numbers(fake):
    portaudio = fake()
    twin = portaudio.devices[0] | {"index": 5, "name": "USB Mic (hw:3,0)"}
    output = portaudio.devices[0] | {"index": 6, "max_input_channels": 0}
    portaudio.devices += [twin, output]
    assert [d.id for d in input_devices()] == ["alsa-usb-mic", "alsa-usb-mic#2"]
    assert [d.is_default for d in input_devices()] == [True, False]


def test_a_name_that_is_cut_within_a_character_hides_no_other_device(fake, caplog):
    """Also where it is the default one."""
    portaudio = fake()
    cut = portaudio.devices[0] | {"name": "USB Микрофон".encode()[:-1]}
    portaudio.devices = [cut, portaudio.devices[0] | {"index": 1}]
    assert [(d.index, d.is_default) for d in [*input_devices(), *input_devices()]] == [(1, False)] * 2
    assert [r.getMessage().partition(" is passed over")[0] for r in caplog.records] == ["'USB Микрофо\ufffd'"]


def test_no_portaudio_library(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "sounddevice":
            raise OSError("PortAudio library not found")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    assert_refuses("PortAudio library is not installed .*libportaudio2", lambda: next(Microphone().blocks(16_000, 100)))


def test_a_device_that_refuses_every_rate(fake):
    fake(rates=())
    assert_refuses("'USB Mic .* refuses every sample rate: Invalid", lambda: next(Microphone().blocks(16_000, 100)))


@pytest.mark.parametrize(
    "options", [{"rates": (), "check_error": ("unavailable", -9985)}, {"open_error": ("unavailable", -9985)}]
)
def test_a_busy_device(fake, options):
    fake(**options)
    assert_refuses("'USB Mic .* is busy", lambda: next(Microphone().blocks(16_000, 100)))


def test_a_device_that_cannot_be_opened(fake):
    fake(open_error=("Unanticipated host error [PaErrorCode -9999]", -9999))
    assert_refuses("cannot be opened: Unanticipated host error", lambda: next(Microphone().blocks(16_000, 100)))


def test_a_channel_that_is_not_there(fake):
    fake()
    assert_refuses("channel 2 of 'USB Mic .*it has 2", lambda: next(Microphone(channel=2).blocks(16_000, 100)))


def deliver(portaudio, samples, rate, start, overflow=False):
    """Call the stream's callback as PortAudio would."""
    times = SimpleNamespace(inputBufferAdcTime=1.0 + start / rate, currentTime=1.0 + start / rate)
    wanted = portaudio.stream.options["channels"]
    portaudio.stream.callback(samples[:, :wanted], len(samples), times, SimpleNamespace(input_overflow=overflow))


def started(microphone, portaudio, sample_rate, length, samples, rate, piece=441, first=None, channels=1):
    """The microphone's blocks, with ``samples`` already delivered by the time that the first is asked for."""
    opened = portaudio.InputStream

    def open_and_deliver(**options):
        stream = opened(**options)
        for start in range(0, len(samples), piece):
            deliver(portaudio, samples[start : start + piece], rate, start)
        return stream

    portaudio.InputStream = open_and_deliver
    return microphone.blocks(sample_rate, length, first, channels)


def test_native_rate_is_resampled_and_channels_are_chosen(fake):
    portaudio = fake()
    wave = np.sin(2 * np.pi * 1000 * np.arange(88_200) / 44_100)
    samples = np.column_stack([wave * 0.5, wave * 0]).astype(np.float32)
    for channel, level in ((None, 0.25), (0, 0.5), (1, 0.0)):
        portaudio = fake()
        microphone = Microphone(channel=channel)
        blocks = started(microphone, portaudio, 16_000, 8000, samples, 44_100)
        got = [next(blocks) for _ in range(3)]
        blocks.close()
        assert microphone.rate == 44_100
        assert [b.position for b in got] == [0, 8000, 16_000]
        assert np.abs(got[1].samples).max() == pytest.approx(level, abs=0.01)
        assert got[1].adc_time - got[0].adc_time == pytest.approx(0.5, abs=1e-3)
        assert not portaudio.stream.active  # closing the iterator closes the device


def test_two_channels_are_captured(fake):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (1600, 2)).astype(np.float32)
    for channel, expected in ((None, [0, 1]), (1, [1, 1])):
        portaudio = fake(rates=(16_000,))
        blocks = started(Microphone(channel=channel), portaudio, 16_000, 1600, samples, 16_000, channels=2)
        assert np.array_equal(next(blocks).samples, samples[:, expected])


def test_what_is_no_sample_is_silence(fake, caplog):
    """Of a float device, or a filter before it, that is broken."""
    samples = np.full((4800, 2), 0.5, np.float32)
    samples[100, 0], samples[200, 1], samples[2000], samples[3000, 0] = np.nan, np.inf, -np.inf, 1e9
    portaudio = fake(rates=(16_000,))
    blocks = started(Microphone(), portaudio, 16_000, 1600, samples, 16_000, channels=2)
    got = [next(blocks) for _ in range(3)]
    assert [(int(place), channel) for place, channel in np.argwhere(np.concatenate([b.samples for b in got]) == 0)] == [
        (100, 0), (200, 1), (2000, 0), (2000, 1), (3000, 0),
    ]  # fmt: skip
    assert all(0.4 < b.signal.dc_offset < 0.6 for b in got)
    assert [r.getMessage() for r in caplog.records if "no sample" in r.getMessage()] == [
        f"{portaudio.devices[0]['name']!r} delivers what is no sample, nan; it is heard as silence"
    ]


def test_a_gap_is_measured_by_the_clock(fake, monkeypatch):
    """Flags say that samples are missing, not how many."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "time", lambda: now[0] + 1e9)
    portaudio = fake(rates=(16_000,))
    piece = np.ones((320, 2), np.float32)

    def hear(calls, overflow=False):
        for call in range(calls):
            now[0] += 0.02
            deliver(portaudio, piece, 16_000, 0, overflow=overflow and call == 0)

    blocks = started(Microphone(), portaudio, 16_000, 3200, piece[:0], 16_000)
    hear(10)
    first = next(blocks)
    assert (first.position, first.lost) == (0, 0)
    now[0] += 0.25  # 4000 samples never came
    hear(10, overflow=True)
    second = next(blocks)
    assert (second.lost, second.position, second.overflows) == (4000, 7200, 1)
    assert second.adc_time - first.adc_time == pytest.approx(0.2 + 0.25, abs=0.002)
    hear(10)
    third = next(blocks)
    assert (third.lost, third.position, third.overflows) == (0, 10_400, 0)


def test_a_listener_that_is_too_slow_loses_the_oldest(fake):
    portaudio = fake(rates=(16_000,))
    ramp = np.arange(16_000 * 12, dtype=np.float32)[:, None].repeat(2, axis=1) / 1e6
    blocks = started(Microphone(), portaudio, 16_000, 1600, ramp, 16_000, piece=1600)
    first = next(blocks)
    assert first.lost == first.position == 16_000 * 7  # of 12 seconds, the newest half of the ring's ten are left
    assert np.array_equal(first.samples, ramp[first.position : first.position + 1600, 0])


def test_a_window_longer_than_the_ring(fake, monkeypatch):
    monkeypatch.setattr(microphone_module, "RING_SECONDS", 0.5)
    portaudio = fake(rates=(16_000,))
    ramp = np.arange(16_000, dtype=np.float32)[:, None].repeat(2, axis=1) / 1e6
    blocks = started(Microphone(), portaudio, 16_000, 1600, ramp[:1600], 16_000, piece=1600, first=12_800)

    def play():
        for start in range(1600, 16_000, 1600):
            time.sleep(0.1)  # real time
            deliver(portaudio, ramp[start : start + 1600], 16_000, start)

    player = threading.Thread(target=play)
    player.start()
    first = next(blocks)
    player.join()
    assert (len(first.samples), first.lost) == (12_800, 0)
    assert np.array_equal(first.samples, ramp[:12_800, 0])


def test_an_unplugged_microphone(fake, monkeypatch):
    monkeypatch.setattr(microphone_module, "SILENT_DEVICE_SECONDS", 0.2)
    portaudio = fake(rates=(16_000,))
    blocks = started(Microphone(), portaudio, 16_000, 1600, np.zeros((1600, 2), np.float32), 16_000)
    next(blocks)
    before = time.monotonic()
    assert_refuses(
        "stopped delivering sound .*plug", lambda: next(blocks)
    )  # ALSA: nothing but the age of the last call tells
    assert time.monotonic() - before < 1.0


def test_a_stream_that_ends(fake):
    portaudio = fake(rates=(16_000,))
    blocks = started(Microphone(), portaudio, 16_000, 1600, np.zeros((1600, 2), np.float32), 16_000)
    next(blocks)
    portaudio.stream.active = False
    assert_refuses("stopped delivering sound", lambda: next(blocks))
