"""What a caller hands over, checked and put into the network's order, dtypes and shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from eetoolkit_runtime.errors import InputError
from eetoolkit_runtime.plan import Dim, Manifest, Preprocess, TensorSpec

Array = npt.NDArray[Any]
Inputs = npt.ArrayLike | Sequence[npt.ArrayLike] | Mapping[str, npt.ArrayLike]

BATCH = "batch"
"""The symbol of the dimension that counts rows."""


def prepare(plan: Manifest, inputs: Inputs, *, one_row: bool) -> tuple[Array, ...]:
    """Returns the inputs in the plan's order, each of its dtype and a shape that fits.

    Args:
        plan: The plan.
        inputs: An array where the network has one input; a tuple or list in the plan's order; or a mapping by name.
        one_row: Whether each input's batch dimension must be 1.

    Raises:
        InputError: A name, number, dtype or shape that does not fit.
    """
    sizes: dict[str, int] = {}
    arrays = tuple(
        _fit(spec, spec.shape if one_row else _dims(spec, axis), value, plan.preprocess.get(spec.name), sizes)
        for spec, axis, value in zip(plan.inputs, row_axes(plan), _in_order(plan, inputs), strict=True)
    )
    _check_limits(plan, sizes)
    rows = sizes.get(BATCH, 1)
    if one_row and rows != 1:
        raise InputError(f"got {rows} rows, `run` takes one; pass them to `run_batch`")
    return arrays


def row_axes(plan: Manifest) -> list[int | None]:
    """Returns along which dimension the rows of a batch lie in each input; None: the input goes to every row."""
    return axes_of_rows([spec.shape for spec in plan.inputs])


def axes_of_rows(shapes: Sequence[tuple[Dim, ...]]) -> list[int | None]:
    """Returns where these shapes count rows: at `batch`; where none has a `batch`, at the first dimension that is 1."""
    if any(BATCH in shape for shape in shapes):
        return [shape.index(BATCH) if BATCH in shape else None for shape in shapes]
    return [0 if shape[:1] == (1,) else None for shape in shapes]


def most_rows(plan: Manifest) -> int | None:
    """Returns how many rows the plan's graphs take at once; None: any number."""
    limit = plan.limits.get(BATCH)
    return None if limit is None else limit.max


def rows_between(array: Array, axis: int, start: int, stop: int) -> Array:
    """Returns the rows of an array from `start` up to `stop`, which lie along `axis`."""
    return array[(slice(None),) * axis + (slice(start, stop),)]


def _dims(spec: TensorSpec, axis: int | None) -> tuple[Dim, ...]:
    """Returns the shape that an input must have in a batch: rows stand where a plan of one row says 1."""
    return spec.shape if axis is None else (*spec.shape[:axis], BATCH, *spec.shape[axis + 1 :])


def _in_order(plan: Manifest, inputs: Inputs) -> list[Any]:
    names = [spec.name for spec in plan.inputs]
    if isinstance(inputs, Mapping):
        if set(inputs) != set(names):
            raise InputError(f"got inputs {sorted(map(str, inputs))}, expected {names}")
        return [inputs[name] for name in names]
    values: list[Any] = list(inputs) if isinstance(inputs, tuple | list) else [inputs]
    if len(names) == 1 and isinstance(inputs, list) and not isinstance(inputs[0] if inputs else None, np.ndarray):
        values = [inputs]  # nested lists are one array
    if len(values) != len(names):
        raise InputError(f"got {len(values)} inputs, expected {len(names)}: {', '.join(map(_spell, plan.inputs))}")
    return values


def _fit(
    spec: TensorSpec, dims: tuple[Dim, ...], value: Any, preprocess: Preprocess | None, sizes: dict[str, int]
) -> Array:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"input {spec.name!r}: not an array ({error}); expected {_spell(spec)}") from error
    _check_shape(spec, dims, array, sizes)
    if array.dtype == np.uint8 and spec.dtype != "uint8" and preprocess is not None:
        return normalize(array, preprocess).astype(spec.dtype, copy=False)
    return _cast(spec, array)


