"""A model that was promoted, and then ends the program again and again, is taken back at a start: nobody else can."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from edge.errors import ContractError, EdgeError
from edge.files import write_json
from edge.update.versions import Versions

log = logging.getLogger("edge.update")

FILE = "probation.json"
STARTS = 3  # that may end badly with a new model
SECONDS = 600.0  # that it has to listen for, until it is trusted


class Probation:
    """Of the current model of ``versions``. Counts on disk, because it is the program that ends."""

    def __init__(self, versions: Versions) -> None:
        self._versions, self._file = versions, versions.folder / FILE

    def begin(self) -> None:
        """A model has just been promoted."""
        self._write(0)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Within, the program runs: that counts against the model, unless it ends in order.

        Raises UpdateError where the model is to be taken back, and the disk does not take that.
        """
        self._started()
        try:
            yield
        except ContractError:  # of the model itself
            raise
        except (EdgeError, OSError, KeyboardInterrupt):  # of a microphone, a setting, a full disk
            self._ended()
            raise
        self._ended()

    def _started(self) -> None:
        """It goes back to the model before when the new one has ended it too often."""
        number, starts = self._read()
        current = self._versions.state().current
        if current is None or number != current.number:
            self.passed()
            return
        if starts < STARTS:
            self._write(starts + 1)
            return
        log.warning("release %d is taken back: the program has ended %d times with it", number, starts)
        self._versions.rollback(f"the program ended {starts} times within {SECONDS:g} s of its start")
        self.passed()

    def _ended(self) -> None:
        """In order: the start is taken off the count."""
        number, starts = self._read()
        current = self._versions.state().current
        if starts and current is not None and number == current.number:
            self._write(starts - 1)

    def passed(self) -> None:
        """It has listened for long enough."""
        with suppress(OSError):
            self._file.unlink(missing_ok=True)

    def pending(self) -> bool:
        """Whether a model is on probation."""
        return self._file.exists()

    def _read(self) -> tuple[int, int]:
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
            return int(found["number"]), int(found["starts"])
        except (OSError, ValueError, KeyError, TypeError):
            return -1, 0

    def _write(self, starts: int) -> None:
        current = self._versions.state().current
        if current is None:
            return
        try:
            write_json(self._file, {"number": current.number, "starts": starts})
        except OSError as error:
            log.warning("whether release %d stays up is not counted: %s", current.number, error)
