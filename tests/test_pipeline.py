"""The pipeline with its real parts, driven from inside: what it keeps, drops and survives."""

import asyncio
import threading
from collections.abc import AsyncIterator

import numpy as np
import pytest
from brokers import until
from streams import CONVERSATION, expected

from streamer.events import EmotionEvent
from streamer.pipeline import PICTURE_MEMORY_S, Pipeline
from streamer.segmenter import Segmenter
from streamer.settings import Sources, StreamSettings
from streamer.signals import SAMPLE_RATE_HZ, AudioChunk, Source, SourceCounters, VideoFrame
from streamer.sources.open import open_source
from streamer.vad import make_detector
from telme.runtime.recognizer import Recognizer

SETTINGS = StreamSettings(sources=Sources(media=str(CONVERSATION), fast=True))


class Events(list[EmotionEvent]):
    """A sink that keeps what it gets."""

    def publish(self, event: EmotionEvent) -> None:
        self.append(event)


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer.load()


def pipeline(source: Source, recognizer: Recognizer, events: Events, settings: StreamSettings = SETTINGS) -> Pipeline:
    segmenter = Segmenter(settings.segmentation, make_detector(settings.vad))
    return Pipeline(settings, source, segmenter, None, recognizer, [events])


async def test_pictures_are_forgotten_with_the_utterance_that_they_belong_to(recognizer: Recognizer) -> None:
    events = Events()
    async with open_source(SETTINGS.sources, rate_hz=5) as source:
        stream = pipeline(source, recognizer, events)
        await stream.run()
    assert len(events) == len(expected(CONVERSATION))
    assert all(event.modalities.visual for event in events)
    assert stream.pictures.seen > 90
    assert stream._watcher.remembered < 20


class Silence:
    """A minute of a room in which nobody speaks, with a face in the picture."""

    live = False
    seconds = 60

    def __init__(self, face: np.ndarray) -> None:
        self.counters = SourceCounters()
        self._face = face

    async def __aenter__(self) -> "Silence":
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    async def audio(self) -> AsyncIterator[AudioChunk]:
        for start in range(0, self.seconds * SAMPLE_RATE_HZ, 1600):
            yield AudioChunk(start, np.zeros(1600, np.float32))

    async def frames(self) -> AsyncIterator[VideoFrame]:
        for index in range(self.seconds * 2):
            yield VideoFrame(index / 2, self._face)


async def test_nothing_piles_up_while_nobody_speaks(recognizer: Recognizer) -> None:
    async with open_source(SETTINGS.sources, rate_hz=1) as source:
        face = (await anext(aiter(source.frames()))).image
    stream = pipeline(Silence(face), recognizer, Events())
    await stream._watcher.watch(Silence(face).frames())
    assert stream._watcher.remembered == 2 * Silence.seconds
    stream._now = Silence.seconds * SAMPLE_RATE_HZ
    await stream._take(AudioChunk(stream._now, np.zeros(1600, np.float32)))
    assert stream._watcher.remembered <= 2 * PICTURE_MEMORY_S


async def test_an_utterance_that_a_model_cannot_digest_is_counted_and_the_stream_goes_on(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encode, calls = recognizer.encode_audio, []

    def fail_once(samples: np.ndarray) -> object:
        calls.append(len(samples))
        if len(calls) == 2:
            raise RuntimeError("bad numbers")
        return encode(samples)

    monkeypatch.setattr(recognizer, "encode_audio", fail_once)
    events = Events()
    async with open_source(SETTINGS.sources, rate_hz=5) as source:
        stream = pipeline(source, recognizer, events)
        await stream.run()
    assert len(events) == len(expected(CONVERSATION)) - 1
    assert stream.counters.failed_utterances == 1
    assert stream.counters.pending == 0
    assert "could not be recognised" in caplog.text


async def test_a_live_stream_drops_the_oldest_waiting_utterance_when_recognition_falls_behind(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encode, all_heard = recognizer.encode_audio, threading.Event()

    def wait_until_all_is_heard(samples: np.ndarray) -> object:
        all_heard.wait(60)
        return encode(samples)

    monkeypatch.setattr(recognizer, "encode_audio", wait_until_all_is_heard)
    settings = SETTINGS.model_copy(update={"recognition": SETTINGS.recognition.model_copy(update={"queue_max": 2})})
    events, count = Events(), len(expected(CONVERSATION))
    async with open_source(settings.sources, rate_hz=5) as source:
        monkeypatch.setattr(type(source), "live", property(lambda _: True))
        stream = pipeline(source, recognizer, events, settings)
        running = asyncio.create_task(stream.run())
        await until(lambda: stream.counters.utterances == count)
        all_heard.set()
        await running
    # The one in work and the two newest are left.
    assert stream.counters.dropped_utterances == count - 3
    assert [event.utterance[-1] for event in events] == ["1", str(count - 1), str(count)]
    assert caplog.text.count("dropped the oldest waiting utterance") == count - 3
