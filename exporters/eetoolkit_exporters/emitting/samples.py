"""Golden samples: real inputs, and what the source framework computes for every exit."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from eetoolkit_exporters.capturing.cascade import open_source
from eetoolkit_exporters.capturing.source import ExitSpec, ModelSource, Visits, choose_exits, to_array
from eetoolkit_exporters.criteria.reference import exit_answer
from eetoolkit_exporters.criteria.resolve import CriterionSpec, bind, functions_of
from eetoolkit_exporters.naming import renamed_criterion, renamed_sample
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.bundle import Bundle, load
from eetoolkit_runtime.bundle.golden import Sample, Visit, read_golden
from eetoolkit_runtime.errors import ExportError, InputError
from eetoolkit_runtime.plan.types import Criterion
from eetoolkit_runtime.running.inputs import row_axes, rows_between
from eetoolkit_runtime.running.scores import LABEL
from eetoolkit_runtime.verify import DEFAULT_TOLERANCE

MAX_SAMPLES = 8  # enough to meet every exit in practice, small enough to ship


def sample_rows(source: ModelSource, axes: Mapping[str, int], inputs: Any) -> list[dict[str, Array]]:
    """Returns up to 16 rows of `inputs` (None: the example), of which the golden samples are taken.

    Raises:
        ExportError: Inputs that the network does not take.
    """
    arrays = source.inputs if inputs is None else by_name(source, inputs)
    return rows_of(arrays, axes)[: 2 * MAX_SAMPLES]


def golden_samples(
    source: ModelSource,
    rows: Sequence[Mapping[str, Array]],
    met: Sequence[Visits],
    criteria: Mapping[str, Criterion],
    tolerance: float,
) -> list[Sample]:
    """Returns up to 8 of the rows, each with every exit's values from the source; none decides within rounding.

    Args:
        source: The network in its own framework.
        rows: Their inputs.
        met: What `meet` returned for each of them.
        criteria: For each exit its criterion, with numbers and not the names of constants (`resolve.bind`).
        tolerance: A decision that is closer than this hangs on rounding.

    Raises:
        ExportError: Outputs of several rows.
    """
    judged = [_judged(source, row, visits, criteria) for row, visits in zip(rows, met, strict=True)]
    return _clear(judged, tolerance)[:MAX_SAMPLES]


def _judged(
    source: ModelSource, row: Mapping[str, Array], met: Visits, criteria: Mapping[str, Criterion]
) -> tuple[Sample, float]:
    """Returns a sample, and how far its closest discrete decision is from going the other way."""
    visits: list[Visit] = []
    returned: list[tuple[Mapping[str, Array], Criterion]] = []
    closest = np.inf
    for name, outputs in met:
        seen: list[tuple[Mapping[str, Array], Criterion]] = [(outputs, criteria[name])]
        if name not in source.marked:
            returned += seen
            seen = returned
        says = exit_answer(seen)
        if says.confidence.size != 1:
            raise ExportError(
                f"exit {name!r}: one row of inputs gives {says.confidence.size} rows of outputs; what its criterion "
                "reads must be (batch, ...): transpose it where its rows are another dimension; what is no exit, as a "
                "state, is returned beside the logits, {'logits': ..., 'state': ...}"
            )
        visits.append(Visit(name, says.outputs, float(np.float32(says.confidence.item()))))
        closest = min(closest, float(says.margin.item()))
    return Sample(dict(row), tuple(visits)), closest


def meet(
    source: ModelSource, row: Mapping[str, Array], exits: Mapping[str, Mapping[str, str]], order: Sequence[str]
) -> Visits:
    """Returns the chosen exits that a row meets, with their outputs: marked ones as they are met, then in `order`.

    Raises:
        ExportError: Inputs that the network does not take, or an output without any number.
    """
    met = list(_met(source, row, exits, order))
    for name, outputs in met:
        for output, array in outputs.items():
            if array.size == 0:
                raise ExportError(f"exit {name!r}: {output!r} has the empty shape {list(array.shape)} on the example")
    return met


def _met(
    source: ModelSource, row: Mapping[str, Array], exits: Mapping[str, Mapping[str, str]], order: Sequence[str]
) -> Iterator[tuple[str, dict[str, Array]]]:
    found: dict[str, Array] = {}
    for own, arrays in source.run_visits(row):
        flat = {source.exits[own][output]: array for output, array in arrays.items()}
        if own not in source.marked:
            found |= flat
            continue
        for name in order:
            if set(exits[name].values()) <= flat.keys():
                yield name, {output: flat[key] for output, key in exits[name].items()}
    for name in order:
        if set(exits[name].values()) <= found.keys():
            yield name, {output: found[key] for output, key in exits[name].items()}


def _clear(samples: Sequence[tuple[Sample, float]], tolerance: float) -> list[Sample]:
    """Returns the samples of which nothing discrete (an argmax, a member's threshold) hangs on rounding; else all.

    There either outcome is right, and a device that finds the other one is not to blame.
    """
    clear = [sample for sample, margin in samples if margin > tolerance]
    return clear or [sample for sample, _ in samples]


def by_name(source: ModelSource, inputs: Any) -> dict[str, Array]:
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
        found[name] = array.astype(example.dtype) if array.dtype.kind == example.dtype.kind == "f" else array
    return found


def rows_of(arrays: Mapping[str, Array], axes: Mapping[str, int]) -> list[dict[str, Array]]:
    """Splits the inputs that have an axis of rows along it; the others go to every row.

    Raises:
        ExportError: Inputs of different numbers of rows, or of none.
    """
    for name, axis in axes.items():
        if arrays[name].ndim <= axis:
            raise ExportError(
                f"input {name!r} has the shape {list(arrays[name].shape)}, expected rows along axis {axis}"
            )
    counts = {name: arrays[name].shape[axis] for name, axis in axes.items()}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise ExportError(f"the inputs differ in their number of rows: {shown}")
    if 0 in counts.values():
        raise ExportError("the inputs have no rows; pass one or more, the golden samples are made of them")
    return [
        {
            name: rows_between(array, axes[name], row, row + 1) if name in axes else array
            for name, array in arrays.items()
        }
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
    criterion: CriterionSpec | None = None,
) -> list[Sample]:
    """Returns the bundle's golden samples, and what `model` gives for `inputs` and for `fresh` random rows.

    Rows of which something discrete hangs on rounding (`ExitAnswer.margin`) are left out.

    Args:
        bundle: A `Bundle` or its path.
        model: What was exported.
        inputs: Further real inputs, any number of rows.
        exits: As it was given to `export`.
        fresh: How many random rows.
        seed: Their seed.
        criterion: As it was given to `export`; needed only for custom criteria, of which a bundle has the names alone.

    Raises:
        ExportError: The model lacks an exit of the bundle or does not take its inputs; a custom criterion is missing.
        InputError: The bundle has no golden samples to draw from.
    """
    opened = load(bundle)
    golden = read_golden(opened)
    if not golden:
        raise InputError("verify: the bundle has no golden samples to draw random inputs from")
    titles = opened.manifest.titles
    names = [titles.get(spec.name, spec.name) for spec in opened.manifest.inputs]
    known = [renamed_sample(sample, titles) for sample in golden]
    bundled = {titles.get(name, name): exit_ for name, exit_ in opened.exits.items()}
    source = _reopen(model, known[0].inputs, names)
    chosen = choose_exits(source, exits)
    if missing := set(bundled) - set(chosen):
        raise ExportError(f"the model has no exits {sorted(missing)}; it has {', '.join(chosen)}")
    for name, exit_ in bundled.items():
        added = {LABEL} if exit_.criterion.kind == "vote" else set()
        outputs = [titles.get(output, output) for output in exit_.outputs]
        if set(chosen[name]) != set(outputs) - added:
            raise ExportError(
                f"exit {name!r}: the model's outputs are {', '.join(chosen[name])}, the bundle's {', '.join(outputs)}; "
                "pass the `exits` of the export"
            )
    places = zip(names, row_axes(opened.manifest), strict=True)
    axes = {name: axis for name, axis in places if axis is not None}
    rows = rows_of(by_name(source, inputs), axes) if inputs is not None else []
    rng = np.random.default_rng(seed)
    rows += [{name: _like([s.inputs[name] for s in known], rng) for name in names} for _ in range(fresh)]
    functions = functions_of(criterion)
    criteria = {
        name: bind(renamed_criterion(exit_.criterion, titles), opened.manifest.constants, functions)
        for name, exit_ in bundled.items()
    }
    tolerance = DEFAULT_TOLERANCE if opened.manifest.golden is None else opened.manifest.golden.tolerance
    judged = [_judged(source, row, meet(source, row, chosen, list(bundled)), criteria) for row in rows]
    ours = {title: name for name, title in titles.items()}
    return [*golden, *(renamed_sample(sample, ours) for sample in _clear(judged, tolerance))]


def _reopen(model: Any, example: Mapping[str, Array], names: Sequence[str]) -> ModelSource:
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
