"""Runs in the virtual machine: our microphone while its card goes and comes; prints what it saw as JSON.

What is played is a ramp, so every sample tells which one it is; what the other card plays is a level outside it.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from edge.errors import EdgeError
from edge.sources.block import Block
from edge.sources.microphone import Microphone
from edge.sources.supervised import Supervised

RATE, PERIOD, OTHER = 16_000, 32_749, -20_000
DRIVER = Path("/sys/bus/platform/drivers/snd_aloop")
WARM = 4  # rounds until libraries and heaps are what they stay
HEARD_SECONDS = 1.0  # of sound between two faults
GIVE_UP_SECONDS = 40.0
HANGING_SECONDS = 90.0  # of one fault: then it is told where everything stands, and that is the end


def play(card: int | str, samples: np.ndarray, rate: int = RATE) -> subprocess.Popen[bytes]:
    """Into the card's loop, on both channels, until it is over or the card is gone."""
    raw = Path(f"/tmp/{samples[0]}.raw")
    if not raw.exists():
        raw.write_bytes(np.repeat(samples, 2).astype("<i2").tobytes())
    command = ["aplay", "-q", "-D", f"hw:{card},0", "-t", "raw", "-f", "S16_LE", "-r", str(rate), "-c", "2", str(raw)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def ramp(seconds: float = 120) -> np.ndarray:
    return np.arange(round(seconds * RATE)) % PERIOD


def unplug(number: int) -> threading.Thread:
    """Take card ``number`` of the driver away; the thread ends once nobody has it open."""
    taking = threading.Thread(target=(DRIVER / "unbind").write_text, args=(f"snd_aloop.{number}",))
    taking.start()
    return taking


def plug(number: int) -> None:
    (DRIVER / "bind").write_text(f"snd_aloop.{number}")


class Heard:
    """What came out of the microphone."""

    def __init__(self, source: Supervised) -> None:
        self._blocks = source.blocks(RATE, RATE // 10)
        self.breaks = self.foreign = self.lost = 0
        self._last: int | None = None

    def next(self) -> tuple[str, str]:
        """Take one: ("sound" | "silence" | "outage", its reason)."""
        block = next(self._blocks)
        if not isinstance(block, Block):
            self._last = None
            return "outage", block.reason
        values = np.rint(np.asarray(block.samples, np.float64) * 32768).astype(int)
        self.lost += block.lost
        self.foreign += int(np.count_nonzero(values < 0))
        before = None if block.lost else self._last
        chain = values if before is None else np.concatenate([[before], values])
        self.breaks += int(np.count_nonzero((chain[:-1] + 1) % PERIOD != chain[1:]))
        self._last = int(values[-1])
        return "sound" if values.any() else "silence", ""

    def until(self, kind: str, seconds: float = GIVE_UP_SECONDS) -> tuple[float, str]:
        """Seconds until there is one of that kind, and its reason."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            found, reason = self.next()
            if found == kind:
                return time.monotonic() - began, reason
        raise TimeoutError(f"no {kind} for {seconds} s")

    def listen(self, seconds: float) -> set[str]:
        """All that comes in that time: "sound", "silence", or reasons of outages."""
        until, reasons = time.monotonic() + seconds, set()
        while time.monotonic() < until:
            found, reason = self.next()
            reasons.add(reason or found)
        return reasons

    def close(self) -> None:
        self._blocks.close()


def standing() -> dict[str, int]:
    """What may leak."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "files": len(list(Path("/proc/self/fd").iterdir())),
        "threads": int(status["Threads"]),
        "kib": int(status["VmRSS"].split()[0]),
    }


def cycles(count: int) -> dict[str, object]:
    """The card goes and comes again, ``count`` times after some that warm up."""
    player, heard, rounds, before = play(0, ramp()), Heard(Supervised(Microphone("hw:0,1"))), [], {}
    heard.until("sound")
    for number in range(count + WARM):
        faulthandler.dump_traceback_later(HANGING_SECONDS, exit=True)
        heard.listen(HEARD_SECONDS)
        if number == WARM:
            before, heard.breaks = standing(), 0
        gone = time.monotonic()
        taking = unplug(0)
        _, reason = heard.until("outage")
        lost = time.monotonic() - gone
        taking.join()
        player.kill()
        player.wait()
        heard.listen(0.5 + number % 3 / 2)
        plug(0)
        player, back = play(0, ramp()), time.monotonic()
        heard.until("sound")
        rounds.append({"lost": lost, "reason": reason, "back": time.monotonic() - back})
        print(number, rounds[-1], standing(), heard.breaks, file=sys.stderr, flush=True)
    heard.listen(HEARD_SECONDS)
    after = standing()
    player.kill()
    player.wait()
    heard.close()
    return {"rounds": rounds[WARM:], "before": before, "after": after, "breaks": heard.breaks, "foreign": heard.foreign}


def another() -> dict[str, object]:
    """Another card stays, and then comes under the number of ours, before ours comes under its number."""
    players = [play("Loopback", ramp()), play("Other", np.full(120 * RATE, OTHER))]
    heard = Heard(Supervised(Microphone("hw:0,1")))
    heard.until("sound")
    heard.listen(HEARD_SECONDS)
    taking = unplug(0)
    _, reason = heard.until("outage")
    reasons = [reason, *heard.listen(3)]
    taking.join()
    unplug(1).join()
    plug(1)
    players.append(play("Other", np.full(120 * RATE, OTHER)))
    reasons += heard.listen(6)
    plug(0)
    players.append(play("Loopback", ramp()))
    back, _ = heard.until("sound")
    heard.listen(HEARD_SECONDS)
    for player in players:
        player.kill()
        player.wait()
    heard.close()
    cards = Path("/proc/asound/cards").read_text()
    return {
        "reasons": sorted(set(reasons)),
        "back": back,
        "breaks": heard.breaks,
        "foreign": heard.foreign,
        "cards": cards,
    }


def busy() -> dict[str, object]:
    """Another program has the device, then gives it back."""
    player = play(0, ramp())
    time.sleep(0.5)
    holder = subprocess.Popen(["arecord", "-q", "-D", "hw:0,1", "-f", "S16_LE", "-r", "16000", "-c", "2", "/dev/null"])
    while "closed" in Path("/proc/asound/card0/pcm1c/sub0/status").read_text():
        time.sleep(0.1)
    try:
        Supervised(Microphone("hw:0,1")).blocks(RATE, RATE // 10)
        told = ""
    except EdgeError as error:
        told = str(error)
    heard = Heard(Supervised(Microphone("hw:0,1"), wait=True))
    _, reason = heard.until("outage")
    reasons = {reason, *heard.listen(4)}
    holder.kill()
    holder.wait()
    back, _ = heard.until("sound")
    heard.listen(HEARD_SECONDS)
    player.kill()
    heard.close()
    return {"told": told, "reasons": sorted(reasons), "back": back, "breaks": heard.breaks}


def rate() -> dict[str, object]:
    """The device runs at 44.1 kHz and refuses 16 kHz."""
    player = play(0, np.full(60 * 44_100, 8192), 44_100)
    time.sleep(0.5)
    microphone = Microphone("hw:0,1")
    blocks, took = Supervised(microphone).blocks(RATE, RATE // 10), 0
    levels = []
    while took < 3 * RATE:
        block = next(blocks)
        assert isinstance(block, Block)
        took += len(block.samples)
        levels.append(float(np.mean(block.samples)))
    blocks.close()
    player.kill()
    return {"rate": microphone.rate, "level": levels[len(levels) // 2]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["cycles", "another", "busy", "rate"])
    parser.add_argument("--count", type=int, default=1)
    asked = parser.parse_args()
    faulthandler.dump_traceback_later(HANGING_SECONDS, exit=True)
    found = (
        cycles(asked.count)
        if asked.what == "cycles"
        else {"another": another, "busy": busy, "rate": rate}[asked.what]()
    )
    print(json.dumps(found))
