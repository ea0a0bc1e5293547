"""The computer's clock: events of an unknown hour are worth little, and certificates expire."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from datetime import datetime, timezone

from edge.doctor.check import Check, failure, ok, warning
from edge.doctor.subject import Subject

FIRST_YEAR, LAST_YEAR = 2025, 2100
UNSYNCHRONISED = 5  # TIME_ERROR of adjtimex(2)
TIMEX_BYTES = 512  # more than any struct timex has


def clock(
    subject: Subject,
    now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    kernel: Callable[[], int | None] | None = None,
) -> Iterator[Check]:
    """Whether the year can be, and whether something keeps the clock right. ``kernel`` is :func:`kernel_state`."""
    time = now()
    shown = f"{time:%Y-%m-%d %H:%M:%S} UTC"
    synchronised = _synchronised(subject, (kernel or kernel_state)())
    battery = any((subject.root / "sys/class/rtc").glob("rtc*"))
    data = {"time": time.isoformat(timespec="seconds"), "synchronised": synchronised, "battery": battery}
    set_it = "sudo timedatectl set-ntp true, and see that UDP port 123 is let out"
    if not FIRST_YEAR <= time.year <= LAST_YEAR:
        yield failure("clock", f"it is {shown}, which cannot be", set_it, **data)
    elif synchronised is False and not battery:
        found = f"{shown}; not synchronised, and without a battery of its own it is wrong after each start"
        yield warning("clock", found, set_it, **data)
    elif synchronised is False:
        yield warning("clock", f"{shown}, not synchronised", set_it, **data)
    else:
        told = "synchronised" if synchronised else "whether it is synchronised is not told"
        yield ok("clock", f"{shown}, {told}", **data)


def _synchronised(subject: Subject, state: int | None) -> bool | None:
    """None where nobody tells."""
    if (subject.root / "run/systemd/timesync/synchronized").exists():
        return True
    return None if state is None else state != UNSYNCHRONISED


def kernel_state() -> int | None:
    """What adjtimex(2) returns: NTP daemons of every make tell the kernel. None where it may not be asked."""
    try:
        state = int(ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES)))
    except (OSError, AttributeError):
        return None
    return state if state >= 0 else None
