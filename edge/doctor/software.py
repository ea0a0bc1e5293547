"""Python and the packages."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import edge
from edge.doctor.check import Check, failure, ok
from edge.doctor.subject import Subject

NEEDED = ("click", "numpy", "onnxruntime", "rich", "sounddevice", "soundfile", "soxr")
OPTIONAL = ("cryptography", "httpx", "huggingface-hub", "paho-mqtt", "prometheus-client")
LEAST = (3, 11)


def python(subject: Subject) -> Iterator[Check]:
    """The interpreter and the system."""
    found = f"{platform.python_version()}, {platform.system()} {platform.release()} {platform.machine()}"
    if sys.version_info < LEAST:
        yield failure("python", found, "install Python 3.11 or newer")
    elif sys.maxsize < 1 << 32:
        yield failure("python", f"{found}, of 32 bits", "install a 64-bit system: onnxruntime has no other")
    else:
        yield ok("python", found, version=platform.python_version(), machine=platform.machine())


def packages(subject: Subject) -> Iterator[Check]:
    """Which versions are installed."""
    there = versions()
    found = ", ".join(f"{name} {number}" for name, number in there.items())
    if missing := [name for name in NEEDED if name not in there]:
        yield failure("packages", f"{', '.join(missing)} not installed", "pip install edge-listen again", **there)
    else:
        yield ok("packages", found, **there)


def versions() -> dict[str, str]:
    """Of edge-listen, and of the packages that it uses and that are installed."""
    found = {"edge-listen": edge.__version__}
    for name in (*NEEDED, *OPTIONAL):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
