"""The criteria that look at one exit alone, as ONNX nodes; `reference` has the formulas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from eetoolkit_exporters.criteria.builder import Builder
from eetoolkit_exporters.criteria.reference import FLOOR
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.plan.types import Criterion

_LOWEST = float(np.finfo(np.float32).min)
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)


@dataclass(frozen=True)
class Scores:
    """An exit's class scores, float of shape (batch, ..., classes, ...), and how they are read.

    Attributes:
        value: As the network gives them.
        shape: The shape of `value`; for a `single` score that of two classes.
        criterion: How they are read.
        axis: Where `shape` has the classes, from 0.
        classes: How many.
        single: Whether it is one score, for two classes.
    """

    value: ir.Value
    shape: ir.Shape
    criterion: Criterion
    axis: int
    classes: int
    single: bool = False


def class_scores(exit_name: str, value: ir.Value, criterion: Criterion, kind: str) -> Scores:
    """Returns an exit's scores, checked, for a criterion of `kind`.

    Raises:
        ExportError: Scores without a class dimension of fixed size.
    """
    shape = value.shape
    check_float(exit_name, value, kind)
    if shape is not None and len(shape) > 0 and all(dim == 1 for dim in list(shape)[1:]):
        return Scores(value, ir.Shape([shape[0], 2]), criterion, 1, 2, single=True)
    if shape is None or len(shape) < 2 or not -len(shape) <= criterion.axis < len(shape) or criterion.axis == 0:
        raise ExportError(
            f"exit {exit_name!r}: {kind} reads shape {shape}, expected (batch, classes, ...) with the "
            f"classes at axis {criterion.axis}"
        )
    axis = criterion.axis % len(shape)
    classes = shape[axis]
    if not isinstance(classes, int) or classes < 1:
        raise ExportError(
            f"exit {exit_name!r}: {kind} reads shape {shape}: the class dimension, axis {axis}, must be a fixed "
            "number; what is no exit, as a state, is returned beside the logits, {'logits': ..., 'state': ...}, or "
            "left out by exits="
        )
    if classes == 1:
        dims = [2 if place == axis else dim for place, dim in enumerate(shape)]
        return Scores(value, ir.Shape(dims), criterion, axis, 2, single=True)
    return Scores(value, shape, criterion, axis, classes)


def class_count(value: ir.Value, criterion: Criterion) -> int | None:
    """Returns how many classes an exit's scores tell apart; None where they are no class scores."""
    try:
        return class_scores("", value, criterion, criterion.kind).classes
    except ExportError:
        return None


def check_float(exit_name: str, value: ir.Value, kind: str) -> None:
    """Refuses values that are no floating-point numbers.

    Raises:
        ExportError: Names them.
    """
    if value.dtype not in _FLOATS:
        raise ExportError(
            f"exit {exit_name!r}: {kind} reads {value.dtype}, expected floating-point scores; if it is no "
            "exit, leave it out: exits=[...]"
        )


def confidence(build: Builder, scores: Scores, temperature: ir.Value) -> ir.Value:
    """Appends `max_prob`, `entropy` or `margin`; one value per row, of shape (batch,).

    Of float32 logits z / T is rounded to float32, so that each may be off by half a unit in its last place: nothing at
    T = 1, else 4e-6 at |z / T| = 100 and 5e-4 at 10,000. Where z / T overflows the confidence is NaN.
    """
    z = _logits(build, scores, temperature)
    criterion = scores.criterion
    if criterion.kind == "margin":
        two = build.top_values(build("Softmax", z, axis=-1), build.constant([2], np.int64))
        found = build("MatMul", two, build.constant([1, -1]))
    elif criterion.kind == "entropy":
        log_p = build("LogSoftmax", z, axis=-1)
        finite = build("Max", log_p, build.constant(_LOWEST))  # 0 * -inf is NaN; 0 * lowest is 0
        terms = build("Mul", build("Softmax", z, axis=-1), finite)
        total = build("ReduceSum", terms, build.constant([-1], np.int64), keepdims=0)
        found = build("Add", build("Mul", total, build.constant(1 / np.log(scores.classes))), build.constant(1.0))
    else:
        found = max_prob(build, z)
    return _reduce_positions(build, found, criterion.quantile) if len(scores.shape) > 2 else found


def max_prob(build: Builder, z: ir.Value) -> ir.Value:
    """Appends the largest of softmax(z) over the last axis."""
    return build.reduce("ReduceMax", build("Softmax", z, axis=-1), -1)


def log_p(build: Builder, scores: Scores, temperature: ir.Value) -> ir.Value:
    """Appends log softmax(z / T), finite or NaN, float32 of shape (batch, classes)."""
    found = build("LogSoftmax", _logits(build, scores, temperature), axis=-1)
    return build("Max", found, build.constant(FLOOR))


def class_of(build: Builder, scores: Scores) -> tuple[ir.Value, ir.Value]:
    """Appends the argmax of scores (batch, classes), the first among equals; -1 where they are no distribution.

    Of one score it is 1 at one half.

    Returns:
        The class, int64 of shape (batch,), and whether it is -1, bool of shape (batch,).
    """
    bad = build("IsNaN", max_prob(build, _logits(build, scores, None)))
    largest = build("ArgMax", _classes(build, scores), axis=1, keepdims=0, select_last_index=int(scores.single))
    largest.shape = bad.shape
    return build.called("class", build("Where", bad, build.constant(-1, np.int64), largest)), bad


