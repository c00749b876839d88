"""Media files that somebody spoilt: read as far as they go, or refused with a sentence."""

import os
import queue
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import program
from hypothesis import HealthCheck, example, given
from hypothesis import settings as limits
from hypothesis import strategies as st
from streams import ACTED, CONVERSATION

PATIENCE_S = 60.0
READER = Path(__file__).with_name("media_reader.py")


class Reader:
    """A process that reads files; a new one where the last one broke."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def read(self, file: Path) -> str:
        """What it says of a file; fails where it breaks, or says nothing for a minute."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", READER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(READER.parents[1])},
            )
        assert self._process.stdin is not None
        self._process.stdin.write(f"{file}\n")
        self._process.stdin.flush()
        answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=lambda: answers.put(self._process.stdout.readline()), daemon=True).start()  # type: ignore[union-attr]
        try:
            answer = answers.get(timeout=PATIENCE_S)
        except queue.Empty:
            answer = "it hangs"
        if answer.endswith("\n"):
            return answer.strip()
        process, self._process = self._process, None
        process.kill()
        pytest.fail(f"{answer} {process.communicate()[1][-4000:]}")

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    reading = Reader()
    yield reading
    reading.close()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Half a second of people who talk, in many formats, small enough that a mutation often hits what matters."""
    folder = tmp_path_factory.mktemp("clips")
    made = {}
    for name, clip, options in (
        ("clip.mp4", CONVERSATION, "-vf scale=96:-2 -c:v libx264 -c:a aac -b:a 24k"),
        ("clip.mkv", CONVERSATION, "-vf scale=96:-2 -c:v mpeg4 -c:a libopus -b:a 16k"),
        ("clip.ts", CONVERSATION, "-vf scale=96:-2 -c:v mpeg2video -c:a mp2 -b:a 32k"),
        ("clip.avi", CONVERSATION, "-vf scale=96:-2 -c:v mjpeg -c:a pcm_s16le -ar 8000"),
        ("clip.flac", ACTED, "-c:a flac"),
        ("clip.wav", ACTED, "-c:a pcm_s16le -ar 8000"),
        ("clip.ogg", ACTED, "-c:a libvorbis"),
        ("clip.mp3", ACTED, "-c:a libmp3lame -b:a 24k"),
    ):
        file = folder / name
        shape = ["-ss", "2", "-i", str(clip), "-t", "0.5", *options.split(), str(file)]
        subprocess.run([program("ffmpeg"), "-v", "error", "-y", *shape], check=True)
        made[name] = file.read_bytes()
    return made


NAMES = ("clip.mp4", "clip.mkv", "clip.ts", "clip.avi", "clip.flac", "clip.wav", "clip.ogg", "clip.mp3")
# Places as shares of the file, squared: headers lie at the front.
PLACES = st.floats(0, 1).map(lambda share: share * share)
CHANGES = st.lists(st.tuples(PLACES, st.binary(min_size=1, max_size=8)), max_size=8)


@limits(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(NAMES), changes=CHANGES, kept=PLACES | st.just(1.0), cut=st.none() | PLACES)
@example(name="clip.mp3", changes=[(0.015625, b"\x80")], kept=1.0, cut=None)  # a tag that is no UTF-8
def test_a_spoilt_clip_is_read_as_far_as_it_goes(
    reader: Reader,
    clips: dict[str, bytes],
    tmp_path: Path,
    name: str,
    changes: list[tuple[float, bytes]],
    kept: float,
    cut: float | None,
) -> None:
    content = bytearray(clips[name])
    for share, written in changes:
        at = int(share * len(content))
        content[at : at + len(written)] = written
    if cut is not None:
        at = int(cut * len(content))
        del content[at : at + 100]
    file = tmp_path / name
    file.write_bytes(content[: int(kept * len(content)) or 1])
    said = reader.read(file)
    assert said.startswith("ok ") or str(file) in said


@pytest.mark.parametrize("name", NAMES)
def test_the_clips_are_sound_before(reader: Reader, clips: dict[str, bytes], tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(clips[name])
    _, samples, pictures = reader.read(file).split()
    assert int(samples) == pytest.approx(8000, rel=0.2)
    assert (int(pictures) > 0) == (name in NAMES[:4])


def wav(rate_hz: int, channels: int, bits: int, samples: int = 4000) -> bytes:
    data = bytes(samples * channels * bits // 8)
    block = channels * bits // 8
    header = struct.pack("<IHHIIHH", 16, 1, channels, rate_hz, rate_hz * block & 0xFFFFFFFF, block & 0xFFFF, bits)
    return (
        b"RIFF"
        + struct.pack("<I", 36 + len(data))
        + b"WAVEfmt "
        + header
        + b"data"
        + struct.pack("<I", len(data))
        + data
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (wav(1, 1, 16), "sound at 1 Hz"),
        (wav(3999, 1, 16), "sound at 3999 Hz"),
        (wav(2_000_000_000, 1, 16), "sound at 2000000000 Hz"),
        (wav(0, 1, 16), "is not a media file"),
        (wav(4000, 1, 16), "ok 16000 0"),
        (wav(16_000, 1, 64), "ok 4000 0"),
        (wav(16_000, 2, 64), "ok 4000 0"),
        (wav(16_000, 1, 8), "ok 4000 0"),
        (wav(16_000, 63, 16), "ok 4000 0"),
    ],
)
def test_absurd_sound_is_refused_and_unusual_sound_is_read(
    reader: Reader, tmp_path: Path, content: bytes, says: str
) -> None:
    file = tmp_path / "absurd.wav"
    file.write_bytes(content)
    assert says in reader.read(file)


def make(file: Path, *options: str) -> None:
    subprocess.run([program("ffmpeg"), "-v", "error", "-y", *options, str(file)], check=True)


def test_a_picture_of_more_than_8k_is_not_decoded(reader: Reader, tmp_path: Path) -> None:
    file = tmp_path / "huge.avi"
    picture = ("-f", "lavfi", "-i", "color=black:s=8200x8200:d=0.2:r=5")
    make(file, *picture, "-f", "lavfi", "-i", "sine=duration=0.5", "-c:v", "mjpeg", "-c:a", "pcm_s16le")
    assert reader.read(file) == "ok 8000 0"


def test_a_clock_that_jumps_by_years_is_set_and_not_waited_for(reader: Reader, tmp_path: Path) -> None:
    first, last, file = tmp_path / "first.ts", tmp_path / "last.ts", tmp_path / "jump.ts"
    make(first, "-i", str(ACTED), "-t", "1", "-c:a", "mp2")
    make(last, "-i", str(ACTED), "-t", "1", "-c:a", "mp2", "-output_ts_offset", "40000")
    file.write_bytes(first.read_bytes() + last.read_bytes())
    _, samples, _ = reader.read(file).split()
    assert int(samples) == pytest.approx(32_000, rel=0.1)
