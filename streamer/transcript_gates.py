"""Gates against invented text: a speech recogniser given noise writes words that nobody said.

Whisper writes "you" or "Thank you." over noise and runs into loops over sounds it does not know. For a recogniser
of emotion the first is a false joy, so a transcript that looks invented counts as missing.
"""

import re
import zlib
from dataclasses import dataclass

from streamer.settings import Transcription

# Of a longer phrase one word in four may differ between copies: a loop seldom repeats itself to the letter.
_NEAR_COPY = 0.75
_SHORT = 2  # words
# Nobody speaks so fast in any language. Bounds what a loop costs, at some milliseconds a token.
_TOKENS_PER_S = 25
# Whisper's decoder has 448 positions, half of them for the text.
_TOKENS_MAX = 224

_WORD = re.compile(r"\w+(?:['’]\w+)*")


@dataclass(frozen=True)
class Decoded:
    """What the speech recogniser wrote for one utterance, and how sure it was.

    log_prob: mean natural logarithm of the tokens' probabilities.
    no_speech: probability that there is no speech at all.
    tokens: how many tokens were decoded.
    language: ISO 639-1 code, given or detected.
    """

    text: str
    log_prob: float
    no_speech: float
    tokens: int
    language: str


def token_limit(seconds: float) -> int:
    """The most tokens that so many seconds of speech can have, with room for the shortest of utterances."""
    return min(10 + round(_TOKENS_PER_S * seconds), _TOKENS_MAX)


def reason_to_reject(decoded: Decoded, seconds: float, bounds: Transcription) -> str | None:
    """Why the text is not believed, with the value and its bound; None when it is. Never quotes the text."""
    if not _words(decoded.text):
        return "no words"
    if decoded.no_speech > bounds.no_speech_max and decoded.log_prob < bounds.no_speech_log_prob_min:
        return (
            f"no-speech probability {decoded.no_speech:.2f} above {bounds.no_speech_max:g} "
            f"and log-probability {decoded.log_prob:.2f} below {bounds.no_speech_log_prob_min:g}"
        )
    if decoded.log_prob < bounds.log_prob_min:
        return f"log-probability {decoded.log_prob:.2f} below {bounds.log_prob_min:g}"
    return _loop(decoded, seconds, bounds.compression_max, bounds.repeats_max)


def reason_to_doubt(decoded: Decoded, seconds: float, bounds: Transcription) -> str | None:
    """Why a text that was decoded in a short context may be a loop, and needs decoding again; None when it is none.

    Stricter than `reason_to_reject`, for it costs time and no text: any sentence that stands there twice is enough.
    """
    return _loop(decoded, seconds, bounds.compression_max, repeats_max=1)


def _loop(decoded: Decoded, seconds: float, compression_max: float, repeats_max: int) -> str | None:
    if decoded.tokens >= (limit := token_limit(seconds)):
        return f"{decoded.tokens} tokens reach the limit of {limit} for {seconds:.1f} s"
    if (ratio := compression_ratio(decoded.text)) > compression_max:
        return f"compression ratio {ratio:.1f} above {compression_max:g}"
    return repetition(decoded.text, repeats_max)


def compression_ratio(text: str) -> float:
    """By which factor zlib shrinks the text."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw))


def repetition(text: str, repeats_max: int) -> str | None:
    """Why the text is a loop: how often which phrase, near copies included, stands in a row. None when it is none.

    A phrase of one or two words may be repeated twice as often: "no, no, no, no" is how people talk.
    """
    words = _words(text)
    for length in range(1, len(words) // 2 + 1):
        allowed = 2 * repeats_max if length <= _SHORT else repeats_max
        if (repeats := _repetitions(words, length)) > allowed:
            return f"a phrase of length {length} comes {repeats} times in a row, more than {allowed}"
    return None


def _repetitions(words: list[str], length: int) -> int:
    """How often any phrase of `length` words stands in a row."""
    same = [word == later for word, later in zip(words, words[length:], strict=False)]
    most = 1
    for start in range(len(same) - length + 1):
        repeats = 1
        at = start
        while at + length <= len(same) and sum(same[at : at + length]) >= _NEAR_COPY * length:
            repeats += 1
            at += length
        most = max(most, repeats)
    return most


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
