"""Whisper on an utterance's real length and a few seconds of silence, instead of the 30 s that it was trained on.

Most of a padded transcription is spent on silence. The encoder takes shorter sounds as well; but a decoder that has
only ever heard 30 s may say a short sentence again and again, or break off. Enough silence behind the speech stops
most of that, and `transcript_gates.reason_to_doubt` finds the rest: docs/transcription.md has the figures.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from ctranslate2 import StorageView
from faster_whisper import WhisperModel
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import get_suppressed_tokens

from streamer.settings import Transcription
from streamer.signals import SAMPLE_RATE_HZ
from streamer.transcript_gates import Decoded, token_limit

_WINDOW_SAMPLES = 30 * SAMPLE_RATE_HZ


@dataclass(frozen=True)
class ShortContext:
    """What keeps a short context from looping.

    silence_s: digital silence appended to the sound; silence, and not zeros, is what its log-mel then shows.
    timestamps: have the decoder write when the speech begins and ends. Their probabilities count into the
        confidence.
    repetition_penalty: of CTranslate2; above 1 it lowers, before the softmax, the logits of what was said already,
        and with them the confidence.
    """

    silence_s: float = 6.0
    timestamps: bool = False
    repetition_penalty: float = 1.0


class ShortDecoder:
    """Decodes utterances that leave room for the silence in Whisper's window of 30 s."""

    def __init__(self, model: WhisperModel, settings: Transcription, context: ShortContext | None = None) -> None:
        self._model = model
        self._settings = settings
        self._context = context or ShortContext()
        self._silence = round(self._context.silence_s * SAMPLE_RATE_HZ)
        self._suppressed = list(get_suppressed_tokens(self._tokenizer("en"), [-1]))

    def fits(self, samples: npt.NDArray[np.float32]) -> bool:
        """Whether the utterance is so short that anything is saved."""
        return len(samples) + self._silence < _WINDOW_SAMPLES

    def decode(self, samples: npt.NDArray[np.float32]) -> Decoded:
        """What was said, as faster-whisper would decode it greedily or by beam search without its thresholds.

        samples: (n,) float32 in [-1, 1], n > 0, mono, 16 kHz, of which `fits` holds.
        """
        encoded = self._model.encode(self._log_mel(samples))
        language = self._settings.language or self._detect(encoded)
        tokenizer = self._tokenizer(language)
        prompt = self._model.get_prompt(tokenizer, [], without_timestamps=not self._context.timestamps)
        (result,) = self._model.model.generate(
            encoded,
            [prompt],
            beam_size=self._settings.beam_size,
            repetition_penalty=self._context.repetition_penalty,
            max_length=len(prompt) + token_limit(len(samples) / SAMPLE_RATE_HZ),
            suppress_tokens=self._suppressed,
            return_scores=True,
            return_no_speech_prob=True,
        )
        (tokens,) = result.sequences_ids
        return Decoded(
            text=tokenizer.decode(tokens).strip(),
            # CTranslate2 divides by the number of tokens, but its sum has the end's log-probability as well.
            log_prob=result.scores[0] * len(tokens) / (len(tokens) + 1),
            no_speech=result.no_speech_prob,
            tokens=len(tokens),
            language=language,
        )

    def _log_mel(self, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(mel bands, frames) of the sound and its silence; an even number of frames, for the encoder halves them."""
        extractor = self._model.feature_extractor
        pair = 2 * extractor.hop_length
        sound = np.zeros(-(-(len(samples) + self._silence) // pair) * pair, np.float32)
        sound[: len(samples)] = samples
        log_mel: npt.NDArray[np.float32] = extractor(sound, padding=0)
        return log_mel

    def _detect(self, encoded: StorageView) -> str:
        """ISO 639-1 code of the likeliest language."""
        if not self._model.model.is_multilingual:
            return "en"
        (languages,) = self._model.model.detect_language(encoded)
        likeliest, _ = languages[0]
        return str(likeliest).removeprefix("<|").removesuffix("|>")

    def _tokenizer(self, language: str) -> Tokenizer:
        return Tokenizer(
            self._model.hf_tokenizer, self._model.model.is_multilingual, task="transcribe", language=language
        )
