"""Utterance -> how the speaker's voice sounds."""

import time

from streamer.signals import SAMPLE_RATE_HZ
from streamer.speakers import Voice
from streamer.utterance import Utterance
from telme.runtime.voiceprint import VoiceEncoder

# Around the speech; more silence makes people more alike, and less cuts their first and last sounds.
MARGIN = SAMPLE_RATE_HZ // 10


class VoiceReader:
    """Runs the speaker encoder on the speech of an utterance. Thread-safe."""

    def __init__(self, encoder: VoiceEncoder) -> None:
        self._encoder = encoder

    def read(self, utterance: Utterance) -> Voice:
        began = time.perf_counter()
        first = max(0, utterance.start - MARGIN - utterance.audio_start)
        speech = utterance.samples[first : utterance.end + MARGIN - utterance.audio_start]
        vector = self._encoder.encode(speech)
        speech_ms = 1000 * (utterance.end - utterance.start) / SAMPLE_RATE_HZ
        return Voice(vector, speech_ms, elapsed_ms=1000 * (time.perf_counter() - began))
