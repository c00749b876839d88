"""The camera, through OpenCV's V4L2 backend on a fake device and its FFmpeg backend on a network camera."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from devices.fake_v4l2 import FakeV4l2
from devices.network import Server, mjpeg_camera
from devices.reading import AWAY_S, BACK_S, reading

from streamer.settings import Sources
from streamer.signals import SourceCounters, SourceError
from streamer.sources.backoff import Backoff
from streamer.sources.camera import Camera, rgb_of
from streamer.sources.combined import MicrophoneAndCamera
from streamer.sources.microphone import Microphone
from streamer.sources.open import open_source

ORANGE = (220, 120, 40)


@pytest.fixture
def orange(tmp_path: Path) -> Path:
    video = tmp_path / "orange.mkv"
    picture = "color=0xDC7828:size=320x240:rate=15:duration=1"
    subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", picture, "-c:v", "ffv1", video], check=True)
    return video


class Watcher:
    """A Camera in a process of its own."""

    def __init__(self, environment: dict[str, str]) -> None:
        script = Path(__file__).parent / "devices" / "watch_camera.py"
        self._process = subprocess.Popen(
            [sys.executable, str(script), "0"],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def next_frame(self) -> dict[str, object]:
        """Waits for one; a process that ends instead fails the test."""
        assert self._process.stdout is not None
        frame: dict[str, object] = json.loads(self._process.stdout.readline())
        return frame

    def stop(self) -> SourceCounters:
        """Frames that are still unread are skipped."""
        rest, _ = self._process.communicate(timeout=20)
        return SourceCounters(**json.loads(rest.splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "stalls"), [("freeze", 1), ("unplug", 0)])
def test_a_v4l2_camera_that_was_away_is_reopened(tmp_path: Path, orange: Path, fault: str, stalls: int) -> None:
    device = FakeV4l2(tmp_path, orange)
    watcher = Watcher(device.environment)
    before = [watcher.next_frame() for _ in range(5)]
    device.set(fault)
    time.sleep(1.5)
    device.set("run")
    frames = [*before, *(watcher.next_frame() for _ in range(8))]
    counters = watcher.stop()

    assert all(frame["shape"] == [480, 640, 3] for frame in frames)
    np.testing.assert_allclose([frame["colour"] for frame in frames], [ORANGE] * len(frames), atol=4)
    times_s = np.array([frame["time_s"] for frame in frames])
    steps_s = np.diff(times_s)
    assert (steps_s > 0).all()
    assert (steps_s > 1).sum() == 1, "the time that the camera was away stays on the clock"
    assert counters.reopened >= 1
    assert counters.stalls >= stalls


def network(url: str) -> Camera:
    return Camera(url, rate_hz=5.0, stall_s=1.0, backoff=Backoff(0.1, 0.2), clock=time.monotonic)


@pytest.mark.slow
async def test_a_network_camera_is_rate_limited_and_fresh() -> None:
    with mjpeg_camera(fps=25) as server:
        async with reading(network(server.url)) as got:
            frames = got.frames
            await got.until(lambda: len(frames) == 12)
            assert time.monotonic() - frames[-1].time_s < 0.5
    assert 1.8 < frames[-1].time_s - frames[1].time_s < 2.2, "5 frames a second of the camera's 25"
    assert frames[0].image.shape == (240, 320, 3)
    np.testing.assert_allclose(frames[0].image[:190].mean(axis=(0, 1)), ORANGE, atol=6)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_a_network_camera_that_was_away_is_reopened(fault: str) -> None:
    with mjpeg_camera() as server:
        camera = network(server.url)
        async with reading(camera) as got:
            frames = got.frames
            await got.until(lambda: len(frames) >= 3)
            if fault == "kill":
                server.kill()
                await asyncio.sleep(1)
                server.start()
            else:
                server.freeze()
                await asyncio.sleep(2.5)
                server.thaw()
            away = len(frames)
            await got.until(lambda: len(frames) >= away + 5)
    assert camera.counters.reopened >= 1
    assert camera.counters.stalls == (1 if fault == "freeze" else 0)
    steps_s = np.diff([frame.time_s for frame in frames])
    assert (steps_s > 0).all()
    assert steps_s.max() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize(("lose", "restore"), [(Server.kill, Server.start), (Server.freeze, Server.thaw)])
async def test_a_network_camera_is_seen_soon_after_its_return(
    lose: Callable[[Server], None], restore: Callable[[Server], None]
) -> None:
    usual = Sources(camera="0")
    backoff = Backoff(usual.reopen_min_ms / 1000, usual.reopen_max_ms / 1000)
    with mjpeg_camera() as server:
        camera = Camera(server.url, rate_hz=5, stall_s=usual.stall_ms / 1000, backoff=backoff, clock=time.monotonic)
        async with reading(camera) as got:
            await got.until(lambda: len(got.frames) > 2)
            await asyncio.to_thread(lose, server)
            await asyncio.sleep(AWAY_S)
            await asyncio.to_thread(restore, server)
            assert await got.seconds_until_more(got.frames) < BACK_S


async def test_frames_nobody_takes_are_replaced_by_newer_ones_and_counted() -> None:
    with mjpeg_camera() as server:
        camera = network(server.url)
        async with camera:
            await asyncio.sleep(1.5)
            frame = await anext(camera.frames())
            assert time.monotonic() - frame.time_s < 0.5
    assert camera.counters.dropped_frames >= 3


async def test_a_camera_that_is_not_there_is_named() -> None:
    with pytest.raises(SourceError, match=r"No camera 7.*there are: "):
        async with Camera("7", rate_hz=5, stall_s=1, backoff=Backoff(), clock=time.monotonic):
            pass


async def test_a_url_that_does_not_answer_is_named_without_its_password() -> None:
    with pytest.raises(SourceError, match=r"Camera http://127\.0\.0\.1:9/x does not answer"):
        async with network("http://user:secret@127.0.0.1:9/x"):
            pass


async def test_a_file_is_not_a_camera(orange: Path) -> None:
    with pytest.raises(SourceError, match="use --media"):
        async with network(str(orange)):
            pass


def test_pictures_are_rgb_and_at_most_1280_pixels_wide() -> None:
    blue = np.zeros((2160, 3840, 3), np.uint8)
    blue[..., 0] = 200
    image = rgb_of(blue)
    assert image.shape == (720, 1280, 3)
    assert (image == (0, 0, 200)).all()


def test_a_camera_alone_is_joined_by_the_default_microphone() -> None:
    source = open_source(Sources(camera="0"), rate_hz=5)
    assert isinstance(source, MicrophoneAndCamera)
    assert isinstance(open_source(Sources(microphone="default"), rate_hz=5), Microphone)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (Sources(), r"No source: name --media .*--microphone .*--camera .*--list-devices"),
        (Sources(camera="0", microphone="none"), "without sound there are no utterances"),
    ],
)
def test_settings_without_sound_are_refused(settings: Sources, sentence: str) -> None:
    with pytest.raises(SourceError, match=sentence):
        open_source(settings, rate_hz=5)
