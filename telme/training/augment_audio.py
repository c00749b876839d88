"""Varies speech in training, so that the student also knows other rooms, microphones and distances.

Every random choice comes from the generator that is passed in: the same generator state, the same result.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import soxr

from telme.training.config import SpeechAugmentation

Samples = npt.NDArray[np.float32]
SAMPLE_RATE_HZ = 16_000

_FRAME = 160
_QUIET_DB = -40.0  # below the loudest 10 ms: no speech
_FLOOR = 1e-9


class SpeechAugmenter:
    """Waveform in, varied waveform out. Samples are (n,) float32 at 16 kHz."""

    def __init__(self, settings: SpeechAugmentation, voices: Sequence[Samples]) -> None:
        """voices: other people's speech, from the training split, of which babble is mixed."""
        self._settings = settings
        self._voices = voices

    def __call__(self, samples: Samples, random: np.random.Generator) -> Samples:
        """Crop, pad, speed, room, noise and gain, each by chance and in the order in which they happen in the world."""
        s = self._settings
        if random.random() < s.crop_share:
            samples = crop_silence(samples, random)
        samples = change_speed(samples, 1 + random.uniform(-s.speed, s.speed))
        before, after = random.uniform(0, s.silence_s, size=2)
        samples = np.pad(samples, (round(before * SAMPLE_RATE_HZ), round(after * SAMPLE_RATE_HZ)))
        if random.random() < s.room_share:
            samples = reverberate(samples, room_response(random))
        if random.random() < s.noise_share:
            samples = add_noise(samples, self._noise(len(samples), random), random.uniform(*s.snr_db))
        gain = 10 ** (random.uniform(-s.gain_db, s.gain_db) / 20)
        return np.asarray(np.clip(samples * gain, -1.0, 1.0), np.float32)

    def mask_features(self, log_mel: Samples, random: np.random.Generator) -> Samples:
        """SpecAugment (Park et al., 2019): one band and one stretch of time take the mean value.

        log_mel: (mel_bins, T), one frame per 10 ms.
        """
        masked = log_mel.copy()
        mean = log_mel.mean()
        masked[_span(log_mel.shape[0], self._settings.masked_bins, random)] = mean
        masked[:, _span(log_mel.shape[1], round(self._settings.masked_s * 100), random)] = mean
        return masked

    def _noise(self, length: int, random: np.random.Generator) -> Samples:
        kind = random.choice(["white", "pink", "babble"])
        if kind == "babble":
            voices = [self._voices[i] for i in random.integers(len(self._voices), size=random.integers(2, 6))]
            shifted = [np.roll(np.resize(voice, length), random.integers(length)) for voice in voices]
            return np.asarray(np.sum(shifted, axis=0), np.float32)
        return coloured_noise(length, 1.0 if kind == "pink" else 0.0, random)


def speech_span(samples: Samples) -> tuple[int, int]:
    """Where what is within 40 dB of the loudest 10 ms begins and ends, in samples."""
    whole = np.pad(samples, (0, -len(samples) % _FRAME))
    energy = np.square(whole).reshape(-1, _FRAME).mean(axis=1)
    loud = np.flatnonzero(energy >= energy.max() * 10 ** (_QUIET_DB / 10))
    return int(loud[0]) * _FRAME, min(int(loud[-1] + 1) * _FRAME, len(samples))


def crop_silence(samples: Samples, random: np.random.Generator) -> Samples:
    """Cut somewhere in the silence before the speech, and somewhere in that after it."""
    start, end = speech_span(samples)
    return samples[random.integers(0, start + 1) : random.integers(end, len(samples) + 1)]


def cut_silence(samples: Samples, before_s: float = 0.2, after_s: float = 0.3) -> Samples:
    """Keep the speech and a little around it, as a voice detector hands it over."""
    start, end = speech_span(samples)
    return samples[max(0, start - round(before_s * SAMPLE_RATE_HZ)) : end + round(after_s * SAMPLE_RATE_HZ)]


def change_speed(samples: Samples, factor: float) -> Samples:
    """Play `factor` times as fast; the pitch moves with it."""
    return np.asarray(soxr.resample(samples, SAMPLE_RATE_HZ * factor, SAMPLE_RATE_HZ), np.float32)


def coloured_noise(length: int, slope: float, random: np.random.Generator) -> Samples:
    """Noise whose power falls with frequency as 1 / f^slope: 0 is white, 1 pink."""
    spectrum = np.fft.rfft(random.standard_normal(length))
    frequencies = np.maximum(np.arange(len(spectrum)), 1)
    return np.asarray(np.fft.irfft(spectrum * frequencies ** (-slope / 2), length), np.float32)


def add_noise(samples: Samples, noise: Samples, snr_db: float) -> Samples:
    """Add noise so that speech and noise differ by `snr_db` in mean power."""
    power = np.square(samples).mean()
    gain = np.sqrt(power / (np.square(noise).mean() + _FLOOR) / 10 ** (snr_db / 10))
    return np.asarray(samples + gain * noise, np.float32)


def room_response(random: np.random.Generator) -> Samples:
    """Impulse response of an imaginary room: the direct sound, then noise that decays by 60 dB in 0.1 to 0.6 s.

    The reverberation's energy is -12 to 3 dB of the direct sound's.
    """
    decay_s = random.uniform(0.1, 0.6)
    times = np.arange(1, round(decay_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    tail = random.standard_normal(len(times)) * 10 ** (-3 * times / decay_s)
    tail *= np.sqrt(10 ** (random.uniform(-12, 3) / 10) / np.square(tail).sum())
    return np.concatenate([[1.0], tail]).astype(np.float32)


def reverberate(samples: Samples, response: Samples) -> Samples:
    """Convolve with a room's response; as long and as strong as before."""
    size = len(samples) + len(response) - 1
    heard = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size), size)[: len(samples)]
    strength = np.sqrt(np.square(samples).mean() / (np.square(heard).mean() + _FLOOR))
    return np.asarray(heard * strength, np.float32)


def _span(length: int, longest: int, random: np.random.Generator) -> slice:
    """A random stretch of `length` places, up to `longest` of them but never more than half."""
    size = int(random.integers(0, min(longest, length // 2) + 1))
    start = int(random.integers(0, length - size + 1))
    return slice(start, start + size)
