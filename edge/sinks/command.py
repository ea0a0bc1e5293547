"""A program that is run for each event, or its clip: no shell, the record as JSON on its standard input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from edge.errors import SinkError
from edge.records import Record
from edge.sinks import require_timeout
from edge.sinks.phases import DEFAULT_PHASES, phase_of, require_phases, types_of

# Of the record, in the program's environment, as EDGE_LISTEN_EVENT_LABEL.
VARIABLES = ("id", "phase", "label", "time", "peak", "duration", "source", "path")
SHOWN = 200  # bytes of its last words in an error


@dataclass(frozen=True)
class CommandConfig:
    """Which program, and when."""

    argv: tuple[str, ...] = ()  # the program and its arguments, passed on as they are
    phases: tuple[str, ...] = DEFAULT_PHASES  # for which it is run, of an event: "begin", "end", "clip"
    timeout: float = 30.0  # seconds, after which it is killed, with all that it has started
    retry: bool = False  # whether it is run again when it fails


class Command:
    """See :class:`CommandConfig`. One at a time; a failure is a SinkError.

    Raises SinkError, not to be retried, when the program is not there or the configuration makes no sense.
    """

    def __init__(self, config: CommandConfig) -> None:
        self._config, self.types = config, types_of(config.phases)
        self._running: subprocess.Popen[bytes] | None = None
        if not config.argv or shutil.which(config.argv[0]) is None:
            name = config.argv[0] if config.argv else "no program"
            raise SinkError(f"command: {name} cannot be run", remedy="name a program by its path", retry=False)
        require_phases(config.phases, "command")
        require_timeout(config.timeout, "command")

    def write(self, record: Record) -> None:
        """Run the program, and wait for its end."""
        if phase_of(record) not in self._config.phases:
            return
        with tempfile.TemporaryFile() as words:  # not a pipe: a grandchild that keeps it open would hold us up
            code = self._run(record, words)
            if code == 0:
                return
            words.seek(max(0, words.seek(0, os.SEEK_END) - SHOWN))
            said = " ".join(words.read().decode(errors="replace").split())
        how = f"no end after {self._config.timeout:g} s" if code is None else f"exit code {code}"
        raise SinkError(
            f"{self._config.argv[0]}: {how}{said and ': '}{said}", remedy="run it by hand", retry=self._config.retry
        )

    def close(self) -> None:
        """Nothing runs between two records."""

    def abort(self) -> None:
        """Kill the program that runs just now, from another thread."""
        if (running := self._running) is not None:
            _kill_group(running)

    def _run(self, record: Record, words: IO[bytes]) -> int | None:
        """The exit code; None when it had to be killed."""
        try:
            # Standard output is for our records, so the program's own goes nowhere.
            process = self._running = subprocess.Popen(
                self._config.argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=words,
                env=os.environ | _variables(record), start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise SinkError(
                f"{self._config.argv[0]} cannot be run: {error.strerror}", remedy="run it by hand", retry=False
            ) from None
        try:
            process.communicate(json.dumps(record, ensure_ascii=False).encode() + b"\n", self._config.timeout)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self._running = None
            if process.poll() is None:
                _kill_group(process)
                process.wait()
            if process.stdin is not None:
                with suppress(OSError):
                    process.stdin.close()
        return process.returncode


def _variables(record: Record) -> dict[str, str]:
    values = {name: record.get(name) for name in VARIABLES} | {"phase": phase_of(record)}
    return {f"EDGE_LISTEN_EVENT_{name.upper()}": "" if v is None else str(v) for name, v in values.items()}


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
