"""A part's inputs -> TensorRT's optimisation profiles: for which shapes its kernels are chosen."""

from collections.abc import Mapping, Sequence

from telme.bundle import ShapeRange, Tensor
from telme.runtime.tensorrt import named_sizes, rounded_up, shapes

Profile = dict[str, ShapeRange]

# Live recognition asks about one utterance at a time; a batch of eight stands for everything between two and 32.
TYPICAL_BATCH = 8


def profiles(tensors: Sequence[Tensor], example: Mapping[str, tuple[int, ...]]) -> tuple[Profile, ...]:
    """One profile for single utterances and one for batches, over the ranges in the manifest.

    example: shapes of real inputs, for whose lengths the kernels are tuned.
    """
    ranges = {name: limits for tensor in tensors for name, limits in tensor.ranges.items()}
    typical = {
        name: min(max(rounded_up(size), ranges[name][0]), ranges[name][1])
        for name, size in named_sizes(tensors, example).items()
    }
    low, high = ranges["batch"]
    batches = [(1, 1, 1), (2, min(TYPICAL_BATCH, high), high)] if low == 1 < high else [(low, low, high)]
    return tuple(_profile(tensors, ranges, typical, batch) for batch in batches)


def _profile(
    tensors: Sequence[Tensor],
    ranges: Mapping[str, tuple[int, int]],
    typical: Mapping[str, int],
    batch: tuple[int, int, int],
) -> Profile:
    smallest = shapes(tensors, {**{name: low for name, (low, _) in ranges.items()}, "batch": batch[0]})
    tuned = shapes(tensors, {**typical, "batch": batch[1]})
    largest = shapes(tensors, {**{name: high for name, (_, high) in ranges.items()}, "batch": batch[2]})
    return {
        tensor.name: ShapeRange(min=smallest[tensor.name], opt=tuned[tensor.name], max=largest[tensor.name])
        for tensor in tensors
    }
