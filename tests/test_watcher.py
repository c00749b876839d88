"""What is remembered of pictures: by time, bounded, and robust to a detector that fails."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from streamer import watcher
from streamer.signals import VideoFrame
from streamer.watcher import Watcher
from telme.features.sightings import Pixels, Sighting


def picture(value: int) -> Pixels:
    return np.full((4, 4, 3), value, np.uint8)


def whole(image: Pixels) -> list[Sighting]:
    return [Sighting(image)]


async def pictures(*times_s: float) -> AsyncIterator[VideoFrame]:
    for index, time_s in enumerate(times_s):
        yield VideoFrame(time_s, picture(index))
        await asyncio.sleep(0)


def values(pictures: list[list[Sighting]]) -> list[int]:
    return [int(sightings[0].pixels[0, 0, 0]) for sightings in pictures]


async def test_the_pictures_of_a_stretch_are_those_from_its_start_to_before_its_end() -> None:
    with ThreadPoolExecutor(1) as worker:
        seen = Watcher(whole, worker)
        await seen.watch(pictures(0.0, 0.2, 0.4, 0.6))
        assert values(await seen.between(0.2, 0.6, wait_s=1.0)) == [1, 2]
        assert await seen.between(5.0, 6.0, wait_s=1.0) == []


async def test_pictures_without_a_face_are_counted_and_left_out_and_those_with_several_counted() -> None:
    with ThreadPoolExecutor(1) as worker:
        seen = Watcher(lambda image: whole(image) * (image[0, 0, 0] % 3), worker)
        await seen.watch(pictures(0.0, 0.1, 0.2, 0.3))
        assert values(await seen.between(0.0, 1.0, wait_s=1.0)) == [1, 2]
        counters = seen.counters
        assert (counters.seen, counters.without_face, counters.several_faces) == (4, 2, 1)


async def test_a_failing_detector_costs_the_picture_and_not_the_stream(caplog: pytest.LogCaptureFixture) -> None:
    def detect(image: Pixels) -> list[Sighting]:
        if image[0, 0, 0] == 1:
            raise RuntimeError("unusable picture")
        return whole(image)

    with ThreadPoolExecutor(1) as worker:
        seen = Watcher(detect, worker)
        await seen.watch(pictures(0.0, 0.1, 0.2))
        assert values(await seen.between(0.0, 1.0, wait_s=1.0)) == [0, 2]
        assert seen.counters.failed == 1
    assert "could not be looked at" in caplog.text


async def test_pictures_that_end_in_an_error_are_told_of_and_waited_for_no_longer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def breaking() -> AsyncIterator[VideoFrame]:
        yield VideoFrame(0.0, picture(7))
        raise ValueError("an unknown format of pictures")

    with ThreadPoolExecutor(1) as worker:
        seen = Watcher(whole, worker)
        await seen.watch(breaking())
        assert values(await seen.between(0.0, 9.0, wait_s=60.0)) == [7]
    assert seen.counters.broken == 1
    assert "an unknown format of pictures" in caplog.text


async def test_an_utterance_waits_for_its_pictures_but_not_for_a_camera_that_stopped() -> None:
    arrived = asyncio.Event()

    async def slow() -> AsyncIterator[VideoFrame]:
        yield VideoFrame(0.0, picture(0))
        await arrived.wait()
        yield VideoFrame(1.0, picture(1))
        await asyncio.Event().wait()

    with ThreadPoolExecutor(1) as worker:
        seen = Watcher(whole, worker)
        watching = asyncio.create_task(seen.watch(slow()))
        assert values(await seen.between(0.0, 1.0, wait_s=0.05)) == [0]
        waiting = asyncio.create_task(seen.between(0.0, 1.0, wait_s=1.0))
        arrived.set()
        assert values(await asyncio.wait_for(waiting, 2)) == [0]
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        assert values(await seen.between(0.0, 9.0, wait_s=1.0)) == [0, 1]


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "MEMORY_BYTES", 3 * picture(0).nbytes)
    with ThreadPoolExecutor(1) as worker:
        seen = Watcher(whole, worker)
        await seen.watch(pictures(*(index / 10 for index in range(10))))
        assert values(await seen.between(0.0, 9.0, wait_s=1.0)) == [7, 8, 9]


async def test_what_is_forgotten_is_gone_and_its_room_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "MEMORY_BYTES", 5 * picture(0).nbytes)
    with ThreadPoolExecutor(1) as worker:
        seen = Watcher(whole, worker)
        await seen.watch(pictures(0.0, 0.1, 0.2, 0.3))
        seen.forget_before(0.2)
        assert seen.remembered == 2
        assert values(await seen.between(0.0, 9.0, wait_s=1.0)) == [2, 3]
        await seen.watch(pictures(0.4, 0.5, 0.6))
        assert seen.remembered == 5
