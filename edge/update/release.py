"""A release: what is signed of a model beside its bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from dataclasses import dataclass, field
from typing import Any

from edge.errors import EdgeError
from edge.settings import settings_of
from edge.update.errors import UpdateError
from edge.update.rules import BOUNDS, rules_of

MAX_BYTES = 256 << 20  # of a model
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # of a channel: it is part of a path
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Release:
    """A model as it was published; its number only ever rises, also where an older model is published again."""

    number: int  # from 1, over all channels of a repository
    sha256: str  # of the file
    length: int  # bytes
    name: str  # of the model
    version: str  # for people
    channel: str = "stable"
    percent: float = 100.0  # of the devices that take it
    published: str = ""  # time, RFC 3339
    withdraws: tuple[int, ...] = ()  # numbers of releases that it replaces at once, without a shadow run
    shadow: dict[str, Any] = field(default_factory=dict)  # keys of ShadowRules that it asks for

    def __post_init__(self) -> None:
        for holds, what in (
            (self.number >= 1, f"number {self.number}"),
            (SHA256.fullmatch(self.sha256), f"sha256 {self.sha256!r}"),
            (0 < self.length <= MAX_BYTES, f"length {self.length}"),
            (NAME.fullmatch(self.channel), f"channel {self.channel!r}"),
            (0 <= self.percent <= 100, f"percent {self.percent}"),
        ):
            if not holds:
                raise UpdateError("damaged", f"a release of {what}", remedy="publish it again")

    def wanted(self, device: str) -> bool:
        """Whether the device is among the release's per cent. One that is stays so when they are raised."""
        digest = hashlib.sha256(f"{self.channel}/{self.number}/{device}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64 * 100 < self.percent


def release_of(document: Any) -> Release:
    """A release from JSON. Keys of a later version are left out. Raises UpdateError for what is none."""
    try:
        fields = {f.name for f in dataclasses.fields(Release)} - {"shadow"}
        release = settings_of(Release, {key: document[key] for key in document if key in fields}, "release")
        shadow = {key: value for key, value in document.get("shadow", {}).items() if key in BOUNDS}
        rules_of(shadow)
    except (EdgeError, TypeError, AttributeError) as error:
        if isinstance(error, UpdateError):
            raise
        why = error.what if isinstance(error, EdgeError) else "not a table"
        raise UpdateError("damaged", f"a release that makes no sense: {why}", remedy="publish it again") from None
    return dataclasses.replace(release, shadow=shadow)
