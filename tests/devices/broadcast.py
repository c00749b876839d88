"""A live broadcast of a tone that rises, so that every moment of it can be told by its pitch."""

import contextlib
import http.server
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

RATE_HZ = 44_100  # not the stream's: a resampler holds samples back
FIRST_HZ, RISE_HZ_S = 300.0, 100.0
LONGEST_S = 60.0
SEGMENT_S = 3.0
BLOCK_S = 0.1  # the pitch of so much sound is told to 10 Hz, a tenth of a second

Fault = Literal["closes", "falls silent"]


def record(folder: Path) -> None:
    """The broadcast as one transport stream and as segments of HLS."""
    rising = f"aevalsrc=0.5*sin(2*PI*({FIRST_HZ}*t+{RISE_HZ_S / 2}*t*t)):s={RATE_HZ}:d={LONGEST_S}"
    encoded = ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", rising, "-c:a", "mp2", "-b:a", "128k"]
    subprocess.run([*encoded, "-f", "mpegts", folder / "all.ts"], check=True)
    segments = ["-f", "hls", "-hls_time", str(SEGMENT_S), "-hls_list_size", "0"]
    subprocess.run([*encoded, *segments, "-hls_segment_filename", folder / "%d.ts", folder / "all.m3u8"], check=True)


def moments(sound: npt.NDArray[np.float32], rate_hz: int) -> list[tuple[float, float]]:
    """(time on the stream clock, time in the broadcast) of each block of sound that is a tone, in seconds."""
    size = round(BLOCK_S * rate_hz)
    found = []
    for start in range(0, len(sound) - size, size):
        block = sound[start : start + size]
        if np.abs(block).min() == 0 or block.std() < 0.2:
            continue  # a gap, or its edge
        spectrum = np.abs(np.fft.rfft(block * np.hanning(size), 8 * size))
        pitch_hz = float(spectrum.argmax()) * rate_hz / (8 * size)
        found.append(((start + size / 2) / rate_hz, (pitch_hz - FIRST_HZ) / RISE_HZ_S))
    return found


class Broadcast:
    """Goes on for all listeners at once from the moment it is made.

    stored_s: of what was broadcast last a new listener is sent so much at once.
    fault, fault_after_s: what becomes of the first listener's connection, and when.
    """

    def __init__(self, folder: Path, *, stored_s: float = 0.0, fault: Fault = "closes", fault_after_s: float) -> None:
        self.listeners = 0
        self._folder = folder
        self._stored_s = stored_s
        self._fault = fault
        self._fault_after_s = fault_after_s
        self._began = time.monotonic() - 10.0  # so that something is stored

    @contextlib.contextmanager
    def on_air(self) -> Iterator[str]:
        """The address of the transport stream; that of HLS ends in live.m3u8 instead of live.ts."""
        broadcast = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with contextlib.suppress(OSError):
                    broadcast.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_address[1]}/live.ts"
            server.shutdown()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        name = request.path.strip("/")
        request.send_response(200)
        if name == "live.ts":
            request.send_header("Content-Type", "video/mp2t")
            request.end_headers()
            self._send(request)
            return
        content = self._playlist() if name == "live.m3u8" else (self._folder / name).read_bytes()
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def _on_air_s(self) -> float:
        return time.monotonic() - self._began

    def _send(self, request: http.server.BaseHTTPRequestHandler) -> None:
        self.listeners += 1
        first, asked = self.listeners == 1, time.monotonic()
        stream = (self._folder / "all.ts").read_bytes()
        sent_s = self._on_air_s() - self._stored_s
        while True:
            if first and time.monotonic() - asked > self._fault_after_s:
                if self._fault == "falls silent":
                    time.sleep(LONGEST_S)
                return
            until_s = self._on_air_s()
            request.wfile.write(stream[_byte(stream, sent_s) : _byte(stream, until_s)])
            sent_s = until_s
            time.sleep(0.05)

    def _playlist(self) -> bytes:
        over = int(self._on_air_s() / SEGMENT_S)
        names = [f"#EXTINF:{SEGMENT_S},\n{number}.ts" for number in range(over - 3, over)]
        head = f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:{SEGMENT_S:.0f}\n#EXT-X-MEDIA-SEQUENCE:{over - 3}"
        return "\n".join([head, *names, ""]).encode()


def _byte(stream: bytes, time_s: float) -> int:
    """Where a moment lies in a transport stream of constant rate: at the beginning of a packet."""
    return int(len(stream) * time_s / LONGEST_S) // 188 * 188
