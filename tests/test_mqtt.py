"""MQTT and Home Assistant, with a real broker that is killed, restarted, and asks for passwords and certificates."""

import errno
import json
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

import jsonschema
import numpy as np
import pytest
import soundfile

from edge.config import build
from edge.delivery import Delivery
from edge.errors import SinkError
from edge.names import slug
from edge.sinks import LONGEST_WAIT
from edge.sinks.homeassistant import HomeAssistant, HomeAssistantConfig
from edge.sinks.mqtt import Mqtt, MqttConfig
from tests.conftest import ROOT, resident
from tests.receivers import Mosquitto, Subscriber, event, free_port, ids, needs_mosquitto, wait_until
from tests.test_listen import BASE as ENVIRONMENT
from tests.test_listen import command

pytestmark = pytest.mark.timed

STATUS = {
    "type": "status", "source": "microphone", "time": "2026-01-01T00:00:00.000Z", "silent": False, "load": 0.02,
    "level_dbfs": -40.5, "windows": 100, "overflows": 1, "lost_samples": 512,
}  # fmt: skip
START = {
    "type": "start",
    "source": "microphone",
    "model": "edge-listen",
    "precision": "int8",
    "labels": ["Dog", "Speech, male", "犬"],
    "event_labels": ["Dog", "Speech, male", "犬"],
}
BASE = "edge-listen/attic"


def health(state, *reasons, message="", source="microphone"):
    return {
        "type": "health", "source": source, "time": "2026-01-01T00:00:00.000Z", "state": state,
        "reasons": list(reasons), "message": message,
    }  # fmt: skip


LISTENING = health("listening")


@pytest.fixture(autouse=True)
def hurry(monkeypatch, request):
    """A second is long in a fast test."""
    if "slow" not in request.keywords:
        monkeypatch.setattr("edge.sinks.mqtt.FIRST_RECONNECT", 0.1)
        monkeypatch.setattr("edge.sinks.mqtt.CONNECT_SECONDS", 0.4)


@pytest.fixture
def broker(tmp_path):
    with Mosquitto(tmp_path) as broker:
        yield broker


@pytest.fixture
def subscriber(broker):
    with Subscriber(broker) as subscriber:
        yield subscriber


def config(broker, cls=MqttConfig, **settings):
    return cls(**{"host": "127.0.0.1", "port": broker.port, "node": "attic", **settings})


def retained(broker, count, topics="#"):
    """What a subscriber is given that comes only now."""
    with Subscriber(broker, topics, client_id=f"late-{time.monotonic_ns()}") as late:
        wait_until(lambda: len(late.messages) >= count)
        assert all(was_retained for _, _, was_retained in late.messages)
        return {topic: payload for topic, payload, _ in late.messages}


@needs_mosquitto
def test_topics_and_payloads(broker, subscriber):
    sink = Mqtt(config(broker))
    for record in (START, LISTENING, {"type": "window", "source": ""}, event(0), STATUS, event(0, phase="end")):
        sink.write(record)
    assert retained(broker, 6) == {
        f"{BASE}/availability": "online",
        f"{BASE}/health": json.dumps({"state": "listening", "reasons": [], "message": ""}),
        f"{BASE}/state/dog": "OFF",
        f"{BASE}/state/speech_male": "OFF",
        f"{BASE}/state/{slug('犬')}": "OFF",
        f"{BASE}/status": json.dumps(STATUS),
    }
    sink.close()
    wait_until(lambda: subscriber.of(f"{BASE}/availability") == ["offline", "online", "offline"])
    assert subscriber.events() == [event(0), event(0, phase="end")]
    assert subscriber.of(f"{BASE}/state/dog") == ["OFF", "ON", "OFF"]


@needs_mosquitto
def test_only_the_labels_that_are_asked_for_have_a_state(broker, subscriber):
    sink = Mqtt(config(broker, labels=("Dog",), prefix="home/sound"))
    for record in (START, event(0), event(1, label="Cat")):
        sink.write(record)
    sink.close()
    wait_until(lambda: subscriber.of("home/sound/attic/availability")[-1:] == ["offline"])
    assert {topic for topic, _, _ in subscriber.messages if "/state/" in topic} == {"home/sound/attic/state/dog"}
    assert ids(subscriber.events()) == ["e00000", "e00001"]


