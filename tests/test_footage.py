"""The pictures of utterances, from videos whose every frame says its number."""

import logging
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telme.bundle import VisualSpec
from telme.corpora import footage
from telme.corpora.decoding import DecodedFiles
from telme.corpora.footage import FootageError
from telme.corpora.records import Span, Utterance
from telme.features.video import VideoFeatures

SPEC = VisualSpec(kind="frames", size_px=8, channels=1, frames=4, mean=(0.5,), std=(0.25,))
FEATURES = VideoFeatures(SPEC, detector=None)
RATE_HZ = 10
FRAMES = 40


def write_video(path: Path, frames: int = FRAMES) -> Path:
    """Frame k is grey of 6 k, without loss; every twelfth is a key frame, and some are stored out of order."""
    pixels = b"".join(bytes([6 * number]) * (32 * 32) for number in range(frames))
    size = ["-f", "rawvideo", "-pix_fmt", "gray", "-s", "32x32", "-r", str(RATE_HZ)]
    coding = ["-c:v", "libx264", "-qp", "0", "-g", "12", "-bf", "2", "-sc_threshold", "0", "-pix_fmt", "yuv444p"]
    command = ["ffmpeg", "-v", "error", "-y", "-threads", "1", *size, "-i", "-", *coding, str(path)]
    subprocess.run(command, input=pixels, check=True)
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "numbers.mp4")


def numbers(path: Path, count: int, span_s: Span | None = None) -> list[int]:
    pictures = footage.pictures(path, FEATURES, count, span_s)
    assert pictures.shape[1:] == (8, 8)
    assert pictures.dtype == np.uint8
    return [round(float(picture.mean()) / 6) for picture in pictures]


def test_pictures_are_evenly_spaced(video: Path) -> None:
    assert numbers(video, 4) == [5, 15, 25, 35]
    assert numbers(video, 8) == [2, 7, 12, 17, 22, 27, 32, 37]
    assert numbers(video, 2, (1.0, 2.0)) == [12, 17]


def test_few_pictures_come_once_each(video: Path) -> None:
    assert numbers(video, 8, (1.0, 1.3)) == [10, 11, 12]
    assert numbers(video, 8, (3.9, 9.0)) == [39]


@settings(max_examples=30)
@given(start=st.integers(0, 380), length=st.integers(20, 200), count=st.integers(1, 8))
def test_no_picture_is_from_outside_the_span(video: Path, start: int, length: int, count: int) -> None:
    start_s, end_s = start / 100, (start + length) / 100
    shown = numbers(video, count, (start_s, end_s))
    assert 1 <= len(shown) <= count
    assert shown == sorted(set(shown))
    assert all(start_s <= number / RATE_HZ < end_s for number in shown)


def test_a_span_after_the_end_shows_nothing(video: Path) -> None:
    with pytest.raises(FootageError, match=r"numbers\.mp4 shows nothing from 8 to 9 s"):
        numbers(video, 4, (8.0, 9.0))


def utterance(name: str, video: Path | None, span_s: Span | None = None) -> Utterance:
    return Utterance(name, "train", "joy", "joy", speaker="s", video=video, video_span_s=span_s)


def test_bad_clips_are_skipped_and_counted(tmp_path: Path, video: Path, caplog: pytest.LogCaptureFixture) -> None:
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(video.read_bytes()[:500])
    (tmp_path / "empty.mp4").touch()
    everyone = [
        utterance("first", video),
        utterance("damaged", damaged),
        utterance("empty", tmp_path / "empty.mp4"),
        utterance("gone", tmp_path / "gone.mp4"),
        utterance("nothing", None),
        utterance("last", video, (0.0, 1.0)),
    ]
    with caplog.at_level(logging.WARNING):
        seen = footage.load("corpus", everyone, SPEC, DecodedFiles(tmp_path / "decoded"))
    assert [clip.utterance.id for clip in seen] == ["first", "last"]
    assert [len(clip.pictures()) for clip in seen] == [4, 4]
    assert "corpus: 2 utterances left out: video file unreadable" in caplog.text
    assert "corpus: 1 utterances left out: file missing" in caplog.text
    assert "gone.mp4 cannot be read (No such file or directory)" in caplog.text
    assert "corpus: 1 utterances left out: no video file" in caplog.text


def test_a_clip_is_decoded_once_until_it_or_the_specification_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    decode = footage.pictures
    monkeypatch.setattr(footage, "pictures", lambda *arguments: decoded.append(1) or decode(*arguments))
    path = write_video(tmp_path / "clip.mp4")
    files = DecodedFiles(tmp_path / "decoded")

    def seen(spec: VisualSpec = SPEC) -> int:
        (clip,) = footage.load("corpus", [utterance("only", path)], spec, files)
        return len(clip.pictures())

    assert (seen(), seen(), len(decoded)) == (4, 4, 1)
    assert (seen(SPEC.model_copy(update={"frames": 2})), len(decoded)) == (2, 2)
    write_video(path, frames=3)
    os.utime(path, ns=(1, 1))
    assert (seen(), len(decoded)) == (3, 3)
    assert not list((tmp_path / "decoded").glob("*.partial"))
