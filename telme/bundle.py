"""What is shipped to a machine: a directory with a manifest, the model's parts and a model card.

The manifest decides everything about preprocessing, so that training, export and the live system
cannot disagree. Reading a bundle checks it; a bundle that does not fit is refused with one sentence.
"""

import hashlib
import math
import shlex
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from telme.labels import IEMOCAP, MELD

MANIFEST = "manifest.json"
SCHEMA: Literal["telme.bundle/1"] = "telme.bundle/1"
MANIFEST_BYTES_MAX = 1 << 20
TOKENIZER_BYTES_MAX = 64 << 20  # ten times that of a multilingual model
COMPACT = Path(__file__).parent / "weights" / "compact"
COPY = "copy the whole bundle again"
REMEDY = f"{COPY}, or export it again with telme-export"
LICENCES = "licences"  # folder in a bundle
_CORPORA = "/path/to/corpora"  # a bundle does not know where they are

Modality = Literal["text", "audio", "visual"]
MODALITIES: tuple[Modality, ...] = ("text", "audio", "visual")
# No step of a path begins with a dot, so that none leads out of the folder, wherever the file is copied to.
FileName = Annotated[
    str,
    Field(pattern="^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$", description="relative to the bundle"),
]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
# How weights are stored and computed with. For ONNX Runtime fp16 and int8 are storage only: the arithmetic is float32.
# int8-dynamic also multiplies in int8, with scales taken from each call's activations.
# int8-static too, with scales fixed at export, from real inputs.
# OpenVINO multiplies in bf16 where the CPU has it, and scales what meets an int8 weight in groups of 32 values.
# A TensorRT engine multiplies in fp16 or bf16, by large weights in int8-static or fp8 (E4M3) too, and keeps norms and
# sums in float32.
Precision = Literal["fp32", "fp16", "bf16", "int8", "int8-dynamic", "int8-static", "fp8"]
Flavour = Literal["tensorrt", "tensorrt-rtx"]
Backend = Literal["onnxruntime", "openvino", Flavour]
Hardware = Literal["none", "same_compute_capability", "ampere_plus"]
# Compute capabilities from which on GPUs have bf16, and fp8.
AMPERE, FP8_SINCE = (8, 0), (8, 9)
# What comes nearest to them on older ones.
_BEFORE: Mapping[Precision, tuple[tuple[int, ...], Precision]] = {
    "bf16": (AMPERE, "fp16"),
    "fp8": (FP8_SINCE, "int8-static"),
}


class BundleError(Exception):
    """A bundle that cannot be used; the message says why and what to run or change."""


class UnfitError(BundleError):
    """A sound bundle that was made for another machine than this one."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Spec(_Model):
    """How inputs are made. Some rules exist only to repeat the evaluation of the TelME authors' weights, offline."""

    offline_rules: ClassVar[tuple[str, ...]] = ()

    def offline(self) -> list[str]:
        """The fields, with their values, that the live system cannot obey."""
        return [
            f"{name} = {getattr(self, name)}"
            for name in self.offline_rules
            if getattr(self, name) != type(self).model_fields[name].default
        ]

    def corrected(self) -> Self:
        """The same with the values that the live system obeys."""
        return self.model_copy(update={name: type(self).model_fields[name].default for name in self.offline_rules})


def offline_complaint(text: Spec, audio: Spec, visual: Spec, fusion: Spec) -> str | None:
    """Why a model with these specifications cannot run live, or None where it can."""
    parts = {"text": text, "audio": audio, "visual": visual, "fusion": fusion}
    found = [f"{name}.{rule}" for name, spec in parts.items() for rule in spec.offline()]
    if not found:
        return None
    return (
        f"The model is for offline evaluation only ({', '.join(found)}), as imported weights of the TelME authors are; "
        "take one that telme-train has trained."
    )


HeardAs = Literal["as_written", "without_stops"]


