"""What is served over HTTP beside each other: ``/metrics``, ``/healthz`` and ``/readyz``."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable
from socketserver import TCPServer, ThreadingMixIn
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from edge.board import Board

CLIENT_SECONDS = 10.0  # that a client may keep quiet, until it is hung up on

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class _Handler(WSGIRequestHandler):
    timeout = CLIENT_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """A scrape every few seconds is no news."""

    def handle(self) -> None:
        """A client that goes away, or says nothing, is none either."""
        try:
            super().handle()
        except OSError:
            self.close_connection = True


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each request, so that a slow client keeps none waiting; nor the end of the process."""

    daemon_threads = True

    def server_bind(self) -> None:
        """Without a look at the domain's name server, which may take seconds, for a name that nobody needs."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Its client learns of it; a traceback on stderr would help nobody."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class Endpoints:
    """Serves them until :meth:`close`. Raises OSError where the port cannot be had."""

    def __init__(self, address: str, port: int, metrics: App, board: Board) -> None:
        family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        self._server = (_Server6 if family == socket.AF_INET6 else _Server)((address, port), _Handler)
        self._server.set_app(application(metrics, board))
        self.port = self._server.server_port
        self._thread = Thread(target=self._server.serve_forever, name="endpoints", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Nothing is served any longer."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def application(metrics: App, board: Board) -> App:
    """All of them as one application: the answer of ``metrics`` to its path, those of ``board`` to the others."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path in ("/metrics", "/"):
            return metrics(environ, start_response)
        checks: dict[str, Callable[[], bool]] = {
            "/healthz": board.alive,
            "/readyz": lambda: board.ready and board.alive(),
        }
        if path not in checks:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"there are /metrics, /healthz and /readyz\n"]
        body = json.dumps(board.document(), ensure_ascii=False).encode() + b"\n"
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
        ]
        start_response("200 OK" if checks[path]() else "503 Service Unavailable", headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    return answer
