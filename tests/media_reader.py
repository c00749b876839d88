"""Reads media files as the live system does, one for each line of stdin: `python media_reader.py`.

Answers each with a line: `ok` and how much came, or the sentence of a refusal. Whatever else is raised ends it.
Its memory is bounded, so that a file that asks for too much is a fault, too.
"""

import asyncio
import resource
import sys

from streamer.settings import Sources
from streamer.signals import SourceError
from streamer.sources.open import open_source

BYTES_MAX = 4 << 30  # of addresses, of which libraries and threads take a part without using it


async def read(file: str) -> str:
    """Everything in a file, as fast as possible."""
    async with open_source(Sources(media=file, fast=True), rate_hz=5.0) as source:
        pictures = 0

        async def watch() -> None:
            nonlocal pictures
            async for frame in source.frames():
                assert max(frame.image.shape) <= 1280
                pictures += 1

        watching = asyncio.create_task(watch())
        samples = end = 0
        async for chunk in source.audio():
            assert chunk.start >= end
            assert abs(chunk.samples).max() <= 1
            samples, end = samples + len(chunk.samples), chunk.end
        await watching
        return f"ok {samples} {pictures}"


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (BYTES_MAX, BYTES_MAX))
    for line in sys.stdin:
        try:
            answer = asyncio.run(read(line.removesuffix("\n")))
        except SourceError as refusal:
            answer = str(refusal)
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
