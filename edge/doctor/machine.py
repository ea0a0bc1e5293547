"""The computer: how hot it is, what slows it down, its power, memory and load."""

from __future__ import annotations

import os
from collections.abc import Iterator

from edge.bench.machine import conditions, cpu_name
from edge.doctor.check import Check, failure, ok, skipped, warning
from edge.doctor.subject import Subject, read

WARM, HOT = 75.0, 85.0  # °C: a Raspberry Pi slows down from 80, and stops at 85
LEAST_MB, LITTLE_MB = 50, 100  # of memory: edge-listen itself takes about 90


def temperature(subject: Subject) -> Iterator[Check]:
    """The hottest zone."""
    zones = conditions(subject.root)["temperatures"]
    if not zones:
        yield skipped("temperature", "the system does not tell")
        return
    zone = max(zones, key=lambda name: zones[name])
    found, remedy = f"{zones[zone]:.0f} °C ({zone})", "more air, a heat sink, or a place out of the sun"
    if zones[zone] >= HOT:
        yield failure("temperature", found, remedy, **zones)
    elif zones[zone] >= WARM:
        yield warning("temperature", found, remedy, **zones)
    else:
        yield ok("temperature", found, **zones)


def throttling(subject: Subject) -> Iterator[Check]:
    """What a Raspberry Pi's firmware, or the processor, says of slowing down, and of its power."""
    told = conditions(subject.root)
    flags, count = told["firmware"], told["throttle_count"]
    if flags is None and count is None:
        yield skipped("throttling", "the system does not tell")
    elif flags:
        now = [flag for flag in flags if not flag.endswith("before")]
        power = any("voltage" in flag for flag in flags)
        remedy = "use the power supply made for this board, and a short cable" if power else "cool it"
        verdict = failure if "under-voltage" in now else warning
        yield verdict("throttling", ", ".join(flags), remedy, flags=flags)
    elif count:
        yield warning("throttling", f"{count} times since the start", "cool it", count=count)
    else:
        yield ok("throttling", "none since the start")


def memory(subject: Subject) -> Iterator[Check]:
    """What is left of it."""
    values = {}
    for line in read(subject.root / "proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        values[name] = rest.split()[0] if rest.split() else ""
    if not values.get("MemAvailable", "").isdecimal():
        yield skipped("memory", "the system does not tell")
        return
    free, total = (int(values.get(name) or 0) * 1024 // 1_000_000 for name in ("MemAvailable", "MemTotal"))
    found, data = f"{free} of {total} MB available", {"available_mb": free, "total_mb": total}
    remedy = "end what takes it: ps aux --sort=-rss | head; or use --model tiny"
    if free < LEAST_MB:
        yield failure("memory", found, remedy, **data)
    else:
        yield warning("memory", found, remedy, **data) if free < LITTLE_MB else ok("memory", found, **data)


def load(subject: Subject) -> Iterator[Check]:
    """How many want the processor, in the mean of five minutes."""
    words = read(subject.root / "proc/loadavg").split()
    if len(words) < 3:
        yield skipped("load", "the system does not tell")
        return
    cores = os.cpu_count() or 1
    found = f"{words[1]} in the mean of 5 minutes, {cores} cores, {cpu_name(subject.root)}"
    data = {"load": float(words[1]), "cores": cores}
    if float(words[1]) > 2 * cores:
        yield warning("load", found, "see what is so busy: top", **data)
    else:
        yield ok("load", found, **data)