class TextSpec(Spec):
    """How dialogue turns become token ids: the paper's prompt `<s1> ... </s> Now <s1> feels <mask>`."""

    offline_rules = ("prompt",)

    tokenizer: FileName = Field("tokenizer.json", description="file in the bundle, as `tokenizers` saves it")
    tokenizer_sha256: Sha256
    max_tokens: int = Field(ge=8, le=8192, description="longest prompt; whole turns are dropped from the front")
    separator_token: str = Field(description="stands between the dialogue and the question")
    mask_token: str = Field(description="last token; its hidden state is the utterance vector")
    pad_token: str
    speaker_tokens: tuple[str, ...] = Field(
        min_length=1, max_length=256, description="one per speaker, in order of appearance"
    )
    prompt: Literal["turns", "string"] = Field(
        "turns",
        description="turns: each cleaned and tokenised by itself, whole ones dropped; string: as the TelME authors' "
        "code, one string as it stands, without the spaces around speaker tokens, cut anywhere",
    )
    heard: HeardAs = Field(
        "as_written",
        description="turns that a speech recogniser wrote: as it did; or without full stops, commas and their kind, "
        "which are the recogniser's and not the speaker's",
    )


class AudioSpec(Spec):
    """How a waveform becomes model input."""

    offline_rules = ("source_rate_hz", "padding", "standardised")

    kind: Literal["log_mel", "waveform"] = Field(
        description="log_mel: Whisper's log-Mel spectrogram; waveform: zero mean, unit variance samples"
    )
    sample_rate_hz: Literal[16000] = 16000
    min_s: float = Field(0.1, gt=0, description="anything shorter counts as missing audio")
    max_s: float = Field(gt=0, le=600, description="of anything longer the last `max_s` are read")
    mel_bins: int = Field(80, gt=0, le=512)
    source_rate_hz: Literal[16000, 22050] = Field(
        16000, description="rate of the samples given; 22050: taken for sample_rate_hz, as in the TelME authors' code"
    )
    padding: Literal["right", "left"] = Field(
        "right", description="right: behind the sound, masked; left: before it, and heard as silence"
    )
    standardised: Literal["tail", "clip"] = Field(
        "tail", description="mean and variance of a waveform are of the part that is read, or of the whole clip"
    )


class VisualSpec(Spec):
    """How video frames become model input."""

    offline_rules = ("colours", "choice")

    kind: Literal["face_crops", "frames"] = Field(
        description="face_crops: one face of a picture, cut out and scaled: the largest, or in the live system the "
        "speaking one; frames: the whole picture, centre-cropped"
    )
    size_px: int = Field(gt=0, le=2048, description="side of the square model input")
    channels: Literal[1, 3] = Field(description="1: grey, 3: colours")
    frames: int = Field(gt=0, le=1024, description="at most this many per utterance")
    rate_hz: float = Field(5.0, gt=0, le=120, description="how often a live stream's picture is looked at")
    margin: float = Field(0.0, ge=0, le=10, description="added around a face box, as a share of its side")
    mean: tuple[float, ...] = Field(description="per channel, of pixel values in [0, 1]")
    std: tuple[Annotated[float, Field(gt=0)], ...]
    colours: Literal["rgb", "bgr"] = Field("rgb", description="order of three channels; bgr: the TelME authors'")
    choice: Literal["spread", "multiples"] = Field(
        "spread",
        description="spread: frames evenly spaced over the utterance; multiples: of N frames the first whose number, "
        "from 1, N // frames divides, as in the TelME authors' code",
    )


class Tensor(_Model):
    """One input or output of a part. A named dimension varies within its range; a number is fixed."""

    name: str
    dtype: Literal["float32", "float16", "int64", "int32", "bool"]
    shape: tuple[int | str, ...]
    ranges: dict[str, tuple[int, int]] = Field(default_factory=dict, description="dimension -> (min, max)")


class Agreement(_Model):
    """Of what was exported with what was trained, measured at export on real inputs. Errors are of logits."""

    items: int = Field(ge=1)
    max_abs_error: float
    mean_abs_error: float
    min_cosine: float
    argmax_agreement: float = Field(ge=0, le=1)


