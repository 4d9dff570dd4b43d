"""The material of random programs: scopes of values that nest as graphs do, and straight-line steps between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
from onnx_ir import tape

WIDTH = 6
HIDDEN = 6000
"""The inner size of heavy layers: two matrices of 144,000 bytes each, together above the cost floor of 256 KiB."""
CASES = 4

# What values are there: rows, a flag or count for the whole call, rows of a width that depends on data, a gate per row.
FLOAT, FLAG, COUNT, WIDE, GATE = "float", "flag", "count", "wide", "gate"
DTYPES = {
    FLOAT: ir.DataType.FLOAT,
    FLAG: ir.DataType.BOOL,
    COUNT: ir.DataType.INT64,
    WIDE: ir.DataType.FLOAT,
    GATE: ir.DataType.FLOAT,
}
MARGINS = (0.037, -0.081, 0.137, -0.023, 0.0713)
"""What sums of values are compared with: no small sum of zeros and ones comes near."""

Step = Callable[["Scope"], None]


class Style(NamedTuple):
    """What a program may hold.

    Attributes:
        rows: Whether every value of a row depends on this row alone: no `If`, no `Loop`, no count or flag.
        batch: The inputs' leading dimension.
        heavy: How often a layer is a heavy one.
    """

    rows: bool
    batch: int | str
    heavy: float


class Draft:
    """What all scopes of a program share: its graph, its weights, and the record of what was put in."""

    def __init__(self, rng: np.random.Generator, style: Style, opset: int, inputs: int) -> None:
        self.rng, self.style, self.opset = rng, style, opset
        self.seen: Counter[str] = Counter()
        self.gates: list[ir.Value] = []
        self.nodes = self.number = self.constants = 0
        values = [ir.Value(name=f"x{i}", type=ir.TensorType(ir.DataType.FLOAT)) for i in range(inputs)]
        for value in values:
            value.shape = ir.Shape([style.batch, WIDTH])
        self.graph = ir.Graph(values, [], nodes=[], opset_imports={"": opset}, name="program")
        self.top = tape.Tape(self.graph)
        self.weights = [self.weight(WIDTH, WIDTH) for _ in range(3)]
        self.pairs = [(self.weight(WIDTH, HIDDEN), self.weight(HIDDEN, WIDTH))] if style.heavy else []

    def weight(self, *shape: int) -> ir.Value:
        """Returns a new matrix of the whole program; sums of products stay of the size of what goes in."""
        drawn = self.rng.normal(0, 1.3 / np.sqrt(shape[0]), shape).astype(np.float32)
        return self.top.initializer(self.tensor(drawn))

    def tensor(self, array: np.ndarray) -> ir.TensorProtocol:
        """Returns a tensor with a name that no other has."""
        self.constants += 1
        return ir.tensor(array, name=f"c{self.constants}")

    def fresh(self) -> str:
        """Returns a name that no value in sight has; graphs that do not see each other may use one twice."""
        self.number += 1
        return f"v{self.number}"


class Scope:
    """A graph that grows, and the values that are in sight in it, those of the scopes around it included."""

    def __init__(self, draft: Draft, graph: ir.Graph, outer: Scope | None = None, region: str = "top") -> None:
        self.draft, self.rng, self.graph, self.region = draft, draft.rng, graph, region
        self.depth = 0 if outer is None else outer.depth + 1
        self.pools = {kind: list(outer.pools[kind]) if outer is not None else [] for kind in DTYPES}
        self._tape = tape.Tape(graph)

    def chance(self, probability: float) -> bool:
        """Returns True as often as `probability` says."""
        return bool(self.rng.random() < probability)

    def choice(self, options: Sequence[Any]) -> Any:
        """Returns one of them."""
        return options[int(self.rng.integers(len(options)))]

    def saw(self, *features: str) -> None:
        """Records what the program holds."""
        self.draft.seen.update(features)

    def op(
        self, op: str, *inputs: ir.Value | None, kind: str = FLOAT, outputs: Sequence[ir.Value] = (), **attributes: Any
    ) -> ir.Value:
        """Returns the first output of a new node; its name tells the region that it stands in."""
        made = list(outputs) or [ir.Value(name=self.draft.fresh(), type=ir.TensorType(DTYPES[kind]))]
        self.draft.nodes += 1
        name = f"{self.region}/{op}{self.draft.nodes}"
        self._tape.op_multi_out(op, inputs, attributes, outputs=made, version=self.draft.opset, name=name)
        return made[0]

    def constant(self, array: Any, dtype: Any = np.float32) -> ir.Value:
        """Returns a constant: an initializer of the program or of this scope's own graph, or a node."""
        tensor = self.draft.tensor(np.asarray(array, dtype))
        match self.choice(["top", "top", "own", "node"]):
            case "top":
                return self.draft.top.initializer(tensor)
            case "own":
                return self._tape.initializer(tensor)
            case _:
                made = ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype))
                return self.op("Constant", outputs=[made], value=tensor)

    def ints(self, *numbers: int) -> ir.Value:
        """Returns a constant list of integers."""
        return self.constant(numbers, np.int64)

    def keep(self, kind: str, value: ir.Value) -> ir.Value:
        """Puts a value in sight; now and then with its shape, as an exporter writes it."""
        if self.chance(0.3):
            value.shape = self.shape(kind)
        if value not in self.pools[kind]:
            self.pools[kind].append(value)
        return value

    def shape(self, kind: str) -> ir.Shape:
        """Returns the shape of values of a kind."""
        batch = self.draft.style.batch
        shapes = {FLOAT: [batch, WIDTH], WIDE: [batch, None], GATE: [batch, 1]}
        return ir.Shape(shapes.get(kind, []))

    def take(self, kind: str) -> ir.Value:
        """Returns a value in sight, late ones more often; a new one where there is none."""
        pool = self.pools[kind]
        if not pool or (kind != FLOAT and self.chance(0.25)):
            MAKERS[kind](self)
        return pool[max(len(pool) - 1 - int(self.rng.exponential(3.0)), 0)]

    def reduce(self, op: str, value: ir.Value, axes: Sequence[int], *, keepdims: int) -> ir.Value:
        """Returns a reduction over `axes` in the spelling of the program's opset."""
        if op == "ReduceSum" or self.draft.opset >= 18:
            return self.op(op, value, self.ints(*axes), keepdims=keepdims)
        return self.op(op, value, axes=list(axes), keepdims=keepdims)

    def either_way(self, op: str, a: ir.Value, b: ir.Value, **options: Any) -> ir.Value:
        """Returns a commutative operator's result, its operands in any order."""
        return self.op(op, *([a, b] if self.chance(0.5) else [b, a]), **options)


