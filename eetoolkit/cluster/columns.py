"""Batches of columns, as Ray, Dask and Spark hand them over, as rows that a network takes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import InputError, first_line
from eetoolkit_runtime.plan.types import TensorSpec, spell
from eetoolkit_runtime.running.inputs import InputPlan, prepare, row_axes, split_rows

LABEL_COLUMNS = ("labels", "label")
"""The columns that hold labels, where the network has no input of this name."""

Batch = Mapping[str, Any]
"""Columns by name, each of as many rows: (rows, ...), or one object for each row."""


def input_columns(plan: InputPlan, names: Collection[str], given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns the column of each input, by the input's name.

    A column that is called as the input is it; where the network has one input, the only column beside labels is.

    Args:
        plan: Which inputs the network takes.
        names: Of the columns.
        given: The columns of inputs that are called otherwise, by the input's name.

    Raises:
        InputError: An input without a column.
    """
    inputs = _titles(plan)
    chosen = {name: name for name in inputs} | dict(given or {})
    if strange := sorted(chosen.keys() - set(inputs)):
        raise InputError(f"columns names {strange[0]!r}, which is no input; there are {', '.join(inputs)}")
    rest = [name for name in names if name not in LABEL_COLUMNS]
    if not given and len(inputs) == 1 and inputs[0] not in names and len(rest) == 1:
        return {inputs[0]: rest[0]}
    for input_, column in chosen.items():
        if column not in names:
            raise InputError(
                f"no column {column!r} for the input {input_!r}: there are {', '.join(map(str, names))}; rename the "
                f"one that it is in to {input_!r}"
            )
    return chosen


def label_column(plan: InputPlan, names: Collection[str]) -> str | None:
    """Returns the column of the labels; None: there is none."""
    inputs = _titles(plan)
    return next((name for name in LABEL_COLUMNS if name in names and name not in inputs), None)


def rows_of(plan: InputPlan, batch: Batch, columns: Mapping[str, str]) -> list[tuple[Array, ...]]:
    """Returns a batch's rows, each as a runner takes it.

    Args:
        plan: Which inputs the network takes.
        batch: The columns. A cell may be an array, or lists in lists; a flat one gets the input's shape.
        columns: As `input_columns` gives them.

    Raises:
        InputError: Columns that the network does not take.
    """
    arrays = [dense(columns[name], batch[columns[name]]) for name in _titles(plan)]
    if whole := _whole(plan, arrays):
        return split_rows(plan, prepare(plan, whole, one_row=False))
    return [prepare(plan, row, one_row=True) for row in _one_by_one(plan, arrays)]


def inputs_and_labels(plan: InputPlan, batch: Batch) -> Iterator[Any]:
    """Yields a batch's rows as samples: inputs by name, beside their labels where the batch has some.

    They are one sample unless their shapes differ.
    """
    arrays = [dense(column, batch[column]) for column in input_columns(plan, batch.keys()).values()]
    found = label_column(plan, batch.keys())
    labels = None if found is None else dense(found, batch[found])
    whole = _whole(plan, arrays)
    parts = [whole] if whole else list(_one_by_one(plan, arrays))
    for place, part in enumerate(parts):
        own = labels if whole or labels is None else labels[place : place + 1]
        inputs = dict(zip(_titles(plan), part, strict=True))
        yield inputs if own is None else (inputs, own)


def dense(name: str, column: Any) -> Array:
    """Returns a column as one array, (rows, ...); where its cells' shapes differ, as an array of arrays, (rows,).

    Raises:
        InputError: A cell that is empty, or is no array.
    """
    array = np.asarray(column)
    if array.dtype != object:
        return array
    if array.ndim != 1:  # an array of objects: of texts
        return np.asarray(array.tolist())
    cells = [_cell(name, place, cell) for place, cell in enumerate(array)]
    if not cells or len({cell.shape for cell in cells}) == 1:
        return np.stack(cells) if cells else np.array([])
    ragged = np.empty(len(cells), object)
    ragged[:] = cells
    return ragged


def _cell(name: str, place: int, cell: Any) -> Array:
    """Returns a cell, of lists in lists or arrays in arrays, as one array."""
    if cell is None:
        raise InputError(f"column {name!r} is empty in row {place} of a batch; fill it, or leave such rows out")
    try:
        array = np.asarray(cell)
        if array.dtype == object and array.ndim:
            return np.stack([_cell(name, place, each) for each in array])
    except (ValueError, TypeError) as error:
        raise InputError(f"column {name!r}, row {place} of a batch, is no array: {first_line(error)}") from error
    return array


def _titles(plan: InputPlan) -> list[str]:
    return [plan.titles.get(spec.name, spec.name) for spec in plan.inputs]


def _whole(plan: InputPlan, arrays: list[Array]) -> tuple[Array, ...]:
    """Returns the columns as inputs of many rows; () where rows must go one by one."""
    axes = row_axes(plan)
    if any(axis is None for axis in axes) or any(array.dtype == object for array in arrays):
        return ()
    return tuple(
        np.moveaxis(_shaped(spec, array, axis or 0), 0, axis or 0)
        for spec, array, axis in zip(plan.inputs, arrays, axes, strict=True)
    )


def _one_by_one(plan: InputPlan, arrays: list[Array]) -> Iterator[tuple[Array, ...]]:
    """Yields each row's inputs."""
    axes = row_axes(plan)
    for place in range(len(arrays[0])):
        row = []
        for spec, array, axis in zip(plan.inputs, arrays, axes, strict=True):
            cell = array[place : place + 1] if array.dtype != object else array[place][np.newaxis]
            cell = _shaped(spec, cell, axis)
            row.append(cell[0] if axis is None else np.moveaxis(cell, 0, axis))
        yield tuple(row)


def _shaped(spec: TensorSpec, array: Array, axis: int | None) -> Array:
    """Returns rows that are flat, as tables without tensors have them, in the input's shape."""
    shape = spec.shape if axis is None else (*spec.shape[:axis], *spec.shape[axis + 1 :])
    if array.ndim != 2 or len(shape) < 2 or not all(isinstance(dim, int) for dim in shape):
        return array
    sizes = [dim for dim in shape if isinstance(dim, int)]
    if array.shape[1] != np.prod(sizes):
        raise InputError(
            f"input {spec.name!r}: a row has {array.shape[1]} numbers, expected {np.prod(sizes)}: {spell(spec)}"
        )
    return array.reshape(-1, *sizes)
