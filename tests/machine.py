"""A small virtual machine over this machine's files: a real kernel with ALSA and, if wanted, a real systemd.

QEMU runs Debian's kernel without hardware help. The guest sees the host's root, read-only, at its own paths (so the
checkout and its .venv too), under a layer that is forgotten at the end. What it has read it keeps: a file that changes
here is handed in by way of ``Machine.folder``. Nothing here needs to be root.

Its time is its own: an instruction takes a nanosecond, however slow and busy this machine is. So what takes seconds in
it is what a computer of a billion instructions a second takes: measure by the guest's clock. Working takes several
times as long by the clock on the wall, waiting the same.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import queue
import shlex
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).parent / "machine"
CACHE = Path(os.environ.get("EDGE_LISTEN_MACHINE", Path(tempfile.gettempdir()) / "edge-listen-machine"))
NEEDED = {"qemu-system-x86_64": "qemu-system-x86", "busybox": "busybox-static", "dpkg": "dpkg", "apt-get": "apt"}
BOOT_SECONDS = 180  # takes 15; but where others work on the same two cores, much longer
SLOWEST = 15  # seconds on the wall for a second of the guest's, where others work on the same cores
# Of the kernel's package: what the machine loads, and nothing of its 300 MB else.
MODULES = ("drivers/virtio", "drivers/char", "fs/9p", "fs/fscache", "fs/netfs", "fs/overlayfs", "net/9p", "sound")
UNPACKED = (*(f"kernel/{folder}" for folder in MODULES), "modules.builtin*", "modules.order")
EARLY = (
    "virtio",
    "9p",
    "9pnet",
    "netfs",
    "fscache",
    "overlay",
)  # modules, by how their names begin, to mount the root with


class Unavailable(Exception):
    """What this machine lacks for a virtual one."""


def missing() -> str | None:
    """What this machine lacks for a virtual one, or None; that Debian's kernel can be had is not asked."""
    if platform.machine() != "x86_64":
        return f"the virtual machine is an x86_64, this one is {platform.machine()}"
    lacks = [package for command, package in NEEDED.items() if shutil.which(command) is None]
    return f"{', '.join(lacks)} not installed" if lacks else None


def _output(*command: str | Path, cwd: Path | None = None, stdin: bytes | None = None) -> bytes:
    done = subprocess.run(command, cwd=cwd, input=stdin, capture_output=True)
    if done.returncode:
        raise Unavailable(f"{' '.join(map(str, command))}: {done.stderr.decode(errors='replace').strip()[-300:]}")
    return done.stdout


def _kernel_package() -> str:
    depends = _output("apt-cache", "depends", "linux-image-amd64").decode()
    return next(line.split()[-1] for line in depends.splitlines() if "Depends: linux-image" in line)


def _unpack(folder: Path) -> None:
    """Download Debian's kernel and udev, and lay out ``vmlinuz`` and ``layer``, which goes over the host's root."""
    _output("apt-get", "download", _kernel_package(), "udev", cwd=folder)
    kernel, udev = next(folder.glob("linux-image-*.deb")), next(folder.glob("udev_*.deb"))
    layer = folder / "layer"
    (layer / "usr").mkdir(parents=True)
    patterns = ["./boot/vmlinuz-*", *(f"./lib/modules/*/{name}" for name in UNPACKED)]
    tar = _output("dpkg", "--fsys-tarfile", kernel)
    _output("tar", "-x", "--wildcards", "-C", layer, *patterns, stdin=tar)
    next((layer / "boot").iterdir()).rename(folder / "vmlinuz")
    (layer / "boot").rmdir()
    _output("busybox", "depmod", "-b", layer, next((layer / "lib/modules").iterdir()).name)
    _output("dpkg", "-x", udev, layer)
    # The host's /lib is a link to /usr/lib: a folder of that name would hide it.
    for name in ("lib", "bin", "sbin"):
        if (layer / name).exists():
            shutil.copytree(layer / name, layer / "usr" / name, dirs_exist_ok=True, symlinks=True)
            shutil.rmtree(layer / name)
    kernel.unlink()
    udev.unlink()


def _shared(name: str, folder: Path, options: str) -> list[str]:
    device = f"local,id={name},path={folder},security_model=none,{options}"
    return ["-fsdev", device, "-device", f"virtio-9p-pci,fsdev={name},mount_tag={name}"]


def prepare(cache: Path = CACHE) -> Path:
    """The folder with kernel, modules and udev; downloaded and unpacked the first time."""
    if reason := missing():
        raise Unavailable(reason)
    ready = cache / "debian"
    if not ready.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as name:
            whole = Path(name) / "whole"
            whole.mkdir()
            _unpack(whole)
            whole.chmod(0o755)
            with contextlib.suppress(OSError):  # another process was first
                whole.rename(ready)
    return ready


