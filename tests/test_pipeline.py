"""The pipeline with its real parts, driven from inside: what it keeps, drops and survives."""

import asyncio
import itertools
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from brokers import until
from streams import ACTED, ASR, CONVERSATION, expected

from streamer.backlog import Cut
from streamer.events import EmotionEvent
from streamer.loop_lag import LoopLag
from streamer.models import Models
from streamer.pipeline import PICTURE_MEMORY_S, Counters, Pipeline
from streamer.segmenter import Segmenter
from streamer.settings import Sources, Speakers, StreamSettings, Transcription
from streamer.signals import SAMPLE_RATE_HZ, AudioChunk, Source, SourceCounters, VideoFrame
from streamer.sources.open import open_source
from streamer.streams import Streams
from streamer.transcriber import Transcriber
from streamer.utterance import Rejected, Transcript
from streamer.vad import make_detector
from streamer.voices import VoiceReader
from telme.runtime.recognizer import Recognizer
from telme.runtime.voiceprint import VoiceEncoder

JFK = Path(__file__).parent / "data" / "jfk.flac"
SETTINGS = StreamSettings(sources=Sources(media=str(CONVERSATION), fast=True))


class Events(list[EmotionEvent]):
    """A sink that keeps what it gets."""

    def publish(self, event: EmotionEvent) -> None:
        self.append(event)

    def of_phase(self, phase: str) -> list[EmotionEvent]:
        return [event for event in self if event.phase == phase]


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer.load()


