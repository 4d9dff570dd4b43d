"""What tuning refuses: labels and confidences that would make figures without meaning."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eetoolkit.tuning.calibrate import temperatures_of
from eetoolkit.tuning.record import NO_EXIT, Record
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import TuneError
from eetoolkit_runtime.plan.types import Manifest


def check_record(record: Record, plan: Manifest, *, classes: bool) -> None:
    """Refuses labels that are no classes of the network, confidences that are NaN, and temperatures of 0 or less.

    Args:
        record: What was collected.
        plan: The bundle's, which says where the exits' class scores are.
        classes: Whether labels are classes; else a metric reads them.

    Raises:
        TuneError: Says which rows.
    """
    for name, temperature in temperatures_of(plan, record.constants).items():
        if temperature <= 0:
            raise TuneError(f"{name}: the temperature is {temperature:g}, expected a number above 0")
    met = record.exit != NO_EXIT
    for e, name in enumerate(record.exits):
        bad = np.flatnonzero((np.isnan(record.confidence) & (record.exit == e) & met).any(axis=1))
        if len(bad):
            raise TuneError(
                f"{name}: the confidence of {len(bad)} rows is NaN, first of row {record.row[bad[0]]}; look at these "
                "inputs, or leave them out"
            )
    if not classes:
        return
    label = record.label
    check_labels(label)
    check_classes(label, _classes(record, plan), record.row)


def check_labels(label: Array) -> None:
    """Refuses labels that are no classes of several, whatever the network.

    Raises:
        TuneError: What they are.
    """
    if label.ndim != 1 or label.dtype.kind not in "iu":
        whole = label.dtype.kind == "b" or (label.dtype.kind == "f" and bool(np.equal(label, np.round(label)).all()))
        steps = [".reshape(-1)"] * (label.ndim > 1 and label.size == len(label)) + [".astype('int64')"] * whole
        fix = f"; convert them: labels{''.join(steps)}" if steps else ""
        raise TuneError(f"labels are {label.dtype}{list(label.shape)}, expected one integer for each row{fix}")
    if len(np.unique(label)) == 1:
        raise TuneError(
            f"all {len(label)} labels are {label[0]}: figures of one class say nothing; pass rows of several"
        )


def check_classes(label: Array, count: int | None, rows: Array | None = None) -> None:
    """Refuses labels that are no classes of this network.

    Args:
        label: Integers, (N,).
        count: How many classes it tells apart; None: nobody knows.
        rows: The rows' numbers; None: counted from 0.

    Raises:
        TuneError: Says which row's.
    """
    wrong = np.flatnonzero((label < 0) | (label >= (np.inf if count is None else count)))
    if not len(wrong):
        return
    where = "at least 0" if count is None else f"0 to {count - 1}"
    from_one = label.min() == 1 and label.max() == count
    fix = "; they seem to be counted from 1: labels - 1" if from_one else ""
    row = wrong[0] if rows is None else rows[wrong[0]]
    raise TuneError(f"label {label[wrong[0]]} of row {row} is no class; expected {where}{fix}")


def _classes(record: Record, plan: Manifest) -> int | None:
    """Returns how many classes the exits tell apart; None where their outputs do not say."""
    counts = [2 if _is_single(scores) else int(scores.shape[2]) for scores in _class_scores(record, plan)]
    return max(counts, default=None)


def _class_scores(record: Record, plan: Manifest) -> Iterator[Array]:
    """Yields the class scores of each exit, (N, V, C), or where it has one score, (N, V) or with sizes of 1 behind."""
    for exit_ in plan.exits.values():
        scores = None if exit_.scores is None else record.outputs.get(exit_.scores.output)
        if scores is not None and (scores.ndim == 3 or _is_single(scores)):
            yield scores


def _is_single(scores: Array) -> bool:
    return all(size == 1 for size in scores.shape[2:])
