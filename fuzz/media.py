"""Any bytes as a media file: `python fuzz/media.py -max_total_time=60` (options are libFuzzer's).

Guided by what of our code is reached: FFmpeg, as it comes in PyAV's wheel, does not tell which of its own is.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["streamer.sources"]):
    from streamer.settings import Sources
    from streamer.signals import SourceError
    from streamer.sources.open import open_source

MEDIA = Path(tempfile.mkdtemp()) / "media"
SIDE_MAX_PX = 1280


def read(data: bytes) -> None:
    """As `telme-stream --media FILE --fast` does: all sound and all pictures, or a sentence."""
    MEDIA.write_bytes(data)
    try:
        asyncio.run(_play())
    except SourceError as error:
        if not str(error) or "\n" in str(error):
            raise AssertionError(f"no plain sentence: {str(error)!r}") from error


async def _play() -> None:
    async with open_source(Sources(media=str(MEDIA), fast=True), rate_hz=5.0) as source:

        async def watch() -> None:
            async for frame in source.frames():
                if max(frame.image.shape) > SIDE_MAX_PX:
                    raise AssertionError(f"a picture of {frame.image.shape}")

        watching = asyncio.create_task(watch())
        end = 0.0
        async for chunk in source.audio():
            if chunk.start < end or not abs(chunk.samples).max() <= 1:
                raise AssertionError(f"sound from {chunk.start} s after {end} s, up to {abs(chunk.samples).max()}")
            end = chunk.end
        await watching


def main() -> None:
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
