"""The model that Triton's clients ask: it runs the four parts and joins their answers, as the recogniser does.

`telme-export --target triton` copies this file into the model repository, where Triton's Python backend runs it. So it
knows numpy and the backend's own module, and nothing of this project; what differs between bundles is in `rules`,
a parameter of its config.pbtxt.

A modality is missing where its inputs are left out, or, for one utterance of a batch, where its mask is all zero.
"""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]

STUDENTS = ("audio", "visual")


class RequestError(Exception):
    """A request that cannot be answered; the client reads the message."""


@dataclass(frozen=True)
class Encoded:
    """What one modality says of a batch of N utterances; nothing counts where it is missing.

    present: (N,) bool. vectors: (N, D). log_scores: (N, C), calibrated.
    """

    present: npt.NDArray[np.bool_]
    vectors: Float32
    log_scores: Float32


class TritonPythonModel:
    """The name and the methods are those that Triton's Python backend asks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """args: `model_config` is config.pbtxt as JSON."""
        self._rules = json.loads(json.loads(args["model_config"])["parameters"]["rules"]["string_value"])

    async def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests, one response for each, in order; the parts compute for all of them at the same time."""
        return await asyncio.gather(*(self._response(request) for request in requests))

    async def _response(self, request: Any) -> Any:
        try:
            outputs = await self._answer(request)
        except RequestError as error:
            return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(str(error)))
        tensors = [pb_utils.Tensor(name, value.astype(np.float32)) for name, value in outputs.items()]
        return pb_utils.InferenceResponse(output_tensors=tensors)

    async def _answer(self, request: Any) -> dict[str, Array]:
        modalities = self._rules["modalities"]
        inputs = {modality: self._inputs(request, modality) for modality in modalities}
        confidence = pb_utils.get_input_tensor_by_name(request, "text_confidence")
        count = _rows([*(value for given in inputs.values() for value in given.values())], confidence)
        found = await asyncio.gather(*(self._encode(modality, inputs[modality], count) for modality in modalities))
        encoded = dict(zip(modalities, found, strict=True))
        nothing = ~np.any([one.present for one in found], axis=0)
        if count == 0 or nothing.any():
            raise RequestError("text, audio and frames are all missing: there is nothing to recognise")
        beta = self._beta(np.full(count, np.nan) if confidence is None else confidence.as_numpy()[:, 0])
        log_scores = self._averaged(encoded)
        said = encoded["text"].present
        if said.any():
            log_scores[said] = await self._fused(encoded, beta, said)
        scores = np.exp(log_scores)
        if not np.isfinite(scores).all():
            raise RequestError("the parts give scores that are not finite (NaN or infinity) for these inputs")
        return {
            "scores": scores,
            "valence_arousal": scores @ np.array(self._rules["valence_arousal"]),
            **{f"{name}_scores": np.exp(one.log_scores) * one.present[:, None] for name, one in encoded.items()},
        }

    def _inputs(self, request: Any, modality: str) -> dict[str, Array]:
        """A modality's inputs by their names in its part; none where the client left them out."""
        names = self._rules["modalities"][modality]["inputs"]
        tensors = {name: pb_utils.get_input_tensor_by_name(request, f"{modality}_{name}") for name in names}
        given = {name: tensor.as_numpy() for name, tensor in tensors.items() if tensor is not None}
        if given and len(given) < len(names):
            absent = ", ".join(f"{modality}_{name}" for name in names if name not in given)
            raise RequestError(f"{absent} is missing: give all inputs of {modality}, or none")
        for name, value in given.items():
            if not np.isfinite(value).all():
                raise RequestError(f"{modality}_{name} holds values that are not finite (NaN or infinity)")
        return given

    async def _encode(self, modality: str, inputs: dict[str, Array], count: int) -> Encoded:
        """Run the part for those utterances that have this modality."""
        about = self._rules["modalities"][modality]
        present = np.asarray(inputs[about["mask"]].any(axis=1)) if inputs else np.zeros(count, np.bool_)
        vectors = np.zeros((count, about["vector"]), np.float32)
        log_scores = np.zeros((count, len(self._rules["labels"])), np.float32)
        if present.any():
            rows = {name: value[present] for name, value in inputs.items()}
            answer = await _run(about["model"], rows, ["vector", "logits"])
            vectors[present] = answer["vector"]
            log_scores[present] = log_softmax(answer["logits"] / self._rules["temperatures"][modality])
        return Encoded(present, vectors, log_scores)

    async def _fused(self, encoded: dict[str, Encoded], beta: Array, rows: Array) -> Array:
        """Log-probabilities where there is text: sound and picture shift its vector, what is missing shifts nothing."""
        inputs = {f"{name}_vector": one.vectors[rows] for name, one in encoded.items()}
        inputs.update({f"{name}_present": encoded[name].present[rows, None].astype(np.float32) for name in STUDENTS})
        inputs["beta"] = beta[rows, None].astype(np.float32)
        answer = await _run(self._rules["fusion"], inputs, ["logits"])
        return log_softmax(answer["logits"] / self._rules["temperatures"]["fused"])

    def _averaged(self, encoded: dict[str, Encoded]) -> Array:
        """Log-probabilities where there is no text: the mean of the students' own."""
        present = np.array([encoded[name].present for name in STUDENTS])  # (2, N)
        heads = np.array([encoded[name].log_scores for name in STUDENTS], np.float64)  # (2, N, C)
        several = present.sum(axis=0)[:, None]
        mean = (heads * present[..., None]).sum(axis=0) / np.maximum(several, 1)
        return log_softmax(mean / np.where(several > 1, self._rules["temperatures"]["audio_visual"], 1.0))

    def _beta(self, confidence: Array) -> Array:
        """The bound of the shift by the confidence in the transcript; not a number is no doubt."""
        sure, unsure = self._rules["beta"], self._rules["unsure"]
        if unsure is None:
            return np.full(len(confidence), sure)
        doubt = np.clip((unsure["high"] - confidence) / (unsure["high"] - unsure["low"]), 0.0, 1.0)
        return np.asarray(sure + (unsure["beta"] - sure) * np.nan_to_num(doubt, nan=0.0))


def _rows(inputs: list[Array], confidence: Any) -> int:
    """How many utterances the inputs are of. Raises RequestError where they disagree."""
    counts = {len(value) for value in inputs}
    if len(counts) > 1 or (counts and confidence is not None and len(confidence.as_numpy()) not in counts):
        raise RequestError("the inputs are of different numbers of utterances: give each the same first dimension")
    return max(counts, default=0)


async def _run(model: str, inputs: dict[str, Array], outputs: list[str]) -> dict[str, Array]:
    """What a part answers. Raises RequestError where Triton could not run it."""
    request = pb_utils.InferenceRequest(
        model_name=model,
        requested_output_names=outputs,
        inputs=[pb_utils.Tensor(name, np.ascontiguousarray(value)) for name, value in inputs.items()],
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
    )
    response = await request.async_exec()
    if response.has_error():
        raise RequestError(f"{model}: {response.error().message()}")
    return {name: pb_utils.get_output_tensor_by_name(response, name).as_numpy() for name in outputs}


def log_softmax(logits: Array) -> Array:
    """Log-probabilities of logits (N, C)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    shifted = shifted.astype(np.float64)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
