"""Utterance -> transcript, with faster-whisper."""

import logging
import math
import threading
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from streamer.padded_decoder import PaddedDecoder
from streamer.settings import Transcription
from streamer.short_decoder import ShortDecoder
from streamer.signals import SAMPLE_RATE_HZ
from streamer.speech_model import load_speech_model
from streamer.transcript_gates import Decoded, reason_to_doubt, reason_to_reject
from streamer.utterance import Rejected, Transcript

log = logging.getLogger(__name__)


class Decoder(Protocol):
    """A way to decode one utterance, which keeps nothing from one to the next."""

    def decode(self, samples: npt.NDArray[np.float32]) -> Decoded:
        """samples: (n,) float32 in [-1, 1], n > 0, mono, 16 kHz."""
        ...


@dataclass
class TranscriberCounters:
    """How utterances were decoded so far.

    short: on their real length, fallbacks included.
    padded: at once padded to 30 s.
    fallbacks: decoded on their real length, not trusted, and decoded again padded.
    """

    short: int = 0
    padded: int = 0
    fallbacks: int = 0


class Transcriber:
    """A loaded speech recogniser. Thread-safe: decoding happens in the thread that calls `transcribe`.

    short: tried first where it is given; what it writes is decoded again by `padded` if it looks like a loop.
    """

    def __init__(self, settings: Transcription, padded: Decoder, short: ShortDecoder | None) -> None:
        self.counters = TranscriberCounters()
        self._counting = threading.Lock()
        self._settings = settings
        self._padded = padded
        self._short = short

    @classmethod
    def load(cls, settings: Transcription, at_once: int = 1) -> Self | None:
        """Load the model that the settings name, from the hub where it is a name; None for "none".

        at_once: threads that call `transcribe` at the same time.

        Raises TranscriberError when it cannot be found, is damaged, does not fit this machine, or does not know
        the language.
        """
        if settings.model == "none":
            return None
        model = load_speech_model(settings, at_once)
        short = ShortDecoder(model, settings) if settings.context == "short" else None
        return cls(settings, PaddedDecoder(model, settings), short)

    def reconfigure(self, settings: Transcription) -> None:
        """Go on with other gates; how is decoded stays as it was loaded."""
        self._settings = settings

    def warm_up(self) -> None:
        """Run once on a second of silence, so that the first utterance does not pay for it."""
        silence = np.zeros(SAMPLE_RATE_HZ, np.float32)
        self._padded.decode(silence)
        if self._short is not None:
            self._short.decode(silence)

    def transcribe(self, samples: npt.NDArray[np.float32]) -> Transcript | Rejected:
        """What was said, or why that is not believed. Each call stands alone: nothing is carried over.

        samples: (n,) float32 in [-1, 1], mono, 16 kHz.
        """
        if not len(samples):
            return Rejected("no samples")
        seconds = len(samples) / SAMPLE_RATE_HZ
        decoded = self._decode(samples, seconds)
        reason = reason_to_reject(decoded, seconds, self._settings)
        if reason is not None:
            return Rejected(reason)
        return Transcript(decoded.text, confidence=min(math.exp(decoded.log_prob), 1.0), language=decoded.language)

    def _decode(self, samples: npt.NDArray[np.float32], seconds: float) -> Decoded:
        if self._short is None or not self._short.fits(samples):
            with self._counting:
                self.counters.padded += 1
            return self._padded.decode(samples)
        with self._counting:
            self.counters.short += 1
        decoded = self._short.decode(samples)
        reason = reason_to_doubt(decoded, seconds, self._settings)
        if reason is None:
            return decoded
        with self._counting:
            self.counters.fallbacks += 1
        log.debug("decoded again, padded to 30 s: %s", reason)
        return self._padded.decode(samples)
