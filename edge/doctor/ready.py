"""Asks a running edge-listen how it is. Starts fast: a container asks every half minute."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

URL = "http://127.0.0.1:9464/readyz"
SECONDS = 5.0
MOST_BYTES = 1 << 20  # of an answer


@dataclass(frozen=True)
class Answer:
    """What the listener says of itself."""

    code: int | None  # of HTTP; None: no answer
    text: str  # for people, a line for each source
    document: dict[str, Any] = field(default_factory=dict)  # as it came; empty where it is no listener's

    @property
    def ready(self) -> bool:
        """Whether it listens."""
        return self.code == 200 and "state" in self.document


def ask(url: str = URL, seconds: float = SECONDS) -> Answer:
    """GET ``url``. Never raises: whatever goes wrong is an answer too."""
    try:
        code, body = get(url, seconds)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return Answer(None, f"edge-listen does not answer on {url}: {getattr(error, 'strerror', None) or error}")
    try:
        document = json.loads(body)
        state, sources = document["state"], document.get("sources", {})
        lines = [_line(name, source) for name, source in sources.items()]
    except (ValueError, TypeError, KeyError, AttributeError):
        return Answer(code, f"what answers on {url} is no edge-listen (HTTP {code})")
    return Answer(code, "\n".join([str(state), *lines]), document)


def get(url: str, seconds: float = SECONDS) -> tuple[int, bytes]:
    """The status and the body of ``url``. Raises OSError, ValueError or HTTPException."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("it is no http:// or https:// address")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=seconds)
    try:
        connection.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
        response = connection.getresponse()
        return response.status, response.read(MOST_BYTES)
    finally:
        connection.close()


def _line(name: str, source: dict[str, Any]) -> str:
    reasons = f" ({', '.join(source['reasons'])})" if source.get("reasons") else ""
    message = f": {source['message']}" if source.get("message") else ""
    return f"{name}: {source['state']}{reasons}{message}"
