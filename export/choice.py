"""Chooses how a part is computed: the fastest of several ways that agree well enough with the trained module."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Literal

from export import openvino_part, part
from export.errors import ExportError, StrayError
from export.part import PartName, Plan
from telme.bundle import Part, Precision, Trial
from telme.runtime import backends
from telme.runtime.model import Array, Model

log = logging.getLogger(__name__)

Auto = Literal["auto"]
AUTO: Auto = "auto"
REPEATS = 7


@dataclass(frozen=True)
class Way:
    """How a part can be computed on a CPU."""

    backend: Literal["onnxruntime", "openvino"]
    precision: Precision

    def export(self, plan: Plan, folder: Path) -> Part:
        make = part.export if self.backend == "onnxruntime" else openvino_part.export
        return make(plan, self.precision, folder)


OPENVINO_WAYS = tuple(Way("openvino", precision) for precision in ("int8-static", "int8", "bf16"))
# OpenVINO gains little on data2vec's convolutions, and strays on faces; ONNX Runtime does both in int8 as well.
STUDENT_WAYS = (*OPENVINO_WAYS, Way("onnxruntime", "int8-static"))
ONNX_WAYS = (Way("onnxruntime", "int8-static"), Way("onnxruntime", "int8-dynamic"))
# What is taken where none of the others agrees; fp16 is stored and computed in float32.
EXACT_WAYS = (Way("openvino", "fp32"), Way("onnxruntime", "fp16"))


def ways(name: PartName, openvino: bool) -> Sequence[Sequence[Way]]:
    """What is tried: the next of these groups only where none of a group agrees.

    The fusion takes less than a millisecond, so nothing is saved by rounding it.
    """
    if not openvino:
        return (() if name == "fusion" else ONNX_WAYS, EXACT_WAYS[1:])
    if name == "fusion":
        return (EXACT_WAYS,)
    return (OPENVINO_WAYS if name == "text" else STUDENT_WAYS, EXACT_WAYS)


def fastest(plan: Plan, groups: Sequence[Sequence[Way]], folder: Path) -> Part:
    """Write the fastest way whose parity holds into `folder`; the part says what else was tried.

    Raises ExportError where none agrees.
    """
    with TemporaryDirectory(dir=folder, prefix=".ways-") as scratch:
        strayed: list[Trial] = []
        for group in groups:
            good: dict[Path, Part] = {}
            for way in group:
                place = Path(scratch) / f"{way.backend}-{way.precision}"
                place.mkdir()
                try:
                    good[place] = way.export(plan, place)
                except StrayError as stray:
                    how = "strays too far" if stray.parity else "gives NaN or infinity"
                    log.warning("%s in %s on %s %s and is not taken", plan.name, way.precision, way.backend, how)
                    strayed.append(Trial(backend=way.backend, precision=way.precision, parity=stray.parity))
            if good:
                return _taken(plan, good, strayed, folder)
    raise ExportError(f"No way to compute the {plan.name} part agrees with the trained one; see the log above.")


def _taken(plan: Plan, good: Mapping[Path, Part], strayed: Sequence[Trial], folder: Path) -> Part:
    models = [backends.load(place / each.file, each, threads=1) for place, each in good.items()]
    medians = timed(models, plan.calibration()[0])
    trials = [
        Trial(backend=each.backend, precision=each.precision, parity=each.parity, median_ms=taken)
        for each, taken in zip(good.values(), medians, strict=True)
        if each.parity is not None
    ]
    for trial in trials:
        log.info("%s in %s on %s: %.2f ms", plan.name, trial.precision, trial.backend, trial.median_ms)
    place, best = list(good.items())[medians.index(min(medians))]
    for name in (best.file, *(document.file for document in best.documents())):
        (place / name).rename(folder / name)
    return best.model_copy(update={"trials": (*trials, *strayed)})


def timed(models: Sequence[Model], inputs: Mapping[str, Array], repeats: int = REPEATS) -> list[float]:
    """Median milliseconds of each model; they take turns, so that whatever else the machine does slows all alike."""
    spent: list[list[float]] = [[] for _ in models]
    for _ in range(repeats + 1):
        for model, times in zip(models, spent, strict=True):
            started = perf_counter()
            model.run(inputs)
            times.append(1000 * (perf_counter() - started))
    return [median(times[1:]) for times in spent]
