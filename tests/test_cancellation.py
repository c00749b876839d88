"""Channels that cancel each other out: told from all others, and never mixed."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from devices.reading import read_all
from streams import ACTED

from streamer.settings import Sources
from streamer.signals import SAMPLE_RATE_HZ
from streamer.sources.cancellation import CancellationGuard
from streamer.sources.open import open_source

BLOCK = SAMPLE_RATE_HZ // 50
LATER = slice(2 * SAMPLE_RATE_HZ, None)  # a second after the first word
TOLD = "its channels cancel each other out"


@pytest.fixture(scope="module")
def voice() -> np.ndarray:
    samples, rate_hz = soundfile.read(ACTED, dtype="float32")
    assert rate_hz == SAMPLE_RATE_HZ
    return samples


def mixed(guard: CancellationGuard, *channels: np.ndarray) -> np.ndarray:
    """Through the guard block by block, and mixed down as the resampler does."""
    sound = np.stack(channels, axis=1).astype(np.float32)
    blocks = [guard(sound[at : at + BLOCK], SAMPLE_RATE_HZ) for at in range(0, len(sound), BLOCK)]
    return np.concatenate([block.mean(axis=1) for block in blocks])


@pytest.mark.parametrize("level", [-1.0, -0.8])
def test_of_channels_that_cancel_the_loudest_is_heard(
    voice: np.ndarray, level: float, caplog: pytest.LogCaptureFixture
) -> None:
    heard = mixed(CancellationGuard("the clip"), voice, level * voice)
    np.testing.assert_array_equal(heard[LATER], voice[LATER])
    assert caplog.text.count(f"the clip: {TOLD}") == 1


def test_all_others_are_mixed(voice: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    """Two microphones up to 7 m apart, two people, the middle one of six, one that is connected, and nobody at all."""
    nobody = np.zeros_like(voice)
    for delay in (0, 1, 2, 4, 8, 16, 33, 65, 130, 326):
        other = np.roll(voice, delay)
        np.testing.assert_allclose(mixed(CancellationGuard("clip"), voice, other), (voice + other) / 2, atol=1e-6)
    other = np.roll(voice, 4 * SAMPLE_RATE_HZ)
    np.testing.assert_allclose(mixed(CancellationGuard("clip"), voice, other), (voice + other) / 2, atol=1e-6)
    for channels in (2, 6):
        apart = [nobody] * (channels - 1)
        np.testing.assert_allclose(mixed(CancellationGuard("clip"), voice, *apart), voice / channels, atol=1e-6)
    hiss = 1e-4 * np.random.default_rng(1).standard_normal(len(voice))
    np.testing.assert_allclose(mixed(CancellationGuard("clip"), hiss, -hiss), nobody, atol=1e-6)
    assert caplog.text == ""


def test_channels_are_mixed_again_once_they_can_be(voice: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    guard = CancellationGuard("clip")
    for _ in range(2):
        np.testing.assert_array_equal(mixed(guard, voice, -voice)[LATER], voice[LATER])
        np.testing.assert_allclose(mixed(guard, voice, voice / 2)[LATER], 0.75 * voice[LATER], atol=1e-6)
    assert caplog.text.count(TOLD) == 1


def test_what_is_no_sound_and_another_number_of_channels_does_no_harm(voice: np.ndarray) -> None:
    guard = CancellationGuard("clip")
    mixed(guard, voice, np.full_like(voice, np.nan))
    mixed(guard, voice, -voice, voice / 2)
    np.testing.assert_array_equal(mixed(guard, voice), voice)


async def test_a_file_with_an_inverted_channel_is_heard(
    tmp_path: Path, voice: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    inverted, plain = tmp_path / "inverted.wav", tmp_path / "plain.wav"
    soundfile.write(inverted, np.stack([voice, -voice], axis=1), SAMPLE_RATE_HZ, subtype="FLOAT")
    soundfile.write(plain, voice, SAMPLE_RATE_HZ, subtype="FLOAT")
    heard, wanted = [
        (await read_all(open_source(Sources(media=str(file), fast=True), rate_hz=5))).sound()[LATER]
        for file in (inverted, plain)
    ]
    np.testing.assert_allclose(heard, wanted, atol=1e-3)
    assert caplog.text.count(f"{inverted}: {TOLD}") == 1