class Parity(Agreement):
    """Agreement of an exported part with the PyTorch module."""

    computed_by: Backend = Field(
        "onnxruntime",
        description="what computed the answers; for an engine built without a GPU, ONNX Runtime with its roundings",
    )


class Document(_Model):
    """A file that travels along: the model card, a licence, or the weights that an engine lacks."""

    file: FileName
    sha256: Sha256


class ShapeRange(_Model):
    """Shapes of one input: the smallest, the one that speed was tuned for, and the largest."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]

    def holds(self, shape: tuple[int, ...]) -> bool:
        return len(shape) == len(self.min) and all(
            low <= size <= high for low, size, high in zip(self.min, shape, self.max, strict=True)
        )


class Engine(_Model):
    """What a TensorRT engine was built with, from, and for."""

    version: str = Field(description="of the TensorRT that built it, which must be the one that runs it")
    gpu: str | None = Field(description="on which it was built; null: ahead of time, without one")
    compute_capabilities: tuple[str, ...] = Field(min_length=1, description='of GPUs that it runs on, as in "8.9"')
    hardware: Hardware = Field("none", description="none: runs on the GPU model that it was built on, and no other")
    version_compatible: bool = Field(False, description="newer versions of the same major version run it too")
    workspace_mb: int | None = Field(None, gt=0, description="most GPU memory that a layer works in; null: no limit")
    profiles: tuple[dict[str, ShapeRange], ...] = Field(min_length=1, description="input -> shapes, per profile")
    onnx_sha256: Sha256 = Field(description="of the ONNX model that it was built from")
    weights: Document | None = Field(None, description="that ONNX model, where the engine has no weights of its own")


class Trial(_Model):
    """A way to compute a part that was tried at export."""

    backend: Backend
    precision: Precision
    parity: Parity | None = Field(None, description="null: it answered with numbers that are not finite")
    median_ms: float | None = Field(None, description="of one real input; null: it strayed too far to be timed")


class Part(_Model):
    """One model file. A part without `parity` was not made here but taken over, as the face detector is."""

    file: FileName
    sha256: Sha256
    bytes: int = Field(gt=0)
    backend: Backend = "onnxruntime"
    precision: Precision
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    corpora: tuple[str, ...] = Field((), description="what its weights learnt from")
    parity: Parity | None = None
    engine: Engine | None = None
    weights: Document | None = Field(None, description="of an OpenVINO model, whose `file` holds the graph alone")
    trials: tuple[Trial, ...] = Field((), description="what was chosen from, where export chose by itself")

    @model_validator(mode="after")
    def _fits_backend(self) -> Self:
        for name, backends in (("engine", get_args(Flavour)), ("weights", ("openvino",))):
            given = getattr(self, name) is not None
            if given != (self.backend in backends):
                raise ValueError(f"{name} must {'not be' if given else 'be'} given for backend {self.backend}")
        return self

    def files(self) -> list[Document]:
        """The file itself, and those that travel along with it."""
        return [Document(file=self.file, sha256=self.sha256), *self.documents()]

    def documents(self) -> Iterator[Document]:
        """The files that travel along with this one."""
        if self.weights is not None:
            yield self.weights
        if self.engine is not None and self.engine.weights is not None:
            yield self.engine.weights


class Parts(_Model):
    """The model's parts. `face_detector` is there when the visual input is face crops."""

    text: Part
    audio: Part
    visual: Part
    fusion: Part
    face_detector: Part | None = None

    def named(self) -> Iterator[tuple[str, Part]]:
        for name in type(self).model_fields:
            part = getattr(self, name)
            if part is not None:
                yield name, part


class UnsureText(_Model):
    """How the bound of the shift changes where a transcript is doubtful: evenly between two confidences."""

    beta: float = Field(gt=0, description="bound where the recogniser's confidence in the transcript is `low` or less")
    low: float = Field(0.0, ge=0, le=1)
    high: float = Field(1.0, ge=0, le=1, description="confidence from which on the bound is that of sure text")

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        return self


