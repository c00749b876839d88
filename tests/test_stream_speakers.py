"""Two people who share a microphone: `telme-stream --speakers` tells them apart in what it publishes and remembers."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from streams import run

from telme.corpora import waveforms

ANN, BEN = 12, 11  # actors of RAVDESS
TURNS = (ANN, BEN, BEN, ANN, BEN, ANN)


@pytest.fixture(scope="module")
def conversation(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Neutral and calm takes; each has a second of quiet before and after the sentence."""
    takes = {
        actor: sorted((corpora / "ravdess" / "audio").glob(f"03-01-0[12]-01-0?-0?-{actor}.flac"))
        for actor in (ANN, BEN)
    }
    sound = np.concatenate([waveforms.read(takes[actor].pop()) for actor in TURNS])
    path = tmp_path_factory.mktemp("mix") / "conversation.flac"
    soundfile.write(path, sound, 16_000)
    return path


@pytest.mark.slow
def test_two_people_in_one_microphone_have_two_names(conversation: Path) -> None:
    ended = run("--media", conversation, "--fast", "--speakers", "4", "--report")
    assert ended.code == 0, ended.log
    names = {ANN: "person-1", BEN: "person-2"}
    assert [event["speaker"] for event in ended.events] == [names[actor] for actor in TURNS]
    assert all(event["latency_ms"]["speaker"] > 0 for event in ended.events)
    assert "speakers: people 2, recognised 4, unlike 0, short 0" in ended.log


@pytest.mark.slow
def test_without_the_flag_nobody_is_told_apart(conversation: Path) -> None:
    ended = run("--media", conversation, "--fast", asr="none")
    assert [event["speaker"] for event in ended.events] == ["person"] * len(TURNS)
    assert all(event["latency_ms"]["speaker"] is None for event in ended.events)
