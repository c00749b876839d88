"""The access rules of docs/hardening.md, in a real mosquitto: all that a node needs, and nothing for others."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from brokers import Mosquitto, Subscriber, program, running_mosquitto, until
from emotion_events import INFO, emotion_event

from streamer.mqtt.address import Address
from streamer.mqtt.publisher import Publisher
from streamer.mqtt.said import Said
from streamer.settings import Mqtt

DOCS = Path(__file__).parents[1] / "docs"
DOCUMENT = yaml.safe_load((DOCS / "asyncapi.yaml").read_text(encoding="utf-8"))
NAMES = {"node": "robot", "stream": "main", "verb": "status"}
TOPICS = {name: channel["address"].format(**NAMES) for name, channel in DOCUMENT["channels"].items()}
RECEIVED = {
    operation["channel"]["$ref"].rpartition("/")[2]
    for operation in DOCUMENT["operations"].values()
    if operation["action"] == "receive"
}
USERS = ("telme", "controller", "screen")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    (rules,) = re.findall(r"```\n(user .+?)```", (DOCS / "hardening.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "rules").write_text(rules)
    (tmp_path / "passwords").touch()
    for user in USERS:
        subprocess.run([program("mosquitto_passwd"), "-b", tmp_path / "passwords", user, "secret"], check=True)
    options = (f"password_file {tmp_path / 'passwords'}", f"acl_file {tmp_path / 'rules'}")
    with running_mosquitto(tmp_path / "broker", "allow_anonymous false", *options) as broker:
        yield broker


async def test_a_node_and_who_controls_it_may_all_that_they_need(broker: Mosquitto) -> None:
    said: list[Said] = []
    settings = Mqtt(connect_timeout_s=2, home_assistant="true")
    address = Address.parse(broker.url.replace("//", "//telme@"))
    with Subscriber(broker.port, user="controller") as controller:
        async with Publisher(settings, address, "robot", "secret") as publisher:
            publisher.on_said(said.append)
            await publisher.first_connection()
            publisher.ready(INFO)
            publisher.publish(emotion_event(1, phase="provisional"))
            await controller.wait_for("/provisional")
            publisher.publish(emotion_event(1))
            await controller.wait_for("/arousal")
            controller.publish(TOPICS["dialogueAdd"], '{"text": "How are you?"}')
            controller.publish(TOPICS["request"], "{}")
            await controller.wait_for("/response/status")
            await until(lambda: len(said) == 1)
            assert publisher.status().denied == 0
    assert {heard.topic for heard in controller.heard} == set(TOPICS.values())


async def test_nobody_else_may_speak_for_the_node_or_hear_what_is_not_theirs(broker: Mosquitto) -> None:
    """Everybody says their name on every topic, and listens to all."""
    with ExitStack() as connected:
        users = {user: connected.enter_context(Subscriber(broker.port, "telme/#", user=user)) for user in USERS}
        for name, user in users.items():
            for topic in TOPICS.values():
                user.publish(topic, name)
        users["telme"].publish(TOPICS["info"], "all is said")
        for user in users.values():
            await until(lambda user=user: any(message.payload == "all is said" for message in user.heard))

    def heard(user: str, speaker: str) -> set[str]:
        return {message.topic for message in users[user].heard if message.payload == speaker}

    commands = {TOPICS[name] for name in RECEIVED}
    plain = {TOPICS[name] for name in ("availability", "info", "label", "confidence", "valence", "arousal")}
    assert heard("controller", "telme") >= set(TOPICS.values()) - commands
    assert heard("controller", "controller") == commands
    assert heard("screen", "telme") == plain
    assert heard("telme", "controller") == commands
    assert not any(heard(user, "screen") for user in USERS)
    assert not heard("screen", "controller")
    assert heard("telme", "telme") - commands == {TOPICS["info"]}
