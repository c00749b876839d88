"""By which of PyTorch's exporters, and at which opset, the parts become the best ONNX models.

    python bench/exporters.py --repeats 200

Exports the parts of configs/compact.yaml as they begin their training, traced with four utterances of other lengths.
Each model is asked about two utterances, of which one is padded, and its answers are compared with the module's; then
all models of a part take turns at a typical single utterance, in ONNX Runtime on one thread. The last column is the
median over the rounds of a model's time as a share of what telme-export's own model took in the same round, so that
other load on the machine hardly tells. Nodes are counted as exported, before ONNX Runtime optimises the graph.
"""

import argparse
import io
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from operator import truediv
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import onnx
import torch
from onnx import ModelProto
from torch import nn

from export import signatures
from export.errors import ExportError
from export.lean import lean
from export.onnx import OPSET, Signature, check, to_onnx
from export.torch_model import TorchModel
from telme.bundle import BundleError, Part, Tensor, sha256_of
from telme.models.fusion import ASF, FusionDimensions
from telme.models.sources import locate
from telme.models.teacher import Teacher
from telme.runtime.model import Array, Model
from telme.runtime.onnxruntime import OnnxModel
from telme.runtime.tensorrt import shapes
from telme.training import config
from telme.training.audio import pretrained_student
from telme.training.config import TrainingConfig
from telme.training.tokenizer import prepare_tokenizer
from telme.training.visual_student import described_student

CONFIG = Path(__file__).parents[1] / "configs" / "compact.yaml"
TORCHSCRIPT, DYNAMO = "TorchScript", "dynamo"
WAYS = ((TORCHSCRIPT, 17), (TORCHSCRIPT, 20), (DYNAMO, 18), (DYNAMO, 20), (DYNAMO, 23), (DYNAMO, 24))
TRACED = {"batch": 4, "tokens": 21, "steps": 130, "frames": 3}
ASKED = {"batch": 2, "tokens": 50, "steps": 270, "frames": 5}
TYPICAL = {"batch": 1, "tokens": 96, "steps": 400, "frames": 8}


@dataclass(frozen=True)
class Subject:
    """A part, as it is exported. words: how many the text part knows."""

    name: str
    module: nn.Module
    signature: Signature
    words: int = 1

    def inputs(self, sizes: Mapping[str, int]) -> dict[str, Array]:
        """Random ones; of several utterances each is shorter than the one before, and padded."""
        random = np.random.default_rng(0)
        return {
            tensor.name: self._input(tensor, shape, random)
            for tensor, shape in zip(self.signature.inputs, shapes(self.signature.inputs, sizes).values(), strict=True)
        }

    def _input(self, tensor: Tensor, shape: tuple[int, ...], random: np.random.Generator) -> Array:
        if "mask" in tensor.name:
            lengths = shape[1] * (1 - np.arange(shape[0])[:, None] / (2 * shape[0]))
            return (np.arange(shape[1]) < lengths).astype(tensor.dtype)
        if tensor.dtype == "int64":
            return random.integers(self.words, size=shape)
        return random.random(shape, np.float32)


@dataclass(frozen=True)
class Row:
    """One way to export one part, of which nothing but the reason is known where it cannot be done or run.

    error: largest of an output. median_ms: of a typical utterance. share: of the time that our own way takes.
    """

    exporter: str
    opset: int
    reason: str = ""
    nodes: int = 0
    megabytes: float = 0.0
    error: float = 0.0
    median_ms: float = 0.0
    share: float = 0.0

    @property
    def ours(self) -> bool:
        return (self.exporter, self.opset) == (DYNAMO, OPSET)

    def cells(self) -> tuple[str, ...]:
        if self.reason:
            return (self.reason, *[""] * 4)
        times = f"{self.median_ms:.2f}", f"{self.share:.2f}"
        return str(self.nodes), f"{self.megabytes:.1f}", f"{self.error:.0e}", *times


def subjects(settings: TrainingConfig) -> Iterator[Subject]:
    """The four parts as the configuration describes them."""
    teacher, audio, visual, fusion = settings.teacher, settings.audio, settings.visual, settings.fusion
    assert teacher is not None
    assert audio is not None
    assert visual is not None
    assert not isinstance(visual.backbone, str)
    assert fusion is not None
    torch.manual_seed(settings.seed)
    labels = len(settings.labels)
    source = locate(teacher.backbone)
    tokenizer, spec = prepare_tokenizer(source, teacher.speakers, teacher.max_tokens)
    words = tokenizer.get_vocab_size()
    text = Teacher.pretrained(source, words, vector=teacher.vector, labels=labels)
    heard = pretrained_student(audio, settings.labels)
    seen = described_student(visual.backbone, visual.vector, labels)
    sizes = FusionDimensions(teacher.vector, audio.vector, visual.vector, labels, fusion.heads, fusion.dropout)
    yield Subject("text", text, signatures.text(spec, text.dimensions), words)
    yield settled(Subject("audio", heard, signatures.audio(audio.input, heard.dimensions)))
    yield settled(Subject("visual", seen, signatures.visual(visual.input, seen.dimensions)))
    yield Subject("fusion", ASF(sizes), signatures.fusion(sizes))


