"""Milliseconds per part of a bundle, its load time and its memory, without transcription.

    python bench/recognition.py [--bundle DIR] [--threads N] [--repeats N]

Prompts of 16 to 128 tokens, real speech of 1 to 8 s and real faces go through the recogniser one after another, in
turns, so that other load on the machine meets all of them alike. Prints medians and 95th percentiles.
"""

import argparse
import os
import platform
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import av
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from telme.features.text import Turn
from telme.runtime.recognizer import Recognizer

CONVERSATION = Path(__file__).parents[1] / "demo" / "conversation.mp4"
SAMPLE_RATE_HZ = 16_000


def main() -> None:
    options = _parser().parse_args()
    before_mb = _resident_mb()
    started = perf_counter()
    recognizer = Recognizer.load(options.bundle, threads=options.threads)
    load_s = perf_counter() - started
    recognizer.warm_up()
    loaded_mb = _resident_mb()
    elapsed = _measure(_cases(recognizer), options.repeats)
    after_mb = _resident_mb()

    table = Table("part", "input", "median ms", "95 % ms")
    for (part, size), values in elapsed.items():
        median, high = np.percentile(values, [50, 95])
        table.add_row(part, size, f"{median:.1f}", f"{high:.1f}")
    console = Console()
    console.print(table)
    console.print(
        f"{recognizer.bundle.manifest.name}: loaded and verified in {load_s:.2f} s; resident memory "
        f"{before_mb:.0f} MB before, {loaded_mb:.0f} MB loaded and warm, {after_mb:.0f} MB at the end"
    )
    console.print(
        f"{options.threads} thread(s), {options.repeats} repeats, load average {os.getloadavg()[0]:.1f}, "
        f"{platform.machine()} with {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"onnxruntime {version('onnxruntime')}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="default: the one that ships")
    parser.add_argument("--threads", type=int, default=1, help="of each part (default: 1)")
    parser.add_argument("--repeats", type=int, default=30)
    return parser


def _measure(cases: dict[tuple[str, str], Callable[[], object]], repeats: int) -> dict[tuple[str, str], list[float]]:
    elapsed: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(repeats):
        for name, case in cases.items():
            started = perf_counter()
            case()
            elapsed[name].append(1000 * (perf_counter() - started))
    return elapsed


def _cases(recognizer: Recognizer) -> dict[tuple[str, str], Callable[[], object]]:
    speech, pictures = _media()
    faces = [face for picture in pictures if (face := recognizer.prepare_frame(picture)) is not None]
    turns = [Turn("a", "I told you that it would not work, and you did not listen to me.")]
    cases: dict[tuple[str, str], Callable[[], object]] = {}
    for count in (1, 4, 8):
        dialogue = turns * count
        cases["text", f"{count} turns"] = lambda dialogue=dialogue: recognizer.encode_text(dialogue)
    for seconds in (1, 4, 8):
        samples = speech[: seconds * SAMPLE_RATE_HZ]
        cases["audio", f"{seconds} s"] = lambda samples=samples: recognizer.encode_audio(samples)
    height, width = pictures[0].shape[:2]
    cases["face detection", f"{width} x {height} px"] = lambda: recognizer.prepare_frame(pictures[0])
    for count in (1, len(faces)):
        some = faces[:count]
        cases["visual", f"{count} faces"] = lambda some=some: recognizer.encode_visual(some)
    text, audio, visual = (
        recognizer.encode_text(turns),
        recognizer.encode_audio(speech),
        recognizer.encode_visual(faces),
    )
    cases["fusion", "all three"] = lambda: recognizer.fuse(text=text, audio=audio, visual=visual)
    cases["sum", "8 turns, 4 s, faces"] = lambda: recognizer.recognize(
        text=turns * 8, audio=speech[: 4 * SAMPLE_RATE_HZ], frames=faces
    )
    return cases


def _resident_mb() -> float:
    """Memory of the process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _media() -> tuple[npt.NDArray[np.float32], list[npt.NDArray[np.uint8]]]:
    """The demo's speech, and eight of its pictures."""
    with av.open(str(CONVERSATION)) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
        chunks = [chunk.to_ndarray()[0] for frame in container.decode(audio=0) for chunk in resampler.resample(frame)]
        container.seek(0)
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.concatenate(chunks), pictures[:: len(pictures) // 8][:8]


if __name__ == "__main__":
    main()
