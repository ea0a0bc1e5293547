"""Input devices by index, by a part of their name, or by an id that survives a reboot."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from edge.errors import DeviceError

log = logging.getLogger("edge.listen")

NO_DEVICE_REMEDY = "plug in a microphone and see --list-devices, or listen to a recording with --input FILE"


@dataclass(frozen=True)
class InputDevice:
    """A device that can record."""

    index: int  # PortAudio's, another after each change of hardware
    id: str  # host API and name, without the card number that changes from boot to boot
    name: str
    channels: int
    default_rate: int  # Hz
    is_default: bool
    host: str = "ALSA"  # PortAudio's name of what it is reached through


def portaudio() -> Any:
    """The sounddevice module. Imported on first use: recordings can be classified without PortAudio."""
    try:
        import sounddevice
    except OSError:
        raise DeviceError(
            "the PortAudio library is not installed",
            remedy="sudo apt install libportaudio2, or use --input FILE",
            reason="",
        ) from None
    return sounddevice


def input_devices() -> list[InputDevice]:
    """Every input device, in PortAudio's order. Raises DeviceError when PortAudio is not there."""
    sd = portaudio()
    try:
        hosts = sd.query_hostapis()
        found = [d for d in _described(sd, hosts) if d["max_input_channels"] > 0]
    except sd.PortAudioError as error:
        raise DeviceError(
            f"PortAudio cannot list devices: {reason_of(error)}", remedy=NO_DEVICE_REMEDY, reason="missing"
        ) from None
    try:
        default = sd.query_devices(kind="input")["index"]
    except (sd.PortAudioError, ValueError):  # the default host API may have no input
        default = None
    devices: list[InputDevice] = []
    for d in found:
        stem = _stable_id(hosts[d["hostapi"]]["name"], d["name"])
        twins = sum(other.id.split("#")[0] == stem for other in devices)
        identity = f"{stem}#{twins + 1}" if twins else stem
        rate = round(d["default_samplerate"])
        devices.append(
            InputDevice(
                d["index"],
                identity,
                d["name"],
                d["max_input_channels"],
                rate,
                d["index"] == default,
                hosts[d["hostapi"]]["name"],
            )
        )
    return devices


def _described(sd: Any, hosts: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What PortAudio says of each device, asked for one by one: of some it cannot be had."""
    for index in sorted(index for host in hosts for index in host["devices"]):
        try:
            yield sd.query_devices(index)
        except UnicodeDecodeError as error:  # the kernel cuts long names at a byte, be it within a character
            _pass_over(error.object)


@cache  # once: devices are looked for again and again
def _pass_over(name: bytes) -> None:
    log.warning(
        "%r is passed over: its name is no UTF-8 (use it through a sound server, or name it in /etc/asound.conf)",
        name.decode(errors="replace"),
    )


def find_device(wanted: str | int | None, devices: list[InputDevice]) -> InputDevice:
    """The device that ``wanted`` means; None is the default one.

    Raises:
        DeviceError: when there is none, or several.
    """
    if not devices:
        raise DeviceError("there is no input device", remedy=NO_DEVICE_REMEDY, reason="missing")
    there = ", ".join(f"{d.index} {d.name!r}" for d in devices)
    if wanted is None:
        return next((d for d in devices if d.is_default), devices[0])
    if str(wanted).isdecimal():
        matches = [d for d in devices if d.index == int(wanted)]
    else:
        text = str(wanted).casefold()
        matches = [d for d in devices if text in (d.id.casefold(), d.name.casefold())]
        matches = matches or [d for d in devices if text in d.name.casefold() or text in d.id]
    if not matches:
        raise DeviceError(f"no input device matches {str(wanted)!r}", remedy=f"there are: {there}", reason="missing")
    if len(matches) > 1:
        ids = ", ".join(d.id for d in matches)
        raise DeviceError(
            f"{str(wanted)!r} matches {len(matches)} input devices", remedy=f"choose by id: {ids}", reason=""
        )
    return matches[0]


def _stable_id(host: str, name: str) -> str:
    """ALSA's card and device numbers depend on the order in which hardware was found; the rest of a name does not."""
    name = re.sub(r"\s*\(?hw:\d+(,\d+)?\)?", "", name)
    return re.sub(r"[^a-z0-9]+", "-", f"{host}:{name}".casefold()).strip("-")


def reason_of(error: Exception) -> str:
    """PortAudio's own words, without the code."""
    text = str(error.args[0]) if error.args else str(error)
    return re.sub(r"\s*\[PaErrorCode.*", "", text.splitlines()[0])
