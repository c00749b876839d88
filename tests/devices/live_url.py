"""A live stream over HTTP: python live_url.py PORT VIDEO serves VIDEO in a loop at real-time pace, without length."""

import asyncio
import sys

from aiohttp import web

PORT, VIDEO = int(sys.argv[1]), sys.argv[2]
LOOP = ["ffmpeg", "-v", "error", "-re", "-stream_loop", "-1", "-i", VIDEO]
ENCODE = [
    "-c:v",
    "mpeg2video",
    "-b:v",
    "1M",
    "-g",
    "12",
    "-c:a",
    "mp2",
    "-f",
    "mpegts",
    "-flush_packets",
    "1",
    "pipe:1",
]


async def live(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "video/mp2t"})
    await response.prepare(request)
    encoder = await asyncio.create_subprocess_exec(*LOOP, *ENCODE, stdout=asyncio.subprocess.PIPE)
    assert encoder.stdout is not None
    try:
        while data := await encoder.stdout.read(8192):
            await response.write(data)
    finally:
        encoder.kill()
    return response


app = web.Application()
app.router.add_get("/live.ts", live)
web.run_app(app, host="127.0.0.1", port=PORT, print=None)
