"""Worker processes that do not outlive the command that started them."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from multiprocessing import connection, get_context, parent_process
from threading import Thread
from typing import Any, TypeVar

from edge.errors import EdgeError

Item = TypeVar("Item")
Result = TypeVar("Result")


def mapped(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    *,
    start: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
    chunk: int = 1,
) -> Iterator[Result]:
    """``work`` of each item, in their order, by so many processes; ``start(*arguments)`` begins each of them.

    Whoever breaks off, as by Ctrl-C, does not wait for the work in hand: it is given up.

    Raises EdgeError when they cannot be started, or one of them dies, and what ``work`` raises.
    """
    # Spawned, not forked: the locks and threads of onnxruntime, libsndfile and torch do not survive a fork.
    context = get_context("spawn")
    with ExitStack() as stack:
        try:
            theirs, ours = context.Pipe(duplex=False)  # workers end when our side is closed
            stack.callback(theirs.close)
            executor = ProcessPoolExecutor(workers, context, _start, (theirs, start, arguments))
            stack.callback(executor.shutdown, cancel_futures=True)
            stack.callback(ours.close)
            # Not executor.map, which cancels what waits as soon as a worker dies: Python 3.11 is just telling those
            # futures of it, its thread fails at one that is cancelled, and then nobody ends the other workers.
            waiting = deque(executor.submit(_all, work, items[i : i + chunk]) for i in range(0, len(items), chunk))
        except OSError as error:
            # A broken pipe among them: of a process that has ended before it began.
            why = error.strerror or error
            raise EdgeError(f"worker processes cannot be started: {why}", remedy="use fewer, or one") from None
        try:
            while waiting:
                yield from waiting.popleft().result()
        except BrokenProcessPool:
            raise EdgeError("a worker process died", remedy="too little memory? use fewer processes") from None


def _start(parent: connection.Connection, start: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    start_worker(parent)
    if start is not None:
        start(*arguments)


def _all(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [work(item) for item in items]


def start_worker(*parent: connection.Connection) -> None:
    """For the beginning of a worker: Ctrl-C is left to the parent, and the worker ends when the parent is gone, or has
    closed the other end of ``parent``.

    Without it, workers of a killed command work on, or wait for ever on a pipe that they hold open themselves.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Sequence[connection.Connection]) -> None:
    if (process := parent_process()) is not None:
        connection.wait([process.sentinel, *parent])
        os._exit(1)
