"""The disk: room where edge-listen writes, and how often it writes to a card that wears out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from edge.doctor.check import Check, failure, ok, skipped, warning
from edge.doctor.subject import Place, Subject, read

FEW_BYTES, LITTLE_BYTES = 50_000_000, 500_000_000
FEW_INODES = 1000
OFTEN = ("window", "status")  # types of records that come all the time


def folders(subject: Subject) -> dict[Path, list[str]]:
    """Where edge-listen writes: folders, and what for."""
    found: dict[Path, list[str]] = {}
    for place in subject.places:
        if (file := file_of(place)) is not None:
            found.setdefault(file.absolute().parent, []).append(place.name)
        if place.spool is not None:
            found.setdefault(place.spool.absolute().parent, []).append(f"the spool of {place.name}")
    if subject.clips:
        found.setdefault(Path(subject.clips).absolute(), []).append("clips")
    return found


def file_of(place: Place) -> Path | None:
    """The file that a place for records writes. Raises StoreError without a home folder."""
    if place.kind == "store":
        file: Path = place.config.file
        return file
    return Path(place.config.path) if place.kind == "file" else None


def disk(subject: Subject, look: Callable[[Path], os.statvfs_result] = os.statvfs) -> Iterator[Check]:
    """Free space and inodes of each file system that is written to, and whether it may be."""
    wanted = folders(subject)
    if not wanted:
        yield skipped("disk", "nothing is written to a disk")
    for folder, uses in wanted.items():
        yield _room(folder, ", ".join(uses), look)


def _room(folder: Path, uses: str, look: Callable[[Path], os.statvfs_result]) -> Check:
    name, there = f"disk of {uses}", nearest(folder)
    status = look(there)
    free, inodes = status.f_bavail * status.f_frsize, status.f_favail
    data = {"folder": str(folder), "free_bytes": free, "free_inodes": inodes if status.f_files else None}
    found = f"{free / 1e6:.0f} MB free in {folder}"
    if status.f_flag & os.ST_RDONLY:
        remedy = "after a power cut, dmesg | tail says why; sudo fsck, or a new card"
        return failure(name, f"{folder} is on a read-only file system", remedy, **data)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return failure(
            name, f"{there} may not be written by this user", "name another folder, or run as its owner", **data
        )
    if free < FEW_BYTES:
        return failure(name, found, "free some space: sudo du -xh / | sort -h | tail", **data)
    if status.f_files and inodes < FEW_INODES:
        remedy = "delete small files: sudo du --inodes -x / | sort -n | tail"
        return failure(name, f"{inodes} inodes free in {folder}", remedy, **data)
    if free < LITTLE_BYTES:
        return warning(name, found, "free some space: sudo du -xh / | sort -h | tail", **data)
    return ok(name, found, **data)


def nearest(path: Path) -> Path:
    """The path itself, or the folder above it that is there."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def wear(subject: Subject) -> Iterator[Check]:
    """What is written to a memory card, and how often."""
    cards = {folder: uses for folder, uses in folders(subject).items() if on_card(subject.root, folder)}
    if not cards:
        yield ok("wear", "nothing is written to a memory card")
        return
    told = "; ".join(f"{', '.join(uses)} in {folder}" for folder, uses in cards.items())
    often = [place for place in subject.places if _writes_often(place) and _parent(place) in cards]
    if often:
        remedy = f'types = ["event"] for {often[0].name}, or a file in /run, which is memory'
        yield warning("wear", f"{often[0].name} writes each window to the card: {told}", remedy)
    else:
        yield ok("wear", f"written to the card with events, and at most once a minute: {told}")


def _writes_often(place: Place) -> bool:
    return place.kind == "file" and (not place.config.types or bool(set(OFTEN) & set(place.config.types)))


def _parent(place: Place) -> Path | None:
    file = file_of(place)
    return None if file is None else file.absolute().parent


def on_card(root: Path, folder: Path) -> bool:
    """Whether ``folder`` is on an SD or MMC card, by the mounts."""
    best, device = "", ""
    for line in read(root / "proc/self/mounts").splitlines():
        words = line.split()
        point = words[1].rstrip("/") if len(words) > 1 else "?"
        if f"{folder}/".startswith(f"{point}/") and len(point) >= len(best):
            best, device = point, words[0]
    if device == "/dev/root":  # as a Raspberry Pi's kernel calls what its command line names
        device = next((w for w in read(root / "proc/cmdline").split() if w.startswith("root=")), "")
        return "mmcblk" in device or ("PARTUUID" in device and any((root / "sys/block").glob("mmcblk*")))
    return "mmcblk" in device
