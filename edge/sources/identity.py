"""Which sound card it is, by what does not change from boot to boot, nor when it is plugged in again."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC, SYS = Path("/proc/asound"), Path("/sys/class/sound")


@dataclass(frozen=True)
class Card:
    """A sound card of ALSA's."""

    id: str  # the kernel's short name of it, such as Loopback or Device
    usb: str = ""  # vendor:product; empty of what is no USB device
    serial: str = ""  # of a USB device that has one
    port: str = ""  # where it is plugged in, such as 1-1.2

    def is_like(self, other: Card) -> bool:
        """Whether both are of one kind, and can be told apart by their place alone."""
        if not self.usb:
            return not other.usb and self.id == other.id
        return (self.usb, self.serial) == (other.usb, other.serial)


def card_number(name: str) -> int | None:
    """Of PortAudio's name of an ALSA device; None of one that is no card's own: a plugin."""
    found = re.search(r"\bhw:(\d+)", name)
    return int(found[1]) if found else None


def card_at(number: int, proc: Path = PROC, sys: Path = SYS) -> Card | None:
    """The card that has this number now."""
    name = _text(proc / f"card{number}" / "id")
    if not name:
        return None
    usb = _text(proc / f"card{number}" / "usbid")
    device = (sys / f"card{number}" / "device").resolve()
    return Card(name, usb, _text(device.parent / "serial"), device.parent.name) if usb else Card(name)


def number_of(card: Card, proc: Path = PROC, sys: Path = SYS) -> int | None:
    """The number that ``card`` has now; of twins without serial numbers, the one in its place. None: it is away."""
    there = {}
    for folder in proc.glob("card[0-9]*"):
        number = int(folder.name[4:])
        other = card_at(number, proc, sys)
        if other is not None and card.is_like(other):
            there[number] = other
    for number, other in there.items():
        if other == card or (card.usb and other.port == card.port):
            return number
    return next(iter(there)) if len(there) == 1 else None


def hardware(proc: Path = PROC) -> str:
    """Text that changes when a card comes or goes, or a capture device is taken or given back."""
    states = [_text(path).split("\n")[0] for path in sorted(proc.glob("card[0-9]*/pcm*c/sub*/status"))]
    taken = ["closed" if state == "closed" else "open" for state in states]
    return "\n".join([_text(proc / "cards"), *taken])


def _text(path: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text().strip()
    return ""
