"""Waveform -> log-Mel or standardised samples, checked against faster-whisper's own extractor on real speech."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from faster_whisper.feature_extractor import FeatureExtractor
from hypothesis import given, settings
from hypothesis import strategies as st

from telme.bundle import AudioSpec
from telme.corpora import waveforms
from telme.features.audio import AudioFeatures, mel_filters

LOG_MEL = AudioFeatures(AudioSpec(kind="log_mel", max_s=10.0))
WAVEFORM = AudioFeatures(AudioSpec(kind="waveform", max_s=10.0))


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return waveforms.read(Path(__file__).parent / "data" / "jfk.flac")


@pytest.mark.parametrize("length", [1600, 1601, 16_000, 63_999, 160_000])
def test_log_mel_equals_whisper_s_at_the_clip_s_own_length(speech: np.ndarray, length: int) -> None:
    ours = LOG_MEL.extract(speech[:length])
    theirs = FeatureExtractor()(speech[:length], padding=0)
    assert ours.dtype == np.float32
    assert ours.shape == (80, length // 160)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("bins", [40, 80, 128])
def test_mel_filters_equal_whisper_s(bins: int) -> None:
    np.testing.assert_allclose(
        mel_filters(bins, 16_000), FeatureExtractor.get_mel_filters(16_000, 400, bins), atol=1e-7
    )


SHARE_OF_OTHER_THREADS = """
import time
import numpy as np
from telme.bundle import AudioSpec
from telme.features.audio import AudioFeatures
features = AudioFeatures(AudioSpec(kind="log_mel", max_s=10.0))
sound = np.random.default_rng(0).normal(0, 0.1, 64_000).astype(np.float32)
time.sleep(0.2)  # what the imports have set going has come to rest
own, all_threads = time.thread_time(), time.process_time()
for _ in range(10):
    features.extract(sound)
    time.sleep(0.05)
own, all_threads = time.thread_time() - own, time.process_time() - all_threads
print((all_threads - own) / all_threads)
"""


def test_log_mel_leaves_the_other_cores_alone() -> None:
    # A product by numpy's BLAS has a thread on each other core, which then spins: twenty times the work itself.
    share = subprocess.run([sys.executable, "-c", SHARE_OF_OTHER_THREADS], check=True, capture_output=True, text=True)
    assert float(share.stdout) < 0.1


def test_of_longer_audio_the_end_is_read(speech: np.ndarray) -> None:
    assert len(speech) > 160_000
    np.testing.assert_array_equal(LOG_MEL.extract(speech), LOG_MEL.extract(speech[-160_000:]))
    assert WAVEFORM.extract(speech).shape == (160_000,)


def test_waveform_has_mean_0_and_variance_1(speech: np.ndarray) -> None:
    samples = WAVEFORM.extract(speech)
    assert samples.dtype == np.float32
    assert samples.mean() == pytest.approx(0, abs=1e-5)
    assert samples.var() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("features", [LOG_MEL, WAVEFORM])
def test_audio_shorter_than_the_minimum_is_missing(features: AudioFeatures) -> None:
    assert features.extract(np.zeros(1599, np.float32)) is None
    assert features.extract(np.zeros(0, np.float32)) is None
    assert features.extract(np.zeros(1600, np.float32)) is not None


@pytest.mark.parametrize("features", [LOG_MEL, WAVEFORM])
@pytest.mark.parametrize("level", [0.0, 1e-8, 1.0, 30_000.0])
def test_silence_full_scale_and_samples_beyond_it_stay_finite(features: AudioFeatures, level: float) -> None:
    square = np.float32(level) * np.sign(np.sin(np.arange(8000) * 0.1)).astype(np.float32)
    assert np.isfinite(features.extract(square)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused(value: float) -> None:
    samples = np.zeros(1600, np.float32)
    samples[800] = value
    with pytest.raises(ValueError, match="not finite"):
        LOG_MEL.extract(samples)


@pytest.mark.parametrize("samples", [np.zeros(1600, np.int16), np.zeros((1600, 2), np.float32)])
def test_integers_and_several_channels_are_refused(samples: np.ndarray) -> None:
    with pytest.raises(ValueError, match="one channel of floats"):
        LOG_MEL.extract(samples)


def test_float64_gives_float32() -> None:
    assert LOG_MEL.extract(np.random.default_rng(0).normal(size=1600)).dtype == np.float32


def test_the_samples_that_are_passed_in_are_left_alone() -> None:
    samples = np.random.default_rng(0).normal(size=1600).astype(np.float32)
    before = samples.copy()
    for features in (LOG_MEL, WAVEFORM):
        features.extract(samples)
    np.testing.assert_array_equal(samples, before)


@settings(deadline=None)
@given(st.lists(st.integers(1600, 8000), min_size=1, max_size=4), st.sampled_from([LOG_MEL, WAVEFORM]))
def test_a_batch_holds_every_item_and_marks_the_rest(lengths: list[int], features: AudioFeatures) -> None:
    random = np.random.default_rng(0)
    items = [features.extract(random.normal(size=length).astype(np.float32)) for length in lengths]
    batch = features.batch(items)
    assert batch.features.dtype == np.float32
    assert batch.mask.dtype == np.bool_
    assert batch.mask.shape == (len(items), max(item.shape[-1] for item in items))
    for item, row, mask in zip(items, batch.features, batch.mask, strict=True):
        np.testing.assert_array_equal(row[..., mask], item)
        assert not row[..., ~mask].any()
        assert mask[: item.shape[-1]].all()
