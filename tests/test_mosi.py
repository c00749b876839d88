"""CMU-MOSI's features on disk -> utterances in their dialogues, with a row of features each."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from telme.corpora import mosi
from telme.corpora.records import CorpusError


def write(folder: Path, **changes: object) -> None:
    """Two videos in train and one in test; the first video's utterances are out of order."""
    arrays: dict[str, object] = {}
    for split, videos, numbers in (("train", ["b", "b", "a"], [10, 2, 1]), ("test", ["c"], [1])):
        arrays[f"{split}_utt_id"] = [f"{video}_{number}" for video, number in zip(videos, numbers, strict=True)]
        arrays[f"{split}_text"] = [f"I SAY {number}" for number in numbers]
        arrays[f"{split}_video_id"] = videos
        arrays[f"{split}_utt_no"] = numbers
        arrays[f"{split}_y"] = np.array(numbers) % 2
        for width, modality in enumerate(mosi.MODALITIES, 2):
            arrays[f"{split}_x_{modality}"] = np.tile(np.array(numbers, np.float32)[:, None], width)
    np.savez(folder / mosi.FILE, **{name: value for name, value in (arrays | changes).items() if value is not None})


def test_a_video_s_utterances_are_a_dialogue_in_the_order_of_time(tmp_path: Path) -> None:
    write(tmp_path)
    reviews = mosi.load(tmp_path)
    utterances = reviews.corpus.utterances
    assert [utterance.id for utterance in utterances] == ["a_1", "b_2", "b_10", "c_1"]
    assert [turn.text for turn in utterances[2].turns] == ["I SAY 2", "I SAY 10"]
    assert [utterance.position for utterance in utterances] == [0, 0, 1, 0]
    assert [utterance.label for utterance in utterances] == ["positive", "negative", "negative", "positive"]
    assert [utterance.split for utterance in utterances] == ["train", "train", "train", "test"]
    for width, modality in enumerate(mosi.MODALITIES, 2):
        np.testing.assert_array_equal(reviews.features[modality], np.tile([[1], [2], [10], [1]], width))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"test_video_id": ["a"]}, "has the video a in train and in test"),
        ({"test_x_audio": np.full((1, 3), np.nan, np.float32)}, "no numbers"),
        ({"train_y": [0, 1, 2]}, "cannot be read"),
        ({"train_text": None}, "train_text"),
    ],
)
def test_a_file_that_holds_something_else_is_one_sentence(
    changes: dict[str, object], fault: str, tmp_path: Path
) -> None:
    write(tmp_path, **changes)
    with pytest.raises(CorpusError, match=fault):
        mosi.load(tmp_path)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=mosi.FILE):
        mosi.load(tmp_path)


@pytest.mark.corpora
def test_the_real_corpus(corpora: Path) -> None:
    reviews = mosi.load(corpora / "mosi")
    utterances = reviews.corpus.utterances
    assert len(utterances) == len({utterance.id for utterance in utterances}) == 2199
    assert all(len(rows) == len(utterances) for rows in reviews.features.values())
    videos = [{one.speaker for one in reviews.corpus.split(split)} for split in ("train", "dev", "test")]
    assert [len(names) for names in videos] == [50, 12, 31]
    assert not videos[0] & videos[1]
    assert not (videos[0] | videos[1]) & videos[2]
    assert all(b.turns[:-1] == a.turns for a, b in pairwise(utterances) if a.speaker == b.speaker)
