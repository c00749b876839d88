"""The demo's media hold what expected.json says, and can be made again."""

import importlib.util
import json
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
from faster_whisper import decode_audio

from telme.labels import MELD

DEMO = Path(__file__).parents[1] / "demo"
EXPECTED = json.loads((DEMO / "expected.json").read_text())


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_build", DEMO / "build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    return module


def test_conversation_is_small_and_has_sound_and_picture() -> None:
    path = DEMO / "conversation.mp4"
    assert path.stat().st_size < 1_500_000
    with av.open(str(path)) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, sound.codec_context.name) == ("h264", "aac")
        assert (video.width, video.height, video.average_rate) == (360, 288, 25)
        assert float(container.duration / av.time_base) == pytest.approx(20.4, abs=0.1)


@pytest.mark.parametrize("file", EXPECTED)
def test_speech_is_where_it_is_said_to_be(file: str, build: ModuleType) -> None:
    samples = decode_audio(str(DEMO / file))
    for utterance in EXPECTED[file]:
        begin_s = max(utterance["start_s"] - 0.5, 0)
        around = samples[round(begin_s * 16_000) : round((utterance["end_s"] + 0.5) * 16_000)]
        start_s, end_s = build.speech_bounds(around)
        assert begin_s + start_s == pytest.approx(utterance["start_s"], abs=0.03)
        assert begin_s + end_s == pytest.approx(utterance["end_s"], abs=0.03)


@pytest.mark.parametrize("file", EXPECTED)
def test_pauses_are_long_and_quiet(file: str) -> None:
    samples = decode_audio(str(DEMO / file))
    for before, after in pairwise(EXPECTED[file]):
        assert after["start_s"] - before["end_s"] > 1
        speech = level_db(samples, before["start_s"], before["end_s"])
        assert level_db(samples, before["end_s"] + 0.3, after["start_s"] - 0.3) < speech - 15


def level_db(samples: np.ndarray, start_s: float, end_s: float) -> float:
    part = samples[round(start_s * 16_000) : round(end_s * 16_000)]
    return 10 * np.log10(np.mean(part**2))


def test_acted_shows_more_than_neutral() -> None:
    emotions = {utterance["emotion"] for utterance in EXPECTED["acted.flac"]}
    assert emotions == {"anger", "joy", "sadness"} <= set(MELD)


def test_sentences_are_spelled_by_names(build: ModuleType) -> None:
    assert build.grid_sentence("bbaf2n") == "bin blue at f two now"


@pytest.mark.slow
@pytest.mark.corpora
def test_the_list_is_made_again(build: ModuleType, corpora: Path, tmp_path: Path) -> None:
    made = {
        "conversation.mp4": build.build_conversation(corpora, tmp_path / "conversation.mp4"),
        "acted.flac": build.build_acted(corpora, tmp_path / "acted.flac"),
    }
    assert {file: [vars(utterance) for utterance in utterances] for file, utterances in made.items()} == EXPECTED
    np.testing.assert_array_equal(decode_audio(str(tmp_path / "acted.flac")), decode_audio(str(DEMO / "acted.flac")))
