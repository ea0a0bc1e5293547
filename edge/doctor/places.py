"""Where records go: whether each place can be reached and would take them. No event is sent or written."""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPException
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from edge.doctor.check import Check, failure, ok, skipped, warning
from edge.doctor.ready import Answer, ask, get
from edge.doctor.storage import nearest
from edge.doctor.subject import Place, Subject
from edge.errors import EdgeError, SinkError
from edge.extras import need
from edge.secret import is_url

ANSWER_SECONDS = 5.0  # that a receiver has
INTEGRITY_SECONDS = 10.0  # that looking through a database may take
NOT_IMPLEMENTED = 501  # what is asked for: the receiver knows nothing but POST
STEPS = 10_000  # of SQLite's virtual machine between two looks at the clock


def places(subject: Subject) -> Iterator[Check]:
    """Each place for records, and whether records wait for it."""
    if not subject.places:
        yield skipped("sinks", "none is configured: results go to standard output alone")
    for place in subject.places:
        name = f"sink {place.name}"
        try:
            yield LOOKS[place.kind](name, place.config)
        except EdgeError as error:
            yield failure(name, error.what, error.remedy)
        if place.spool is not None:
            yield from _waiting(f"spool of {place.name}", place)


def streams(subject: Subject) -> Iterator[Check]:
    """Sources that are no microphones: whether they are there."""
    for ear in subject.ears:
        name = ear.called("input")
        if ear.input is not None and is_url(ear.input):
            parts = urlsplit(ear.input)
            port = parts.port or {"rtsp": 554, "http": 80, "https": 443, "rtmp": 1935}.get(parts.scheme)
            if parts.hostname and port:
                yield _connects(name, parts.hostname, port, "check its address and the network")
        elif ear.input not in (None, "-"):
            there = os.access(str(ear.input), os.R_OK)
            yield (
                ok(name, f"{ear.input} can be read")
                if there
                else failure(name, f"{ear.input} cannot be read", "check the path, and who may read it")
            )


def _connects(name: str, host: str, port: int, remedy: str) -> Check:
    try:
        socket.create_connection((host, port), ANSWER_SECONDS).close()
    except OSError as error:
        return failure(name, f"{host}:{port}: {error.strerror or error}", remedy)
    return ok(name, f"{host}:{port} answers")


def _mqtt(name: str, config: Any) -> Check:
    """Connect as the sink does, but under a name of our own: with the sink's, the broker would throw that off."""
    from edge.sinks import mqtt

    need("paho.mqtt", "mqtt")
    where = f"{config.host}:{mqtt._port(config)}"
    client = mqtt._client(config, f"edge-doctor-{socket.gethostname()}-{os.getpid()}")
    reasons: SimpleQueue[Any] = SimpleQueue()
    client.on_connect = lambda _client, _data, _flags, reason, _properties: reasons.put(reason)
    client.connect_timeout = ANSWER_SECONDS
    try:
        client.connect(config.host, mqtt._port(config))
        client.loop_start()
        reason = reasons.get(timeout=ANSWER_SECONDS)
    except Empty:
        return failure(name, f"{where}: connected, and no answer", "is it a broker, and with TLS or without?")
    except OSError as error:  # also of TLS
        trouble = mqtt.unreachable(error, config)
        return failure(name, f"{where}: {trouble.what}", trouble.remedy)
    finally:
        client.disconnect()
        client.loop_stop()
    if reason.is_failure:
        trouble = mqtt.refused(str(reason), config)
        return failure(name, f"{where}: {trouble.what}", trouble.remedy)
    return ok(name, f"{where} takes us" + (f" as {config.username}" if config.username else ""))


