"""A microphone through PortAudio, reopened when it stalls or goes away."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator
from itertools import product
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from streamer.signals import SAMPLE_RATE_HZ, AudioChunk, SourceCounters, SourceError, VideoFrame
from streamer.sources.backoff import Backoff
from streamer.sources.cancellation import CancellationGuard
from streamer.sources.devices import DEFAULT_MICROPHONE, MicrophoneInfo, find_microphone, portaudio
from streamer.sources.handover import Handover
from streamer.sources.losses import Losses
from streamer.sources.resample import Resampler
from streamer.sources.ring import Block, BlockRing

log = logging.getLogger(__name__)

BLOCK_S = 0.02
POLL_S = 0.01
RING_BLOCKS = 250  # 5 s, for a machine that is too busy to run the reading thread
SOUND_KEPT = 1500  # chunks, 30 s, for a reader that falls behind; older sound is lost and counted
START_S = 3.0  # a sound server that wakes up may take so long to deliver the first block
CLOSE_S = 2.0


class Microphone:
    """A live source of sound. Its sample counter is the stream clock.

    What is lost (overruns, a device that was away) moves the clock on, so that it stays true to time.
    """

    live = True
    patience_s = 0.0

    def __init__(self, device: str, *, stall_s: float, backoff: Backoff) -> None:
        """
        device: name, part of a name, index, or "default".
        stall_s: a device that delivers nothing for so long is reopened, after the pauses of `backoff`.
        """
        self.counters = SourceCounters()
        self._device = device
        self._stall_s = stall_s
        self._backoff = backoff
        self._stopping = threading.Event()
        self._resampler = Resampler(SAMPLE_RATE_HZ)
        self._guard = CancellationGuard(f'microphone "{device}"')
        # The end of the newest block, as an index on the stream clock, and when it arrived. What drivers say about
        # the age of a block is not used: a sound server that was restarted is wrong about it by up to a second.
        self._anchor = (0, time.monotonic())

    async def __aenter__(self) -> Self:
        capture = await asyncio.to_thread(_open, self._device)
        if self._device != DEFAULT_MICROPHONE:
            self._device = capture.info.name  # an index may mean another device after a reopening
        self._chunks: Handover[AudioChunk] = Handover(SOUND_KEPT, self._drop)
        self._anchor = (0, time.monotonic())
        self._thread = threading.Thread(target=self._run, args=(capture,), name="microphone", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._stopping.set()
        self._chunks.close()
        await asyncio.to_thread(self._thread.join, 2 * CLOSE_S)

    async def audio(self) -> AsyncIterator[AudioChunk]:
        async for chunk in self._chunks:
            yield chunk

    async def frames(self) -> AsyncIterator[VideoFrame]:
        return
        yield

    def now_s(self) -> float:
        """The stream clock at this moment, in seconds; from any thread."""
        index, arrived_s = self._anchor
        return index / SAMPLE_RATE_HZ + time.monotonic() - arrived_s

    def _run(self, capture: "Capture | None") -> None:
        try:
            pauses_s = self._backoff.pauses_s()
            hung = False
            while True:
                if capture is not None:
                    if self._listen(capture):
                        pauses_s = self._backoff.pauses_s()
                    hung = not capture.close()
                if self._stopping.wait(next(pauses_s)):
                    return
                capture = self._reopen(restart=not hung)
        except Exception as error:  # a fault of ours: the reader must not take it for the end
            self._chunks.end(error)
            raise

    def _reopen(self, restart: bool) -> "Capture | None":
        try:
            if restart:
                _restart_portaudio()
            return _open(self._device)
        except SourceError as error:
            log.debug("still away: %s", error)
            return None

    def _listen(self, capture: "Capture") -> bool:
        """Hand over what comes until it stops coming; whether anything came."""
        opened_s = time.monotonic()
        losses = Losses(capture.rate_hz)
        last: Block | None = None
        while not self._stopping.wait(POLL_S):
            while (block := capture.ring.read()) is not None:
                if last is None:
                    self._begin(capture, block)
                lost = losses.before(block)
                if lost:
                    self._skip(capture, lost)
                self._hear(capture, block)
                last = block
            if not capture.active:
                log.warning('microphone "%s" went away at %.1f s', capture.info.name, self.now_s())
                break
            silent_s = time.monotonic() - (opened_s if last is None else last.arrived_s)
            if silent_s > (max(START_S, self._stall_s) if last is None else self._stall_s):
                self.counters.stalls += 1
                log.warning('microphone "%s" delivered nothing for %.1f s', capture.info.name, silent_s)
                break
        return last is not None

    def _begin(self, capture: "Capture", block: Block) -> None:
        """Start a run with a newly opened device's first block, after a gap if it is not the first device."""
        for chunk in self._resampler.finish():
            self._chunks.push(chunk)
        end = self._resampler.position
        if end == 0:
            log.info('listening to microphone "%s" at %d Hz', capture.info.name, capture.rate_hz)
            self._resampler = Resampler(capture.rate_hz)
            return
        index, arrived_s = self._anchor
        away = round((block.arrived_s - arrived_s - len(block.samples) / capture.rate_hz) * SAMPLE_RATE_HZ)
        start = max(end, index + away)
        self.counters.reopened += 1
        self.counters.lost_samples += start - end
        log.warning(
            'microphone "%s" is back after %.1f s, reopened %d times',
            capture.info.name,
            (start - end) / SAMPLE_RATE_HZ,
            self.counters.reopened,
        )
        self._resampler = Resampler(capture.rate_hz, start)

    def _skip(self, capture: "Capture", lost: int) -> None:
        """Move the clock on by samples that were lost, at the device's rate."""
        for chunk in self._resampler.finish():
            self._chunks.push(chunk)
        lost_samples = round(lost * SAMPLE_RATE_HZ / capture.rate_hz)
        self._resampler = Resampler(capture.rate_hz, self._resampler.position + lost_samples)
        self.counters.overruns += 1
        self.counters.lost_samples += lost_samples
        log.warning('microphone "%s" lost %.0f ms of sound', capture.info.name, lost / capture.rate_hz * 1e3)

    def _hear(self, capture: "Capture", block: Block) -> None:
        for chunk in self._resampler.feed(self._guard(block.samples, capture.rate_hz)):
            self._chunks.push(chunk)
        self._anchor = (self._resampler.position, block.arrived_s)

    def _drop(self, chunk: AudioChunk) -> None:
        self.counters.overruns += 1
        self.counters.lost_samples += len(chunk.samples)


