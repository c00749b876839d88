"""The whole system on devices: a microphone and a camera of this machine, and a live URL that dies and comes back."""

import asyncio
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jiwer
import pytest
import soundfile
from brokers import Mosquitto, Subscriber, until
from devices.fake_v4l2 import FakeV4l2
from devices.network import Server, live_url, rtsp_camera
from devices.reading import AWAY_S, BACK_S
from devices.sound_server import SoundServer
from streams import CONVERSATION, Event, Running, running, until_status

from streamer.signals import SAMPLE_RATE_HZ

pytestmark = pytest.mark.slow

JFK = Path(__file__).parent / "data" / "jfk.flac"
JFK_SAID = "and so my fellow americans ask not what your country can do for you ask what you can do for your country"

SPEAKS_S = 1.5  # an utterance is long enough to be one


@pytest.fixture(scope="module")
def server() -> Iterator[SoundServer]:
    with tempfile.TemporaryDirectory(prefix="pulse") as folder:
        server = SoundServer(Path(folder))
        server.start()
        yield server
        server.stop()


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Kennedy's sentence as a file that paplay plays."""
    samples, rate = soundfile.read(JFK)
    path = tmp_path / "jfk.wav"
    soundfile.write(path, samples, rate)
    return path


def words(text: str) -> str:
    return "".join(character for character in text.lower() if character.isalpha() or character == " ").strip()


def heard(subscriber: Subscriber) -> list[Event]:
    return [json.loads(message.payload) for message in subscriber.on("/utterance")]


def said(events: list[Event]) -> str:
    return " ".join(words(event["transcript"]["text"]) for event in events if event["transcript"])


