"""The live pipeline: capture webcam and microphone, cut utterances with VAD, transcribe them, keep a rolling dialogue,
run the fusion per utterance, publish emotions.

Three tasks with bounded hand-over between them: one watches, one listens, one recognises. The event loop only passes
things on: everything that computes runs in worker threads.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from streamer import chunks
from streamer.analysis import Analysis, Analyst
from streamer.backlog import Backlog, Cut
from streamer.dialogue import Dialogue
from streamer.event_maker import EventMaker
from streamer.events import BundleId, EmotionEvent
from streamer.health import Vitals
from streamer.models import Models
from streamer.segmenter import Segmenter
from streamer.settings import StreamSettings
from streamer.signals import SAMPLE_RATE_HZ, AudioChunk, Source, VideoFrame
from streamer.speakers import SpeakerCounters, Speakers
from streamer.speculation import Speculation, SpeculationCounters
from streamer.utterance import EndReason, Rejected, Transcript, Unfinished, Utterance
from streamer.wall_clock import WallClock
from streamer.watcher import PictureCounters, Watcher
from streamer.workers import run_in

log = logging.getLogger(__name__)

# Speech that is found now began at most this long ago; older pictures are nobody's while all is silent.
PICTURE_MEMORY_S = 5.0


class Sink(Protocol):
    """Takes events: a publisher, a view, a stream of JSON lines."""

    def publish(self, event: EmotionEvent) -> None:
        """Must return at once; a sink that delivers slowly queues, bounds and counts by itself."""
        ...


@dataclass
class Counters:
    """What the pipeline did since it started.

    Every one of the `utterances` ends in exactly one of `events`, `dropped_utterances` and `failed_utterances`. Every
    one of the `drafts` ends in exactly one of `provisional_events`, `dropped_drafts` (more was said before their
    turn), `overtaken_drafts` (their utterance was over when the work was done) and `failed_drafts`.
    """

    utterances: int = 0
    rejected_transcripts: int = 0
    paused_samples: int = 0
    events: int = 0
    dropped_utterances: int = 0
    failed_utterances: int = 0
    drafts: int = 0
    provisional_events: int = 0
    dropped_drafts: int = 0
    overtaken_drafts: int = 0
    failed_drafts: int = 0

    @property
    def finished(self) -> int:
        """Utterances and drafts that recognition is done with."""
        utterances = self.events + self.failed_utterances
        return utterances + self.provisional_events + self.overtaken_drafts + self.failed_drafts

    @property
    def pending(self) -> int:
        """Utterances that were cut and have not ended yet."""
        return self.utterances - self.events - self.dropped_utterances - self.failed_utterances

    @property
    def pending_drafts(self) -> int:
        """Drafts that were made and have not ended yet."""
        ended = self.provisional_events + self.dropped_drafts + self.overtaken_drafts + self.failed_drafts
        return self.drafts - ended


class Pipeline:
    """One stream of conversation, from an open source to events.

    segmenter: one that makes drafts has their emotion published provisionally, and makes final events early.
    models: may be those of other streams, too. Without a speech recogniser text is missing from every utterance, and
        without a reader of voices nobody is told apart.
    clock: wall-clock time of now, for the events' time stamps.
    """

    def __init__(
        self,
        settings: StreamSettings,
        source: Source,
        segmenter: Segmenter,
        models: Models,
        sinks: Sequence[Sink],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.counters = Counters()
        self.dialogue = Dialogue(settings.dialogue)
        self.segmenter = segmenter
        self.source = source
        self.paused = False
        self._settings = settings
        self._sinks = sinks
        self._wall_clock = WallClock(clock, source.live)
        self._hearing = models.workers.hearing
        self._watcher = Watcher(models.recognizer.see, models.workers.faces)
        self._backlog = Backlog(settings.recognition.queue_max, drop_oldest=source.live)
        self._place = models.scheduler.join(urgent=lambda: self._backlog.first.utterance.over)
        self._speakers = Speakers(settings.speakers, settings.dialogue.speaker)
        self._analyst = Analyst(
            models.transcriber,
            models.voices,
            models.stages,
            self._watcher,
            self.dialogue,
            self._speakers,
            models.workers,
            live=source.live,
        )
        self._speculation = Speculation()
        bundle = models.recognizer.bundle
        bundle_id = BundleId(name=bundle.manifest.name, sha256=bundle.sha256)
        self._events = EventMaker(settings, bundle_id, session=uuid.uuid4().hex[:12])
        self._now = 0  # end of what was heard, in samples of the stream clock
        self._stop = asyncio.Event()

    @property
    def pictures(self) -> PictureCounters:
        return self._watcher.counters

    @property
    def speculation(self) -> SpeculationCounters:
        return self._speculation.counters

    @property
    def speakers(self) -> SpeakerCounters:
        return self._speakers.counters

    @property
    def vitals(self) -> Vitals:
        return Vitals(
            stream=self._settings.stream,
            heard_s=self.heard_s if self.source.live else None,
            finished=self.counters.finished,
            waits=self.counters.pending > 0 or self.counters.pending_drafts > 0,
            blind=self.pictures.broken > 0,
            patience_s=self.source.patience_s,
        )

    def status(self) -> dict[str, Any]:
        """Everything that is counted, ready for JSON."""
        return {
            "paused": self.paused,
            "speaking": self.segmenter.speaking,
            "dialogue_turns": len(self.dialogue),
            "pipeline": asdict(self.counters),
            "speculation": asdict(self.speculation),
            "speakers": asdict(self.speakers),
            "segmenter": asdict(self.segmenter.counters),
            "pictures": asdict(self.pictures),
            "source": asdict(self.source.counters),
        }

    @property
    def heard_s(self) -> float:
        """The end of what was heard, on the stream clock."""
        return self._now / SAMPLE_RATE_HZ

    def reconfigure(self, settings: StreamSettings) -> None:
        """Go on with other values of those settings that are `reloadable`, the models' apart."""
        self._settings = settings
        self.segmenter.reconfigure(settings.segmentation)
        self.segmenter.tune(settings.vad)
        self.dialogue.reconfigure(settings.dialogue)
        self._events.reconfigure(settings)

    async def run(self) -> None:
        """Runs until the source ends or `stop` is called; then the utterance in hand is finished."""
        self._wall_clock.begin()
        watching = asyncio.create_task(self._watcher.watch(self._frames()), name="watch")
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen(), name="listen")
                tasks.create_task(self._recognise(), name="recognise")
        except ExceptionGroup as failures:
            failure = failures.exceptions[0]
            raise failure from failure.__cause__
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    def stop(self) -> None:
        """Listen no further, finish what was heard, and let `run` return."""
        self._stop.set()

    def reset_dialogue(self) -> None:
        """Begin anew, perhaps with other people: turns and voices are forgotten."""
        self.dialogue.reset()
        self._speakers.reset()

    def hear(self, speaker: str | None, text: str) -> None:
        """Take what no source hears into the dialogue; without a speaker, the robot itself said it."""
        self.dialogue.add(speaker or self._settings.dialogue.robot, text, self.heard_s)

    async def _listen(self) -> None:
        """Sound -> utterances and drafts."""
        gap_s = max(self._settings.segmentation.gap_ms / 1000, self.source.patience_s) if self.source.live else None
        try:
            async with aclosing(chunks.until(self._stop, self.source.audio(), gap_s)) as arriving:
                async for chunk in arriving:
                    await self._take(chunk)
            for utterance in self.segmenter.flush(EndReason.STREAM_END):
                await self._hand_over(utterance)
        finally:
            await self._backlog.close()

    async def _frames(self) -> AsyncIterator[VideoFrame]:
        """The source's; while the stream is paused, nobody is looked at."""
        async for frame in self.source.frames():
            if not self.paused:
                yield frame

    async def _take(self, chunk: AudioChunk | None) -> None:
        if chunk is None:
            if self.segmenter.speaking:
                log.warning("no sound comes any more at %.2f s: the utterance in hand ends", self.heard_s)
            utterances = self.segmenter.flush(EndReason.GAP)
        elif self.paused:
            utterances = self.segmenter.pause()
            self.counters.paused_samples += len(chunk.samples)
            self._hear_until(chunk.end)
        else:
            utterances = await run_in(self._hearing, self.segmenter.push, chunk)
            self._hear_until(chunk.end)
        for utterance in utterances:
            await self._hand_over(utterance)
        if not self.counters.pending and not self.segmenter.speaking:
            self._watcher.forget_before(self.heard_s - PICTURE_MEMORY_S)

    def _hear_until(self, end: int) -> None:
        self._now = end
        self._wall_clock.heard(self.heard_s)

    async def _hand_over(self, utterance: Utterance) -> None:
        if utterance.over:
            self.counters.utterances += 1
        else:
            self.counters.drafts += 1
        # In a gap no sound tells the end.
        told = utterance.reason is not EndReason.GAP
        late_s = self._wall_clock.late_s(utterance.endpoint / SAMPLE_RATE_HZ) if told else None
        cut = Cut(utterance, time.monotonic(), self._wall_clock.began_at(utterance.number), late_s)
        for dropped in await self._backlog.put(cut):
            if not dropped.utterance.over:
                self.counters.dropped_drafts += 1
                continue
            self.counters.dropped_utterances += 1
            log.warning(
                "recognition falls behind: dropped the oldest waiting utterance",
                extra={"utterance": dropped.utterance.number, "dropped": self.counters.dropped_utterances},
            )

    async def _recognise(self) -> None:
        """Utterances and drafts -> events, in order."""
        while await self._backlog.filled():
            if self._speculation.holds(self._backlog.first.utterance):
                await self._work_on(await self._backlog.take())  # worked out in the pause: no turn is needed
                continue
            async with self._place:
                await self._work_on(await self._backlog.take())

    async def _work_on(self, cut: Cut) -> None:
        self._watcher.forget_before(cut.utterance.start_s)
        if cut.utterance.over:
            await self._finish(cut)
        else:
            await self._sketch(cut)

    async def _finish(self, cut: Cut) -> None:
        """Publish the final event, for which everything may have been worked out in the pause before."""
        early = self._speculation.take(cut.utterance)
        try:
            analysis = await (self._analyst.renew(early, cut.utterance) if early else self._analyst.analyse(cut))
        except Exception:
            # One utterance that a model cannot digest must not end a stream that runs for months.
            self.counters.failed_utterances += 1
            log.exception("an utterance could not be recognised", extra={"utterance": cut.utterance.number})
            return
        self._remember(cut.utterance, analysis)
        self._publish(self._events.final(cut, analysis))
        self.counters.events += 1

    async def _sketch(self, cut: Cut) -> None:
        """Work on an utterance that may go on, and publish what can be said of it so far."""
        is_pause = cut.utterance.reason is Unfinished.PAUSE
        if is_pause and self.segmenter.speech_end != cut.utterance.end:
            self.counters.dropped_drafts += 1  # more was said before its turn came
            return
        try:
            analysis = await self._analyst.analyse(cut)
        except Exception:
            self.counters.failed_drafts += 1
            log.exception("a draft could not be recognised", extra={"utterance": cut.utterance.number})
            return
        if is_pause:
            self._speculation.keep(cut.utterance, analysis)
        if self._backlog.has_utterance(cut.utterance.number):
            self.counters.overtaken_drafts += 1
            return
        self._publish(self._events.provisional(cut, analysis))
        self.counters.provisional_events += 1

    def _remember(self, utterance: Utterance, analysis: Analysis) -> None:
        """Make what was said in an utterance that is over part of the dialogue, and whose voice it was known."""
        if analysis.voice is not None and not isinstance(analysis.heard, Rejected):
            self._speakers.learn(analysis.voice, analysis.seats)
        match analysis.heard:
            case Transcript(text=text):
                self.dialogue.add(analysis.speaker, text, utterance.end_s, heard=True)
                if self._settings.log.transcripts:
                    log.info("heard %r", text, extra={"utterance": utterance.number})
            case Rejected(reason=reason):
                self.counters.rejected_transcripts += 1
                log.info("transcript rejected: %s", reason, extra={"utterance": utterance.number})

    def _publish(self, event: EmotionEvent) -> None:
        for sink in self._sinks:
            sink.publish(event)
