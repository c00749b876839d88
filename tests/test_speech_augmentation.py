"""How speech is varied in training: reproducible, finite, as strong as it says."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from telme.corpora import waveforms
from telme.training import augment_audio as aug
from telme.training.config import SpeechAugmentation

SPEECH = waveforms.read(Path(__file__).parent / "data" / "jfk.flac")
ALWAYS = SpeechAugmentation(crop_share=1, room_share=1, noise_share=1)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def power_db(samples: np.ndarray) -> float:
    return float(10 * np.log10(np.square(samples.astype(np.float64)).mean()))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), start=st.integers(0, 90_000), length=st.integers(1600, 64_000))
def test_the_same_generator_gives_the_same_sound(seed: int, start: int, length: int) -> None:
    augment = aug.SpeechAugmenter(ALWAYS, [SPEECH[:30_000], SPEECH[50_000:60_000]])
    clip = SPEECH[start : start + length]
    before = clip.copy()
    first, again = augment(clip, generator(seed)), augment(clip, generator(seed))
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    assert np.abs(first).max() <= 1
    np.testing.assert_array_equal(clip, before)


def test_silence_stays_finite() -> None:
    augment = aug.SpeechAugmenter(ALWAYS, [np.zeros(8000, np.float32)])
    for seed in range(10):
        assert np.isfinite(augment(np.zeros(16_000, np.float32), generator(seed))).all()


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 30.0])
def test_noise_is_as_strong_as_asked(snr_db: float) -> None:
    noise = aug.coloured_noise(len(SPEECH), 1.0, generator())
    noisy = aug.add_noise(SPEECH, noise, snr_db)
    assert power_db(SPEECH) - power_db(noisy - SPEECH) == pytest.approx(snr_db, abs=0.1)


@pytest.mark.parametrize(("slope", "db_per_octave"), [(0.0, 0.0), (1.0, -3.0)])
def test_noise_has_its_colour(slope: float, db_per_octave: float) -> None:
    power = np.square(np.abs(np.fft.rfft(aug.coloured_noise(160_000, slope, generator()))))
    low, high = power[2000:4000].mean(), power[4000:8000].mean()
    # The mean of 1/f over an octave is half that of the octave below.
    assert 10 * np.log10(high / low) == pytest.approx(db_per_octave, abs=0.3)


def test_a_room_changes_the_sound_but_not_its_strength() -> None:
    heard = aug.reverberate(SPEECH, aug.room_response(generator()))
    assert len(heard) == len(SPEECH)
    assert power_db(heard) == pytest.approx(power_db(SPEECH), abs=0.1)
    assert not np.allclose(heard, SPEECH, atol=1e-3)
    np.testing.assert_allclose(aug.reverberate(SPEECH, np.array([1.0], np.float32)), SPEECH, atol=1e-5)


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1])
def test_speed_changes_the_length(factor: float) -> None:
    assert len(aug.change_speed(SPEECH, factor)) == pytest.approx(len(SPEECH) / factor, abs=2)


@settings(deadline=None)
@given(before=st.integers(0, 16_000), after=st.integers(0, 16_000), seed=st.integers(0, 99))
@example(before=153, after=0, seed=1)  # the clip ends with half a frame of speech
def test_only_silence_is_cropped(before: int, after: int, seed: int) -> None:
    tone = np.sin(np.arange(8000, dtype=np.float32))
    clip = np.pad(tone, (before, after))
    for cut in (aug.crop_silence(clip, generator(seed)), aug.cut_silence(clip)):
        # Less than a frame of 10 ms may go with the silence, at a level far below the rest.
        assert np.square(cut).sum() == pytest.approx(np.square(tone).sum(), rel=1e-2)
        assert len(cut) <= len(clip)
    assert len(aug.cut_silence(clip)) <= len(tone) + 8000 + 320


@settings(deadline=None)
@given(bins=st.integers(1, 80), frames=st.integers(1, 300), seed=st.integers(0, 99))
def test_masked_features_keep_at_least_half(bins: int, frames: int, seed: int) -> None:
    log_mel = generator(seed).normal(size=(bins, frames)).astype(np.float32)
    masked = aug.SpeechAugmenter(ALWAYS, []).mask_features(log_mel, generator(seed))
    assert masked.shape == log_mel.shape
    changed = masked != log_mel
    assert changed.all(axis=1).sum() <= min(20, bins // 2)
    assert changed.all(axis=0).sum() <= min(30, frames // 2)
