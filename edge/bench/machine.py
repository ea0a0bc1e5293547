"""What is measured on: the processor and its software, how hot it is, whether it is throttled, what memory is used."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path("/")
# Flags of /proc/cpuinfo: instructions that multiply 8-bit numbers by the dozen. Without one, fp32 may be as fast.
INT8_FLAGS = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
# What a Raspberry Pi's firmware says, by bit: now, and since it was started.
PI_FLAGS = {
    0: "under-voltage",
    1: "frequency capped",
    2: "throttled",
    3: "soft temperature limit",
    16: "under-voltage before",
    17: "frequency capped before",
    18: "throttled before",
    19: "soft temperature limit before",
}


def machine(root: Path = ROOT) -> dict[str, Any]:
    """Processor, system and software; what the system does not tell is None."""
    import numpy as np
    import onnxruntime

    info = _cpuinfo(root)
    flags = {flag for key in ("flags", "Features") for flag in info.get(key, "").split()}
    return {
        "cpu": cpu_name(root),
        "cores": os.cpu_count(),
        "int8_instructions": [flag for flag in INT8_FLAGS if flag in flags],
        "memory_mb": _total_memory(root),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def cpu_name(root: Path = ROOT) -> str:
    """The processor; on a single-board computer after the name of the board."""
    info = _cpuinfo(root)
    name = info.get("model name") or platform.machine()
    board = _read(root / "proc/device-tree/model").strip("\0\n") or info.get("Model", "")
    return f"{board}, {name}" if board else name


def conditions(root: Path = ROOT) -> dict[str, Any]:
    """Temperatures, frequencies and throttling now; None or empty where the system does not tell."""
    zones = sorted((root / "sys/class/thermal").glob("thermal_zone*"))
    temperatures = {}
    for zone in zones:
        if (value := _read(zone / "temp").strip()).lstrip("-").isdecimal():
            name = _read(zone / "type").strip() or zone.name
            temperatures[name if name not in temperatures else f"{name} {zone.name[12:]}"] = int(value) / 1000
    cpus = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*"))
    governors = sorted({text for cpu in cpus if (text := _read(cpu / "cpufreq/scaling_governor").strip())})
    counts = _numbers([cpu / "thermal_throttle/core_throttle_count" for cpu in cpus])
    return {
        "temperatures": temperatures,  # °C, by zone
        "frequencies_mhz": [round(n / 1000) for n in _numbers([cpu / "cpufreq/scaling_cur_freq" for cpu in cpus])],
        "most_mhz": max((round(n / 1000) for n in _numbers([c / "cpufreq/cpuinfo_max_freq" for c in cpus])), default=0)
        or None,
        "governors": governors,
        "throttle_count": sum(counts) if counts else None,  # of the cores, since the system was started
        "firmware": _firmware(),
    }


def throttled(before: dict[str, Any], after: dict[str, Any]) -> str | None:
    """What slowed the machine between two :func:`conditions`, in words, as far as the system tells; or None."""
    counts = before["throttle_count"], after["throttle_count"]
    if None not in counts and counts[1] > counts[0]:
        return f"the processor was throttled {counts[1] - counts[0]} times"
    flags = [flag for flag in after["firmware"] or () if not flag.endswith("before") or flag not in before["firmware"]]
    return f"the firmware says: {', '.join(flags)}" if flags else None


def resident_bytes() -> int:
    """The process's resident memory now, or its peak where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def pi_flags(text: str) -> list[str] | None:
    """``throttled=0x50005``, as vcgencmd prints it, in words; None for anything else."""
    try:
        bits = int(text.strip().removeprefix("throttled="), 16)
    except ValueError:
        return None
    return [words for bit, words in PI_FLAGS.items() if bits >> bit & 1]


def _firmware() -> list[str] | None:
    """What a Raspberry Pi's firmware says; None elsewhere."""
    if (command := shutil.which("vcgencmd")) is None:
        return None
    try:
        done = subprocess.run([command, "get_throttled"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return pi_flags(done.stdout)


def _cpuinfo(root: Path) -> dict[str, str]:
    """The first value of each key of /proc/cpuinfo."""
    found: dict[str, str] = {}
    for line in _read(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    return found


def _total_memory(root: Path) -> int | None:
    """Millions of bytes."""
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return round(int(line.split()[1]) * 1024 / 1e6)
    return None


def _numbers(paths: list[Path]) -> list[int]:
    """Of those files that hold one."""
    return [int(text) for path in paths if (text := _read(path).strip()).isdecimal()]


def _read(path: Path) -> str:
    """A small file's text, empty where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
