"""A trained model run by PyTorch, behind the features of its bundle: what an export is timed against."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from time import perf_counter

import torch
from torch.utils.flop_counter import FlopCounterMode

from export.errors import ExportError
from export.material import Material, decode
from export.together import models
from export.torch_model import CPU, Place
from export.trained import Trained
from telme.bundle import Bundle
from telme.features.text import Prompter, Turn
from telme.runtime.encoders import Encoded
from telme.runtime.recognizer import Recognizer

GPU = Place("cuda", torch.float16)


def place_of(bundle: Bundle) -> Place:
    """Where PyTorch competes with a bundle: on the GPU, in half precision, with one that runs there."""
    return GPU if any(part.backend.startswith("tensorrt") for _, part in bundle.manifest.parts.named()) else CPU


def pytorch(trained: Trained, bundle: Bundle, threads: int, place: Place = CPU) -> Recognizer:
    """Raises ExportError when the bundle is not of that model, or there is nothing to compile with."""
    if trained.checkpoints["text"].config != bundle.manifest.training.config:
        raise ExportError(
            f"The run is of {trained.checkpoints['text'].config} and the bundle of {bundle.manifest.training.config}; "
            "give the run folder that the bundle was exported from."
        )
    if place.compiled and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise ExportError("--against compile needs a C++ compiler: run `apt install g++`, or name one in CXX.")
    return Recognizer.of(bundle, models(trained, place), threads)


class AuthorsStyle:
    """What the released inference code does with one clip, at any model's size.

    It decodes the clip once for the sound and once more, every picture of it, for the frames, pads each prompt to
    the longest, and computes in float32.
    """

    def __init__(self, trained: Trained, recognizer: Recognizer) -> None:
        """recognizer: of `pytorch`, on the CPU."""
        self._trained = trained
        self._recognizer = recognizer
        self._prompter = Prompter(trained.specifications.text, trained.tokenizer)

    def recognise(self, material: Material, turns: Sequence[Turn]) -> None:
        speech, _ = decode(material.clip)
        _, pictures = decode(material.clip)
        step = max(1, len(pictures) // len(material.pictures))
        shown = pictures[::step][: len(material.pictures)]
        frames = [frame for picture in shown if (frame := self._recognizer.prepare_frame(picture)) is not None]
        audio, visual = self._recognizer.encode_audio(speech), self._recognizer.encode_visual(frames)
        self._recognizer.fuse(text=self.read(turns), audio=audio, visual=visual)

    def read(self, turns: Sequence[Turn]) -> Encoded:
        """The teacher's word on a prompt that is padded to the longest."""
        longest = self._trained.specifications.text.max_tokens
        ids = torch.zeros(1, longest, dtype=torch.int64)
        prompt = torch.from_numpy(self._prompter.encode(turns))
        ids[0, : len(prompt)] = prompt
        with torch.inference_mode():
            vector, logits = self._trained.text(ids, (torch.arange(longest) < len(prompt)).long()[None])
        return Encoded(vector[0].numpy(), logits[0].numpy(), elapsed_ms=0.0)


def floating_point_operations(work: Callable[[], object]) -> int:
    """Multiplications and additions of the matrix products and convolutions in PyTorch work."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """PyTorch uses so many cores within it."""
    usual = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(usual)


def memory_gb_per_s(megabytes: int = 256, repeats: int = 5) -> float:
    """How fast this machine reads a large array from memory: 10^9 bytes a second."""
    numbers = torch.ones(megabytes * 250_000)
    spent = []
    for _ in range(repeats + 1):
        started = perf_counter()
        numbers.sum()
        spent.append(perf_counter() - started)
    return megabytes / 1000 / median(spent[1:])


def peak_gflops(size: int = 2048, repeats: int = 5) -> float:
    """What this machine reaches in a large float32 matrix product: 10^9 multiplications and additions a second."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    spent = []
    for _ in range(repeats + 1):
        started = perf_counter()
        torch.mm(a, b)
        spent.append(perf_counter() - started)
    return 2 * size**3 / median(spent[1:]) / 1e9