class Machine:
    """A running virtual machine; ``system`` boots systemd, else there are only the kernel and what is run in it."""

    def __init__(self, cache: Path = CACHE, system: bool = False, memory: int = 1280) -> None:
        debian = prepare(cache)
        self.folder = Path(tempfile.mkdtemp(prefix="machine-"))  # both sides see it, at this path
        self._jobs: dict[str, queue.Queue[int]] = {"ready": queue.Queue()}
        self._numbers = itertools.count()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.folder / "port"))
        listener.listen()
        self._qemu = self._start(debian, self._initramfs(debian, system), memory)
        try:
            listener.settimeout(30)
            self._port, _ = listener.accept()
            listener.close()
            threading.Thread(target=self._read, daemon=True).start()
            self._wait("ready", BOOT_SECONDS)
        except BaseException:
            self.close()
            raise

    def _start(self, debian: Path, initramfs: Path, memory: int) -> subprocess.Popen[bytes]:
        # One processor, and one without AVX: emulated, both are faster than the other choice. Without random addresses
        # QEMU finds again what it has translated, and Python starts in half the time.
        kernel = "console=ttyS0 quiet panic=-1 mitigations=off pti=off audit=0 apparmor=0 norandmaps nokaslr"
        command = [
            "qemu-system-x86_64", "-accel", "tcg", "-icount", "shift=0",
            "-machine", "q35", "-cpu", "Nehalem,+rdrand", "-smp", "1", "-m", str(memory), "-nodefaults", "-no-reboot",
            "-display", "none", "-serial", f"file:{self.folder / 'console'}",
            "-kernel", str(debian / "vmlinuz"), "-initrd", str(initramfs), "-append", f"{kernel} random.trust_cpu=on",
            *_shared("host", Path("/"), "readonly=on,multidevs=remap"),
            *_shared("layer", debian / "layer", "readonly=on"),
            *_shared("exchange", self.folder, "readonly=off"),
            "-device", "virtio-serial", "-chardev", f"socket,id=port,path={self.folder / 'port'}",
            "-device", "virtserialport,chardev=port,name=agent",
        ]  # fmt: skip
        with (self.folder / "qemu").open("wb") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)

    def _initramfs(self, debian: Path, system: bool) -> Path:
        """Busybox, the modules that mount the root, and the scripts; returns the archive."""
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            shutil.copytree(HERE, root / "machine")
            (root / "machine/init").rename(root / "init")
            (root / "init").chmod(0o755)
            settings = {"exchange": self.folder, "system": "yes" if system else ""}
            lines = "".join(f"{key}={shlex.quote(str(value))}\n" for key, value in settings.items())
            (root / "machine/settings").write_text(lines)
            (root / "bin").mkdir()
            shutil.copy(shutil.which("busybox") or "", root / "bin/busybox")
            for applet in ("sh", "mkdir", "mount", "modprobe", "cp", "ln", "switch_root"):
                (root / "bin" / applet).symlink_to("busybox")
            lib = debian / "layer/usr"
            for file in (lib / "lib/modules").rglob("*"):
                if file.name.startswith("modules.") or (file.suffix == ".ko" and file.name.startswith(EARLY)):
                    target = root / file.relative_to(lib)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, target)
            files = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
            archive = self.folder / "initramfs"
            archive.write_bytes(_output("busybox", "cpio", "-o", "-H", "newc", cwd=root, stdin=files.encode()))
        return archive

    def _read(self) -> None:
        with self._port.makefile() as lines, contextlib.suppress(OSError):
            for line in lines:
                job, code = line.split()
                if job in self._jobs:
                    self._jobs[job].put(int(code))

    def _wait(self, job: str, seconds: float) -> int:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                return self._jobs[job].get(timeout=0.5)
            if self._qemu.poll() is not None:
                break
        console = (self.folder / "console").read_text(errors="replace") if (self.folder / "console").exists() else ""
        qemu = (self.folder / "qemu").read_text(errors="replace")
        raise TimeoutError(f"the virtual machine does not answer ({job}):\n{qemu}\n{console[-3000:]}")

    def run(self, command: str, timeout: float = 60, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a shell script in the machine as root, in the folder that both see; from several threads as well.

        Raises:
            AssertionError: it failed, and ``check``; its output is in the message.
            subprocess.TimeoutExpired: it took longer than ``timeout`` seconds by the guest's clock, and was killed.
        """
        job = str(next(self._numbers))
        self._jobs[job] = queue.Queue()
        script, inner = self.folder / f"{job}.sh", self.folder / f"{job}.command"
        inner.write_text(command)
        script.write_text(f"exec timeout -k 2 {timeout} sh {inner}\n")
        self._port.sendall(f"{job}\n".encode())
        code = self._wait(job, SLOWEST * timeout + 60)
        out, err = ((self.folder / f"{job}.{name}").read_text(errors="replace") for name in ("out", "err"))
        for file in self.folder.glob(f"{job}.*"):
            file.unlink()
        del self._jobs[job]
        if code in {124, 137}:
            raise subprocess.TimeoutExpired(command, timeout, out, err)
        if check and code:
            raise AssertionError(f"{command}\nended with {code}:\n{out}{err}")
        return subprocess.CompletedProcess(command, code, out, err)

    def close(self) -> None:
        """End the machine, and remove its folder."""
        self._qemu.kill()
        self._qemu.wait()
        if hasattr(self, "_port"):
            self._port.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
