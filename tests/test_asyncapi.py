"""The AsyncAPI document: valid by the official schema, and true of what a broker passes on."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from brokers import Heard, Mosquitto, Subscriber
from emotion_events import INFO, emotion_event
from jsonschema import Draft7Validator, Draft202012Validator, FormatChecker
from npm_packages import npm_package

from streamer.cli import main
from streamer.mqtt.address import Address
from streamer.mqtt.publisher import Publisher
from streamer.settings import Mqtt

DOCS = Path(__file__).parents[1] / "docs"
TEXT = (DOCS / "asyncapi.yaml").read_text(encoding="utf-8")
DOCUMENT = yaml.safe_load(TEXT)

Tree = dict[str, Any]


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def target(reference: str) -> Any:
    part: Any = DOCUMENT
    for step in reference.removeprefix("#/").split("/"):
        part = part[step]
    return part


def channel_of(topic: str) -> str:
    """The one channel whose address fits a topic."""
    (name,) = [
        name
        for name, channel in DOCUMENT["channels"].items()
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", channel["address"]), topic)
    ]
    return str(name)


def validator(message: Tree) -> Draft202012Validator:
    """Of a message's payload, with the document's schemas in reach."""
    schema = {"components": DOCUMENT["components"], **message["payload"]}
    return Draft202012Validator(schema, format_checker=FormatChecker())


def test_the_document_is_what_the_program_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--print-asyncapi"]) == 0
    how = "write it again with: telme-stream --print-asyncapi > docs/asyncapi.yaml"
    assert capsys.readouterr().out == TEXT, how


def test_it_is_valid_by_the_official_schema() -> None:
    file = npm_package("@asyncapi/specs") / "schemas" / "3.0.0-without-$id.json"
    official = Draft7Validator(json.loads(file.read_text(encoding="utf-8")), format_checker=FormatChecker())
    assert [error.message for error in official.iter_errors(DOCUMENT)] == []
    assert not official.is_valid({**DOCUMENT, "channels": {"wrong": {"adress": "telme"}}})


def test_every_reference_leads_somewhere_and_nothing_is_defined_in_vain() -> None:
    used = set(references(DOCUMENT))
    for reference in used:
        target(reference)
    defined = {f"#/components/{kind}/{name}" for kind, parts in DOCUMENT["components"].items() for name in parts}
    assert defined <= used


def test_schemas_use_only_what_asyncapi_knows() -> None:
    """Its schema objects are those of JSON Schema draft 7; ours are written for 2020-12."""
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft7Validator.check_schema(schema)
        assert not {"$defs", "prefixItems", "unevaluatedProperties", "dependentRequired"} & set(schema)


def test_the_topics_of_the_documentation_are_its_topics() -> None:
    table = (DOCS / "events.md").read_text(encoding="utf-8").split("## Topics")[1].split("\n## ")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `telme/")]
    documented = set()
    for row in rows:
        first, *others = re.findall(r"`([^`]+)`", row)
        documented |= {first, *(f"{first.rpartition('/')[0]}/{other.removeprefix('…/')}" for other in others)}
    addresses = {re.sub(r"\{(\w+)\}", r"<\1>", channel["address"]) for channel in DOCUMENT["channels"].values()}
    assert documented == addresses


async def test_every_message_that_a_broker_passes_on_is_as_the_document_says(mosquitto: Mosquitto) -> None:
    with Subscriber(mosquitto.port) as live:
        settings = Mqtt(connect_timeout_s=2)
        async with Publisher(settings, Address.parse(mosquitto.url), "robot") as publisher:
            await publisher.first_connection()
            publisher.ready(INFO)
            publisher.publish(emotion_event(1, phase="provisional"))
            await live.wait_for("/provisional")
            publisher.publish(emotion_event(1))
            await live.wait_for("/arousal")
            live.publish("telme/robot/dialogue/add", '{"text": "How are you?"}')
            live.publish("telme/robot/request/none", "{}")
            await live.wait_for("/response/none")
            with Subscriber(mosquitto.port) as late:
                await late.wait_for("/state")
                await late.wait_for("/availability")
    operations = {
        operation["channel"]["$ref"].rpartition("/")[2]: operation for operation in DOCUMENT["operations"].values()
    }
    heard: dict[str, Heard] = {channel_of(message.topic): message for message in live.heard}
    assert set(heard) == set(DOCUMENT["channels"]), "each channel was heard"
    retained = {channel_of(message.topic) for message in late.heard if message.retain}
    for name, message in heard.items():
        described = DOCUMENT["components"]["messages"][name]
        plain_string = described["contentType"] == "text/plain" and described["payload"]["type"] == "string"
        validator(described).validate(message.payload if plain_string else json.loads(message.payload))
        operation = operations.get(name)
        if operation is not None and operation["action"] == "send":
            binding = operation["bindings"]["mqtt"]
            assert (message.qos, name in retained) == (binding["qos"], binding["retain"]), name
            assert message.properties.ContentType == described["contentType"]
            assert hasattr(message.properties, "MessageExpiryInterval") == ("mqtt.expiry_s" in described["summary"])


@pytest.mark.parametrize(
    ("channel", "payload"),
    [
        ("availability", '"away"'),
        ("valence", "1.5"),
        ("dialogueAdd", '{"text": ""}'),
        ("request", '{"volume": 1}'),
        ("utterance", "{}"),
    ],
)
def test_what_does_not_fit_is_refused(channel: str, payload: str) -> None:
    assert not validator(DOCUMENT["components"]["messages"][channel]).is_valid(json.loads(payload))
