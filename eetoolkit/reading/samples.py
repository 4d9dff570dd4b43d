"""Rows as users hand them over: arrays beside labels, pairs, or batches as a DataLoader of PyTorch gives them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from eetoolkit.cluster.dataset import RayRows, count_cheaply, is_dataset
from eetoolkit.reading.inputfiles import part_labels
from eetoolkit_runtime.arguments import shortened
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import InputError, did_you_mean, first_line
from eetoolkit_runtime.running.inputs import InputPlan, Inputs, prepare, row_axes

Data = Inputs | Iterable[Any]
"""Inputs of any number of rows, beside their labels; or, without labels, samples: pairs of inputs and label(s) of a row
or of a batch, `(ids, mask, labels)`, a mapping with `labels`; or inputs alone. Or a `ray.data.Dataset` with a column
for each input, and perhaps one for labels, `labels` or `label`."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Some rows: their inputs in the plan's order, and a label for each, (rows, ...), or None."""

    inputs: tuple[Array, ...]
    labels: Array | None
    rows: int


def read_samples(plan: InputPlan, data: Data, labels: npt.ArrayLike | None = None) -> tuple[int, Iterator[Samples]]:
    """Returns how many rows there are, 0 where it is not known, and the rows as they come.

    Raises:
        InputError: Inputs that the network does not take, or another number of labels.
    """
    if is_dataset(data):
        if labels is not None:
            raise InputError("labels of a Ray dataset are a column of it, `labels` or `label`; pass no others")
        return count_cheaply(data), _each(plan, RayRows(plan, data))
    if labels is not None or _are_inputs(plan, data):
        inputs, own = _part(plan, data) if isinstance(data, Mapping) else (data, None)
        found = _sample(plan, inputs, own if labels is None else labels, "")
        return found.rows, iter((found,))
    counted = getattr(data, "dataset", data)  # the length of a DataLoader is that of its batches
    return len(counted) if isinstance(counted, Sized) else 0, _each(plan, in_turn(data))


def in_turn(data: Any) -> Iterable[Any]:
    """Returns what gives samples one after the other; a data set of PyTorch need only number them.

    Raises:
        InputError: It gives none.
    """
    if isinstance(data, Iterable) and not isinstance(data, str | bytes):
        return data
    if isinstance(data, Sized) and hasattr(data, "__getitem__") and not isinstance(data, str | bytes):
        return (data[place] for place in range(len(data)))
    raise InputError(f"the data are {shortened(data)}, expected inputs beside labels, or pairs of both")


def as_labels(labels: Any) -> Array:
    """Returns labels as an array that a record can hold.

    Raises:
        InputError: They are of different shapes, masked, or no numbers and no texts.
    """
    try:
        found = np.asarray(labels)
    except (TypeError, ValueError, RuntimeError) as error:  # a tensor of PyTorch may raise any of them
        raise InputError(f"labels are no array: {first_line(error)}") from error
    if np.ma.is_masked(labels):
        raise InputError("labels are masked, behind which a class would be read; leave these rows out")
    if found.dtype.kind not in "biufcSU":
        raise InputError(f"labels are {found.dtype}, expected numbers or texts")
    return found


def join_labels(parts: Sequence[Array | None], names: tuple[str, ...] | None) -> Array | None:
    """Returns the labels of samples in one array, the classes' names as their numbers; None: there are none.

    Raises:
        InputError: Only some have labels, or of several shapes; a name that is none of `names`.
    """
    given = [part for part in parts if part is not None]
    if not given:
        return None
    if len(given) < len(parts):
        place = next(place for place, part in enumerate(parts) if part is None)
        raise InputError(f"sample {place} has no label, others have: pass labels for all rows or for none")
    shapes = list(dict.fromkeys(part.shape[1:] for part in given))
    if len(shapes) > 1:
        raise InputError(f"labels have shapes {list(shapes[0])} and {list(shapes[1])} for a row; expected one shape")
    found = np.concatenate(given)
    return _numbered(found, names) if found.dtype.kind in "SU" else found


def _are_inputs(plan: InputPlan, data: Any) -> bool:
    """Whether data without labels are inputs of all rows: an array, a mapping by name, or a tuple of arrays."""
    if isinstance(data, tuple):
        return len(data) == len(plan.inputs) and all(getattr(each, "ndim", 0) for each in data)
    return isinstance(data, Mapping) or hasattr(data, "ndim")


def _each(plan: InputPlan, data: Iterable[Any]) -> Iterator[Samples]:
    for place, sample in enumerate(data):
        inputs, label = _part(plan, sample)
        yield _sample(plan, _with_rows(plan, inputs), label, f"sample {place}: ")


def _part(plan: InputPlan, sample: Any) -> tuple[Any, Any]:
    """Returns a sample's inputs and its labels, None where it has none."""
    count = len(plan.inputs)
    if isinstance(sample, Mapping):
        return part_labels(plan, sample)
    if not isinstance(sample, tuple | list):
        return sample, None
    if len(sample) == 2 and (count == 1 or isinstance(sample[0], tuple | list | Mapping)):
        return sample[0], sample[1]
    if len(sample) == count + 1:
        return tuple(sample[:-1]), sample[-1]
    return tuple(sample), None


def _with_rows(plan: InputPlan, inputs: Any) -> Any:
    """Returns inputs as they are, or where they are one row without its dimension, as a dataset gives it, with it."""
    titles = [plan.titles.get(spec.name, spec.name) for spec in plan.inputs]
    named = isinstance(inputs, Mapping)
    values = [inputs.get(name) for name in titles] if named else inputs if isinstance(inputs, tuple) else [inputs]
    lacking = [
        axis is not None and getattr(value, "ndim", None) == len(spec.shape) - 1
        for value, spec, axis in zip(values, plan.inputs, row_axes(plan), strict=False)
    ]
    if not lacking or len(values) != len(plan.inputs) or not all(lacking):
        return inputs
    rows = [np.expand_dims(np.asarray(v), axis or 0) for v, axis in zip(values, row_axes(plan), strict=True)]
    return dict(zip(titles, rows, strict=True)) if named else tuple(rows)


def _sample(plan: InputPlan, inputs: Any, labels: Any, where: str) -> Samples:
    arrays = prepare(plan, inputs, one_row=False)
    sizes = [array.shape[axis] for array, axis in zip(arrays, row_axes(plan), strict=True) if axis is not None]
    rows = sizes[0] if sizes else 1
    if labels is None:
        return Samples(arrays, None, rows)
    right = as_labels(labels)
    if where and rows == 1 and right.shape[:1] != (1,):
        right = right[None]
    if right.ndim == 0 or len(right) != rows:
        raise InputError(f"{where}labels have shape {list(right.shape)}, expected one for each of {rows} rows")
    return Samples(arrays, right, rows)


def _numbered(labels: Array, names: tuple[str, ...] | None) -> Array:
    """Returns the classes' numbers for their names."""
    texts = labels.astype(str).ravel().tolist()
    if names is None:
        raise InputError(
            f"labels are texts, such as {texts[0]!r}: pass integers, or the classes' names in the network's order "
            "(--labels FILE)"
        )
    numbers = {name: number for number, name in enumerate(names)}
    if unknown := sorted(set(texts) - set(numbers)):
        raise InputError(
            f"label {unknown[0]!r} is no class; these are {', '.join(names)}{did_you_mean(unknown[0], names)}"
        )
    return np.array([numbers[text] for text in texts], np.int64).reshape(labels.shape)
