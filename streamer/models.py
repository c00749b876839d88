"""What recognises: loaded once, and shared by all streams of a process."""

import logging
from pathlib import Path

from streamer.scheduler import Scheduler
from streamer.settings import Recognition, StreamSettings
from streamer.stages import Stages
from streamer.transcriber import Transcriber
from streamer.voices import VoiceReader
from streamer.workers import Workers
from telme import hub
from telme.bundle import COMPACT, Bundle, UnfitError
from telme.runtime import fit
from telme.runtime.recognizer import Recognizer
from telme.runtime.voiceprint import VoiceEncoder

log = logging.getLogger(__name__)


class Models:
    """The models of a process, the threads in which they compute, and the order in which streams use them.

    transcriber: None where no speech recogniser is wanted. voices: None where nobody is told apart by voice.
    at_once: streams that are worked for at the same time, together where a model takes several utterances.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        transcriber: Transcriber | None,
        voices: VoiceReader | None = None,
        at_once: int = 1,
    ) -> None:
        self.recognizer = recognizer
        self.transcriber = transcriber
        self.voices = voices
        self.workers = Workers(at_once)
        self.stages = Stages(recognizer, self.workers.encoders, at_once)
        self.scheduler = Scheduler(at_once)

    def close(self) -> None:
        """Returns at once; what has not begun is given up."""
        self.workers.shut_down()


def open_bundle(recognition: Recognition) -> Bundle:
    """The bundle that is wanted, or the fallback where this machine cannot run it.

    Raises UnfitError where no fallback is wanted, BundleError where a bundle is damaged.
    """
    bundle = hub.open_bundle(recognition.bundle or COMPACT)
    try:
        fit.demand(bundle)
    except UnfitError as error:
        if recognition.fallback is None:
            raise
        bundle = hub.open_bundle(COMPACT if recognition.fallback == Path("compact") else recognition.fallback)
        fit.demand(bundle)
        log.warning("running %s instead: %s", bundle.folder, error)
    return bundle


def load_models(settings: StreamSettings, bundle: Bundle) -> Models:
    """Load and warm up; takes seconds, so not in the event loop. Raises BundleError and TranscriberError."""
    at_once = min(settings.recognition.at_once, len(settings.each()))
    recognizer = Recognizer.load(bundle, threads=settings.recognition.threads)
    transcriber = Transcriber.load(settings.transcription, at_once)
    recognizer.warm_up()
    if transcriber is not None:
        transcriber.warm_up()
    voices = VoiceReader(VoiceEncoder.load()) if settings.speakers.people_max > 1 else None
    return Models(recognizer, transcriber, voices, at_once)