class FusionSpec(Spec):
    offline_rules = ("group",)

    beta: float = Field(gt=0, description="bound of the shift, as a share of the text vector's length")
    unsure: UnsureText | None = Field(None, description="another bound for doubtful text; null: none, as in the paper")
    input_order: tuple[Literal["audio", "visual"], Literal["audio", "visual"]] = ("audio", "visual")
    group: int = Field(1, ge=1, description="successive utterances that attend to each other; 1: none does")

    def bound(self, confidence: float | None) -> float:
        """Beta for a transcript of this confidence: beta(c) = beta + (unsure.beta - beta) d(c), where the doubt
        d(c) = (high - c) / (high - low), cut to [0, 1].

        confidence: of the recogniser in the words, in [0, 1]; None or NaN where it is unknown, which is no doubt.
        """
        if self.unsure is None or confidence is None or math.isnan(confidence):
            return self.beta
        doubt = min(1.0, max(0.0, (self.unsure.high - confidence) / (self.unsure.high - self.unsure.low)))
        return self.beta + (self.unsure.beta - self.beta) * doubt


class Calibration(_Model):
    """Temperatures by which logits are divided before softmax, fitted on held-out data."""

    text: float = Field(1.0, gt=0)
    audio: float = Field(1.0, gt=0)
    visual: float = Field(1.0, gt=0)
    fused: float = Field(1.0, gt=0)
    audio_visual: float = Field(
        1.0, gt=0, description="of the mean of both students' calibrated log-probabilities, where there is no text"
    )


class Score(_Model):
    part: str
    data: str = Field(description="corpus and split, with the number of items")
    metric: str
    value: float
    interval: tuple[float, float] | None = Field(None, description="95 % bootstrap interval")


class Training(_Model):
    """Where the weights come from: enough to make them again."""

    config: str
    seed: int
    commit: str
    corpora: tuple[str, ...]
    licence: str
    scores: tuple[Score, ...] = ()


