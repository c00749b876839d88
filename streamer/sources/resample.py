"""Any sample rate and number of channels in, 16 kHz mono chunks on the stream clock out."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import soxr

from streamer.signals import SAMPLE_RATE_HZ, AudioChunk

CHUNK_MAX = SAMPLE_RATE_HZ // 50  # 20 ms: what a chunk adds to the delay


class Resampler:
    """One unbroken run of samples, placed on the stream clock.

    n samples at `rate_hz` become round(n * 16000 / rate_hz) samples, however they are split into blocks.
    A break in the input (lost samples, another rate) ends the run: `finish` it and begin a new one.
    """

    def __init__(self, rate_hz: int, start: int = 0) -> None:
        """`start`: index on the stream clock of the run's first sample, at 16 kHz."""
        self.position = start  # index of the next sample that comes out
        self._soxr = None if rate_hz == SAMPLE_RATE_HZ else soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1)

    def feed(self, block: npt.NDArray[np.float32]) -> Iterator[AudioChunk]:
        """`block`: (n, channels) float32; channels are mixed down by their mean."""
        mono = block.mean(axis=1, dtype=np.float32)
        yield from self._chunks(mono if self._soxr is None else self._soxr.resample_chunk(mono))

    def finish(self) -> Iterator[AudioChunk]:
        """The samples that the filter still holds."""
        if self._soxr is not None:
            yield from self._chunks(self._soxr.resample_chunk(np.empty(0, np.float32), last=True))

    def _chunks(self, samples: npt.NDArray[np.float32]) -> Iterator[AudioChunk]:
        # A filter overshoots at steep edges, and lossy codecs decode beyond full scale.
        samples = np.clip(samples, -1, 1)
        for first in range(0, len(samples), CHUNK_MAX):
            chunk = AudioChunk(self.position, samples[first : first + CHUNK_MAX])
            self.position = chunk.end
            yield chunk
