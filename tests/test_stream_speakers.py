"""Two people who share a microphone: `telme-stream --speakers` tells them apart in what it publishes and remembers."""

import subprocess
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


STILL = "trim=end_frame=1,loop=-1:1,setpts=N/25/TB,noise=alls=6:allf=t"  # the first picture all the time, with grain


@pytest.fixture(scope="module")
def footage(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of GRID's heads side by side, whose voices have a cosine of 0.70; each says a sentence, twice."""
    left, right = (corpora / "clips" / f"grid_{name}.mpg" for name in ("bbaf2n", "lbax4n"))
    folder = tmp_path_factory.mktemp("seen")
    turns = [
        _encoded(left, right, f"[1:v]{STILL}[listens];[0:v][listens]hstack=shortest=1", folder / "left.mkv"),
        _encoded(right, left, f"[1:v]{STILL}[listens];[listens][0:v]hstack=shortest=1", folder / "right.mkv"),
    ]
    listing = folder / "turns.txt"
    listing.write_text("".join(f"file '{turn.name}'\n" for turn in turns * 2))
    path = folder / "conversation.mkv"
    subprocess.run(["ffmpeg", "-v", "error", "-f", "concat", "-i", listing, "-c", "copy", path], check=True)
    return path


def _encoded(speaker: Path, listener: Path, pictures: str, path: Path) -> Path:
    ways = ["-filter_complex", f"{pictures}[v]", "-map", "[v]", "-map", "0:a", "-c:v", "libx264", "-c:a", "pcm_s16le"]
    subprocess.run(["ffmpeg", "-v", "error", "-i", speaker, "-i", listener, *ways, path], check=True)
    return path


@pytest.mark.slow
def test_two_alike_voices_in_one_picture_have_two_names(footage: Path) -> None:
    seen = run("--media", footage, "--fast", "--speakers", "4", asr="none")
    assert [event["speaker"] for event in seen.events] == ["person-1", "person-2"] * 2, seen.log
    heard = run("--media", footage, "--fast", "--speakers", "4", "--set", "speakers.seat_likeness=0", asr="none")
    assert [event["speaker"] for event in heard.events] == ["person-1"] * 4


@pytest.mark.slow
def test_without_the_flag_nobody_is_told_apart(conversation: Path) -> None:
    ended = run("--media", conversation, "--fast", asr="none")
    assert [event["speaker"] for event in ended.events] == ["person"] * len(TURNS)
    assert all(event["latency_ms"]["speaker"] is None for event in ended.events)
