"""Utterance -> its words, and the emotion that words, voice and face show."""

import asyncio
import time
from dataclasses import dataclass, replace

from streamer.backlog import Cut
from streamer.dialogue import Dialogue
from streamer.speakers import Speakers, Voice
from streamer.speaking_face import Seats, speaking_face
from streamer.stages import Stages
from streamer.transcriber import Transcriber
from streamer.utterance import Rejected, Transcript, Unfinished, Utterance
from streamer.voices import VoiceReader
from streamer.watcher import Watcher
from streamer.workers import Workers, run_in
from telme.features.text import Turn
from telme.runtime.encoders import Encoded
from telme.runtime.fusion import Encodings
from telme.runtime.recognition import Recognition

# A camera's last pictures of an utterance are looked at within this time, or the event goes out without them.
PICTURE_WAIT_S = 0.3


@dataclass(frozen=True)
class Analysis:
    """What was made of an utterance or a draft.

    heard: its words, or why they are not believed; None where nobody listened for words.
    turns: the dialogue that the text teacher read; None without words.
    voice: None where nobody is told apart.
    seats: None where the camera does not see several people.
    speaker: whom it is taken for.
    audio, visual: None where there is too little sound, or no face.
    transcription_ms: None where nobody listened for words.
    begun_at: monotonic seconds.
    begun_ms: from the end of speech until work began.
    took_ms: from the beginning of the work to its end.
    """

    heard: Transcript | Rejected | None
    turns: tuple[Turn, ...] | None
    voice: Voice | None
    seats: Seats | None
    speaker: str
    audio: Encoded | None
    visual: Encoded | None
    recognition: Recognition
    transcription_ms: float | None
    begun_at: float
    begun_ms: float
    took_ms: float


class Analyst:
    """Analyses the utterances of one source, in worker threads.

    transcriber: None where no speech recogniser is wanted; then text is missing from every utterance.
    voices: None where nobody is told apart.
    live: whether pictures may arrive later than the sound that was recorded with them.
    The dialogue and the speakers are read, never added to.
    """

    def __init__(
        self,
        transcriber: Transcriber | None,
        voices: VoiceReader | None,
        stages: Stages,
        watcher: Watcher,
        dialogue: Dialogue,
        speakers: Speakers,
        workers: Workers,
        *,
        live: bool,
    ) -> None:
        self._transcriber = transcriber
        self._voices = voices
        self._stages = stages
        self._watcher = watcher
        self._dialogue = dialogue
        self._speakers = speakers
        self._workers = workers
        self._live = live

    async def analyse(self, cut: Cut) -> Analysis:
        """Everything, for an utterance and in a pause; only voice and face while somebody speaks.

        Raises whatever a model raises that cannot digest its input.
        """
        utterance, begun_at = cut.utterance, time.monotonic()
        listening = asyncio.ensure_future(self._listen(utterance))
        reading_voice = asyncio.ensure_future(self._read_voice(utterance))
        encoding_audio = asyncio.ensure_future(self._stages.encode_audio(utterance.samples))
        looking = asyncio.ensure_future(self._look(utterance))
        # All of them, also where one fails: none may still be at work when the next utterance has its turn.
        await asyncio.gather(listening, reading_voice, encoding_audio, looking, return_exceptions=True)
        heard, transcription_ms = listening.result()
        voice, audio, (visual, seats) = reading_voice.result(), encoding_audio.result(), looking.result()
        speaker = self._speakers.name_of(voice, seats)
        turns = self._turns(utterance, speaker, heard)
        recognition = await self._recognise(heard, turns, audio, visual)
        return Analysis(
            heard=heard,
            turns=turns,
            voice=voice,
            seats=seats,
            speaker=speaker,
            audio=audio,
            visual=visual,
            recognition=recognition,
            transcription_ms=transcription_ms,
            begun_at=begun_at,
            begun_ms=utterance.silence_ms + 1000 * (begun_at - cut.at),
            took_ms=1000 * (time.monotonic() - begun_at),
        )

    async def renew(self, analysis: Analysis, utterance: Utterance) -> Analysis:
        """The analysis as it would be now: the text is read again if there are new turns before it."""
        speaker = self._speakers.name_of(analysis.voice, analysis.seats)
        turns = self._turns(utterance, speaker, analysis.heard)
        if turns == analysis.turns:
            return replace(analysis, speaker=speaker)
        recognition = await self._recognise(analysis.heard, turns, analysis.audio, analysis.visual)
        return replace(analysis, turns=turns, speaker=speaker, recognition=recognition)

    async def _listen(self, utterance: Utterance) -> tuple[Transcript | Rejected | None, float | None]:
        if self._transcriber is None or utterance.reason is Unfinished.SPEAKING:
            return None, None
        started = time.perf_counter()
        heard = await run_in(self._workers.speech, self._transcriber.transcribe, utterance.samples)
        return heard, 1000 * (time.perf_counter() - started)

    async def _read_voice(self, utterance: Utterance) -> Voice | None:
        if self._voices is None:
            return None
        return await run_in(self._workers.voices, self._voices.read, utterance)

    async def _look(self, utterance: Utterance) -> tuple[Encoded | None, Seats | None]:
        # A file hands out sound only after the pictures before it were looked at. Who still speaks is not waited for.
        wait_s = PICTURE_WAIT_S if self._live and utterance.reason is not Unfinished.SPEAKING else 0.0
        pictures = await self._watcher.between(utterance.start_s, utterance.end_s, wait_s)
        face = speaking_face(pictures)
        return await self._stages.encode_visual(face.pixels), face.seats

    def _turns(
        self, utterance: Utterance, speaker: str, heard: Transcript | Rejected | None
    ) -> tuple[Turn, ...] | None:
        if not isinstance(heard, Transcript):
            return None
        return self._dialogue.context(speaker, heard.text, utterance.end_s)

    async def _recognise(
        self,
        heard: Transcript | Rejected | None,
        turns: tuple[Turn, ...] | None,
        audio: Encoded | None,
        visual: Encoded | None,
    ) -> Recognition:
        text = None if turns is None else await self._stages.encode_text(turns)
        confidence = heard.confidence if isinstance(heard, Transcript) else None
        return await self._stages.fuse(Encodings(text, audio, visual, confidence))
