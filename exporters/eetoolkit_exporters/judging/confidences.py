"""The criteria that look at one exit alone, as ONNX nodes; `criteria` has the formulas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from eetoolkit_exporters.judging.builder import Builder
from eetoolkit_exporters.judging.criteria import FLOOR
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.plan import Criterion

_LOWEST = float(np.finfo(np.float32).min)
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)


@dataclass(frozen=True)
class Scores:
    """An exit's class scores, float of shape (batch, ..., classes, ...), and how they are read."""

    value: ir.Value
    shape: ir.Shape
    criterion: Criterion
    axis: int
    classes: int


def class_scores(exit_name: str, value: ir.Value, criterion: Criterion, kind: str) -> Scores:
    """Returns an exit's scores, checked, for a criterion of `kind`.

    Raises:
        ExportError: Scores without a class dimension of fixed size, at least 2.
    """
    shape = value.shape
    check_float(exit_name, value, kind)
    if shape is None or len(shape) < 2 or not -len(shape) <= criterion.axis < len(shape) or criterion.axis == 0:
        raise ExportError(
            f"exit {exit_name!r}: {kind} reads shape {shape}, expected (batch, classes, ...) with the "
            f"classes at axis {criterion.axis}"
        )
    axis = criterion.axis % len(shape)
    classes = shape[axis]
    if not isinstance(classes, int) or classes < 2:
        raise ExportError(
            f"exit {exit_name!r}: {kind} reads shape {shape}: the class dimension, axis {axis}, must be a "
            "fixed number of at least 2"
        )
    return Scores(value, shape, criterion, axis, classes)


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
    """Appends `max_prob`, `entropy` or `margin`; one value per row, of shape (batch,)."""
    z = _logits(build, scores, temperature)
    criterion = scores.criterion
    if criterion.kind == "margin":
        two = build.top_values(build("Softmax", z, axis=-1), build.constant([2], np.int64))
        first = build("Gather", two, build.constant(0, np.int64), axis=-1)
        found = build("Sub", first, build("Gather", two, build.constant(1, np.int64), axis=-1))
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

    Returns:
        It, int64 of shape (batch,), and where it is -1, bool of shape (batch,).
    """
    bad = build("IsNaN", max_prob(build, _logits(build, scores, None)))
    largest = build("ArgMax", as_float(build, scores.value), axis=1, keepdims=0)
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


def _logits(build: Builder, scores: Scores, temperature: ir.Value | None) -> ir.Value:
    """Appends z / T up to a constant a row, float32, the classes at the last axis."""
    z = as_float(build, scores.value)
    if scores.criterion.scale == "logits":  # before Cast and Div, whose rounding grows with the logits' size
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
    """From one confidence per position to one per row."""
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
