from pathlib import Path

import numpy as np
import pytest

from telme.corpora import fer2013
from telme.corpora.records import CorpusError
from telme.labels import MELD

CLASSES = np.array(["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"])


def write(folder: Path, train: np.ndarray, val: np.ndarray) -> None:
    np.savez(
        folder / fer2013.FILE,
        x_train=train,
        y_train=np.arange(len(train), dtype=np.uint8) % 7,
        x_val=val,
        y_val=np.arange(len(val), dtype=np.uint8) % 7,
        classes=CLASSES,
    )


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 48, 48), np.uint8)


def test_splits_are_apart_and_labels_are_melds(tmp_path: Path) -> None:
    write(tmp_path, noise(60), noise(14, seed=1))
    faces = fer2013.load(tmp_path)
    sizes = {}
    for split in ("train", "dev", "test"):
        images, labels = faces.split(split)
        assert len(images) == len(labels)
        assert set(labels) <= set(MELD)
        sizes[split] = len(labels)
    assert sizes["test"] == 14
    assert sizes["train"] + sizes["dev"] == 60
    assert 60 // fer2013.DEV_EVERY - 1 <= sizes["dev"] <= 60 // fer2013.DEV_EVERY + 1
    images, labels = faces.split("test")
    np.testing.assert_array_equal(images, noise(14, seed=1))
    assert labels[:4] == ["anger", "disgust", "fear", "joy"]


def test_a_picture_counts_once_and_the_test_split_keeps_it(tmp_path: Path) -> None:
    val = noise(3, seed=1)
    train = np.concatenate([noise(30), noise(30)[:5], val[:2], np.zeros((1, 48, 48), np.uint8)])
    write(tmp_path, train, val)
    faces = fer2013.load(tmp_path)
    assert faces.corpus.dropped == {"picture that is there twice": 7, "blank picture": 1}
    assert len(faces.corpus.split("test")) == 3
    assert len(faces.corpus.utterances) == 33


@pytest.mark.parametrize("content", [None, b"not an archive"])
def test_an_unusable_corpus_is_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / fer2013.FILE).write_bytes(content)
    with pytest.raises(CorpusError, match=r"fer2013\.npz cannot be read"):
        fer2013.load(tmp_path)


@pytest.mark.corpora
def test_the_corpus_itself(corpora: Path) -> None:
    faces = fer2013.load(corpora / "fer2013")
    sizes = {split: len(faces.corpus.split(split)) for split in ("train", "dev", "test")}
    assert sizes == {"train": 25389, "dev": 1814, "test": 3562}
    assert sum(faces.corpus.dropped.values()) + sum(sizes.values()) == 28709 + 3589
