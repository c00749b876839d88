"""The whole system on real speech and faces, seen from outside: files in, events out, over a real broker."""

import asyncio
import json
import re
import signal
import subprocess
from datetime import datetime, timedelta
from pathlib import Path

import jiwer
import jsonschema
import pytest
from brokers import Mosquitto, Subscriber
from streams import ACTED, ASR, CONVERSATION, Ended, Event, command, environment, expected, run, running, until_status

from streamer.events import json_schema
from telme.labels import MELD

pytestmark = pytest.mark.slow

BOUNDARY_S = 0.150
WORD_ERRORS_MAX = 0.25
# What depends on when and how fast a run was made, and so differs between two of the same clip.
OF_THE_RUN = ("event_id", "utterance", "started_at", "ended_at", "latency_ms")


@pytest.fixture(scope="module")
def fast() -> Ended:
    """The conversation, read as fast as possible."""
    return run("--media", CONVERSATION, "--fast")


def plain(text: str) -> str:
    """Lower-case words without punctuation, digits spelt out, "P9" taken apart."""
    digits = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    return " ".join(digits[int(word)] if word.isdecimal() else word for word in re.findall(r"[a-z']+|\d", text.lower()))


def content(event: Event) -> Event:
    return {key: value for key, value in event.items() if key not in OF_THE_RUN}


def check_events(events: list[Event], truth: list[Event], boundary_s: float = BOUNDARY_S) -> None:
    """The right number, in order, at the right times, with the right words, valid by the schema."""
    assert len(events) == len(truth)
    for event, true in zip(events, truth, strict=True):
        jsonschema.validate(event, json_schema(), format_checker=jsonschema.FormatChecker())
        assert event["phase"] == "final"
        assert event["start_s"] == pytest.approx(true["start_s"], abs=boundary_s)
        assert event["end_s"] == pytest.approx(true["end_s"], abs=boundary_s)
        assert sum(event["scores"].values()) == pytest.approx(1, abs=1e-6)
        assert event["emotion"] == max(event["scores"], key=event["scores"].get)
        length = datetime.fromisoformat(event["ended_at"]) - datetime.fromisoformat(event["started_at"])
        assert length == pytest.approx(
            timedelta(seconds=event["end_s"] - event["start_s"]), abs=timedelta(seconds=1e-3)
        )
    said = [plain(true["text"]) for true in truth]
    heard = [plain(event["transcript"]["text"]) if event["transcript"] else "" for event in events]
    assert jiwer.wer(said, heard) <= WORD_ERRORS_MAX, heard


def test_a_conversation_becomes_its_utterances(fast: Ended) -> None:
    assert fast.code == 0, fast.log
    check_events(fast.events, expected(CONVERSATION))
    for event in fast.events:
        assert event["modalities"]["text"] is not None
        assert event["modalities"]["audio"] is not None
        assert event["modalities"]["visual"] is not None
        assert set(event["scores"]) == set(MELD)


def test_sound_alone_is_recognised_without_a_picture() -> None:
    ended = run("--media", ACTED, "--fast")
    assert ended.code == 0, ended.log
    # A shouted word may begin late and a sob end early for the detector; the words are all there.
    check_events(ended.events, expected(ACTED), boundary_s=0.5)
    assert all(event["modalities"]["visual"] is None for event in ended.events)
    # More than neutral is seen.
    assert len({event["emotion"] for event in ended.events}) >= 2


def test_at_real_time_pace_the_events_are_the_same_and_reach_a_subscriber_in_order(
    fast: Ended, mosquitto: Mosquitto
) -> None:
    with Subscriber(mosquitto.port) as subscriber:
        ended = run("--media", CONVERSATION, "--mqtt", mosquitto.url, "--node", "desk", "--stream", "cam")
        assert ended.code == 0, ended.log
        published = [json.loads(heard.payload) for heard in subscriber.on("telme/desk/cam/utterance")]
        provisional = [json.loads(heard.payload) for heard in subscriber.on("telme/desk/cam/provisional")]
        assert [heard.payload for heard in subscriber.on("/availability")] == ["online", "stopped"]
        state = [json.loads(heard.payload) for heard in subscriber.on("/state")]
        labels = [heard.payload for heard in subscriber.on("/label")]
    check_events(published, expected(CONVERSATION))
    assert published == ended.events
    assert [content(event) | {"node": "telme", "stream": "main"} for event in published] == [
        content(event) for event in fast.events
    ]
    assert len({event["event_id"] for event in published}) == len(published)
    assert state[-1] == published[-1]
    assert labels[-1] == published[-1]["emotion"]
    for event in published:
        assert 0 < event["latency_ms"]["endpoint"] <= event["latency_ms"]["total"]
    assert {event["utterance"] for event in provisional} <= {event["utterance"] for event in published}
    assert len({event["event_id"] for event in provisional}) == len(provisional) > 0
    for event in provisional:
        jsonschema.validate(event, json_schema(), format_checker=jsonschema.FormatChecker())
        assert (event["phase"], event["end_reason"]) == ("provisional", None)


