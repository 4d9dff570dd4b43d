"""Rows from anywhere, gathered into batches that may run together, without holding more than one of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from eetoolkit_runtime.inputs import Array, Inputs, prepare, row_inputs
from eetoolkit_runtime.plan import Manifest

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
    one_each = row_inputs(plan)
    waiting: list[Row] = []
    given = iter(inputs)
    while True:
        try:
            row = tuple(array.copy() for array in prepare(plan, next(given), one_row=True))  # a camera reuses its own
        except StopIteration:
            break
        except Exception:
            if waiting:
                yield _stacked(waiting, one_each)
            raise
        if waiting and not _alike(waiting[-1], row, one_each):
            yield _stacked(waiting, one_each)
            waiting = []
        waiting.append(row)
        if len(waiting) == at_most:
            yield _stacked(waiting, one_each)
            waiting = []
    if waiting:
        yield _stacked(waiting, one_each)


def _alike(a: Row, b: Row, one_each: Sequence[bool]) -> bool:
    """Whether two rows have the same shapes, and the same values where rows share an input."""
    return all(x.shape == y.shape and (each or np.array_equal(x, y)) for x, y, each in zip(a, b, one_each, strict=True))


def _stacked(rows: list[Row], one_each: Sequence[bool]) -> Row:
    return tuple(
        np.concatenate(parts) if each else parts[0]
        for parts, each in zip(zip(*rows, strict=True), one_each, strict=True)
    )
