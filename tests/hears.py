"""Listen to a microphone under supervision, and say on standard output, a line of JSON each, what has come.

``python -m tests.hears SECONDS [DEVICE]``; a line on standard input: stand still for so many seconds.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np

from edge.sources.block import Outage
from edge.sources.host import HOST
from edge.sources.microphone import Microphone
from edge.sources.supervised import Supervised

RATE, LENGTH = 16_000, 8000
MODULUS = 32_749
OTHER = -0.5  # what another microphone hears; the ramp is never negative, but for ringing of a resampler


def resources():
    """Of this process: open files, threads, resident MiB."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "files": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        "threads": int(status["Threads"]),
        "mib": int(status["VmRSS"].split()[0]) / 1024,
        "renewals": HOST.renewals,
    }


def about(block):
    """What a test wants to know of a block of the counting ramp."""
    values = np.round(block.samples * 32768).astype(int)
    steps = np.diff(values) % MODULUS
    return {
        "position": block.position,
        "lost": block.lost,
        "overflows": block.overflows,
        "first": int(values[0]),
        "last": int(values[-1]),
        "steps": sorted({int(s) for s in steps})[:10],
        "others": int(np.count_nonzero(np.abs(values - OTHER * 32768) <= 1)),
        "zero": not values.any(),
        "lag": time.time() - block.adc_time - len(values) / RATE,
        "dc": block.signal.dc_offset,
    }


def main():
    until = time.monotonic() + float(sys.argv[1])
    device = sys.argv[2] if len(sys.argv) > 2 else "pulsemic"
    stalls = []
    threading.Thread(
        target=lambda: stalls.extend(float(line) for line in iter(sys.stdin.readline, "")), daemon=True
    ).start()
    for told in Supervised(Microphone(device, yields=True), wait="--wait" in sys.argv).blocks(RATE, LENGTH):
        away = isinstance(told, Outage)
        line = {"outage": told.reason, "seconds": told.seconds} if away else about(told)
        print(json.dumps(line | {"at": time.monotonic()} | resources()), flush=True)
        if stalls:
            time.sleep(stalls.pop())
        if time.monotonic() > until:
            return


if __name__ == "__main__":
    main()
