"""A camera through OpenCV, reopened when it stalls or goes away."""

import asyncio
import logging
import math
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Self

import cv2
import numpy as np
import numpy.typing as npt

from streamer.signals import AudioChunk, SourceCounters, SourceError, VideoFrame
from streamer.sources.backoff import Backoff
from streamer.sources.container import is_url, shown
from streamer.sources.devices import cameras
from streamer.sources.handover import Handover
from streamer.sources.picture import FrameGrid, reduced_size

log = logging.getLogger(__name__)

OPEN_S = 5.0  # a network camera may take so long to answer


class Camera:
    """A live source of pictures: a thread keeps the newest frame for the reader.

    A frame is stamped on arrival with the clock of the sound that it belongs to.
    """

    live = True

    def __init__(
        self, address: str, *, rate_hz: float, stall_s: float, backoff: Backoff, clock: Callable[[], float]
    ) -> None:
        """
        address: index, device path or URL.
        rate_hz: frames a second.
        stall_s: a camera that delivers nothing for so long is reopened, after the pauses of `backoff`.
        clock: the stream's time in seconds, from any thread.
        """
        self.counters = SourceCounters()
        self._address = address
        self._stall_s = stall_s
        self._backoff = backoff
        self._clock = clock
        self._grid = FrameGrid(rate_hz)
        self._arrived_s: float | None = None  # when the last frame came, on the machine's clock
        self._stopping = threading.Event()

    async def __aenter__(self) -> Self:
        capture = await asyncio.to_thread(_open, self._address, self._stall_s)
        log.info("watching camera %s", shown(self._address))
        self._newest: Handover[VideoFrame] = Handover(1, self._drop)
        self._thread = threading.Thread(target=self._run, args=(capture,), name="camera", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop the thread. One that waits for a frozen camera ends by itself at its time-out."""
        self._stopping.set()
        self._newest.close()
        await asyncio.to_thread(self._thread.join, self._stall_s)

    async def audio(self) -> AsyncIterator[AudioChunk]:
        return
        yield

    async def frames(self) -> AsyncIterator[VideoFrame]:
        async for frame in self._newest:
            yield frame

    def _run(self, capture: cv2.VideoCapture | None) -> None:
        try:
            pauses_s = self._backoff.pauses_s()
            while True:
                if capture is not None:
                    if self._watch(capture):
                        pauses_s = self._backoff.pauses_s()
                    capture.release()
                if self._stopping.wait(next(pauses_s)):
                    return
                capture = self._reopen()
        except Exception as error:  # a fault of ours: the reader must not take it for the end
            self._newest.end(error)
            raise

    def _reopen(self) -> cv2.VideoCapture | None:
        try:
            return _open(self._address, self._stall_s)
        except SourceError as error:
            log.debug("still away: %s", error)
            return None

    def _watch(self, capture: cv2.VideoCapture) -> bool:
        """Hand over frames until they stop coming; whether any came."""
        opened_s = time.monotonic()
        arrived_s: float | None = None
        while not self._stopping.is_set():
            if not capture.grab():
                self._report_loss(time.monotonic() - (arrived_s or opened_s))
                break
            time_s = self._clock()
            if arrived_s is None:
                self._report_return()
            arrived_s = self._arrived_s = time.monotonic()
            if self._grid.takes(time_s):
                read, image = capture.retrieve()
                if read:
                    self._newest.push(VideoFrame(time_s, rgb_of(image)))
        return arrived_s is not None

    def _report_loss(self, silent_s: float) -> None:
        if silent_s < self._stall_s:
            log.warning("camera %s went away at %.1f s", shown(self._address), self._clock())
        else:
            self.counters.stalls += 1
            log.warning("camera %s delivered nothing for %.1f s", shown(self._address), silent_s)

    def _report_return(self) -> None:
        if self._arrived_s is None:
            return
        self.counters.reopened += 1
        log.warning(
            "camera %s is back after %.1f s, reopened %d times",
            shown(self._address),
            time.monotonic() - self._arrived_s,
            self.counters.reopened,
        )

    def _drop(self, _: VideoFrame) -> None:
        self.counters.dropped_frames += 1


def rgb_of(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 BGR, as OpenCV gives it, to RGB with the longer side at most SIDE_MAX_PX."""
    height, width = image.shape[:2]
    size = reduced_size(width, height)
    if size != (width, height):
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    rgb: npt.NDArray[np.uint8] = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return rgb


def _open(address: str, stall_s: float) -> cv2.VideoCapture:
    """Raises SourceError."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # we say ourselves what went wrong
    if is_url(address):
        capture = _open_url(address, stall_s)
    elif Path(address).is_file():
        raise SourceError(f"{address} is a file, not a camera: use --media {address}.")
    else:
        capture = _open_device(address, stall_s)
    if capture.isOpened():
        return capture
    capture.release()
    if is_url(address):
        raise SourceError(f"Camera {shown(address)} does not answer; check the address and that the camera is on.")
    present = ", ".join(f"{path} ({name})" for path, name in cameras()) or "none"
    raise SourceError(f"No camera {address}, or something else uses it; there are: {present}.")


def _open_url(address: str, stall_s: float) -> cv2.VideoCapture:
    if address.startswith("rtsp"):
        os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp")
    limits_ms = {cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: OPEN_S * 1000, cv2.CAP_PROP_READ_TIMEOUT_MSEC: stall_s * 1000}
    parameters = [round(number) for pair in limits_ms.items() for number in pair]
    return cv2.VideoCapture(address, cv2.CAP_FFMPEG, parameters)


def _open_device(address: str, stall_s: float) -> cv2.VideoCapture:
    # Without this a frozen V4L2 camera holds a read for 10 s.
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(math.ceil(stall_s)))
    if address.isdecimal():
        return cv2.VideoCapture(int(address))
    return cv2.VideoCapture(address, cv2.CAP_V4L2)
