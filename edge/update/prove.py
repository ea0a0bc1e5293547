"""Whether a model works here, found out in a process of its own: one that crashes or hangs takes nothing with it.

``python -m edge.update.prove MODEL MEMORY_MIB SECONDS`` loads the model, which proves itself on its golden vectors, and
prints what is wrong with it. It may take so many seconds of the processor.
"""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

from edge.errors import ContractError, EdgeError
from edge.update.errors import UpdateError

SECONDS = 600.0  # for loading and proving
PROCESSOR_SECONDS = 120  # of them, that the model may take however busy the machine is; a Pi takes about one
MEMORY_MIB = 1024  # of data: libraries that are only mapped do not count
REFUSED = ContractError.exit_code  # the model is at fault, and the output says how
CRASHES = frozenset({
    signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGBUS, signal.SIGFPE, signal.SIGTRAP, signal.SIGXCPU,
})  # fmt: skip


def prove(
    path: Path,
    *,
    seconds: float = SECONDS,
    processor_seconds: int = PROCESSOR_SECONDS,
    memory_mib: int = MEMORY_MIB,
) -> None:
    """Raises UpdateError: a refusal "model" where ``path`` cannot be loaded or fails its golden vectors; "unproven",
    where that cannot be told.
    """
    command = [sys.executable, "-m", "edge.update.prove", str(path), str(memory_mib), str(processor_seconds)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise _unproven(f"it has not proven itself within {seconds:g} s") from None
    except OSError as error:
        raise _unproven(f"no process can be started: {error.strerror}") from None
    if done.returncode == 0:
        return
    if done.returncode == REFUSED:
        what = done.stdout.strip().splitlines()[-1]
    elif done.returncode < 0:
        what = f"loading it ended in {signal.Signals(-done.returncode).name}"
    else:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        what = f"it cannot be loaded: {last:.200}"
    if not at_fault(done.returncode):
        raise _unproven(what)
    raise UpdateError("model", what, remedy="publish a model that works on this device")


def at_fault(code: int) -> bool:
    """Whether a process that runs a model has ended with ``code`` by the model's fault: it was refused, or has crashed.

    Whoever kills it, the kernel where memory is short, or a library that is just being upgraded end any model.
    """
    return code == REFUSED or -code in CRASHES


def _unproven(what: str) -> UpdateError:
    return UpdateError("unproven", what, remedy="it is tried again the next time; is memory short?")


def main(path: str, memory_mib: str, seconds: str) -> None:
    """In the process of its own."""
    from edge.classifier import Classifier  # before the limits: they are for the model

    memory = int(memory_mib) << 20
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    # SIGXCPU comes at the first of the two, SIGKILL at the second.
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
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
