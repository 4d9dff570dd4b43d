"""Datasets of Ray as one of the forms that rows come in, without importing Ray for those who do not use it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from eetoolkit.cluster.columns import LABEL_COLUMNS, dense, input_columns, inputs_and_labels, rows_of
from eetoolkit_runtime import errors
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import EEToolkitError, InputError, RunError, first_line
from eetoolkit_runtime.running.inputs import InputPlan

if TYPE_CHECKING:
    from ray.data import Dataset
else:
    Dataset = Any

_CAUSED = "The above exception was the direct cause"


def is_dataset(data: object) -> TypeGuard[Dataset]:
    """Whether data are a `ray.data.Dataset`."""
    ray_data = sys.modules.get("ray.data")
    return ray_data is not None and isinstance(data, ray_data.Dataset)


def count_cheaply(dataset: Dataset) -> int:
    """Returns how many rows a dataset has; 0 where Ray would have to read them to know."""
    from ray.data.dataset import MaterializedDataset

    return int(dataset.count()) if isinstance(dataset, MaterializedDataset) else 0


def first_inputs(dataset: Dataset) -> Any:
    """Returns the first row's columns but for labels, (1, ...) each: by name, or alone where there is one.

    Raises:
        InputError: There are no rows.
        RunError: Ray failed.
    """
    with in_order(dataset), told():
        batch = next(iter(dataset.limit(1).iter_batches(batch_size=None, batch_format="numpy")), None)
    if not batch:
        raise InputError("no rows: the data are empty")
    columns = {name: dense(name, column) for name, column in batch.items() if name not in LABEL_COLUMNS}
    return next(iter(columns.values())) if len(columns) == 1 else columns


@dataclass(frozen=True, eq=False)
class RayRows:
    """The rows of a dataset as samples, each time anew and in the dataset's order: (inputs by name, labels) of a block.

    Attributes:
        plan: Which inputs the network takes.
        dataset: With a column for each of them.
    """

    plan: InputPlan
    dataset: Dataset

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches():
            yield from inputs_and_labels(self.plan, batch)

    def rows(self) -> Iterator[tuple[Array, ...]]:
        """Yields each row as a runner takes it."""
        for batch in self._batches():
            yield from rows_of(self.plan, batch, input_columns(self.plan, batch.keys()))

    def _batches(self) -> Iterator[dict[str, Array]]:
        with in_order(self.dataset), told():
            yield from self.dataset.iter_batches(batch_size=None, batch_format="numpy")


@contextlib.contextmanager
def in_order(dataset: Dataset) -> Iterator[None]:
    """Has a dataset give its rows in their order; its own setting is put back afterwards."""
    options = dataset.context.execution_options
    before, options.preserve_order = options.preserve_order, True
    try:
        yield
    finally:
        options.preserve_order = before


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Tells a failure of Ray, or of what the dataset does, in one line.

    Raises:
        RunError: Says what failed.
    """
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        raise _in_one_line(error) from error
    except OSError as error:
        raise RunError(f"Ray failed: {first_line(error)}") from error


def _in_one_line(error: Exception) -> EEToolkitError:
    """Returns what a worker failed by: the text of an error of Ray has tracebacks, of which it is the last but one."""
    *before, _ = str(error).split(_CAUSED)
    said = before[-1].strip().splitlines()[-1] if before else first_line(getattr(error, "cause", None) or error)
    module, _, rest = said.partition(f"{errors.__name__}.")
    name, _, text = rest.partition(": ")
    if not module and isinstance(kind := getattr(errors, name, None), type) and issubclass(kind, EEToolkitError):
        return kind(text)
    return RunError(f"Ray failed: {said}")
