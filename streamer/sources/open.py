"""From settings to the source that they name."""

from streamer.settings import Sources
from streamer.signals import Source, SourceError
from streamer.sources.backoff import Backoff
from streamer.sources.media import Media


def open_source(settings: Sources, rate_hz: float) -> Source:
    """The source to enter with `async with`; its device is opened there.

    rate_hz: pictures a second that are looked at.
    Raises SourceError for settings that name no sound.
    """
    backoff = Backoff(settings.reopen_min_ms / 1000, settings.reopen_max_ms / 1000)
    stall_s = settings.stall_ms / 1000
    if settings.media is not None:
        return Media(settings.media, rate_hz=rate_hz, fast=settings.fast, stall_s=stall_s, backoff=backoff)
    raise SourceError(
        "No source: name --media FILE_OR_URL, --microphone NAME or --camera INDEX (see --list-devices for both)."
    )