def _webhook(name: str, config: Any) -> Check:
    """Ask the receiver what it can, by the client of the sink: any answer proves name, route, certificate and proxy."""
    from edge.sinks.webhook import Webhook, _place

    Webhook(config).close()  # the settings, the secret, the template
    import httpx

    where = _place(config.url)
    try:
        answer = httpx.options(config.url, timeout=ANSWER_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return failure(
            name, f"{where}: {error or type(error).__name__}", "is the receiver running, and the network up?"
        )
    if answer.status_code >= 500 and answer.status_code != NOT_IMPLEMENTED:
        return warning(name, f"{where} answers {answer.status_code}", "look into the receiver's log")
    return ok(name, f"{where} answers (no event was sent)", code=answer.status_code)


def _command(name: str, config: Any) -> Check:
    from edge.sinks.command import Command

    Command(config)
    return ok(name, f"{config.argv[0]} can be run")


def _file(name: str, config: Any) -> Check:
    from pathlib import Path

    from edge.sinks.jsonl import require_records

    path = Path(config.path).absolute()
    if path.exists() and not path.is_file():
        return failure(name, f"{path} is no file", "name another")
    if not os.access(nearest(path), os.W_OK):
        return failure(name, f"{path} may not be written by this user", "name another file, or run as its owner")
    try:
        require_records(path)
    except SinkError as error:
        return failure(name, error.what, error.remedy)
    return ok(name, f"{path} may be written")


def _store(name: str, config: Any) -> Check:
    from edge.store import explaining, open_to_read

    file = config.file
    if not file.exists() or (file.is_file() and not file.stat().st_size):
        return ok(name, f"{file} is {'empty' if file.exists() else 'not there yet'}, and will be made")
    with explaining(file), closing(open_to_read(file, busy_seconds=1.0)) as db:
        until = monotonic() + INTEGRITY_SECONDS
        db.set_progress_handler(lambda: monotonic() > until, STEPS)
        try:
            (answer,) = db.execute("PRAGMA quick_check(1)").fetchone()
            events = db.execute("SELECT count(*) FROM events").fetchone()[0]
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise
            found = f"{file} opens; it is too large to be looked through in {INTEGRITY_SECONDS:g} s"
            return warning(name, found, f"sqlite3 {file} 'PRAGMA quick_check'")
    if answer != "ok":
        found = f"{file} is damaged: {' '.join(answer.split())}"
        return failure(name, found, "move it away; sqlite3 FILE .recover may save what is in it")
    return ok(name, f"{file} is whole, {events} events", events=events)


def _metrics(name: str, config: Any) -> Check:
    need("prometheus_client", "metrics")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.address, config.address)  # noqa: S104  # what to ask
    where = f"{f'[{host}]' if ':' in host else host}:{config.port}"
    try:
        _, body = get(f"http://{where}/metrics", ANSWER_SECONDS)
    except ConnectionRefusedError:
        return _free(name, config, where)
    except (OSError, ValueError, HTTPException) as error:
        return failure(name, f"{where}: {error}", "another program has the port: choose another")
    if b"edge_audio_" not in body:
        return failure(name, f"another program answers on {where}", "choose another port: --metrics PORT")
    answer: Answer = ask(f"http://{where}/readyz", ANSWER_SECONDS)
    state = answer.text.replace("\n", "; ")
    if answer.document and not answer.ready:
        return failure(name, f"edge-listen serves {where}, and is not ready: {state}", "its reason says what to do")
    return ok(name, f"edge-listen serves {where}" + (f": {state}" if answer.document else ""))


def _free(name: str, config: Any, where: str) -> Check:
    try:
        family = socket.AF_INET6 if ":" in config.address else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((config.address, config.port))
    except OSError as error:
        return failure(name, f"{where} cannot be had: {error.strerror}", "choose another address or port")
    return ok(name, f"{where} is free: edge-listen does not run, or serves none")


def _waiting(name: str, place: Place) -> Iterator[Check]:
    """Records that wait on disk, without touching them."""
    assert place.spool is not None
    if not place.spool.exists():
        return
    try:
        with closing(sqlite3.connect(f"{place.spool.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)) as db:
            count = db.execute("SELECT count(*) FROM records").fetchone()[0]
    except sqlite3.Error as error:
        yield warning(name, f"{place.spool}: {error}", "edge-listen begins a new one where it is damaged")
        return
    if count:
        remedy = f"they go when {place.name} takes them again"
        yield warning(name, f"{count} records wait in {place.spool}", remedy, waiting=count)
    else:
        yield ok(name, "no record waits", waiting=0)


LOOKS: dict[str, Callable[[str, Any], Check]] = {
    "file": _file,
    "store": _store,
    "mqtt": _mqtt,
    "home_assistant": _mqtt,
    "webhook": _webhook,
    "command": _command,
    "metrics": _metrics,
}