class Manifest(_Model):
    schema_version: Literal["telme.bundle/1"]
    name: str = Field(pattern="^[a-z0-9][a-z0-9._-]*$")
    labels: tuple[str, ...] = Field(min_length=2)
    parts: Parts
    text: TextSpec
    audio: AudioSpec
    visual: VisualSpec
    fusion: FusionSpec
    calibration: Calibration = Calibration()
    training: Training
    documents: tuple[Document, ...] = Field((), description="the model card and licences of converted weights")
    end_to_end: Agreement | None = Field(
        None,
        description="of all parts together, from real inputs to scores, whose centred logarithms count as logits; "
        "null: not measured, as of engines that were built without a GPU",
    )

    def files(self) -> Iterator[tuple[str, Document]]:
        """Every file of the bundle but the manifest: what it is, and where it lies with which hash."""
        for name, part in self.parts.named():
            yield f"{name} part", Document(file=part.file, sha256=part.sha256)
            for document in part.documents():
                yield f"{name} part's weight file", document
        yield "tokenizer", Document(file=self.text.tokenizer, sha256=self.text.tokenizer_sha256)
        for document in self.documents:
            yield "licence" if document.file.startswith(f"{LICENCES}/") else "document", document

    def target(self) -> str:
        """What `telme-export --target` made the parts for."""
        backends = {part.backend for _, part in self.parts.named()}
        return next((name for name in (*get_args(Flavour), "openvino") if name in backends), "onnx")

    def rebuild(
        self, folder: Path, output: Path | str | None = None, here: str | None = None, rtx: Collection[str] = ()
    ) -> str:
        """The telme-export command that makes such a bundle again of its run; the corpora's folder is to be filled in.

        folder: of this bundle, whose licences are taken over. output: of the new one, where it is to lie elsewhere.
        here: compute capability of the GPU at hand, which engines are to run on as well.
        rtx: those that TensorRT for RTX builds for here; a GPU of another one gets engines of TensorRT itself.
        """
        own = self.target()
        target = "tensorrt" if own == "tensorrt-rtx" and here is not None and here not in rtx else own
        parts = {name: getattr(self.parts, name) for name in (*MODALITIES, "fusion")}
        precisions = ",".join(f"{name}={self._wish(part, here)}" for name, part in parts.items())
        command = ["telme-export", f"runs/{self.training.config}", "--target", target]
        command += ["--output", str(output or folder), "--precision", precisions, *self._of_its_run(folder)]
        engine = next((part.engine for part in parts.values() if part.engine is not None), None)
        if engine is None:
            return shlex.join(command)
        if target == "tensorrt-rtx":
            built = set(engine.compute_capabilities)
            capabilities = built if here is None else built & set(rtx) | {here}
            command += ["--compute-capability", ",".join(sorted(capabilities, key=numbers))]
        elif own == "tensorrt":
            too_old = engine.hardware == "ampere_plus" and here is not None and numbers(here) < AMPERE
            command += [] if engine.hardware == "none" or too_old else ["--hardware", engine.hardware]
            command += ["--version-compatible"] if engine.version_compatible else []
        command += [] if engine.workspace_mb is None else ["--workspace-mb", str(engine.workspace_mb)]
        command += [] if engine.weights is None else ["--strip-weights"]
        return shlex.join(command)

    def without_gpu(self, folder: Path) -> str:
        """The telme-export command that makes a bundle for any machine of the same run; as in `rebuild`."""
        config = self.training.config
        return shlex.join(
            ["telme-export", f"runs/{config}", "--output", f"bundles/{config}-onnx", *self._of_its_run(folder)]
        )

    def _of_its_run(self, folder: Path) -> list[str]:
        """What an export of the run is told whatever the target."""
        compared = [part.parity.items for _, part in self.parts.named() if part.parity is not None]
        samples = ["--samples", str(max(compared))] if compared else []
        licensed = any(document.file.startswith(f"{LICENCES}/") for document in self.documents)
        return ["--corpora", _CORPORA, *samples, *(["--licences", str(folder / LICENCES)] if licensed else [])]

    def _wish(self, part: Part, here: str | None) -> str:
        """What --precision said of a part. One for another backend than the target's was chosen by measurement."""
        own = {"onnx": "onnxruntime"}.get(self.target(), self.target())
        if part.backend != own:
            return "auto"
        since, before = _BEFORE.get(part.precision, ((), part.precision))
        return before if here is not None and numbers(here) < since else part.precision

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        unknown = sorted(set(self.labels) - {*MELD, *IEMOCAP})
        if unknown:
            raise ValueError(f"labels without valence and arousal: {', '.join(unknown)}")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must differ from one another")
        if self.visual.kind == "face_crops" and self.parts.face_detector is None:
            raise ValueError("visual.kind is face_crops, so parts.face_detector is needed")
        for name, part in self.parts.named():
            for output in part.outputs:
                if output.name == "logits" and output.shape[-1] != len(self.labels):
                    raise ValueError(f"parts.{name} has {output.shape[-1]} logits for {len(self.labels)} labels")
        if not len(self.visual.mean) == len(self.visual.std) == self.visual.channels:
            raise ValueError("visual.mean and visual.std need one value per channel")
        return self


def numbers(dotted: str) -> tuple[int, ...]:
    """Of a version or a compute capability, for comparing it."""
    return tuple(int(digits) for digits in dotted.split("."))