@needs_mosquitto
def test_a_crash_is_seen_by_others(broker, subscriber):
    """The last will: the connection goes without a word."""
    sink = Mqtt(config(broker))
    sink.write(LISTENING)
    wait_until(lambda: subscriber.of(f"{BASE}/availability")[-1:] == ["online"])
    subscriber.messages.clear()
    sink._client._sock.shutdown(2)
    wait_until(lambda: "offline" in subscriber.of(f"{BASE}/availability"))
    wait_until(lambda: subscriber.of(f"{BASE}/availability")[-1] == "online")  # it has come back by itself
    sink.close()


def test_a_broker_that_is_not_there_does_not_keep_it_from_starting():
    start = time.monotonic()
    sink = Mqtt(MqttConfig(host="127.0.0.1", port=free_port()))
    assert time.monotonic() - start < 1
    with pytest.raises(SinkError, match=r"connection refused \(nothing listens there: start the broker") as caught:
        sink.write(event(0))
    assert caught.value.retry
    sink.close()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (socket.gaierror(-2, "Name or service not known"), "no such host: Name or service not known (correct the name"),
        (TimeoutError("timed out"), "no answer in time (check the address"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "no connection: Network is unreachable (check the"),
    ],
)
def test_why_there_is_no_connection(monkeypatch, error, says):
    def connect(*_, **__):
        raise error

    monkeypatch.setattr(socket, "create_connection", connect)
    sink = Mqtt(MqttConfig(host="broker", port=18830))
    with pytest.raises(SinkError) as caught:
        sink.write(event(0))
    assert str(caught.value).startswith(f"broker:18830: {says}")
    assert caught.value.retry
    sink.close()


@needs_mosquitto
def test_an_outage_loses_nothing_and_keeps_the_order(broker, subscriber, tmp_path):
    """The broker is killed, events come, it is started again; nobody who writes has waited."""
    delivery = Delivery(Mqtt(config(broker)), "mqtt", spool=tmp_path / "spool", first_wait=0.05, longest_wait=0.2)
    took = []

    def write(numbers):
        for i in numbers:
            start = time.perf_counter()
            delivery.write(event(i))
            took.append(time.perf_counter() - start)
            time.sleep(0.002)

    write(range(20))
    wait_until(lambda: len(subscriber.events()) == 20)
    broker.stop(kill=True)
    write(range(20, 120))
    wait_until(lambda: delivery.stats().spooled >= 100)
    broker.start()
    write(range(120, 140))
    wait_until(lambda: len(set(ids(subscriber.events()))) == 140, 20)
    delivery.close()
    assert list(dict.fromkeys(ids(subscriber.events()))) == ids(event(i) for i in range(140))
    stats = delivery.stats()
    assert (stats.delivered, stats.dropped, stats.failed, stats.spooled) == (140, 0, 0, 0)
    took.sort()
    assert took[int(0.99 * len(took))] < 0.005
    assert took[-1] < 0.2


OUTAGE = 70.0  # seconds: the longest wait between two attempts, of 30 s, has begun by the 39th, and is over
CAPACITY = 200  # records that wait in memory


