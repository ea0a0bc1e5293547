"""Events to a URL: POST of JSON, signed where there is a secret."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import math
import re
import string
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import edge
from edge.errors import SinkError
from edge.extras import need
from edge.records import Record
from edge.secret import read_secret
from edge.sinks import LONGEST_WAIT, require_timeout
from edge.sinks.phases import DEFAULT_PHASES, phase_of, require_phases, types_of

if TYPE_CHECKING:
    import httpx

# What a template may name: the fields of an event's record, and of a clip's.
FIELDS = frozenset({
    "source", "time", "id", "phase", "label", "classes", "onset", "offset", "duration", "onset_time", "offset_time",
    "peak", "mean", "level_dbfs", "model", "latency_ms", "clip", "path",
})  # fmt: skip
RETRIED = frozenset({408, 425, 429})  # the answers below 500 after which the same request may be taken later
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.1
HEADER_VALUE = re.compile(r"([!-~]([\t -~]*[!-~])?)?")  # its 5.5, of ASCII
REMEMBERED = 1000  # events whose cool-down is decided: their end, and a second attempt, go the same way
TIMESTAMP, SIGNATURE = "X-Edge-Listen-Timestamp", "X-Edge-Listen-Signature"


@dataclass(frozen=True)
class WebhookConfig:
    """Where events are posted, and how."""

    url: str = ""  # http:// or https://
    phases: tuple[str, ...] = DEFAULT_PHASES  # of an event that are sent: "begin", "end", "clip"
    template: str | None = None  # JSON whose strings may hold $label, $peak …, or a file with it; None: the record
    secret_env: str | None = None  # the environment variable that holds the key of the signature
    secret_file: str | None = None  # or the file
    timeout: float = 10.0  # seconds, to connect and for each answer
    cooldown: float = 0.0  # seconds after an event in which others of its label are not sent
    cooldowns: dict[str, float] = field(default_factory=dict)  # the same, by label
    headers: dict[str, str] = field(default_factory=dict)  # further ones of the request
    longest_retry_after: float = 300.0  # seconds; a receiver that asks for more is tried again after this


class Webhook:
    """See :class:`WebhookConfig`; it connects with the first event.

    Raises SinkError when httpx is missing, or for a configuration that makes no sense.
    """

    def __init__(self, config: WebhookConfig) -> None:
        need("httpx", "http", SinkError)
        _check(config)
        self._config, self.types = config, types_of(config.phases)
        self._secret = read_secret(config.secret_env, config.secret_file, "the webhook's secret")
        self._template = None if config.template is None else read_template(config.template)
        self._client: httpx.Client | None = None
        self._decided: OrderedDict[str, bool] = OrderedDict()  # id of an event → whether it is sent
        # label → source and beginning, in seconds since the epoch, of its last events that were sent
        self._sent: defaultdict[str, deque[tuple[str, float]]] = defaultdict(lambda: deque(maxlen=REMEMBERED))

    def write(self, record: Record) -> None:
        """Post ``record`` where it is an event to be sent. Raises SinkError when the receiver has not taken it."""
        import httpx

        if phase_of(record) not in self._config.phases or not self._is_due(record):
            return
        if self._client is None:
            logging.getLogger("httpx").setLevel(logging.WARNING)  # its log of requests shows the whole URL
            self._client = httpx.Client(timeout=self._config.timeout)
        body = json.dumps(record if self._template is None else fill(self._template, record), ensure_ascii=False)
        try:
            response = self._client.post(
                self._config.url, content=body.encode(), headers=self._headers(record, body.encode())
            )
        except httpx.HTTPError as error:
            what = f"{_place(self._config.url)}: {error or type(error).__name__}"
            raise SinkError(what, remedy="is the receiver running?") from None
        self._judge(response)

    def close(self) -> None:
        """End the connection."""
        if self._client is not None:
            self._client.close()

    def _is_due(self, record: Record) -> bool:
        """Whether the cool-down of its label is over; decided once for an event, by the time at which it began."""
        known = self._decided.get(record["id"])
        if known is not None:
            return known
        label, onset = record["label"], datetime.fromisoformat(record["onset_time"]).timestamp()
        wait = self._config.cooldowns.get(label, self._config.cooldown)
        source, sent = record["source"], self._sent[label]
        # Of several sources, any may be ahead of the others. Only a clock that was set back puts one behind itself.
        if any(heard_by == source and onset < began for heard_by, began in sent):
            sent.clear()
        due = all(abs(onset - began) >= wait for _, began in sent)
        if due:
            sent.append((source, onset))
        self._decided[record["id"]] = due
        if len(self._decided) > REMEMBERED:
            self._decided.popitem(last=False)
        return due

    def _headers(self, record: Record, body: bytes) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"edge-listen/{edge.__version__}",
            "Idempotency-Key": f"{record['id']}-{phase_of(record)}",
        } | self._config.headers
        if self._secret is not None:
            headers[TIMESTAMP] = timestamp = str(int(time.time()))
            headers[SIGNATURE] = signature(self._secret, timestamp, body)
        return headers

    def _judge(self, response: httpx.Response) -> None:
        """Raise SinkError for all but success."""
        if response.is_success:
            return
        code = response.status_code
        retry = code >= 500 or code in RETRIED
        after = _retry_after(response.headers.get("Retry-After", "")) if retry else 0.0
        raise SinkError(
            f"{_place(self._config.url)} answers {code} {response.reason_phrase}".rstrip(),
            remedy="look into the receiver's log" if retry else "correct url, headers, secret or template",
            retry=retry,
            after=min(after, self._config.longest_retry_after),
        )


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 of ``timestamp``, a full stop and ``body``, as ``sha256=`` and hexadecimal digits."""
    digest = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    return f"sha256={digest.hexdigest()}"


