"""Several streams in one process: each has what it would have alone, and none touches another."""

import asyncio
import itertools
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from brokers import Mosquitto, Subscriber
from emotion_events import INFO
from streams import ACTED, CONVERSATION, expected, run, running

from streamer.answers import answer_requests
from streamer.events import EmotionEvent
from streamer.json_lines import OutputError
from streamer.loop_lag import LoopLag
from streamer.models import Models, load_models
from streamer.mqtt.address import Address
from streamer.mqtt.publisher import Publisher
from streamer.mqtt.requests import RequestError
from streamer.pipeline import Pipeline, Sink
from streamer.segmenter import make_segmenter
from streamer.service import serve
from streamer.settings import Dialogue, Mqtt, Sources, StreamSettings, Transcription
from streamer.signals import AudioChunk, Source, SourceCounters, SourceError, VideoFrame
from streamer.sources.open import open_source
from streamer.streams import Streams
from streamer.supervision import Supervision
from streamer.transcriber import Transcriber, TranscriberCounters
from streamer.utterance import Rejected
from telme.bundle import COMPACT, Bundle
from telme.runtime.recognizer import Recognizer

TWO = {"kitchen": CONVERSATION, "hall": ACTED}


def settings_of(media: dict[str, Path], **recognition: Any) -> StreamSettings:
    """Of streams that read files as fast as possible, without drafts: what comes of them does not depend on speed."""
    streams = {name: Sources(media=str(path), fast=True) for name, path in media.items()}
    return StreamSettings.model_validate({"streams": streams, "recognition": {"speculate": False, **recognition}})


class Events(list[EmotionEvent]):
    """A sink that keeps what it gets."""

    def publish(self, event: EmotionEvent) -> None:
        self.append(event)

    def of(self, stream: str) -> list[EmotionEvent]:
        return [event for event in self if event.stream == stream]


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer.load()


async def opened(
    settings: StreamSettings,
    models: Models,
    sink: Sink,
    parts: AsyncExitStack,
    wrap: Callable[[str, Source], Source] = lambda _, source: source,
) -> Streams:
    pipelines = {}
    for one in settings.each():
        source = wrap(one.stream, await parts.enter_async_context(open_source(one.sources, rate_hz=5)))
        pipelines[one.stream] = Pipeline(one, source, make_segmenter(one), models, [sink])
    return Streams(pipelines, models.transcriber, None, LoopLag())


class Around:
    """A source that behaves as the one within, where it does not say otherwise."""

    def __init__(self, source: Source) -> None:
        self.live = source.live
        self.counters = SourceCounters()
        self._source = source

    async def __aenter__(self) -> "Around":
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    def frames(self) -> AsyncIterator[VideoFrame]:
        return self._source.frames()

    def audio(self) -> AsyncIterator[AudioChunk]:
        return self._source.audio()


def same(one: EmotionEvent, other: EmotionEvent) -> bool:
    """Whether two events say the same of an utterance, to the tolerance of a batch."""
    of_the_run = {"event_id", "utterance", "started_at", "ended_at", "latency_ms"}
    numbers = {"scores", "modalities", "confidence", "valence", "arousal"}
    exact = of_the_run | numbers
    assert one.model_dump(exclude=exact) == other.model_dump(exclude=exact)
    assert one.scores == pytest.approx(other.scores, abs=1e-5)
    for modality in ("text", "audio", "visual"):
        assert getattr(one.modalities, modality) == pytest.approx(getattr(other.modalities, modality), abs=1e-5)
    return True


async def test_streams_together_give_the_events_that_each_gives_alone(recognizer: Recognizer) -> None:
    together, alone = Events(), Events()
    async with AsyncExitStack() as parts:
        streams = await opened(settings_of(TWO), Models(recognizer, None, at_once=2), together, parts)
        await streams.run()
        for name, path in TWO.items():
            await (await opened(settings_of({name: path}), Models(recognizer, None), alone, parts)).run()
    assert len(together) == len(alone) == len(expected(CONVERSATION)) + len(expected(ACTED))
    for name in TWO:
        assert all(same(*pair) for pair in zip(together.of(name), alone.of(name), strict=True))
    assert len({event.utterance for event in together}) == len(together)


class Meeting(Transcriber):
    """Hears what two streams say only where both are listened to at the same moment, and from then on at once."""

    def __init__(self) -> None:
        self.counters = TranscriberCounters()
        self._both = threading.Barrier(2)
        self._met = False

    def transcribe(self, samples: npt.NDArray[np.float32]) -> Rejected:
        if not self._met:
            self._both.wait(timeout=10.0)
            self._met = True
        return Rejected("not listened to")


