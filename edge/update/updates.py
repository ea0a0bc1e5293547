"""One look at a repository: what is new for this device is fetched, proven, and becomes the candidate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from edge.extras import need
from edge.settings import require
from edge.update import disk
from edge.update.device import device_id
from edge.update.download import SECONDS, download, require_space
from edge.update.errors import UpdateError
from edge.update.prove import prove
from edge.update.release import NAME, Release
from edge.update.rules import rules_of
from edge.update.transport import Transport, transport_of
from edge.update.versions import KEPT, Versions, default_folder, disk_error, is_whole

PARTS = "downloads"
METADATA = "metadata"
BUSY = "update.lock"


@dataclass(frozen=True)
class UpdateConfig:
    """The table [update] of a configuration file."""

    url: str = ""  # of the repository: https://…, a folder, or what fsspec knows
    root: str = ""  # file: the root.json that came with the device
    state: str = ""  # folder of versions; empty: edge.update.versions.default_folder
    channel: str = "stable"
    device_id: str = ""  # for staged roll-outs; empty: that of the system
    kept: int = KEPT  # models: the current one and those before it
    seconds: float = SECONDS  # for one download; the rest comes the next time
    shadow: dict[str, float] = field(default_factory=dict)  # keys of ShadowRules, instead of the release's

    def __post_init__(self) -> None:
        require(NAME.fullmatch(self.channel) is not None, "channel", self.channel, "letters, digits and ._-")
        require(1 <= self.kept <= 100, "kept", self.kept, "1 to 100")
        rules_of({}, self.shadow)
        require(self.seconds > 0, "seconds", self.seconds, "above 0")

    def versions(self) -> Versions:
        """The folder of versions. Raises UpdateError for a user without a home."""
        return Versions(Path(self.state) if self.state else default_folder(), kept=self.kept)


@dataclass(frozen=True)
class Found:
    """What a look at the repository has come to."""

    release: Release | None  # the newest that is meant for this device
    news: bool  # it is neither here nor rejected
    told: str  # for people


def choose(releases: Sequence[Release], channel: str, device: str) -> Release | None:
    """The newest release of the channel that the device takes."""
    mine = [release for release in releases if release.channel == channel and release.wanted(device)]
    return max(mine, key=lambda release: release.number, default=None)


class Updates:
    """The repository and the folder of one device. Raises UpdateError, which changes nothing, all over."""

    def __init__(
        self, config: UpdateConfig, *, transport: Transport | None = None, proof: Callable[[Path], None] = prove
    ) -> None:
        if not config.url or not config.root:
            missing = "url" if not config.url else "root"
            raise UpdateError("usage", f"no {missing} is given", remedy=f"give --{missing}, or set it in [update]")
        need("tuf", "update", partial(UpdateError, "usage"))
        self._config, self._proof = config, proof
        self.versions = config.versions()
        self._transport = transport or transport_of(config.url)
        self._parts = self.versions.folder / PARTS

    def check(self) -> Found:
        """What is new, without fetching it."""
        with self._alone():
            return self._look()[0]

    def fetch(self) -> Found:
        """What is new becomes the candidate, or current where it withdraws what is current."""
        with self._alone():
            self.versions.clean()
            found, url = self._look()
            if found.news and found.release is not None:
                self._take(found.release, url)
            return found

    @contextmanager
    def _alone(self) -> Iterator[None]:
        folder = self.versions.folder
        try:
            self._parts.mkdir(parents=True, exist_ok=True)
            with disk.locked(folder / BUSY, wait=False):
                yield
        except BlockingIOError:
            raise UpdateError("busy", f"another edge-update uses {folder}", remedy="wait until it ends") from None
        except OSError as error:
            raise disk_error(folder, error) from None

    def _look(self) -> tuple[Found, str]:
        from edge.update.client import Client, require_clock

        config, state = self._config, self.versions.state()
        client = Client(config.url, self._root(), self.versions.folder / METADATA, self._transport)
        offers = client.offers(not_before=state.clock)
        for offer in offers:
            require_clock(_seconds(offer.release.published))
        self.versions.saw_time(time.time())
        device = config.device_id or device_id(self.versions.folder)
        release = choose([offer.release for offer in offers], config.channel, device)
        url = next((offer.url for offer in offers if offer.release == release), "")
        if state.candidate and state.candidate.number not in [offer.release.number for offer in offers]:
            self.versions.drop_candidate()
        return self._found(release), url

    def _root(self) -> bytes:
        try:
            return Path(self._config.root).read_bytes()
        except OSError as error:
            raise UpdateError(
                "usage", f"--root {self._config.root}: {error.strerror}", remedy="give the root.json of the repository"
            ) from None

    def _found(self, release: Release | None) -> Found:
        state = self.versions.state()
        if release is None:
            return Found(None, False, f"nothing is published for this device in {self._config.channel}")
        told = f"release {release.number} ({release.name} {release.version})"
        if rejected := state.rejection(release.number):
            return Found(release, False, f"{told} was rejected here: {rejected.reason}")
        if state.current and state.current.number == release.number and self.versions.is_whole(state.current):
            return Found(release, False, f"{told} is the current one")
        if state.candidate and state.candidate.number == release.number and self.versions.is_whole(state.candidate):
            return Found(release, False, f"{told} is the candidate")
        if state.current and release.number < state.current.number:
            raise UpdateError(
                "rollback",
                f"release {release.number} is offered, and release {state.current.number} is the current one",
                remedy="to go back, publish it under a new number: edge-update withdraw",
            )
        return Found(release, True, f"{told} is new")

    def _take(self, release: Release, url: str) -> None:
        part = self._parts / f"{release.sha256}{disk.PART}"
        for path in self._parts.iterdir():
            if path != part:
                disk.remove(path)
        kept = self.versions.path(release)
        if not is_whole(kept, release):
            self._download(release, url, part)
            self._prove(release, part)
        else:
            self._prove(release, kept)
        self.versions.offer(part, release, rules_of(release.shadow, self._config.shadow))

    def _download(self, release: Release, url: str, part: Path) -> None:
        """``part`` is the release's file. What a power cut has spoilt is fetched once more."""
        resumed = part.exists()
        require_space(self._parts, release.length - (part.stat().st_size if resumed else 0))
        download(self._transport, url, part, release.length, seconds=self._config.seconds)
        if is_whole(part, release):
            return
        disk.remove(part)
        if not resumed:
            raise UpdateError(
                "tampered", f"the file of release {release.number} has another SHA-256", remedy="upload it again"
            )
        self._download(release, url, part)

    def _prove(self, release: Release, path: Path) -> None:
        """What does not work here is remembered, and not fetched again."""
        try:
            self._proof(path)
        except UpdateError as error:
            if error.refusal == "model":
                self.versions.refuse(release, error.what)
                disk.remove(self._parts / f"{release.sha256}{disk.PART}")
            raise


def _seconds(published: str) -> float:
    """Since 1970; 0 where it is no time."""
    try:
        return datetime.fromisoformat(published).timestamp()
    except ValueError:
        return 0.0


def as_json(versions: Versions) -> dict[str, Any]:
    """The state of the folder, for programs."""
    import dataclasses

    return {"current_file": str(versions.current()), **dataclasses.asdict(versions.state())}
