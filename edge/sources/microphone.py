"""The microphone: PortAudio's callback fills a ring, and whoever listens takes blocks out of it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.audio import Resampler, silence, to_channels
from edge.errors import DeviceError
from edge.ring import Overrun, RingBuffer
from edge.sources.block import Block
from edge.sources.devices import NO_DEVICE_REMEDY, InputDevice, find_device, input_devices, portaudio, reason_of

F32 = NDArray[np.float32]

COMMON_RATES = (48_000, 44_100, 96_000, 32_000, 16_000, 8_000)  # Hz, asked for in this order after the device's own
RING_SECONDS = 10.0  # how long the listener may be busy before samples are lost
CALLBACK_SECONDS = 0.02  # samples that PortAudio hands over at once
# PortAudio's "high" latency is 0.1 s: a machine that is busy for longer loses audio without a word. Hosts such as
# PulseAudio deliver a quarter of the buffer at a time, so a longer one makes decisions later.
DEVICE_BUFFER_SECONDS = 1.0
# After an unplug ALSA's callback stops, and nothing else tells: the stream stays "active".
SILENT_DEVICE_SECONDS = 5.0


@dataclass
class _Capture:
    """What the callback and the listener share. The callback only copies and counts: it runs in PortAudio's real-time
    thread, where waiting for a lock, a log or the allocator loses samples.
    """

    ring: RingBuffer
    overflows: int = 0  # flags raised by PortAudio
    anchor: tuple[int, float] = (0, 0.0)  # a position, and when its sample was converted, on the stream's clock
    last_call: float = field(default_factory=time.monotonic)

    def callback(self, data: Any, frames: int, times: Any, status: Any) -> None:
        """PortAudio's callback: float32 [frames, channels]."""
        if status.input_overflow:
            self.overflows += 1
        self.anchor = (self.ring.written, times.inputBufferAdcTime or times.currentTime)
        self.ring.write(data)
        self.last_call = time.monotonic()


