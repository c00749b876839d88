"""The examples, run as their readers would: against a real broker, with real events, a real socket to listen on."""

import asyncio
import itertools
import json
import math
import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import ros4hri
import vmc
import yaml
from brokers import PATIENCE_S, Mosquitto, Subscriber, program
from emotion_events import INFO, emotion_event, emotion_events
from hypothesis import given
from hypothesis import strategies as st
from npm_packages import npm_package
from pythonosc.osc_packet import OscPacket
from pythonosc.udp_client import UDPClient
from streams import ACTED, expected, run

from streamer.events import EmotionEvent
from streamer.mqtt.address import Address
from streamer.mqtt.publisher import Publisher
from streamer.mqtt.topics import Topics
from streamer.settings import Mqtt, StreamSettings
from telme.labels import IEMOCAP, MELD

EXAMPLES = Path(__file__).parents[1] / "examples"


class Started:
    """An example that runs; what it prints is read line by line."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def lines(self, count: int) -> list[str]:
        """The next `count` lines."""
        assert self._process.stdout is not None
        return [self._process.stdout.readline().rstrip("\n") for _ in range(count)]

    def silent_for(self, seconds: float) -> bool:
        return select.select([self._process.stdout], [], [], seconds)[0] == []


@contextmanager
def started(*command: str | Path) -> Iterator[Started]:
    process = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={**os.environ, "NODE_PATH": str(npm_package("mqtt").parent)},
    )
    try:
        yield Started(process)
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE_S)


def command(language: str, broker: Mosquitto) -> list[str | Path]:
    if language == "python":
        return [sys.executable, EXAMPLES / "subscriber.py", "127.0.0.1", str(broker.port)]
    return [program("node"), EXAMPLES / "subscriber.js", broker.url]


def line(event: EmotionEvent) -> str:
    text = event.transcript.text if event.transcript is not None else "…"
    return f"{event.speaker}: {text} [{event.emotion} {event.confidence:.0%}]"


languages = pytest.mark.parametrize("language", ["python", "javascript"])


@languages
async def test_a_subscriber_prints_finals_once_and_who_is_there(mosquitto: Mosquitto, language: str) -> None:
    silent = emotion_event(3).model_copy(update={"transcript": None})
    with Subscriber(mosquitto.port) as other:
        async with Publisher(Mqtt(connect_timeout_s=2), Address.parse(mosquitto.url), "robot") as publisher:
            await publisher.first_connection()
            publisher.ready(INFO)
            await other.wait_for("/availability")
            with started(*command(language, mosquitto)) as example:
                assert await asyncio.to_thread(example.lines, 1) == ["robot is online"]
                publisher.publish(emotion_event(1, phase="provisional"))
                publisher.publish(emotion_event(1))
                await other.wait_for("/main/utterance", 1)
                other.publish("telme/robot/main/utterance", emotion_event(1).to_json())
                publisher.publish(silent)
                assert await asyncio.to_thread(example.lines, 2) == [line(emotion_event(1)), line(silent)]
            # While it is away.
            publisher.publish(emotion_event(4))
            await other.wait_for("/main/utterance", 4)
            with started(*command(language, mosquitto)) as example:
                heard = await asyncio.to_thread(example.lines, 2)
                if line(silent) in heard:  # it was killed before its thanks for the last one were out
                    heard += await asyncio.to_thread(example.lines, 1)
                assert set(heard) - {line(silent)} == {"robot is online", line(emotion_event(4))}
                assert example.silent_for(0.3)


@pytest.mark.slow
def test_both_subscribers_print_what_the_program_hears(mosquitto: Mosquitto) -> None:
    with started(*command("python", mosquitto)) as python, started(*command("javascript", mosquitto)) as javascript:
        ended = run("--media", ACTED, "--fast", "--mqtt", mosquitto.url, "--node", "desk", asr="none")
        assert ended.code == 0, ended.log
        events = [EmotionEvent.model_validate(event) for event in ended.events]
        assert len(events) == len(expected(ACTED))
        printed = python.lines(len(events) + 2)
        assert printed == ["desk is online", *map(line, events), "desk is stopped"]
        assert [re.sub(r"\d+%", "", text) for text in javascript.lines(len(printed))] == [
            re.sub(r"\d+%", "", text) for text in printed
        ], "JavaScript rounds half a percent the other way"


def test_the_bridge_to_ros_2_names_topics_that_exist_and_types_that_their_payloads_fit() -> None:
    text = (EXAMPLES / "ros2" / "mqtt_client.yaml").read_text()
    assert not any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)), "ROS 2 reads no aliases"
    incoming = yaml.safe_load(text)["/**/*"]["ros__parameters"]["bridge"]["mqtt2ros"]
    settings = StreamSettings()
    topics, stream = Topics(settings.node), settings.stream
    string, number = "std_msgs/msg/String", "std_msgs/msg/Float32"
    types = {
        topics.label(stream): string,
        topics.confidence(stream): number,
        topics.valence(stream): number,
        topics.arousal(stream): number,
        topics.state(stream): string,
        topics.availability: string,
    }
    assert set(incoming["mqtt_topics"]) == set(types)
    assert {topic: part["ros_type"] for topic, part in incoming.items() if topic != "mqtt_topics"} == types
    assert len({incoming[topic]["ros_topic"] for topic in types}) == len(types)


# ROS4HRI.

# hri_msgs/msg/Expression.msg of hri_msgs 2.3.
ROS4HRI = set(
    re.findall(
        r"\w+",
        """neutral angry sad happy surprised disgusted scared pleading vulnerable despaired guilty disappointed
        embarrassed horrified skeptical annoyed furious suspicious rejected bored tired asleep confused amazed
        excited""",
    )
)


def test_every_label_has_an_expression_of_ros4hri() -> None:
    assert set(ros4hri.EXPRESSIONS) == {*MELD, *IEMOCAP}
    assert set(ros4hri.EXPRESSIONS.values()) <= ROS4HRI
    assert len({ros4hri.EXPRESSIONS[label] for label in MELD}) == len(MELD)


@given(emotion_events)
def test_any_event_becomes_an_expression_within_its_ranges(event: EmotionEvent) -> None:
    shown = ros4hri.expression(json.loads(event.to_json()))
    assert shown.expression in ROS4HRI
    assert (shown.valence, shown.arousal, shown.confidence) == (event.valence, event.arousal, event.confidence)
    seconds, nanoseconds = shown.stamp
    assert 0 <= nanoseconds < 10**9
    assert datetime.fromtimestamp(seconds, UTC).replace(microsecond=nanoseconds // 1000) == event.ended_at


@pytest.mark.parametrize(
    ("speaker", "face"), [("person", "person"), ("nao-2", "nao_2"), ("7.b", "face_7_b"), ("é", "face__")]
)
def test_a_topic_is_a_name_that_ros_accepts(speaker: str, face: str) -> None:
    assert ros4hri.topic({"speaker": speaker}) == f"/humans/faces/{face}/expression"


# VMC.


@pytest.mark.parametrize(
    ("shapes", "names"),
    [
        (vmc.VRM_0, {"Joy", "Angry", "Sorrow", "Neutral", "Surprised"}),
        (vmc.VRM_1, {"happy", "angry", "sad", "neutral", "surprised"}),
    ],
)
def test_every_label_of_meld_moves_shapes_that_avatars_have(shapes: dict[str, vmc.Weights], names: set[str]) -> None:
    assert set(shapes) == set(MELD)
    assert {name for mixture in shapes.values() for name in mixture} == names


@given(st.fixed_dictionaries(dict.fromkeys(MELD, st.floats(0, 1))))
def test_weights_are_weights(raw: dict[str, float]) -> None:
    total = sum(raw.values()) or 1.0
    weights = vmc.blend({label: value / total for label, value in raw.items()}, vmc.VRM_0)
    assert all(0 <= weight <= 1 + 1e-9 for weight in weights.values())


JOY = {"scores": {"joy": 0.9, "neutral": 0.1}}


def course(frame_s: float, seconds: float) -> list[vmc.Weights]:
    """The face while joy is seen at its beginning, frame by frame."""
    face = vmc.Face(vmc.VRM_0)
    face.see(JOY, 0.0)
    return [face.weights(number * frame_s) for number in range(round(seconds / frame_s) + 1)]


def test_the_face_moves_smoothly_holds_and_falls_back_to_neutral() -> None:
    frames = course(1 / vmc.FRAMES_HZ, 12.0)
    assert frames[0]["Joy"] == 0
    assert frames[round(vmc.HOLD_S * vmc.FRAMES_HZ) - 1]["Joy"] == pytest.approx(0.9, abs=0.01)
    steps = [abs(after["Joy"] - before["Joy"]) for before, after in itertools.pairwise(frames)]
    assert max(steps) < 0.25, "nothing jumps"
    falling = [frame["Joy"] for frame in frames[round(vmc.HOLD_S * vmc.FRAMES_HZ) :]]
    assert falling == sorted(falling, reverse=True)
    assert frames[-1]["Neutral"] == pytest.approx(1, abs=0.01)
    assert frames[-1]["Joy"] == pytest.approx(0, abs=0.01)


@given(st.sampled_from([10, 24, 60, 144]))
def test_the_face_moves_alike_at_any_frame_rate(rate_hz: int) -> None:
    assert course(1 / rate_hz, 1.0)[-1]["Joy"] == pytest.approx(course(1 / 30, 1.0)[-1]["Joy"], abs=1e-9)


def received(listener: socket.socket) -> dict[str, float]:
    """The weights of one packet, which ends with the word to apply them."""
    messages = [timed.message for timed in OscPacket(listener.recv(65_536)).messages]
    assert messages[-1].address == "/VMC/Ext/Blend/Apply"
    assert messages[-1].params == []
    assert {message.address for message in messages[:-1]} == {"/VMC/Ext/Blend/Val"}
    return dict(message.params for message in messages[:-1])


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(PATIENCE_S)
        yield listener


def test_one_packet_holds_a_whole_face() -> None:
    with listening() as listener, UDPClient("127.0.0.1", listener.getsockname()[1]) as client:
        vmc.send({"Joy": 0.25, "Neutral": 1.0}, client)
        assert received(listener) == {"Joy": 0.25, "Neutral": 1.0}


def test_an_event_from_the_broker_moves_the_face(mosquitto: Mosquitto) -> None:
    with listening() as listener, Subscriber(mosquitto.port) as speaking:
        avatar = f"127.0.0.1:{listener.getsockname()[1]}"
        broker = f"127.0.0.1:{mosquitto.port}"
        with started(sys.executable, EXAMPLES / "vmc.py", "--mqtt", broker, "--vmc", avatar, "--vrm", "1"):
            first = received(listener)
            assert (first["neutral"], first["happy"]) == (1, 0)
            joy = {"scores": {"joy": 1.0}}
            deadline = time.monotonic() + PATIENCE_S
            while (face := received(listener))["happy"] < 0.9:
                # Again and again: it may not have subscribed yet.
                speaking.publish("telme/robot/main/provisional", json.dumps(joy))
                assert time.monotonic() < deadline, face
            assert math.isclose(face["neutral"] + face["happy"], 1, abs_tol=1e-5)
