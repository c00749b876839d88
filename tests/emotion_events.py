"""Events to test with: one by number, and all that the schema allows."""

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import strategies as st

from streamer.events import BundleId, EmotionEvent, Heard, Latency, ModalityScores
from streamer.mqtt.info import Info
from telme.labels import MELD

BUNDLE = BundleId(name="test", sha256="0" * 64)
INFO = Info(bundle=BUNDLE, labels=("joy", "anger"), streams=("main",))


def emotion_event(number: int, *, stream: str = "main", phase: str = "final") -> EmotionEvent:
    """Event number `number` of a stream; its id is `event-<number>`."""
    began = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=2 * number)
    return EmotionEvent.model_validate(
        {
            "schema": "telme.emotion/1",
            "event_id": f"event-{number}",
            "node": "robot",
            "stream": stream,
            "utterance": f"utterance-{number}",
            "phase": phase,
            "revision": 0,
            "start_s": 2.0 * number,
            "end_s": 2.0 * number + 1,
            "started_at": began,
            "ended_at": began + timedelta(seconds=1),
            "end_reason": "silence",
            "speaker": "person",
            "transcript": {"text": f"Grüße, {number}!", "confidence": 0.9, "language": "de"},
            "emotion": "joy" if number % 2 else "anger",
            "scores": {"joy": 0.75, "anger": 0.25},
            "confidence": 0.75,
            "valence": 0.5,
            "arousal": -0.25,
            "modalities": {"text": {"joy": 0.75, "anger": 0.25}},
            "latency_ms": {"endpoint": 500, "queue": 1, "text": 20, "total": 600},
            "bundle": BUNDLE,
        }
    )


probabilities = st.floats(0, 1)
coordinates = st.floats(-1, 1)
milliseconds = st.floats(0, 1e9)
seconds = st.floats(0, 1e9)
scores = st.fixed_dictionaries(dict.fromkeys(MELD, probabilities))
zones = st.integers(-12, 14).map(lambda hours: timezone(timedelta(hours=hours)))
moments = st.datetimes(
    datetime(2000, 1, 2),
    datetime(2100, 1, 1),
    timezones=zones,
)
names = st.text(min_size=1, max_size=20)

emotion_events = st.builds(
    EmotionEvent,
    schema=st.just("telme.emotion/1"),
    event_id=names,
    node=names,
    stream=names,
    utterance=names,
    phase=st.sampled_from(["provisional", "final"]),
    revision=st.integers(0, 100),
    start_s=seconds,
    end_s=seconds,
    started_at=moments,
    ended_at=moments,
    end_reason=st.none() | st.sampled_from(["silence", "length", "gap", "stream_end"]),
    speaker=names,
    transcript=st.none() | st.builds(Heard, text=st.text(), confidence=probabilities, language=st.just("en")),
    emotion=st.sampled_from(MELD),
    scores=scores,
    confidence=probabilities,
    valence=coordinates,
    arousal=coordinates,
    modalities=st.builds(ModalityScores, text=st.none() | scores, audio=st.none() | scores, visual=st.none() | scores),
    latency_ms=st.builds(
        Latency,
        endpoint=milliseconds,
        queue=milliseconds,
        **dict.fromkeys(
            ["speculation", "transcription", "text", "audio", "visual", "fusion"], st.none() | milliseconds
        ),
        total=milliseconds,
    ),
    bundle=st.just(BUNDLE),
)
