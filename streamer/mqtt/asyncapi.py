"""The AsyncAPI 3 document of a node: its topics, what is sent and received on them, and the payloads' schemas.

Written from the same topics and models that the program uses: https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import yaml
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from streamer.events import SCHEMA, EmotionEvent
from streamer.mqtt.info import Info
from streamer.mqtt.message import JSON, TEXT
from streamer.mqtt.requests import RequestBody, Response
from streamer.mqtt.said import Said
from streamer.mqtt.topics import Topics

Tree = dict[str, Any]

_BINDING_VERSION = "0.2.0"
_COORDINATE = {"type": "number", "minimum": -1, "maximum": 1}
_PARAMETERS = {
    "node": {"description": "the machine's name, setting `node`", "default": "telme"},
    "stream": {"description": "the stream's name, setting `stream`", "default": "main"},
    "verb": {"description": "what is asked for", "examples": ["status"]},
}


@dataclass(frozen=True)
class _Channel:
    """A topic and the one message on it.

    payload: the model of a JSON message, or the schema of what a text/plain message says.
    expires: brokers that speak MQTT 5 forget the message after a while (setting `mqtt.expiry_s`).
    """

    name: str
    address: str
    summary: str
    payload: type[BaseModel] | Tree
    action: Literal["send", "receive"] = "send"
    qos: Literal[0, 1] = 1
    retain: bool = False
    expires: bool = False
    reply: str | None = None

    @property
    def content_type(self) -> str:
        return TEXT if isinstance(self.payload, dict) else JSON

    @property
    def mode(self) -> JsonSchemaMode:
        """Every field of what we send is there; of what we receive, some may be left out."""
        return "serialization" if self.action == "send" else "validation"


def _channels() -> tuple[_Channel, ...]:
    topics, stream = Topics("{node}"), "{stream}"
    return (
        _Channel(
            "availability",
            topics.availability,
            "Whether somebody is there: stopped after a clean end, offline after any other (last will).",
            {"type": "string", "enum": ["online", "stopped", "offline"]},
            retain=True,
        ),
        _Channel("info", topics.info, "What runs here.", Info, retain=True),
        _Channel("utterance", topics.utterance(stream), "Every final event.", EmotionEvent, expires=True),
        _Channel(
            "provisional",
            topics.provisional(stream),
            "What can be said of an utterance before it is over.",
            EmotionEvent,
            qos=0,
            expires=True,
        ),
        _Channel("state", topics.state(stream), "The latest final event.", EmotionEvent, retain=True),
        _Channel("label", topics.label(stream), "The latest emotion.", {"type": "string"}, qos=0, expires=True),
        _Channel(
            "confidence",
            topics.confidence(stream),
            "Its calibrated probability.",
            {"type": "number", "minimum": 0, "maximum": 1},
            qos=0,
            expires=True,
        ),
        _Channel("valence", topics.valence(stream), "Unpleasant to pleasant.", _COORDINATE, qos=0, expires=True),
        _Channel("arousal", topics.arousal(stream), "Calm to excited.", _COORDINATE, qos=0, expires=True),
        _Channel("dialogueAdd", topics.dialogue_add, "What somebody said whom no source hears.", Said, "receive"),
        _Channel(
            "request",
            topics.request("{verb}"),
            "A request; an empty payload is an empty object.",
            RequestBody,
            "receive",
            reply="response",
        ),
        _Channel(
            "response",
            topics.response("{verb}"),
            "The answer to a request, unless that names an MQTT 5 response topic.",
            Response,
        ),
    )


def asyncapi() -> Tree:
    """The document as a tree."""
    channels = _channels()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "TelME Live",
            "version": SCHEMA.partition("/")[2],
            "description": "Emotion in conversation, utterance by utterance. Written by `telme-stream "
            "--print-asyncapi`; what the messages mean and what delivery guarantees stands in events.md.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": JSON,
        "servers": {"broker": {"host": "localhost:1883", "protocol": "mqtt", "protocolVersion": "5"}},
        "channels": {channel.name: _channel(channel) for channel in channels},
        "operations": dict(_operations(channels)),
        "components": {
            "parameters": _PARAMETERS,
            "messages": {channel.name: _message(channel) for channel in channels},
            "schemas": _schemas(channels),
        },
    }


def to_yaml() -> str:
    """The document as it stands in docs/asyncapi.yaml."""
    return yaml.dump(asyncapi(), Dumper=_WithoutAliases, sort_keys=False, allow_unicode=True, width=120)


class _WithoutAliases(yaml.SafeDumper):
    """YAML's aliases for what occurs twice are no JSON, which AsyncAPI's tools expect."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _channel(channel: _Channel) -> Tree:
    return {
        "address": channel.address,
        "messages": {channel.name: {"$ref": f"#/components/messages/{channel.name}"}},
        "parameters": {
            name: {"$ref": f"#/components/parameters/{name}"}
            for name in _PARAMETERS
            if f"{{{name}}}" in channel.address
        },
    }


def _operations(channels: tuple[_Channel, ...]) -> Iterator[tuple[str, Tree]]:
    """What the program does; subscribers do the opposite. The answer to a request belongs to the request's."""
    replies = {channel.reply for channel in channels}
    for channel in channels:
        if channel.name in replies:
            continue
        operation: Tree = {
            "action": channel.action,
            "channel": {"$ref": f"#/channels/{channel.name}"},
            "summary": channel.summary,
        }
        if channel.action == "send":
            binding = {"qos": channel.qos, "retain": channel.retain, "bindingVersion": _BINDING_VERSION}
            operation["bindings"] = {"mqtt": binding}
        if channel.reply is not None:
            operation["reply"] = {"channel": {"$ref": f"#/channels/{channel.reply}"}}
        yield f"{channel.action}{channel.name[0].upper()}{channel.name[1:]}", operation


def _message(channel: _Channel) -> Tree:
    return {
        "name": channel.name,
        "summary": channel.summary + (" Forgotten after `mqtt.expiry_s` seconds (MQTT 5)." if channel.expires else ""),
        "contentType": channel.content_type,
        "payload": _payload(channel.payload),
        "bindings": {"mqtt": {"payloadFormatIndicator": 1, "bindingVersion": _BINDING_VERSION}},
    }


def _payload(payload: type[BaseModel] | Tree) -> Tree:
    return payload if isinstance(payload, dict) else {"$ref": f"#/components/schemas/{payload.__name__}"}


def _schemas(channels: tuple[_Channel, ...]) -> Tree:
    models = [(channel.payload, channel.mode) for channel in channels if not isinstance(channel.payload, dict)]
    _, tree = models_json_schema(list(dict.fromkeys(models)), ref_template="#/components/schemas/{model}")
    return dict(tree["$defs"])
