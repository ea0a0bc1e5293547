"""Receivers for the tests of sinks: real ones, and one that fails as it is told."""

import http.server
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge.errors import SinkError
from edge.events import Event
from edge.records import event_record

MOSQUITTO = shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")
PATIENCE = float(os.environ.get("EDGE_LISTEN_PATIENCE", "1"))  # times longer; a processor may be an emulated one
needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="no mosquitto: apt-get install mosquitto")


def event(number=0, *, phase="begin", label="Dog", at=1_760_000_000.0):
    """A record of the event ``number``, one a second."""
    onset, ended = at + number, phase == "end"
    return event_record(
        "microphone",
        Event(
            id=f"e{number:05}", phase=phase, label=label, classes=(label,), onset=float(number),
            offset=number + 0.5 if ended else None, onset_time=onset, offset_time=onset + 0.5 if ended else None,
            peak=0.91, mean=0.8, level_dbfs=-31.26, model="edge-listen int8 0123", latency_ms=12.345,
        ),
    )  # fmt: skip


def ids(records):
    return [record["id"] for record in records]


def wait_until(holds, seconds=5.0, what=""):
    """Poll until ``holds()``; fail after ``seconds``, of a machine of the usual speed."""
    end = time.monotonic() + PATIENCE * seconds
    while not holds():
        assert time.monotonic() < end, what or "it did not happen in time"
        time.sleep(0.005)


class Fallible:
    """A sink that keeps what it takes; ``error`` is raised instead, ``open`` holds it up."""

    def __init__(self):
        self.taken, self.attempts, self.error, self.closed = [], 0, None, False
        self.open = threading.Event()
        self.open.set()

    def write(self, record):
        self.attempts += 1
        self.open.wait()
        if self.error is not None:
            raise self.error
        self.taken.append(record)

    def close(self):
        self.closed = True


AWAY = SinkError("receiver: away", remedy="wait")
REFUSED = SinkError("receiver: refused", remedy="correct it", retry=False)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def http_receiver(port=0):
    """A web server that keeps requests, and answers with the next of ``answers`` (then 204)."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.hold.wait(20)
            code, headers = server.answers.pop(0) if server.answers else (204, {})
            server.requests.append((dict(self.headers), body))
            self.send_response(code)
            for name, value in {"Content-Length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    server.requests, server.answers, server.hold = [], [], threading.Event()
    server.hold.set()
    server.url = f"http://127.0.0.1:{server.server_port}/hook"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()


class Mosquitto:
    """A real broker on a port of its own. It keeps sessions over a restart, so that no subscriber misses anything."""

    def __init__(self, folder: Path, *settings: str, port=None):
        self.port = port or free_port()
        self._config = folder / "mosquitto.conf"
        lines = [
            "user root", "persistence true", f"persistence_location {folder}/", "autosave_on_changes true",
            "autosave_interval 1", "max_queued_messages 0", f"listener {self.port} 127.0.0.1",
            *(settings or ("allow_anonymous true",)),
        ]  # fmt: skip
        self._config.write_text("\n".join(lines) + "\n")
        self._log = (folder / "mosquitto.log").open("ab")
        self.process = None

    def start(self):
        self.process = subprocess.Popen([MOSQUITTO, "-c", self._config], stdout=self._log, stderr=self._log)
        wait_until(self._answers, what=f"mosquitto does not start: {self._log.name}")
        return self

    def stop(self, *, kill=False):
        (self.process.kill if kill else self.process.terminate)()
        self.process.wait(10)

    def _answers(self):
        try:
            socket.create_connection(("127.0.0.1", self.port), 0.2).close()
        except OSError:
            return False
        return True

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.stop(kill=True)
        self._log.close()


class Subscriber:
    """Everything that is published, in order, over restarts of the broker."""

    def __init__(self, broker, topics="#", client_id="test-subscriber"):
        from paho.mqtt import client as paho

        self.messages = []  # (topic, payload, whether it was retained)
        self._client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=False, protocol=paho.MQTTv311
        )
        subscribed = threading.Event()
        self._client.reconnect_delay_set(0.1, 0.1)
        self._client.on_connect = lambda client, *_: client.subscribe(topics, qos=1)
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.on_message = lambda _c, _d, m: self.messages.append((m.topic, m.payload.decode(), m.retain))
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        assert subscribed.wait(5)

    def of(self, topic):
        """The payloads of one topic, in order; what was retained before does not count."""
        return [payload for name, payload, retained in list(self.messages) if name == topic and not retained]

    def events(self):
        return [json.loads(payload) for name, payload, _ in list(self.messages) if name.endswith("/event")]

    def publish(self, topic, payload):
        self._client.publish(topic, payload, qos=1).wait_for_publish(5)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._client.disconnect()
        self._client.loop_stop()
