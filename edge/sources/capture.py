"""One opening of a device: PortAudio's stream, and the ring that its callback fills."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from edge.errors import DeviceError
from edge.ring import RingBuffer
from edge.sources.devices import NO_DEVICE_REMEDY, InputDevice, portaudio, reason_of

COMMON_RATES = (48_000, 44_100, 96_000, 32_000, 16_000, 8_000)  # Hz, asked for in this order after the device's own
CALLBACK_SECONDS = 0.02  # samples that PortAudio hands over at once
# PortAudio's "high" latency is 0.1 s: a machine that is busy for longer loses audio without a word. Where ALSA's buffer
# cannot be delivered in small parts (see edge.sources.host), it comes in four, and a longer one makes decisions later.
BUFFER_SECONDS, COARSE_BUFFER_SECONDS = 2.0, 1.0
JACK = "JACK Audio Connection Kit"  # it hands over, and loses, whole periods


@dataclass
class Capture:
    """What the callback and the listener share. The callback only copies and counts: it runs in PortAudio's real-time
    thread, where waiting for a lock, a log or the allocator loses samples.
    """

    ring: RingBuffer
    overflows: int = 0  # flags raised by PortAudio
    # Of each call that the listener has not looked at yet: position after it, time.monotonic(), whether it was flagged.
    calls: deque[tuple[int, float, bool]] = field(default_factory=lambda: deque(maxlen=10_000))
    frames: int = 0  # of the last call
    last_call: float = field(default_factory=time.monotonic)

    def callback(self, data: Any, frames: int, times: Any, status: Any) -> None:
        """PortAudio's callback: float32 [frames, channels]."""
        now = time.monotonic()
        flagged = bool(status.input_overflow)
        if flagged:
            self.overflows += 1
        self.ring.write(data)
        self.calls.append((self.ring.written, now, flagged))
        self.frames = frames
        self.last_call = now


def find_rate(device: InputDevice, channels: int, sample_rate: int) -> int:
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
    raise DeviceError(
        f"{device.name!r} refuses every sample rate: {reason}", remedy="choose another --device", reason="refused"
    )


def open_stream(device: InputDevice, channels: int, rate: int, capture: Capture, *, often: bool) -> Any:
    """The running stream; ``often``: PortAudio delivers a long buffer in small parts. Raises DeviceError."""
    sd, stream = portaudio(), None
    try:
        stream = sd.InputStream(
            device=device.index,
            channels=channels,
            samplerate=rate,
            dtype="float32",
            blocksize=0 if device.host == JACK else round(CALLBACK_SECONDS * rate),
            latency=BUFFER_SECONDS if often else COARSE_BUFFER_SECONDS,
            callback=capture.callback,
        )
        stream.start()
        return stream
    except (sd.PortAudioError, ValueError) as error:
        if stream is not None:
            stream.close(ignore_errors=True)
        if _is_busy(error):
            raise _busy(device) from None
        raise DeviceError(
            f"{device.name!r} cannot be opened: {reason_of(error)}", remedy=NO_DEVICE_REMEDY, reason="refused"
        ) from None


def _is_busy(error: Exception) -> bool:
    return len(error.args) > 1 and error.args[1] == -9985  # paDeviceUnavailable


def _busy(device: InputDevice) -> DeviceError:
    return DeviceError(
        f"{device.name!r} is busy",
        remedy="stop the program that uses it (fuser -v /dev/snd/*), or choose another",
        reason="busy",
    )