class Bundle:
    """A bundle directory whose manifest was read and whose files were verified.

    address: its name on a model hub, where it was pulled from one.
    """

    def __init__(self, folder: Path, manifest: Manifest, sha256: str, address: str | None = None) -> None:
        self.folder = folder
        self.manifest = manifest
        self.sha256 = sha256
        self.address = address

    @classmethod
    def open(cls, folder: Path | str, *, links_into: Path | None = None, remedy: str | None = None) -> Self:
        """Read and verify a bundle.

        links_into: where the bundle's files may be links to; else they must lie in the folder itself.
        remedy: what to do about a damaged one, where it is not to copy or to export it again.
        Raises BundleError when the folder, the manifest or a part is missing or damaged.
        """
        folder = Path(folder)
        manifest, sha256 = parsed_manifest(folder, remedy or REMEDY)
        again = f"{COPY}, or export it again: `{manifest.rebuild(folder)}`"
        for what, document in manifest.files():
            limit = TOKENIZER_BYTES_MAX if document.file == manifest.text.tokenizer else None
            cure = remedy or (COPY if what == "licence" else again)  # the command would take a damaged licence over
            verify(folder, what, document.file, document.sha256, limit, links_into=links_into, remedy=cure)
        return cls(folder, manifest, sha256)

    def path(self, part: Part) -> Path:
        return self.folder / part.file


def json_schema() -> dict[str, Any]:
    """The JSON Schema of `manifest.json`."""
    return Manifest.model_json_schema()


def parsed_manifest(folder: Path, remedy: str = REMEDY) -> tuple[Manifest, str]:
    """A bundle's manifest and its SHA-256, which is the bundle's own: the manifest holds those of all other files.

    Raises BundleError when there is none, or it is damaged.
    """
    text = read_manifest(folder, remedy)
    try:
        return Manifest.model_validate_json(text), hashlib.sha256(text).hexdigest()
    except ValidationError as error:
        raise BundleError(_complaint(folder / MANIFEST, error, remedy)) from error


def read_manifest(folder: Path, remedy: str = REMEDY) -> bytes:
    """The manifest of a folder. Raises BundleError where there is none, or one too large to be one."""
    path = folder / MANIFEST
    try:
        with path.open("rb") as file:
            text = file.read(MANIFEST_BYTES_MAX + 1)
    except OSError as error:
        raise BundleError(f"{folder} is not a bundle: cannot read {MANIFEST} ({error.strerror}); {remedy}.") from error
    if len(text) > MANIFEST_BYTES_MAX:
        raise BundleError(f"{path} is larger than {MANIFEST_BYTES_MAX} bytes, so it is no manifest; {remedy}.")
    return text


def _complaint(path: Path, error: ValidationError, remedy: str) -> str:
    errors = error.errors()
    wrong = [each for each in errors if each["loc"] == ("schema_version",) and each["type"] != "missing"]
    if wrong:
        return (
            f"{path} is written in {wrong[0]['input']!r}, this version of TelME Live reads {SCHEMA!r}; "
            "export the bundle again with telme-export."
        )
    first = errors[0]
    where = ".".join(str(step) for step in first["loc"])
    reason = first["msg"].removeprefix("Value error, ")
    return f"{path} is not a valid manifest: {where + ': ' if where else ''}{reason}; {remedy}."


def verify(
    folder: Path,
    name: str,
    file: str,
    sha256: str,
    bytes_max: int | None = None,
    *,
    links_into: Path | None = None,
    remedy: str = REMEDY,
) -> None:
    """Raises BundleError unless `file` lies in the folder, is no larger than `bytes_max`, and has this hash.

    name: what the error calls it.
    links_into: where the file may also be a link to.
    remedy: what the error says is to be done.
    """
    path = folder / file
    if not any(path.resolve().is_relative_to(root.resolve()) for root in (folder, links_into) if root is not None):
        raise BundleError(f"The {name} of {folder} points outside the bundle ({file}); {remedy}.")
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(f"The {name} of {folder} is no regular file: {file}; {remedy}.")
        if bytes_max is not None and status.st_size > bytes_max:
            raise BundleError(
                f"The {name} of {folder} has {status.st_size} bytes, more than {bytes_max}: {file}; {remedy}."
            )
        found = sha256_of(path)
    except OSError as error:
        raise BundleError(f"The {name} of {folder} cannot be read: {file} ({error.strerror}); {remedy}.") from error
    if found != sha256:
        raise BundleError(
            f"The {name} of {folder} is damaged: {file} has SHA-256 {found[:12]}…, "
            f"the manifest says {sha256[:12]}…; {remedy}."
        )


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
