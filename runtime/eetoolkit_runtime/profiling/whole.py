"""The whole network as one session, to be run beside the bundle that was made of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import InputError, running
from eetoolkit_runtime.plan.types import Manifest
from eetoolkit_runtime.running.sessions import SessionSettings


@dataclass(frozen=True)
class Whole:
    """A session over an ONNX file, and which of the bundle's inputs it takes, by the names that it has for them."""

    file: str
    session: ort.InferenceSession
    inputs: Mapping[str, int]

    def feeds(self, row: Sequence[Array]) -> dict[str, Array]:
        """Returns what the session takes of one row's inputs."""
        return {name: row[place] for name, place in self.inputs.items()}

    def difference(self, row: Sequence[Array], outputs: Mapping[str, Array]) -> float | None:
        """Returns the largest relative difference of a row's outputs from those of this network that fit best.

        None where none has the same shape.
        """
        with self.running():
            outputs_here = self.session.run(None, self.feeds(row))
        given = [array for array in outputs_here if isinstance(array, np.ndarray)]  # else a sequence or a map
        found = []
        for array in outputs.values():
            own = array.astype(np.float64)  # unsigned integers wrap, and truth values have no difference
            scale = max(1.0, float(np.max(np.abs(own), initial=0)))
            alike = [other for other in given if other.shape == array.shape and other.dtype.kind == array.dtype.kind]
            if alike:
                with np.errstate(invalid="ignore"):  # two infinities have no difference, which is then not a number
                    found.append(min(float(np.max(np.abs(other - own), initial=0)) for other in alike) / scale)
        return max(found, default=None)

    def running(self) -> AbstractContextManager[None]:
        """Raises a `RunError` that names the file for what onnxruntime raises inside."""
        return running(f"the whole network {self.file}")


def open_whole(file: str | os.PathLike[str], plan: Manifest, settings: SessionSettings) -> Whole:
    """Opens an ONNX file that takes the bundle's inputs, by their names or, under other names, in their order.

    An input that it does not need may be missing.

    Raises:
        InputError: There is no such file, or it takes other inputs.
        IntegrityError: onnxruntime cannot load it.
    """
    path = Path(file)
    if not path.is_file():
        raise InputError(f"whole: {path} does not exist")
    session = settings.open(str(path), "the whole network")
    own = [spec.name for spec in plan.inputs]
    names = [value.name for value in session.get_inputs()]
    if set(names) <= set(own):
        places = {name: own.index(name) for name in names}
    elif len(names) == len(own):
        places = {name: place for place, name in enumerate(names)}
    else:
        raise InputError(f"whole: {path} takes the inputs {names}, the bundle {own}")
    return Whole(path.name, session, places)
