"""Home Assistant's discovery, as it understands it: keys, templates, and the messages that a real broker passes on."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from brokers import Mosquitto, Subscriber, running_mosquitto, until
from emotion_events import INFO, emotion_event
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from streamer.mqtt.address import Address
from streamer.mqtt.home_assistant import STATUS, discovery
from streamer.mqtt.publisher import Publisher
from streamer.mqtt.topics import Topics
from streamer.settings import Mqtt

CONFIG = "homeassistant/device/telme_robot/config"
TWO = INFO.model_copy(update={"streams": ("main", "door")})

# As documented on https://www.home-assistant.io/integrations/mqtt/ (2026.11), of all abbreviations those in use here.
ROOT = {"dev": "device", "o": "origin", "cmps": "components", "qos": "qos"}
DEVICE = {"ids": "identifiers", "name": "name", "mf": "manufacturer", "mdl": "model", "sw": "sw_version"}
ORIGIN = {"name": "name", "sw": "sw_version"}
AVAILABILITY = {"t": "topic", "val_tpl": "value_template"}
ENTITY = {
    "avty": "availability",
    "ent_cat": "entity_category",
    "ic": "icon",
    "json_attr_t": "json_attributes_topic",
    "json_attr_tpl": "json_attributes_template",
    "name": "name",
    "p": "platform",
    "stat_t": "state_topic",
    "uniq_id": "unique_id",
    "val_tpl": "value_template",
}
PLATFORM = {
    "binary_sensor": {"dev_cla": "device_class"},
    "event": {"evt_typ": "event_types"},
    "sensor": {
        "dev_cla": "device_class",
        "ops": "options",
        "stat_cla": "state_class",
        "sug_dsp_prc": "suggested_display_precision",
        "unit_of_meas": "unit_of_measurement",
    },
}

Entity = dict[str, Any]


def expanded(part: Entity, abbreviations: dict[str, str]) -> Entity:
    """`part` with its keys in full; KeyError where one is not known."""
    return {abbreviations[key]: value for key, value in part.items()}


def entities(payload: str) -> dict[str, Entity]:
    """Every component with its keys in full."""
    config = expanded(json.loads(payload), ROOT)
    return {key: expanded(part, ENTITY | PLATFORM[part["p"]]) for key, part in config["components"].items()}


def rendered(template: str, message: str) -> str:
    """What Home Assistant makes of a message: its templates are Jinja's, with these two variables."""
    try:
        value_json = json.loads(message)
    except ValueError:
        value_json = None
    return ImmutableSandboxedEnvironment().from_string(template).render(value=message, value_json=value_json)


def test_every_key_is_a_documented_one_and_what_is_mandatory_is_there() -> None:
    config = expanded(json.loads(discovery("homeassistant", "robot", TWO).payload), ROOT)
    device, origin = expanded(config["device"], DEVICE), expanded(config["origin"], ORIGIN)
    assert device["identifiers"] == ["telme/robot"]
    assert (origin["name"], origin["sw_version"]) == ("telme-live", INFO.version)
    for entity in entities(json.dumps({"cmps": config["components"]})).values():
        assert {"platform", "unique_id", "state_topic", "value_template"} <= set(entity)
        for source in entity.get("availability", []):
            expanded(source, AVAILABILITY)
        if entity["platform"] == "event":
            assert set(entity["event_types"]) == set(INFO.labels)
        # Options belong to the device class `enum`, which has neither unit nor state class.
        assert ("options" in entity) == (entity.get("device_class") == "enum")
        assert "options" not in entity or not {"state_class", "unit_of_measurement"} & set(entity)


def test_each_stream_has_its_entities_and_each_entity_an_identity_of_its_own() -> None:
    found = entities(discovery("homeassistant", "robot", TWO).payload)
    kinds = ("emotion", "valence", "arousal", "confidence", "utterance")
    assert set(found) == {"availability", *(f"{stream}_{kind}" for stream in ("main", "door") for kind in kinds)}
    assert len({entity["unique_id"] for entity in found.values()}) == len(found)
    assert {entity["name"] for entity in found.values()} >= {"Availability", "Main emotion", "Door emotion"}
    single = entities(discovery("homeassistant", "robot", INFO).payload)
    assert single["main_emotion"]["name"] == "Emotion"
    assert single["main_emotion"]["unique_id"] == found["main_emotion"]["unique_id"]


def test_templates_take_from_an_event_what_the_entity_shows() -> None:
    event = emotion_event(1)
    found = entities(discovery("homeassistant", "robot", INFO).payload)

    def shown(key: str, message: str = event.to_json(), template: str = "value_template") -> str:
        return rendered(found[key][template], message)

    assert shown("main_emotion") == "joy"
    assert shown("main_emotion") in found["main_emotion"]["options"]
    assert [float(shown(f"main_{key}")) for key in ("valence", "arousal", "confidence")] == [0.5, -0.25, 75.0]
    details = json.loads(shown("main_emotion", template="json_attributes_template"))
    assert details == {"speaker": "person", "ended_at": "2026-01-01T00:00:03Z", "scores": event.scores}
    occurrence = json.loads(shown("main_utterance"))
    assert (occurrence["event_type"], occurrence["event_id"]) == ("joy", "event-1")
    assert "Grüße" not in json.dumps([details, occurrence], ensure_ascii=False)


