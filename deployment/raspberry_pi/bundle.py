"""``make bundle ARCH=aarch64``: all that install.sh needs on a computer without a network, in one archive.

The wheel of this checkout, those of its libraries, pip, and the .deb files of PortAudio for each release of Debian. The
same inputs make the same bytes. Needs pip and, for the .deb files, Debian's apt-get.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "edge")  # what our wheel is made of
FILES = (
    "install.sh",
    "edge-listen.toml",
    "70-edge-listen-microphone.rules",
    "journald-volatile.conf",
)
EXTRAS = ("http", "metrics", "mqtt", "update")  # of a device; those that pyproject.toml has
GLIBC = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_26", "manylinux_2_17", "manylinux2014")  # Debian 12 has 2.36
SUITES = {"3.11": "bookworm", "3.13": "trixie"}  # Python → Debian, which is Raspberry Pi OS
DEBIAN = {"aarch64": "arm64", "x86_64": "amd64"}
EPOCH = "315532800"  # 1980-01-01, the first day that a zip file can name


def main() -> None:
    """Write the bundle, and print where it is."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--arch", choices=sorted(DEBIAN), default="aarch64")
    parser.add_argument("--python", choices=sorted(SUITES), action="append", help="default: all")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "bundle"
        fill(folder, options.arch, options.python or sorted(SUITES))
        (ours,) = (folder / "wheels").glob("edge_listen-*.whl")
        name = f"edge-listen-{ours.name.split('-')[1]}-{options.arch}"
        options.out.mkdir(parents=True, exist_ok=True)
        archive = options.out / f"{name}.tar.gz"
        pack(folder, name, archive)
    print(f"{archive} ({archive.stat().st_size / 1e6:.0f} MB)")


def fill(folder: Path, arch: str, pythons: list[str]) -> None:
    """The bundle as a folder, with the list of its files last."""
    (folder / "wheels").mkdir(parents=True)
    units = [path.name for kind in ("service", "timer") for path in HERE.glob(f"edge-*.{kind}")]
    for name in (*FILES, *units):
        shutil.copy(HERE / name, folder / name)
    extras = tuple(name for name in EXTRAS if name in project()["optional-dependencies"])
    for name, lines in (("ARCH", [arch]), ("PYTHONS", pythons), ("EXTRAS", [",".join(extras)])):
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    build_wheel(folder / "wheels")
    for python in pythons:
        download_wheels(folder / "wheels", arch, python, [*requirements(extras), "pip"])
        download_debs(folder / "debs" / SUITES[python], DEBIAN[arch], SUITES[python])
    write_checksums(folder)


def project() -> dict:
    """The table [project] of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(extras: tuple[str, ...]) -> list[str]:
    """What our wheel asks for, with these extras."""
    table = project()
    return [*table["dependencies"], *(r for name in extras for r in table["optional-dependencies"][name])]


def build_wheel(out: Path) -> None:
    """Our wheel, from copies: what lies in build/ of the checkout may be of another day."""
    with tempfile.TemporaryDirectory() as scratch:
        for name in SOURCES:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, Path(scratch) / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, scratch)
        pip("wheel", "--no-deps", "--wheel-dir", out, scratch, environment={"SOURCE_DATE_EPOCH": EPOCH})


def download_wheels(out: Path, arch: str, python: str, wanted: list[str]) -> None:
    """The wheels of ``wanted`` and of what these depend on; what has no wheel is an error."""
    platforms = [word for glibc in GLIBC for word in ("--platform", f"{glibc}_{arch}")]
    options = ["--only-binary=:all:", "--implementation", "cp", "--python-version", python, *platforms]
    pip("download", "--dest", out, *options, *wanted)


def pip(*arguments: str | Path, environment: dict[str, str] | None = None) -> None:
    """Run pip; its words are shown when it fails."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | (environment or {}), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: pip {arguments[0]} failed: {done.stderr.strip()}")


def download_debs(out: Path, arch: str, suite: str) -> None:
    """libportaudio2 and what it depends on, but for what every Raspberry Pi OS has."""
    if shutil.which("apt-get") is None:
        print(
            f"no apt-get here: the bundle has no .deb files for {suite}, and install.sh asks the network",
            file=sys.stderr,
        )
        return
    with tempfile.TemporaryDirectory() as scratch:
        apt = private_apt(Path(scratch), arch, suite)
        usual = set(uris(apt, "apt", "python3", "sudo", "systemd-sysv", "udev"))
        wanted = [uri for uri in uris(apt, "libportaudio2") if uri not in usual]
        # apt knows which version and checks its signature; a package by name and version, as apt wants it.
        run_apt(apt, "install", "--download-only", "libportaudio2")
        out.mkdir(parents=True)
        archives = Path(scratch) / "cache/archives"
        names = {Path(uri).name.split("_")[0] for uri in wanted}
        for deb in sorted(archives.glob("*.deb")):
            if deb.name.split("_")[0] in names:
                shutil.copy(deb, out / deb.name.replace("%3a", "."))


def private_apt(folder: Path, arch: str, suite: str) -> list[str]:
    """apt-get's options for another system than this: an empty one of ``arch`` and ``suite``. Fetches its lists."""
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    key = "/usr/share/keyrings/debian-archive-keyring.gpg"
    mirror = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
    (folder / "sources.list").write_text(f"deb [arch={arch} signed-by={key}] {mirror} {suite} main\n")
    settings = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": os.devnull,
        "Dir::State::status": folder / "status",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "APT::Architecture": arch,
        "APT::Architectures": arch,
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "",
        "Acquire::Retries": "3",
        # A host may be set up to fetch more than packages: here it would only be one thing more that can fail.
        **{
            f"Acquire::IndexTargets::deb::{more}::DefaultEnabled": "false" for more in ("CNF", "Contents-deb", "DEP-11")
        },
    }
    apt = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    run_apt(apt, "update")
    return apt


def uris(apt: list[str], *packages: str) -> list[str]:
    """Where ``packages`` and all that they depend on are fetched from."""
    lines = run_apt(apt, "install", "--print-uris", *packages).splitlines()
    return [line.split()[0].strip("'") for line in lines if line.startswith("'")]


def run_apt(apt: list[str], *words: str) -> str:
    """What ``apt-get`` prints."""
    command = [shutil.which("apt-get") or "apt-get", *apt, "-qq", "-y", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: apt-get {words[0]} failed: {done.stderr.strip()}")
    return done.stdout


def write_checksums(folder: Path) -> None:
    """SHA256SUMS of all files, as sha256sum --check reads them."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(folder)}\n" for p in files]
    (folder / "SHA256SUMS").write_text("".join(lines))


def pack(folder: Path, name: str, archive: Path) -> None:
    """``folder`` as an archive whose bytes depend on nothing but names and contents."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = "root"
        entry.mode = 0o755 if entry.isdir() or entry.name.endswith(".sh") else 0o644
        return entry

    part = archive.with_name(f".{archive.name}.part")
    with part.open("wb") as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as zipped:  # noqa: SIM117
        with tarfile.open(fileobj=zipped, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for path in [folder, *sorted(folder.rglob("*"))]:
                tar.add(path, Path(name) / path.relative_to(folder), recursive=False, filter=plain)
    part.replace(archive)


if __name__ == "__main__":
    main()
