"""What is refused of the user's rows, and what is remarked on, by the network's own answers to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import binom

from eetoolkit.adapting.rows import Rows
from eetoolkit.tuning.checks import check_classes, check_labels
from eetoolkit.tuning.remarks import is_guessing
from eetoolkit.tuning.splits import spread
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import ExportError, InputError, TuneError

Task = Literal["classes", "score", "several classes", "values", "dense"]
Run = Callable[[Mapping[str, Array]], Array]
"""From inputs, by name, to the network's output."""

LEAST_ROWS = 100
"""Below these, nothing can be fitted on some rows, chosen on others and told from still others."""
ENOUGH_ROWS = 500
ENOUGH_FOR_CLASS = 20
"""Rows that would do: as many in all, and for each class."""

_TRIED = 256  # rows that are run again with other pixels
_CHANCE = 0.01  # the probability of a rise as large from other pixels if they made no difference
_BY_MUCH = 0.1  # the rise in accuracy, of 1, that another order of classes must bring
_PERFECT = 0.999  # of 1, the accuracy that rows which a network was trained on have
_BLOCK = 1024  # rows that are looked at together
_SHOWN = 3
_INSTEAD = "attach heads of your own with ee.attach_exits, fit them with ee.fit_exits, and export with a criterion"
_REASONS: Mapping[Task, str] = {
    "score": "one score for each row; let it return two logits, (rows, 2), such as torch.cat([-s / 2, s / 2], 1)",
    "several classes": f"several classes for one row, and exits that add_exits makes tell one: {_INSTEAD} of yours",
    "values": f"values, which have no most probable one to be sure of: {_INSTEAD} of yours",
    "dense": f"an answer at every position, and exits that add_exits makes give one for a row: {_INSTEAD} of yours",
}


def recognise(outputs: Array, labels: Array | None) -> Task:
    """Returns what a network does, by its output (rows, ...) and the labels, where there are any."""
    if outputs.ndim > 2 or (labels is not None and labels.ndim > 2):
        return "dense"
    fractions = labels is not None and labels.dtype.kind == "f" and not np.equal(labels, np.round(labels)).all()
    if fractions and labels is not None and not (labels.ndim == 2 and _are_shares(labels)):
        return "values"
    if outputs.ndim == 1 or outputs.shape[1] == 1:
        return "score" if labels is None or len(np.unique(labels)) <= 2 else "values"
    if labels is not None:
        marks = labels.ndim == 2 and labels.shape[1] > 1 and bool(np.isin(labels, (0, 1)).all())
        return "several classes" if marks and not (labels.sum(1) == 1).all() else "classes"
    return "several classes" if _are_sigmoid(outputs) else "classes"


def check_task(outputs: Array, labels: Array | None) -> None:
    """Refuses a network whose output does not tell one of several classes, and says what to do instead.

    Raises:
        ExportError: Its output is (rows, classes) of something else.
    """
    task = recognise(outputs, labels)
    if task != "classes":
        raise ExportError(f"the network's output, {_spelled(outputs)}, is {_REASONS[task]}")


def check_rows(rows: Rows, outputs: Array, run: Run | None = None) -> tuple[str, ...]:
    """Refuses rows that would give exits without meaning, and returns what the user must know of the others.

    Args:
        rows: The rows.
        outputs: The network's own output for them, (rows, classes).
        run: Runs some rows again, their pixels scaled otherwise; None: that is not tried.

    Raises:
        ExportError: See `check_task`.
        InputError: Too few rows, NaN, or pixels of another scale than the network takes.
        TuneError: Labels that are no classes, all the same, or not those of these rows.
    """
    check_finite(rows, outputs)
    labels = rows.labels
    check_task(outputs, labels)
    classes = outputs.shape[1]
    check_enough(len(rows), classes)
    notes = [*_few(len(rows), classes), *_missing(rows)]
    if labels is None:
        return tuple(notes)
    if labels.ndim == 2 and labels.shape[1] == classes:
        raise TuneError(f"labels are {_spelled(labels)}, one column for each class; convert them: labels.argmax(1)")
    check_labels(labels)
    check_classes(labels, classes)
    right = outputs.argmax(1) == labels
    guessing = is_guessing(int(right.sum()), len(right), classes)
    if run is not None:
        check_pixels(rows, right, run)
    order = list(in_another_order(outputs.argmax(1), labels, classes))
    if guessing:
        found = f"the network is right for {right.sum()} of {len(right)} rows, no more than by guessing among {classes}"
        why = order[0] if order else "do they belong to these rows, and are they in the network's order?"
        raise TuneError(f"{found} classes: {why}")
    return (*notes, *order, *_flattering(right))


def check_enough(rows: int, classes: int) -> None:
    """Refuses rows of which no part could be spared.

    Raises:
        InputError: Says how many would do.
    """
    if rows < LEAST_ROWS:
        raise InputError(
            f"{rows} rows are too few: heads are fitted on some, exits chosen on others, and figures are of still "
            f"others; {enough_for(classes)} would do"
        )


def enough_for(classes: int) -> int:
    """Returns how many rows would do."""
    return max(ENOUGH_ROWS, ENOUGH_FOR_CLASS * classes)


