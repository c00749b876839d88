"""The event schema: what is published fits it, and comes back as it was."""

import json
import math
import re
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brokers import Mosquitto, Subscriber
from emotion_events import emotion_event, emotion_events
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from streamer.events import EmotionEvent, json_schema
from telme.labels import valence_arousal

EXPORTED = Path(__file__).parents[1] / "docs" / "event.schema.json"
validator = Draft202012Validator(json.loads(EXPORTED.read_text(encoding="utf-8")))


def test_the_exported_schema_is_this_one() -> None:
    how = "write it again with: telme-stream --print-schema > docs/event.schema.json"
    assert json.loads(EXPORTED.read_text(encoding="utf-8")) == json_schema(), how
    Draft202012Validator.check_schema(json_schema())


@given(emotion_events)
def test_any_event_fits_the_schema_and_survives_the_journey(event: EmotionEvent) -> None:
    text = event.to_json()
    validator.validate(json.loads(text, parse_constant=pytest.fail))
    assert EmotionEvent.from_json(text) == event
    assert EmotionEvent.from_json(text.encode()).to_json() == text


def test_the_documented_event_is_valid() -> None:
    documentation = (EXPORTED.parent / "events.md").read_text(encoding="utf-8")
    example = documentation.split("```json\n")[1].split("```")[0]
    validator.validate(json.loads(example))
    event = EmotionEvent.from_json(example)
    assert re.fullmatch(r"[0-9a-f]{12}-\d{5}", event.utterance)
    assert event.event_id == f"{event.utterance}-{event.phase}-{event.revision}"
    assert event.emotion == max(event.scores, key=event.scores.__getitem__)
    probabilities = [event.scores, event.modalities.text, event.modalities.audio]
    assert [sum(scores.values()) for scores in probabilities] == pytest.approx([1, 1, 1])
    coordinates = valence_arousal(np.array(list(event.scores.values())), tuple(event.scores))
    assert (event.valence, event.arousal) == pytest.approx(coordinates, abs=0.005)


def fields(schema: dict[str, Any]) -> set[str]:
    named = [schema, *schema["$defs"].values()]
    return {name for part in named for name in part["properties"]}


def test_every_field_is_documented() -> None:
    documentation = (EXPORTED.parent / "events.md").read_text(encoding="utf-8")
    assert {name for name in fields(json_schema()) if f"`{name}`" not in documentation} == set()


numbers = [
    ["start_s"],
    ["end_s"],
    ["confidence"],
    ["valence"],
    ["arousal"],
    ["scores", "joy"],
    ["modalities", "text", "joy"],
    ["transcript", "confidence"],
    ["latency_ms", "total"],
]


@given(st.sampled_from(numbers), st.sampled_from([math.nan, math.inf, -math.inf, -1.5]))
def test_what_is_no_number_or_out_of_range_is_refused(path: list[str], value: float) -> None:
    event = json.loads(emotion_event(1).to_json())
    part = event
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    with pytest.raises(ValidationError):
        EmotionEvent.model_validate(event)
    with pytest.raises(ValidationError):
        EmotionEvent.from_json(json.dumps(event))


def changed(**fields: Any) -> dict[str, Any]:
    return json.loads(emotion_event(1).to_json()) | fields


@pytest.mark.parametrize(
    "event",
    [
        changed(schema="telme.emotion/2"),
        changed(phase="maybe"),
        changed(revision=-1),
        changed(mood="good"),
        changed(started_at="2026-01-01T00:00:00"),
        changed(started_at="yesterday"),
        changed(bundle={"name": "x", "sha256": "abc"}),
        {key: value for key, value in changed().items() if key != "emotion"},
    ],
)
def test_what_does_not_fit_is_refused_by_code_and_schema(event: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        EmotionEvent.from_json(json.dumps(event))
    assert not validator.is_valid(event)


def test_times_go_out_in_utc() -> None:
    berlin = datetime(2026, 7, 1, 12, 0, 0, 250_000, tzinfo=timezone(timedelta(hours=2)))
    event = EmotionEvent.model_validate(changed(started_at=berlin))
    assert event.started_at == datetime(2026, 7, 1, 10, 0, 0, 250_000, tzinfo=UTC)
    assert '"started_at":"2026-07-01T10:00:00.250000Z"' in event.to_json()


def test_the_documented_subscriber_works(mosquitto: Mosquitto) -> None:
    documentation = (EXPORTED.parent / "events.md").read_text(encoding="utf-8")
    program = documentation.split("```python\n")[1].split("```")[0]
    program = program.replace('"localhost", 1883', f'"127.0.0.1", {mosquitto.port}')
    with Subscriber(mosquitto.port) as speaking:
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        try:
            assert child.stdout is not None
            publishing = threading.Event()

            def publish() -> None:
                while not publishing.wait(0.2):
                    speaking.publish("telme/robot/main/utterance", emotion_event(1).to_json())

            thread = threading.Thread(target=publish)
            thread.start()
            line = child.stdout.readline()
            publishing.set()
            thread.join()
        finally:
            child.kill()
            child.communicate()
    assert line == "person: Grüße, 1! [joy 75%]\n"
