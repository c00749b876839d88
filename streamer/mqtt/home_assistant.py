"""Home Assistant's MQTT discovery: one retained message describes a node as a device with its entities.

The form is Home Assistant's "device discovery payload", in its abbreviations:
https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload
"""

import json
from collections.abc import Iterator
from typing import Final

from pydantic import JsonValue

from streamer.mqtt.info import Info
from streamer.mqtt.message import Outgoing
from streamer.mqtt.topics import Topics

STATUS: Final = "homeassistant/status"
"""Where Home Assistant says `online` when it has started, whatever its discovery prefix is."""

Entity = dict[str, JsonValue]

# Home Assistant knows two words for availability, and a node that `stopped` is as absent as one that is `offline`.
_AVAILABLE = "{{ 'online' if value == 'online' else 'offline' }}"
_RUNNING = "{{ 'ON' if value == 'online' else 'OFF' }}"
# What was said stays out of Home Assistant's database.
_DETAILS = (
    "{{ {'speaker': value_json.speaker, 'ended_at': value_json.ended_at, 'scores': value_json.scores} | tojson }}"
)
_OCCURRENCE = (
    "{{ {'event_type': value_json.emotion, 'event_id': value_json.event_id, 'speaker': value_json.speaker, "
    "'confidence': value_json.confidence, 'valence': value_json.valence, 'arousal': value_json.arousal} | tojson }}"
)


def discovery(prefix: str, node: str, info: Info) -> Outgoing:
    """The message that makes Home Assistant show `node` and all its streams. An empty one removes them again.

    prefix: of Home Assistant's discovery topics, `homeassistant` unless changed there.
    """
    payload = {
        "dev": {
            "ids": [f"telme/{node}"],
            "name": f"TelME {node}",
            "mf": "TelME Live",
            "mdl": f"bundle {info.bundle.name}",
            "sw": info.version,
        },
        "o": {"name": info.software, "sw": info.version},
        "qos": 1,
        "cmps": dict(_entities(Topics(node), info)),
    }
    return Outgoing(f"{prefix}/device/{_object_id(node)}/config", json.dumps(payload), retain=True)


def _object_id(node: str) -> str:
    """Node names hold dots, which these topics must not; two names never become the same."""
    return "telme_" + node.replace("_", "__").replace(".", "_-")


def _entities(topics: Topics, info: Info) -> Iterator[tuple[str, Entity]]:
    """All entities of a node, each under a key that never changes."""
    yield (
        "availability",
        {
            "p": "binary_sensor",
            "uniq_id": topics.availability,
            "name": "Availability",
            "dev_cla": "running",
            "ent_cat": "diagnostic",
            "stat_t": topics.availability,
            "val_tpl": _RUNNING,
        },
    )
    for stream in info.streams:
        # With a single stream its name would only be noise before "Emotion".
        called = f"{stream} " if len(info.streams) > 1 else ""
        for key, entity in _entities_of_stream(topics, stream, info.labels):
            yield (
                f"{stream}_{key}",
                {
                    "uniq_id": f"{topics.root}/{stream}/{key}",
                    "name": f"{called}{key}".capitalize(),
                    "avty": [{"t": topics.availability, "val_tpl": _AVAILABLE}],
                    **entity,
                },
            )


def _entities_of_stream(topics: Topics, stream: str, labels: tuple[str, ...]) -> Iterator[tuple[str, Entity]]:
    state = topics.state(stream)
    number: Entity = {"p": "sensor", "stat_t": state, "stat_cla": "measurement"}
    yield (
        "emotion",
        {
            "p": "sensor",
            "stat_t": state,
            "val_tpl": "{{ value_json.emotion }}",
            "dev_cla": "enum",
            "ops": list(labels),
            "ic": "mdi:emoticon-outline",
            "json_attr_t": state,
            "json_attr_tpl": _DETAILS,
        },
    )
    yield "valence", {**number, "val_tpl": "{{ value_json.valence }}", "sug_dsp_prc": 2}
    yield "arousal", {**number, "val_tpl": "{{ value_json.arousal }}", "sug_dsp_prc": 2}
    yield (
        "confidence",
        {**number, "val_tpl": "{{ 100 * value_json.confidence }}", "unit_of_meas": "%", "sug_dsp_prc": 0},
    )
    # A state that stays the same triggers no automation; an event does every time.
    yield (
        "utterance",
        {
            "p": "event",
            "stat_t": topics.utterance(stream),
            "evt_typ": list(labels),
            "val_tpl": _OCCURRENCE,
            "ic": "mdi:account-voice",
        },
    )