def _check_shape(spec: TensorSpec, dims: tuple[Dim, ...], array: Array, sizes: dict[str, int]) -> None:
    if array.ndim != len(spec.shape):
        fix = ""
        axis = spec.shape.index(BATCH) if BATCH in spec.shape else 0 if spec.shape[:1] == (1,) else None
        if array.ndim == len(spec.shape) - 1 and axis is not None:
            fix = f"; add the batch dimension: {spec.name}[{':, ' * axis}None]"
        raise InputError(f"input {spec.name!r}: got shape {list(array.shape)}, expected {_spell(spec)}{fix}")
    for size, dim in zip(array.shape, dims, strict=True):
        known = dim if isinstance(dim, int) else size if dim is None else sizes.setdefault(dim, size)
        if size != known:
            where = "" if isinstance(dim, int) else f" ({dim} is {known} elsewhere)"
            raise InputError(f"input {spec.name!r}: got shape {list(array.shape)}, expected {_spell(spec)}{where}")
    if array.size == 0:
        raise InputError(f"input {spec.name!r}: got the empty shape {list(array.shape)}, expected {_spell(spec)}")


def _check_limits(plan: Manifest, sizes: Mapping[str, int]) -> None:
    """Refuses a size that the graphs do not take; any number of rows may come, since rows can be parted."""
    for symbol, limit in plan.limits.items():
        size = sizes.get(symbol)
        if symbol == BATCH or size is None or (limit.min <= size and (limit.max is None or size <= limit.max)):
            continue
        spec = next(spec for spec in plan.inputs if symbol in spec.shape)
        wanted = f"at least {limit.min}" if limit.max is None else f"{limit.min} to {limit.max}"
        raise InputError(f"input {spec.name!r}: {symbol} is {size}, expected {wanted}: {_spell(spec)}")


def _cast(spec: TensorSpec, array: Array) -> Array:
    """Only what loses no meaning: float64 to float32, and integers to the network's integers where they fit."""
    expected = np.dtype(spec.dtype)
    if array.dtype == expected:
        return array
    if array.dtype == np.float64 and expected == np.float32:
        return array.astype(np.float32)
    if array.dtype.kind in "iu" and expected.kind in "iu":
        limits = np.iinfo(expected)
        if limits.min <= array.min() and array.max() <= limits.max:
            return array.astype(expected)
    fix = f"; convert it: {spec.name}.astype({spec.dtype!r})"
    if array.dtype == np.uint8 and expected.kind == "f":
        fix = "; scale it as in training, or give the bundle `preprocess` at export"
    raise InputError(f"input {spec.name!r}: got dtype {array.dtype}, expected {_spell(spec)}{fix}")


def normalize(pixels: Array, preprocess: Preprocess) -> Array:
    """Returns float32 `(pixels * scale - mean) / std` per channel of `pixels` of the preprocess's layout."""
    shape = (1, -1, 1, 1) if preprocess.layout == "NCHW" else (1, 1, 1, -1)
    mean, std = (np.asarray(v, np.float32).reshape(shape) for v in (preprocess.mean, preprocess.std))
    return (pixels.astype(np.float32) * np.float32(preprocess.scale) - mean) / std


def _spell(spec: TensorSpec) -> str:
    return f"{spec.name}: {spec.dtype}[{', '.join('?' if dim is None else str(dim) for dim in spec.shape)}]"


def split_rows(plan: Manifest, arrays: tuple[Array, ...]) -> list[tuple[Array, ...]]:
    """Returns one tuple of inputs per row; inputs without rows go to every row.

    Raises:
        InputError: No input has a batch dimension, so there are no rows to split.
    """
    axes = row_axes(plan)
    rows = {array.shape[axis] for array, axis in zip(arrays, axes, strict=True) if axis is not None}
    if not rows:
        raise InputError(f"no input has a batch dimension: {', '.join(map(_spell, plan.inputs))}; use `run`")
    return [
        tuple(
            array if axis is None else rows_between(array, axis, row, row + 1)
            for array, axis in zip(arrays, axes, strict=True)
        )
        for row in range(rows.pop())
    ]
