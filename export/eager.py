"""A trained model run by PyTorch, behind the features of its bundle: what an export is timed against."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter

import cv2
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from export.errors import ExportError
from export.material import Material
from export.together import models
from export.torch_model import CPU, Place
from export.trained import Trained
from telme.bundle import Bundle
from telme.corpora import authors_media
from telme.features.text import Prompter, Turn
from telme.runtime.encoders import Encoded, Frame
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
    for name, encoder in trained.reused.items():
        raise ExportError(
            f"The {name} part was taken over from a bundle in {encoder.part.precision}, so PyTorch has none to run; "
            "give a run folder that telme-train has written whole."
        )
    if place.compiled and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise ExportError("--against compile needs a C++ compiler: run `apt install g++`, or name one in CXX.")
    return Recognizer.of(bundle, models(trained, place), threads)


class AuthorsStyle:
    """What the authors' released `MELD/inference.py` does with one clip, at any model's size, in float32.

    It decodes the sound twice, first only to know how long it is, and hears 22,050 samples as 16,000, so that speech
    is 1.38 times as long for the encoder. It decodes all pictures and keeps eight. Prompts are not padded to a fixed
    length, but to the longest of four neighbours. What does not tell on the time is done as in the bundle: the order of
    colours, speakers' numbers, the side that is padded. Files are read in this process, theirs by a program of its own.
    """

    def __init__(self, trained: Trained, recognizer: Recognizer) -> None:
        """recognizer: of `pytorch`, on the CPU."""
        self._trained = trained
        self._recognizer = recognizer
        self._prompter = Prompter(trained.specifications.text, trained.tokenizer)

    def recognise(self, material: Material, turns: Sequence[Turn], longest: int = 0) -> None:
        """longest: tokens of the longest prompt beside this one's, if that is longer."""
        authors_media.sound(material.clip)
        speech = authors_media.sound(material.clip)
        shown = _shown(material.clip, len(material.pictures))
        frames = [frame for picture in shown if (frame := self._recognizer.prepare_frame(picture)) is not None]
        audio, visual = self._recognizer.encode_audio(speech), self._recognizer.encode_visual(frames)
        self._recognizer.fuse(text=self.read(turns, longest), audio=audio, visual=visual)

    def read(self, turns: Sequence[Turn], longest: int = 0) -> Encoded:
        """The teacher's word on a prompt, padded to `longest` tokens."""
        prompt = torch.from_numpy(self._prompter.encode(turns))
        ids = torch.zeros(1, max(longest, len(prompt)), dtype=torch.int64)
        ids[0, : len(prompt)] = prompt
        with torch.inference_mode():
            vector, logits = self._trained.text(ids, (torch.arange(ids.shape[1]) < len(prompt)).long()[None])
        return Encoded(vector[0].numpy(), logits[0].numpy(), elapsed_ms=0.0)


def _shown(clip: Path, count: int) -> list[Frame]:
    """Of N pictures, which are all decoded, the first `count` whose number, from 1, N // `count` divides."""
    video = cv2.VideoCapture(str(clip))
    step = max(1, int(video.get(cv2.CAP_PROP_FRAME_COUNT)) // count)
    kept: list[Frame] = []
    number = 0
    while (read := video.read())[0]:
        number += 1
        if number % step == 0:
            kept.append(np.asarray(read[1], np.uint8))
    video.release()
    return kept[:count]


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