def straight(scope: Scope, value: ir.Value | None = None) -> ir.Value:
    """Returns new rows, bounded by what goes in: of `value` or of any rows in sight. They are not yet in sight."""
    a = scope.take(FLOAT) if value is None else value
    if scope.chance(scope.draft.style.heavy):
        up, down = scope.choice(scope.draft.pairs)
        scope.saw("heavy")
        return scope.op("Tanh", scope.op("MatMul", scope.op("Relu", scope.op("MatMul", a, up)), down))
    match scope.rng.integers(7):
        case 0:
            found = scope.op(scope.choice(["Tanh", "Sigmoid", "Relu", "Neg", "Abs", "Sin"]), a)
        case 1:
            both = scope.op(scope.choice(["Add", "Sub"]), a, scope.take(FLOAT))
            found = scope.either_way("Mul", both, scope.constant(0.5))
        case 2:
            found = scope.op("Tanh", scope.op(scope.choice(["Mul", "Add"]), a, scope.take(FLOAT)))
        case 3:
            found = scope.op(scope.choice(["Max", "Min"]), a, scope.take(FLOAT))
        case 4:
            halves = [ir.Value(name=scope.draft.fresh(), type=ir.TensorType(ir.DataType.FLOAT)) for _ in range(2)]
            scope.op("Split", a, scope.ints(2, 4), axis=1, outputs=halves)
            found = scope.op("Concat", halves[1], halves[0], axis=1)
        case _:
            found = scope.op("Tanh", scope.op("MatMul", a, scope.choice(scope.draft.weights)))
    return found


def mean(scope: Scope, value: ir.Value) -> ir.Value:
    """Returns the mean of all rows as a scalar."""
    return scope.reduce("ReduceMean", value, (0, 1), keepdims=0)


def column(scope: Scope, value: ir.Value) -> ir.Value:
    """Returns one number per row, (batch, 1)."""
    return scope.reduce(scope.choice(["ReduceSum", "ReduceMean"]), value, (1,), keepdims=1)