class Microphone:
    """A live input device. Nothing is opened before :meth:`blocks` is called."""

    def __init__(self, device: str | int | None = None, *, channel: int | None = None) -> None:
        self.wanted = device  # index, id, name or a part of it; None is the default device
        self.channel = channel  # from 0; None takes the first two
        self.opened: InputDevice | None = None  # what was found
        self.rate: int | None = None  # Hz, the rate that the device runs at

    @property
    def name(self) -> str:
        """The device's name, once it is open."""
        if self.opened is not None:
            return self.opened.name
        return "default microphone" if self.wanted is None else str(self.wanted)

    def _find(self) -> InputDevice:
        """The device that is wanted, with the channel that is wanted. Raises DeviceError."""
        self.opened = find_device(self.wanted, input_devices())
        if self.channel is not None and self.channel >= self.opened.channels:
            raise DeviceError(
                f"channel {self.channel} of {self.opened.name!r} does not exist",
                remedy=f"it has {self.opened.channels}, counted from 0",
            )
        return self.opened

    def blocks(self, sample_rate: int, length: int, first: int | None = None, channels: int = 1) -> Iterator[Block]:
        """See :class:`edge.sources.Source`; raises DeviceError. Never ends by itself."""
        device = self._find()
        n_captured = min(device.channels, 2) if self.channel is None else self.channel + 1
        self.rate = _find_rate(device, n_captured, sample_rate)
        capture = _Capture(RingBuffer(round(RING_SECONDS * self.rate), n_captured))
        stream = _open(device, n_captured, self.rate, capture)
        return self._take(capture, stream, sample_rate, length, first or length, channels)

    def _take(
        self, capture: _Capture, stream: Any, sample_rate: int, length: int, need: int, channels: int
    ) -> Iterator[Block]:
        try:
            yield from self._blocks(capture, stream, sample_rate, length, need, channels)
        finally:
            stream.close(ignore_errors=True)

    def _blocks(
        self, capture: _Capture, stream: Any, sample_rate: int, length: int, need: int, channels: int
    ) -> Iterator[Block]:
        assert self.rate is not None
        ratio = sample_rate / self.rate
        resample = Resampler(self.rate, sample_rate, channels)
        pending = silence(0, channels)  # resampled samples that make no whole block yet
        # Sample i of the resampler is native sample origin + i / ratio, whatever its filter still holds back.
        origin, given = 0, 0
        read, position, lost, overflows = 0, 0, 0, 0
        before = (0, 0.0)  # the anchor of the block before
        while True:
            missing = math.ceil((need - len(pending)) / ratio)
            # A window may be longer than the ring: take it in parts.
            self._wait(capture, stream, read + max(1, min(missing, capture.ring.capacity // 2)))
            try:
                native = capture.ring.read(read, capture.ring.written - read)
            except (Overrun, ValueError):
                # The listener was too slow by more than the ring: go on with the newest half of it.
                resume = capture.ring.written - capture.ring.capacity // 2
                lost += len(pending) + round((resume - read) * ratio)
                resample, pending = Resampler(self.rate, sample_rate, channels), silence(0, channels)
                read, origin, given = resume, resume, 0
                continue
            read += len(native)
            resampled = resample(to_channels(native, channels, self.channel))
            given += len(resampled)
            pending = np.concatenate([pending, resampled])
            while len(pending) >= need:
                block, pending = pending[:need], pending[need:]
                anchor, flagged = capture.anchor, capture.overflows
                if flagged > overflows and before[1]:
                    # A flag says that samples are missing, not how many: the converter's clock does.
                    gap = (anchor[1] - before[1]) * self.rate - (anchor[0] - before[0])
                    lost += max(0, round(gap * ratio))
                first = origin + (given - len(pending) - need) / ratio  # the native position of the block
                # The offset anew each time: a computer without a clock of its own learns the time after it has started.
                adc_time = time.time() - stream.time + anchor[1] + (first - anchor[0]) / self.rate
                position += lost
                yield Block(block, position, adc_time, lost, flagged - overflows)
                position += need
                lost, overflows, before, need = 0, flagged, anchor, length

    def _wait(self, capture: _Capture, stream: Any, written: int) -> None:
        """Sleep until the callback has written that much. Polling, because waking a thread takes a lock."""
        assert self.rate is not None
        while (missing := written - capture.ring.written) > 0:
            age = time.monotonic() - capture.last_call
            if age > SILENT_DEVICE_SECONDS or not stream.active:
                raise DeviceError(
                    f"{self.name!r} stopped delivering sound",
                    remedy="plug the microphone in again and restart; --list-devices shows what is there",
                )
            time.sleep(min(max(missing / self.rate, 0.005), 0.5))


def _find_rate(device: InputDevice, channels: int, sample_rate: int) -> int:
    """The wanted rate where the device takes it, else its own, else a common one. Raises DeviceError."""
    sd = portaudio()
    reason = ""
    for rate in dict.fromkeys((sample_rate, device.default_rate, *COMMON_RATES)):
        try:
            sd.check_input_settings(device=device.index, channels=channels, dtype="float32", samplerate=rate)
            return rate
        except (sd.PortAudioError, ValueError) as error:
            reason = reason_of(error)
            if _is_busy(error):
                raise _busy(device) from None
    raise DeviceError(f"{device.name!r} refuses every sample rate: {reason}", remedy="choose another --device")


def _open(device: InputDevice, channels: int, rate: int, capture: _Capture) -> Any:
    """The running stream. Raises DeviceError."""
    sd, stream = portaudio(), None
    try:
        stream = sd.InputStream(
            device=device.index,
            channels=channels,
            samplerate=rate,
            dtype="float32",
            blocksize=round(CALLBACK_SECONDS * rate),
            latency=DEVICE_BUFFER_SECONDS,
            callback=capture.callback,
        )
        stream.start()
        return stream
    except (sd.PortAudioError, ValueError) as error:
        if stream is not None:
            stream.close(ignore_errors=True)
        if _is_busy(error):
            raise _busy(device) from None
        raise DeviceError(f"{device.name!r} cannot be opened: {reason_of(error)}", remedy=NO_DEVICE_REMEDY) from None


def _is_busy(error: Exception) -> bool:
    return len(error.args) > 1 and error.args[1] == -9985  # paDeviceUnavailable


def _busy(device: InputDevice) -> DeviceError:
    return DeviceError(
        f"{device.name!r} is busy", remedy="stop the program that uses it (fuser -v /dev/snd/*), or choose another"
    )
