"""The user's rows as arrays by the network's input names, in memory or, where they are many, on disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
import numpy.typing as npt

from eetoolkit.reading.labelled import ClassFolders, LabelledPath, read_labelled
from eetoolkit.reading.samples import Data, join_labels, read_samples
from eetoolkit.tuning.collect import Progress
from eetoolkit_exporters.attaching.part import NetworkInputs
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import InputError
from eetoolkit_runtime.plan.types import Preprocess, TensorSpec
from eetoolkit_runtime.running.inputs import row_axes

IN_MEMORY = 1 << 30
"""Bytes of inputs up to which samples that come one after the other are kept in memory."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a network.

    Attributes:
        inputs: By the network's input names, as it takes them in a batch.
        labels: One for each row, (rows, ...); None: there are none.
        axes: Along which dimension each input counts rows.
        preprocess: How they were made of pictures, by input; empty: they were arrays.
    """

    inputs: dict[str, Array]
    labels: Array | None
    axes: Mapping[str, int]
    preprocess: Mapping[str, Preprocess] = field(default_factory=dict)

    def __len__(self) -> int:
        name, axis = next(iter(self.axes.items()))
        return int(self.inputs[name].shape[axis])

    def take(self, places: npt.ArrayLike | slice) -> Rows:
        """Returns some of the rows."""
        inputs = {
            name: array[(slice(None),) * self.axes[name] + (_index(places),)] for name, array in self.inputs.items()
        }
        return replace(self, inputs=inputs, labels=None if self.labels is None else self.labels[_index(places)])

    def joined(self, more: Rows) -> Rows:
        """Returns these rows and further ones behind them.

        Raises:
            InputError: Only one of them has labels, or they are of other shapes.
        """
        if (self.labels is None) != (more.labels is None):
            raise InputError("either the rows and those for validation both have labels, or neither")
        try:
            inputs = {
                name: np.concatenate([array, more.inputs[name]], self.axes[name]) for name, array in self.inputs.items()
            }
        except ValueError as error:
            raise InputError(f"the rows for validation are of other shapes: {error}") from error
        both = None if self.labels is None or more.labels is None else np.concatenate([self.labels, more.labels])
        return replace(self, inputs=inputs, labels=both)


def read_rows(
    plan: NetworkInputs,
    data: Data | str | os.PathLike[str] | LabelledPath,
    labels: npt.ArrayLike | None = None,
    *,
    folder: str | os.PathLike[str] | None = None,
    in_memory: int = IN_MEMORY,
    progress: Progress | None = None,
) -> Rows:
    """Returns the rows.

    Args:
        plan: Which inputs the network takes; with `labels`, labels may be the classes' names.
        data: See `Data`; or the path of a `.npz`, `.npy` or of a folder with pictures in a subfolder for each class.
        labels: One for each row.
        folder: Where samples lie on disk if they are too many for memory; None: among temporary files. Nothing is left
            there.
        in_memory: Up to how many bytes they are kept in memory.
        progress: Is told (what, done, total) for every sample; total is 0 where it is not known.

    Raises:
        InputError: Rows that the network does not take, or that are of different shapes; no rows; labels for some.
    """
    axes = {spec.name: axis for spec, axis in zip(plan.inputs, row_axes(plan), strict=True) if axis is not None}
    if lacking := [spec for spec in plan.inputs if spec.name not in axes]:
        raise InputError(
            f"input {lacking[0].name!r} has shape {list(lacking[0].shape)} and counts no rows: let every input of the "
            "network have a dimension `batch`"
        )
    given: Any = data
    if isinstance(data, str | os.PathLike):
        data = LabelledPath(str(data))
    if isinstance(data, LabelledPath):
        plan = _told(plan, data)
        given, labels = read_labelled(plan, data.path, data.options, unlabelled=True)
    total, samples = read_samples(plan, given, labels)
    with ExitStack() as files:
        kept = {spec.name: _Column(spec, axes[spec.name], folder) for spec in plan.inputs}
        for column in kept.values():
            files.callback(column.close)
        right: list[Array | None] = []
        for sample in samples:
            for column, array in zip(kept.values(), sample.inputs, strict=True):
                column.add(array)
            right.append(sample.labels)
            if len(right) > 1 and sum(column.in_memory for column in kept.values()) > in_memory:
                for column in kept.values():
                    column.spill()
            if progress is not None:
                done = kept[plan.inputs[0].name].rows
                progress("reading rows", done, total if done <= total else 0)
        if not right:
            raise InputError("no rows: the data are empty")
        whole = {name: column.whole() for name, column in kept.items()}
        pictures = given.preprocess if isinstance(given, ClassFolders) else {}
        return Rows(whole, join_labels(right, plan.labels), axes, pictures)


def _told(plan: NetworkInputs, data: LabelledPath) -> NetworkInputs:
    """Returns what is said of the inputs, and beside the data."""
    try:
        pictures = msgspec.convert(data.preprocess, dict[str, Preprocess])
    except msgspec.ValidationError as error:
        raise InputError(f"preprocess: {error}") from error
    labels = plan.labels if data.labels is None else tuple(data.labels)
    return replace(plan, preprocess={**plan.preprocess, **pictures}, labels=labels)


class _Column:
    """One input of all rows as it grows: in memory, and from the first `spill` on in an open file without a name.

    Attributes:
        rows: How many there are.
        in_memory: Bytes that are.
    """

    def __init__(self, spec: TensorSpec, axis: int, folder: str | os.PathLike[str] | None) -> None:
        self._spec, self._axis, self._folder = spec, axis, folder
        self._parts: list[Array] = []
        self._file: IO[bytes] | None = None
        self._row: tuple[int, ...] | None = None
        self.rows = self.in_memory = 0

    def add(self, array: Array) -> None:
        """Adds rows."""
        row = array.shape[: self._axis] + array.shape[self._axis + 1 :]
        if self._row not in (None, row):
            raise InputError(
                f"input {self._spec.name!r}: row {self.rows} has shape {list(row)}, those before it "
                f"{list(self._row or ())}; give all rows one shape: pad or resize them as in training"
            )
        self._row = row
        self._parts.append(array)
        self.in_memory += array.nbytes
        self.rows += array.shape[self._axis]

    def spill(self) -> None:
        """Moves what is in memory to disk."""
        try:
            if self._file is None:
                if self._folder is not None:
                    Path(self._folder).mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - as long as the array lives
            for part in self._parts:
                self._file.write(np.ascontiguousarray(np.moveaxis(part, self._axis, 0)).data)
            self._file.flush()
        except OSError as error:
            place = self._folder or tempfile.gettempdir()
            raise InputError(
                f"the rows are too many for memory, and cannot be kept in {place}: {error.strerror or error}; pass "
                "fewer, or a `folder` with space"
            ) from error
        self._parts, self.in_memory = [], 0

    def whole(self) -> Array:
        """Returns all rows."""
        if self._file is None:
            whole: Array = self._parts[0] if len(self._parts) == 1 else np.concatenate(self._parts, self._axis)
            return whole
        self.spill()
        shape = (self.rows, *(self._row or ()))
        stored: Array = np.memmap(self._file, np.dtype(self._spec.dtype), "r", shape=shape)
        return np.moveaxis(stored, 0, self._axis)

    def close(self) -> None:
        """Closes the file; arrays that show it keep what is in it."""
        if self._file is not None:
            self._file.close()


def _index(places: npt.ArrayLike | slice) -> Any:
    return places if isinstance(places, slice) else np.asarray(places)