@pytest.mark.parametrize("word", ["online", "stopped", "offline"])
def test_a_node_that_stopped_is_as_absent_as_one_that_is_offline(word: str) -> None:
    found = entities(discovery("homeassistant", "robot", INFO).payload)
    (source,) = found["main_emotion"]["availability"]
    assert rendered(source["val_tpl"], word) == ("online" if word == "online" else "offline")
    assert rendered(found["availability"]["value_template"], word) == ("ON" if word == "online" else "OFF")
    assert "availability" not in found["availability"], "it could never say that nobody is there"


names = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,8}\Z")


@given(st.lists(names | st.sampled_from(["a.b", "a_b", "a-b", "a_-b", "a__b"]), min_size=2, max_size=4, unique=True))
def test_every_node_has_a_topic_of_its_own_that_home_assistant_accepts(nodes: list[str]) -> None:
    topics = [discovery("homeassistant", node, INFO).topic for node in nodes]
    assert all(re.fullmatch(r"homeassistant/device/[a-zA-Z0-9_-]+/config", topic) for topic in topics)
    assert len(set(topics)) == len(topics)


@given(st.lists(names, min_size=2, max_size=3, unique=True))
def test_no_two_streams_of_any_nodes_share_an_identity(streams: list[str]) -> None:
    info = INFO.model_copy(update={"streams": tuple(streams)})
    by_node = [entities(discovery("homeassistant", node, info).payload) for node in ("a", "a_b", "a.b")]
    assert all(len(found) == 1 + 5 * len(streams) for found in by_node)
    for one, other in combinations(by_node, 2):
        assert not {part["unique_id"] for part in one.values()} & {part["unique_id"] for part in other.values()}


# Over a real broker.


@asynccontextmanager
async def online(broker: Mosquitto, home_assistant: str | bool = True) -> AsyncIterator[Publisher]:
    settings = Mqtt.model_validate({"connect_timeout_s": 2, "home_assistant": home_assistant})
    async with Publisher(settings, Address.parse(broker.url), "robot") as publisher:
        await publisher.first_connection()
        publisher.ready(TWO)
        yield publisher


async def test_the_node_is_introduced_before_it_says_online_and_every_topic_named_is_there(
    mosquitto: Mosquitto,
) -> None:
    with Subscriber(mosquitto.port, "telme/#", "homeassistant/#") as live:
        async with online(mosquitto) as publisher:
            for stream in TWO.streams:
                publisher.publish(emotion_event(1, stream=stream))
                await live.wait_for(f"/{stream}/arousal")
            # Who starts later, as Home Assistant itself does.
            with Subscriber(mosquitto.port, CONFIG) as late:
                (config,) = await late.wait_for("/config")
    heard = [message.topic for message in live.heard]
    assert heard.index(CONFIG) < heard.index("telme/robot/availability")
    assert config.retain
    for entity in entities(config.payload).values():
        messages = live.on(entity["state_topic"])
        assert rendered(entity["value_template"], messages[-1].payload)
        assert {source["t"] for source in entity.get("availability", [])} <= set(heard)


async def test_it_is_introduced_again_when_home_assistant_starts(mosquitto: Mosquitto) -> None:
    with Subscriber(mosquitto.port, "homeassistant/device/#", "telme/robot/availability") as subscriber:
        async with online(mosquitto) as publisher:
            await subscriber.wait_for("/availability")
            subscriber.publish(STATUS, "offline")
            subscriber.publish(STATUS, "online")
            first, second = await subscriber.wait_for("/config", 2)
            assert publisher.status().rejected == 0
    assert (first.topic, first.payload) == (second.topic, second.payload)
    assert len(subscriber.on("/config")) == 2


async def test_it_is_introduced_again_to_a_broker_that_forgot(tmp_path: Path) -> None:
    with running_mosquitto(tmp_path / "broker", "allow_anonymous true", "persistence false") as broker:
        async with online(broker):
            with Subscriber(broker.port, "homeassistant/#") as subscriber:
                await subscriber.wait_for("/config")
            broker.kill()
            broker.start()
            with Subscriber(broker.port, "homeassistant/#") as subscriber:
                await subscriber.wait_for("/config")


async def test_under_another_prefix_and_gone_after_an_empty_message(mosquitto: Mosquitto) -> None:
    async with online(mosquitto, home_assistant="ha/discovery"):
        with Subscriber(mosquitto.port, "ha/#") as subscriber:
            (config,) = await subscriber.wait_for("/config")
            subscriber.publish(config.topic, b"", retain=True)
    assert config.topic == "ha/discovery/device/telme_robot/config"
    with Subscriber(mosquitto.port, "ha/#", Topics("robot").availability) as late:
        await late.wait_for("/availability")
    assert late.on("/config") == []


async def test_home_assistant_is_left_alone_unless_it_is_asked_for(mosquitto: Mosquitto) -> None:
    with Subscriber(mosquitto.port, "homeassistant/device/#", "telme/robot/availability") as subscriber:
        async with online(mosquitto, home_assistant=False) as publisher:
            await subscriber.wait_for("/availability")
            subscriber.publish(STATUS, "online")
            publisher.publish(emotion_event(1))
            await until(lambda: publisher.status().published == 1)
    assert subscriber.on("/config") == []


@pytest.mark.parametrize(
    ("given", "prefix"), [(True, "homeassistant"), ("true", "homeassistant"), (False, None), ("false", None)]
)
def test_true_is_home_assistants_own_prefix(given: object, prefix: str | None) -> None:
    assert Mqtt.model_validate({"home_assistant": given}).home_assistant == prefix


@pytest.mark.parametrize("given", ["", "a//b", "home#", "+", "$SYS", "home assistant", "/homeassistant"])
def test_what_is_no_prefix_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="home_assistant"):
        Mqtt.model_validate({"home_assistant": given})