def settled(subject: Subject, passes: int = 30) -> Subject:
    """The part with statistics in its batch norms: without any, activations fade until they are slow to compute."""
    inputs = [torch.from_numpy(array) for array in subject.inputs(TRACED).values()]
    with torch.no_grad():
        for _ in range(passes):
            subject.module.train()(*inputs)
    return subject


def torchscript(module: nn.Module, signature: Signature, example: Mapping[str, Array], opset: int) -> ModelProto:
    """As `to_onnx`, by the exporter that came before."""
    names = [tensor.name for tensor in signature.inputs]
    tensors = (*signature.inputs, *signature.outputs)
    written = io.BytesIO()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it has no word for the operator of that path
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module.eval(),
                tuple(torch.from_numpy(example[name]) for name in names),
                written,  # type: ignore[arg-type]  # it takes a file, too
                dynamo=False,
                opset_version=opset,
                input_names=names,
                output_names=[tensor.name for tensor in signature.outputs],
                dynamic_axes={
                    one.name: {axis: size for axis, size in enumerate(one.shape) if isinstance(size, str)}
                    for one in tensors
                },
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise ExportError(" ".join(str(error).split())[:80]) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    model = onnx.load_from_string(written.getvalue())
    check(model, signature)
    return model


def measured(subject: Subject, repeats: int) -> list[Row]:
    """A row for each way."""
    question, typical = subject.inputs(ASKED), subject.inputs(TYPICAL)
    expected = TorchModel(subject.module, subject.signature).run(question)
    rows: list[Row] = []
    models: dict[int, Model] = {}
    with TemporaryDirectory() as folder:
        for place, (exporter, opset) in enumerate(WAYS):
            make = torchscript if exporter == TORCHSCRIPT else to_onnx
            try:
                made = make(lean(subject.module), subject.signature, subject.inputs(TRACED), opset)
                path = Path(folder) / f"{place}.onnx"
                onnx.save(made, path)
                model = OnnxModel(path, _part(path, subject.signature), threads=1)
            except (ExportError, BundleError) as refusal:
                rows.append(Row(exporter, opset, reason=str(refusal)))
                continue
            answers = model.run(question)
            error = max(float(np.abs(answers[name] - array).max()) for name, array in expected.items())
            rows.append(Row(exporter, opset, "", len(made.graph.node), path.stat().st_size / 1e6, error))
            models[place] = model
    spent = timed({place: partial(model.run, typical) for place, model in models.items()}, repeats)
    ours = spent[next(place for place, row in enumerate(rows) if row.ours)]
    return [
        replace(row, median_ms=median(spent[place]), share=median(map(truediv, spent[place], ours)))
        if place in spent
        else row
        for place, row in enumerate(rows)
    ]


def _part(path: Path, signature: Signature) -> Part:
    return Part(
        file=path.name,
        sha256=sha256_of(path),
        bytes=path.stat().st_size,
        precision="fp32",
        inputs=signature.inputs,
        outputs=signature.outputs,
    )


def timed(works: Mapping[int, Callable[[], object]], repeats: int) -> dict[int, list[float]]:
    """Milliseconds of each in every round; who begins one ends the next. The first does not count."""
    spent: dict[int, list[float]] = {place: [] for place in works}
    for repeat in range(repeats + 1):
        for place in sorted(works, reverse=bool(repeat % 2)):
            started = perf_counter()
            works[place]()
            spent[place].append(1000 * (perf_counter() - started))
    return {place: times[1:] for place, times in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxscript", "onnxruntime"))
    print(f"{versions}; Python {platform.python_version()}\n")
    print(f"| part | exporter | opset | nodes | MB | largest error | ms | of ours |\n|---|---|{'---:|' * 6}")
    for subject in subjects(config.load(CONFIG)):
        for row in measured(subject, options.repeats):
            print(f"| {' | '.join((subject.name, row.exporter, str(row.opset), *row.cells()))} |", flush=True)


if __name__ == "__main__":
    main()
