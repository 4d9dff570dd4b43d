"""The first of the user's rows, as a torch network takes it, before anything is known of the network."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from eetoolkit.cluster.dataset import first_inputs, is_dataset
from eetoolkit.reading.inputfiles import LABELS
from eetoolkit.reading.samples import in_turn
from eetoolkit_runtime.errors import InputError


def draw_example(data: Any, labels: npt.ArrayLike | None = None) -> tuple[Any, Any]:
    """Returns the first row as a torch network takes it, (1, ...) each, and the data, of which nothing is used up.

    Nothing is known of the network yet: of a sample with one label, whose inputs lack the dimension of rows, they get
    it.

    Raises:
        InputError: A path or something else that does not show a row, or one that may be read in two ways.
    """
    if is_dataset(data):
        return first_inputs(data), data
    if isinstance(data, Mapping):
        return {name: value[:1] for name, value in data.items() if name != LABELS}, data
    if hasattr(data, "ndim"):
        return data[:1], data
    if isinstance(data, tuple) and (labels is not None or all(getattr(each, "ndim", 0) for each in data)):
        return tuple(value[:1] for value in data), data
    if isinstance(data, str | os.PathLike):
        raise InputError(f"the data are a {type(data).__name__}, which does not show a row: pass example_inputs")
    iterator = iter(in_turn(data))
    first = next(iterator, None)
    if first is None:
        raise InputError("no rows: the data are empty")
    return _first_row(first), chain([first], iterator) if iterator is data else data


def _first_row(sample: Any) -> Any:
    """Returns the inputs of the first row in a sample."""
    label: Any = None
    if isinstance(sample, Mapping):
        label = sample.get(LABELS)
        sample = {name: value for name, value in sample.items() if name != LABELS}
    elif isinstance(sample, tuple | list):
        sample, label = (tuple(sample[:-1]), sample[-1]) if len(sample) > 1 else (sample[0], None)
        sample = sample[0] if isinstance(sample, tuple) and len(sample) == 1 else sample
    if label is None or np.ndim(label) > 0:
        return _mapped(sample, lambda value: value[:1])
    shapes = [list(np.shape(value)) for value in _values(sample)]
    if all(shape[:1] != [1] for shape in shapes):
        return _mapped(sample, lambda value: np.asarray(value)[None])
    if any(len(shape) == 3 for shape in shapes):
        raise InputError(
            f"the first sample has shape {' and '.join(map(str, shapes))} and one label, and its 1 may count rows or "
            "channels: pass example_inputs, one row as the network takes it"
        )
    return sample


def _values(inputs: Any) -> Iterable[Any]:
    if isinstance(inputs, Mapping):
        return inputs.values()
    return inputs if isinstance(inputs, tuple | list) else (inputs,)


def _mapped(inputs: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(inputs, Mapping):
        return {name: change(value) for name, value in inputs.items()}
    return tuple(map(change, inputs)) if isinstance(inputs, tuple | list) else change(inputs)