class Capture:
    """An open device whose callback fills a ring."""

    def __init__(self, info: MicrophoneInfo, rate_hz: int, channels: int) -> None:
        """Raises sounddevice.PortAudioError."""
        self.info = info
        self.rate_hz = rate_hz
        frames = round(BLOCK_S * rate_hz)
        self.ring = BlockRing(RING_BLOCKS, frames, channels)
        self._stream = portaudio().InputStream(
            device=info.index,
            samplerate=rate_hz,
            channels=channels,
            blocksize=frames,
            dtype="float32",
            latency="low",
            callback=self.on_block,
        )
        try:
            self._stream.start()
        except portaudio().PortAudioError:
            self._stream.close()
            raise

    @property
    def active(self) -> bool:
        return bool(self._stream.active)

    def on_block(self, samples: npt.NDArray[np.float32], frames: int, times: Any, status: Any) -> None:
        """Called in PortAudio's own thread, which must not wait: copy and return."""
        self.ring.write(samples, time.monotonic(), times.inputBufferAdcTime, bool(status.input_overflow))

    def close(self) -> bool:
        """Close the device; False if that hangs, as it can when a sound server dies."""
        closing = threading.Thread(target=self._stream.close, name="microphone closing", daemon=True)
        closing.start()
        closing.join(CLOSE_S)
        if closing.is_alive():
            log.warning('closing microphone "%s" hangs: left alone after %.0f s', self.info.name, CLOSE_S)
        return not closing.is_alive()


def _open(device: str) -> Capture:
    """Open and start a device, at 16 kHz if it can. Raises SourceError.

    In stereo rather than mono: a sound server that mixes does not see whether the channels cancel each other out.
    """
    info = find_microphone(device)
    sounddevice = portaudio()
    refusals = (sounddevice._lib.paInvalidSampleRate, sounddevice._lib.paInvalidChannelCount)
    error: Exception | None = None
    rates_hz = dict.fromkeys((SAMPLE_RATE_HZ, info.rate_hz))
    for rate_hz, channels in product(rates_hz, dict.fromkeys((min(info.channels, 2), 1, info.channels))):
        try:
            return Capture(info, rate_hz, channels)
        except sounddevice.PortAudioError as refused:
            error = refused
            if refused.args[1] not in refusals:
                break
    raise SourceError(f'Microphone "{info.name}" cannot be opened ({error}); is it used by another program?') from error


def _restart_portaudio() -> None:
    """Let PortAudio look for devices again: it lists them only when it starts. Raises SourceError."""
    sounddevice = portaudio()
    try:
        sounddevice._terminate()  # the module offers no public way
        sounddevice._initialize()
    except sounddevice.PortAudioError as error:
        raise SourceError(f"PortAudio cannot be restarted: {error}.") from error
