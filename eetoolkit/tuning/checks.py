"""What tuning refuses: labels and confidences that would make figures without meaning."""

from __future__ import annotations

import numpy as np

from eetoolkit.tuning.record import NO_EXIT, Record
from eetoolkit_runtime.errors import TuneError


def check_record(record: Record, *, classes: bool) -> None:
    """Refuses labels that are no classes of the network, and confidences that are NaN.

    Args:
        record: What was collected.
        classes: Whether labels are classes; else a metric reads them.

    Raises:
        TuneError: Says which rows.
    """
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
    if label.ndim != 1 or label.dtype.kind not in "iu":
        raise TuneError(f"labels are {label.dtype}{list(label.shape)}, expected one integer for each row")
    count = _classes(record)
    wrong = np.flatnonzero((label < 0) | (label >= (np.inf if count is None else count)))
    if len(wrong):
        where = "at least 0" if count is None else f"0 to {count - 1}"
        raise TuneError(f"label {label[wrong[0]]} of row {record.row[wrong[0]]} is no class; expected {where}")
    if len(np.unique(label)) == 1:
        raise TuneError(
            f"all {len(label)} labels are {label[0]}: figures of one class say nothing; pass rows of several"
        )


def _classes(record: Record) -> int | None:
    """Returns how many classes the exits tell apart; None where their outputs do not say."""
    scores = record.outputs.get("logits")
    if scores is None and len(record.outputs) == 1:
        scores = next(iter(record.outputs.values()))
    return int(scores.shape[2]) if scores is not None and scores.ndim == 3 else None
