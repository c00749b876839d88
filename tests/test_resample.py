"""The resampler: exact in length and position, however its input is split."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.signals import SAMPLE_RATE_HZ, AudioChunk
from streamer.sources.resample import Resampler

RATES = [8000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000]


def resampled(block: np.ndarray, rate_hz: int, cuts: list[int], start: int = 0) -> list[AudioChunk]:
    resampler = Resampler(rate_hz, start)
    edges = [0, *sorted(cuts), len(block)]
    chunks = [chunk for a, b in pairwise(edges) for chunk in resampler.feed(block[a:b])]
    return [*chunks, *resampler.finish()]


@settings(deadline=None)
@given(st.data(), st.sampled_from(RATES), st.integers(0, 20_000), st.integers(1, 3), st.integers(0, 100_000))
def test_samples_are_exact_in_number_and_place_for_any_split(
    data: st.DataObject, rate_hz: int, length: int, channels: int, start: int
) -> None:
    block = np.random.default_rng(length).uniform(-1, 1, (length, channels)).astype(np.float32)
    cuts = data.draw(st.lists(st.integers(0, length), max_size=10))
    chunks = resampled(block, rate_hz, cuts, start)
    assert all(0 < len(chunk.samples) <= SAMPLE_RATE_HZ // 10 for chunk in chunks)
    assert [chunk.start for chunk in chunks] == [start, *(chunk.end for chunk in chunks)][: len(chunks)]
    whole = resampled(block, rate_hz, [], start)
    samples = np.concatenate([np.empty(0, np.float32), *(chunk.samples for chunk in chunks)])
    np.testing.assert_allclose(samples, np.concatenate([samples[:0], *(chunk.samples for chunk in whole)]), atol=1e-6)
    assert abs(len(samples) - length * SAMPLE_RATE_HZ / rate_hz) <= 0.5


@pytest.mark.parametrize("rate_hz", RATES)
def test_a_tone_keeps_its_place_and_channels_are_averaged(rate_hz: int) -> None:
    def tone(rate: int) -> np.ndarray:
        return 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)

    both = np.stack([tone(rate_hz), np.zeros(rate_hz)], axis=1).astype(np.float32)
    samples = np.concatenate([chunk.samples for chunk in resampled(both, rate_hz, [])])
    inside = slice(800, -800)  # a filter knows nothing of what lies beyond the edges
    np.testing.assert_allclose(samples[inside], tone(SAMPLE_RATE_HZ)[inside] / 2, atol=5e-3)


def test_samples_beyond_full_scale_are_clipped() -> None:
    loud = 1.5 * np.sign(np.sin(np.arange(4000)))[:, None].astype(np.float32)
    loud[2000:2002, 0] = np.nan, np.inf
    samples = np.concatenate([chunk.samples for chunk in resampled(loud, 16_000, [])])
    assert np.abs(samples).max() == 1


@pytest.mark.parametrize("offset", [0.01, -0.3])
def test_an_offset_is_taken_away_and_a_voice_left_as_it_is(offset: float) -> None:
    at_s = np.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    voice = 0.2 * np.sin(2 * np.pi * 150 * at_s) + 0.1 * np.sin(2 * np.pi * 2500 * at_s)

    def heard(sound: np.ndarray) -> np.ndarray:
        return np.concatenate([chunk.samples for chunk in resampled(sound.astype(np.float32)[:, None], 16_000, [])])

    np.testing.assert_allclose(heard(voice + offset), heard(voice), atol=1e-5)
    spectrum, changed = np.abs(np.fft.rfft(voice)), np.abs(np.fft.rfft(heard(voice)))
    for tone_hz in (150, 2500):
        assert 20 * np.log10(changed[tone_hz] / spectrum[tone_hz]) == pytest.approx(0, abs=0.1)
