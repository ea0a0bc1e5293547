"""Worker processes that do not outlive the command that started them."""

from __future__ import annotations

import os
import signal
from multiprocessing import connection, parent_process
from threading import Thread


def start_worker() -> None:
    """For the beginning of a worker: Ctrl-C is left to the parent, and the worker ends when the parent is gone.

    Without it, workers of a killed command work on, or wait for ever on a pipe that they hold open themselves.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := parent_process()) is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
