"""The speaker encoder: the shipped one says what Resemblyzer's says, computed here once more from its description."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packages import required

from export.errors import ExportError
from export.speaker_encoder import SOURCE, export
from telme.bundle import COMPACT, Bundle, BundleError
from telme.corpora import waveforms
from telme.features.voice import VoiceFeatures
from telme.models.sources import locate
from telme.runtime.voiceprint import VoiceEncoder
from telme.voice import SPEAKER, VoiceBundle

FEATURES = VoiceFeatures(VoiceBundle.open().manifest.voice)


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return waveforms.read(Path(__file__).parent / "data" / "jfk.flac")


@pytest.fixture(scope="module")
def encoder() -> VoiceEncoder:
    return VoiceEncoder.load()


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    required("resemblyzer", "Resemblyzer")
    return Path(locate(SOURCE))


def mel_spectrogram(samples: np.ndarray) -> np.ndarray:
    """As librosa makes it: centred Hann windows, power, Slaney's mel scale and area; (frames, 40)."""
    window = torch.hann_window(400, dtype=torch.float64)
    spectrum = torch.stft(
        torch.from_numpy(samples.astype(np.float64)), 400, 160, window=window, pad_mode="constant", return_complex=True
    )
    mels = np.linspace(0, 15 + 27 * np.log(8) / np.log(6.4), 42)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))
    hz = np.arange(201) * 40.0
    bank = [
        np.interp(hz, edges[i : i + 3], [0, 1, 0], left=0, right=0) * 2 / (edges[i + 2] - edges[i]) for i in range(40)
    ]
    return (np.stack(bank) @ (spectrum.abs() ** 2).numpy()).T


def published_embedding(samples: np.ndarray, checkpoint: Path) -> np.ndarray:
    """Resemblyzer's `embed_utterance` of speech as loud as it wants it, by the weights as published."""
    weights = torch.load(checkpoint, map_location="cpu", weights_only=True)["model_state"]
    lstm = torch.nn.LSTM(40, 256, 3, batch_first=True)
    lstm.load_state_dict({k.removeprefix("lstm."): v for k, v in weights.items() if k.startswith("lstm.")})
    samples = samples * max(1, 10 ** (-30 / 20) / np.sqrt(np.mean(samples.astype(np.float64) ** 2)))
    starts = [0]
    while (starts[-1] + 77) + 0.75 * 160 <= len(samples) / 160:
        starts.append(starts[-1] + 77)
    padded = np.pad(samples, (0, max(0, (starts[-1] + 160) * 160 - len(samples))))
    mel = mel_spectrogram(padded)
    with torch.no_grad():
        _, (hidden, _) = lstm(torch.from_numpy(np.stack([mel[s : s + 160] for s in starts])).float())
        raw = torch.relu(hidden[-1] @ weights["linear.weight"].T + weights["linear.bias"])
    mean = (raw / raw.norm(dim=1, keepdim=True)).mean(0).numpy()
    return mean / np.linalg.norm(mean)


@pytest.mark.parametrize("seconds", [1.6, 2.0, 2.5, 4.0, 6.0])
@pytest.mark.parametrize("gain", [1.0, 0.01])
def test_it_agrees_with_the_published_network(
    seconds: float, gain: float, speech: np.ndarray, encoder: VoiceEncoder, checkpoint: Path
) -> None:
    samples = gain * speech[8000 : 8000 + round(seconds * 16_000)]
    found = encoder.encode(samples)
    assert found.dtype == np.float32
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)
    assert found @ published_embedding(samples, checkpoint) > 0.9999


def test_the_windows_are_the_mel_spectrogram_that_librosa_makes(speech: np.ndarray) -> None:
    samples = speech[: round(1.6 * 16_000)]
    (window,) = FEATURES.extract(samples)
    np.testing.assert_allclose(window, mel_spectrogram(samples)[:160], rtol=1e-3, atol=1e-4)


def test_the_shipped_weights_are_what_the_command_makes(checkpoint: Path, tmp_path: Path) -> None:
    made = export(str(checkpoint), tmp_path)
    shipped = VoiceBundle.open().manifest
    assert made.source_sha256 == shipped.source_sha256
    assert made.encoder.sha256 == shipped.encoder.sha256
    assert made == shipped


def test_an_earlier_encoder_is_replaced_and_its_card_stays(checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SPEAKER, tmp_path / "speaker"))
    (folder / "encoder.onnx").write_bytes(b"damaged")
    export(str(checkpoint), folder)
    assert (folder / "MODEL_CARD.md").read_bytes() == (SPEAKER / "MODEL_CARD.md").read_bytes()
    assert VoiceBundle.open(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["speaker"]


def test_nothing_else_makes_room_for_an_encoder(checkpoint: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(COMPACT, tmp_path / "bundle"))
    with pytest.raises(ExportError, match="holds no speaker encoder"):
        export(str(checkpoint), bundle)
    assert Bundle.open(bundle)
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="Cannot write the speaker encoder"):
        export(str(checkpoint), tmp_path / "file" / "speaker")


def test_another_checkpoint_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "garbage.pt").write_bytes(b"not a checkpoint")
    torch.save({"model_state": {"lstm.weight_ih_l0": torch.zeros(3)}}, tmp_path / "other.pt")
    for name in ("garbage.pt", "other.pt", "missing.pt"):
        with pytest.raises(ExportError, match=r"is not Resemblyzer's pretrained\.pt"):
            export(str(tmp_path / name), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@settings(max_examples=30)
@given(st.integers(1, 400_000))
def test_any_length_makes_a_bounded_number_of_equal_windows_within_the_speech(n: int) -> None:
    noise = np.random.default_rng(n).normal(0, 0.1, n)
    windows = FEATURES.extract(noise)
    count, frames, bins = windows.shape
    assert 1 <= count <= 8
    assert frames == min(160, 1 + n // 160)
    assert bins == 40
    assert np.isfinite(windows).all()
    assert (windows.sum(axis=(1, 2)) > 0).all()


def test_silence_is_finite(encoder: VoiceEncoder) -> None:
    assert np.isfinite(encoder.encode(np.zeros(16_000, np.float32))).all()


@pytest.mark.parametrize(
    "samples", [np.zeros(1600, np.int16), np.zeros((1600, 2), np.float32), np.zeros(0, np.float32)]
)
def test_anything_but_one_channel_of_floats_is_refused(samples: np.ndarray) -> None:
    with pytest.raises(ValueError, match="one channel of floats"):
        FEATURES.extract(samples)


def test_samples_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        FEATURES.extract(np.full(1600, np.nan, np.float32))


def test_a_damaged_encoder_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json"):
        VoiceEncoder.load(tmp_path)
    shutil.copytree(SPEAKER, tmp_path, dirs_exist_ok=True)
    (tmp_path / "encoder.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match=r"speaker encoder .* is damaged"):
        VoiceEncoder.load(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(BundleError, match="telme-export speaker-encoder"):
        VoiceEncoder.load(tmp_path)