async def test_speech_of_several_streams_is_transcribed_at_the_same_time(recognizer: Recognizer) -> None:
    events = Events()
    async with AsyncExitStack() as parts:
        streams = await opened(settings_of(TWO), Models(recognizer, Meeting(), at_once=2), events, parts)
        await streams.run()
    assert len(events) == sum(len(expected(path)) for path in TWO.values())


@pytest.mark.parametrize(("media", "most"), [({"hall": ACTED}, 1), (TWO, 2)], ids=["one stream", "two streams"])
def test_as_much_is_loaded_as_streams_are_worked_for(
    media: dict[str, Path], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(Transcriber, "load", lambda _, at_once: asked.append(at_once))
    load_models(settings_of(media, at_once=2), Bundle.open(COMPACT))
    assert asked == [most]


async def test_a_stream_that_falls_behind_drops_its_own(recognizer: Recognizer) -> None:
    """Two people talk without end to a recogniser that hears only the first of them at its pace."""

    class Flood(Around):
        live = True
        patience_s = 0.0

        def __init__(self, source: Source) -> None:
            super().__init__(source)
            self.live = True

    events = Events()
    async with AsyncExitStack() as parts:
        streams = await opened(
            settings_of({"flood": ACTED, "file": ACTED}, queue_max=2, at_once=1),
            Models(recognizer, None, at_once=1),
            events,
            parts,
            wrap=lambda name, source: Flood(source) if name == "flood" else source,
        )
        await streams.run()
    counted = {name: own["pipeline"] for name, own in streams.status()["streams"].items()}
    count = len(expected(ACTED))
    assert counted["file"]["dropped_utterances"] == 0
    assert len(events.of("file")) == count
    assert counted["flood"]["dropped_utterances"] + len(events.of("flood")) == count
    assert events.of("flood")[-1].utterance.endswith(str(count))


async def test_a_stream_that_fails_leaves_the_others_alone(
    recognizer: Recognizer, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Around):
        async def audio(self) -> AsyncIterator[AudioChunk]:
            async for chunk in super().audio():
                yield chunk
                raise RuntimeError("a fault in the program")

    events = Events()
    async with AsyncExitStack() as parts:
        streams = await opened(
            settings_of(TWO),
            Models(recognizer, None),
            events,
            parts,
            wrap=lambda name, source: Broken(source) if name == "kitchen" else source,
        )
        with pytest.raises(RuntimeError, match="a fault in the program"):
            await streams.run()
    assert len(events.of("hall")) == len(expected(ACTED))
    assert "the others go on" in caplog.text


async def test_when_events_cannot_be_written_all_streams_stop(recognizer: Recognizer) -> None:
    class Endless(Around):
        async def audio(self) -> AsyncIterator[AudioChunk]:
            async for chunk in super().audio():
                yield chunk
            await asyncio.Event().wait()

    class Full:
        def publish(self, event: EmotionEvent) -> None:
            raise OutputError("cannot write events")

    async with AsyncExitStack() as parts:
        streams = await opened(
            settings_of(TWO),
            Models(recognizer, None),
            Full(),
            parts,
            wrap=lambda name, source: Endless(source) if name == "kitchen" else source,
        )
        with pytest.raises(OutputError):
            await asyncio.wait_for(streams.run(), 120)


async def test_one_stream_can_be_chosen_or_all(recognizer: Recognizer) -> None:
    async with AsyncExitStack() as parts:
        streams = await opened(settings_of(TWO), Models(recognizer, None), Events(), parts)
        assert list(streams.chosen(None)) == list(streams.status()["streams"]) == list(TWO)
        (hall,) = streams.chosen("hall").values()
        hall.paused = True
        assert streams.status("hall")["paused"] is True
        assert [own["paused"] for own in streams.status()["streams"].values()] == [False, True]
        with pytest.raises(RequestError, match="no stream is called 'attic'; there is: kitchen, hall"):
            streams.status("attic")


async def test_requests_over_a_broker_are_for_one_stream_or_for_all(
    recognizer: Recognizer, mosquitto: Mosquitto
) -> None:
    settings = settings_of(TWO)

    async def ask(verb: str, **body: str) -> dict[str, Any]:
        subscriber.heard.clear()
        subscriber.publish(f"telme/desk/request/{verb}", json.dumps(body))
        (answer,) = await subscriber.wait_for(f"/response/{verb}")
        return dict(json.loads(answer.payload))

    async with AsyncExitStack() as parts:
        streams = await opened(settings, Models(recognizer, None), Events(), parts)
        publisher = await parts.enter_async_context(Publisher(Mqtt(), Address.parse(mosquitto.url), "desk"))
        supervision = Supervision(settings, lambda: settings, asyncio.Event())
        answer_requests(publisher, streams, supervision, streams.status)
        subscriber = parts.enter_context(Subscriber(mosquitto.port, "telme/desk/availability", "telme/desk/response/+"))
        await publisher.first_connection()
        publisher.ready(INFO)
        await subscriber.wait_for("/availability")
        assert (await ask("pause", stream="hall"))["status"] == "ok"
        subscriber.publish("telme/desk/dialogue/add", json.dumps({"text": "Hello!", "stream": "kitchen"}))
        subscriber.publish("telme/desk/dialogue/add", json.dumps({"text": "Good night, all of you."}))
        own = (await ask("status"))["data"]["streams"]
        assert {name: counted["paused"] for name, counted in own.items()} == {"kitchen": False, "hall": True}
        assert {name: counted["dialogue_turns"] for name, counted in own.items()} == {"kitchen": 2, "hall": 1}
        await ask("resume")
        await ask("reset-dialogue", stream="kitchen")
        assert (await ask("status", stream="hall"))["data"]["paused"] is False
        assert (await ask("status", stream="hall"))["data"]["dialogue_turns"] == 1
        assert (await ask("status", stream="kitchen"))["data"]["dialogue_turns"] == 0
        assert "no stream is called 'attic'" in (await ask("pause", stream="attic"))["error"]
        assert "leave out the stream" in (await ask("reload", stream="hall"))["error"]


async def test_settings_that_are_reloaded_reach_every_stream_and_leave_its_name(recognizer: Recognizer) -> None:
    settings = settings_of(TWO)
    async with AsyncExitStack() as parts:
        streams = await opened(settings, Models(recognizer, None), Events(), parts)
        streams.reconfigure(settings.model_copy(update={"dialogue": Dialogue(turns_max=1)}))
        for name, pipeline in streams.chosen(None).items():
            for _ in range(3):
                pipeline.hear(None, "Hello!")
            assert len(pipeline.dialogue) == 1
            assert pipeline.vitals.stream == name


async def test_a_source_that_cannot_be_opened_is_refused_at_the_start(tmp_path: Path) -> None:
    settings = settings_of({"hall": ACTED, "attic": tmp_path / "nothing.wav"})
    silent = settings.model_copy(update={"transcription": Transcription(model="none")})
    with pytest.raises(SourceError, match=r"nothing\.wav"):
        await serve(silent, lambda: silent)


@pytest.mark.slow
async def test_two_files_over_a_broker_have_topics_of_their_own(mosquitto: Mosquitto, tmp_path: Path) -> None:
    flags = [*itertools.chain(*(("--add-stream", f"{name}={path}") for name, path in TWO.items()))]
    asked = itertools.count(1)

    async def ask(verb: str, **body: str) -> dict[str, Any]:
        number = next(asked)
        subscriber.publish(f"telme/desk/request/{verb}", json.dumps({"transaction": number, **body}))
        answer: dict[str, Any] = json.loads((await subscriber.wait_for("/response/" + verb, 1))[-1].payload)
        subscriber.heard.clear()
        assert answer["transaction"] == number
        return answer

    with (
        Subscriber(mosquitto.port, "telme/desk/+", "telme/desk/response/+") as subscriber,
        Subscriber(mosquitto.port, "telme/desk/+/utterance") as listener,
        running(tmp_path, *flags, "--mqtt", mosquitto.url, "--node", "desk") as process,
    ):
        await asyncio.to_thread(process.wait_for_log, "connected to")
        info = json.loads((await subscriber.wait_for("/info"))[-1].payload)
        assert info["streams"] == list(TWO)
        await subscriber.wait_for("/availability")
        subscriber.heard.clear()
        status = (await ask("status"))["data"]
        assert list(status["streams"]) == list(TWO)
        assert (await ask("status", stream="hall"))["data"]["source"]["lost_samples"] == 0
        assert "no stream is called 'attic'" in (await ask("status", stream="attic"))["error"]
        assert "leave out the stream" in (await ask("reload", stream="hall"))["error"]
        assert await asyncio.to_thread(process.process.wait, 120) == 0, process.log
        together = {
            name: [EmotionEvent.from_json(heard.payload) for heard in listener.on(f"/{name}/utterance")] for name in TWO
        }
    assert "this stream ended stream=hall" in process.log or "this stream ended stream=kitchen" in process.log
    for name, path in TWO.items():
        alone = run("--media", path, "--fast", "--node", "desk", "--stream", name)
        events = [EmotionEvent.model_validate(event) for event in alone.events]
        assert all(same(*pair) for pair in zip(together[name], events, strict=True))
