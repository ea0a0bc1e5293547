"""Home Assistant: the topics of MQTT, and a description of them from which it makes its entities by itself.

https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import edge
from edge.names import slug
from edge.records import Record
from edge.sinks.mqtt import OFF, OFFLINE, ON, ONLINE, Message, Mqtt, MqttConfig, require_topic

if TYPE_CHECKING:
    from paho.mqtt import client as paho

URL = "https://github.com/edge-listen/edge-listen"


@dataclass(frozen=True)
class HomeAssistantConfig(MqttConfig):
    """Those of MQTT, and what Home Assistant is told of this device."""

    discovery_prefix: str = "homeassistant"  # as Home Assistant is configured
    device_name: str = ""  # empty: edge-listen and the node


@dataclass(frozen=True)
class _Device:
    """What Home Assistant takes for one device."""

    source: str  # empty: all sources
    model: str
    labels: tuple[str, ...]


class HomeAssistant(Mqtt):
    """See :class:`HomeAssistantConfig`; all that :class:`Mqtt` does, and discovery."""

    def __init__(self, config: HomeAssistantConfig) -> None:
        super().__init__(config)
        require_topic(config.discovery_prefix, "home_assistant: discovery_prefix")
        self._discovery_prefix, self._device_name = config.discovery_prefix, config.device_name
        self._devices: dict[str, _Device] = {}  # by source; without by_source all are one, ""
        self._birth = f"{config.discovery_prefix}/status"
        self._client.message_callback_add(self._birth, self._on_birth)

    def introduction(self, start: Record) -> Iterator[Message]:
        """The discovery."""
        source, model = self._own(start["source"]), f"{start['model']} {start['precision']}"
        self._devices[source] = _Device(source, model, self.stated(start))
        yield self.discovery(source)

    def discovery(self, source: str) -> Message:
        """The device and its entities."""
        payload = json.dumps(self._payload(self._devices[source]), ensure_ascii=False)
        return Message(f"{self._discovery_prefix}/device/{self._id(source)}/config", payload, True)

    def on_connected(self) -> None:
        """Listen for Home Assistant's starting; it may have to be told again."""
        self._client.subscribe(self._birth, qos=1)

    def _id(self, source: str) -> str:
        return "_".join([slug(self.config.prefix), self.node, *([slug(source)] if source else [])])

    def _on_birth(self, client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        if message.payload == ONLINE.encode():
            self.republish(list(self._retained.values()))

    def _payload(self, device: _Device) -> dict[str, Any]:
        name, source = self._device_name or f"edge-listen {self.node}", device.source
        return {
            "dev": {
                "ids": [self._id(source)],
                "name": f"{name} {source}".rstrip(),
                "mf": "edge-listen",
                "mdl": device.model,
                "sw": edge.__version__,
            },
            "o": {"name": "edge-listen", "sw": edge.__version__, "url": URL},
            "cmps": {
                **{self._key(label, source): self._binary_sensor(label, source) for label in device.labels},
                **self._others(source),
            },
            # The broker says for us that the device is gone, not that each of its sources is: both must be there.
            "availability": [
                _availability(topic)
                for topic in dict.fromkeys([self.topic("availability"), self.topic("availability", source)])
            ],
            "availability_mode": "all",
            "qos": 1,
        }

    def _key(self, label: str, source: str) -> str:
        return f"label_{self.label_slug(label, source)}"

    def _binary_sensor(self, label: str, source: str) -> dict[str, Any]:
        topic = self.state_topic(label, source)
        return self._entity("binary_sensor", self._key(label, source), label, topic, source) | {
            "device_class": "sound",
            "payload_on": ON,
            "payload_off": OFF,
        }

    def _others(self, source: str) -> dict[str, dict[str, Any]]:
        event, status = self.topic("event", source), self.topic("status", source)
        last = {"value_template": "{{ value_json.label }}", "json_attributes_topic": event, "icon": "mdi:ear-hearing"}
        level = {
            "value_template": "{{ value_json.level_dbfs }}",
            "unit_of_measurement": "dBFS",
            "state_class": "measurement",
            "icon": "mdi:volume-high",
        }
        return {
            "last_event": self._entity("sensor", "last_event", "Last event", event, source) | last,
            "level": self._entity("sensor", "level", "Level", status, source) | level,
            "health": self._health(source),
            "lost_samples": self._counter("lost_samples", "Lost samples", source),
            "overflows": self._counter("overflows", "Overflows", source),
        }

    def _health(self, source: str) -> dict[str, Any]:
        """Also there while nothing is heard, to say why: news of it counts as much as availability, the latest wins."""
        topic = self.topic("health", source)
        return self._entity("sensor", "health", "Health", topic, source) | {
            "value_template": "{{ value_json.state }}",
            "json_attributes_topic": topic,
            "availability": [
                _availability(self.topic("availability")),
                _availability(topic) | {"value_template": f"{{{{ '{ONLINE}' }}}}"},
            ],
            "availability_mode": "latest",
            "entity_category": "diagnostic",
            "icon": "mdi:heart-pulse",
        }

    def _counter(self, field: str, name: str, source: str) -> dict[str, Any]:
        return self._entity("sensor", field, name, self.topic("status", source), source) | {
            "value_template": f"{{{{ value_json.{field} }}}}",
            "state_class": "total_increasing",
            "entity_category": "diagnostic",
        }

    def _entity(self, platform: str, key: str, name: str, state_topic: str, source: str) -> dict[str, Any]:
        return {"p": platform, "unique_id": f"{self._id(source)}_{key}", "name": name, "state_topic": state_topic}


def _availability(topic: str) -> dict[str, str]:
    return {"topic": topic, "payload_available": ONLINE, "payload_not_available": OFFLINE}
