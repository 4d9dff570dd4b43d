"""Golden samples of a plan that is one ONNX file: rows, what each exit gives for them, and which answers are right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.golden import Visit
from eetoolkit_runtime.errors import IntegrityError
from eetoolkit_runtime.files.paths import shown
from eetoolkit_runtime.files.tensorfile import read_tensors, write_tensors
from eetoolkit_runtime.plan.types import MOST_EXACT, DType
from eetoolkit_runtime.single_file.description import (
    Description,
    GoldenAnswer,
    GoldenSample,
    GoldenSamples,
    Tensor,
    check_described,
    description_path,
    golden_path,
)

_MOST_NUMBERS = 10_000
"""What the description itself holds: a text of some 100 KB, which any reader of JSON parses in an instant."""
_ANSWER = ("exit", "confidence")


@dataclass(frozen=True)
class RightSample:
    """One row of inputs by name, what the exits on its way give, and which of these may answer, by their places."""

    inputs: Mapping[str, Array]
    visits: tuple[Visit, ...]
    right: tuple[int, ...]


def encode_samples(
    samples: Sequence[RightSample], exits: Sequence[str], tolerance: float
) -> tuple[GoldenSamples | None, bytes | None]:
    """Returns samples as a description holds them, and the file of their tensors where they are not in it.

    They are in it where they are few, finite, and no integers that JSON cannot hold.

    Args:
        samples: Rows; their confidences are finite.
        exits: Their names, by number.
        tolerance: By how much an answer may differ.
    """
    if not samples:
        return None, None
    arrays = [array for sample in samples for part in _parts(sample) for array in part.values()]
    inside = sum(array.size for array in arrays) <= _MOST_NUMBERS and all(map(_is_plain, arrays))
    tensors: dict[str, Array] = {}

    def add(array: Array) -> Tensor:
        if inside:
            return Tensor(shape=array.shape, data=_numbers(array))
        name = str(len(tensors))
        tensors[name] = array
        return Tensor(shape=array.shape, tensor=name)

    def add_all(part: Mapping[str, Array]) -> dict[str, Tensor]:
        return {name: add(array) for name, array in part.items()}

    golden = [
        GoldenSample(
            inputs=add_all(sample.inputs),
            answers=tuple(
                GoldenAnswer(
                    exit=exits.index(visit.exit), confidence=shortest(visit.confidence), outputs=add_all(visit.outputs)
                )
                for visit in sample.visits
            ),
            right=sample.right,
        )
        for sample in samples
    ]
    content = None if inside else write_tensors(tensors, {})
    return GoldenSamples(tolerance=tolerance, samples=tuple(golden)), content


def read_samples(model: Path, description: Description) -> list[RightSample]:
    """Returns the golden samples that describe an ONNX file.

    Raises:
        IntegrityError: Their file is missing or changed, or they are no samples of these inputs and exits.
    """
    golden, place = description.golden, description_path(model)
    if golden is None:
        return []
    tensors: dict[str, Array] = {}
    if golden.tensors is not None:
        path = golden_path(model)
        check_described(path, golden.tensors, place)
        try:
            tensors, _ = read_tensors(path.read_bytes())
        except (OSError, ValueError) as error:
            raise IntegrityError(f"{shown(path)}: {error}; pack the bundle again") from error
    inputs = {spec.name: spec.dtype for spec in description.inputs}
    outputs = {spec.name: spec.dtype for spec in description.outputs if spec.name not in _ANSWER}
    try:
        return [
            RightSample(
                _arrays(sample.inputs, inputs, tensors),
                tuple(
                    Visit(
                        description.exits[answer.exit].name,
                        _arrays(answer.outputs, outputs, tensors),
                        answer.confidence,
                    )
                    for answer in sample.answers
                ),
                _places(sample),
            )
            for sample in golden.samples
        ]
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise IntegrityError(f"{shown(place)}: damaged golden samples ({error}); pack the bundle again") from error


def shortest(value: float) -> float:
    """Returns the number of the fewest digits that is a value in float32."""
    return float(str(np.float32(value)))


def _places(sample: GoldenSample) -> tuple[int, ...]:
    if max(sample.right) >= len(sample.answers):
        raise ValueError(f"right is {list(sample.right)}, of {len(sample.answers)} answers")
    return sample.right


def _parts(sample: RightSample) -> list[Mapping[str, Array]]:
    return [sample.inputs, *(visit.outputs for visit in sample.visits)]


def _is_plain(array: Array) -> bool:
    """Whether JSON holds an array's numbers exactly."""
    if array.dtype.kind == "f":
        return bool(np.isfinite(array).all())
    return array.dtype.kind == "b" or bool((np.abs(array.astype(np.float64)) <= MOST_EXACT).all())


def _numbers(array: Array) -> tuple[float | int | bool, ...]:
    """Returns an array's numbers in row-major order, those of float16 and float32 with as few digits as tell them."""
    if array.dtype.kind == "f":
        return tuple(float(str(value)) for value in array.ravel())
    return tuple(array.ravel().tolist())


def _arrays(named: Mapping[str, Tensor], dtypes: Mapping[str, DType], tensors: Mapping[str, Array]) -> dict[str, Array]:
    if named.keys() != dtypes.keys():
        raise ValueError(f"{', '.join(named)}, expected {', '.join(dtypes)}")
    return {name: _array(tensor, dtypes[name], tensors) for name, tensor in named.items()}


def _array(tensor: Tensor, dtype: DType, tensors: Mapping[str, Array]) -> Array:
    if tensor.tensor is not None:
        array = tensors[tensor.tensor]
    else:
        data = () if tensor.data is None else tensor.data
        if len(data) != math.prod(tensor.shape):
            raise ValueError(f"{len(data)} numbers for the shape {list(tensor.shape)}")
        array = np.array(data, dtype).reshape(tensor.shape)
    if array.dtype != dtype or array.shape != tensor.shape:
        raise ValueError(f"{array.dtype}{list(array.shape)}, expected {dtype}{list(tensor.shape)}")
    return array
