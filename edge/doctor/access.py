"""Whether sound devices may be opened: permissions, containers, sound servers, and who holds them."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edge.doctor.check import Check, failure, ok, skipped, warning
from edge.doctor.subject import Subject, read

SERVERS = ("pulseaudio", "pipewire", "pipewire-pulse", "wireplumber", "jackd", "jackdbus")  # they share what they hold


@dataclass(frozen=True, order=True)
class Holder:
    """A process that has a sound device open."""

    pid: int
    name: str
    device: str  # its file's name

    @property
    def is_listener(self) -> bool:
        """Whether it is edge-listen itself."""
        return self.name == "edge-listen"

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid})"


def permissions(subject: Subject, may_use: Callable[[Path], bool] | None = None) -> Iterator[Check]:
    """Whether /dev/snd is there, and may be used by this user."""
    may_use = may_use or (lambda path: os.access(path, os.R_OK | os.W_OK))
    folder = subject.root / "dev/snd"
    captures = sorted(folder.glob("pcmC*c"))
    if not folder.is_dir():
        inside = container(subject.root)
        if inside:
            remedy = "give it the devices: docker run --device /dev/snd --group-add audio"
            yield warning("permissions", f"this {inside} has no /dev/snd", remedy)
        else:
            yield warning("permissions", "there is no /dev/snd: the kernel knows no sound card", "plug in a microphone")
    elif not captures:
        found = "no device in /dev/snd can record"
        yield warning("permissions", found, "plug in a microphone; arecord -l and dmesg | tail tell more")
    elif refused := [path.name for path in captures if not may_use(path)]:
        yield failure("permissions", f"{user()} may not open {', '.join(refused)} in /dev/snd", _group_remedy())
    else:
        yield ok("permissions", f"{user()} may open {', '.join(path.name for path in captures)} in /dev/snd")


def _group_remedy() -> str:
    with suppress(KeyError):
        if grp.getgrnam("audio").gr_gid in {*os.getgroups(), os.getgid()}:
            return "it is in the group audio, so a udev rule has other ideas: ls -l /dev/snd"
    return f"sudo usermod -aG audio {user()}, then log in again; of a service: SupplementaryGroups=audio"


def user() -> str:
    """The name of whoever runs this."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"user {os.getuid()}"


def container(root: Path) -> str:
    """The kind of container that this is; empty for none."""
    if (root / "run/.containerenv").exists():
        return "container (podman)"
    if (root / ".dockerenv").exists():
        return "container (docker)"
    named = [word for word in read(root / "proc/1/environ").split() if word.startswith("container=")]
    return f"container ({named[0].removeprefix('container=')})" if named else ""


def sound_server(subject: Subject, environment: Mapping[str, str] | None = None) -> Iterator[Check]:
    """PulseAudio's and PipeWire's sockets."""
    environment = os.environ if environment is None else environment
    if server := environment.get("PULSE_SERVER"):
        yield ok("sound server", f"PULSE_SERVER names {server}")
        return
    runtime = environment.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}").lstrip("/")
    sockets = {"PulseAudio": "pulse/native", "PipeWire": "pipewire-0"}
    there = [name for name, socket in sockets.items() if (subject.root / runtime / socket).exists()]
    found = f"{' and '.join(there)} of {user()}" if there else "none of this user: ALSA is used directly"
    yield ok("sound server", found) if there else skipped("sound server", found)


def in_use(subject: Subject) -> Iterator[Check]:
    """Which programs hold a device."""
    held = holders(subject.root)
    names = ", ".join(f"{holder}: {holder.device}" for holder in held)
    others = [holder for holder in held if not holder.is_listener and holder.name not in SERVERS]
    if not held:
        yield ok("in use", "no program that can be seen has a microphone open")
    elif others:
        remedy = f"stop it: sudo kill {others[0].pid}; or share the microphone through a sound server"
        yield warning("in use", names, remedy, pids=[holder.pid for holder in held])
    else:
        yield ok("in use", names, pids=[holder.pid for holder in held])


def holders(root: Path) -> list[Holder]:
    """Who has a capturing device open, as far as this user may see: by its open files, or by what ALSA tells."""
    found = {Holder(pid, _name(root, pid), device) for pid, device in (*_by_files(root), *_by_alsa(root))}
    return sorted(holder for holder in found if holder.pid != os.getpid())


def _by_files(root: Path) -> Iterator[tuple[int, str]]:
    for fd in (root / "proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            target = fd.readlink()
            if target.parent == Path("/dev/snd") and target.name.startswith("pcm") and target.name.endswith("c"):
                yield int(fd.parent.parent.name), target.name


def _by_alsa(root: Path) -> Iterator[tuple[int, str]]:
    """What everybody may read, but of one thread of the owner."""
    for status in (root / "proc/asound").glob("card[0-9]*/pcm*c/sub*/status"):
        for line in read(status).splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "owner_pid" and value.strip().isdecimal():
                card, device = status.parts[-4].removeprefix("card"), status.parts[-3].removeprefix("pcm")
                yield _process_of(root, int(value)), f"pcmC{card}D{device}"


def _process_of(root: Path, thread: int) -> int:
    for line in read(root / f"proc/{thread}/status").splitlines():
        if line.startswith("Tgid:"):
            return int(line.split()[1])
    return thread


def _name(root: Path, pid: int) -> str:
    """What people know it by; Python's own name says little."""
    command = read(root / f"proc/{pid}/cmdline")
    if "edge-listen" in command.split("/")[-1].split()[:1] or "edge.cli.listen" in command:
        return "edge-listen"
    return read(root / f"proc/{pid}/comm") or "a program"
