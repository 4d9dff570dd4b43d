"""Golden samples: what the source framework computed, so that a device can check itself without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.bundle.integrity import read_regular
from eetoolkit_runtime.bundle.store import named_by_content
from eetoolkit_runtime.errors import IntegrityError
from eetoolkit_runtime.files.tensorfile import read_tensors, write_tensors
from eetoolkit_runtime.plan.types import File, Golden

_STEM, _SUFFIX = "golden", ".safetensors"
_SAMPLES = "samples"


@dataclass(frozen=True)
class Visit:
    """What one exit gives for one row when it is met: its outputs by name, and its confidence."""

    exit: str
    outputs: Mapping[str, Array]
    confidence: float


@dataclass(frozen=True)
class Sample:
    """One row of inputs by name, and what every exit on its way gives, in the order of the path, none firing."""

    inputs: Mapping[str, Array]
    visits: tuple[Visit, ...]


class _VisitNames(msgspec.Struct, forbid_unknown_fields=True):
    exit: str
    outputs: dict[str, str]
    confidence: str


class _SampleNames(msgspec.Struct, forbid_unknown_fields=True):
    inputs: dict[str, str]
    visits: list[_VisitNames]


def encode_golden(samples: Sequence[Sample]) -> bytes:
    """Returns samples as a safetensors file: its metadata say in JSON which tensor is what of which sample."""
    tensors: dict[str, Array] = {}

    def add(array: Array) -> str:
        name = str(len(tensors))
        tensors[name] = array
        return name

    index = [
        _SampleNames(
            {name: add(array) for name, array in sample.inputs.items()},
            [
                _VisitNames(
                    visit.exit,
                    {name: add(array) for name, array in visit.outputs.items()},
                    add(np.float32(visit.confidence).reshape(1)),
                )
                for visit in sample.visits
            ],
        )
        for sample in samples
    ]
    return write_tensors(tensors, {_SAMPLES: msgspec.json.encode(index).decode()})


def store_golden(folder: Path, samples: Sequence[Sample], tolerance: float) -> tuple[Golden, dict[str, File]]:
    """Writes samples to a bundle's folder, and returns what its manifest says of them and of the file."""
    path = folder / f"{_STEM}{_SUFFIX}"
    path.write_bytes(encode_golden(samples))
    name, entry = named_by_content(path, _STEM)
    return Golden(file=name, tolerance=tolerance), {name: entry}


def read_golden(bundle: Bundle) -> list[Sample]:
    """Returns the bundle's golden samples; none where it has none.

    Raises:
        IntegrityError: The file is missing or not what it should be.
    """
    golden = bundle.manifest.golden
    if golden is None:
        return []
    path = bundle.path / golden.file
    try:
        tensors, metadata = read_tensors(read_regular(path, bundle.manifest.files[golden.file].size))
        index = msgspec.json.decode(metadata.get(_SAMPLES, ""), type=list[_SampleNames])
        samples = _samples(bundle, tensors, index)
    except (OSError, ValueError, IntegrityError, msgspec.MsgspecError, RecursionError) as error:
        raise IntegrityError(f"{path}: not readable golden samples ({error}); export the bundle again") from error
    return samples


def _samples(bundle: Bundle, tensors: dict[str, Array], index: Sequence[_SampleNames]) -> list[Sample]:
    samples = [_sample(bundle, tensors, names) for names in index]
    if tensors:
        raise ValueError(f"the tensor {min(tensors)!r} belongs to no sample")
    return samples


def _sample(bundle: Bundle, left: dict[str, Array], names: _SampleNames) -> Sample:
    """Takes one sample's tensors out of those that are left.

    Raises:
        ValueError: One is missing, or the bundle has no such input, exit or output.
    """
    _check("inputs", names.inputs, [spec.name for spec in bundle.manifest.inputs])
    inputs = {name: _take(left, tensor) for name, tensor in names.inputs.items()}
    visits: list[Visit] = []
    for visit in names.visits:
        if visit.exit not in bundle.exits:
            raise ValueError(f"it has no exit {visit.exit!r}")
        _check(f"outputs of {visit.exit!r}", visit.outputs, bundle.exits[visit.exit].outputs)
        outputs = {name: _take(left, tensor) for name, tensor in visit.outputs.items()}
        confidence = _take(left, visit.confidence)
        if confidence.dtype != np.float32 or confidence.shape != (1,):
            raise ValueError(f"a confidence is {confidence.dtype}{list(confidence.shape)}, expected float32[1]")
        visits.append(Visit(visit.exit, outputs, float(confidence[0])))
    return Sample(inputs, tuple(visits))


def _check(what: str, found: Mapping[str, str], expected: Mapping[str, object] | Sequence[str]) -> None:
    if set(found) != set(expected):
        raise ValueError(f"the {what} are {', '.join(found)}, expected {', '.join(expected)}")


def _take(left: dict[str, Array], name: str) -> Array:
    if name not in left:
        raise ValueError(f"there is no tensor {name!r}, or it belongs to two")
    return left.pop(name)