async def test_what_is_said_into_the_microphone_before_a_camera_is_recognised(
    server: SoundServer, speech: Path, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    camera = FakeV4l2(tmp_path, CONVERSATION)
    with (
        Subscriber(mosquitto.port) as subscriber,
        running(
            tmp_path,
            *("--camera", "/dev/video0", "--microphone", "vmic", "--mqtt", mosquitto.url),
            extra={**server.environment, **camera.environment},
        ) as stream,
    ):
        await subscriber.wait_for("/availability")
        assert server.play(speech).wait(30) == 0
        await asyncio.sleep(1.5)
        assert await asyncio.to_thread(stream.stop) == 0
        await subscriber.wait_for("/availability", 2)
        events = heard(subscriber)
    assert jiwer.wer(JFK_SAID, said(events)) <= 0.2
    assert all(event["modalities"]["visual"] is not None for event in events)
    assert all(event["transcript"]["language"] == "en" for event in events if event["transcript"])
    assert [event["start_s"] for event in events] == sorted(event["start_s"] for event in events)


async def status(subscriber: Subscriber) -> Event:
    answers = len(subscriber.on("/response/status"))
    subscriber.publish("telme/telme/request/status", b"")
    data: Event = json.loads((await subscriber.wait_for("/response/status", answers + 1))[-1].payload)["data"]
    return data


async def until_recognised(subscriber: Subscriber) -> None:
    """Until nobody speaks and every utterance so far has become an event."""
    await asyncio.sleep(1.0)  # what was just played is still on its way
    await until_status(
        subscriber,
        lambda now: not now["speaking"] and now["pipeline"]["utterances"] == now["pipeline"]["events"],
    )


async def back_after_s(stream: Running) -> float:
    """Seconds from now until the log says that something is back."""
    asked_s = time.monotonic()
    await asyncio.to_thread(stream.wait_for_log, "is back after")
    return time.monotonic() - asked_s


async def test_a_microphone_that_is_pulled_out_and_put_back_is_heard_again(
    server: SoundServer, speech: Path, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    camera = FakeV4l2(tmp_path, CONVERSATION)
    with (
        Subscriber(mosquitto.port) as subscriber,
        running(
            tmp_path,
            *("--camera", "/dev/video0", "--microphone", "vmic", "--mqtt", mosquitto.url),
            extra={**server.environment, **camera.environment},
        ) as stream,
    ):
        await subscriber.wait_for("/availability")
        playing = server.play(speech)
        await until_status(subscriber, lambda now: bool(now["speaking"]))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(server.unplug)
        playing.kill()
        playing.wait()
        # The utterance in hand is closed though no sample says that it is over.
        await until(lambda: any(event["end_reason"] == "gap" for event in heard(subscriber)))
        # The camera goes on meanwhile.
        seen = (await status(subscriber))["pictures"]["seen"]
        await asyncio.sleep(AWAY_S)
        assert (await status(subscriber))["pictures"]["seen"] >= seen + 5
        await until_recognised(subscriber)
        before = len(heard(subscriber))
        await asyncio.to_thread(server.plug_in)
        assert await back_after_s(stream) < BACK_S
        assert await asyncio.to_thread(server.play(speech).wait, 30) == 0
        await until_recognised(subscriber)
        counted = (await status(subscriber))["source"]
        assert await asyncio.to_thread(stream.stop) == 0
        await subscriber.wait_for("/availability", 2)
        events = heard(subscriber)
    assert jiwer.wer(JFK_SAID, said(events[before:])) <= 0.2
    assert events[before]["start_s"] > events[0]["end_s"]
    assert all(event["modalities"]["visual"] is not None for event in events)
    assert counted["reopened"] == 1
    assert counted["lost_samples"] > AWAY_S * SAMPLE_RATE_HZ


async def test_a_camera_that_is_pulled_out_is_missing_from_events_until_it_is_put_back(
    server: SoundServer, speech: Path, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    camera = FakeV4l2(tmp_path, CONVERSATION)
    with (
        Subscriber(mosquitto.port) as subscriber,
        running(
            tmp_path,
            *("--camera", "/dev/video0", "--microphone", "vmic", "--mqtt", mosquitto.url),
            extra={**server.environment, **camera.environment},
        ) as stream,
    ):
        await subscriber.wait_for("/availability")
        playing = server.play(speech)
        await until_status(subscriber, lambda now: bool(now["speaking"]))
        camera.set("unplug")
        assert await asyncio.to_thread(playing.wait, 30) == 0
        await until_recognised(subscriber)
        before = len(heard(subscriber))
        camera.set("run")
        assert await back_after_s(stream) < BACK_S
        assert await asyncio.to_thread(server.play(speech).wait, 30) == 0
        await until_recognised(subscriber)
        counted = (await status(subscriber))["source"]
        assert await asyncio.to_thread(stream.stop) == 0
        await subscriber.wait_for("/availability", 2)
        events = heard(subscriber)
    without, again = events[:before], events[before:]
    # What the microphone hears is whole all the time, and every utterance is closed by silence.
    assert jiwer.wer(JFK_SAID, said(without)) <= 0.2
    assert jiwer.wer(JFK_SAID, said(again)) <= 0.2
    assert {event["end_reason"] for event in events} == {"silence"}
    assert counted["reopened"] == 1, "the camera alone"
    assert all(event["modalities"]["audio"] is not None for event in events)
    assert without[-1]["modalities"]["visual"] is None
    assert without[-1]["latency_ms"]["visual"] is None
    assert all(event["modalities"]["visual"] is not None for event in again)


@pytest.mark.parametrize("serve", [live_url, rtsp_camera])
async def test_a_live_url_that_dies_comes_back_into_the_same_stream(
    serve: Callable[[Path], Server], mosquitto: Mosquitto, tmp_path: Path
) -> None:
    with (
        serve(CONVERSATION) as url,
        Subscriber(mosquitto.port) as subscriber,
        # Such a hangover runs utterances together: whoever was speaking still has one in hand when the word arrives.
        running(
            tmp_path, "--media", url.url, "--mqtt", mosquitto.url, "--set", "segmentation.hangover_ms=3000"
        ) as stream,
    ):
        await subscriber.wait_for("/availability")
        await until_status(subscriber, lambda now: bool(now["speaking"]))
        await asyncio.sleep(SPEAKS_S)
        url.kill()
        await until(lambda: any(event["end_reason"] == "gap" for event in heard(subscriber)))
        await asyncio.sleep(AWAY_S)
        await asyncio.to_thread(url.start)
        assert await back_after_s(stream) < BACK_S
        await until_status(subscriber, lambda now: bool(now["speaking"]))
        await asyncio.sleep(SPEAKS_S)
        assert await asyncio.to_thread(stream.stop) == 0
        await subscriber.wait_for("/availability", 2)
        events = heard(subscriber)
        availability = [heard.payload for heard in subscriber.on("/availability")]
    assert availability == ["online", "stopped"]
    assert [event["end_reason"] for event in events[-2:]] == ["gap", "stream_end"]
    assert [event["start_s"] for event in events] == sorted(event["start_s"] for event in events)
    assert events[-1]["modalities"]["visual"] is not None
    assert "'reopened': 1" in stream.log
