"""Rows from anywhere, gathered into batches that may run together, without holding more than one of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from eetoolkit_runtime.arguments import shortened
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import InputError
from eetoolkit_runtime.plan.types import Manifest
from eetoolkit_runtime.running.inputs import Inputs, prepare, row_axes

Row = tuple[Array, ...]


def gather(plan: Manifest, inputs: Iterable[Inputs], at_most: int) -> Iterator[Row]:
    """Yields batches of up to `at_most` rows that follow each other in `inputs` and differ in nothing but their values.

    Args:
        plan: Whose inputs they are.
        inputs: One row each, as `Runner.run` takes it.
        at_most: Rows of a batch.

    Raises:
        InputError: A row that the plan does not take, after the rows before it.
    """
    axes = row_axes(plan)
    waiting: list[Row] = []
    try:
        given = iter(inputs)
    except TypeError as error:
        raise InputError(f"inputs is {shortened(inputs)}, expected several, each as `run` takes it") from error
    while True:
        try:
            row = tuple(array.copy() for array in prepare(plan, next(given), one_row=True))  # a camera reuses its own
        except StopIteration:
            break
        except Exception:
            if waiting:
                yield _stacked(waiting, axes)
            raise
        if waiting and not _alike(waiting[-1], row, axes):
            yield _stacked(waiting, axes)
            waiting = []
        waiting.append(row)
        if len(waiting) == at_most:
            yield _stacked(waiting, axes)
            waiting = []
    if waiting:
        yield _stacked(waiting, axes)


def _alike(a: Row, b: Row, axes: Sequence[int | None]) -> bool:
    """Whether two rows have the same shapes, and the same values where rows share an input."""
    return all(
        x.shape == y.shape and (axis is not None or np.array_equal(x, y)) for x, y, axis in zip(a, b, axes, strict=True)
    )


def _stacked(rows: list[Row], axes: Sequence[int | None]) -> Row:
    return tuple(
        parts[0] if axis is None else np.concatenate(parts, axis)
        for parts, axis in zip(zip(*rows, strict=True), axes, strict=True)
    )