def read_template(text: str) -> Any:
    """A JSON template, or that in the file which ``text`` names.

    Raises:
        SinkError: when it is not JSON, or a string in it names no field of an event.
    """
    try:
        template = json.loads(text if text.lstrip()[:1] in ("{", "[", '"') else Path(text).read_text(encoding="utf-8"))
        json.dumps(template, ensure_ascii=False).encode()  # half of a surrogate pair can be read, and not be sent
    except (OSError, ValueError) as error:
        raise SinkError(f"template: {error}", remedy="give JSON, or a file that holds it", retry=False) from None
    for words in _strings(template):
        pattern = string.Template(words)
        unknown = set(pattern.get_identifiers()) - FIELDS
        if unknown or not pattern.is_valid():
            what = f"${min(unknown)}" if unknown else "a lone $"
            allowed = ", ".join("$" + name for name in sorted(FIELDS))
            raise SinkError(f"template: {what} in {words!r}", remedy=f"use {allowed}, and $$ for a dollar", retry=False)
    return template


def fill(template: Any, record: Record) -> Any:
    """``template`` with the fields of ``record`` in its strings; what is null or not there becomes empty."""
    if isinstance(template, dict):
        return {key: fill(value, record) for key, value in template.items()}
    if isinstance(template, list):
        return [fill(value, record) for value in template]
    return string.Template(template).substitute(_texts(record)) if isinstance(template, str) else template


def _texts(record: Record) -> dict[str, str]:
    texts = dict.fromkeys(FIELDS, "")
    for name, value in record.items():
        texts[name] = ", ".join(value) if isinstance(value, list) else "" if value is None else str(value)
    return texts


def _strings(template: Any) -> Iterator[str]:
    """The strings of a template, without the keys."""
    if isinstance(template, str):
        yield template
    elif isinstance(template, dict | list):
        for value in template.values() if isinstance(template, dict) else template:
            yield from _strings(value)


def _is_usable(url: str) -> bool:
    """Whether a request can be made for it, and its host looked up; that of one which is not there as well."""
    import httpx

    try:
        parts = urlsplit(url)
        httpx.Request("POST", url).url.raw_host.decode("ascii").encode("idna")  # as the socket does it
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (ValueError, httpx.InvalidURL):
        return False


def _check(config: WebhookConfig) -> None:
    if not _is_usable(config.url):
        raise SinkError(f"webhook: url is {config.url!r}", remedy="use http:// or https:// and a host", retry=False)
    require_phases(config.phases, "webhook")
    for name, value in config.headers.items():
        if not HEADER_NAME.fullmatch(name):
            raise SinkError(f"webhook: a header is called {name!r}", remedy="use letters, digits and -", retry=False)
        if not HEADER_VALUE.fullmatch(value):  # which is often a secret
            what = f"webhook: header {name} has a value that cannot be sent"
            raise SinkError(what, remedy="use printable ASCII, without spaces around it", retry=False)
    require_timeout(config.timeout, "webhook")
    if config.longest_retry_after > LONGEST_WAIT:
        what = f"webhook: longest_retry_after is {config.longest_retry_after}"
        raise SinkError(what, remedy=f"use seconds, at most {LONGEST_WAIT:g}", retry=False)
    cooldowns = {f"cooldowns.{label}": seconds for label, seconds in config.cooldowns.items()}
    waits = {"cooldown": config.cooldown, "longest_retry_after": config.longest_retry_after, **cooldowns}
    for name, seconds in waits.items():
        if not 0 <= seconds < math.inf:
            raise SinkError(f"webhook: {name} is {seconds}", remedy="use seconds, 0 or more", retry=False)


def _place(url: str) -> str:
    """For messages: without what is often a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"


def _retry_after(value: str) -> float:
    """Seconds of a Retry-After header, which holds them or a date; 0 where it makes no sense."""
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(timezone.utc)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
