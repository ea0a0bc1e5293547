"""The publisher's folder: metadata and models as static files, which any web server can serve.

``metadata/`` and ``targets/`` are laid out as The Update Framework says. A file is never changed once it has its name,
but for ``timestamp.json``, which is written last: devices see the old state or the new one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Snapshot, TargetFile, Targets, Timestamp

from edge.update import disk
from edge.update.client import CUSTOM
from edge.update.errors import UpdateError
from edge.update.keys import Keys, expiry
from edge.update.release import Release, release_of
from edge.update.versions import disk_error, now

DAYS = 30.0  # that the timestamp holds: for so long an old state can be served without a device's knowing
LONG_DAYS = 365.0  # that targets and snapshot hold; refresh renews them in time
KEPT = 10  # releases of a channel
MODEL = "model.onnx"
EMPTY = {"targets": Targets, "snapshot": Snapshot, "timestamp": Timestamp}


@dataclass(frozen=True)
class Repository:
    """A folder of releases, and the keys that sign them. Raises UpdateError for what cannot be read or written."""

    folder: Path
    keys: Keys

    def releases(self) -> list[Release]:
        """All that are published, the oldest first."""
        found = [_release(target) for target in self._load("targets").signed.targets.values()]
        return sorted(found, key=lambda release: release.number)

    def publish(self, model: Path, release: Release, *, days: float = DAYS) -> Release:
        """Add ``model`` as ``release``, whose number, hash, length and time are set here."""
        content = model.read_bytes()
        release = dataclasses.replace(
            release,
            number=self._next(),
            sha256=hashlib.sha256(content).hexdigest(),
            length=len(content),
            published=now(),
        )
        path = _path(release)
        try:
            file = self.folder / "targets" / path.parent / f"{release.sha256}.{path.name}"
            file.parent.mkdir(parents=True, exist_ok=True)
            disk.write(file, content)
            self._sign([*self.releases(), release], days)
            return release
        except OSError as error:
            raise disk_error(self.folder, error) from None

    def promote(self, number: int | None, percent: float, channel: str, *, days: float = DAYS) -> Release:
        """Raise the percentage of a release; None: the newest of the channel."""
        release = self._named(number, channel)
        if percent < release.percent:
            raise UpdateError(
                "usage",
                f"release {release.number} is at {release.percent:g} %, and devices have it",
                remedy="give more, or take it back: edge-update withdraw",
            )
        raised = dataclasses.replace(release, percent=percent)
        self._replace([raised if r.number == release.number else r for r in self.releases()], days)
        return raised

    def withdraw(self, number: int | None, channel: str, *, days: float = DAYS) -> Release:
        """Take a release back: the one before it is published again, under a new number, for every device."""
        bad = self._named(number, channel)
        before = [r for r in self.releases() if r.channel == channel and r.number < bad.number]
        if not before:
            raise UpdateError("usage", f"there is no release before {bad.number}", remedy="publish a better model")
        others = [r for r in self.releases() if r.number != bad.number]
        good = ([r for r in before if r.percent == 100] or before)[-1]
        again = dataclasses.replace(
            good,
            number=self._next(),
            percent=100.0,
            published=now(),
            withdraws=(bad.number, *bad.withdraws),
        )
        source = self.folder / "targets" / _prefixed(good)
        file = self.folder / "targets" / _prefixed(again)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            disk.write(file, source.read_bytes())
        except OSError as error:
            raise disk_error(self.folder, error) from None
        self._replace([*others, again], days)
        return again

    def refresh(self, *, days: float = DAYS) -> datetime:
        """Sign a new timestamp, and whatever would expire before it or was signed by keys that are no more.

        Returns when it expires.
        """
        self._replace(None, days)
        expires: datetime = self._load("timestamp").signed.expires
        return expires

    def _named(self, number: int | None, channel: str) -> Release:
        found = [r for r in self.releases() if r.channel == channel and number in (None, r.number)]
        if not found:
            what = f"no release in {channel}" if number is None else f"no release {number} in {channel}"
            raise UpdateError("usage", f"{self.folder} has {what}", remedy="see edge-update releases")
        return found[-1]

    def _next(self) -> int:
        """A number that no release has had: the newest one is never deleted."""
        return max((release.number for release in self.releases()), default=0) + 1

    def _replace(self, releases: list[Release] | None, days: float) -> None:
        try:
            self._sign(releases, days)
        except OSError as error:
            raise disk_error(self.folder, error) from None

    def _sign(self, releases: Iterable[Release] | None, days: float) -> None:
        """Write what has changed, timestamp.json last, and delete what nobody can ask for any more."""
        (self.folder / "metadata").mkdir(parents=True, exist_ok=True)
        for root in self.keys.roots():
            copy = self.folder / "metadata" / root.name
            if not copy.exists():
                disk.write(copy, root.read_bytes())
        targets = self._load("targets")
        before = dict(targets.signed.targets)
        if releases is not None:
            targets.signed.targets = {str(_path(r)): _target(r) for r in _kept(releases)}
        changed = targets.signed.targets != before
        written = self._write("targets", targets, changed, LONG_DAYS, days)
        snapshot = self._load("snapshot")
        if written is not None:
            snapshot.signed.meta["targets.json"] = _meta(targets, written)
        written = self._write("snapshot", snapshot, written is not None, LONG_DAYS, days)
        timestamp = self._load("timestamp")
        if written is not None:
            timestamp.signed.snapshot_meta = _meta(snapshot, written)
        self._write("timestamp", timestamp, True, days, days)
        self._prune()

    def _write(self, role: str, metadata: Metadata[Any], changed: bool, days: float, at_least: float) -> bytes | None:
        """A new version where it has ``changed``, or would not hold for ``at_least`` days; its bytes."""
        signed = metadata.signed
        if not changed and signed.expires > expiry(at_least) and self._verifies(role, metadata):
            return None
        is_new = not metadata.signatures
        signed.version += 0 if is_new else 1
        signed.expires = expiry(max(days, at_least))
        self.keys.sign(metadata, role)
        content: bytes = metadata.to_bytes()
        name = "timestamp.json" if role == "timestamp" else f"{signed.version}.{role}.json"
        disk.write(self.folder / "metadata" / name, content)
        return content

    def _verifies(self, role: str, metadata: Metadata[Any]) -> bool:
        try:
            self.keys.root().signed.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
        except RepositoryError:
            return False
        return True

    def _load(self, role: str) -> Metadata[Any]:
        """The newest metadata of ``role``; new ones, without a signature, where there are none."""
        folder = self.folder / "metadata"
        if role == "timestamp":
            path = folder / "timestamp.json"
        else:
            found = [p for p in folder.glob(f"*.{role}.json") if p.name.split(".")[0].isdecimal()]
            path = max(found, key=lambda p: int(p.name.split(".")[0]), default=folder / f"1.{role}.json")
        try:
            return Metadata.from_bytes(path.read_bytes())
        except FileNotFoundError:
            return Metadata(EMPTY[role](expires=expiry(0)))
        except (RepositoryError, OSError) as error:
            raise UpdateError("damaged", f"{path}: {error}", remedy="restore the repository from a copy") from None

    def _prune(self) -> None:
        """Models that no release names, and metadata that are not the newest two."""
        named = {self.folder / "targets" / _prefixed(release) for release in self.releases()}
        for path in (self.folder / "targets").glob("*/*/*"):
            if path not in named:
                disk.remove(path)
        for role in ("targets", "snapshot"):
            found = (self.folder / "metadata").glob(f"*.{role}.json")
            for path in sorted(found, key=lambda p: int(p.name.split(".")[0]))[:-2]:
                disk.remove(path)


def _path(release: Release) -> Path:
    """Of the target."""
    return Path(release.channel, str(release.number), MODEL)


def _prefixed(release: Release) -> Path:
    """Of the target's file."""
    path = _path(release)
    return path.with_name(f"{release.sha256}.{path.name}")


def _target(release: Release) -> TargetFile:
    custom = {k: v for k, v in dataclasses.asdict(release).items() if k not in ("sha256", "length")}
    fields = {"custom": {CUSTOM: json.dumps(custom)}}  # as text: the JSON that is signed has no fractions
    return TargetFile(release.length, {"sha256": release.sha256}, str(_path(release)), fields)


def _release(target: TargetFile) -> Release:
    custom: Any = target.custom
    return release_of({**json.loads(custom[CUSTOM]), "sha256": target.hashes["sha256"], "length": target.length})


def _meta(metadata: Metadata[Any], content: bytes) -> MetaFile:
    return MetaFile(metadata.signed.version, len(content), {"sha256": hashlib.sha256(content).hexdigest()})


def _kept(releases: Iterable[Release]) -> list[Release]:
    """The newest of each channel, and the newest that every device takes."""
    kept: dict[int, Release] = {}
    everything = sorted(releases, key=lambda release: release.number)
    for channel in {release.channel for release in everything}:
        mine = [release for release in everything if release.channel == channel]
        whole = [release for release in mine if release.percent == 100]
        kept |= {release.number: release for release in (*mine[-KEPT:], *whole[-1:])}
    return list(kept.values())
