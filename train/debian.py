"""Free recordings out of Debian's packages: speech and music, and clips of the classes of ESC-50."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from edge.bulk import SUFFIXES
from edge.errors import EdgeError, InputError
from edge.files import replacing, write_text
from edge.sources.file import SoundFile

F32 = NDArray[np.float32]

OTHERS = Path(__file__).with_name("debian_others.csv")  # speech, music, and sounds of none of ESC-50's classes
CLIPS = Path(__file__).with_name("debian_clips.csv")  # by class
ARCHIVES = frozenset({".zip", ".pk3", ".wz"})  # zip files, as games have them
RATE = 32_000  # Hz
PIECE_SECONDS = 20.0  # at most, of one file: many voices and tunes are worth more than long ones
RECORDING_SECONDS = 60.0  # about; short files are joined
PAUSE_SECONDS = 0.3
MINUTES = 6.0  # of a package
SHORTEST = 0.1  # seconds, of a clip
SILENT = 1e-3  # peak
SOURCES = "sources.csv"


@dataclass(frozen=True)
class Package:
    """A row of a table: what is taken from a package."""

    name: str
    kind: str  # "speech", "music", "sounds", or a class: the folder that its recordings are in
    pattern: str  # of the files' paths within the package, by re.search
    joined: int = 0  # files to a clip; 0: recordings of about a minute


@dataclass(frozen=True)
class Taken:
    """A recording that was written, and what is in it."""

    path: Path
    package: Package
    version: str
    files: tuple[str, ...]


def read_packages(path: Path = OTHERS) -> list[Package]:
    """What is taken from which package: :data:`OTHERS` or :data:`CLIPS`."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [Package(row["package"], row["kind"], row["files"], int(row.get("joined") or 0)) for row in rows]


def collect(out: Path, rows: Sequence[Package], minutes: float = MINUTES) -> Iterator[tuple[str, list[Taken]]]:
    """Write up to ``minutes`` of each row to ``out``/KIND/PACKAGE-N.flac, the licence to ``out``/PACKAGE.licence.

    A package that is there already is passed over: an interrupted run goes on. ``out``/sources.csv names the files
    that each recording is made of.

    Raises:
        InputError: where apt is missing, or cannot get a package.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in dict.fromkeys(row.name for row in rows):
        mine = [row for row in rows if row.name == name]
        licence = out / f"{name}.licence"  # no folder of them: that would look like a class
        if licence.exists() and {(name, row.kind) for row in mine} <= {
            (row[2], row[1]) for row in _noted(out / SOURCES)
        }:
            continue
        with tempfile.TemporaryDirectory() as folder:
            version, tree = download(name, Path(folder))
            files = recordings_in(tree)
            taken = [recording for row in mine for recording in take(out, row, version, files, minutes)]
            _note(out / SOURCES, taken)
            copyright_file = tree / "usr" / "share" / "doc" / name / "copyright"
            write_text(licence, copyright_file.read_text(encoding="utf-8", errors="replace"))
        yield name, taken


def download(name: str, folder: Path) -> tuple[str, Path]:
    """The version of a package of this machine's Debian, and its files, below ``folder``. Raises InputError."""
    _run(folder, "apt-get", "download", name, remedy="apt-get update, or another mirror")
    (package,) = folder.glob("*.deb")
    _run(folder, "dpkg-deb", "-x", package.name, "tree", remedy=f"free space in {tempfile.gettempdir()}")
    version = _run(folder, "dpkg-deb", "-f", package.name, "Version", remedy="try again")
    return version.strip(), folder / "tree"


def _run(folder: Path, program: str, *arguments: str, remedy: str) -> str:
    """What ``program`` prints, run in ``folder``. Raises InputError where it fails, or is not there."""
    if (path := shutil.which(program)) is None:
        raise InputError(f"{program} is not here", remedy="run this on Debian, or in its container")
    done = subprocess.run([path, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise InputError(f"{program} {' '.join(arguments)}: {said}", remedy=remedy)
    return done.stdout


def take(out: Path, package: Package, version: str, files: Sequence[tuple[str, Path]], minutes: float) -> list[Taken]:
    """Write recordings of up to ``minutes`` of those of ``files`` that match, drawn evenly.

    What cannot be read is left out.
    """
    written: list[Taken] = []
    pieces: list[F32] = []
    names: list[str] = []
    pause = np.zeros(round(PAUSE_SECONDS * RATE), np.float32)

    def write() -> None:
        path = out / package.kind / f"{package.name}-{len(written):02}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            soundfile.write(part, np.concatenate(pieces), RATE, format="FLAC", subtype="PCM_16")
        written.append(Taken(path, package, version, tuple(names)))
        pieces.clear()
        names.clear()

    left = minutes * 60.0
    full = RECORDING_SECONDS * RATE - PIECE_SECONDS * RATE / 2
    for name, sound in _shuffled([file for file in files if re.search(package.pattern, file[0])]):
        try:
            piece = middle(sound)
        except (EdgeError, soundfile.LibsndfileError):
            continue
        if package.joined and (len(piece) < SHORTEST * RATE or np.abs(piece).max() < SILENT):
            continue
        pieces += [piece, pause] if package.joined != 1 else [piece]
        names.append(name)
        left -= len(piece) / RATE
        if left <= 0 or (len(names) >= package.joined if package.joined else sum(map(len, pieces)) >= full):
            write()
        if left <= 0:
            break
    if pieces:
        write()
    return written


def recordings_in(tree: Path) -> list[tuple[str, Path]]:
    """The recordings in ``tree`` and in its archives, with their names there; archives are unpacked beside."""
    found = []
    for path in sorted(tree.rglob("*")):
        name = str(path.relative_to(tree))
        if path.suffix.lower() in ARCHIVES and zipfile.is_zipfile(path):
            beside = path.with_name(path.name + ".unpacked")
            with zipfile.ZipFile(path) as archive:
                members = sorted(m for m in archive.namelist() if Path(m).suffix.lower() in SUFFIXES)
                archive.extractall(beside, members)
            found += [(f"{name}/{member}", beside / member) for member in members]
        elif path.suffix.lower() in SUFFIXES and path.is_file():
            found.append((name, path))
    return found


def middle(path: Path) -> F32:
    """Up to :data:`PIECE_SECONDS` out of the middle of a recording, mono at :data:`RATE`.

    Raises EdgeError or LibsndfileError for what cannot be read.
    """
    length = soundfile.info(path).duration
    start = max(0.0, (length - PIECE_SECONDS) / 2)
    return SoundFile(path, start=start, end=min(length, start + PIECE_SECONDS)).read(RATE)


def _shuffled(files: Sequence[tuple[str, Path]]) -> Iterator[tuple[str, Path]]:
    """All of them, always in the same order, of which any beginning is spread over the whole."""
    yield from (files[n] for n in np.random.default_rng(0).permutation(len(files)))


def _noted(path: Path) -> list[list[str]]:
    """The rows of ``path``, without its header."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def _note(path: Path, taken: Sequence[Taken]) -> None:
    """Say in ``path`` what was taken, and no more what an interrupted run has said of the same."""
    new = [
        [str(r.path.relative_to(path.parent)), r.package.kind, r.package.name, r.version, ";".join(r.files)]
        for r in taken
    ]
    again = {(row[2], row[1]) for row in new}
    old = [row for row in _noted(path) if (row[2], row[1]) not in again]
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([("filename", "kind", "package", "version", "files"), *old, *new])
    write_text(path, table.getvalue())