@needs_mosquitto
@pytest.mark.slow
def test_an_outage_of_a_minute(broker, subscriber, tmp_path, minute):
    """edge-listen hears a recording in real time, with five events a second, while the broker is killed."""
    soundfile.write(tmp_path / "scene.wav", np.tile(minute, 6), 16_000)
    settings = tmp_path / "edge.toml"
    settings.write_text(f"""
        input = "{tmp_path}/scene.wav"
        realtime = true
        output = "jsonl"
        verbose = true
        [events]
        threshold = 0.0
        max_duration = 20.0
        [sinks.mqtt]
        host = "127.0.0.1"
        port = {broker.port}
        capacity = {CAPACITY}
        spool_file = "{tmp_path}/spool.sqlite"
    """)
    out, err = tmp_path / "out.jsonl", tmp_path / "err"

    def told(*kinds):
        lines = out.read_text().splitlines(keepends=True)
        records = [json.loads(line) for line in lines if line.endswith("\n")]
        return [record for record in records if record["type"] in kinds]

    def keys(events):
        """Of those that came twice, once."""
        return list(dict.fromkeys((event["id"], event["phase"]) for event in events))

    def arrived(events):
        time.sleep(0.5)  # it looks at all of them: often enough
        return {*events} <= {*keys(subscriber.events())}

    with out.open("w") as stdout, err.open("w") as stderr:
        process = subprocess.Popen(
            command("--config", settings), stdout=stdout, stderr=stderr, cwd=ROOT, env=ENVIRONMENT
        )
    try:
        wait_until(lambda: len(subscriber.messages) > 200, 60)
        before, memory, over = len(told("event")), [resident(process.pid)], time.monotonic() + OUTAGE
        broker.stop(kill=True)
        while time.monotonic() < over:
            time.sleep(1.0)
            memory.append(resident(process.pid))
        missed = len(told("event")) - before
        broker.start()
        sent = keys(told("event"))  # what comes from here on queues up behind these
        wait_until(lambda: arrived(sent), 90)
        memory.append(resident(process.pid))
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
    assert missed > CAPACITY
    assert keys(subscriber.events())[: len(sent)] == sent
    assert "mqtt: delivers again" in err.read_text()
    assert "were dropped" not in err.read_text()
    hop = told("start")[0]["hop_seconds"]
    assert max(window["latency_ms"] for window in told("window")) < 1000 * hop
    assert [status["late"] for status in told("status")][-1] == 0
    assert {reason for record in told("health") for reason in record["reasons"]} == {"sink"}  # told, and not "late"
    assert max(memory) - memory[0] < 8 << 20


@needs_mosquitto
def test_a_broker_that_hangs_is_a_failed_attempt(broker, subscriber):
    """Stopped in its tracks it answers nothing; what it then gets late, it gets once."""
    sink = Mqtt(config(broker, timeout=0.3))
    sink.write(event(0))
    broker.process.send_signal(19)  # SIGSTOP
    try:
        with pytest.raises(SinkError, match="no confirmation within") as caught:
            sink.write(event(1))
        assert caught.value.retry
    finally:
        broker.process.send_signal(18)  # SIGCONT
    sink.write(event(1))
    sink.write(event(2))
    wait_until(lambda: len(subscriber.events()) == 3)
    sink.close()
    assert ids(subscriber.events()) == ["e00000", "e00001", "e00002"]


@needs_mosquitto
def test_a_broker_that_has_lost_its_memory_is_told_again(tmp_path):
    """Retained messages come again, with the newest state."""
    with Mosquitto(tmp_path, "allow_anonymous true") as broker:
        sink = HomeAssistant(config(broker, HomeAssistantConfig))
        for record in (START, LISTENING, STATUS, event(0)):
            sink.write(record)
        before = retained(broker, 7)
        broker.stop(kill=True)
        wait_until(lambda: not sink._connected.is_set())
        (tmp_path / "mosquitto.db").unlink(missing_ok=True)
        broker.start()
        wait_until(sink._connected.is_set)
        sink.write(STATUS)  # when this is confirmed, what was published before it is there as well
        assert retained(broker, 7) == before
        assert before[f"{BASE}/state/dog"] == "ON"
        sink.close()


@needs_mosquitto
def test_a_client_that_was_given_up_does_not_come_back(broker):
    """As after SIGHUP while the broker hangs: it would throw its successor of the same name off, again and again."""
    before = Delivery(Mqtt(config(broker)), "mqtt")
    before.write(LISTENING)
    wait_until(lambda: before.stats().delivered == 1)
    broker.process.send_signal(signal.SIGSTOP)
    before.write(STATUS)
    wait_until(lambda: before._sink._open)
    before.close(timeout=0.5)
    after = Mqtt(config(broker))
    lost = []
    after._client.on_disconnect = lambda *_: lost.append(_)
    try:
        with pytest.raises(SinkError):
            after.write(LISTENING)
    finally:
        broker.process.send_signal(signal.SIGCONT)
    after.write(STATUS)
    wait_until(lambda: len([t for t in threading.enumerate() if "paho" in t.name]) == 1)
    lost.clear()
    time.sleep(1)  # ten times as long as it takes to connect again
    after.write(LISTENING)
    assert not lost
    after.close()


