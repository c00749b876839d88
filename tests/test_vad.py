"""Both engines on real speech, silence and noise."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import soundfile
import soxr

from streamer import vad
from streamer.settings import Vad
from streamer.signals import SAMPLE_RATE_HZ
from streamer.vad import SileroDetector, SileroNetwork, VadError, VoiceDetector, WebRtcDetector, make_detector

ENGINES = [Vad(engine="webrtc"), Vad(engine="silero")]


def verdicts(detector: VoiceDetector, sound: np.ndarray) -> list[bool]:
    n = detector.frame_samples
    return [detector.is_speech(sound[at : at + n]) for at in range(0, len(sound) - n + 1, n)]


@pytest.fixture(scope="module")
def jfk(corpora: Path) -> np.ndarray:
    samples, rate = soundfile.read(corpora / "clips" / "jfk.flac", dtype="float32")
    return soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE_HZ)


@pytest.fixture(params=ENGINES, ids=lambda settings: settings.engine)
def detector(request: pytest.FixtureRequest) -> VoiceDetector:
    return make_detector(request.param)


@pytest.mark.corpora
def test_speech_is_found(detector: VoiceDetector, jfk: np.ndarray) -> None:
    assert np.mean(verdicts(detector, jfk)) > 0.6


def test_silence_is_no_speech(detector: VoiceDetector) -> None:
    assert not any(verdicts(detector, np.zeros(3 * SAMPLE_RATE_HZ, np.float32)))


def test_constant_offset_is_no_speech(detector: VoiceDetector) -> None:
    settled = verdicts(detector, np.full(3 * SAMPLE_RATE_HZ, 0.5, np.float32))[10:]
    assert not any(settled)


@pytest.mark.corpora
def test_same_sound_after_reset_same_verdicts(jfk: np.ndarray) -> None:
    detector = SileroDetector(0.5)
    first = verdicts(detector, jfk)
    detector.reset()
    assert verdicts(detector, jfk) == first


@pytest.mark.corpora
def test_samples_that_are_not_finite_or_too_loud_do_not_deafen(detector: VoiceDetector, jfk: np.ndarray) -> None:
    poison = np.full(detector.frame_samples, np.nan, np.float32)
    detector.is_speech(poison)
    detector.is_speech(np.full(detector.frame_samples, np.inf, np.float32))
    detector.is_speech(np.full(detector.frame_samples, 1e30, np.float32))
    detector.reset()
    assert np.mean(verdicts(detector, jfk)) > 0.6


@pytest.mark.corpora
def test_silero_hears_what_faster_whisper_hears(jfk: np.ndarray) -> None:
    """The same network fed frame by frame and in one batch: context and state are carried as it wants them."""
    from faster_whisper.vad import get_vad_model

    frames = len(jfk) // 512
    network = SileroNetwork(onnxruntime.InferenceSession(vad._silero_file()))
    ours = [network.probability(frame) for frame in jfk[: frames * 512].reshape(-1, 512)]
    theirs = get_vad_model()(jfk[: frames * 512].copy()).ravel()
    np.testing.assert_allclose(ours[:-1], theirs[:-1], atol=1e-3)  # theirs blanks the end of the last frame


@pytest.mark.corpora
@pytest.mark.parametrize("clip", ["03-01-05-02-02-01-18", "03-01-03-02-01-01-06"])
def test_high_shouting_is_speech(clip: str, corpora: Path) -> None:
    """An angry and a joyful woman; as it is, the network takes neither for half a second of speech."""
    sound, _ = soundfile.read(corpora / "ravdess" / "audio" / f"{clip}.flac", dtype="float32")
    frames = sound[: len(sound) // 512 * 512].reshape(-1, 512)
    threshold = Vad().threshold
    network = SileroNetwork(onnxruntime.InferenceSession(vad._silero_file()))
    assert sum(network.probability(frame) >= threshold for frame in frames) < 16
    assert sum(verdicts(SileroDetector(threshold), sound)) > 25


@pytest.mark.corpora
def test_higher_settings_reject_more(jfk: np.ndarray) -> None:
    assert sum(verdicts(SileroDetector(0.9), jfk)) < sum(verdicts(SileroDetector(0.2), jfk))
    assert sum(verdicts(WebRtcDetector(3), jfk)) < sum(verdicts(WebRtcDetector(0), jfk))


def test_missing_network_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vad, "find_spec", lambda name: None)
    with pytest.raises(VadError, match=r"pip install .*vad.engine: webrtc"):
        make_detector(Vad(engine="silero"))


def test_engines_need_neither_torch_nor_faster_whisper_itself() -> None:
    code = (
        "import sys; from streamer.vad import make_detector; from streamer.settings import Vad;"
        "make_detector(Vad(engine='silero')); sys.exit(bool({'torch', 'faster_whisper'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
