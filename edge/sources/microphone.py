"""The microphone: a capture's ring, and whoever listens takes blocks out of it."""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.audio import Resampler, first_bad, silence, to_channels, without_bad
from edge.errors import DeviceError
from edge.ring import Overrun, RingBuffer
from edge.sources.block import Block, Signal
from edge.sources.capture import JACK, Capture, find_rate, open_stream
from edge.sources.clock import StreamClock
from edge.sources.devices import InputDevice, find_device, input_devices
from edge.sources.host import HOST
from edge.sources.identity import Card, card_at, card_number, number_of
from edge.sources.pulse import NoServer, Route, Unanswered, is_ours, new_route, our_streams, sources
from edge.sources.quality import Quality
from edge.sources.supervised import Yielded

F32 = NDArray[np.float32]

log = logging.getLogger("edge.listen")

RING_SECONDS = 10.0  # how long the listener may be busy before samples are lost
# After an unplug ALSA's callback stops, and nothing else tells: the stream stays "active". Seconds in which we could
# have seen a callback; a device that has just been opened takes its time.
SILENT_DEVICE_SECONDS, OPENING_SECONDS = 1.5, 5.0
LOOK_SECONDS = 0.2  # at most, between two looks at what has come
MOVED_SECONDS = 1.0  # of sound that is thrown away after the sound server was told to take the right source
PLUG_IN = "plug it in again; --list-devices shows what is there"


@dataclass(frozen=True)
class Known:
    """The microphone that was opened first, by what stays when it is plugged in again: it alone is opened later."""

    id: str  # of its InputDevice
    card: Card | None  # None of what is no sound card's own
    part: str  # of the card, such as ",0"
    source: str | None  # of the sound server, by name; None of what does not come through it


@dataclass(frozen=True)
class Opened:
    """A stream that runs."""

    stream: Any  # PortAudio's
    capture: Capture
    route: Route | None  # through the sound server
    skip: int  # native samples at its beginning that are not to be heard


