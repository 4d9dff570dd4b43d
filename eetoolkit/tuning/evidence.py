"""The evidence that thresholds are chosen by: the rows with the temperatures that will hold, in disjoint parts."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eetoolkit.tuning.calibrate import fit_temperatures, temperatures_of
from eetoolkit.tuning.checks import check_record
from eetoolkit.tuning.collect import Data, Progress, collect
from eetoolkit.tuning.manifest import with_constants
from eetoolkit.tuning.record import (
    Array,
    Record,
    Values,
    calibrated_path,
    check_bundle,
    check_whole,
    judging_values,
    read_record,
    values_of,
)
from eetoolkit.tuning.splits import share_of, split
from eetoolkit_runtime.bundle import Bundle
from eetoolkit_runtime.errors import TuneError
from eetoolkit_runtime.providers import Provider

_LEAST_ROWS = 30  # by which temperatures are fitted unasked


@dataclass(frozen=True, eq=False)
class Evidence:
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


def gather(  # noqa: PLR0913 - what evidence depends on
    bundle: Bundle,
    inputs: Data | None,
    labels: npt.ArrayLike | None,
    record: Record | str | os.PathLike[str] | None,
    *,
    classes: bool,
    calibrate: bool | None,
    guarantee: bool,
    seed: int,
    threads: int | None,
    providers: Sequence[Provider],
    progress: Progress,
) -> Evidence:
    """Returns the evidence from inputs, or from a record of them.

    With `calibrate`, temperatures are fitted on their own part, and all other rows are run again with them: so the
    confidences are those of the graphs, whatever the criteria.

    Args:
        bundle: The bundle.
        inputs: See `collect`.
        labels: See `collect`.
        record: The record, or with `inputs` the file to keep it in.
        classes: Whether labels are classes.
        calibrate: Whether to fit temperatures; None: where inputs and temperatures are there, and rows enough.
        guarantee: Whether a guarantee needs a part.
        seed: Of the split.
        threads: See `collect`.
        providers: See `collect`.
        progress: See `collect`.

    Raises:
        TuneError: See `tune`.
    """
    plan = bundle.manifest
    found = _collected(bundle, inputs, labels, record, threads=threads, providers=providers, progress=progress)
    check_record(found, plan, classes=classes)
    again = inputs is not None and not isinstance(inputs, Iterator)
    if calibrate and not (again and classes):
        why = "labels that are classes" if again else "inputs that can be run again, no record or iterator"
        raise TuneError(f"temperatures need {why}; pass calibrate=False (--no-calibrate)")
    notes: list[str] = []
    fits = calibrate is not False and again and classes
    fits = fits and bool(temperatures_of(plan, values_of(plan)))
    needed = math.ceil(_LEAST_ROWS / share_of("calibrate", guarantee=guarantee))
    if fits and calibrate is None and len(found) < needed:
        fits = False
        notes.append(
            f"{len(found)} rows are too few to fit temperatures by as well: it takes {needed}, or calibrate=True "
            "(--calibrate)"
        )
    parts = split(found.label, calibrate=fits, guarantee=guarantee, seed=seed)
    rows = {name: getattr(parts, name) for name in ("calibrate", "tune", "guarantee", "test")}
    counts = {name: len(places) for name, places in rows.items() if len(places)}
    first = found
    if judging_values(plan, found.constants) != judging_values(plan, values_of(plan)):
        notes.append("the record holds other temperatures than the bundle: `before` is measured with the record's")
    elif inputs is None and calibrate is None and classes and temperatures_of(plan, found.constants):
        notes.append("a record alone fits no temperatures: they are as they were; the data beside it would")
    if fits:
        fitted = fit_temperatures(found.take(parts.calibrate), plan)
        changed: Values = {constant: (float(np.float32(t)),) for constant, t in fitted.values()}
        missing = [name for name, exit_ in plan.exits.items() if not exit_.ends and name not in fitted]
        if missing:
            notes.append(f"no temperature for {', '.join(missing)}: none is used there, or the logits are not given")
        if changed and inputs is not None:
            others = np.sort(np.concatenate([rows[name] for name in ("tune", "guarantee", "test")]))
            first = found.take(others)
            found = collect(
                with_constants(bundle, changed), inputs, labels, rows=first.row,
                file=_calibrated_file(record, changed), threads=threads, providers=providers, progress=progress,
            )  # fmt: skip
            _check_same_rows(first, found)
            check_record(found, plan, classes=classes)
            rows = {name: np.searchsorted(others, places) for name, places in rows.items()}
    return Evidence(
        record=found,
        first=first,
        tune=rows["tune"],
        guarantee=rows["guarantee"],
        test=rows["test"],
        rows=counts,
        by_label=parts.by_label,
        notes=tuple(notes),
    )


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


def _collected(
    bundle: Bundle,
    inputs: Data | None,
    labels: npt.ArrayLike | None,
    record: Record | str | os.PathLike[str] | None,
    *,
    threads: int | None,
    providers: Sequence[Provider],
    progress: Progress,
) -> Record:
    if inputs is None:
        if record is None:
            raise TuneError("nothing to tune by: pass inputs and labels, or a record")
        if isinstance(record, Record):
            check_whole(record, "this")
        found = record if isinstance(record, Record) else read_record(record)
        check_bundle(found, bundle.manifest)
        return found
    if isinstance(record, Record):
        raise TuneError("pass inputs or a record; with both, `record` is the file to save to")
    return collect(bundle, inputs, labels, file=record, threads=threads, providers=providers, progress=progress)
