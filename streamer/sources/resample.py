"""Any sample rate and number of channels in, 16 kHz mono chunks on the stream clock out."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import soxr

from streamer.signals import SAMPLE_RATE_HZ, AudioChunk

CHUNK_MAX = SAMPLE_RATE_HZ // 50  # 20 ms: what a chunk adds to the delay
HIGH_PASS_HZ = 5.0  # below any voice

Samples = npt.NDArray[np.float32]


class HighPass:
    """Takes away the sound's slowly moving mean, which cheap sound cards add: nobody hears it, but models do.

    A filter of the first order: y[n] = x[n] - m[n], where m[n] = d m[n-1] + (1 - d) x[n] with d = exp(-2 pi f / rate).
    It begins at the first sample, as if that had lasted for ever.
    """

    def __init__(self) -> None:
        d = np.exp(-2 * np.pi * HIGH_PASS_HZ / SAMPLE_RATE_HZ)
        self._powers = d ** np.arange(1, CHUNK_MAX + 1)
        self._share = 1 - d
        self._mean: float | None = None

    def __call__(self, samples: Samples) -> Samples:
        """samples: (n,), those that follow the last ones, with n at most CHUNK_MAX."""
        if self._mean is None:
            self._mean = float(samples[0])
        powers = self._powers[: len(samples)]
        mean = powers * (self._mean + self._share * np.cumsum(samples / powers))
        self._mean = float(mean[-1])
        level: Samples = (samples - mean).astype(np.float32)
        return level


class Resampler:
    """One unbroken run of samples, placed on the stream clock.

    Its slowly moving mean is taken away. n samples at `rate_hz` become round(n * 16000 / rate_hz) samples, however they
    are split into blocks.
    A break in the input (lost samples, another rate) ends the run: `finish` it and begin a new one.
    """

    def __init__(self, rate_hz: int, start: int = 0) -> None:
        """`start`: index on the stream clock of the run's first sample, at 16 kHz."""
        self.position = start  # index of the next sample that comes out
        self._high_pass = HighPass()
        self._soxr = None if rate_hz == SAMPLE_RATE_HZ else soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1)

    def feed(self, block: Samples) -> Iterator[AudioChunk]:
        """`block`: (n, channels) float32; channels are mixed down by their mean."""
        mono = block.mean(axis=1, dtype=np.float32)
        yield from self._chunks(mono if self._soxr is None else self._soxr.resample_chunk(mono))

    def finish(self) -> Iterator[AudioChunk]:
        """The samples that the filter still holds."""
        if self._soxr is not None:
            yield from self._chunks(self._soxr.resample_chunk(np.empty(0, np.float32), last=True))

    def _chunks(self, samples: Samples) -> Iterator[AudioChunk]:
        # A filter overshoots at steep edges, lossy codecs decode beyond full scale, and files of floats hold anything.
        samples = np.clip(np.nan_to_num(samples), -1, 1)
        for first in range(0, len(samples), CHUNK_MAX):
            level = self._high_pass(samples[first : first + CHUNK_MAX])
            chunk = AudioChunk(self.position, np.clip(level, -1, 1))
            self.position = chunk.end
            yield chunk
