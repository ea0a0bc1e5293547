"""Events, states, status and health to an MQTT broker, each confirmed by it before it counts as delivered."""

from __future__ import annotations

import json
import logging
import re
import socket
import ssl
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Event, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from edge.board import HEARING
from edge.errors import SinkError
from edge.extras import need
from edge.names import slug, slugs
from edge.records import Record
from edge.secret import read_secret
from edge.sinks import require_timeout

if TYPE_CHECKING:
    from paho.mqtt import client as paho

log = logging.getLogger("edge.mqtt")

ON, OFF, ONLINE, OFFLINE = "ON", "OFF", "online", "offline"
CONNECT_SECONDS = 1.0  # that a record waits for the connection, before it counts as a failed attempt
FIRST_RECONNECT, LONGEST_RECONNECT = 1, 30  # seconds between two attempts to connect: doubled each time
CLOSE_SECONDS = 1.0  # to say that we are offline


@dataclass(frozen=True)
class MqttConfig:
    """Which broker, as whom, and under which topics."""

    host: str = "localhost"  # name or address of the broker
    port: int | None = None  # None: 1883, with TLS 8883
    node: str = ""  # the name of this device in topics; empty: the host name
    prefix: str = "edge-listen"  # what all topics begin with
    labels: tuple[str, ...] = ()  # that have a state; none named: all of the model and all that events are called
    username: str | None = None
    password_env: str | None = None  # the environment variable that holds the password
    password_file: str | None = None  # or the file
    tls: bool = False  # also when one of the next four is set
    ca_file: str | None = None  # PEM of the authorities to trust; None: the system's
    cert_file: str | None = None  # PEM of our own certificate
    key_file: str | None = None  # PEM of its key; None: in cert_file
    insecure: bool = False  # trust every certificate
    keepalive: int = 30  # seconds, 1 to 65535, without traffic, after which both sides ask whether the other is there
    timeout: float = 10.0  # seconds to wait for the broker's confirmation
    by_source: bool = False  # a level of its own for each source; on by itself where there are several


class Message(NamedTuple):
    """What is published."""

    topic: str
    payload: str
    retain: bool  # the broker gives the last one to whoever subscribes later


class Trouble(NamedTuple):
    """Why the broker has nothing from us."""

    what: str
    remedy: str


