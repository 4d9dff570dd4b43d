"""The data to tune by: the rows with the temperatures that will hold, in disjoint parts."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eetoolkit.reading.samples import Data
from eetoolkit.tuning.calibrate import fit_temperatures, temperatures_of
from eetoolkit.tuning.checks import check_record
from eetoolkit.tuning.collect import Progress, collect
from eetoolkit.tuning.manifest import with_constants
from eetoolkit.tuning.record import (
    Record,
    Values,
    calibrated_path,
    check_bundle,
    check_whole,
    criterion_values,
    read_record,
    values_of,
)
from eetoolkit.tuning.splits import share_of, split
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.errors import TuneError
from eetoolkit_runtime.plan.types import Manifest
from eetoolkit_runtime.running.providers import Chosen

_LEAST_ROWS = 30  # by which temperatures are fitted


@dataclass(frozen=True, eq=False)
class TuningData:
    """What was collected.

    Attributes:
        record: The rows, without those that temperatures were fitted on.
        first: The same rows as they were collected first, before temperatures were fitted.
        tune: Places in it, for choosing.
        guarantee: For a guarantee; empty where none is asked for.
        test: For the figures.
        rows: How many rows each part has, the calibration part too.
        by_label: Whether every part has each label's share.
        notes: What the reader must know.
    """

    record: Record
    first: Record
    tune: Array
    guarantee: Array
    test: Array
    rows: dict[str, int]
    by_label: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class RowSource:
    """Where the rows come from: inputs that are run, or a record of them.

    Attributes:
        bundle: The bundle.
        inputs: See `collect`.
        labels: See `collect`.
        record: The record, or with `inputs` the file to keep it in.
        threads: See `collect`.
        providers: See `collect`.
        progress: See `collect`.
    """

    bundle: Bundle
    inputs: Data | None
    labels: npt.ArrayLike | None
    record: Record | str | os.PathLike[str] | None
    threads: int | None
    providers: Chosen
    progress: Progress

    @property
    def runs_again(self) -> bool:
        """Whether the inputs can be run a second time."""
        return self.inputs is not None and not isinstance(self.inputs, Iterator)


def gather(source: RowSource, *, classes: bool, calibrate: bool | None, guarantee: bool, seed: int) -> TuningData:
    """Returns the data to tune by.

    With `calibrate`, temperatures are fitted on their own part, and all other rows are run again with them: so the
    confidences are those of the graphs, whatever the criteria.

    Args:
        source: Where the rows come from.
        classes: Whether labels are classes.
        calibrate: Whether to fit temperatures; None: where inputs and temperatures are there, and rows enough.
        guarantee: Whether a guarantee needs a part.
        seed: Of the split.

    Raises:
        TuneError: See `tune`.
    """
    plan = source.bundle.manifest
    first = _collect_first(source)
    check_record(first, plan, classes=classes)
    fits, notes = _choose_fit(source, first, classes=classes, calibrate=calibrate, guarantee=guarantee)
    parts = split(first.label, calibrate=fits, guarantee=guarantee, seed=seed)
    tune, guaranteed, test = parts.tune, parts.guarantee, parts.test
    found = first
    if fits:
        temperatures = fit_temperatures(first.take(parts.calibrate), plan)
        notes += _unfitted(plan, temperatures)
        kept = np.sort(np.concatenate([tune, guaranteed, test]))
        first = first.take(kept)
        found = _run_again(source, first, {name: (float(np.float32(t)),) for name, t in temperatures.values()})
        tune, guaranteed, test = (kept.searchsorted(places) for places in (tune, guaranteed, test))
    return TuningData(
        record=found,
        first=first,
        tune=tune,
        guarantee=guaranteed,
        test=test,
        rows={name: len(places) for name, places in parts.by_name.items() if len(places)},
        by_label=parts.by_label,
        notes=tuple(notes),
    )


def _collect_first(source: RowSource) -> Record:
    """Returns the rows with the temperatures that the bundle has."""
    record = source.record
    if source.inputs is not None:
        if isinstance(record, Record):
            raise TuneError("pass inputs or a record; with both, `record` is the file to save to")
        return collect(
            source.bundle, source.inputs, source.labels, file=record, threads=source.threads,
            providers=source.providers, progress=source.progress,
        )  # fmt: skip
    if record is None:
        raise TuneError("nothing to tune by: pass inputs and labels, or a record")
    if isinstance(record, Record):
        check_whole(record, "this")
    found = record if isinstance(record, Record) else read_record(record)
    check_bundle(found, source.bundle.manifest)
    return found


def _choose_fit(
    source: RowSource, found: Record, *, classes: bool, calibrate: bool | None, guarantee: bool
) -> tuple[bool, list[str]]:
    """Returns whether temperatures are fitted, and what the reader must know of those that are used.

    Raises:
        TuneError: `calibrate`, and they cannot be.
    """
    plan = source.bundle.manifest
    possible = source.runs_again and classes
    if calibrate and not possible:
        why = "labels that are classes" if source.runs_again else "inputs that can be run again, no record or iterator"
        raise TuneError(f"temperatures need {why}; pass calibrate=False (--no-calibrate)")
    fits = calibrate is not False and possible and bool(temperatures_of(plan, values_of(plan)))
    needed = rows_to_fit(guarantee=guarantee)
    notes = []
    if fits and calibrate is None and len(found) < needed:
        fits = False
        notes.append(
            f"no temperatures were fitted: {len(found)} rows are too few, {needed} are needed; calibrate=True "
            "(--calibrate) fits them all the same"
        )
    if criterion_values(plan, found.constants) != criterion_values(plan, values_of(plan)):
        notes.append("the record has other temperatures than the bundle: `before` is evaluated with the record's")
    elif source.inputs is None and calibrate is None and classes and temperatures_of(plan, found.constants):
        notes.append("no temperatures were fitted: that takes the data beside the record")
    return fits, notes


def rows_to_fit(*, guarantee: bool) -> int:
    """Returns from how many rows on temperatures are fitted unasked."""
    return math.ceil(_LEAST_ROWS / share_of("calibrate", guarantee=guarantee))


def _unfitted(plan: Manifest, fitted: Collection[str]) -> Iterator[str]:
    """Yields that some exits have no temperature, if they have none."""
    missing = [name for name, exit_ in plan.exits.items() if not exit_.ends and name not in fitted]
    if missing:
        yield f"no temperature for {', '.join(missing)}: it uses none, or its logits are not an output"


def _run_again(source: RowSource, first: Record, temperatures: Values) -> Record:
    """Returns the same rows with other temperatures.

    Raises:
        TuneError: The data gave other rows this time.
    """
    if not temperatures or source.inputs is None:
        return first
    found = collect(
        with_constants(source.bundle, temperatures), source.inputs, source.labels, rows=first.row,
        file=_calibrated_file(source.record, temperatures), threads=source.threads, providers=source.providers,
        progress=source.progress,
    )  # fmt: skip
    _check_same_rows(first, found)
    check_record(found, source.bundle.manifest, classes=True)
    return found


def _check_same_rows(first: Record, again: Record) -> None:
    """Refuses data that gave other rows when they were run again: rows would be of two parts."""
    if not np.array_equal(first.row, again.row):
        raise TuneError(f"the data gave {len(first)} rows, and {len(again)} of them when run again")
    differ = np.flatnonzero(first.digest != again.digest)
    if len(differ):
        raise TuneError(
            f"row {first.row[differ[0]]} was another one when the rows were run again, with temperatures: pass data "
            "that is neither shuffled nor augmented anew, or calibrate=False (--no-calibrate)"
        )


def _calibrated_file(record: Record | str | os.PathLike[str] | None, constants: Values) -> Path | None:
    """Returns where the rows with new temperatures are kept, beside the others; a file of other ones is removed."""
    if record is None or isinstance(record, Record):
        return None
    file = calibrated_path(record)
    if file.exists() and not constants.items() <= dict(read_record(file).constants).items():
        file.unlink()
    return file
