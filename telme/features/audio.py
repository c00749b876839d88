"""Waveform -> audio model input, the same for training, export and the live system."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from telme.bundle import AudioSpec

Float32 = npt.NDArray[np.float32]

WINDOW_SAMPLES = 400  # 25 ms at 16 kHz
HOP_SAMPLES = 160  # 10 ms
PEAK_MAX = 1e6  # far beyond 16-bit integers that are taken for floats; the power of more may overflow
_WINDOW = np.hanning(WINDOW_SAMPLES + 1)[:-1].astype(np.float32)  # periodic, as Whisper's and librosa's


@dataclass(frozen=True)
class AudioBatch:
    """Several utterances, padded with zeros to the longest.

    features: (B, mel_bins, T) for log_mel, (B, T) for waveform; float32.
    mask: (B, T) bool, at the rate of `features`: True where an utterance has values, False where it is padded behind
        them; zeros before them count as values.
    """

    features: Float32
    mask: npt.NDArray[np.bool_]


class AudioFeatures:
    """Makes model input as an `AudioSpec` says."""

    def __init__(self, spec: AudioSpec) -> None:
        self.spec = spec
        self._min_samples = round(spec.min_s * spec.sample_rate_hz)
        self._max_samples = round(spec.max_s * spec.sample_rate_hz)
        self._filters = mel_filters(spec.mel_bins, spec.sample_rate_hz)

    def extract(self, samples: npt.NDArray[np.floating]) -> Float32 | None:
        """The model input of one utterance.

        samples: (n,) float, at the specification's `source_rate_hz`, nominally in [-1, 1].
        Returns (mel_bins, n // 160) for log_mel, (n,) for waveform, of the last `max_s` seconds;
        None where the audio is shorter than `min_s`, which counts as missing.
        Raises TypeError for anything but an array, ValueError for anything but one channel of finite floats up to
        PEAK_MAX.
        """
        if not isinstance(samples, np.ndarray):
            raise TypeError(f"Audio must be an array of samples, not {type(samples).__name__}.")
        if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
            raise ValueError(f"Audio must be one channel of floats, not {samples.dtype} of shape {samples.shape}.")
        if len(samples) < self._min_samples:
            return None
        if self.spec.standardised == "tail":
            samples = samples[-self._max_samples :]
        if not np.isfinite(samples).all():
            raise ValueError("Audio holds values that are not finite (NaN or infinity).")
        peak = float(np.abs(samples).max(initial=0.0))
        if peak > PEAK_MAX:
            raise ValueError(f"Audio reaches {peak:.3g} where full scale is 1.")
        samples = samples.astype(np.float32, copy=False)
        if self.spec.kind == "log_mel":
            return self._log_mel(samples[-self._max_samples :])
        return _standardised(samples)[-self._max_samples :]

    def batch(self, items: Sequence[Float32]) -> AudioBatch:
        """Put the results of `extract` into one batch; at least one item."""
        lengths = np.array([item.shape[-1] for item in items])
        features = np.zeros((len(items), *items[0].shape[:-1], lengths.max()), np.float32)
        if self.spec.padding == "left":
            for row, item in zip(features, items, strict=True):
                row[..., lengths.max() - item.shape[-1] :] = item
            return AudioBatch(features, np.ones((len(items), lengths.max()), np.bool_))
        for row, item in zip(features, items, strict=True):
            row[..., : item.shape[-1]] = item
        return AudioBatch(features, np.arange(lengths.max()) < lengths[:, None])

    def _log_mel(self, samples: Float32) -> Float32:
        """Whisper's log-Mel spectrogram (Radford et al., 2022), but of the audio's own length instead of 30 s."""
        half = WINDOW_SAMPLES // 2
        padded = np.pad(samples, (half, half), mode="reflect")
        mel = mel_power(padded, self._filters, frames=len(samples) // HOP_SAMPLES)
        log_mel = np.log10(np.maximum(mel, 1e-10))
        log_mel = np.maximum(log_mel, log_mel.max() - 8.0)
        return np.asarray((log_mel + 4.0) / 4.0, np.float32)


def _standardised(samples: Float32) -> Float32:
    # The constant keeps silence finite; it is the one of wav2vec 2.0's feature extractor.
    return np.asarray((samples - samples.mean()) / np.sqrt(samples.var() + 1e-7), np.float32)


def mel_power(samples: Float32, filters: Float32, frames: int) -> Float32:
    """The power in each mel band, (bins, frames), of the first `frames` windows.

    samples: (n,), n at least WINDOW_SAMPLES + (frames - 1) * HOP_SAMPLES. filters: as `mel_filters` gives them.
    """
    windows = sliding_window_view(samples, WINDOW_SAMPLES)[::HOP_SAMPLES][:frames]
    power = np.abs(np.fft.rfft(windows * _WINDOW, axis=-1)) ** 2  # (frames, 201)
    # Not a BLAS product: its threads would spin for a tenth of a second after it, on the cores that the parts need.
    return np.asarray(np.einsum("mk,tk->mt", filters, power), np.float32)


def mel_filters(bins: int, sample_rate_hz: int) -> Float32:
    """Triangular filters (bins, 201), evenly spaced on Slaney's mel scale from 0 Hz to half the sample rate.

    Each filter has unit area over frequency in Hz. Slaney, "Auditory Toolbox" (1998): linear up to 1 kHz, 3 mel per
    200 Hz, then logarithmic, 27 mel per factor of 6.4.
    """
    hz_per_mel, knee_hz, log_step = 200.0 / 3.0, 1000.0, np.log(6.4) / 27.0
    knee_mel = knee_hz / hz_per_mel
    top_mel = knee_mel + np.log(sample_rate_hz / 2 / knee_hz) / log_step
    mels = np.linspace(0.0, top_mel, bins + 2)
    edges = np.where(mels < knee_mel, mels * hz_per_mel, knee_hz * np.exp(log_step * (mels - knee_mel)))
    lower, centre, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    frequencies = np.fft.rfftfreq(WINDOW_SAMPLES, 1 / sample_rate_hz)
    rising = (frequencies - lower) / (centre - lower)
    falling = (upper - frequencies) / (upper - centre)
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return np.asarray(triangles * 2.0 / (upper - lower), np.float32)
