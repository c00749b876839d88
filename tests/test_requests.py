"""Requests over MQTT and their responses; what arrives on dialogue/add."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from brokers import Mosquitto, Subscriber, until
from emotion_events import INFO, emotion_event
from hypothesis import given
from hypothesis import strategies as st

from streamer.mqtt import requests
from streamer.mqtt.address import Address
from streamer.mqtt.message import Outgoing
from streamer.mqtt.publisher import Publisher
from streamer.mqtt.requests import MAX_BYTES, Request, RequestError, Responder
from streamer.mqtt.said import Said
from streamer.mqtt.topics import Topics
from streamer.settings import Mqtt


async def report(stream: str | None = None) -> Mapping[str, Any]:
    return {"paused": False, "nested": {"count": 3}}


async def pause(stream: str | None) -> Mapping[str, Any] | None:
    return None if stream is None else {"stream": stream}


async def refuse(stream: str | None) -> None:
    raise RequestError("there is nothing to reset")


async def break_down(stream: str | None) -> None:
    raise ZeroDivisionError("secret detail")


async def hang(stream: str | None) -> None:
    await asyncio.sleep(3600)


def responder() -> Responder:
    answering = Responder(Topics("robot"))
    for verb, handler in {
        "status": report,
        "pause": pause,
        "refuse": refuse,
        "break": break_down,
        "hang": hang,
    }.items():
        answering.register(verb, handler)
    return answering


async def ask(verb: str, payload: bytes, **properties: Any) -> tuple[Outgoing, dict[str, Any]]:
    response = await responder().answer(Request(verb, payload, **properties))
    return response, json.loads(response.payload)


async def test_a_request_is_met_and_its_transaction_repeated() -> None:
    message, response = await ask("status", b'{"transaction": "t-1"}')
    assert message.topic == "telme/robot/response/status"
    assert response == {"status": "ok", "data": await report(), "error": None, "transaction": "t-1"}


async def test_an_empty_payload_is_an_empty_request() -> None:
    assert (await ask("pause", b""))[1] == {"status": "ok", "data": None, "error": None, "transaction": None}


async def test_a_request_can_be_for_one_stream() -> None:
    assert (await ask("pause", b'{"stream": "hall"}'))[1]["data"] == {"stream": "hall"}


@pytest.mark.parametrize(
    ("verb", "payload", "says"),
    [
        ("dance", b'{"transaction": 1}', "no request is called 'dance'; known are: break, hang, pause"),
        ("status", b"not json", "not understood"),
        ("status", b'{"transaction": [1]}', "transaction"),
        ("status", b'{"volume": 1}', "volume"),
        ("status", b"[" * MAX_BYTES, "not understood"),
        ("status", b'"' + b"x" * MAX_BYTES + b'"', f"{MAX_BYTES + 2} bytes, more than {MAX_BYTES}"),
        ("status", b"\xff", "not understood"),
        ("refuse", b"{}", "there is nothing to reset"),
        ("break", b"{}", "break failed inside"),
    ],
)
async def test_what_is_wrong_is_answered(verb: str, payload: bytes, says: str) -> None:
    _, response = await ask(verb, payload)
    assert response["status"] == "error"
    assert says in response["error"]
    assert "secret detail" not in response["error"]


@pytest.mark.parametrize(
    ("payload", "transaction"),
    [
        (b'{"transaction": 7, "volume": 1}', 7),
        (b'{"transaction": "a", "stream": 3}', "a"),
        (b'{"transaction": true}', None),
        (b'{"transaction": 1.0}', None),
        (b'["transaction", 7]', None),
    ],
)
async def test_an_error_repeats_the_transaction_where_that_is_understood(
    payload: bytes, transaction: str | int | None
) -> None:
    _, response = await ask("status", payload)
    assert (response["status"], response["transaction"]) == ("error", transaction)


async def test_a_handler_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "_HANDLER_S", 0.05)
    assert "longer than 0.05 s" in (await ask("hang", b"{}"))[1]["error"]


@given(verb=st.text(), payload=st.binary(max_size=200) | st.text().map(lambda text: json.dumps(text).encode()))
def test_any_request_is_answered(verb: str, payload: bytes) -> None:
    message = asyncio.run(responder().answer(Request(verb, payload)))
    assert json.loads(message.payload)["status"] in {"ok", "error"}


@pytest.mark.parametrize(
    ("wanted", "used"),
    [
        ("dashboard/inbox", "dashboard/inbox"),
        ("telme/robot/response/mine", "telme/robot/response/mine"),
        ("telme/robot/availability", "telme/robot/response/status"),
        ("telme/robot/request/status", "telme/robot/response/status"),
        ("$SYS/x", "telme/robot/response/status"),
        ("a/#", "telme/robot/response/status"),
        ("", "telme/robot/response/status"),
    ],
)
async def test_the_answer_goes_where_it_is_wanted_unless_that_does_harm(wanted: str, used: str) -> None:
    message, _ = await ask("status", b"", response_topic=wanted, correlation=b"\x00\x01")
    assert (message.topic, message.correlation) == (used, b"\x00\x01")


# Over a real broker.


@asynccontextmanager
async def online(broker: Mosquitto) -> AsyncIterator[Publisher]:
    async with Publisher(Mqtt(connect_timeout_s=2), Address.parse(broker.url), "robot") as publisher:
        publisher.on_request("status", report)
        await publisher.first_connection()
        publisher.ready(INFO)
        yield publisher


async def test_requests_over_a_broker(mosquitto: Mosquitto) -> None:
    with Subscriber(mosquitto.port, "telme/robot/response/+", "telme/robot/availability", "inbox") as asking:
        async with online(mosquitto) as publisher:
            await asking.wait_for("/availability")
            asking.publish("telme/robot/request/status", b'{"transaction": 1}')
            (plain,) = await asking.wait_for("/response/status")
            asking.publish("telme/robot/request/status", b"", ResponseTopic="inbox", CorrelationData=b"abc")
            (directed,) = await asking.wait_for("inbox")
            asking.publish("telme/robot/request/status", b"x" * (MAX_BYTES + 1))
            (_, refused) = await asking.wait_for("/response/status", 2)
            publisher.publish(emotion_event(1))
            await until(lambda: publisher.status().published == 1)
            assert publisher.status().rejected == 1
    assert json.loads(plain.payload)["transaction"] == 1
    assert json.loads(directed.payload)["data"] == await report()
    assert directed.properties.CorrelationData == b"abc"
    assert json.loads(refused.payload)["status"] == "error"


async def test_retained_requests_are_old_and_not_met(mosquitto: Mosquitto) -> None:
    with Subscriber(mosquitto.port, "telme/robot/response/+") as asking:
        asking.publish("telme/robot/request/status", b"{}", retain=True)
        async with online(mosquitto) as publisher:
            await until(lambda: publisher.status().rejected == 1)
        assert asking.heard == []


async def test_what_the_robot_says_is_handed_over(mosquitto: Mosquitto) -> None:
    said: list[Said] = []

    def take(what: Said) -> None:
        if what.stream == "attic":
            raise RequestError("no stream is called 'attic'")
        said.append(what)

    topic = "telme/robot/dialogue/add"
    with Subscriber(mosquitto.port, "telme/robot/availability") as robot:
        async with online(mosquitto) as publisher:
            publisher.on_said(take)
            await robot.wait_for("/availability")
            robot.publish(topic, '{"text": " Guten Tag! "}')
            for wrong in ("no json", "{}", '{"text": "  "}', '{"text": "x", "speaker": "a b"}', "x" * (MAX_BYTES + 1)):
                robot.publish(topic, wrong)
            robot.publish(topic, '{"text": "Is anybody here?", "stream": "attic"}')
            robot.publish(topic, '{"text": "Wie geht es?", "speaker": "nao-2", "stream": "hall"}')
            await until(lambda: len(said) == 2)
            assert publisher.status().rejected == 6
    assert said == [Said(text="Guten Tag!"), Said(text="Wie geht es?", speaker="nao-2", stream="hall")]


async def test_a_burst_is_met_or_counted(mosquitto: Mosquitto) -> None:
    """300 requests at once, of which the first takes its time: 64 wait, and as many responses would."""
    go_on = asyncio.Event()
    said: list[Said] = []

    async def wait(stream: str | None) -> None:
        await go_on.wait()

    with Subscriber(mosquitto.port, "telme/robot/response/+", "telme/robot/availability") as asking:
        async with online(mosquitto) as publisher:
            publisher.on_request("wait", wait)
            publisher.on_said(said.append)
            await asking.wait_for("/availability")
            for number in range(300):
                asking.send("telme/robot/request/wait", json.dumps({"transaction": number}))
                asking.send("telme/robot/dialogue/add", json.dumps({"text": f"{number}."}))
            await until(lambda: len(said) == 300)
            await until(lambda: publisher.status().rejected == 300 - 65, lambda: str(publisher.status()))
            go_on.set()
            answers = await asking.wait_for("/response/wait", 65)
    assert [turn.text for turn in said] == [f"{number}." for number in range(300)]
    assert [json.loads(answer.payload)["transaction"] for answer in answers] == list(range(65))
