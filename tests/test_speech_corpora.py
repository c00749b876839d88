"""RAVDESS and EmoDB on disk -> utterances, split by speaker; their sound, decoded."""

import logging
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile

from telme.corpora import emodb, ravdess, waveforms
from telme.corpora.records import Corpus, CorpusError
from telme.labels import MELD


def speakers(corpus: Corpus, split: str) -> set[str]:
    return {utterance.speaker for utterance in corpus.utterances if utterance.split == split}


@pytest.mark.corpora
@pytest.mark.parametrize("module", [ravdess, emodb])
def test_no_speaker_is_in_two_splits_and_labels_are_known(module, corpora: Path) -> None:
    corpus = module.load(corpora / module.__name__.rsplit(".", 1)[1])
    train, dev, test = (speakers(corpus, split) for split in ("train", "dev", "test"))
    assert train
    assert dev
    assert test
    assert len(train | dev | test) == len(train) + len(dev) + len(test)
    assert {utterance.label for utterance in corpus.utterances} == set(module.LABELS)
    assert {utterance.meld_label for utterance in corpus.utterances} <= {*MELD, None}
    assert len({utterance.id for utterance in corpus.utterances}) == len(corpus.utterances)
    assert not corpus.dropped


@pytest.mark.corpora
def test_ravdess_counts_and_splits(corpora: Path) -> None:
    corpus = ravdess.load(corpora / "ravdess")
    assert Counter(utterance.split for utterance in corpus.utterances) == {"train": 840, "dev": 120, "test": 240}
    assert speakers(corpus, "dev") == {"actor-15", "actor-16"}
    assert speakers(corpus, "test") == {"actor-17", "actor-18", "actor-19", "actor-20"}


@pytest.mark.corpora
def test_every_ravdess_take_has_action_units(corpora: Path) -> None:
    units = ravdess.action_units(corpora / "ravdess")
    utterances = ravdess.load(corpora / "ravdess").utterances
    assert units.keys() == {utterance.id for utterance in utterances}
    assert all(values.shape == (35,) and 0 <= values.min() <= values.max() <= 5 for values in units.values())
    # Lip corner puller and cheek raiser make a smile (AU12 and AU06: 9th and 5th intensity).
    smile = {label: [] for label in ravdess.LABELS}
    for utterance in utterances:
        smile[utterance.label].append(units[utterance.id][[4, 8]].sum())
    assert max(smile, key=lambda label: np.mean(smile[label])) == "happy"


@pytest.mark.parametrize(
    ("arrays", "fault"),
    [
        ({"clip": ["01-05-01-01-01-01"]}, "cannot be read"),
        ({"clip": ["01-05-01-01-01-01"], "au": np.zeros((2, 35))}, "one row of numbers per clip"),
        ({"clip": ["01-05-01-01-01-01"], "au": np.full((1, 35), np.nan)}, "one row of numbers per clip"),
        ({"clip": ["01-09-01-01-01-01"], "au": np.zeros((1, 35))}, "03-01-09-01-01-01-01"),
    ],
)
def test_action_units_of_something_else_are_refused(arrays: dict[str, object], fault: str, tmp_path: Path) -> None:
    np.savez(tmp_path / ravdess.ACTION_UNITS, **arrays)
    with pytest.raises(CorpusError, match=fault):
        ravdess.action_units(tmp_path)


@pytest.mark.corpora
def test_emodb_s_boredom_has_no_label_in_meld_s_terms(corpora: Path) -> None:
    corpus = emodb.load(corpora / "emodb")
    assert speakers(corpus, "test") == {"speaker-13", "speaker-14"}
    unmapped = {utterance.label for utterance in corpus.utterances if utterance.meld_label is None}
    assert unmapped == {"boredom"}