def check_finite(rows: Rows, outputs: Array) -> None:
    """Refuses a network that answers NaN or infinity.

    Raises:
        InputError: Names the first row, and whether its inputs hold NaN.
    """
    bad = np.flatnonzero(~np.isfinite(outputs).reshape(len(outputs), -1).all(axis=1))
    if not len(bad):
        return
    first = rows.take([bad[0]])
    lacking = [name for name, array in first.inputs.items() if not _is_finite(array)]
    why = f"whose input {lacking[0]!r} holds NaN or infinity" if lacking else "whose inputs are finite"
    fix = "leave these rows out" if lacking else "look at the network in evaluation mode"
    raise InputError(f"the network answers NaN or infinity for {len(bad)} rows, first row {bad[0]}, {why}; {fix}")


def check_pixels(rows: Rows, right: Array, run: Run) -> None:
    """Refuses pixels of 0 to 255 where the network takes 0 to 1, or the reverse, if its accuracy tells (a sign test).

    Args:
        rows: The rows, with labels.
        right: Whether the network is right, (rows,).
        run: Runs some of them again.

    Raises:
        InputError: Both accuracies.
    """
    tried = spread(len(rows), _TRIED)
    some = rows.take(tried)
    found = _other_scale(some)
    if found is None:
        return
    name, factor, said = found
    inputs = dict(some.inputs)
    inputs[name] = (some.inputs[name] * factor).astype(some.inputs[name].dtype)
    before, after = right[tried], run(inputs).argmax(1) == some.labels
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    if gained > lost and binom.sf(gained - 1, gained + lost, 1 / 2) < _CHANCE:
        raise InputError(
            f"input {name!r} is not scaled as in training: the network is right for {before.sum()} of {len(tried)} "
            f"rows, and for {after.sum()} {said}; scale all rows so"
        )


def in_another_order(predicted: Array, labels: Array, classes: int) -> Iterator[str]:
    """Yields that labels numbered otherwise would agree with the network, if that explains much.

    Args:
        predicted: The network's classes, (rows,).
        labels: The labels, (rows,).
        classes: How many classes the network has.
    """
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    own, theirs = linear_sum_assignment(counts, maximize=True)
    before, after = np.trace(counts) / len(labels), counts[own, theirs].sum() / len(labels)
    moved = [(a, b) for a, b in zip(own, theirs, strict=True) if a != b and counts[a].sum()]
    if len(labels) < ENOUGH_FOR_CLASS * classes or after < 1 / 2 or after - before < _BY_MUCH or not moved:
        return
    shown = ", ".join(f"label {a} is mostly its class {b}" for a, b in moved[:_SHOWN])
    more = f" and {len(moved) - _SHOWN} more" if len(moved) > _SHOWN else ""
    yield (
        f"are the labels in the network's order? {shown}{more}; so numbered it is right for {after:.1%} of the rows, "
        f"not {before:.1%}"
    )


def _few(rows: int, classes: int) -> Iterator[str]:
    if rows < enough_for(classes):
        yield f"{rows} rows are few for {classes} classes: {enough_for(classes)} would fit better heads"


def _missing(rows: Rows) -> Iterator[str]:
    """Yields that inputs hold NaN, which the network takes since it answers."""
    for name, array in rows.inputs.items():
        if not _is_finite(array):
            yield f"input {name!r} holds NaN or infinity, and the network answers: heads are fitted on these rows too"


def _flattering(right: Array) -> Iterator[str]:
    if right.mean() >= _PERFECT:
        what = f"all {len(right)}" if right.all() else f"{right.sum()} of {len(right)}"
        yield (
            f"the network is right for {what} rows: if it was trained on them, the figures flatter it and its exits; "
            "pass rows that it has not seen"
        )


def _other_scale(rows: Rows) -> tuple[str, float, str] | None:
    """Returns the input that looks like pixels, by what to multiply it, and that in words."""
    for name, array in rows.inputs.items():
        if array.dtype.kind != "f" or array.ndim < 3 or array.min() < 0:
            continue
        if 1 < array.max() <= 255:
            return name, 1 / 255, "divided by 255"
        if 0 < array.max() <= 1:
            return name, 255, "times 255"
    return None


def _are_shares(labels: Array) -> bool:
    """Whether labels are probabilities of the classes."""
    return bool((labels >= 0).all() and np.allclose(labels.sum(1), 1, atol=1e-3))


def _are_sigmoid(outputs: Array) -> bool:
    """Whether outputs are probabilities, each of its own class."""
    inside = bool(((outputs > 0) & (outputs < 1)).all())
    return inside and not np.allclose(outputs.sum(1), 1, atol=1e-2)


def _is_finite(array: Array) -> bool:
    if array.dtype.kind != "f":
        return True
    starts = range(0, len(array), _BLOCK)  # a whole array on disk may be more than memory holds
    return all(bool(np.isfinite(array[start : start + _BLOCK]).all()) for start in starts)


def _spelled(array: Array) -> str:
    return f"{array.dtype}{list(array.shape)}"
