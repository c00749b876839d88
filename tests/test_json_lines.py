"""JSON lines: complete, in order, and never in the pipeline's way."""

import os
from pathlib import Path

import pytest
from emotion_events import emotion_event

from streamer.events import EmotionEvent
from streamer.json_lines import WAITING_MAX, JsonLines, OutputError


def test_every_event_is_one_line_in_order(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with path.open("w") as file, JsonLines(file) as lines:
        for number in range(50):
            lines.publish(emotion_event(number))
    read = [EmotionEvent.from_json(line) for line in path.read_text().splitlines()]
    assert read == [emotion_event(number) for number in range(50)]


@pytest.mark.parametrize(("provisional", "phases"), [(False, ["final"]), (True, ["provisional", "final"])])
def test_provisional_events_are_written_where_they_are_wanted(
    tmp_path: Path, provisional: bool, phases: list[str]
) -> None:
    path = tmp_path / "events.jsonl"
    with path.open("w") as file, JsonLines(file, provisional=provisional) as lines:
        lines.publish(emotion_event(1, phase="provisional"))
        lines.publish(emotion_event(1))
    assert [EmotionEvent.from_json(line).phase for line in path.read_text().splitlines()] == phases


def test_a_full_disk_is_an_error_with_a_sentence() -> None:
    with (
        Path("/dev/full").open("w") as full,
        pytest.raises(OutputError, match="/dev/full: No space left on device"),
        JsonLines(full) as lines,
    ):
        lines.publish(emotion_event(1))


def test_a_reader_that_stops_reading_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("streamer.json_lines.LAST_LINES_S", 0.1)
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as file:
        with JsonLines(file) as lines:
            for number in range(WAITING_MAX + 500):
                lines.publish(emotion_event(number))
        assert "did not take all of them" in caplog.text
        os.close(reader)
