"""Whisper on an utterance padded to 30 s, as it was trained and as faster-whisper does it."""

import numpy as np
import numpy.typing as npt
from faster_whisper import WhisperModel

from streamer.settings import Transcription
from streamer.signals import SAMPLE_RATE_HZ
from streamer.transcript_gates import Decoded, token_limit


class PaddedDecoder:
    """Decodes utterances of any length; those above 30 s in several windows."""

    def __init__(self, model: WhisperModel, settings: Transcription) -> None:
        self._model = model
        self._settings = settings

    def decode(self, samples: npt.NDArray[np.float32]) -> Decoded:
        """What was said; samples: (n,) float32 in [-1, 1], n > 0, mono, 16 kHz."""
        # faster-whisper's own thresholds are off: the gates decide, and a text is never decoded twice.
        lazy, info = self._model.transcribe(
            samples,
            language=self._settings.language,
            beam_size=self._settings.beam_size,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
            max_new_tokens=token_limit(len(samples) / SAMPLE_RATE_HZ),
            vad_filter=False,
            no_speech_threshold=None,
            log_prob_threshold=None,
            compression_ratio_threshold=None,
        )
        segments = list(lazy)  # decoding happens here
        tokens = sum(len(segment.tokens) for segment in segments)
        return Decoded(
            text=" ".join(segment.text.strip() for segment in segments).strip(),
            log_prob=sum(segment.avg_logprob * len(segment.tokens) for segment in segments) / max(tokens, 1),
            no_speech=max((segment.no_speech_prob for segment in segments), default=1.0),
            tokens=tokens,
            language=info.language,
        )
