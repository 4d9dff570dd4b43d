"""Random networks as ONNX files: small operators, shared weights, integers and booleans, and exits anywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir import tape

WIDTH = 6
_FLOAT, _INT, _BOOL = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.BOOL


def random_model(seed: int, path: Path) -> int:
    """Writes a random network with 1 to 5 exits to `path` and returns how many it has.

    Floats are of shape (batch, 6), so that any two fit; integers and booleans cross boundaries too. Some nodes are used
    by nobody, some values by many, some exits share a value or are the input of others.
    """
    rng = np.random.default_rng(seed)
    build = _Build(rng)
    for _ in range(rng.integers(5, 40)):
        build.step()
    count = int(rng.integers(1, 6))
    picks = rng.choice(len(build.floats) - build.inputs, count, replace=count > len(build.floats) - build.inputs)
    outputs = [build.floats[build.inputs + pick] for pick in picks]
    for value in outputs:
        build.graph.outputs.append(build.output(value))
    ir.save(ir.Model(build.graph, ir_version=10), path)
    return count


class _Build:
    """A graph that grows by random steps."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self.inputs = int(rng.integers(1, 3))
        names = ["x", "y"][: self.inputs]
        values = [ir.Value(name=name, type=ir.TensorType(_FLOAT), shape=ir.Shape(["batch", WIDTH])) for name in names]
        self.opset = int(rng.choice([13, 17, 18, 20]))
        self.graph = ir.Graph(values, [], nodes=[], opset_imports={"": self.opset}, name="random")
        self._tape = tape.Tape(self.graph)
        self.floats = list(values)
        self._ints: list[ir.Value] = []
        self._bools: list[ir.Value] = []
        self._weights = [
            self.constant(rng.normal(size=shape).astype(np.float32))
            for shape in ((WIDTH, WIDTH), (WIDTH, WIDTH), (WIDTH,), (64, WIDTH))
        ]

    def constant(self, array: np.ndarray) -> ir.Value:
        """Returns a new initializer."""
        return self._tape.initializer(ir.tensor(array, name=f"w{len(self.graph.initializers)}"))

    def op(self, op: str, *inputs: ir.Value, dtype: ir.DataType = _FLOAT, **attributes: object) -> ir.Value:
        """Returns the output of a new node."""
        return self._tape.op(op, inputs, attributes, output=ir.Value(name=f"v{len(self.graph)}"), version=self.opset)

    def output(self, value: ir.Value) -> ir.Value:
        """Returns the value, or a copy if it is an output already."""
        value.type, value.shape = ir.TensorType(_FLOAT), ir.Shape(["batch", WIDTH])
        if value in self.graph.outputs and self._rng.random() < 0.5:
            return self.output(self.op("Identity", value))
        return value if value not in self.graph.outputs else self.output(self.op("Neg", value))

    def any_float(self) -> ir.Value:
        """Returns a float made so far, late ones more often."""
        index = len(self.floats) - 1 - int(self._rng.exponential(4.0))
        return self.floats[max(index, 0)]

    def step(self) -> None:
        """Adds a node or two of a random kind."""
        kind = self._rng.integers(9)
        a, b = self.any_float(), self.any_float()
        match kind:
            case 0:
                self.floats.append(self.op(str(self._rng.choice(["Add", "Sub", "Mul"])), a, b))
            case 1 | 2:
                self.floats.append(self.op(str(self._rng.choice(["Relu", "Sigmoid", "Tanh", "Neg", "Abs"])), a))
            case 3:
                product = self.op("MatMul", a, self._weights[int(self._rng.integers(2))])
                self.floats.append(self.op("Tanh", self.op("Add", product, self._weights[2])))
            case 4:
                self._bools.append(self.op("Greater", a, b))
            case 5 if self._bools:
                self.floats.append(self.op("Where", self._bools[int(self._rng.integers(len(self._bools)))], a, b))
            case 6:
                top = self.op("ArgMax", a, axis=1, keepdims=0)
                self._ints.append(top)
            case 7 if self._ints:
                chosen = self._ints[int(self._rng.integers(len(self._ints)))]
                self.floats.append(self.op("Add", self.op("Gather", self._weights[3], chosen), a))
            case _:
                both = self.op("Concat", a, b, axis=1)
                half = self.constant(np.array([WIDTH, 2 * WIDTH], np.int64))
                ends = [self.op("Gather", half, self.constant(np.array([i], np.int64))) for i in range(2)]
                axes = self.constant(np.array([1], np.int64))
                self.floats.append(self.op("Slice", both, ends[0], ends[1], axes))
