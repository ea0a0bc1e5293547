"""The folder of models on a device: which one is current, which one is tried, which ones are kept.

Model files are named by their SHA-256 and never change. What they are to the device stands in one small file, which is
replaced as a whole: whatever happens meanwhile, it is the old one or the new one, and every file that it names was on
the disk before it was.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from edge.files import state_folder
from edge.models import BUNDLED
from edge.update import disk
from edge.update import state as states
from edge.update.errors import UpdateError
from edge.update.release import Release
from edge.update.rules import ShadowReport, ShadowRules
from edge.update.state import BrokenStateError, Rejected, State

log = logging.getLogger("edge.update")

KEPT = 3  # the current model and those before it
STATE = "versions.json"
MODELS = "models"
LOCK = "lock"


@dataclass(frozen=True)
class Candidate:
    """A model that has passed its signature and its golden vectors here, and waits for its shadow run."""

    path: Path  # whole
    number: int  # of the release
    name: str  # of the model
    version: str  # for people
    sha256: str  # of the file
    rules: ShadowRules


class Versions:
    """The folder of versions. Any number of processes may use it, and be killed at any time.

    Whatever changes it raises UpdateError where the disk does not take that; it is as before then, or has changed.
    """

    def __init__(self, folder: Path, *, fallback: Path = BUNDLED, kept: int = KEPT) -> None:
        self.folder, self._fallback, self._kept = folder, fallback, kept
        self._models, self._file = folder / MODELS, folder / STATE

    def state(self) -> State:
        """What is remembered; nothing, with a warning, where that cannot be read."""
        try:
            return states.read(self._file)
        except BrokenStateError as error:
            log.warning("the state of updates cannot be read, and is begun anew: %s", error)
            return State()

    def current(self) -> Path:
        """The model to run: whole. With a warning, the one before it, or the bundled one, where it is not."""
        state = self.state()
        wanted = (*filter(None, [state.current]), *state.former)
        for release in wanted:
            if self.is_whole(release):
                if release is not wanted[0]:
                    log.warning("release %d is damaged or gone: release %d runs", wanted[0].number, release.number)
                return self.path(release)
        if wanted:
            log.warning("release %d is damaged or gone: the bundled model runs", wanted[0].number)
        return self._fallback

    def candidate(self) -> Candidate | None:
        """What is to run in shadow, whole; None where there is nothing."""
        state = self.state()
        release = state.candidate
        if release is None:
            return None
        if not self.is_whole(release):
            log.warning("release %d, the candidate, is damaged or gone", release.number)
            return None
        path = self.path(release)
        return Candidate(path, release.number, release.name, release.version, release.sha256, state.rules)

    def promote(self, candidate: Candidate, report: ShadowReport | None = None) -> Path:
        """The candidate becomes the current model; its path. Once more does no harm.

        Raises UpdateError where it is not the candidate any more.
        """
        with self._changing() as change:
            state = change.state
            if state.current and state.current.number == candidate.number:
                return self.path(state.current)
            release = self._still(state, candidate)
            if not self.is_whole(release):
                raise UpdateError("damaged", f"the file of release {release.number}", remedy="edge-update fetch")
            change.to(self._advanced(state, release, report))
        return self.path(release)

    def reject(self, candidate: Candidate, reason: str, report: ShadowReport | None = None) -> None:
        """The candidate is dropped, and not fetched again. Once more does no harm.

        Raises UpdateError where it is not the candidate any more.
        """
        with self._changing() as change:
            if change.state.rejection(candidate.number) is None:
                self._still(change.state, candidate)
                change.to(rejecting(replace(change.state, candidate=None), candidate.number, reason, report))

    def refuse(self, release: Release, reason: str) -> None:
        """A release that does not work here is not fetched again."""
        with self._changing() as change:
            change.to(rejecting(change.state, release.number, reason))

    def rollback(self, reason: str = "rolled back by hand") -> Path:
        """Back to the model before, or the bundled one; the one that was current is not fetched again."""
        with self._changing() as change:
            state = change.state
            if state.current is None:
                raise UpdateError("usage", "the bundled model runs, and there is none before it", remedy="leave it")
            whole = [release for release in state.former if self.is_whole(release)]
            back = whole[0] if whole else None
            state = rejecting(state, state.current.number, reason)
            change.to(replace(state, current=back, former=tuple(whole[1:]), candidate=None, since=now(), report=None))
        return self._fallback if back is None else self.path(back)

    def offer(self, part: Path, release: Release, rules: ShadowRules) -> None:
        """``part``, proven to be ``release``, becomes its file, and the release the candidate.

        A release that withdraws the current one, or is the same file, becomes current at once.
        """
        with self._changing() as change:
            state = change.state
            if not self.is_whole(release):
                disk.move(part, self.path(release))
            if state.current and (state.current.sha256 == release.sha256 or state.current.number in release.withdraws):
                change.to(self._advanced(state, release, None))
            else:
                change.to(replace(state, candidate=release, rules=rules))

    def drop_candidate(self) -> None:
        """The candidate was withdrawn."""
        self._change(lambda state: replace(state, candidate=None))

    def forget_rejections(self) -> None:
        """What was rejected may be fetched again."""
        self._change(lambda state: replace(state, rejected=()))

    def saw_time(self, seconds: float) -> None:
        """The clock was right, and said this. Kept once a day: cards wear out."""
        if seconds > self.state().clock + 86_400:
            self._change(lambda state: replace(state, clock=seconds))

    def clean(self) -> None:
        """Delete what a power cut or a kill has left, and what nothing names any more."""
        with self._changing():
            pass

    def path(self, release: Release) -> Path:
        """Where the release's file is, if it is kept."""
        return self._models / f"{release.sha256}.onnx"

    def is_whole(self, release: Release) -> bool:
        """Whether the release's file is there, byte for byte."""
        return is_whole(self.path(release), release)

    def _still(self, state: State, candidate: Candidate) -> Release:
        release = state.candidate
        if release is None or (release.number, release.sha256) != (candidate.number, candidate.sha256):
            raise UpdateError(
                "usage", f"release {candidate.number} is not the candidate any more", remedy="edge-update status"
            )
        return release

    def _advanced(self, state: State, release: Release, report: ShadowReport | None) -> State:
        """``release`` is current, and what was current is kept."""
        before = [state.current] if state.current and state.current.sha256 != release.sha256 else []
        kept = (*before, *(r for r in state.without(release.number) if r.sha256 != release.sha256))
        withdrawn = tuple(r for r in kept if r.number not in release.withdraws)
        return replace(
            state,
            current=release,
            candidate=None,
            former=withdrawn[: self._kept - 1],
            since=now(),
            report=None if report is None else asdict(report),
        )

    def _change(self, change: Callable[[State], State]) -> None:
        with self._changing() as changing:
            changing.to(change(changing.state))

    @contextmanager
    def _changing(self) -> Iterator[_Change]:
        """Alone with the folder: the state may be replaced; in the end what nothing names is deleted."""
        try:
            self._models.mkdir(parents=True, exist_ok=True)
            with disk.locked(self.folder / LOCK):
                change = _Change(self._file, self.state())
                yield change
                self._prune(change.state)
        except OSError as error:
            raise disk_error(self.folder, error) from None

    def _prune(self, state: State) -> None:
        """Only a broken state names nothing: what it named is kept until there is a new one."""
        if not self._file.exists() or state == State():
            return
        named = {self.path(release).name for release in state.releases()}
        with suppress(OSError):  # the next change deletes it
            for path in self._models.iterdir():
                if path.name not in named:
                    path.unlink()


