"""A check, and how checks are run: one after the other, each bounded in time, whatever one of them does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any, Literal

from edge.doctor.subject import Subject
from edge.errors import EdgeError

Status = Literal["ok", "warning", "failure", "skipped"]


@dataclass(frozen=True)
class Check:
    """What one check found."""

    name: str  # what was looked at
    status: Status
    found: str  # in one line
    remedy: str = ""  # what to do; empty where there is nothing to be done
    data: Mapping[str, Any] = field(default_factory=dict)  # the numbers behind it, for programs

    def __str__(self) -> str:
        return f"{self.status:7}  {self.name}: {self.found}" + (f" ({self.remedy})" if self.remedy else "")


def ok(name: str, found: str, **data: Any) -> Check:
    """All is well."""
    return Check(name, "ok", found, data=data)


def warning(name: str, found: str, remedy: str, **data: Any) -> Check:
    """It works, but not as it should."""
    return Check(name, "warning", found, remedy, data)


def failure(name: str, found: str, remedy: str, **data: Any) -> Check:
    """It does not work."""
    return Check(name, "failure", found, remedy, data)


def skipped(name: str, found: str, **data: Any) -> Check:
    """Nothing could be, or had to be, looked at."""
    return Check(name, "skipped", found, data=data)


@dataclass(frozen=True)
class Step:
    """Checks that are run together."""

    name: str  # of the failure, where they do not end or raise
    look: Callable[[Subject], Iterable[Check]]  # may raise an EdgeError: it becomes a failure
    seconds: float = 10.0  # after which it is left alone
    asked: bool = False  # whether it looks at what the configuration asks for

    def run(self, subject: Subject) -> Iterator[Check]:
        """What it finds, as it finds it. Never raises, and ends in time: what hangs goes on in a thread of its own."""
        found: SimpleQueue[Check | None] = SimpleQueue()
        Thread(target=self._look, args=(subject, found), daemon=True).start()
        until = monotonic() + self.seconds
        while True:
            try:
                check = found.get(timeout=max(0.0, until - monotonic()))
            except Empty:
                yield failure(self.name, f"no answer within {self.seconds:g} s", "it hangs: restart the device")
                return
            if check is None:
                return
            yield check

    def _look(self, subject: Subject, found: SimpleQueue[Check | None]) -> None:
        try:
            for check in self.look(subject):
                found.put(check)
        except EdgeError as error:
            found.put(failure(self.name, error.what, error.remedy))
        except BaseException as error:  # of a library: whatever it is, the other checks are to be made
            words = " ".join(str(error).split())
            found.put(
                failure(self.name, f"the check itself failed: {type(error).__name__}: {words}", "report this line")
            )
        finally:
            found.put(None)


def examine(steps: Sequence[Step], subject: Subject | None) -> Iterator[Check]:
    """The checks of all ``steps``, in their order; without a subject, of those that look at the device alone."""
    for step in steps:
        if subject is None and step.asked:
            yield skipped(step.name, "not looked at: the configuration is refused")
        else:
            yield from step.run(subject or Subject())