def test_the_straight_pipeline_gives_the_same_events_and_nothing_before_them(fast: Ended) -> None:
    ended = run("--media", CONVERSATION, "--fast", "--straight", "--provisional")
    assert [content(event) for event in ended.events] == [content(event) for event in fast.events]
    assert all(event["latency_ms"]["speculation"] is None for event in ended.events)


def test_without_transcripts_events_hold_no_words() -> None:
    ended = run("--media", ACTED, "--fast", "--no-transcript")
    assert [event["transcript"] for event in ended.events] == [None] * len(expected(ACTED))
    assert all(event["modalities"]["text"] is not None for event in ended.events)
    assert "talking" not in ended.log
    assert "talking" not in json.dumps(ended.events)


def test_without_a_speech_recogniser_voice_and_face_still_speak() -> None:
    ended = run("--media", CONVERSATION, "--fast", asr="none")
    assert len(ended.events) == len(expected(CONVERSATION))
    for event in ended.events:
        assert event["modalities"]["text"] is None
        assert event["modalities"]["audio"] is not None
        assert event["latency_ms"]["transcription"] is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_finishes_the_utterance_in_hand(
    number: signal.Signals, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    with (
        Subscriber(mosquitto.port) as subscriber,
        running(tmp_path, "--media", CONVERSATION, "--mqtt", mosquitto.url) as stream,
    ):
        await subscriber.wait_for("/availability")
        await until_status(subscriber, lambda now: now["speaking"] and now["pipeline"]["utterances"] == 1)
        await asyncio.sleep(0.5)
        assert await asyncio.to_thread(stream.stop, number) == 0
        heard = await subscriber.wait_for("/availability", 2)
        assert [message.payload for message in heard] == ["online", "stopped"]
        events = [json.loads(message.payload) for message in subscriber.on("/utterance")]
    assert [event["end_reason"] for event in events] == ["silence", "stream_end"]


async def test_a_signal_while_models_load_ends_as_cleanly(mosquitto: Mosquitto, tmp_path: Path) -> None:
    with (
        Subscriber(mosquitto.port) as subscriber,
        running(tmp_path, "--media", CONVERSATION, "--mqtt", mosquitto.url) as stream,
    ):
        await asyncio.to_thread(stream.wait_for_log, "connected to")
        assert await asyncio.to_thread(stream.stop) == 0
        assert (await subscriber.wait_for("/availability"))[-1].payload in ("online", "stopped")
        assert subscriber.on("/utterance") == []


async def test_a_crash_shows_offline(mosquitto: Mosquitto, tmp_path: Path) -> None:
    with (
        Subscriber(mosquitto.port) as subscriber,
        running(tmp_path, "--media", CONVERSATION, "--mqtt", mosquitto.url) as stream,
    ):
        await subscriber.wait_for("/availability")
        await asyncio.to_thread(stream.stop, signal.SIGKILL)
        heard = await subscriber.wait_for("/availability", 2)
    assert [message.payload for message in heard] == ["online", "offline"]


async def test_requests_pause_resume_and_report(mosquitto: Mosquitto, tmp_path: Path) -> None:
    async def ask(verb: str, count: int = 1) -> Event:
        subscriber.publish(f"telme/telme/request/{verb}", json.dumps({"transaction": verb}))
        answer: Event = json.loads((await subscriber.wait_for(f"/response/{verb}", count))[-1].payload)
        assert (answer["status"], answer["transaction"]) == ("ok", verb)
        return answer

    with (
        Subscriber(mosquitto.port) as subscriber,
        running(tmp_path, "--media", CONVERSATION, "--mqtt", mosquitto.url),
    ):
        await subscriber.wait_for("/availability")
        await ask("pause")
        assert (await ask("status"))["data"]["paused"] is True
        await asyncio.sleep(1.0)
        await ask("resume")
        subscriber.publish("telme/telme/dialogue/add", json.dumps({"text": "How are you?"}))
        status = (await ask("status", 2))["data"]
        assert status["paused"] is False
        assert status["pipeline"]["paused_samples"] > 0
        assert status["dialogue_turns"] >= 1
        await ask("reset-dialogue")
        assert (await ask("status", 3))["data"]["dialogue_turns"] == 0


def test_the_embedded_broker_carries_the_same_events(fast: Ended, tmp_path: Path) -> None:
    with running(tmp_path, "--media", CONVERSATION, "--broker", "embedded", "--set", "mqtt.broker_port=0") as stream:
        stream.wait_for_log("embedded broker at mqtt://127.0.0.1:")
        port = int(stream.log.split("mqtt://127.0.0.1:")[1].split()[0])
        with Subscriber(port, "telme/#", protocol=4) as subscriber:
            assert stream.process.wait(90) == 0, stream.log
            heard = [json.loads(message.payload) for message in subscriber.on("/utterance")]
    assert [content(event) for event in heard] == [content(event) for event in fast.events]


def test_the_live_view_shows_every_utterance_on_a_dumb_terminal() -> None:
    shown = subprocess.run(
        command("--media", ACTED, "--fast", "--asr", ASR),
        capture_output=True,
        text=True,
        timeout=90,
        env=environment({"TERM": "dumb", "NO_COLOR": "1"}),
    )
    assert shown.returncode == 0, shown.stderr
    assert "\x1b" not in shown.stdout
    assert shown.stdout.lower().count("by the door") == len(expected(ACTED))
