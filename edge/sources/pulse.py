"""What the sound server (PulseAudio, or PipeWire in its place) says of our streams: which source each one is from.

It moves a stream to another source without a word when its own goes away. A server that hangs must not hang us: a
thread asks, and whoever wants to know waits for a while only.
"""

from __future__ import annotations

import ctypes.util
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

ANSWER_SECONDS = 1.5  # that the server may take


class NoServer(Exception):
    """There is none, or no library to speak to it."""


class Unanswered(Exception):
    """It hangs."""


class SoundServer:
    """The one that the environment names."""

    def __init__(self) -> None:
        self._questions: SimpleQueue[tuple[Callable[[Any], Any], SimpleQueue[Any]]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._hangs = False  # it has not answered in time, and not since
        self._pulse: Any = None

    def ask(self, question: Callable[[Any], T], timeout: float = ANSWER_SECONDS) -> T:
        """What ``question`` makes of a ``pulsectl.Pulse``.

        Raises NoServer; Unanswered, also at once while an earlier question has no answer; and what ``question`` raises.
        """
        _library()  # here: on a slow card its import takes longer than any server
        if self._hangs:
            raise Unanswered
        answers: SimpleQueue[Any] = SimpleQueue()
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._answer, name="sound server", daemon=True)
                self._thread.start()
            self._questions.put((question, answers))
        try:
            answer = answers.get(timeout=timeout)
        except Empty:
            self._hangs = True
            raise Unanswered from None
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    def _answer(self) -> None:
        while True:
            question, answers = self._questions.get()
            try:
                answers.put(question(self._connected()))
            except Exception as error:  # whoever has asked gets it
                answers.put(self._named(error))
            self._hangs = False

    def _connected(self) -> Any:
        pulsectl = _library()
        if self._pulse is None:
            pulse = pulsectl.Pulse("edge-listen", connect=False)
            try:
                pulse.connect(autospawn=False)
            except pulsectl.PulseError:
                pulse.close()
                raise NoServer from None
            self._pulse = pulse
        return self._pulse

    def _named(self, error: Exception) -> Exception:
        if isinstance(error, NoServer):
            return error
        pulsectl = _library()
        if isinstance(error, pulsectl.PulseDisconnected | pulsectl.PulseOperationFailed) or (
            isinstance(error, pulsectl.PulseError) and not isinstance(error, pulsectl.PulseIndexError)
        ):
            pulse, self._pulse = self._pulse, None
            if pulse is not None:
                pulse.close()
            return NoServer()
        return error


SERVER = SoundServer()


def _library() -> Any:
    """The module pulsectl. Raises NoServer where it, or the library of PulseAudio that it loads, is not there."""
    try:
        with _without_a_compiler():
            import pulsectl
    except (ImportError, OSError):
        raise NoServer from None
    return pulsectl


@contextmanager
def _without_a_compiler() -> Iterator[None]:
    """Pulsectl asks for "libpulse", a name that the linker never knows: for that, ctypes runs a compiler where there is
    one, which takes time and writes files. Told that there is none, it takes the right name.
    """
    find = ctypes.util.find_library
    ctypes.util.find_library = lambda name: None if name == "libpulse" else find(name)
    try:
        yield
    finally:
        ctypes.util.find_library = find


@dataclass(frozen=True)
class Route:
    """Where one of our streams gets its sound from."""

    stream: int  # the server's number of the stream
    source: int  # its number of the source: another one when that has gone and come back
    name: str  # of the source: the same then


def our_streams(server: SoundServer = SERVER, timeout: float = ANSWER_SECONDS) -> frozenset[int]:
    """The server's numbers of the streams of this process that record. Raises NoServer, Unanswered."""
    return frozenset(output.index for output in server.ask(_ours, timeout))


def new_route(before: frozenset[int], wanted: str | None, server: SoundServer = SERVER) -> tuple[Route, bool] | None:
    """Of the stream that was not there ``before``, brought to the source ``wanted``, if that is there; and whether it
    came from another one. None where there is no such stream: it is not the server's. Raises NoServer, Unanswered.
    """

    def find(pulse: Any) -> tuple[Route, bool] | None:
        ours = [output for output in _ours(pulse) if output.index not in before]
        if not ours:
            return None
        names = {source.index: source.name for source in pulse.source_list()}
        stream, source = ours[-1].index, ours[-1].source
        right = next((index for index, name in names.items() if name == wanted), None)
        moved = right is not None and right != source
        if moved:
            pulse.source_output_move(stream, right)
            source = pulse.source_output_info(stream).source
        return Route(stream, source, names.get(source, "")), moved

    return server.ask(find)


def is_ours(route: Route, server: SoundServer = SERVER) -> bool:
    """Whether the stream still gets its sound from the same source. Raises NoServer, Unanswered."""
    pulsectl = _library()

    def look(pulse: Any) -> bool:
        try:
            return bool(pulse.source_output_info(route.stream).source == route.source)
        except pulsectl.PulseIndexError:
            return False

    return server.ask(look)


def sources(server: SoundServer = SERVER) -> tuple[str, ...]:
    """The names of the server's sources; empty where there is none. Raises Unanswered."""
    try:
        return server.ask(lambda pulse: tuple(sorted(source.name for source in pulse.source_list())))
    except NoServer:
        return ()


def _ours(pulse: Any) -> list[Any]:
    us = str(os.getpid())
    return [s for s in pulse.source_output_list() if s.proplist.get("application.process.id") == us]
