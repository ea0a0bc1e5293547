"""PortAudio, the device that would be used, and the rates that it takes."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache, wraps
from pathlib import Path

from edge.doctor.access import Holder, holders
from edge.doctor.check import Check, failure, ok, skipped, warning
from edge.doctor.subject import RATE, Ear, Subject
from edge.errors import DeviceError, EdgeError
from edge.model_file import read_model
from edge.models import resolve
from edge.sources.devices import InputDevice, find_device, input_devices, portaudio, reason_of

RATES = (8_000, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000)  # Hz, that are asked for
NOT_WANTED = "edge-listen is to hear no microphone"
START_SECONDS = 10  # that PortAudio may take to look for devices

Look = Callable[[Subject], Iterator[Check]]


@cache
def trouble() -> str:
    """What becomes of a program that starts PortAudio; empty where it lives. Tried in one of its own: a broken ALSA
    configuration, or a sound server that hangs, would take the doctor along.
    """
    program = [sys.executable, "-c", "import sounddevice"]
    try:
        code = subprocess.run(program, capture_output=True, timeout=START_SECONDS, check=False).returncode
    except subprocess.TimeoutExpired:
        return f"it does not start within {START_SECONDS} s"
    return f"it ends the program that starts it ({signal.Signals(-code).name})" if code < 0 else ""


def by_portaudio(name: str) -> Callable[[Look], Look]:
    """Of a look that needs PortAudio: skipped under ``name`` where no microphone is wanted, or it cannot be started."""

    def decorate(look: Look) -> Look:
        @wraps(look)
        def guarded(subject: Subject) -> Iterator[Check]:
            if not subject.microphones:
                yield skipped(name, NOT_WANTED)
            elif trouble():
                yield skipped(name, "PortAudio cannot be used")
            else:
                yield from look(subject)

        return guarded

    return decorate


def library(subject: Subject) -> Iterator[Check]:
    """PortAudio and its host APIs."""
    if not subject.microphones:
        yield skipped("portaudio", NOT_WANTED)
        return
    if why := trouble():
        remedy = "move ~/.asoundrc and /etc/asound.conf away, or restart the sound server, and try again: arecord -L"
        yield failure("portaudio", why, remedy)
        return
    sd = portaudio()
    number, text = sd.get_portaudio_version()
    hosts = {host["name"]: len(host["devices"]) for host in sd.query_hostapis()}
    told = ", ".join(f"{name} ({n} devices)" for name, n in hosts.items()) or "no host API"
    words = text.split(",")[0].replace("PortAudio ", "")
    yield ok("portaudio", f"{words}; {told}", version=number, host_apis=hosts)


@by_portaudio("device")
def devices(subject: Subject) -> Iterator[Check]:
    """The device of each source."""
    there = input_devices()
    for ear in subject.microphones:
        name = ear.called("device")
        try:
            yield _found(name, ear, find_device(ear.device, there), there)
        except DeviceError as error:
            yield _missing(name, error, holders(subject.root))


def _found(name: str, ear: Ear, device: InputDevice, there: list[InputDevice]) -> Check:
    others = [other.id for other in there if other != device]
    found = f"{device.name!r}, {device.channels} channels, id {device.id}" + ", the default" * device.is_default
    found += f"; others: {', '.join(others)}" if others else "; there is no other"
    data = {"id": device.id, "index": device.index, "channels": device.channels, "others": others}
    if ear.channel is not None and ear.channel >= device.channels:
        remedy = f"it has {device.channels}, counted from 0"
        return failure(name, f"{device.name!r} has no channel {ear.channel}", remedy, **data)
    if ear.device is not None and str(ear.device).isdecimal() and others:
        return warning(name, found, f'indices change when hardware does: device = "{device.id}"', **data)
    return ok(name, found, **data)


def _missing(name: str, error: DeviceError, held: list[Holder]) -> Check:
    """ALSA hides a device that another program has: whoever has one may be why."""
    ours = [holder for holder in held if holder.is_listener]
    if ours:
        found = f"{error.what}; {ours[0]} has {ours[0].device} open, and nobody else can try it"
        return warning(name, found, "edge-doctor --ready asks it; stop it to have the microphone tried here")
    if held:
        found = f"{error.what}; ALSA hides what is in use: {', '.join(map(str, held))}"
        return failure(name, found, f"stop it: sudo kill {held[0].pid}")
    return failure(name, error.what, error.remedy)


@by_portaudio("rates")
def rates(subject: Subject) -> Iterator[Check]:
    """Which sample rates each device takes."""
    wanted = rate_of_model(subject.model)
    for ear in subject.microphones:
        name = ear.called("rates")
        device = try_to_find(ear)
        if device is None:
            yield skipped(name, "there is no device to ask")
            continue
        taken, reason = _taken(device, ear, wanted)
        if not taken:
            yield failure(name, f"{device.name!r} refuses every rate: {reason}", "choose another --device")
            continue
        found = f"{', '.join(map(str, taken))} Hz; the model's {wanted} Hz "
        found += "as it is" if wanted in taken else "by resampling"
        yield ok(name, found, rates=taken)


def _taken(device: InputDevice, ear: Ear, wanted: int) -> tuple[list[int], str]:
    """The rates that ``device`` takes, and why it did not take the last of the others."""
    sd, taken, reason = portaudio(), [], ""
    channels = min(device.channels, 2) if ear.channel is None else ear.channel + 1
    for rate in sorted({*RATES, wanted, device.default_rate}):
        try:
            sd.check_input_settings(device=device.index, channels=channels, dtype="float32", samplerate=rate)
            taken.append(rate)
        except (sd.PortAudioError, ValueError) as error:
            reason = reason_of(error)
    return taken, reason


def try_to_find(ear: Ear) -> InputDevice | None:
    """The device of ``ear``, or None: another check says why."""
    try:
        return find_device(ear.device, input_devices())
    except DeviceError:
        return None


def rate_of_model(model: str | None) -> int:
    """Hz; the usual rate of a model that cannot be read, which another check says."""
    try:
        return read_model(Path(resolve(model)))[1].frontend.sample_rate
    except EdgeError:
        return RATE
