"""Programs that serve something on a loopback port, to be killed, frozen and restored."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

PATIENCE_S = 30.0


class Server:
    """A program that listens on `port` once it is started."""

    def __init__(self, port: int, url: str, command: list[str]) -> None:
        self.port = port
        self.url = url
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command)
        deadline = time.monotonic() + PATIENCE_S
        while not _listens(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"does not listen on port {self.port}: {self._command}")
            time.sleep(0.02)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


def mjpeg_camera(fps: float = 15) -> Server:
    port = _free_port()
    script = Path(__file__).with_name("mjpeg_camera.py")
    return Server(port, f"http://127.0.0.1:{port}/camera.mjpg", [sys.executable, str(script), str(port), str(fps)])


def live_url(video: Path) -> Server:
    """`video` in a loop at real-time pace as an MPEG transport stream; each connection begins with its beginning."""
    port = _free_port()
    script = Path(__file__).with_name("live_url.py")
    return Server(port, f"http://127.0.0.1:{port}/live.ts", [sys.executable, str(script), str(port), str(video)])


def rtsp_camera(video: Path) -> Server:
    """`video`, H.264 and AAC, at real-time pace over RTSP, for who knows user and password."""
    port = _free_port()
    script = Path(__file__).with_name("rtsp_camera.py")
    # The system's Python, for which GStreamer's bindings are packaged.
    command = ["/usr/bin/python3", str(script), str(port), str(video), "robot", "se:cret"]
    return Server(port, f"rtsp://robot:se%3Acret@127.0.0.1:{port}/live", command)


def file_server(folder: Path) -> Server:
    """Each file of `folder`, with its length, under its name."""
    port = _free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]
    return Server(port, f"http://127.0.0.1:{port}/", command)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    """Whether a socket listens, without connecting to it: some servers serve only their first client."""
    wanted = f":{port:04X}"
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(row.split()[1].endswith(wanted) and row.split()[3] == "0A" for row in rows)