def learned(build: Builder, exit_name: str, value: ir.Value, *, invert: bool) -> ir.Value:
    """Appends a confidence that the network computes itself, shape (batch,).

    Raises:
        ExportError: It is not one floating-point number per row.
    """
    found = numbers(build, exit_name, value, "learned")
    if value.dtype == ir.DataType.DOUBLE:
        found = build("Cast", found, to=int(ir.DataType.FLOAT))
    return build("Sub", build.constant(1.0), found) if invert else found


def numbers(build: Builder, exit_name: str, value: ir.Value, kind: str) -> ir.Value:
    """Appends an output of one number per row as float32 or float64 of shape (batch,).

    Raises:
        ExportError: It is not one floating-point number per row.
    """
    check_float(exit_name, value, kind)
    if value.shape is None or len(value.shape) == 0 or any(dim != 1 for dim in list(value.shape)[1:]):
        raise ExportError(
            f"exit {exit_name!r}: {kind} reads shape {value.shape}, expected one number a row, (batch, 1)"
        )
    found = build("Reshape", as_float(build, value), build.constant([-1], np.int64))
    found.shape = ir.Shape([value.shape[0]])
    return found


def as_float(build: Builder, value: ir.Value) -> ir.Value:
    """Appends a cast from half precision, which few operators take."""
    return value if value.dtype != ir.DataType.FLOAT16 else build("Cast", value, to=int(ir.DataType.FLOAT))


def shaped_like(build: Builder, found: ir.Value, value: ir.Value) -> ir.Value:
    """Appends one number a row, (batch, 1), in the shape in which `value` has one a row."""
    rank = len(value.shape or (None, 1))
    if rank != 2:
        found = build("Reshape", found, build.constant([-1, *[1] * (rank - 1)], np.int64))
    found.shape = value.shape
    return found


def _classes(build: Builder, scores: Scores) -> ir.Value:
    """Appends scores of two classes or more, on their scale, float32 or float64; `scores.two_classes` in numpy."""
    z, rank = as_float(build, scores.value), len(scores.shape)
    if not scores.single:
        return z
    if len(z.shape or ()) != rank:
        z = build("Reshape", z, build.constant([-1, 1], np.int64))
        z.shape = ir.Shape([scores.shape[0], 1])
    exact = np.float64 if z.dtype == ir.DataType.DOUBLE else np.float32
    along = [2 if place == scores.axis else 1 for place in range(rank)]

    def pair(no: float, yes: float) -> ir.Value:
        return build.constant(np.reshape([no, yes], along), exact)

    match scores.criterion.scale:
        case "logits":  # [0, z] less the larger of the two, so that an infinite logit is certain
            return build("Min", build("Mul", z, pair(-1, 1)), build.constant(0.0, exact))
        case "probs":
            return build("Add", build("Mul", z, pair(-1, 1)), pair(1, 0))
        case "log_probs":
            return _with_rest(build, z, scores, exact)


def _with_rest(build: Builder, z: ir.Value, scores: Scores, exact: type[np.generic]) -> ir.Value:
    """Appends log(1 - p) beside z = log p; 1 - p is tanh(-z / 2) (1 + e^z), since 1 - e^z keeps nothing near p = 1."""
    half = build("Tanh", build("Mul", z, build.constant(-0.5, exact)))
    rest = build("Mul", half, build("Add", build("Exp", z), build.constant(1.0, exact)))
    rest = build("Log", build("Max", rest, build.constant(0.0, exact)))  # z may be rounded to more than 0
    found = build("Concat", rest, z, axis=scores.axis)
    found.shape = scores.shape
    return found


def _logits(build: Builder, scores: Scores, temperature: ir.Value | None) -> ir.Value:
    """Appends z / T up to a constant a row, float32, the classes at the last axis."""
    z = _classes(build, scores)
    if scores.criterion.scale == "logits" and not scores.single and scores.value.dtype != ir.DataType.FLOAT:
        # before Cast and Div, whose rounding grows with z; onnxruntime's Softmax subtracts the largest itself
        z = build("Sub", z, build.reduce("ReduceMax", z, scores.axis, keepdims=1))
    if scores.value.dtype == ir.DataType.DOUBLE:
        z = build("Cast", z, to=int(ir.DataType.FLOAT))
    if scores.criterion.scale == "probs":
        z = build("Log", build("Max", z, build.constant(0.0)))  # rounding may leave less than 0
    if temperature is not None:
        z = build("Div", z, temperature)
    rank = len(scores.shape)
    if scores.axis != rank - 1:  # softmax and top-k over the last axis are onnxruntime's fast ones
        last = [*(i for i in range(rank) if i != scores.axis), scores.axis]
        dims = [scores.shape[i] for i in last]
        z = build("Transpose", z, perm=last)
        z.shape = ir.Shape(dims)
    return z


def _reduce_positions(build: Builder, found: ir.Value, quantile: float | None) -> ir.Value:
    """Appends the mean or a quantile over positions: one confidence per row."""
    flat = build("Reshape", found, build.constant([0, -1], np.int64))
    mean = build.reduce("ReduceMean", flat, 1)
    if quantile is None:
        return mean
    count = build("Gather", build("Shape", flat), build.constant([1], np.int64))
    last = build("Cast", build("Sub", count, build.constant([1], np.int64)), to=int(ir.DataType.DOUBLE))
    index = build("Floor", build("Mul", last, build.constant(quantile, np.float64)))
    index = build("Cast", index, to=int(ir.DataType.INT64))
    lowest = build.top_values(flat, build("Add", index, build.constant([1], np.int64)), largest=0)
    chosen = build("Squeeze", build("Gather", lowest, index, axis=1), build.constant([1], np.int64))
    return build("Where", build("IsNaN", mean), mean, chosen)  # TopK sorts NaN anywhere
