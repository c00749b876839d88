"""From settings to the source that they name."""

from streamer.settings import Sources
from streamer.signals import Source, SourceError
from streamer.sources.backoff import Backoff
from streamer.sources.camera import Camera
from streamer.sources.combined import MicrophoneAndCamera
from streamer.sources.devices import DEFAULT_MICROPHONE
from streamer.sources.media import Media
from streamer.sources.microphone import Microphone

NO_MICROPHONE = "none"


def open_source(settings: Sources, rate_hz: float) -> Source:
    """The source to enter with `async with`, which opens its devices.

    A camera alone is joined by the default microphone: without sound there are no utterances.
    rate_hz: pictures a second that are looked at.
    Raises SourceError for settings that name no sound.
    """
    backoff = Backoff(settings.reopen_min_ms / 1000, settings.reopen_max_ms / 1000)
    stall_s = settings.stall_ms / 1000
    if settings.media is not None:
        return Media(settings.media, rate_hz=rate_hz, fast=settings.fast, stall_s=stall_s, backoff=backoff)
    if settings.microphone == NO_MICROPHONE:
        raise SourceError('Microphone "none": without sound there are no utterances; name one of --list-devices.')
    if settings.microphone is None and settings.camera is None:
        raise SourceError(
            "No source: name --media FILE_OR_URL, --microphone NAME or --camera INDEX "
            "(--list-devices shows microphones and cameras)."
        )
    microphone = Microphone(settings.microphone or DEFAULT_MICROPHONE, stall_s=stall_s, backoff=backoff)
    if settings.camera is None:
        return microphone
    camera = Camera(settings.camera, rate_hz=rate_hz, stall_s=stall_s, backoff=backoff, clock=microphone.now_s)
    return MicrophoneAndCamera(microphone, camera)
