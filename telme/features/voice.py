"""Speech -> windows of a mel spectrogram, as the speaker encoder was trained on.

Wan et al., "Generalized end-to-end loss for speaker verification" (2018), section 3, in the form of Resemblyzer.
"""

import math

import numpy as np
import numpy.typing as npt

from telme.features.audio import HOP_SAMPLES, WINDOW_SAMPLES, mel_filters, mel_power
from telme.voice import VoiceSpec

Float32 = npt.NDArray[np.float32]


class VoiceFeatures:
    """Makes the encoder's input as a VoiceSpec says. Thread-safe."""

    def __init__(self, spec: VoiceSpec) -> None:
        self._spec = spec
        self._filters = mel_filters(spec.mel_bins, spec.sample_rate_hz)

    def extract(self, samples: npt.NDArray[np.floating]) -> Float32:
        """(windows, frames, mel_bins) of one utterance; `frames` is below `window_frames` only where it is shorter.

        samples: (n,) float, 16 kHz, nominally in [-1, 1], n at least 1; best without the silence around the speech.
        Raises ValueError for anything but one channel of finite floats.
        """
        if samples.ndim != 1 or not len(samples) or not np.issubdtype(samples.dtype, np.floating):
            raise ValueError(f"Speech must be one channel of floats, not {samples.dtype} of shape {samples.shape}.")
        if not np.isfinite(samples).all():
            raise ValueError("Speech holds values that are not finite (NaN or infinity).")
        starts = self._starts(len(samples))
        frames = min(self._spec.window_frames, 1 + len(samples) // HOP_SAMPLES)
        mel = self._mel(samples.astype(np.float32, copy=False), starts[-1] + frames)
        return np.stack([mel[start : start + frames] for start in starts])

    def _mel(self, samples: Float32, frames: int) -> Float32:
        """(frames, mel_bins): frame i is centred on sample i * HOP_SAMPLES; what is beyond the sound is silence."""
        half = WINDOW_SAMPLES // 2
        missing = max(0, (frames - 1) * HOP_SAMPLES + half - len(samples))
        padded = np.pad(self._amplified(samples), (half, missing))
        return mel_power(padded, self._filters, frames).T

    def _amplified(self, samples: Float32) -> Float32:
        rms = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
        if rms == 0:
            return samples
        return samples * np.float32(max(1.0, 10 ** (self._spec.level_dbfs / 20) / rms))

    def _starts(self, n: int) -> list[int]:
        """The first frame of each window."""
        spec = self._spec
        frames = math.ceil((n + 1) / HOP_SAMPLES)
        starts = list(range(0, max(1, frames - spec.window_frames + spec.step_frames + 1), spec.step_frames))
        if len(starts) > 1 and n / HOP_SAMPLES - starts[-1] < spec.coverage * spec.window_frames:
            starts.pop()
        if len(starts) <= spec.windows_max:
            return starts
        return [starts[i] for i in np.linspace(0, len(starts) - 1, spec.windows_max).round().astype(int)]
