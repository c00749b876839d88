"""Analyses -> events."""

import time
from datetime import timedelta

from streamer.analysis import Analysis
from streamer.backlog import Cut
from streamer.events import BundleId, EmotionEvent, Heard, Latency, ModalityScores
from streamer.settings import StreamSettings
from streamer.utterance import EndReason, Transcript


class EventMaker:
    """Makes the events of one stream.

    session: tells the utterances of this run from those of others.
    """

    def __init__(self, settings: StreamSettings, bundle: BundleId, session: str) -> None:
        self._settings = settings
        self._bundle = bundle
        self._session = session
        self._drafted = 0  # the utterance that was last spoken of provisionally
        self._revision = 0

    def reconfigure(self, settings: StreamSettings) -> None:
        """Go on with other settings; names stay as they are."""
        self._settings = settings

    def final(self, cut: Cut, analysis: Analysis) -> EmotionEvent:
        """Of an utterance that is over."""
        return self._event(cut, analysis, revision=0)

    def provisional(self, cut: Cut, analysis: Analysis) -> EmotionEvent:
        """Of a draft. The revisions of an utterance count from 0."""
        number = cut.utterance.number
        self._revision = self._revision + 1 if number == self._drafted else 0
        self._drafted = number
        return self._event(cut, analysis, self._revision)

    def _event(self, cut: Cut, analysis: Analysis, revision: int) -> EmotionEvent:
        utterance, recognition = cut.utterance, analysis.recognition
        name = f"{self._session}-{utterance.number:05d}"
        reason = utterance.reason
        return EmotionEvent(
            event_id=f"{name}-{'final' if utterance.over else 'provisional'}-{revision}",
            node=self._settings.node,
            stream=self._settings.stream,
            utterance=name,
            phase="final" if utterance.over else "provisional",
            revision=revision,
            start_s=utterance.start_s,
            end_s=utterance.end_s,
            started_at=cut.began_at + timedelta(seconds=utterance.start_s),
            ended_at=cut.began_at + timedelta(seconds=utterance.end_s),
            end_reason=reason.value if isinstance(reason, EndReason) else None,
            speaker=analysis.speaker,
            transcript=self._transcript(analysis),
            emotion=recognition.emotion,
            scores=dict(recognition.scores),
            confidence=recognition.confidence,
            valence=recognition.valence,
            arousal=recognition.arousal,
            modalities=ModalityScores(**{name: dict(scores) for name, scores in recognition.modality_scores.items()}),
            latency_ms=_latency(cut, analysis),
            bundle=self._bundle,
        )

    def _transcript(self, analysis: Analysis) -> Heard | None:
        heard = analysis.heard
        if not isinstance(heard, Transcript) or not self._settings.output.transcript:
            return None
        return Heard(text=heard.text, confidence=heard.confidence, language=heard.language)


def _latency(cut: Cut, analysis: Analysis) -> Latency:
    """Ends now: the event is about to be handed to its publishers."""
    begun_after_ms = 1000 * (analysis.begun_at - cut.at)
    late_ms = None if cut.late_s is None else 1000 * cut.late_s
    return Latency(
        endpoint=cut.utterance.silence_ms,
        source=late_ms,
        speculation=analysis.begun_ms if begun_after_ms < 0 else None,
        queue=max(begun_after_ms, 0.0),
        transcription=analysis.transcription_ms,
        speaker=analysis.voice.elapsed_ms if analysis.voice else None,
        **dict(analysis.recognition.elapsed_ms),
        total=cut.utterance.silence_ms + (late_ms or 0.0) + 1000 * (time.monotonic() - cut.at),
    )