class Mqtt:
    """See :class:`MqttConfig`; it connects with the first record, and again by itself.

    Raises SinkError when paho-mqtt is missing, or for a configuration that makes no sense.
    """

    types = frozenset({"start", "event", "status", "health", "end"})

    def __init__(self, config: MqttConfig) -> None:
        need("paho.mqtt", "mqtt", SinkError)
        self.config = config
        self.node = slug(config.node or socket.gethostname())
        self._base = f"{config.prefix}/{self.node}"
        self._client = _client(config, f"{slug(config.prefix)}-{self.node}")
        self._client.will_set(self.topic("availability"), OFFLINE, qos=1, retain=True)
        self._client.on_connect = self._on_connect
        self._client.on_connect_fail = self._on_connect_fail
        self._client.on_disconnect = self._on_disconnect
        # Called with paho's lock held: it must not wait, least of all for a lock that is held around publish().
        self._client.on_publish = lambda _client, _data, mid, *_: self._confirmed.put(mid)
        self._confirmed: SimpleQueue[int | None] = SimpleQueue()  # message numbers; None: the connection is lost
        self._connected, self._started = Event(), False
        self._trouble = Trouble("not connected", "is the broker running, and the network up?")
        self._answered = False  # whether the broker has, on this connection
        self._sent: Record | None = None  # the record whose messages are not all confirmed
        self._open: set[int] = set()  # their numbers
        self._hears: dict[str, bool] = {}  # whether it does, by source
        self._slugs: dict[str, dict[str, str]] = {}  # by source, what its labels are called in topics and ids
        # The last of each topic, for a broker that has lost its memory.
        self._retained = {self.topic("availability"): Message(self.topic("availability"), OFFLINE, True)}

    def topic(self, name: str, source: str = "") -> str:
        """The topic of ``name`` below that of this device; below that of ``source``, where each has its own."""
        level = f"{slug(self._own(source))}/" if self._own(source) else ""
        return f"{self._base}/{level}{name}"

    def _own(self, source: str) -> str:
        """Whose topics it has: its own, or, as "", those of all."""
        return source if self.config.by_source else ""

    def state_topic(self, label: str, source: str) -> str:
        """The topic that says whether ``label`` is heard."""
        return self.topic(f"state/{self.label_slug(label, source)}", source)

    def label_slug(self, label: str, source: str) -> str:
        """What ``label`` is called in topics and ids, none as another of the ``source``'s last start."""
        return self._slugs.get(self._own(source), {}).get(label) or slug(label)

    def write(self, record: Record) -> None:
        """Publish what ``record`` says, and wait until the broker has all of it. Raises SinkError when it has not.

        A second attempt at the same record waits for what is on its way: paho sends it again by itself.
        """
        self._connect()
        if self._sent != record:
            self._settle()
            self._sent = record
            for message in self.messages(record):
                self._publish(message)
        self._settle()
        self._sent = None

    def close(self) -> None:
        """Say that this device is offline, and go."""
        if not self._started:
            return
        if self._connected.is_set():
            offline = self._client.publish(self.topic("availability"), OFFLINE, qos=1, retain=True)
            with suppress(RuntimeError):  # the connection is gone, and the last will says it
                offline.wait_for_publish(CLOSE_SECONDS)
        self._client.disconnect()
        self._client.loop_stop()

    def abort(self) -> None:
        """The broker hangs and nobody waits for it: end the connection without a word, so that the will says it.

        A client that is left alone would connect again, and throw its successor of the same name off the broker.
        """
        self._trouble = Trouble("given up", "restart the broker")
        self._connected.clear()
        self._confirmed.put(None)
        Thread(target=self._client.loop_stop, name="mqtt-abort", daemon=True).start()  # it waits for paho's thread

    def messages(self, record: Record) -> Iterator[Message]:
        """What is published for ``record``."""
        kind, source = record["type"], record["source"]
        if kind == "start":
            self._slugs[self._own(source)] = slugs(self.stated(record))
            yield from self.introduction(record)
            # A state of a former run may have stayed, as after a kill.
            for label in self.config.labels or dict.fromkeys([*record["labels"], *event_labels(record)]):
                yield Message(self.state_topic(label, source), OFF, True)
        elif kind == "status":
            yield Message(self.topic("status", source), _json(record), True)
        elif kind == "health":
            yield from self._available(source, record["state"] in HEARING)
            yield Message(
                self.topic("health", source), _json({key: record[key] for key in ("state", "reasons", "message")}), True
            )
        elif kind == "end":
            yield from self._available(source, False)
        elif kind == "event":
            yield Message(self.topic("event", source), _json(record), False)
            if not self.config.labels or record["label"] in self.config.labels:
                state = ON if record["phase"] == "begin" else OFF
                yield Message(self.state_topic(record["label"], source), state, True)

    def introduction(self, start: Record) -> Iterator[Message]:
        """What is published before the states, with a start."""
        return iter(())

    def stated(self, start: Record) -> tuple[str, ...]:
        """The labels that events may have, by a record ``start``, and that have a state."""
        return self.config.labels or tuple(event_labels(start))

    def _available(self, source: str, hears: bool) -> Iterator[Message]:
        """Whether what is said of ``source`` means anything; the device itself is there while it hears any."""
        self._hears[source] = hears
        told = {self.topic("availability", source): hears, self.topic("availability"): any(self._hears.values())}
        for topic, online in told.items():
            yield Message(topic, ONLINE if online else OFFLINE, True)

    def republish(self, messages: Iterable[Message]) -> None:
        """Publish from a callback, without waiting."""
        for message in messages:
            self._client.publish(message.topic, message.payload, qos=1, retain=message.retain)

    def on_connected(self) -> None:
        """Called in paho's thread when a connection was made."""

    def _connect(self) -> None:
        if not self._started:
            self._started = True
            self._client.connect_async(self.config.host, _port(self.config), self.config.keepalive)
            self._client.loop_start()
        if not self._connected.wait(CONNECT_SECONDS):
            raise self._error(self._trouble)

    def _publish(self, message: Message) -> None:
        if message.retain:
            self._retained[message.topic] = message
        self._open.add(self._client.publish(message.topic, message.payload, qos=1, retain=message.retain).mid)

    def _settle(self) -> None:
        """Wait until all that was published is confirmed."""
        until = monotonic() + self.config.timeout
        while self._open:
            try:
                number = self._confirmed.get(timeout=max(0.0, until - monotonic()))
            except Empty:
                what = f"no confirmation within {self.config.timeout:g} s"
                raise self._error(Trouble(what, "is the broker overloaded, or the network slow?")) from None
            if number is not None:
                self._open.discard(number)
            elif not self._connected.is_set():
                raise self._error(self._trouble)

    def _error(self, trouble: Trouble) -> SinkError:
        return SinkError(f"{self.config.host}:{_port(self.config)}: {trouble.what}", remedy=trouble.remedy)

    def _on_connect(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._answered = True
        if reason.is_failure:
            self._trouble = refused(str(reason), self.config)
            return
        self.republish(list(self._retained.values()))
        self.on_connected()
        self._connected.set()

    def _on_connect_fail(self, client: paho.Client, _data: Any) -> None:
        if isinstance(error := sys.exception(), OSError):  # paho calls this where it handles it
            self._trouble = unreachable(error, self.config)

    def _on_disconnect(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if self._connected.is_set():
            remedy = "is the broker running? has another device the same node?"
            self._trouble = Trouble(f"connection lost: {reason}", remedy)
        elif not self._answered:
            self._trouble = unanswered(self.config)
        self._answered = False
        self._connected.clear()
        self._confirmed.put(None)


def refused(reason: str, config: MqttConfig) -> Trouble:
    """Of a broker that has said no."""
    who = "us without a username" if config.username is None else f"the username {config.username!r}"
    secret = "username and password_file" if config.username is None else "username and password"
    if reason in ("Not authorized", "Bad user name or password"):
        return Trouble(f"the broker refuses {who}: {reason}", f"correct {secret}, or let it in at the broker")
    return Trouble(f"the broker refuses: {reason}", "look into the broker's log")


def unanswered(config: MqttConfig) -> Trouble:
    """Of a broker that has closed the connection instead."""
    if _tls(config):
        return Trouble("closed without an answer", "does it ask for a certificate? set cert_file and key_file")
    return Trouble("closed without an answer", "is it a port with TLS? set tls = true, or another port")


def unreachable(error: OSError, config: MqttConfig) -> Trouble:
    """Of a connection that could not be made."""
    if isinstance(error, socket.gaierror):
        return Trouble(f"no such host: {error.strerror}", "correct the name, or check the network and its DNS")
    if isinstance(error, ConnectionRefusedError):
        return Trouble("connection refused", "nothing listens there: start the broker, or correct the port")
    if isinstance(error, ssl.SSLCertVerificationError):
        remedy = "set ca_file to the authority that has signed it, or correct the name of the host"
        return Trouble(f"its certificate is not trusted: {error.verify_message.rstrip('.')}", remedy)
    if isinstance(error, TimeoutError):
        return Trouble("no answer in time", "check the address, the port, and the firewall between")
    if isinstance(error, ssl.SSLError) or (_tls(config) and isinstance(error, ConnectionError)):
        why = getattr(error, "reason", None) or error.strerror or error
        return Trouble(f"no TLS with it: {why}", "is it a port without TLS? set another port, or tls = false")
    return Trouble(f"no connection: {error.strerror or error}", "check the address, the port, and the network")


def event_labels(start: Record) -> list[str]:
    """What events may be called, by a record ``start``; one in a spool may be of a version that did not say it."""
    labels: list[str] = start["event_labels"] if "event_labels" in start else start["labels"]
    return labels


def _json(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False)


def _port(config: MqttConfig) -> int:
    return config.port or (8883 if _tls(config) else 1883)


def _tls(config: MqttConfig) -> bool:
    return bool(config.tls or config.ca_file or config.cert_file or config.key_file or config.insecure)


def _client(config: MqttConfig, client_id: str) -> paho.Client:
    """The client, not yet connected."""
    from paho.mqtt import client as paho

    _check(config)
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv311)
    client.reconnect_delay_set(FIRST_RECONNECT, LONGEST_RECONNECT)
    password = read_secret(config.password_env, config.password_file, "the broker's password")
    if config.username is not None:
        client.username_pw_set(config.username, password)
    if _tls(config):
        client.tls_set_context(_context(config))
        client.tls_insecure_set(config.insecure)
    return client


def _context(config: MqttConfig) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=config.ca_file)
        if config.cert_file:
            context.load_cert_chain(config.cert_file, config.key_file)
    except (OSError, ssl.SSLError) as error:
        raise SinkError(f"mqtt: {error}", remedy="correct ca_file, cert_file and key_file", retry=False) from None
    if config.insecure:
        log.warning("mqtt: the broker's certificate is not checked")
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def require_topic(topic: str, name: str) -> None:
    """Raises SinkError, which begins with ``name``, where nothing can be published below ``topic``."""
    if not topic or re.search("[+#\0]", topic) or topic[0] in "/$":
        remedy = "use a topic without + and #, and without / or $ in front"
        raise SinkError(f"{name} is {topic!r}", remedy=remedy, retry=False)


def _is_host(name: str) -> bool:
    try:
        return bool(name.encode("idna"))  # as the socket does it
    except UnicodeError:  # of a part that is empty or too long as well
        return False


def _check(config: MqttConfig) -> None:
    require_topic(config.prefix, "mqtt: prefix")
    require_timeout(config.timeout, "mqtt")
    allowed = {
        "host": (_is_host(config.host), "use a name or an address"),
        "port": (config.port is None or 0 < config.port < 1 << 16, "use 1 to 65535"),
        "keepalive": (0 < config.keepalive < 1 << 16, "use seconds, 1 to 65535"),
        "key_file": (not config.key_file or config.cert_file, "name its cert_file as well"),
        "username": (
            config.username is not None or not (config.password_env or config.password_file),
            "name whose password it is",
        ),
    }
    for name, (is_allowed, remedy) in allowed.items():
        if not is_allowed:
            raise SinkError(f"mqtt: {name} is {getattr(config, name)!r}", remedy=remedy, retry=False)
