"""Opening a media file or URL, with errors that say what to change."""

import logging
import stat
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError, HTTPForbiddenError, HTTPUnauthorizedError, ProtocolNotFoundError
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from streamer.signals import SourceError

log = logging.getLogger(__name__)

LIVE_SCHEMES: Final = frozenset({"rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "tcp", "srt", "mms"})
OPEN_TIMEOUT_S = 10.0
PLAYLIST_STALL_S = 30.0  # HLS comes in segments of up to some ten seconds

# What is decoded at all; a few bytes of a header can ask for gigabytes.
PIXELS_MAX: Final = 8192 * 4608  # of a picture: a little more than 8K
RATES_HZ: Final = range(4_000, 768_001)  # of sound: from half of a telephone's to the highest of sound cards


def is_url(address: str) -> bool:
    return "://" in address


def shown(address: str) -> str:
    """`address` without user name and password, for messages and logs."""
    if not is_url(address):
        return address
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def open_media(address: str, stall_s: float) -> InputContainer:
    """Open a file or URL that has sound.

    stall_s: a URL that delivers nothing for so long counts as broken.
    Raises SourceError.
    """
    if not is_url(address):
        _check_file(Path(address))
    try:
        container = connect(address, stall_s)
    except ProtocolNotFoundError as error:
        scheme = address.partition("://")[0]
        raise SourceError(
            f"{shown(address)}: unknown URL scheme {scheme}://; use a file, rtsp:// or http://."
        ) from error
    except FFmpegError as error:
        raise SourceError(_why_not(address, error)) from error
    complaint = _complaint(address, container)
    if complaint is not None:
        container.close()
        raise SourceError(complaint)
    return container


# Titles and comments are nobody's business here, and old files hold them in whatever encoding.
TAGS = "replace"


def connect(address: str, stall_s: float) -> InputContainer:
    """Open without looking at what is inside. Raises av.error.FFmpegError."""
    container: InputContainer
    if is_url(address):
        # Frame rates are not asked for: without a look at them, a live stream opens almost a second sooner.
        options = {"fpsprobesize": "0"}
        if address.startswith("rtsp"):
            options["rtsp_transport"] = "tcp"
        timeout_s = (OPEN_TIMEOUT_S, longest_silence_s(address, stall_s))
        container = av.open(address, options=options, timeout=timeout_s, metadata_errors=TAGS)
    else:
        container = av.open(address, metadata_errors=TAGS)
    for stream in container.streams.video:
        if not _has_decoder(stream):
            log.warning("%s: pictures in a format that cannot be decoded here are not looked at", shown(address))
            continue
        stream.codec_context.options = {"max_pixels": str(PIXELS_MAX)}
        if stream.width * stream.height > PIXELS_MAX:
            log.warning("%s: pictures of %d x %d are not looked at", shown(address), stream.width, stream.height)
    return container


def is_playlist(address: str) -> bool:
    """Whether a URL is of HLS; FFmpeg, too, goes by its name."""
    return urlsplit(address).path.endswith((".m3u8", ".m3u"))


def longest_silence_s(address: str, stall_s: float) -> float:
    """So long a URL may deliver nothing before it counts as broken."""
    return max(stall_s, PLAYLIST_STALL_S) if is_playlist(address) else stall_s


def is_live(address: str, container: InputContainer) -> bool:
    """Whether the stream goes on without us: by its scheme, or because it has neither duration nor size."""
    if not is_url(address):
        return False
    sized = container.size > 0 and container.format.name != "hls"  # the size of a playlist says nothing
    return urlsplit(address).scheme in LIVE_SCHEMES or (container.duration is None and not sized)


def sound_stream(container: InputContainer) -> AudioStream | None:
    """The sound that a player would play, of several languages or microphones; None where none can be decoded."""
    best = container.streams.best("audio")
    if isinstance(best, AudioStream) and _has_decoder(best):
        return best
    return next((stream for stream in container.streams.audio if _has_decoder(stream)), None)


def duration_s(container: InputContainer, sound: AudioStream) -> float | None:
    """How long the sound is, by what the file says; None where it does not."""
    if sound.duration is not None and sound.time_base is not None:
        return float(sound.duration * sound.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return container.duration / 1e6
    return None


def picture_stream(container: InputContainer) -> VideoStream | None:
    """The video, if there is one that can be decoded; a cover image is none."""
    videos = (s for s in container.streams.video if not s.disposition & Disposition.attached_pic)
    return next((video for video in videos if _has_decoder(video)), None)


def _has_decoder(stream: Stream) -> bool:
    """PyAV knows nothing of a stream for whose format FFmpeg has no decoder."""
    return stream.codec_context is not None


def _complaint(address: str, container: InputContainer) -> str | None:
    """Why what is inside cannot be listened to; None where it can."""
    sound = sound_stream(container)
    if sound is None and container.streams.audio:
        return f"{shown(address)} has sound in a format that cannot be decoded here; convert it, e.g. with ffmpeg."
    if sound is None:
        return f"{shown(address)} has no sound, and without sound there are no utterances."
    rate_hz = sound.rate
    if rate_hz is not None and rate_hz not in RATES_HZ:
        return f"{shown(address)} has sound at {rate_hz} Hz; it must be at {RATES_HZ[0]} to {RATES_HZ[-1]} Hz."
    return None


def _check_file(path: Path) -> None:
    try:
        status = path.stat()
    except OSError as error:
        raise SourceError(f"Cannot read {path}: {error.strerror}.") from error
    if stat.S_ISDIR(status.st_mode):
        raise SourceError(f"{path} is a folder; name a media file in it.")
    if not stat.S_ISREG(status.st_mode):
        raise SourceError(f"{path} is not a regular file, and sound and picture are read from it separately.")
    if status.st_size == 0:
        raise SourceError(f"{path} is empty (0 bytes).")


def _why_not(address: str, error: FFmpegError) -> str:
    if isinstance(error, HTTPUnauthorizedError | HTTPForbiddenError):
        scheme = address.partition("://")[0]
        return (
            f"{shown(address)} does not let us in; check user and password, as in {scheme}://anna:secret@camera/live."
        )
    if is_url(address):
        return f"Cannot open {shown(address)}: {error.strerror}; check the address and that the server runs."
    if isinstance(error, OSError):
        return f"Cannot read {address}: {error.strerror}."
    return f"{address} is not a media file that can be read ({error.strerror}); convert it, e.g. with ffmpeg."
