"""Places for tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnxruntime as ort

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import RunError, is_foreign


class Cell:
    """A place for a tensor; `fixed` ones keep their buffer, others hold what onnxruntime allocated last."""

    __slots__ = ("array", "fixed", "value")

    def __init__(self, value: ort.OrtValue | None, *, fixed: bool) -> None:
        self.fixed = fixed
        self.set(value)

    def set(self, value: ort.OrtValue | None) -> None:
        """Points at another tensor."""
        self.value = value
        self.array: Array = np.empty(0) if value is None else value.numpy()


def allocate(what: str, dtype: str, shape: Sequence[int]) -> Cell:
    """Returns a place for a tensor of this dtype and shape.

    Raises:
        RunError: There is no memory for it.
    """
    try:
        return Cell(ort.OrtValue.ortvalue_from_shape_and_type(list(shape), np.dtype(dtype)), fixed=True)
    except Exception as error:
        if not is_foreign(error):
            raise
        size = math.prod(shape) * np.dtype(dtype).itemsize
        raise RunError(f"{what}: no memory for {dtype}{list(shape)}, {size / 2**30:,.1f} GiB") from error
