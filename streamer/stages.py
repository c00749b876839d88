"""The stages of a recogniser, computed in a worker thread, for several streams together where they coincide."""

from concurrent.futures import ThreadPoolExecutor

from streamer.micro_batch import MicroBatch
from telme.runtime.fusion import Encodings
from telme.runtime.recognition import Recognition
from telme.runtime.recognizer import Recognizer


class Stages:
    """Coroutines of the recogniser's methods. They raise what a model raises that cannot digest its input.

    batch_max: utterances that go through a stage together.
    """

    def __init__(self, recognizer: Recognizer, worker: ThreadPoolExecutor, batch_max: int) -> None:
        def fuse(encodings: Encodings) -> Recognition:
            return recognizer.fuse(
                text=encodings.text,
                audio=encodings.audio,
                visual=encodings.visual,
                text_confidence=encodings.text_confidence,
            )

        self.encode_text = MicroBatch(recognizer.encode_text, recognizer.encode_texts, worker, batch_max)
        self.encode_audio = MicroBatch(recognizer.encode_audio, recognizer.encode_audios, worker, batch_max)
        self.encode_visual = MicroBatch(recognizer.encode_visual, recognizer.encode_visuals, worker, batch_max)
        self.fuse = MicroBatch(fuse, recognizer.fuse_batch, worker, batch_max)