class Microphone:
    """A live input device. Nothing is opened before :meth:`blocks` is called.

    Opened again, it is the same device as before or none, whatever its index or name is then.
    """

    def __init__(self, device: str | int | None = None, *, channel: int | None = None, yields: bool = False) -> None:
        """``yields``: closes for a moment when another one must have PortAudio started anew; see Yielded."""
        self.wanted = device  # index, id, name or a part of it; None is the default device
        self.channel = channel  # from 0; None takes the first two
        self.opened: InputDevice | None = None  # what was found
        self.rate: int | None = None  # Hz, the rate that the device runs at
        self._yields = yields
        self._known: Known | None = None
        self._failed = False  # the device could not be opened, as it stands in PortAudio's list

    @property
    def name(self) -> str:
        """The device's name, once it is open."""
        if self.opened is not None:
            return self.opened.name
        return "default microphone" if self.wanted is None else str(self.wanted)

    def ready(self) -> bool:
        """Whether it is there, as far as can be told without PortAudio."""
        if not HOST.usable:
            return False
        if self._known is None:
            return True
        if self._known.card is not None:
            return number_of(self._known.card) is not None
        try:
            return self._known.source is None or self._known.source in sources()
        except Unanswered:
            return False

    def ended(self) -> bool:
        """Never: it may come back."""
        return False

    def blocks(self, sample_rate: int, length: int, first: int | None = None, channels: int = 1) -> Iterator[Block]:
        """See :class:`edge.sources.Source`; raises DeviceError. Never ends by itself."""
        return self._take(self._open(sample_rate), sample_rate, length, first or length, channels)

    def _open(self, sample_rate: int) -> Opened:
        if self._known is not None:
            gc.collect()  # streams of sounddevice are cycles: the ring of the opening before would stay for long
        with HOST.using():
            device = self._find()
            n_captured = min(device.channels, 2) if self.channel is None else self.channel + 1
            routed = device.host == "ALSA" and card_number(device.name) is None
            try:
                before = _our_streams() if routed else None
                self.rate = find_rate(device, n_captured, sample_rate)
                capture = Capture(RingBuffer(round(RING_SECONDS * self.rate), n_captured))
                stream = open_stream(device, n_captured, self.rate, capture, often=HOST.often)
            except DeviceError as error:
                self._failed = error.reason == "refused"
                raise
            HOST.add(stream, yields=self._yields)
            try:
                opened = self._routed(Opened(stream, capture, None, 0), before)
                self._know(device, opened.route)
            except BaseException:
                HOST.close(stream)
                raise
            return opened

    def _find(self) -> InputDevice:
        """The device that is wanted, with the channel that is wanted. Raises DeviceError."""
        if self._failed:
            HOST.renew()
            self._failed = False
        try:
            device = self._listed()
        except DeviceError as error:
            if error.reason != "missing" or not HOST.renew():
                raise
            device = self._listed()
        if self.channel is not None and self.channel >= device.channels:
            raise DeviceError(
                f"channel {self.channel} of {device.name!r} does not exist",
                remedy=f"it has {device.channels}, counted from 0",
                reason="",
            )
        self.opened = device
        return device

    def _listed(self) -> InputDevice:
        """In PortAudio's list. Raises DeviceError."""
        known, devices = self._known, input_devices()
        if known is None:
            return find_device(self.wanted, devices)
        for device in devices:
            if known.card is None:
                if device.id == known.id:
                    return device
            elif _stem(device.id) == _stem(known.id) and f"hw:{number_of(known.card)}{known.part}" in device.name:
                return device
        raise DeviceError(f"{self.name!r} is not there", remedy=PLUG_IN, reason="missing")

    def _routed(self, opened: Opened, before: frozenset[int] | None) -> Opened:
        """With its way through the sound server, from the source that it was opened from first. Raises DeviceError."""
        if before is None:
            return opened
        wanted = self._known.source if self._known else None
        try:
            found = new_route(before, wanted)
        except (NoServer, Unanswered):
            raise self._stopped("the sound server does not answer") from None
        if found is None:
            return opened
        route, moved = found
        if wanted is not None and route.name != wanted:
            raise self._replaced(route.name)
        skip = opened.capture.ring.written + round(MOVED_SECONDS * (self.rate or 0)) if moved else 0
        return Opened(opened.stream, opened.capture, route, skip)

    def _know(self, device: InputDevice, route: Route | None) -> None:
        if self._known is not None:
            return
        number = card_number(device.name)
        part = device.name.partition(f"hw:{number}")[2].partition(")")[0] + ")"
        card = None if number is None else card_at(number)
        self._known = Known(device.id, card, part, route.name if route else None)

    def _take(self, opened: Opened, sample_rate: int, length: int, need: int, channels: int) -> Iterator[Block]:
        try:
            yield from self._blocks(opened, sample_rate, length, need, channels)
        finally:
            HOST.close(opened.stream)

    def _blocks(self, opened: Opened, sample_rate: int, length: int, need: int, channels: int) -> Iterator[Block]:
        assert self.rate is not None
        assert self.opened is not None
        capture, ratio = opened.capture, sample_rate / self.rate
        clock = StreamClock(self.rate, whole=self.opened.host == JACK)
        quality = Quality(self.rate, capture.ring.channels)
        resample = Resampler(self.rate, sample_rate, channels)
        pending = silence(0, channels)  # resampled samples that make no whole block yet
        # Sample i of the resampler is native sample origin + i / ratio, whatever its filter still holds back.
        read = origin = opened.skip
        given, position, overrun, told, overflows = 0, 0, 0, 0, 0
        told_bad = False
        while True:
            missing = math.ceil((need - len(pending)) / ratio)
            # A window may be longer than the ring: take it in parts.
            self._wait(opened, read + max(1, min(missing, capture.ring.capacity // 2)))
            try:
                native = capture.ring.read(read, capture.ring.written - read)
            except (Overrun, ValueError):
                # The listener was too slow by more than the ring: go on with the newest half of it.
                resume = capture.ring.written - capture.ring.capacity // 2
                overrun += len(pending) + round((resume - read) * ratio)
                resample, pending = Resampler(self.rate, sample_rate, channels), silence(0, channels)
                read, origin, given = resume, resume, 0
                continue
            self._check(opened.route)
            while capture.calls:
                clock.called(*capture.calls.popleft(), capture.frames)
            read += len(native)
            if (bad := first_bad(native)) is not None:  # a float device, or a filter before it, that is broken
                if not told_bad:
                    log.warning("%r delivers what is no sample, %g; it is heard as silence", self.name, bad[1])
                native, told_bad = without_bad(native), True
            quality.push(native)
            resampled = resample(to_channels(native, channels, self.channel))
            given += len(resampled)
            pending = np.concatenate([pending, resampled])
            signal = Signal(quality.clipped, quality.dc_offset, quality.dead_channels, clock.drift_ppm)
            while len(pending) >= need:
                block, pending = pending[:need], pending[need:]
                first = origin + (given - len(pending) - need) / ratio  # the native position of the block
                # The offset anew each time: a computer without a clock of its own learns the time after it has started.
                adc_time = time.time() - time.monotonic() + clock.time_of(first)
                lost, flagged = overrun + round(clock.lost * ratio) - told, capture.overflows
                position += lost
                yield Block(block, position, adc_time, lost, flagged - overflows, signal)
                position += need
                told, overrun, overflows, need = round(clock.lost * ratio), 0, flagged, length

    def _wait(self, opened: Opened, written: int) -> None:
        """Sleep until the callback has written that much. Polling, because waking a thread takes a lock.

        Only the time in which we looked counts against the device: where all the machine stood still, it may come yet.
        """
        assert self.rate is not None
        ring = opened.capture.ring
        seen, now = ring.written, time.monotonic()
        idle = min(now - opened.capture.last_call, SILENT_DEVICE_SECONDS / 2)
        while (missing := written - ring.written) > 0:
            if self._yields and HOST.yielding:
                raise Yielded(f"{self.name!r} is opened anew", remedy="wait a moment")
            if idle > (SILENT_DEVICE_SECONDS if seen else OPENING_SECONDS) or not opened.stream.active:
                raise self._stopped(f"{self.name!r} stopped delivering sound")
            time.sleep(min(max(missing / self.rate, 0.005), LOOK_SECONDS))
            before, now = now, time.monotonic()
            idle += min(now - before, 2 * LOOK_SECONDS)
            if ring.written != seen:
                seen, idle = ring.written, now - opened.capture.last_call

    def _check(self, route: Route | None) -> None:
        """That what has been read is the microphone's: the sound server moves a stream without a word.

        Raises DeviceError.
        """
        if route is None:
            return
        try:
            if not is_ours(route):
                raise self._replaced("another source")
        except (NoServer, Unanswered):
            raise self._stopped("the sound server does not answer any more") from None

    def _replaced(self, by: str) -> DeviceError:
        return DeviceError(f"{by!r} has come in the place of {self.name!r}", remedy=PLUG_IN, reason="replaced")

    def _stopped(self, what: str) -> DeviceError:
        return DeviceError(what, remedy=PLUG_IN, reason="stopped")


def _our_streams() -> frozenset[int] | None:
    """Those of this process in the sound server; None where there is none. Raises DeviceError: it hangs, and PortAudio
    would hang with it.
    """
    try:
        return our_streams(timeout=OPENING_SECONDS)
    except NoServer:
        return None
    except Unanswered:
        raise DeviceError(
            "the sound server does not answer", remedy="restart it: systemctl --user restart pipewire-pulse pulseaudio"
        ) from None


def _stem(identity: str) -> str:
    """Of an id, without the number of twins: it depends on the order in which they are found."""
    return identity.partition("#")[0]
