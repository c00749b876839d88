"""How fast a bundle recognises: milliseconds by part and size, utterances per second, memory and load time."""

import os
import platform
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import numpy as np
from pydantic import AwareDatetime, BaseModel, ConfigDict
from tokenizers import Tokenizer

from export.gpu import Gpu, the_gpu
from export.material import Material, dialogue
from telme.features.text import Prompter, Turn
from telme.progress import tracked
from telme.runtime.encoders import Frame
from telme.runtime.model import Float32
from telme.runtime.recognition import Recognition
from telme.runtime.recognizer import Inputs, Recognizer

TOKENS = (16, 32, 64, 128, 256, 511)
SECONDS = (1.0, 2.0, 4.0, 8.0)
FRAMES = (1, 4, 8)
BATCHES = (1, 2, 4, 8, 16, 32)
TYPICAL_TOKENS, TYPICAL_S = 128, 4.0

PACKAGES = ("onnxruntime", "torch", "tensorrt", "openvino")

Work = Callable[[], object]
A = TypeVar("A")
N = TypeVar("N", int, float)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Timing(_Model):
    """Milliseconds. first: the first call's, of which the others are not part."""

    median_ms: float
    p95_ms: float
    first_ms: float


class Row(_Model):
    """One piece of work. by: contender -> its times. gflop: 10^9 multiplications and additions of it."""

    part: str
    size: str
    by: dict[str, Timing]
    gflop: float | None = None


class Throughput(_Model):
    """Whole utterances per second when so many are recognised at once; the median over repeats."""

    batch: int
    per_second: float


class Host(_Model):
    machine: str
    cores: int
    threads: int
    load_average: float
    python: str
    packages: dict[str, str]
    peak_gflops: float | None = None
    memory_gb_per_s: float | None = None
    gpu: Gpu | None = None


class Benchmark(_Model):
    """A benchmark's whole result; the first contender is the bundle.

    pytorch: where PyTorch computed, and in what; None where it did not.
    """

    bundle: str
    bundle_sha256: str
    measured_at: AwareDatetime
    repeats: int
    host: Host
    load_s: float
    weights_mb: dict[str, float]
    resident_mb: dict[str, float]
    rows: tuple[Row, ...]
    throughput: tuple[Throughput, ...]
    pytorch: str | None = None

    @property
    def contenders(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for row in self.rows for name in row.by))


@dataclass(frozen=True)
class Case:
    """work: contender -> what is timed; one that cannot do it is left out."""

    part: str
    size: str
    work: Mapping[str, Work]


def cases(contenders: Mapping[str, Recognizer], material: Material) -> list[Case]:
    """Every part at several sizes, and the whole of a typical utterance: 128 tokens, 4 s of speech, 8 frames.

    The whole is timed twice: its parts one after the other, and the bundle's with text, sound and picture at once, in a
    thread each. Sizes beyond what the bundle takes are left out.
    """
    first = next(iter(contenders.values()))
    spec = first.bundle.manifest
    prompts = prompter(first)
    turns, sound, frames = typical(first, material)
    height, width = material.pictures[0].shape[:2]
    found: list[Case] = []

    def add(part: str, size: str, work: Callable[[Recognizer], object]) -> None:
        found.append(Case(part, size, {name: _bound(work, recognizer) for name, recognizer in contenders.items()}))

    for tokens in _within(TOKENS, spec.text.max_tokens):
        longer = dialogue(tokens, prompts)
        add("text", f"{len(prompts.encode(longer))} tokens", _work(Recognizer.encode_text, longer))
    for seconds in _within(SECONDS, spec.audio.max_s):
        add("audio", f"{seconds:g} s", _work(Recognizer.encode_audio, material.sound(seconds)))
    for count in [count for count in FRAMES if count <= len(frames)]:
        add("visual", f"{count} frame{'s' * (count > 1)}", _work(Recognizer.encode_visual, frames[:count]))
    own = {next(iter(contenders)): _bound(first.prepare_frame, material.pictures[0])}
    found.append(Case("frame preparation", f"{width} x {height} px", own))
    encoded = {
        name: {
            "text": one.encode_text(turns),
            "audio": one.encode_audio(sound),
            "visual": one.encode_visual(frames),
        }
        for name, one in contenders.items()
    }
    work = {name: _bound(lambda one, said: one.fuse(**said), one, encoded[name]) for name, one in contenders.items()}
    found.append(Case("fusion", "all three", work))
    whole = Inputs(turns, sound, frames)
    size = f"{len(prompts.encode(turns))} tokens, {len(sound) / 16_000:g} s, {len(frames)} frames"
    add("whole utterance", size, _work(Recognizer.recognize_batch, [whole]))
    threads = ThreadPoolExecutor(3)

    def at_once() -> Recognition:
        text = threads.submit(first.encode_text, turns)
        visual = threads.submit(first.encode_visual, frames)
        audio = threads.submit(first.encode_audio, sound)
        return first.fuse(text=text.result(), audio=audio.result(), visual=visual.result())

    found.append(Case("whole utterance, encoders at once", size, {next(iter(contenders)): at_once}))
    return found


