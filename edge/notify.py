"""systemd is told how it goes, by sd_notify(3) over the socket that it names; elsewhere nothing happens."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from threading import Event, Thread

from edge.board import Board

log = logging.getLogger("edge.notify")

LOOK_SECONDS = 1.0  # between two looks at the board, at most
SEND_SECONDS = 1.0  # that systemd may take to read
RELOAD_SECONDS = 60.0  # in which all is closed and read anew, and the same until it is open again; else it hangs
RELOAD = "\0reload"  # its name on the board; no source is called so


class Notifier:
    """Within it, systemd knows: when the sources are heard or waited for (``READY=1``), how they are (``STATUS=``), and
    that there is progress (``WATCHDOG=1``), which is not said by a process whose loop hangs, nor when a source has been
    waited for too long. In the end, ``STOPPING=1`` or ``RELOADING=1``.
    """

    def __init__(self, board: Board, environment: Mapping[str, str] = os.environ) -> None:
        self._board = board
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._watchdog = _watchdog_seconds(environment)  # None: there is none
        self._socket: socket.socket | None = None
        self._ready, self._status = False, ""
        self._told_end = False  # how it ends has been said
        self._ending = Event()
        self._thread = Thread(target=self._run, name="notify", daemon=True)

    def __enter__(self) -> Notifier:
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.settimeout(SEND_SECONDS)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is None:
            return
        self.stopping()
        self._board.wake()
        self._thread.join(2 * SEND_SECONDS)
        self._socket.close()

    def stopping(self) -> None:
        """It comes to its end, which may take some seconds."""
        self._ending.set()
        self._tell_end("STOPPING=1")

    def reloading(self) -> None:
        """Settings are read anew; the next notifier says ``READY=1`` when the sources are heard again.

        ``STOPPING=1`` does not follow: until its own ``kill -HUP`` has ended, systemd keeps the last word only, and it
        would kill a service that says so and goes on. Until the end there is still progress, but nothing is ready.
        """
        self._board.promise(RELOAD, RELOAD_SECONDS)
        self._tell_end(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def _tell_end(self, message: str) -> None:
        if not self._told_end:
            self._told_end = True
            self._send(message)

    def look(self) -> None:
        """Tell what has changed, and that there is progress."""
        told = self._board.sources()
        if not (self._ready or self._told_end) and told and all(health.state != "starting" for health in told.values()):
            self._ready = True
            self._send("READY=1")
        if told and (status := self._board.sentence()) != self._status:
            self._status = status
            self._send(f"STATUS={' '.join(status.split())}")
        if self._watchdog is not None and self._board.alive() and self._board.hopeful():
            self._send("WATCHDOG=1")

    def _run(self) -> None:
        """The thread: it looks several times in the watchdog's time, and at once when a health changes."""
        pause = LOOK_SECONDS if self._watchdog is None else min(LOOK_SECONDS, self._watchdog / 4)
        while not self._ending.is_set():
            self.look()
            self._board.wait(pause)

    def _send(self, message: str) -> None:
        if self._socket is None:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            self._socket.sendto(message.encode(), address)
        except OSError as error:
            log.debug("systemd cannot be told %s: %s", message, error)


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    """The time within which systemd wants to hear of this process; None where it does not."""
    text, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not text.isdecimal() or int(text) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(text) / 1e6
