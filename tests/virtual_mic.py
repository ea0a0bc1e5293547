"""A real microphone path without sound hardware: PulseAudio's null sink behind ALSA's pulse plugin and PortAudio."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

RATE = 16_000
NEEDED = ("pulseaudio", "pactl", "pacat")


def missing() -> str | None:
    """What this machine lacks for a virtual microphone, or None."""
    lacks = [tool for tool in NEEDED if shutil.which(tool) is None]
    if lacks:
        return f"{', '.join(lacks)} not installed"
    plugins = list(Path("/usr/lib").glob("*/alsa-lib/libasound_module_pcm_pulse.so"))
    return None if plugins else "libasound2-plugins not installed"


class VirtualMicrophone:
    """A PulseAudio server of its own; ``env`` makes PortAudio in a child process see its microphone alone."""

    def __init__(self, rate: int = RATE) -> None:
        self.rate = rate
        self._others: list[subprocess.Popen[bytes]] = []
        self.folder = Path(tempfile.mkdtemp(prefix="vmic-"))
        (self.folder / "xdg").mkdir(mode=0o700)
        (self.folder / "home").mkdir()
        config = self.folder / "asound.conf"
        config.write_text(
            "</usr/share/alsa/alsa.conf>\n"
            'pcm.pulsemic { type pulse device "mic" hint { show on description "test microphone" } }\n'
            'pcm.pulseout { type asym playback.pcm { type pulse device "vmic" } '
            'hint { show on description "what it hears" } }\n'
        )
        self.env = os.environ | {
            "XDG_RUNTIME_DIR": str(self.folder / "xdg"),
            "HOME": str(self.folder / "home"),
            "ALSA_CONFIG_PATH": str(config),
        }
        self.env.pop("PULSE_SERVER", None)
        sink = f"module-null-sink sink_name=vmic rate={rate} channels=1 format=s16le"
        self._command = [
            "pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--disallow-exit",
            f"--log-target=file:{self.folder / 'pulse.log'}",
            "-L", "module-native-protocol-unix auth-anonymous=1",
            "-L", sink,
            "-L", "module-remap-source master=vmic.monitor source_name=mic",
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        """Start the server, again after :meth:`kill`."""
        self._server = subprocess.Popen(self._command, env=self.env)
        self.sink_module = self._wait_for_module("module-null-sink")

    def kill(self) -> None:
        """The server dies."""
        self._server.kill()
        self._server.wait()

    def hang(self, hangs: bool = True) -> None:
        """The server stands still; or goes on."""
        self._server.send_signal(signal.SIGSTOP if hangs else signal.SIGCONT)

    def _wait_for_module(self, name: str) -> str:
        for _ in range(100):
            listing = self.pactl("list", "short", "modules", check=False)
            for line in listing.splitlines():
                if name in line:
                    return line.split()[0]
            time.sleep(0.1)
        raise RuntimeError(f"PulseAudio did not start: {(self.folder / 'pulse.log').read_text()}")

    def pactl(self, *arguments: str, check: bool = True) -> str:
        """Run pactl on this server, and return what it prints."""
        done = subprocess.run(["pactl", *arguments], env=self.env, capture_output=True, text=True, check=check)
        return done.stdout

    def play(self, samples: np.ndarray) -> subprocess.Popen[bytes]:
        """Start to play float samples in [-1, 1] at the server's rate into the microphone; returns the player."""
        raw = self.folder / "play.raw"
        raw.write_bytes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
        return self._pacat("vmic", raw)

    def _pacat(self, device: str, raw: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                "pacat", f"--device={device}", "--raw", "--format=s16le", f"--rate={self.rate}", "--channels=1",
                "--latency-msec=100", str(raw),
            ],
            env=self.env,
        )  # fmt: skip

    def unplug(self, *, all_of_them: bool = True) -> None:
        """Take the microphone away; no other source is left, unless what it was made of stays."""
        self.pactl("unload-module", self.sink_module if all_of_them else "module-remap-source")

    def plug(self, rate: int = RATE) -> None:
        """The microphone comes back, after unplug(all_of_them=False); maybe at another rate."""
        self.pactl("load-module", "module-remap-source", "master=vmic.monitor", "source_name=mic", f"rate={rate}")

    def plug_another(self, level: float) -> None:
        """Another microphone, which hears nothing but ``level`` of full scale: no recording of ours has it."""
        self.pactl(
            "load-module", "module-null-sink", "sink_name=other", f"rate={self.rate}", "channels=1", "format=s16le"
        )
        raw = self.folder / "other.raw"
        raw.write_bytes(np.full(600 * self.rate, round(level * 32768), "<i2").tobytes())
        self._others.append(self._pacat("other", raw))

    def close(self) -> None:
        """Stop the server and remove its folder."""
        for process in (*self._others, self._server):
            process.kill()
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> VirtualMicrophone:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