@needs_mosquitto
def test_username_and_password(tmp_path, monkeypatch):
    if shutil.which("mosquitto_passwd") is None:
        pytest.skip("no mosquitto_passwd")
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-c", "-b", passwords, "ear", "s3cret"], check=True, capture_output=True)
    with Mosquitto(tmp_path, "allow_anonymous false", f"password_file {passwords}") as broker:
        monkeypatch.setenv("BROKER_PASSWORD", "s3cret")
        sink = Mqtt(config(broker, username="ear", password_env="BROKER_PASSWORD"))
        sink.write(event(0))
        sink.close()
        (tmp_path / "wrong").write_text("another\n")
        sink = Mqtt(config(broker, username="ear", password_file=str(tmp_path / "wrong")))
        refuses = r"refuses the username 'ear': (Not authorized|Bad user name or password) \(correct username and pass"
        with pytest.raises(SinkError, match=refuses) as caught:
            sink.write(event(0))
        assert caught.value.retry  # a broker may be configured meanwhile
        sink.close()
        sink = Mqtt(config(broker))
        with pytest.raises(SinkError, match=r"refuses us without a username: .* \(correct username and password_file"):
            sink.write(event(0))
        sink.close()


@pytest.fixture
def certificates(tmp_path):
    """ca.pem, and for 127.0.0.1 server.pem with server.key, client.pem with client.key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")

    def openssl(*arguments):
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, cwd=tmp_path)

    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    openssl(*new, "-subj", "/CN=test CA", "-keyout", "ca.key", "-out", "ca.pem")
    for name in ("server", "client"):
        openssl(
            *new, "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-addext",
            "basicConstraints=critical,CA:FALSE", "-CA", "ca.pem", "-CAkey", "ca.key", "-keyout", f"{name}.key",
            "-out", f"{name}.pem",
        )  # fmt: skip
    return tmp_path


@needs_mosquitto
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # paho leaves a refused socket to the GC
def test_tls_with_certificates_on_both_sides(certificates):
    settings = [f"cafile {certificates}/ca.pem", f"certfile {certificates}/server.pem",
                f"keyfile {certificates}/server.key", "require_certificate true", "allow_anonymous true"]  # fmt: skip
    ours = dict(cert_file=str(certificates / "client.pem"), key_file=str(certificates / "client.key"))
    with Mosquitto(certificates, *settings) as broker:
        for trust in ({"ca_file": str(certificates / "ca.pem")}, {"insecure": True}):
            sink = Mqtt(config(broker, **ours, **trust))
            sink.write(event(0))
            sink.close()
        for wrong, says in (
            (ours, r"its certificate is not trusted: .* \(set ca_file"),
            ({"ca_file": str(certificates / "ca.pem")}, r"closed without an answer \(does it ask for a certificate"),
            ({}, r"closed without an answer \(is it a port with TLS\? set tls = true"),
        ):
            sink = Mqtt(config(broker, **wrong))
            with pytest.raises(SinkError, match=says):
                sink.write(event(0))
            sink.close()


@needs_mosquitto
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # as above
def test_tls_with_a_broker_that_has_none(broker):
    sink = Mqtt(config(broker, tls=True))
    with pytest.raises(SinkError, match=r"no TLS with it: .* \(is it a port without TLS\?"):
        sink.write(event(0))
    sink.close()


@pytest.mark.parametrize(
    "settings",
    [
        {"host": ""}, {"host": "a..b"}, {"host": "a" * 70}, {"host": "\u200b"}, {"port": 70_000}, {"port": 0},
        {"prefix": "a/#"}, {"prefix": ""}, {"keepalive": 0}, {"keepalive": 65_536}, {"timeout": 0.0}, {"timeout": 1e12},
        {"ca_file": "/no/such/file"}, {"key_file": "/some/key"}, {"password_env": "X"},
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(settings):
    with pytest.raises(SinkError) as caught:
        Mqtt(MqttConfig(**settings))
    assert not caught.value.retry


@pytest.mark.parametrize("topic", ["ha/#", "", "+/ha", "/ha"])
def test_a_topic_that_nothing_can_be_published_below(topic):
    """paho would refuse it in its own thread, which then ends."""
    with pytest.raises(SinkError, match=f"^home_assistant: discovery_prefix is {re.escape(repr(topic))}") as caught:
        HomeAssistant(HomeAssistantConfig(discovery_prefix=topic))
    assert not caught.value.retry


@needs_mosquitto
def test_the_longest_waits_are_waited(broker, subscriber):
    sink = Mqtt(config(broker, keepalive=65_535, timeout=LONGEST_WAIT))
    sink.write(event(0))
    sink.close()
    wait_until(lambda: ids(subscriber.events()) == ["e00000"])


def test_without_paho_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("edge.extras.find_spec", lambda name: None)
    with pytest.raises(SinkError, match=r"pip install 'edge-listen\[mqtt\]'"):
        Mqtt(MqttConfig())


def test_the_configuration_is_built_from_a_table():
    default = HomeAssistantConfig()
    table = {name: getattr(default, name) for name in default.__dataclass_fields__} | {"labels": ["Dog"], "port": 1}
    assert build(HomeAssistantConfig, table) == HomeAssistantConfig(labels=("Dog",), port=1)


@pytest.mark.parametrize(
    ("label", "slugged"),
    [("Dog", "dog"), ("Speech, male", "speech_male"), ("a/+#b", "a_b"), ("Hündin", "h_ndin_"), ("犬", ""), ("+", "")],
)
def test_slugs_are_safe_in_topics_and_ids(label, slugged):
    found = slug(label)
    assert found.startswith(slugged)
    assert found
    assert set(found) <= set("abcdefghijklmnopqrstuvwxyz0123456789_")
    assert found == slug(label)
    assert (found == slugged) == (label.isascii() and label != "+")


# Home Assistant's documented fields: device discovery (integrations/mqtt), binary_sensor.mqtt, sensor.mqtt.
TEXT = {"type": "string", "minLength": 1}
TOPIC = {"type": "string", "pattern": "^[^+#]+$"}
AVAILABILITY = {
    "availability": {
        "type": "array",
        "minItems": 1,
        "items": {
            "properties": {
                "topic": TOPIC, "payload_available": TEXT, "payload_not_available": TEXT, "value_template": TEXT,
            },
            "required": ["topic"],
            "additionalProperties": False,
        },
    },
    "availability_mode": {"enum": ["all", "any", "latest"]},
}  # fmt: skip
SHARED = {
    "p": TEXT, "unique_id": TEXT, "name": TEXT, "state_topic": TOPIC, "icon": {"type": "string", "pattern": "^mdi:"},
    "value_template": {"type": "string", "pattern": r"^\{\{ .* \}\}$"}, "json_attributes_topic": TOPIC,
    "entity_category": {"enum": ["diagnostic", "config"]}, **AVAILABILITY,
}  # fmt: skip
DISCOVERY = {
    "type": "object",
    "properties": {
        "dev": {
            "type": "object",
            "properties": {
                "ids": {"type": "array", "items": TEXT, "minItems": 1},
                "name": TEXT, "mf": TEXT, "mdl": TEXT, "sw": TEXT,
            },
            "required": ["ids", "name"],
            "additionalProperties": False,
        },
        "o": {
            "type": "object",
            "properties": {"name": TEXT, "sw": TEXT, "url": {"type": "string", "pattern": "^https://"}},
            "required": ["name"],
            "additionalProperties": False,
        },
        "cmps": {
            "type": "object",
            "propertyNames": {"pattern": "^[a-zA-Z0-9_-]+$"},
            "additionalProperties": {
                "oneOf": [
                    {
                        "properties": SHARED | {
                            "p": {"const": "binary_sensor"}, "device_class": {"enum": ["sound"]},
                            "payload_on": TEXT, "payload_off": TEXT,
                        },
                        "required": ["p", "unique_id", "state_topic"],
                        "additionalProperties": False,
                    },
                    {
                        "properties": SHARED | {
                            "p": {"const": "sensor"}, "unit_of_measurement": TEXT,
                            "state_class": {"enum": ["measurement", "total", "total_increasing"]},
                        },
                        "required": ["p", "unique_id", "state_topic"],
                        "additionalProperties": False,
                    },
                ],
            },
        },
        **AVAILABILITY,
        "qos": {"enum": [0, 1, 2]},
    },
    "required": ["dev", "o", "cmps"],
    "additionalProperties": False,
}  # fmt: skip


def discovered(payload):
    """The components of a payload, which must be a valid one."""
    description = json.loads(payload)
    jsonschema.validate(description, DISCOVERY)
    components = description["cmps"]
    names = [c["unique_id"] for c in components.values()]
    assert len(set(names)) == len(names)
    return description, components


@needs_mosquitto
def test_home_assistant_is_told_everything_it_needs(broker, subscriber):
    sink = HomeAssistant(config(broker, HomeAssistantConfig, device_name="Attic"))
    for record in (START, LISTENING, STATUS, event(0)):
        sink.write(record)
    found = retained(broker, 7)
    description, components = discovered(found["homeassistant/device/edge_listen_attic/config"])
    assert description["dev"]["name"] == "Attic"
    assert description["dev"]["mdl"] == "edge-listen int8"
    (there,) = description["availability"]
    assert found[there["topic"]] == there["payload_available"]
    sensors = {c["name"]: c for c in components.values() if c["p"] == "binary_sensor"}
    assert list(sensors) == START["labels"]
    assert found[sensors["Dog"]["state_topic"]] == sensors["Dog"]["payload_on"]
    assert found[sensors["犬"]["state_topic"]] == sensors["犬"]["payload_off"]
    others = {c["name"]: c for c in components.values() if c["p"] == "sensor"}
    assert set(others) == {"Last event", "Level", "Lost samples", "Overflows", "Health"}
    for name, field in (
        ("Level", "level_dbfs"),
        ("Lost samples", "lost_samples"),
        ("Overflows", "overflows"),
        ("Health", "state"),
    ):
        assert others[name]["value_template"] == f"{{{{ value_json.{field} }}}}"
        assert field in json.loads(found[others[name]["state_topic"]])
    wait_until(lambda: subscriber.of(others["Last event"]["state_topic"]))
    assert json.loads(subscriber.of(others["Last event"]["state_topic"])[0])["label"] == "Dog"
    sink.close()


@needs_mosquitto
def test_discovery_follows_home_assistants_birth(broker, subscriber):
    sink = HomeAssistant(config(broker, HomeAssistantConfig, labels=("Dog",)))
    sink.write(START)
    topic = "homeassistant/device/edge_listen_attic/config"
    wait_until(lambda: len(subscriber.of(topic)) == 1)
    subscriber.publish("homeassistant/status", "offline")
    subscriber.publish("homeassistant/status", "online")
    wait_until(lambda: len(subscriber.of(topic)) == 2)
    wait_until(lambda: len(subscriber.of(f"{BASE}/state/dog")) == 2)
    first, second = subscriber.of(topic)
    assert first == second
    _, components = discovered(first)
    assert [c["name"] for c in components.values() if c["p"] == "binary_sensor"] == ["Dog"]
    sink.close()


@needs_mosquitto
def test_a_group_is_there_from_the_start(broker, subscriber):
    """A class that is counted in it is none of its own, but a state that a former run has left is corrected."""
    sink = HomeAssistant(config(broker, HomeAssistantConfig))
    sink.write(START | {"event_labels": ["Pet", "犬"]})
    wait_until(lambda: len(subscriber.messages) == 6)
    assert {t for t, p, _ in subscriber.messages if p == "OFF"} == {
        f"{BASE}/state/{slug(label)}" for label in ("Dog", "Speech, male", "犬", "Pet")
    }
    _, components = discovered(subscriber.of("homeassistant/device/edge_listen_attic/config")[-1])
    assert [c["name"] for c in components.values() if c["p"] == "binary_sensor"] == ["Pet", "犬"]
    sink.close()


def test_labels_that_differ_in_signs_or_capitals_alone_have_states_and_entities_of_their_own():
    """One of them keeps the name that they would share, whatever their order; what is no event takes it from none."""

    def told(*labels, by_source=False):
        sink = HomeAssistant(HomeAssistantConfig(node="attic", by_source=by_source))
        payload, *states = sink.messages(START | {"labels": ["Dog", "pet a"], "event_labels": labels})
        sensors = [c for c in discovered(payload.payload)[1].values() if c["p"] == "binary_sensor"]
        assert {c["state_topic"] for c in sensors} <= {m.topic for m in states}
        for sensor in sensors:
            (_, state) = sink.messages(event(0, label=sensor["name"]))
            assert state.topic == sensor["state_topic"]
        return {c["name"]: c["state_topic"].rpartition("/")[2] for c in sensors}

    found = told("Pet a", "pet-a", "dog", "Dog")
    assert found == {"Pet a": "pet_a", "pet-a": found["pet-a"], "dog": "dog", "Dog": found["Dog"]}
    assert len(set(found.values())) == 4
    assert found == told("Dog", "dog", "pet-a", "Pet a", by_source=True)
    assert told("Pet-A") == {"Pet-A": "pet_a"}


def test_a_start_of_an_older_version_may_wait_in_the_spool():
    start = {name: value for name, value in START.items() if name != "event_labels"}
    states = {m.topic for m in HomeAssistant(HomeAssistantConfig(node="attic")).messages(start) if "/state/" in m.topic}
    assert states == {f"{BASE}/state/{slug(label)}" for label in START["labels"]}


@needs_mosquitto
def test_a_listener_that_hears_nothing_is_not_available_and_says_why(broker, subscriber):
    sink = HomeAssistant(config(broker, HomeAssistantConfig))
    lost = health("lost", "missing", message="plug it in")
    for record in (START, health("starting"), LISTENING, health("degraded", "silent"), lost, LISTENING):
        sink.write(record)
    sink.close()
    wait_until(lambda: len(subscriber.of(f"{BASE}/availability")) == 7)
    online, offline = "online", "offline"  # before the first record, starting, then those above, and the end
    assert subscriber.of(f"{BASE}/availability") == [offline, offline, online, online, offline, online, offline]
    told = [json.loads(payload) for payload in subscriber.of(f"{BASE}/health")]
    assert [t["state"] for t in told] == ["starting", "listening", "degraded", "lost", "listening"]
    assert told[3] == {"state": "lost", "reasons": ["missing"], "message": "plug it in"}


@needs_mosquitto
def test_an_entity_of_health_stays_while_the_others_go(broker, subscriber):
    """Home Assistant takes the latest of the two: what is said of health comes after what is said of availability."""
    sink = HomeAssistant(config(broker, HomeAssistantConfig))
    for record in (START, health("lost", "missing")):
        sink.write(record)
    wait_until(lambda: subscriber.of(f"{BASE}/health"))
    topics = [topic for topic, _, _ in subscriber.messages]
    assert topics[-2:] == [f"{BASE}/availability", f"{BASE}/health"]
    _, components = discovered(subscriber.of("homeassistant/device/edge_listen_attic/config")[-1])
    entity = components["health"]
    assert [place["topic"] for place in entity["availability"]] == topics[-2:]
    assert entity["availability_mode"] == "latest"
    assert entity["availability"][1]["value_template"] == "{{ 'online' }}"
    sink.close()


@needs_mosquitto
def test_several_sources_are_several_devices(broker, subscriber):
    sink = HomeAssistant(config(broker, HomeAssistantConfig, by_source=True, labels=("Dog",)))
    for name in ("Front yard", "hall"):
        for record in (START, LISTENING):
            sink.write(record | {"source": name})
    sink.write(event(0) | {"source": "hall"})
    sink.write(health("lost", "stopped", source="hall"))
    found = retained(broker, 1 + 2 * 3, "edge-listen/#")  # the device's, and of each: state, availability, health
    assert found[f"{BASE}/front_yard/state/dog"] == "OFF"
    assert found[f"{BASE}/hall/state/dog"] == "ON"
    assert found[f"{BASE}/front_yard/availability"] == found[f"{BASE}/availability"] == "online"
    assert found[f"{BASE}/hall/availability"] == "offline"
    assert [topic for topic, _, _ in subscriber.messages if topic.endswith("/event")] == [f"{BASE}/hall/event"]
    seen = {}
    for source in ("front_yard", "hall"):
        (payload,) = subscriber.of(f"homeassistant/device/edge_listen_attic_{source}/config")
        description, components = discovered(payload)
        assert [a["topic"] for a in description["availability"]] == [
            f"{BASE}/availability", f"{BASE}/{source}/availability",
        ]  # fmt: skip
        assert description["availability_mode"] == "all"
        seen[source] = {c["unique_id"] for c in components.values()}
    assert not seen["front_yard"] & seen["hall"]
    sink.write(health("lost", "stopped", source="Front yard"))  # now it hears nothing at all
    wait_until(lambda: subscriber.of(f"{BASE}/availability")[-1] == "offline")
    sink.close()