def measure(cases: Sequence[Case], repeats: int) -> list[Row]:
    """Times of all cases, taken in turns: other load on the machine meets all contenders alike."""
    first: dict[tuple[int, str], float] = {}
    elapsed: dict[tuple[int, str], list[float]] = defaultdict(list)
    for repeat in tracked(range(repeats + 1), repeats + 1, "measuring", "rounds"):
        for place, case in enumerate(cases):
            for name, work in case.work.items():
                started = perf_counter()
                work()
                spent_ms = 1000 * (perf_counter() - started)
                if repeat == 0:
                    first[place, name] = spent_ms
                else:
                    elapsed[place, name].append(spent_ms)
    return [
        Row(
            part=case.part,
            size=case.size,
            by={name: _timing(elapsed[place, name], first[place, name]) for name in case.work},
        )
        for place, case in enumerate(cases)
    ]


def throughput(recognizer: Recognizer, material: Material, repeats: int) -> list[Throughput]:
    """Typical utterances at once, in batches of 1 to 32."""
    utterance = Inputs(*typical(recognizer, material))
    found = []
    for batch in BATCHES:
        recognizer.recognize_batch([utterance] * batch)
        spent = []
        for _ in range(max(3, repeats // batch)):
            started = perf_counter()
            recognizer.recognize_batch([utterance] * batch)
            spent.append(perf_counter() - started)
        found.append(Throughput(batch=batch, per_second=batch / float(np.median(spent))))
    return found


def typical(recognizer: Recognizer, material: Material) -> tuple[list[Turn], Float32, list[Frame]]:
    """Turns, sound and frames of an utterance of the typical size, or of the largest that the bundle takes."""
    spec = recognizer.bundle.manifest
    turns = dialogue(min(TYPICAL_TOKENS, spec.text.max_tokens), prompter(recognizer))
    faces = [frame for picture in material.pictures if (frame := recognizer.prepare_frame(picture)) is not None]
    return turns, material.sound(min(TYPICAL_S, spec.audio.max_s)), faces[: spec.visual.frames]


def host(threads: int, peak_gflops: float | None, memory_gb_per_s: float | None) -> Host:
    return Host(
        machine=_processor(),
        cores=os.cpu_count() or 1,
        threads=threads,
        load_average=os.getloadavg()[0],
        python=platform.python_version(),
        packages={name: found for name in PACKAGES if (found := _version(name)) is not None},
        peak_gflops=peak_gflops,
        memory_gb_per_s=memory_gb_per_s,
        gpu=the_gpu(),
    )


def now() -> datetime:
    return datetime.now(UTC)


def resident_mb() -> float:
    """Memory of this process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def from_clip(recognizer: Recognizer, material: Material, turns: Sequence[Turn]) -> None:
    """Decode the clip once and recognise it whole."""
    clip = Material.read(material.clip, len(material.pictures))
    frames = [frame for picture in clip.pictures if (frame := recognizer.prepare_frame(picture)) is not None]
    recognizer.recognize(text=turns, audio=clip.speech, frames=frames)


def _work(method: Callable[[Recognizer, A], object], argument: A) -> Callable[[Recognizer], object]:
    return lambda recognizer: method(recognizer, argument)


def _bound(work: Callable[..., object], *arguments: object) -> Work:
    return lambda: work(*arguments)


def prompter(recognizer: Recognizer) -> Prompter:
    """Makes prompts as the bundle does."""
    bundle = recognizer.bundle
    tokenizer = Tokenizer.from_file(str(bundle.folder / bundle.manifest.text.tokenizer))
    return Prompter(bundle.manifest.text, tokenizer)


def _within(sizes: Sequence[N], longest: N) -> list[N]:
    """The sizes below the longest, and the longest itself unless all are below it."""
    shorter = [size for size in sizes if size < longest]
    if len(shorter) < len(sizes):
        shorter.append(longest)
    return shorter


def _timing(values: Sequence[float], first: float) -> Timing:
    median, high = np.percentile(values, [50, 95])
    return Timing(median_ms=float(median), p95_ms=float(high), first_ms=first)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
