"""The user's rows in disjoint parts: ranges are calibrated on one, methods chosen on another, the rest is reported."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from eetoolkit.reading.images import ImageOptions
from eetoolkit.reading.labelled import read_labelled
from eetoolkit.reading.samples import Data, join_labels, read_samples
from eetoolkit.tuning.checks import check_classes, check_labels
from eetoolkit.tuning.collect import Progress
from eetoolkit.tuning.splits import shuffled_rows, spread
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.errors import InputError
from eetoolkit_runtime.plan.types import Manifest
from eetoolkit_runtime.profiling.rounds import Row
from eetoolkit_runtime.running.inputs import golden_rows, row_axes, split_rows

LEAST_CALIBRATE, MOST_CALIBRATE = 20, 200
MOST_CHOOSE, MOST_REPORT, MOST_TUNE = 1000, 2000, 8000
_FEW = 5
"""Rows that a part has at least, whatever the bound."""

_NOTED, _REFUSED, _NARROW = 0.05, 0.95, 1 / 20


@dataclass(frozen=True, eq=False)
class Part:
    """Some rows, and a label for each, (rows, ...), or None."""

    rows: tuple[Row, ...]
    labels: Array | None

    def __len__(self) -> int:
        return len(self.rows)

    def evenly(self, most: int) -> list[Row]:
        """Returns some of the rows, evenly from all of them."""
        return [self.rows[place] for place in spread(len(self), most)]


@dataclass(frozen=True, eq=False)
class Parts:
    """Disjoint parts of the rows, see `report.PARTS`; `tune` is None where nothing is tuned.

    Attributes:
        notes: What the rows look like beside the golden samples, where that is odd.
    """

    calibrate: Part
    choose: Part
    report: Part
    tune: Part | None
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many rows each part has."""
        own = {"calibrate": self.calibrate, "choose": self.choose, "report": self.report, "tune": self.tune}
        return {name: len(part) for name, part in own.items() if part is not None}