def pipeline(
    source: Source,
    recognizer: Recognizer,
    events: Events,
    settings: StreamSettings = SETTINGS,
    *,
    drafts: bool = False,
    transcriber: Transcriber | None = None,
    voices: VoiceReader | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Pipeline:
    segmenter = Segmenter(settings.segmentation, make_detector(settings.vad), drafts=drafts)
    return Pipeline(settings, source, segmenter, Models(recognizer, transcriber, voices), [events], clock)


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
    patience_s = 0.0
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


async def test_nobody_is_looked_at_while_the_stream_is_paused(recognizer: Recognizer) -> None:
    async with open_source(SETTINGS.sources, rate_hz=1) as source:
        face = (await anext(aiter(source.frames()))).image
    stream = pipeline(Silence(face), recognizer, Events())
    stream.paused = True
    await stream.run()
    assert (stream.pictures.seen, stream.counters.paused_samples) == (0, Silence.seconds * SAMPLE_RATE_HZ)


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


async def test_a_live_stream_is_dated_by_its_sound_and_not_by_its_beginning(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it comes in one instant: so every utterance ended before that, by as much as had followed it by then."""
    events, now = Events(), datetime(2026, 1, 1, 12, tzinfo=UTC)
    async with open_source(SETTINGS.sources, rate_hz=5) as source:
        monkeypatch.setattr(type(source), "live", True)
        await pipeline(source, recognizer, events, clock=lambda: now).run()
    assert len(events) > 1
    for event in events:
        waited_s = event.latency_ms.endpoint / 1000
        assert (now - event.ended_at).total_seconds() == pytest.approx(waited_s, abs=0.1)
        assert (event.ended_at - event.started_at).total_seconds() == pytest.approx(event.end_s - event.start_s)


async def test_a_failure_waits_for_the_utterances_other_models(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else they would still be at work when the next utterance has its turn."""
    at_work: set[np.float32] = set()
    together: list[int] = []

    class Slow:
        def transcribe(self, samples: np.ndarray) -> Rejected:
            at_work.add(samples[0])
            together.append(len(at_work))
            time.sleep(0.2)
            at_work.remove(samples[0])
            return Rejected("nobody listens")

    def fail(samples: np.ndarray) -> object:
        raise RuntimeError("unusable sound")

    monkeypatch.setattr(recognizer, "encode_audio", fail)
    events = Events()
    async with open_source(Sources(media=str(CONVERSATION), fast=True), rate_hz=5) as source:
        stream = pipeline(source, recognizer, events, transcriber=Slow())
        monkeypatch.setattr(stream._analyst._workers, "speech", ThreadPoolExecutor(2))
        await stream.run()
    assert stream.counters.failed_utterances == len(together) == len(expected(CONVERSATION))
    assert max(together) == 1


async def test_models_compute_in_worker_threads_and_never_in_the_event_loop(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, set[int]] = {}

    def watched(owner: object, name: str) -> None:
        method = getattr(owner, name)

        def noting(*arguments: object, **named: object) -> object:
            threads.setdefault(name, set()).add(threading.get_ident())
            return method(*arguments, **named)

        monkeypatch.setattr(owner, name, noting)

    stages = ("see", "encode_text", "encode_audio", "encode_visual", "fuse")
    for name in stages:
        watched(recognizer, name)
    events = Events()
    async with open_source(Sources(media=str(CONVERSATION), fast=True), rate_hz=5) as source:
        stream = pipeline(source, recognizer, events, drafts=True, transcriber=Says("well"))
        watched(stream.segmenter._detector, "is_speech")
        watched(stream._analyst._transcriber, "transcribe")
        await stream.run()
    assert threads.keys() == {*stages, "is_speech", "transcribe"}
    assert threading.get_ident() not in set().union(*threads.values())


class Patient:
    """A file whose next piece is read only when nothing is left to do: what comes of it does not depend on speed."""

    live = False
    patience_s = 0.0

    def __init__(self, source: Source) -> None:
        self.counters = SourceCounters()
        self.counts = Counters()
        self._source = source

    async def __aenter__(self) -> "Patient":
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    def frames(self) -> AsyncIterator[VideoFrame]:
        return self._source.frames()

    async def audio(self) -> AsyncIterator[AudioChunk]:
        async for chunk in self._source.audio():
            yield chunk
            await until(lambda: not self.counts.pending and not self.counts.pending_drafts)


async def run_patiently(
    media: Path,
    recognizer: Recognizer,
    events: Events,
    settings: StreamSettings = SETTINGS,
    *,
    drafts: bool = True,
    transcriber: Transcriber | None = None,
    voices: VoiceReader | None = None,
    prepare: Callable[[Pipeline], None] = lambda _: None,
) -> Pipeline:
    async with open_source(Sources(media=str(media), fast=True), rate_hz=5) as source:
        patient = Patient(source)
        stream = pipeline(patient, recognizer, events, settings, drafts=drafts, transcriber=transcriber, voices=voices)
        patient.counts = stream.counters
        prepare(stream)
        await stream.run()
    return stream


# What depends on when a run was made.
OF_THE_RUN = {"event_id", "utterance", "started_at", "ended_at", "latency_ms"}


def content(event: EmotionEvent) -> dict[str, object]:
    return event.model_dump(exclude=OF_THE_RUN)


@pytest.mark.slow
async def test_what_is_worked_out_in_the_pause_becomes_the_final_event_unchanged(recognizer: Recognizer) -> None:
    early, straight = Events(), Events()
    stream = await run_patiently(CONVERSATION, recognizer, early)
    await run_patiently(CONVERSATION, recognizer, straight, drafts=False)
    finals = early.of_phase("final")
    assert [content(event) for event in finals] == [content(event) for event in straight]
    assert len(finals) == stream.speculation.used == len(expected(CONVERSATION))
    for final in finals:
        last = next(event for event in reversed(early) if event.utterance == final.utterance and event is not final)
        of_the_phase = {"phase", "revision", "end_reason"} | OF_THE_RUN
        assert last.model_dump(exclude=of_the_phase) == final.model_dump(exclude=of_the_phase)
        pause_ms, latency = last.latency_ms.endpoint, final.latency_ms
        assert latency.speculation is not None
        assert pause_ms <= latency.speculation < latency.endpoint <= latency.total
        assert latency.queue == 0
    assert all(event.latency_ms.speculation is None for event in straight)


async def test_provisional_events_rise_in_revision_and_end_in_a_final_one(recognizer: Recognizer) -> None:
    events = Events()
    stream = await run_patiently(ACTED, recognizer, events)
    for name, group in itertools.groupby(events, key=lambda event: event.utterance):
        *provisional, final = group
        assert [event.revision for event in provisional] == list(range(len(provisional)))
        assert {event.phase for event in provisional} == {"provisional"}
        assert (final.phase, final.revision) == ("final", 0)
        assert all(event.end_reason is None and event.end_s <= final.end_s for event in provisional)
        assert name.endswith(f"{stream.segmenter.counters.utterances:05d}") == (final is events[-1])
    assert len({event.event_id for event in events}) == len(events)
    assert stream.counters.provisional_events == len(events.of_phase("provisional"))


async def test_when_more_is_said_the_work_was_in_vain_and_counted(recognizer: Recognizer) -> None:
    settings = SETTINGS.model_copy(
        update={"segmentation": SETTINGS.segmentation.model_copy(update={"hangover_ms": 2000, "update_ms": None})}
    )
    events = Events()
    stream = await run_patiently(JFK, recognizer, events, settings)
    *provisional, final = events
    assert final.end_s - final.start_s > 8
    assert len(provisional) >= 4  # pauses between Kennedy's clauses
    counters = stream.speculation
    assert (counters.runs, counters.used, counters.wasted) == (len(provisional), 1, len(provisional) - 1)
    assert counters.wasted_ms > 0


@pytest.mark.parametrize(("patience_s", "first_ends"), [(0.0, "gap"), (60.0, "silence")])
async def test_sound_that_comes_late_tears_no_utterance_where_that_is_to_be_expected(
    recognizer: Recognizer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    patience_s: float,
    first_ends: str,
) -> None:
    [first, *_] = expected(ACTED)
    middle = round((first["start_s"] + first["end_s"]) / 2 * SAMPLE_RATE_HZ)
    events = Events()
    async with open_source(Sources(media=str(ACTED), fast=True), rate_hz=5) as source:
        hear = source.audio

        async def hesitates() -> AsyncIterator[AudioChunk]:
            waited = False
            async for chunk in hear():
                if chunk.start >= middle and not waited:
                    waited = True
                    await asyncio.sleep(2 * SETTINGS.segmentation.gap_ms / 1000)
                yield chunk

        monkeypatch.setattr(source, "audio", hesitates)
        monkeypatch.setattr(type(source), "live", True)
        monkeypatch.setattr(type(source), "patience_s", patience_s)
        await pipeline(source, recognizer, events).run()
    assert events[0].end_reason == first_ends
    assert ("no sound comes any more" in caplog.text) == (first_ends == "gap")
    late_ms = events[-1].latency_ms.source
    assert late_ms is not None
    assert late_ms >= 0


class Says:
    """Stands in for a speech recogniser that hears what it is told, whatever is said."""

    def __init__(self, *texts: str) -> None:
        self._texts = itertools.cycle(texts)

    def transcribe(self, samples: np.ndarray) -> Transcript:
        return Transcript(next(self._texts), confidence=0.9, language="en")


async def test_only_what_is_final_becomes_part_of_the_dialogue(recognizer: Recognizer) -> None:
    settings = SETTINGS.model_copy(
        update={"segmentation": SETTINGS.segmentation.model_copy(update={"hangover_ms": 2000, "update_ms": None})}
    )
    events = Events()
    stream = await run_patiently(JFK, recognizer, events, settings, transcriber=Says(*(f"Take {n}." for n in range(9))))
    heard = [event.transcript.text for event in events if event.transcript]
    assert heard == [*(f"Take {n}." for n in range(len(heard) - 1)), heard[-2]]
    assert [turn.text for turn in stream.dialogue.context("person", "", 11.0)] == [heard[-1], ""]
    stream.hear(None, "I said so.")  # the robot itself, whose words are known
    turns = stream.dialogue.context("person", "", 11.0)[:-1]
    assert [(turn.text, turn.heard) for turn in turns] == [(heard[-1], True), ("I said so.", False)]


async def test_the_dialogue_has_the_speakers_of_the_events_and_only_finals_teach_a_voice(
    recognizer: Recognizer,
) -> None:
    settings = SETTINGS.model_copy(update={"speakers": Speakers(people_max=3)})
    events, voices = Events(), VoiceReader(VoiceEncoder.load())
    stream = await run_patiently(ACTED, recognizer, events, settings, transcriber=Says("Hello."), voices=voices)
    finals = events.of_phase("final")
    turns = stream.dialogue.context("", "", finals[-1].end_s)[:-1]
    assert [turn.speaker for turn in turns] == [event.speaker for event in finals]
    assert len({event.speaker for event in finals}) == stream.speakers.people > 1
    counters = stream.speakers
    assert counters.people + counters.recognised + counters.unlike + counters.short == len(finals) < len(events)
    for final in finals:
        last = next(event for event in reversed(events) if event.utterance == final.utterance and event is not final)
        assert last.speaker == final.speaker
        assert last.latency_ms.speaker == final.latency_ms.speaker > 0
    stream.reset_dialogue()
    assert len(stream.dialogue) == stream.speakers.people == 0


async def test_whoever_was_not_understood_teaches_no_voice(recognizer: Recognizer) -> None:
    class Disbelieves:
        def transcribe(self, samples: np.ndarray) -> Rejected:
            return Rejected("noise")

    settings = SETTINGS.model_copy(update={"speakers": Speakers(people_max=3)})
    events, voices = Events(), VoiceReader(VoiceEncoder.load())
    stream = await run_patiently(ACTED, recognizer, events, settings, transcriber=Disbelieves(), voices=voices)
    assert {event.speaker for event in events} == {"person-1"}
    assert stream.speakers.people == 0


async def test_what_the_robot_says_in_the_pause_is_read_by_the_teacher(recognizer: Recognizer) -> None:
    settings = SETTINGS.model_copy(
        update={"segmentation": SETTINGS.segmentation.model_copy(update={"update_ms": None})}
    )

    class Interrupted(Events):
        def publish(self, event: EmotionEvent) -> None:
            super().publish(event)
            if event.phase == "provisional":
                self.stream.hear(None, "I am so sorry for your loss. That is terrible!")

        def overhear(self, stream: Pipeline) -> None:
            self.stream = stream

    events = Interrupted()
    transcriber = Says("Thank you.")
    await run_patiently(ACTED, recognizer, events, settings, transcriber=transcriber, prepare=events.overhear)
    for final in events.of_phase("final"):
        provisional = [event for event in events if event.utterance == final.utterance][-2]
        assert provisional.modalities.audio == final.modalities.audio
        assert provisional.modalities.text != final.modalities.text


async def test_a_draft_that_a_model_cannot_digest_does_not_cost_the_utterance(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, calls = recognizer.encode_audio, itertools.count()

    def fail_at_first(samples: np.ndarray) -> object:
        if next(calls) < 2:
            raise RuntimeError("bad numbers")
        return encode(samples)

    monkeypatch.setattr(recognizer, "encode_audio", fail_at_first)
    events = Events()
    stream = await run_patiently(ACTED, recognizer, events)
    assert stream.counters.failed_drafts == 2
    assert stream.counters.failed_utterances == 0
    assert len(events.of_phase("final")) == len(expected(ACTED))


class TenTimesTooSlow:
    """A model on a machine that cannot keep up: ten utterances are spoken while it works on one, until the last."""

    def __init__(self, model: object, method: str, last: int) -> None:
        self.spoken = Counters()
        self._model = model
        self._method = method
        self._last = last

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._model, name)
        return self._slowed(attribute) if name == self._method else attribute

    def _slowed(self, method: Callable[..., object]) -> Callable[..., object]:
        def slow(*arguments: object) -> object:
            until_then = min(self.spoken.utterances + 10, self._last)
            result = method(*arguments)
            while self.spoken.utterances < until_then:
                time.sleep(0.001)
            return result

        return slow


@dataclass(frozen=True)
class Moment:
    """The backlog after something was put there.

    tasks: that wait for one of the models' threads, at most.
    turns: that the dialogue remembers.
    """

    gave_way: list[Cut]
    waiting: list[Cut]
    in_work: int | None
    tasks: int
    turns: int

    @property
    def size(self) -> int:
        """Bytes of sound."""
        return sum(cut.utterance.samples.nbytes for cut in self.waiting)

    @property
    def unstarted(self) -> list[int]:
        return [cut.utterance.number for cut in self.waiting if cut.utterance.number != self.in_work]


def moments_of(stream: Pipeline, monkeypatch: pytest.MonkeyPatch) -> list[Moment]:
    """Grows while the stream runs."""
    backlog, workers, moments = stream._backlog, stream._analyst._workers, []
    threads = (workers.hearing, workers.faces, workers.speech, workers.voices, workers.encoders)
    put = backlog.put

    async def watched(cut: Cut) -> list[Cut]:
        gave_way = await put(cut)
        waiting = [*backlog._utterances, *([] if backlog._draft is None else [backlog._draft])]
        tasks = max(worker._work_queue.qsize() for worker in threads)
        moments.append(Moment(gave_way, waiting, backlog._in_work, tasks, len(stream.dialogue)))
        return gave_way

    monkeypatch.setattr(backlog, "put", watched)
    return moments


ROUNDS = 5


@pytest.fixture(scope="module")
def long_acted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The acted sentences, again and again: much more than may wait."""
    samples, rate_hz = soundfile.read(ACTED, dtype="float32")
    path = tmp_path_factory.mktemp("long") / "acted.flac"
    soundfile.write(path, np.tile(samples, ROUNDS), rate_hz)
    return path


@pytest.mark.parametrize("slow", ["encoding", "transcription"])
async def test_under_overload_capture_goes_on_and_drafts_go_before_utterances(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch, long_acted: Path, slow: str
) -> None:
    queue_max, count = 2, ROUNDS * len(expected(ACTED))
    settings = SETTINGS.model_copy(
        update={"recognition": SETTINGS.recognition.model_copy(update={"queue_max": queue_max})}
    )
    models: dict[str, Any] = {"recognizer": recognizer, "transcriber": None}
    if slow == "encoding":
        models["recognizer"] = slowed = TenTimesTooSlow(recognizer, "encode_audio", count)
    else:
        transcriber = await asyncio.to_thread(Transcriber.load, Transcription(model=ASR))
        models["transcriber"] = slowed = TenTimesTooSlow(transcriber, "transcribe", count)
    events = Events()
    async with open_source(Sources(media=str(long_acted), fast=True), rate_hz=5) as source:
        monkeypatch.setattr(type(source), "live", property(lambda _: True))
        stream = pipeline(source, events=events, settings=settings, drafts=True, **models)
        slowed.spoken = stream.counters
        moments = moments_of(stream, monkeypatch)
        running = asyncio.create_task(stream.run())
        await until(lambda: stream.counters.utterances == count)
        done_by_then = len(events.of_phase("final"))
        await running
        assert source.counters == SourceCounters()
    assert done_by_then <= count / 10  # everything was heard long before it was worked through

    # What is held: utterances, the one whose draft is being worked on, and a draft; a voice and a face to encode.
    waiting_max = queue_max + 1 + 1
    longest = max(cut.utterance.samples.nbytes for moment in moments for cut in moment.waiting)
    assert max(len(moment.waiting) for moment in moments) <= waiting_max
    assert max(moment.size for moment in moments) <= waiting_max * longest
    assert max(moment.tasks for moment in moments) <= 2
    assert max(moment.turns for moment in moments) <= settings.dialogue.turns_max

    # What gives way: the draft, as long as there is one; then the oldest utterance that is not being worked on.
    finals_gone = [
        (cut.utterance.number, moment) for moment in moments for cut in moment.gave_way if cut.utterance.over
    ]
    for number, moment in finals_gone:
        assert all(cut.utterance.over for cut in moment.waiting)
        assert number < min(moment.unstarted)
    drafts_gone = sum(not cut.utterance.over for moment in moments for cut in moment.gave_way)
    assert drafts_gone > len(events.of_phase("provisional"))
    finals = events.of_phase("final")
    assert [int(event.utterance[-5:]) for event in finals[-queue_max:]] == [count - 1, count]

    # What is told of it.
    status = Streams({"main": stream}, None, None, LoopLag()).status()
    told = json.loads(json.dumps(status))["pipeline"]
    assert told["utterances"] == count == len(finals) + len(finals_gone)
    assert told["dropped_utterances"] == len(finals_gone) > count / 2
    assert told["events"] == len(finals)
    assert told["provisional_events"] == len(events.of_phase("provisional"))
    assert told["dropped_drafts"] >= drafts_gone
    assert told["drafts"] == told["provisional_events"] + told["dropped_drafts"] + told["overtaken_drafts"]
    assert (told["failed_utterances"], told["failed_drafts"]) == (0, 0)


async def test_a_live_stream_drops_the_oldest_waiting_utterance_when_recognition_falls_behind(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encode, all_heard = recognizer.encode_audio, threading.Event()

    def wait_until_all_is_heard(samples: np.ndarray) -> object:
        all_heard.wait(60)
        return encode(samples)

    monkeypatch.setattr(recognizer, "encode_audio", wait_until_all_is_heard)
    settings = SETTINGS.model_copy(update={"recognition": SETTINGS.recognition.model_copy(update={"queue_max": 2})})
    events, count = Events(), len(expected(ACTED))
    async with open_source(Sources(media=str(ACTED), fast=True), rate_hz=5) as source:
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
