"""Golden samples: what the source framework computed, so that a device can check itself without it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eetoolkit_runtime.bundle import Bundle
from eetoolkit_runtime.errors import IntegrityError
from eetoolkit_runtime.inputs import Array, prepare
from eetoolkit_runtime.npy import read_npz
from eetoolkit_runtime.plan import File, Golden
from eetoolkit_runtime.store import named_by_content


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


def write_golden(path: Path, samples: Sequence[Sample]) -> None:
    """Writes samples as `.npz`; samples i and visits n are numbered from 0.

    The keys are `{i}/input/{name}`, `{i}/{n}/output/{exit}/{name}` and `{i}/{n}/confidence/{exit}`,
    float32 of shape (1,).
    """
    arrays: dict[str, Array] = {}
    for i, sample in enumerate(samples):
        arrays.update({f"{i}/input/{name}": array for name, array in sample.inputs.items()})
        for n, visit in enumerate(sample.visits):
            arrays.update({f"{i}/{n}/output/{visit.exit}/{name}": array for name, array in visit.outputs.items()})
            arrays[f"{i}/{n}/confidence/{visit.exit}"] = np.float32(visit.confidence).reshape(1)
    np.savez(path, **arrays)  # type: ignore[arg-type] # numpy types every keyword as `allow_pickle`


def store_golden(folder: Path, samples: Sequence[Sample], tolerance: float) -> tuple[Golden, dict[str, File]]:
    """Writes samples to a bundle's folder, and returns what its manifest says of them and of the file."""
    write_golden(folder / "golden.npz", samples)
    name, entry = named_by_content(folder / "golden.npz", "golden")
    return Golden(file=name, tolerance=tolerance), {name: entry}


def golden_rows(bundle: Bundle) -> list[tuple[Array, ...]]:
    """Returns the inputs of a bundle's golden samples, each as a runner takes them; none where it has no samples."""
    return [prepare(bundle.manifest, sample.inputs, one_row=True) for sample in read_golden(bundle)]


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
        with path.open("rb") as file:
            arrays = read_npz(file, str(path), IntegrityError, stored=True)
        return _samples(bundle, arrays)
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path}: not readable golden samples ({error}); export the bundle again") from error


def _samples(bundle: Bundle, arrays: Mapping[str, Array]) -> list[Sample]:
    """Returns the samples that a file's arrays are.

    Raises:
        ValueError: An array is missing, is none of a sample's, or holds no numbers.
    """
    by_sample: dict[str, dict[str, Array]] = defaultdict(dict)
    for key, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{key!r} is {array.dtype}")
        by_sample[key.partition("/")[0]][key] = array
    samples: list[Sample] = []
    while (left := by_sample.pop(str(len(samples)), None)) is not None:
        samples.append(_sample(bundle, left, f"{len(samples)}/"))
        if left:
            raise ValueError(f"{min(left)!r} belongs to no sample")
    if by_sample:
        raise ValueError(f"{min(map(min, by_sample.values()))!r} belongs to no sample")
    return samples


def _sample(bundle: Bundle, left: dict[str, Array], prefix: str) -> Sample:
    """Takes one sample's arrays out of those that are left."""
    inputs = {spec.name: _take(left, f"{prefix}input/{spec.name}") for spec in bundle.manifest.inputs}
    visits: list[Visit] = []
    while True:
        here = f"{prefix}{len(visits)}/"
        name = next((name for name in bundle.exits if f"{here}confidence/{name}" in left), None)
        if name is None:
            return Sample(inputs, tuple(visits))
        outputs = {output: _take(left, f"{here}output/{name}/{output}") for output in bundle.exits[name].outputs}
        visits.append(Visit(name, outputs, float(_take(left, f"{here}confidence/{name}").item())))


def _take(left: dict[str, Array], key: str) -> Array:
    if key not in left:
        raise ValueError(f"no array {key!r}")
    return left.pop(key)
