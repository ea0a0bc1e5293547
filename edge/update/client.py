"""What a repository offers, by the rules of The Update Framework: python-tuf checks them, and this names its refusals.

Imports tuf, which the device's listener never does.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root, TargetFile, Targets
from tuf.ngclient import FetcherInterface, Updater

from edge.secret import without_password
from edge.update import disk
from edge.update.errors import UpdateError
from edge.update.release import Release, release_of
from edge.update.transport import BrokenOffError, MissingError, Transport
from edge.update.versions import disk_error

CUSTOM = "edge-listen"  # key of a target's custom metadata
ROLES = ("root", "timestamp", "snapshot", "targets")
FIRST_DAY = datetime(2026, 1, 1, tzinfo=timezone.utc).timestamp()  # no device runs this before


@dataclass(frozen=True)
class Offer:
    """A release, and where its file is."""

    release: Release
    url: str


class Fetcher(FetcherInterface):  # type: ignore[misc]
    """tuf's downloads, through a transport of ours. It remembers the last one, to name what was refused."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.role, self.content = "", b""

    def _fetch(self, url: str) -> Iterator[bytes]:
        self.role, self.content = url.rpartition("/")[2].removesuffix(".json").rpartition(".")[2], b""
        try:
            for _, piece in self._transport.read(url):
                self.content += piece
                yield piece
        except MissingError:
            raise exceptions.DownloadHTTPError(f"{without_password(url)} is not there", 404) from None
        except BrokenOffError as error:
            raise exceptions.DownloadError(str(error)) from None


class Client:
    """A repository as one device sees it: ``folder`` keeps the metadata that it has seen.

    Raises UpdateError, here and in :meth:`offers`.
    """

    def __init__(self, url: str, root: bytes, folder: Path, transport: Transport) -> None:
        self._url, self._folder = url.rstrip("/"), folder
        self._fetcher = Fetcher(transport)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _remove_temporary(folder)
            self._updater = Updater(
                str(folder), f"{self._url}/metadata/", fetcher=self._fetcher, bootstrap=root
            )  # fmt: skip
        except exceptions.RepositoryError as error:
            raise UpdateError("damaged", f"the root is none: {_line(error)}", remedy="give --root root.json") from None
        except OSError as error:
            raise disk_error(folder, error) from None

    def offers(self, *, not_before: float) -> list[Offer]:
        """Every release that is signed and up to date.

        ``not_before``: seconds since 1970, a time that is known to be over.
        """
        require_clock(max(not_before, FIRST_DAY))
        with self._refusals():
            self._updater.refresh()
            self._sync()
            names = Metadata[Targets].from_file(str(self._folder / "targets.json")).signed.targets
            found = [self._updater.get_targetinfo(name) for name in names]
        return [self._offer(target) for target in found if target is not None]

    def _offer(self, target: TargetFile) -> Offer:
        try:
            facts = dict(json.loads(target.custom[CUSTOM]))
        except (TypeError, KeyError, ValueError):
            raise UpdateError("damaged", f"{target.path} is no release", remedy="publish it again") from None
        release = release_of({**facts, "sha256": target.hashes.get("sha256"), "length": target.length})
        path = target.get_prefixed_paths()[list(target.hashes).index("sha256")]
        return Offer(release, f"{self._url}/targets/{path}")

    def _sync(self) -> None:
        """The library replaces its files as a whole, but does not wait for the disk."""
        for role in ROLES:
            disk.sync_file(self._folder / f"{role}.json")
        disk.sync_folder(self._folder)
        disk.sync_folder(self._folder / "root_history")

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Within, tuf's exceptions become ours."""
        where = without_password(self._url)
        try:
            yield
        except exceptions.ExpiredMetadataError as error:
            raise UpdateError(
                "expired",
                f"{_line(error)}; this device's clock says {_clock()}",
                remedy="run edge-update refresh where the keys are; is the clock right?",
            ) from None
        except exceptions.DownloadLengthMismatchError as error:
            raise UpdateError("tampered", f"{where}: {_line(error)}", remedy="publish again") from None
        except exceptions.DownloadError as error:
            raise UpdateError("unreachable", f"{where}: {_line(error)}", remedy="check --url and the network") from None
        except (exceptions.RepositoryError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._refused(error) from None
        except OSError as error:
            raise disk_error(self._folder, error) from None

    def _refused(self, error: Exception) -> UpdateError:
        """Which refusal tuf's exception is."""
        role = self._fetcher.role
        if isinstance(error, exceptions.UnsignedMetadataError):
            name, remedy = "wrong key", "is --root that of this repository?"
        elif isinstance(error, exceptions.BadVersionNumberError) and role == "timestamp":
            name, remedy = "rollback", "is an old copy of the repository being served?"
        elif isinstance(error, exceptions.BadVersionNumberError) or self._is_signed(role, self._fetcher.content):
            name, remedy = "mixed", "upload the whole repository, timestamp.json last"
        elif isinstance(error, exceptions.LengthOrHashMismatchError):
            name, remedy = "tampered", "upload the repository again"
        else:
            name, remedy = "damaged", "upload the repository again"
        return UpdateError(name, f"{role}.json of {without_password(self._url)}: {_line(error)}", remedy=remedy)

    def _is_signed(self, role: str, content: bytes) -> bool:
        """Whether these are metadata of this repository, if of another time."""
        try:
            root = Metadata[Root].from_file(str(self._folder / "root.json")).signed
            found: Metadata[Any] = Metadata.from_bytes(content)
            root.verify_delegate(role, found.signed_bytes, found.signatures)
        except (exceptions.RepositoryError, OSError, ValueError, KeyError, TypeError, RecursionError):
            return False
        return True


def require_clock(not_before: float) -> None:
    """Raises UpdateError where the clock says a time that is over: what has expired could not be told then."""
    if time.time() < not_before - 86_400:
        then = datetime.fromtimestamp(not_before, timezone.utc).date()
        raise UpdateError(
            "clock",
            f"this device's clock says {_clock()}, and it is {then} or later: what has expired cannot be told",
            remedy="set the clock: timedatectl set-ntp true",
        )


def _clock() -> str:
    return datetime.fromtimestamp(time.time(), timezone.utc).isoformat(timespec="minutes")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _remove_temporary(folder: Path) -> None:
    """What tuf was writing when it was killed."""
    for path in folder.glob("tmp*"):
        disk.remove(path)
    if not os.access(folder, os.W_OK):
        raise PermissionError(13, "permission denied")
