"""Along which dimension of each input the rows of a batch lie, found by running two copies of the example at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from eetoolkit_exporters.capturing.source import ModelSource
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import ExportError

Axes = Mapping[str, int | None]
"""For each input the dimension that counts its rows; None: the input goes to every row."""

_CLOSE = 1e-2  # of the largest value, as half precision rounds; rows that are taken for something else differ by more
_MOST_TRIED = 32


def prove_rows(source: ModelSource, choices: Iterable[Axes]) -> Axes | None:
    """Returns the first choice for which two copies of the rows give two copies of the outputs; None where none does.

    A recurrent state is (layers, rows, width), and a sequence may be (steps, rows, width): sizes alone do not tell.
    """
    usual: Mapping[str, Array] | None = None
    for _, axes in zip(range(_MOST_TRIED), choices, strict=False):
        usual = source.run(source.inputs) if usual is None else usual
        if any(axis is not None for axis in axes.values()) and _holds(source, axes, usual):
            return axes
    return None


def copied(inputs: Mapping[str, Array], axes: Axes, times: int) -> dict[str, Array]:
    """Returns the inputs with every row so many times."""
    return {
        name: array if (axis := axes.get(name)) is None else np.concatenate([array] * times, axis)
        for name, array in inputs.items()
    }


def _holds(source: ModelSource, axes: Axes, usual: Mapping[str, Array]) -> bool:
    try:
        found = source.run(copied(source.inputs, axes, 2))
    except ExportError:
        return False
    if found.keys() != usual.keys():
        return False
    grown = [_grown(one, found[name]) for name, one in usual.items()]
    return None not in grown and any(grown)


def _grown(one: Array, many: Array) -> bool | None:
    """Returns whether an output has both copies, or is the same for all rows (False); None: it is neither."""
    if one.shape == many.shape:
        return False if _close(one, many) else None
    for axis in range(one.ndim):
        twice = np.concatenate([one, one], axis)
        if twice.shape == many.shape and _close(twice, many):
            return True
    return None


def _close(expected: Array, found: Array) -> bool:
    a, b = np.asarray(expected, np.float64), np.asarray(found, np.float64)
    largest = np.abs(a[np.isfinite(a)]).max(initial=0.0)
    return np.allclose(a, b, rtol=0, atol=_CLOSE * largest, equal_nan=True)
