"""A camera at /dev/video0 for a program that is started with this environment: see fake_v4l2.c."""

import subprocess
from pathlib import Path
from typing import Literal


class FakeV4l2:
    """Shows a video in a loop. Needs gcc and ffmpeg."""

    def __init__(self, folder: Path, video: Path, size: tuple[int, int] = (640, 480), fps: int = 15) -> None:
        """`folder`: where the library, the pictures and the control file go."""
        self._library = folder / "fake_v4l2.so"
        self._frames = folder / "frames.yuyv"
        self._control = folder / "control"
        self._size = size
        self._fps = fps
        source = Path(__file__).with_suffix(".c")
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", self._library, source], check=True)
        shape = f"scale={size[0]}:{size[1]},fps={fps}"
        convert = ["ffmpeg", "-v", "error", "-y", "-i", video, "-vf", shape, "-pix_fmt", "yuyv422"]
        subprocess.run([*convert, "-f", "rawvideo", self._frames], check=True)
        self.set("run")

    @property
    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(self._library),
            "FAKE_V4L2_FRAMES": str(self._frames),
            "FAKE_V4L2_CONTROL": str(self._control),
            "FAKE_V4L2_SIZE": f"{self._size[0]}x{self._size[1]}",
            "FAKE_V4L2_FPS": str(self._fps),
        }

    def set(self, state: Literal["run", "freeze", "unplug"]) -> None:
        new = self._control.with_suffix(".new")
        new.write_text(state)
        new.replace(self._control)
