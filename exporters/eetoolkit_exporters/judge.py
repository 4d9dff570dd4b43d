"""Each exit's criterion as ONNX nodes in the graph, so that a device compares numbers and computes none.

`criteria` is the same in numpy, with the formulas and their sources.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import onnx_ir as ir
from onnx_ir import tape

from eetoolkit_exporters.capture import Network, NetworkExit
from eetoolkit_exporters.criteria import DEFAULT_THRESHOLD
from eetoolkit_exporters.source import LOGITS
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.plan import Criterion

CriterionSpec = str | Criterion | Mapping[str, "str | Criterion"]

_TINY = float(np.finfo(np.float32).tiny)
_LOWEST = float(np.finfo(np.float32).min)


def choose_criteria(exits: Sequence[NetworkExit], criterion: CriterionSpec) -> dict[str, Criterion]:
    """Returns each exit's criterion, with the output it reads written out where the exit has several.

    Raises:
        ExportError: An unknown criterion, exit or output.
    """
    names = [exit_.name for exit_ in exits]
    if isinstance(criterion, Mapping):
        if unknown := set(criterion) - set(names):
            raise ExportError(f"criterion names {sorted(unknown)}; the exits are {', '.join(names)}")
        per_exit = {name: criterion.get(name, "max_prob") for name in names}
    else:
        per_exit = dict.fromkeys(names, criterion)
    return {exit_.name: _resolve(exit_, per_exit[exit_.name]) for exit_ in exits}


def default_threshold(criterion: Criterion) -> float:
    """Returns the threshold of an exit whose user gave none."""
    return DEFAULT_THRESHOLD[criterion.kind]


def judge(network: Network, criteria: Mapping[str, Criterion]) -> dict[str, Criterion]:
    """Adds a `confidence`, float32 of shape (batch,), to every exit, and a temperature input to the graph.

    Returns:
        The criteria with the names of their temperatures, graph inputs of shape () that `emit` binds to constants.

    Raises:
        ExportError: Scores without a class dimension of fixed size, at least 2.
    """
    used = _names(network.graph)
    judged = {}
    for exit_ in network.exits:
        criterion = criteria[exit_.name]
        temperature = ir.Value(
            name=_fresh(f"{exit_.name}_temperature", used), type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([])
        )
        network.graph.inputs.append(temperature)
        network.temperatures[str(temperature.name)] = 1.0
        scores = exit_.outputs[criterion.output] if criterion.output else next(iter(exit_.outputs.values()))
        builder = _Builder(network.graph, opset_of(scores, network), f"{exit_.name}_", used)
        exit_.confidence = _append(builder, exit_, scores, criterion, temperature)
        judged[exit_.name] = msgspec.structs.replace(criterion, temperature=str(temperature.name))
    return judged


def _append(
    build: _Builder, exit_: NetworkExit, scores: ir.Value, criterion: Criterion, temperature: ir.Value
) -> ir.Value:
    shape, axis, classes = _class_axis(exit_, scores, criterion)
    z = scores if scores.dtype != ir.DataType.FLOAT16 else build("Cast", scores, to=int(ir.DataType.FLOAT))
    if criterion.scale == "logits":  # before Cast and Div, whose rounding grows with the logits' size
        z = build("Sub", z, build.reduce("ReduceMax", z, axis, keepdims=1))
    if scores.dtype == ir.DataType.DOUBLE:
        z = build("Cast", z, to=int(ir.DataType.FLOAT))
    if criterion.scale == "probs":
        z = build("Log", build("Max", z, build.constant(_TINY)))
    z = build("Div", z, temperature)
    if axis != len(shape) - 1:  # softmax and top-k over the last axis are onnxruntime's fast ones
        last = [*(i for i in range(len(shape)) if i != axis), axis]
        z = build("Transpose", z, perm=last)
    if criterion.kind == "max_prob":
        found = build.reduce("ReduceMax", build("Softmax", z, axis=-1), -1)
    elif criterion.kind == "margin":
        two = build.top(build("Softmax", z, axis=-1), build.constant([2], np.int64))
        first = build("Gather", two, build.constant(0, np.int64), axis=-1)
        found = build("Sub", first, build("Gather", two, build.constant(1, np.int64), axis=-1))
    else:
        log_p = build("LogSoftmax", z, axis=-1)
        finite = build("Max", log_p, build.constant(_LOWEST))  # 0 * -inf is NaN; 0 * lowest is 0
        terms = build("Mul", build("Softmax", z, axis=-1), finite)
        total = build("ReduceSum", terms, build.constant([-1], np.int64), keepdims=0)
        found = build("Add", build("Mul", total, build.constant(1 / np.log(classes))), build.constant(1.0))
    if len(shape) > 2:
        found = _reduce_positions(build, found, criterion.quantile)
    found.name = build.name("confidence")
    found.type, found.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([shape[0]])
    return found


def _reduce_positions(build: _Builder, found: ir.Value, quantile: float | None) -> ir.Value:
    """From one confidence per position to one per row."""
    flat = build("Reshape", found, build.constant([0, -1], np.int64))
    mean = build.reduce("ReduceMean", flat, 1)
    if quantile is None:
        return mean
    count = build("Gather", build("Shape", flat), build.constant([1], np.int64))
    last = build("Cast", build("Sub", count, build.constant([1], np.int64)), to=int(ir.DataType.DOUBLE))
    index = build("Floor", build("Mul", last, build.constant(quantile, np.float64)))
    index = build("Cast", index, to=int(ir.DataType.INT64))
    lowest = build.top(flat, build("Add", index, build.constant([1], np.int64)), largest=0)
    chosen = build("Squeeze", build("Gather", lowest, index, axis=1), build.constant([1], np.int64))
    return build("Where", build("IsNaN", mean), mean, chosen)  # TopK sorts NaN anywhere


class _Builder:
    """Appends nodes of one opset, with readable names."""

    def __init__(self, graph: ir.Graph, opset: int, prefix: str, used: set[str]) -> None:
        self._tape = tape.Tape(graph)
        self._opset = opset
        self._prefix = prefix
        self._used = used

    def __call__(self, op: str, *inputs: ir.Value, **attributes: int | Sequence[int]) -> ir.Value:
        """Returns the output of a new node."""
        output = ir.Value(name=self.name(op.lower()))
        return self._tape.op(
            op, inputs, dict(attributes), version=self._opset, output=output, name=f"node_{output.name}"
        )

    def constant(self, value: float | Sequence[int], dtype: type[np.generic] = np.float32) -> ir.Value:
        """Returns a new initializer."""
        name = self.name("constant")
        return self._tape.initializer(ir.tensor(np.array(value, dtype), name=name))

    def reduce(self, op: str, value: ir.Value, axis: int, keepdims: int = 0) -> ir.Value:
        """Reduces one axis away; its axes became an input in opset 18."""
        if self._opset < 18:
            return self(op, value, axes=[axis], keepdims=keepdims)
        return self(op, value, self.constant([axis], np.int64), keepdims=keepdims)

    def top(self, value: ir.Value, count: ir.Value, largest: int = 1) -> ir.Value:
        """Returns the `count` largest or smallest values of the last axis, sorted."""
        output = ir.Value(name=self.name("topk"))
        indices = ir.Value(name=self.name("topk_indices"))
        self._tape.op_multi_out(
            "TopK", (value, count), {"axis": -1, "largest": largest, "sorted": 1},
            outputs=[output, indices], version=self._opset, name=f"node_{output.name}",
        )  # fmt: skip
        return output

    def name(self, stem: str) -> str:
        """Returns a name that nothing in the graph has yet."""
        return _fresh(self._prefix + stem, self._used)


def _resolve(exit_: NetworkExit, spec: str | Criterion) -> Criterion:
    kinds = ", ".join(DEFAULT_THRESHOLD)
    if not isinstance(spec, str | Criterion) or (isinstance(spec, str) and spec not in DEFAULT_THRESHOLD):
        raise ExportError(f"exit {exit_.name!r}: criterion is {spec!r}, expected one of {kinds}, or an ee.Criterion")
    try:
        criterion = msgspec.convert({"kind": spec} if isinstance(spec, str) else msgspec.to_builtins(spec), Criterion)
    except msgspec.ValidationError as error:
        allowed = f"kinds: {kinds}; scales: logits, log_probs, probs"
        raise ExportError(f"exit {exit_.name!r}: criterion: {spec}: {error} ({allowed})") from error
    if criterion.temperature is not None:
        raise ExportError(f"exit {exit_.name!r}: criterion: temperature is named by the export; leave it out")
    if criterion.output is None and len(exit_.outputs) > 1:
        if LOGITS not in exit_.outputs:
            raise ExportError(
                f"exit {exit_.name!r} has the outputs {', '.join(exit_.outputs)} and none called {LOGITS!r}: say which "
                "one decides, Criterion(kind=..., output=...)"
            )
        criterion = msgspec.structs.replace(criterion, output=LOGITS)
    if criterion.output is not None and criterion.output not in exit_.outputs:
        raise ExportError(
            f"exit {exit_.name!r}: the criterion reads {criterion.output!r}; its outputs are {', '.join(exit_.outputs)}"
        )
    return criterion


def _class_axis(exit_: NetworkExit, scores: ir.Value, criterion: Criterion) -> tuple[ir.Shape, int, int]:
    shape = scores.shape
    if scores.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16):
        raise ExportError(
            f"exit {exit_.name!r}: {criterion.kind} reads {scores.dtype}, expected floating-point scores; if it is no "
            "exit, leave it out: exits=[...]"
        )
    if shape is None or len(shape) < 2 or not -len(shape) <= criterion.axis < len(shape) or criterion.axis == 0:
        raise ExportError(
            f"exit {exit_.name!r}: {criterion.kind} reads shape {shape}, expected (batch, classes, ...) with the "
            f"classes at axis {criterion.axis}"
        )
    axis = criterion.axis % len(shape)
    classes = shape[axis]
    if not isinstance(classes, int) or classes < 2:
        raise ExportError(
            f"exit {exit_.name!r}: {criterion.kind} reads shape {shape}: the class dimension, axis {axis}, must be a "
            "fixed number of at least 2"
        )
    return shape, axis, classes


def opset_of(value: ir.Value, network: Network) -> int:
    """Returns the opset of the stage that makes `value`: that of the nearest standard operator before it."""
    waiting, seen = [value], {value}
    while waiting:
        producer = waiting.pop(0).producer()
        if producer is not None and producer.domain == "" and producer.version is not None:
            return producer.version
        for source in producer.inputs if producer is not None else ():
            if source is not None and source not in seen:
                seen.add(source)
                waiting.append(source)
    return network.graph.opset_imports.get("", 20)


def _names(graph: ir.Graph) -> set[str]:
    names = {str(value.name) for value in (*graph.inputs, *graph.initializers.values())}
    return names | {str(value.name) for node in graph.all_nodes() for value in node.outputs}


def _fresh(stem: str, used: set[str]) -> str:
    name, number = stem, 1
    while name in used:
        number += 1
        name = f"{stem}_{number}"
    used.add(name)
    return name
