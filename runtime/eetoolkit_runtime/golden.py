"""Golden samples: what the source framework computed, so that a device can check itself without it."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eetoolkit_runtime.bundle import Bundle
from eetoolkit_runtime.errors import IntegrityError
from eetoolkit_runtime.inputs import Array


@dataclass(frozen=True)
class ExitValues:
    """What one exit gives for one row: its outputs by name, and its confidence."""

    outputs: Mapping[str, Array]
    confidence: float


@dataclass(frozen=True)
class Sample:
    """One row of inputs by name, and what every exit must give for it, by exit name in the order of the path."""

    inputs: Mapping[str, Array]
    exits: Mapping[str, ExitValues]


def write_golden(path: Path, samples: Sequence[Sample]) -> None:
    """Writes samples as `.npz`: `{i}/input/{name}`, `{i}/output/{exit}/{name}`, `{i}/confidence/{exit}`."""
    arrays: dict[str, Array] = {}
    for i, sample in enumerate(samples):
        arrays.update({f"{i}/input/{name}": array for name, array in sample.inputs.items()})
        for exit_, values in sample.exits.items():
            arrays.update({f"{i}/output/{exit_}/{name}": array for name, array in values.outputs.items()})
            arrays[f"{i}/confidence/{exit_}"] = np.float32(values.confidence).reshape(1)
    np.savez(path, allow_pickle=False, **arrays)


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
        with np.load(path, allow_pickle=False) as arrays:
            keys = {key: arrays[key] for key in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise IntegrityError(f"{path}: not readable golden samples ({error}); export the bundle again") from error
    numbers = sorted({int(key.split("/", 1)[0]) for key in keys})
    return [_sample(bundle, keys, f"{number}/") for number in numbers]


def _sample(bundle: Bundle, keys: Mapping[str, Array], prefix: str) -> Sample:
    try:
        inputs = {spec.name: keys[f"{prefix}input/{spec.name}"] for spec in bundle.manifest.inputs}
        exits = {
            name: ExitValues(
                {output: keys[f"{prefix}output/{name}/{output}"] for output in exit_.outputs},
                float(keys[f"{prefix}confidence/{name}"].item()),
            )
            for name, exit_ in bundle.exits.items()
            if f"{prefix}confidence/{name}" in keys
        }
    except KeyError as error:
        raise IntegrityError(f"golden samples lack {error}; export the bundle again") from error
    return Sample(inputs, exits)
