"""Values behind operators of other domains than ONNX's: onnx knows no dtypes and shapes of them, onnxruntime does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from eetoolkit_exporters.capturing.shapes import dims_of, infer_shapes
from eetoolkit_exporters.graph import captured
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import ExportError

_OWN = {"", "ai.onnx.ml"}
_DTYPES = {
    "float": ir.DataType.FLOAT, "double": ir.DataType.DOUBLE, "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16, "bool": ir.DataType.BOOL, "string": ir.DataType.STRING,
    **{name: ir.DataType[name.upper()] for bits in (4, 8, 16, 32, 64) for name in (f"int{bits}", f"uint{bits}")},
}  # fmt: skip

Sizes = tuple[int, ...]
Dims = list[int | str | None]


def ask_onnxruntime(model: ir.Model, example: Mapping[str, Array], folder: Path) -> None:
    """Gives values their dtypes and shapes where operators of other domains stand before them.

    Where onnxruntime infers no size either, the network is run on the example, and once more for each symbol of the
    inputs with that dimension twice as large: what grows with it has its name.

    Args:
        model: Tidy, names unique.
        example: The inputs.
        folder: Where the model's external data is.

    Raises:
        ExportError: onnxruntime fails on it.
    """
    symbols = {dim.value for value in model.graph.inputs for dim in value.shape or () if not isinstance(dim, int)}
    for graph in model.graphs():
        if all(node.domain in _OWN for node in graph):
            continue
        unknown = [value for node in graph for value in node.outputs if value.name and not _is_known(value, symbols)]
        outside = [] if graph is model.graph else captured(graph)
        given = [*(value for value in outside if not value.is_initializer()), *graph.inputs]
        if not unknown or any(value.dtype is None for value in given):
            continue
        session = _session(model, graph, given, outside, unknown, folder)
        told = {found.name: found for found in session.get_outputs()}
        grown = _Grown(session, model.graph, example) if graph is model.graph else None
        for value in unknown:
            found = told[str(value.name)]
            dtype = _DTYPES.get(found.type.removeprefix("tensor(").removesuffix(")"))
            if dtype is not None:
                value.dtype = dtype
                dims = [dim if isinstance(dim, int) or dim in symbols else None for dim in found.shape]
                _complete(value, dims, grown, symbols)
        infer_shapes(model)


def _is_known(value: ir.Value, symbols: set[str | None]) -> bool:
    shape = value.shape
    return value.dtype is not None and shape is not None and all(_is_size(dim, symbols) for dim in shape)


def _is_size(dim: int | ir.SymbolicDim, symbols: set[str | None]) -> bool:
    return isinstance(dim, int) or (dim.value is not None and dim.value in symbols)


def _session(
    model: ir.Model,
    graph: ir.Graph,
    given: Sequence[ir.Value],
    outside: Sequence[ir.Value],
    wanted: Sequence[ir.Value],
    folder: Path,
) -> ort.InferenceSession:
    """Returns a session of one level of the model whose outputs are the wanted values."""
    weights = [*graph.initializers.values(), *(value for value in outside if value.is_initializer())]
    view = ir.GraphView(list(given), [], nodes=tuple(graph), initializers=weights, name="level")
    level = view.clone()
    level.opset_imports.update(model.opset_imports)
    proto = ir.to_proto(ir.Model(level, ir_version=model.ir_version))
    proto.graph.output.extend(onnx.ValueInfoProto(name=value.name) for value in wanted)
    options = ort.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL, 3
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    try:
        return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(
            f"onnxruntime cannot say what its own operators give: {' '.join(str(error).split())}"
        ) from error


class _Grown:
    """The sizes of all outputs on the example, and with each symbol of the inputs twice as large."""

    def __init__(self, session: ort.InferenceSession, graph: ir.Graph, example: Mapping[str, Array]) -> None:
        named: dict[str, list[tuple[str, int]]] = {}
        for value in graph.inputs:
            for axis, dim in enumerate(value.shape or ()):
                if not isinstance(dim, int) and dim.value is not None:
                    named.setdefault(dim.value, []).append((str(value.name), axis))
        self._usual = _sizes(session, example)
        self._of_symbol = {name: example[places[0][0]].shape[places[0][1]] for name, places in named.items()}
        self._twice: dict[str, dict[str, Sizes] | None] = {}
        for name, places in named.items():
            larger = dict(example)
            for key, axis in places:
                larger[key] = np.concatenate([larger[key]] * 2, axis)
            self._twice[name] = _sizes(session, larger)

    def dims(self, name: str) -> Dims | None:
        """Returns an output's sizes: numbers, symbols, None where neither is certain; None where the example fails."""
        if self._usual is None:
            return None
        return [self._dim(name, axis, size) for axis, size in enumerate(self._usual[name])]

    def _dim(self, name: str, axis: int, size: int) -> int | str | None:
        changed = [
            symbol
            for symbol, found in self._twice.items()
            if found is None or len(found[name]) <= axis or found[name][axis] != size
        ]
        if not changed:
            return size
        only = changed[0]
        found = self._twice[only]
        same = found is not None and found[name][axis : axis + 1] == (2 * size,) and size == self._of_symbol[only]
        return only if len(changed) == 1 and same else None


def _sizes(session: ort.InferenceSession, inputs: Mapping[str, Array]) -> dict[str, Sizes] | None:
    names = [value.name for value in session.get_outputs()]
    try:
        found = session.run(names, {value.name: inputs[value.name] for value in session.get_inputs()})
    except Exception:  # noqa: BLE001 - onnxruntime raises what it likes; a size that may not grow is no error
        return None
    return {name: np.shape(array) for name, array in zip(names, found, strict=True)}


def _complete(value: ir.Value, told: Dims, grown: _Grown | None, symbols: set[str | None]) -> None:
    """Gives a value its shape: sizes that it has, then those that onnxruntime infers, then those that were seen."""
    seen = grown.dims(str(value.name)) if grown is not None else None
    if seen is not None and len(told) != len(seen):  # onnxruntime says [] also where it does not know
        told = seen
    elif seen is not None:
        told = [a if a is not None else b if isinstance(b, str) else None for a, b in zip(told, seen, strict=True)]
    own = value.shape
    if own is not None and len(own) == len(told):
        known = dims_of(own)
        told = [a if _is_size(dim, symbols) else b for dim, a, b in zip(own, known, told, strict=True)]
    if told or seen is not None or own is not None:
        value.shape = ir.Shape(told)