def _rows(scope: Scope) -> None:
    scope.keep(FLOAT, straight(scope))


def _flag(scope: Scope) -> None:
    kind = scope.rng.integers(8)
    if kind == 0 and scope.pools[FLAG]:
        both = scope.take(FLAG), scope.take(FLAG)
        found = scope.op(scope.choice(["And", "Or", "Xor"]), *both, kind=FLAG)
    elif kind == 1 and scope.pools[FLAG]:
        found = scope.op("Not", scope.take(FLAG), kind=FLAG)
    elif kind == 2:
        case = scope.constant(scope.rng.integers(CASES), np.int64)
        found = scope.either_way(scope.choice(["Equal", "Less"]), scope.take(COUNT), case, kind=FLAG)
    elif kind == 3:
        found = scope.op("Cast", scope.take(COUNT), kind=FLAG, to=ir.DataType.BOOL)
    else:
        limit = scope.constant(scope.choice(MARGINS))
        about_zero = scope.op("MatMul", straight(scope), scope.choice(scope.draft.weights))
        found = scope.either_way(scope.choice(["Greater", "Less"]), mean(scope, about_zero), limit, kind=FLAG)
    scope.keep(FLAG, found)


def _count(scope: Scope) -> None:
    cases = scope.constant(CASES, np.int64)
    match scope.rng.integers(5):
        case 0 if scope.pools[COUNT]:
            one = scope.constant(1, np.int64)
            found = scope.op("Mod", scope.op("Add", scope.take(COUNT), one, kind=COUNT), cases, kind=COUNT)
        case 1:
            two = [scope.constant(scope.rng.integers(CASES), np.int64) for _ in range(2)]
            found = scope.op("Where", scope.take(FLAG), *two, kind=COUNT)
        case _:
            total = scope.reduce("ReduceMean", straight(scope), (0,), keepdims=0)
            found = scope.op("Mod", scope.op("ArgMax", total, axis=0, keepdims=0, kind=COUNT), cases, kind=COUNT)
    scope.keep(COUNT, found)


def _wide(scope: Scope) -> None:
    """Some columns of rows: which ones depends on data."""
    value = straight(scope)
    total = scope.reduce("ReduceMean", value, (0,), keepdims=0)
    some = scope.op("Greater", total, scope.constant(scope.choice(MARGINS)), kind=FLAG)
    scope.saw("shape that depends on data")
    scope.keep(WIDE, scope.op("Compress", value, some, axis=1, kind=WIDE))


def _gate(scope: Scope) -> None:
    from program_gates import hard

    scope.keep(GATE, hard(scope))


MAKERS: dict[str, Step] = {FLOAT: _rows, FLAG: _flag, COUNT: _count, WIDE: _wide, GATE: _gate}


def use(scope: Scope) -> None:
    """Rows from what is not rows: a flag, a count, or rows of another width."""
    a = scope.take(FLOAT)
    match scope.rng.integers(3):
        case 0:
            b = scope.op("Cast", scope.take(FLAG), to=ir.DataType.FLOAT)
        case 1:
            table = scope.constant(scope.rng.normal(0, 0.5, (CASES + 4, WIDTH)))
            b = scope.op("Gather", table, scope.take(COUNT), axis=0)
        case _:
            b = narrow(scope, scope.take(WIDE))
    scope.keep(FLOAT, scope.op("Tanh", scope.either_way("Add", a, b)))


def narrow(scope: Scope, wide: ir.Value) -> ir.Value:
    """Returns one number per row of values of any width."""
    return scope.op("Tanh", scope.reduce("ReduceSum", wide, (1,), keepdims=1))


def some_rows(scope: Scope) -> None:
    """Does work on those rows only that a gate opens for, as a mixture of experts does, and puts them back."""
    a, open_ = scope.take(FLOAT), scope.take(GATE)
    flat = scope.op("Reshape", open_, scope.ints(-1))
    index = scope.op("Squeeze", scope.op("NonZero", flat, kind=COUNT), scope.ints(0), kind=COUNT)
    picked = scope.op("Gather", a, index, axis=0)
    work = scope.op("Tanh", scope.op("MatMul", picked, scope.choice(scope.draft.weights)))
    scope.saw("shape that depends on data")
    scope.keep(FLOAT, scope.op("ScatterND", a, scope.op("Unsqueeze", index, scope.ints(1), kind=COUNT), work))
