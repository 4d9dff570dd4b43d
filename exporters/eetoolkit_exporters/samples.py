"""Golden samples: real inputs, and what the source framework computes for every exit."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from eetoolkit_exporters.criteria import confidence
from eetoolkit_exporters.source import Array, ExitSpec, Source, choose_exits, open_source, to_array
from eetoolkit_runtime.bundle import Bundle, load
from eetoolkit_runtime.errors import ExportError, InputError
from eetoolkit_runtime.golden import Sample, Visit, read_golden
from eetoolkit_runtime.inputs import BATCH
from eetoolkit_runtime.plan import Criterion

MAX_SAMPLES = 8  # enough to meet every exit in practice, small enough to ship


def golden_samples(
    source: Source,
    batched: Collection[str],
    exits: Mapping[str, Mapping[str, str]],
    criteria: Mapping[str, Criterion],
    inputs: Any,
    order: Sequence[str],
) -> list[Sample]:
    """Returns up to 8 rows of `inputs` (None: the example), each with every exit's values from the source.

    Raises:
        ExportError: Inputs that the network does not take.
    """
    arrays = source.inputs if inputs is None else by_name(source, inputs)
    return [reference(source, row, exits, criteria, order) for row in rows_of(arrays, batched)[:MAX_SAMPLES]]


def reference(
    source: Source,
    row: Mapping[str, Array],
    exits: Mapping[str, Mapping[str, str]],
    criteria: Mapping[str, Criterion],
    order: Sequence[str],
    temperatures: Mapping[str, float] | None = None,
) -> Sample:
    """Returns what the source gives for one row, the confidences by the criteria in numpy."""
    found = source.run(row)
    visits: list[Visit] = []
    for name in order:
        outputs = {output: found[flat] for output, flat in exits[name].items()}
        scores = outputs[criteria[name].output or next(iter(outputs))]
        temperature = (temperatures or {}).get(name, 1.0)
        found_confidence = confidence(scores, criteria[name], temperature)
        if found_confidence.size != 1:
            raise ExportError(f"exit {name!r}: one row of inputs gives {found_confidence.size} rows of outputs")
        visits.append(Visit(name, outputs, float(found_confidence.item())))
    return Sample(dict(row), tuple(visits))


def by_name(source: Source, inputs: Any) -> dict[str, Array]:
    """Returns inputs in any of the forms that a user may give them, by name.

    Raises:
        ExportError: A wrong number or wrong names.
    """
    if isinstance(inputs, Mapping):
        if set(inputs) != set(source.inputs):
            raise ExportError(f"golden inputs are {sorted(inputs)}, expected {', '.join(source.inputs)}")
        values = [inputs[name] for name in source.inputs]
    else:
        values = list(inputs) if isinstance(inputs, tuple | list) else [inputs]
    if len(values) != len(source.inputs):
        raise ExportError(f"got {len(values)} golden inputs, expected {len(source.inputs)}: {', '.join(source.inputs)}")
    found = {}
    for (name, example), value in zip(source.inputs.items(), values, strict=True):
        array = to_array(value)
        found[name] = array.astype(np.float32) if array.dtype == np.float64 and example.dtype == np.float32 else array
    return found


def rows_of(arrays: Mapping[str, Array], batched: Collection[str]) -> list[dict[str, Array]]:
    """Splits the `batched` inputs along their leading dimension; the others go to every row.

    Raises:
        ExportError: Inputs of different numbers of rows, or of none.
    """
    counts = {name: len(arrays[name]) for name in batched}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise ExportError(f"the inputs differ in their number of rows: {shown}")
    if 0 in counts.values():
        raise ExportError("the inputs have no rows; pass one or more, the golden samples are made of them")
    return [
        {name: array[row : row + 1] if name in counts else array for name, array in arrays.items()}
        for row in range(max(counts.values(), default=1))
    ]


def source_samples(
    bundle: str | os.PathLike[str] | Bundle,
    model: Any,
    *,
    inputs: Any = None,
    exits: ExitSpec | None = None,
    fresh: int = 8,
    seed: int = 0,
) -> list[Sample]:
    """Returns the bundle's golden samples, and what `model` gives for `inputs` and for `fresh` random rows.

    Raises:
        ExportError: The model lacks an exit of the bundle or does not take its inputs.
        InputError: The bundle has no golden samples to draw from.
    """
    opened = load(bundle)
    golden = read_golden(opened)
    if not golden:
        raise InputError("verify: the bundle has no golden samples to draw random inputs from")
    names = [spec.name for spec in opened.manifest.inputs]
    source = _reopen(model, golden[0].inputs, names)
    chosen = choose_exits(source, exits)
    if missing := set(opened.exits) - set(chosen):
        raise ExportError(f"the model has no exits {sorted(missing)}; it has {', '.join(chosen)}")
    for name in opened.exits:
        if set(chosen[name]) != set(opened.exits[name].outputs):
            raise ExportError(
                f"exit {name!r}: the model's outputs are {', '.join(chosen[name])}, the bundle's "
                f"{', '.join(opened.exits[name].outputs)}; pass the `exits` of the export"
            )
    batched = [spec.name for spec in opened.manifest.inputs if spec.shape and spec.shape[0] in (BATCH, 1)]
    rows = rows_of(by_name(source, inputs), batched) if inputs is not None else []
    rng = np.random.default_rng(seed)
    rows += [{name: _like([s.inputs[name] for s in golden], rng) for name in names} for _ in range(fresh)]
    criteria = {name: exit_.criterion for name, exit_ in opened.exits.items()}
    constants = opened.manifest.constants
    temperatures = {
        name: float(constants[criterion.temperature].data[0])
        for name, criterion in criteria.items()
        if criterion.temperature is not None
    }
    order = list(opened.exits)
    return [*golden, *(reference(source, row, chosen, criteria, order, temperatures) for row in rows)]


def _reopen(model: Any, example: Mapping[str, Array], names: Sequence[str]) -> Source:
    """Opens a source by the bundle's input names where it knows them, else in the bundle's order."""
    with contextlib.suppress(ExportError):  # the names may not be the model's own: `input_names`, or `*args`
        return open_source(model, dict(example))
    return open_source(model, tuple(example[name] for name in names), names)


def _like(golden: Sequence[Array], rng: np.random.Generator) -> Array:
    """Draws an array of the first one's shape and dtype, with the mean, spread or range of all."""
    first, flat = golden[0], np.concatenate([array.ravel() for array in golden])
    if first.dtype == bool:
        mask: Array = rng.random(first.shape) < flat.mean()
        return mask
    if first.dtype.kind in "iu":
        low, high = int(flat.min()), int(flat.max())
        integers: Array = rng.integers(low, high, first.shape, endpoint=True).astype(first.dtype)
        return integers
    drawn: Array = np.asarray(rng.normal(flat.mean(), flat.std() or 1.0, first.shape), first.dtype)
    return drawn
