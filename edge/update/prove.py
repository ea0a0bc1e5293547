"""Whether a model works here, found out in a process of its own: one that crashes or hangs takes nothing with it.

``python -m edge.update.prove MODEL MEMORY_MIB SECONDS`` loads the model, which proves itself on its golden vectors, and
prints what is wrong with it.
"""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

from edge.errors import EdgeError
from edge.update.errors import UpdateError

SECONDS = 120.0  # for loading and proving; a Pi takes about one
MEMORY_MIB = 1024  # of data: libraries that are only mapped do not count
REFUSED = 3  # exit code: the model is at fault, and the output says how


def prove(path: Path, *, seconds: float = SECONDS, memory_mib: int = MEMORY_MIB) -> None:
    """Raises UpdateError, a refusal "model", where ``path`` cannot be loaded or fails its golden vectors."""
    command = [sys.executable, "-m", "edge.update.prove", str(path), str(memory_mib), str(int(seconds) + 1)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise _refusal(f"it has not proven itself within {seconds:g} s") from None
    except OSError as error:
        raise UpdateError("disk", f"no process can be started: {error.strerror}", remedy="free some memory") from None
    if done.returncode == REFUSED:
        raise _refusal(done.stdout.strip().splitlines()[-1])
    if done.returncode < 0:
        raise _refusal(f"loading it ended in {signal.Signals(-done.returncode).name}")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise _refusal(f"it cannot be loaded: {last:.200}")


def _refusal(what: str) -> UpdateError:
    return UpdateError("model", what, remedy="publish a model that works on this device")


def main(path: str, memory_mib: str, seconds: str) -> None:
    """In the process of its own."""
    memory = int(memory_mib) << 20
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from edge.classifier import Classifier

    try:
        Classifier(path)
    except EdgeError as error:
        print(error.what)
        raise SystemExit(REFUSED) from None
    except MemoryError:
        print(f"it takes more than {memory_mib} MiB")
        raise SystemExit(REFUSED) from None


if __name__ == "__main__":
    main(*sys.argv[1:])