def read_parts(
    bundle: Bundle,
    data: Data | str | os.PathLike[str],
    labels: npt.ArrayLike | None = None,
    *,
    max_disagreement: float,
    tune: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Parts:
    """Returns the parts, drawn at random; each has its share of every label where these are classes.

    Of more rows than the parts take, a sample is kept, so that a stream of any length fits into memory.

    Args:
        bundle: The float bundle.
        data: See `Data`; or the path of a `.npz`, `.npy` or of a folder with pictures in a subfolder for each class.
        labels: One for each row.
        max_disagreement: The bound, above 0: what is to be seen of it takes as many rows as its reciprocal.
        tune: Whether thresholds are tuned too, on rows of their own.
        seed: Of the draw; the same rows and seed give the same parts.
        progress: Is told (what, done, total) for every row; total is 0 where it is not known.

    Raises:
        InputError: Rows that the network does not take, too few, or of another scale than the golden samples'; labels
            for some.
        TuneError: Labels that cannot be tuned by.
    """
    plan = bundle.manifest
    given: Any = data
    if isinstance(data, str | os.PathLike):
        given, own = read_labelled(plan, os.fspath(data), ImageOptions(), unlabelled=True)
        labels = own if labels is None else labels
    most = _sizes(1 << 40, max_disagreement, tune=tune)
    rows, right = draw_rows(plan, given, labels, sum(most.values()), seed, progress)
    sizes = _sizes(len(rows), max_disagreement, tune=tune)
    if tune:
        if right is None:
            raise InputError("the rows have no labels, which tuning takes; pass labels, or leave out tune")
        check_labels(right)
    if right is not None and right.ndim == 1 and right.dtype.kind in "iu":
        check_classes(right, _classes(plan))
    order = shuffled_rows(np.zeros(len(rows)) if right is None else right, seed)
    edges = np.cumsum([0, *sizes.values()])
    parts: dict[str, Part] = {}
    for name, start, stop in zip(sizes, edges, edges[1:], strict=False):
        places = np.sort(order[start:stop])
        parts[name] = Part(tuple(rows[place] for place in places), None if right is None else right[places])
    notes = (*_nan(plan, rows), *check_scale(plan, golden_rows(bundle), parts["calibrate"].rows))
    return Parts(parts["calibrate"], parts["choose"], parts["report"], parts.get("tune"), notes)


def _nan(plan: Manifest, rows: Sequence[Row]) -> Iterator[str]:
    """Yields a sentence for each input that is NaN somewhere: int8 has no NaN, so that answers differ there."""
    for k, spec in enumerate(plan.inputs):
        count = sum(bool((row[k] != row[k]).any()) for row in rows)
        if count:
            yield f"input {spec.name!r}: {count} of {len(rows)} rows hold NaN; look at them, or leave them out"


def check_scale(plan: Manifest, golden: Sequence[Row], rows: Sequence[Row]) -> tuple[str, ...]:
    """Returns what is odd about the values of float inputs beside the golden samples', a sentence for each such input.

    Rows are refused where 95 % of them have values beyond the golden range by four times its width, as sparse pixels of
    0 to 255 do where the network sees 0 to 1. A golden sample of the same source as the rows lies below 95 % of them in
    one case of twenty at most, however the rows are distributed, and by such a factor hardly ever. A note is made where
    half of the rows have 5 % of their values beyond the range by its width, or where all values span less than a
    twentieth of it.

    Args:
        plan: The bundle's.
        golden: Inputs of the golden samples; none: nothing is judged.
        rows: Those that calibrate.

    Raises:
        InputError: Rows of another scale.
    """
    notes = []
    for k, spec in enumerate(plan.inputs):
        if not golden or np.dtype(spec.dtype).kind != "f":
            continue
        values = [row[k] for row in rows]
        least, most, low, high = *_range(values), *_range([row[k] for row in golden])
        width = high - low
        if not 0 < width < math.inf or not most >= least:
            continue
        far = [saturation(low - 4 * width, high + 4 * width, each) for each in values]
        near = [saturation(low - width, high + width, each) for each in values]
        what = f"input {spec.name!r}: values are {least:.4g} to {most:.4g}, the golden samples' {low:.4g} to {high:.4g}"
        fix = "scale them as in training" + (", or pass pixels as uint8" if spec.name in plan.preprocess else "")
        if np.mean(np.array(far) > 0) >= _REFUSED:
            raise InputError(f"{what}; {fix}; if they are right, export with real rows as `golden_inputs`")
        if np.median(near) > _NOTED or most - least < width * _NARROW:
            notes.append(f"{what}; {fix} if they are of another scale")
    return tuple(notes)


def saturation(low: float, high: float, values: npt.ArrayLike) -> float:
    """Returns the share of values outside the range of those that calibrated a tensor; NaN is outside."""
    given = np.asarray(values)
    return 1 - float(np.mean((given >= low) & (given <= high)))


def _range(arrays: Sequence[Array]) -> tuple[float, float]:
    """Returns the least and the largest finite value; infinities the wrong way round where there is none."""
    finite = [array[np.isfinite(array)] for array in arrays]
    low = min((float(each.min()) for each in finite if each.size), default=math.inf)
    return low, max((float(each.max()) for each in finite if each.size), default=-math.inf)


def _sizes(rows: int, max_disagreement: float, *, tune: bool) -> dict[str, int]:
    """Returns how many rows each part gets: what it needs, and of the others a share up to its most."""
    needed = max(_FEW, math.ceil(1 / max_disagreement))
    least = {"calibrate": LEAST_CALIBRATE, "choose": needed, "report": needed} | ({"tune": needed} if tune else {})
    spare = rows - sum(least.values())
    if spare < 0:
        what = [f"{LEAST_CALIBRATE} to calibrate", *(f"{needed} to {name}" for name in least if name != "calibrate")]
        raise InputError(
            f"{rows} rows are too few, expected at least {rows - spare}: {', '.join(what[:-1])} and {what[-1]}, by "
            f"which a disagreement of {max_disagreement:g} can be seen; pass more, or a larger max_disagreement"
        )
    calibrate = min(MOST_CALIBRATE, LEAST_CALIBRATE + spare // 5)
    choose = min(max(MOST_CHOOSE, needed), needed + spare // 2)
    rest = rows - calibrate - choose
    report = min(max(MOST_REPORT, needed), rest // 2 if tune else rest)
    sizes = {"calibrate": calibrate, "choose": choose, "report": report}
    return sizes | {"tune": min(max(MOST_TUNE, needed), rest - report)} if tune else sizes


def draw_rows(
    plan: Manifest, data: Data, labels: npt.ArrayLike | None, most: int, seed: int, progress: Progress | None
) -> tuple[list[Row], Array | None]:
    """Returns a sample of at most so many rows and their labels (Vitter 1985, algorithm R)."""
    total, samples = read_samples(plan, data, labels)
    draw, axes, seen = np.random.default_rng(seed), row_axes(plan), 0
    alone = all(axis is None for axis in axes)
    rows: list[Row] = []
    right: list[Array | None] = []
    for sample in samples:
        whole = sample.rows == total  # the user's own arrays, of which views will do
        for n, row in enumerate([sample.inputs] if alone else split_rows(plan, sample.inputs)):
            place = len(rows) if len(rows) < most else int(draw.integers(0, seen + 1))
            seen += 1
            if place < most:
                rows[place : place + 1] = [row if whole else _copied(row, axes)]
                right[place : place + 1] = [None if sample.labels is None else sample.labels[n : n + 1]]
        if progress is not None:
            progress("reading rows", seen, total if seen <= total else 0)
    if not rows:
        raise InputError("no rows: the data are empty")
    return rows, join_labels(right, plan.labels)


def _classes(plan: Manifest) -> int | None:
    """Returns how many classes the exits tell apart; None where the plan does not say."""
    sizes = [1]
    for exit_ in plan.exits.values():
        if exit_.scores is not None:
            shape, axis = plan.slots[exit_.outputs[exit_.scores.output]].shape, exit_.scores.axis
            sizes += [size for size in shape[axis : axis + 1] if isinstance(size, int)]
    return max(sizes) if max(sizes) > 1 else None


def _copied(row: Row, axes: Sequence[int | None]) -> Row:
    """Returns a row that holds no batch in memory; what goes to every row is shared."""
    return tuple(array if axis is None else array.copy() for array, axis in zip(row, axes, strict=True))
