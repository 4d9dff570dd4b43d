"""The dimensions of an `.onnx` file under names of our own: the rows `batch`, the others safe and all different."""

from __future__ import annotations

import onnx_ir as ir

from eetoolkit_exporters.capturing.onnx_source import OnnxSource
from eetoolkit_exporters.capturing.row_axes import Axes, prove_rows
from eetoolkit_exporters.capturing.shapes import dims_of
from eetoolkit_exporters.capturing.symbols import Dim, is_named, rename_symbols, safe
from eetoolkit_exporters.graph import fresh
from eetoolkit_runtime.running.inputs import BATCH

_ROWS = {"batch", "batch_size", "batchsize", "batch size", "n_batch", "num_batch", "bs"}
"""What exporters call the rows, in small letters."""

Shapes = dict[str, list[Dim]]
"""For each input its sizes, and names where these vary; every dimension without a name has one of its own."""


def name_symbols(model: ir.Model, source: OnnxSource) -> None:
    """Renames the dimensions of the whole graph."""
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    shapes = {str(value.name): _sizes(value) for value in inputs}
    axes = _rows(shapes, source)
    rows = {dim for name, axis in axes.items() if axis is not None and isinstance(dim := shapes[name][axis], str)}
    used = {BATCH}
    symbols = dict.fromkeys(dim for shape in shapes.values() for dim in shape if isinstance(dim, str))
    names: dict[str, Dim] = {symbol: BATCH if symbol in rows else fresh(safe(symbol), used) for symbol in symbols}
    rename_symbols(model.graph, names)
    for function in model.functions.values():
        rename_symbols(function.graph, {})
    for value in inputs:
        if value.shape is not None:
            value.shape = ir.Shape([names[dim] if isinstance(dim, str) else dim for dim in shapes[str(value.name)]])


def _sizes(value: ir.Value) -> list[Dim]:
    found: list[Dim] = []
    for axis, size in enumerate(dims_of(value.shape)):
        named = isinstance(size, str) and is_named(size)
        found.append(size if named or (isinstance(size, int) and size > 0) else f"{value.name}_{axis}")
    return found


def _rows(shapes: Shapes, source: OnnxSource) -> Axes:
    """Returns where the rows lie: as the file calls them, else at the first dimensions, if these prove to be rows."""
    usual, *others = _choices(shapes)
    called = [name for name, axis in usual.items() if axis is not None and str(shapes[name][axis]).lower() in _ROWS]
    if len(called) == len(shapes) or not others or not any(axis is not None for axis in usual.values()):
        return usual
    return prove_rows(source, [usual, *others]) or usual


def _choices(shapes: Shapes) -> list[Axes]:
    usual: dict[str, int | None] = {
        name: 0 if shape and isinstance(shape[0], str) else None for name, shape in shapes.items()
    }
    symbols = dict.fromkeys(dim for shape in shapes.values() for dim in shape if isinstance(dim, str))
    ordered = sorted(symbols, key=lambda symbol: symbol.lower() not in _ROWS)
    alone = [
        {name: shape.index(symbol) if symbol in shape else None for name, shape in shapes.items()} for symbol in ordered
    ]
    if ordered and ordered[0].lower() in _ROWS:
        usual = {name: usual[name] if axis is None else axis for name, axis in alone[0].items()}
    choices = [usual, *alone]
    return [axes for number, axes in enumerate(choices) if axes not in choices[:number]]
