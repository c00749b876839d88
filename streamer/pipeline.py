"""The live pipeline: listen and watch, cut utterances, hear what was said, recognise the emotion, publish it.

Four tasks with bounded hand-over between them. The event loop only passes things on: everything that
computes runs in worker threads, one for each of faces, transcription and the encoders.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeVar

from streamer.backlog import Backlog
from streamer.dialogue import Dialogue
from streamer.events import BundleId, EmotionEvent, Heard, Latency, ModalityScores
from streamer.segmenter import Segmenter
from streamer.settings import StreamSettings
from streamer.signals import SAMPLE_RATE_HZ, AudioChunk, Source
from streamer.transcriber import Transcriber
from streamer.utterance import EndReason, Rejected, Transcript, Utterance
from streamer.watcher import PictureCounters, Prepared, Watcher
from telme.runtime.encoders import Encoded
from telme.runtime.recognition import Recognition
from telme.runtime.recognizer import Recognizer

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

# A camera's last pictures of an utterance are looked at within this time, or the event goes out without them.
PICTURE_WAIT_S = 0.3
# Speech that is found now began at most this long ago; older pictures are nobody's while all is silent.
PICTURE_MEMORY_S = 5.0


class Sink(Protocol):
    """Takes events: a publisher, a view, a stream of JSON lines."""

    def publish(self, event: EmotionEvent) -> None:
        """Must return at once; a sink that delivers slowly queues, bounds and counts by itself."""
        ...


@dataclass
class Counters:
    """What the pipeline did since it started. Every utterance that was cut ends in exactly one of the last three."""

    utterances: int = 0
    rejected_transcripts: int = 0
    paused_samples: int = 0
    events: int = 0
    dropped_utterances: int = 0
    failed_utterances: int = 0

    @property
    def pending(self) -> int:
        """Utterances that were cut and have not ended yet."""
        return self.utterances - self.events - self.dropped_utterances - self.failed_utterances


@dataclass(frozen=True)
class _Cut:
    """An utterance and the moment (monotonic seconds) at which it was declared over."""

    utterance: Utterance
    cut_at: float


@dataclass
class _Workers:
    """One thread for each kind of model, so that each runs alone and in order."""

    faces: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "faces"))
    speech: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "speech"))
    encoders: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "encoders"))

    def shut_down(self) -> None:
        for worker in (self.faces, self.speech, self.encoders):
            worker.shutdown(wait=False, cancel_futures=True)


class Pipeline:
    """One stream of conversation, from an open source to events.

    transcriber: None where no speech recogniser is wanted; then text is missing from every utterance.
    clock: wall-clock time of now, for the events' time stamps.
    """

    def __init__(
        self,
        settings: StreamSettings,
        source: Source,
        segmenter: Segmenter,
        transcriber: Transcriber | None,
        recognizer: Recognizer,
        sinks: Sequence[Sink],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.counters = Counters()
        self.dialogue = Dialogue(settings.dialogue)
        self.segmenter = segmenter
        self.source = source
        self.paused = False
        self._settings = settings
        self._transcriber = transcriber
        self._recognizer = recognizer
        self._sinks = sinks
        self._clock = clock
        self._workers = _Workers()
        self._watcher = Watcher(recognizer.prepare_frame, self._workers.faces)
        self._backlog: Backlog[_Cut] = Backlog(settings.recognition.queue_max, drop_oldest=source.live)
        self._session = uuid.uuid4().hex[:12]
        self._began_at = clock()
        self._now = 0  # end of what was heard, in samples of the stream clock
        self._stop = asyncio.Event()

    @property
    def pictures(self) -> PictureCounters:
        return self._watcher.counters

    async def run(self) -> None:
        """Runs until the source ends or `stop` is called; then the utterance in hand is finished."""
        self._began_at = self._clock()
        try:
            watching = asyncio.create_task(self._watcher.watch(self.source.frames()), name="watch")
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._listen(), name="listen")
                    tasks.create_task(self._recognise_all(), name="recognise")
            except ExceptionGroup as failures:
                raise failures.exceptions[0] from None
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
        finally:
            self._workers.shut_down()

    def stop(self) -> None:
        """Listen no further, finish what was heard, and let `run` return."""
        self._stop.set()

    def hear(self, speaker: str | None, text: str) -> None:
        """Take what no source hears into the dialogue; without a speaker, the robot itself said it."""
        self.dialogue.add(speaker or self._settings.dialogue.robot, text, self._now / SAMPLE_RATE_HZ)

    async def _listen(self) -> None:
        """Chunks -> utterances."""
        gap_s = self._settings.segmentation.gap_ms / 1000 if self.source.live else None
        try:
            async with aclosing(_until(self._stop, self.source.audio(), gap_s)) as chunks:
                async for chunk in chunks:
                    await self._take(chunk)
            for utterance in self.segmenter.flush(EndReason.STREAM_END):
                await self._enqueue(utterance)
        finally:
            await self._backlog.close()

    async def _take(self, chunk: AudioChunk | None) -> None:
        if chunk is None:
            utterances = self.segmenter.flush(EndReason.GAP)
        elif self.paused:
            utterances = self.segmenter.flush(EndReason.GAP)
            self.counters.paused_samples += len(chunk.samples)
            self._now = chunk.end
        else:
            utterances = self.segmenter.push(chunk)
            self._now = chunk.end
        for utterance in utterances:
            await self._enqueue(utterance)
        if not self.counters.pending and not self.segmenter.speaking:
            self._watcher.forget_before(self._now / SAMPLE_RATE_HZ - PICTURE_MEMORY_S)

    async def _enqueue(self, utterance: Utterance) -> None:
        self.counters.utterances += 1
        dropped = await self._backlog.put(_Cut(utterance, time.monotonic()))
        if dropped is not None:
            self.counters.dropped_utterances += 1
            logger.warning(
                "recognition falls behind: dropped the oldest waiting utterance",
                extra={"utterance": dropped.utterance.number, "dropped": self.counters.dropped_utterances},
            )

    async def _recognise_all(self) -> None:
        """Utterances -> events, in order."""
        while (cut := await self._backlog.get()) is not None:
            self._watcher.forget_before(cut.utterance.start_s)
            try:
                event = await self._recognise(cut)
            except Exception:
                # One utterance that a model cannot digest must not end a stream that runs for months.
                self.counters.failed_utterances += 1
                logger.exception("an utterance could not be recognised", extra={"utterance": cut.utterance.number})
                continue
            for sink in self._sinks:
                sink.publish(event)
            self.counters.events += 1

    async def _recognise(self, cut: _Cut) -> EmotionEvent:
        utterance, begun_at = cut.utterance, time.monotonic()
        (heard, transcription_ms), audio, visual = await asyncio.gather(
            self._transcribe(utterance),
            self._in(self._workers.encoders, self._recognizer.encode_audio, utterance.samples),
            self._see(utterance),
        )
        text = None
        if isinstance(heard, Transcript):
            speaker = self._settings.dialogue.speaker
            turns = self.dialogue.context(speaker, heard.text, utterance.end_s)
            text = await self._in(self._workers.encoders, self._recognizer.encode_text, turns)
            self.dialogue.add(speaker, heard.text, utterance.end_s)
        recognition = await self._in(
            self._workers.encoders, lambda: self._recognizer.fuse(text=text, audio=audio, visual=visual)
        )
        return self._event(cut, heard, recognition, transcription_ms, begun_at)

    async def _transcribe(self, utterance: Utterance) -> tuple[Transcript | Rejected | None, float | None]:
        if self._transcriber is None:
            return None, None
        started = time.perf_counter()
        heard = await self._in(self._workers.speech, self._transcriber.transcribe, utterance.samples)
        if isinstance(heard, Rejected):
            self.counters.rejected_transcripts += 1
            logger.info("transcript rejected: %s", heard.reason, extra={"utterance": utterance.number})
        elif self._settings.log.transcripts:
            logger.info("heard %r", heard.text, extra={"utterance": utterance.number})
        return heard, 1000 * (time.perf_counter() - started)

    async def _see(self, utterance: Utterance) -> Encoded | None:
        # A file hands out sound only after the pictures before it were looked at.
        wait_s = PICTURE_WAIT_S if self.source.live else 0.0
        frames: list[Prepared] = await self._watcher.between(utterance.start_s, utterance.end_s, wait_s)
        return await self._in(self._workers.encoders, self._recognizer.encode_visual, frames)

    async def _in(self, worker: Executor, function: Callable[..., Result], *arguments: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(worker, function, *arguments)

    def _event(
        self,
        cut: _Cut,
        heard: Transcript | Rejected | None,
        recognition: Recognition,
        transcription_ms: float | None,
        begun_at: float,
    ) -> EmotionEvent:
        utterance = cut.utterance
        name = f"{self._session}-{utterance.number:05d}"
        endpoint_ms = 1000 * (utterance.endpoint - utterance.end) / SAMPLE_RATE_HZ
        transcript = heard if isinstance(heard, Transcript) and self._settings.output.transcript else None
        return EmotionEvent(
            event_id=f"{name}-final-0",
            node=self._settings.node,
            stream=self._settings.stream,
            utterance=name,
            phase="final",
            revision=0,
            start_s=utterance.start_s,
            end_s=utterance.end_s,
            started_at=self._began_at + timedelta(seconds=utterance.start_s),
            ended_at=self._began_at + timedelta(seconds=utterance.end_s),
            end_reason=utterance.reason.value,
            speaker=self._settings.dialogue.speaker,
            transcript=Heard(text=transcript.text, confidence=transcript.confidence, language=transcript.language)
            if transcript
            else None,
            emotion=recognition.emotion,
            scores=dict(recognition.scores),
            confidence=recognition.confidence,
            valence=recognition.valence,
            arousal=recognition.arousal,
            modalities=ModalityScores(**{name: dict(scores) for name, scores in recognition.modality_scores.items()}),
            latency_ms=Latency(
                endpoint=endpoint_ms,
                queue=1000 * (begun_at - cut.cut_at),
                transcription=transcription_ms,
                **dict(recognition.elapsed_ms),
                total=endpoint_ms + 1000 * (time.monotonic() - cut.cut_at),
            ),
            bundle=BundleId(name=self._recognizer.bundle.manifest.name, sha256=self._recognizer.bundle.sha256),
        )


async def _until(
    stop: asyncio.Event, chunks: AsyncIterator[AudioChunk], silence_s: float | None
) -> AsyncGenerator[AudioChunk | None, None]:
    """The chunks until they end or `stop` is set; None each time that none came for `silence_s` seconds."""
    stopped = asyncio.create_task(stop.wait(), name="stop")
    arriving = asyncio.ensure_future(anext(chunks))
    try:
        while True:
            done, _ = await asyncio.wait({arriving, stopped}, timeout=silence_s, return_when=asyncio.FIRST_COMPLETED)
            if stopped in done:
                return
            if arriving not in done:
                yield None
                continue
            try:
                chunk = arriving.result()
            except StopAsyncIteration:
                return
            arriving = asyncio.ensure_future(anext(chunks))
            yield chunk
    finally:
        for task in (arriving, stopped):
            task.cancel()
        await asyncio.gather(arriving, stopped, return_exceptions=True)