class _Change:
    """The state, and how it is replaced."""

    def __init__(self, file: Path, state: State) -> None:
        self._file, self.state = file, state

    def to(self, state: State) -> None:
        if state != self.state:
            states.write(self._file, state)
            self.state = state


def rejecting(state: State, number: int, reason: str, report: ShadowReport | None = None) -> State:
    """``state``, which remembers that the release was rejected."""
    entry = Rejected(number, reason, now(), None if report is None else asdict(report))
    others = tuple(other for other in state.rejected if other.number != number)
    return replace(state, rejected=(entry, *others)[: states.MAX_REJECTED])


def is_whole(path: Path, release: Release) -> bool:
    """Whether ``path`` is the file that was signed."""
    try:
        with path.open("rb") as file:
            return path.stat().st_size == release.length and sha256_of(file) == release.sha256
    except OSError:
        return False


def sha256_of(file: object) -> str:
    """Of an open file."""
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def disk_error(folder: Path, error: OSError) -> UpdateError:
    """One line for what the disk has against it."""
    why = error.strerror or str(error)
    return UpdateError("disk", f"{folder} cannot be written: {why}", remedy="free some space, or check the card")


def now() -> str:
    """The time, RFC 3339."""
    return datetime.fromtimestamp(time.time(), timezone.utc).isoformat(timespec="seconds")


def default_folder() -> Path:
    """Where a device's models are kept, unless said otherwise. Raises UpdateError for a user without a home."""
    if (state := state_folder()) is None:
        raise UpdateError("usage", "there is no home folder to keep models in", remedy="give --state FOLDER")
    return state / "update"
