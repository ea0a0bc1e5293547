"""Home Assistant: the topics of MQTT, and a description of them from which it makes its entities by itself.

https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import edge
from edge.records import Record
from edge.sinks.mqtt import OFF, OFFLINE, ON, ONLINE, Message, Mqtt, MqttConfig, slug

if TYPE_CHECKING:
    from paho.mqtt import client as paho

URL = "https://github.com/edge-listen/edge-listen"


@dataclass(frozen=True)
class HomeAssistantConfig(MqttConfig):
    """Those of MQTT, and what Home Assistant is told of this device."""

    discovery_prefix: str = "homeassistant"  # as Home Assistant is configured
    device_name: str = ""  # empty: edge-listen and the node


class HomeAssistant(Mqtt):
    """See :class:`HomeAssistantConfig`; all that :class:`Mqtt` does, and discovery."""

    def __init__(self, config: HomeAssistantConfig) -> None:
        super().__init__(config)
        self._discovery_prefix, self._device_name = config.discovery_prefix, config.device_name
        self._model = ""
        self._labels: tuple[str, ...] = ()
        self._birth = f"{config.discovery_prefix}/status"
        self._client.message_callback_add(self._birth, self._on_birth)

    def messages(self, record: Record) -> Iterator[Message]:
        """Those of MQTT; before them the discovery, where ``record`` brings labels that it did not have."""
        if record["type"] == "start":
            self._model = f"{record['model']} {record['precision']}"
            self._labels = tuple(self.config.labels or record["labels"])
            yield self.discovery()
        elif record["type"] == "event" and not self.config.labels and record["label"] not in self._labels:
            self._labels += (record["label"],)  # an alias, or a group of classes
            yield self.discovery()
        yield from super().messages(record)

    def discovery(self) -> Message:
        """The device and its entities."""
        return Message(
            f"{self._discovery_prefix}/device/{self._id}/config", json.dumps(self._payload(), ensure_ascii=False), True
        )

    def on_connected(self) -> None:
        """Listen for Home Assistant's starting; it may have to be told again."""
        self._client.subscribe(self._birth, qos=1)

    @property
    def _id(self) -> str:
        return f"{slug(self.config.prefix)}_{self.node}"

    def _on_birth(self, client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        if message.payload == ONLINE.encode():
            self.republish(list(self._retained.values()))  # the discovery is the first of them

    def _payload(self) -> dict[str, Any]:
        return {
            "dev": {
                "ids": [self._id],
                "name": self._device_name or f"edge-listen {self.node}",
                "mf": "edge-listen",
                "mdl": self._model,
                "sw": edge.__version__,
            },
            "o": {"name": "edge-listen", "sw": edge.__version__, "url": URL},
            "cmps": {
                **{f"label_{slug(label)}": self._binary_sensor(label) for label in self._labels},
                **self._others(),
            },
            "availability_topic": self.topic("availability"),
            "payload_available": ONLINE,
            "payload_not_available": OFFLINE,
            "qos": 1,
        }

    def _binary_sensor(self, label: str) -> dict[str, Any]:
        return self._entity("binary_sensor", f"label_{slug(label)}", label, self.state_topic(label)) | {
            "device_class": "sound",
            "payload_on": ON,
            "payload_off": OFF,
        }

    def _others(self) -> dict[str, dict[str, Any]]:
        event, status = self.topic("event"), self.topic("status")
        last = {"value_template": "{{ value_json.label }}", "json_attributes_topic": event, "icon": "mdi:ear-hearing"}
        level = {
            "value_template": "{{ value_json.level_dbfs }}",
            "unit_of_measurement": "dBFS",
            "state_class": "measurement",
            "icon": "mdi:volume-high",
        }
        return {
            "last_event": self._entity("sensor", "last_event", "Last event", event) | last,
            "level": self._entity("sensor", "level", "Level", status) | level,
            "lost_samples": self._counter("lost_samples", "Lost samples"),
            "overflows": self._counter("overflows", "Overflows"),
        }

    def _counter(self, field: str, name: str) -> dict[str, Any]:
        return self._entity("sensor", field, name, self.topic("status")) | {
            "value_template": f"{{{{ value_json.{field} }}}}",
            "state_class": "total_increasing",
            "entity_category": "diagnostic",
        }

    def _entity(self, platform: str, key: str, name: str, state_topic: str) -> dict[str, Any]:
        return {"p": platform, "unique_id": f"{self._id}_{key}", "name": name, "state_topic": state_topic}