@pytest.mark.parametrize(
    ("module", "name", "label", "meld", "speaker"),
    [
        (ravdess, "03-01-05-02-01-02-21.wav", "angry", "anger", "actor-21"),
        (ravdess, "Actor_24/03-01-02-01-01-01-24.wav", "calm", "neutral", "actor-24"),
        (emodb, "wav/16b10Wb.wav", "anger", "anger", "speaker-16"),
        (emodb, "03a01Nc.flac", "neutral", "neutral", "speaker-03"),
    ],
)
def test_a_file_s_name_says_everything(module, name: str, label: str, meld: str, speaker: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    (utterance,) = module.load(tmp_path).utterances
    assert (utterance.label, utterance.meld_label, utterance.speaker) == (label, meld, speaker)
    assert utterance.audio == path


def test_what_ravdess_says_stands_in_the_name(tmp_path: Path) -> None:
    for sentence in ("01", "02"):
        (tmp_path / f"03-01-05-02-{sentence}-01-21.wav").touch()
    said = {utterance.id[12:14]: utterance.said for utterance in ravdess.load(tmp_path).utterances}
    assert said == {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}


@pytest.mark.parametrize(
    ("module", "good", "bad"),
    [
        # A song, a video's number, an unknown emotion, an actor too many.
        (ravdess, "03-01-01-01-01-01-01.wav", ["03-02-01-01-01-01-01", "01-01-01-01-01-01-01", "03-01-09-01-01-01-01"]),
        (emodb, "03a01Fa.wav", ["03a01Xa", "3a01Fa", "readme"]),
    ],
)
def test_other_files_are_counted(module, good: str, bad: list[str], tmp_path: Path) -> None:
    for name in [good, *(f"{stem}.wav" for stem in bad)]:
        (tmp_path / name).touch()
    corpus = module.load(tmp_path)
    assert len(corpus.utterances) == 1
    assert sum(corpus.dropped.values()) == len(bad)


@pytest.mark.parametrize("module", [ravdess, emodb])
def test_a_folder_without_clips_is_refused(module, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CorpusError, match=str(folder)):
            module.load(folder)


@pytest.mark.corpora
def test_bad_sound_files_are_skipped_and_counted(
    corpora: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = corpora / "ravdess" / "audio" / "03-01-01-01-01-01-01.flac"
    shutil.copy(good, tmp_path)
    (tmp_path / "03-01-01-01-01-01-02.flac").write_bytes(good.read_bytes()[:100])
    (tmp_path / "03-01-01-01-01-01-03.wav").touch()
    soundfile.write(tmp_path / "03-01-01-01-01-01-04.wav", np.zeros(80), 16_000)
    with caplog.at_level(logging.WARNING):
        clips = waveforms.load("ravdess", ravdess.load(tmp_path).utterances, min_s=0.1)
    assert [clip.utterance.id for clip in clips] == ["03-01-01-01-01-01-01"]
    assert clips[0].corpus == "ravdess"
    assert "2 utterances left out: sound file unreadable" in caplog.text
    assert "1 utterances left out: shorter than 0.1 s" in caplog.text


def test_any_rate_and_channel_count_becomes_16_khz_mono(tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(44_100) / 44_100)
    path = tmp_path / "tone.wav"
    soundfile.write(path, np.stack([tone, tone], axis=1), 44_100)
    samples = waveforms.read(path)
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(16_000, abs=2)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(samples)) / 16_000)
    np.testing.assert_allclose(samples[500:-500], expected[500:-500], atol=1e-3)


@pytest.mark.corpora
def test_the_sound_of_a_video_is_read(corpora: Path) -> None:
    samples = waveforms.read(next((corpora / "clips").glob("grid_*.mpg")))
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(3 * 16_000, rel=0.05)
    assert 0.01 < np.abs(samples).max() <= 1


def test_a_video_without_sound_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mute.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 64))
    for _ in range(10):
        writer.write(np.zeros((64, 64, 3), np.uint8))
    writer.release()
    with pytest.raises(waveforms.WaveformError, match=r"mute\.mp4"):
        waveforms.read(path)


def test_a_file_that_is_no_sound_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.mp4"
    path.write_text("no sound at all")
    with pytest.raises(waveforms.WaveformError, match=r"notes\.mp4"):
        waveforms.read(path)
