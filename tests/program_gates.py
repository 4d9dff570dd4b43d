"""Gates of one value per row in random programs, the blends that they decide, and near relatives that are no gates."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from program_scopes import FLAG, FLOAT, GATE, MARGINS, WIDTH, Scope, column, straight

_FLOAT, _BOOL = ir.DataType.FLOAT, ir.DataType.BOOL


def mask(scope: Scope) -> ir.Value:
    """Returns a boolean per row, (batch, 1)."""
    value = straight(scope)
    match scope.rng.integers(4):
        case 0:
            top = scope.op("ArgMax", value, axis=1, keepdims=1, kind="count")
            return scope.op("Equal", top, scope.constant(scope.rng.integers(3), np.int64), kind=FLAG)
        case 1:
            top = scope.op("ArgMax", value, axis=1, keepdims=1, kind="count")
            return scope.op("Less", top, scope.constant(scope.rng.integers(2, 5), np.int64), kind=FLAG)
        case _:
            limit = scope.constant(scope.choice(MARGINS))
            return scope.either_way(scope.choice(["Greater", "Less"]), column(scope, value), limit, kind=FLAG)


def hard(scope: Scope) -> ir.Value:
    """Returns a number per row, (batch, 1), that is provably 0 or 1."""
    form = scope.choice(
        [
            "cast",
            "cast",
            "and",
            "round",
            "one hot",
            "product",
            "closed",
            "straight through",
            "where",
            "skipnet",
            "assigned",
        ]
    )
    one = scope.constant(scope.choice([1.0, [1.0]]))
    match form:
        case "and":
            both = scope.op(scope.choice(["And", "Or"]), mask(scope), mask(scope), kind=FLAG)
            found = scope.op("Cast", both, to=_FLOAT)
        case "round":
            found = scope.op("Round", scope.op("Sigmoid", column(scope, straight(scope))))
        case "one hot":
            top = scope.op("ArgMax", straight(scope), axis=1, keepdims=0, kind="count")
            depth, values = scope.constant(WIDTH, np.int64), scope.constant([0.0, 1.0])
            picked = scope.ints(int(scope.rng.integers(2)))
            found = scope.op("Gather", scope.op("OneHot", top, depth, values, axis=-1), picked, axis=1)
        case "product":
            found = scope.op("Mul", scope.take(GATE), scope.op("Cast", mask(scope), to=_FLOAT))
        case "closed":
            found = scope.op("Sub", one, scope.take(GATE))
        case "straight through":
            soft = scope.op("Sigmoid", column(scope, straight(scope)))
            sure = scope.op("Cast", scope.op("Greater", soft, scope.constant(0.5), kind=FLAG), to=_FLOAT)
            found = scope.either_way("Add", scope.op("Sub", sure, soft), soft)
        case "where":
            found = scope.op("Where", mask(scope), scope.constant(1.0), scope.constant(0.0))
        case "skipnet":  # softmax over (closed, open), its argmax, and the way back through the softmax's gradient
            scores = scope.op("MatMul", straight(scope), scope.constant(scope.rng.normal(0, 1, (WIDTH, 2))))
            soft = scope.op("Softmax", scores, axis=1)
            open_ = scope.op("Slice", soft, scope.ints(1), scope.ints(2), scope.ints(1))
            sure = scope.op("Cast", scope.op("Greater", open_, scope.constant(0.5), kind=FLAG), to=_FLOAT)
            found = scope.op("Add", scope.op("Sub", sure, open_), open_)
        case "assigned":  # `p[p < 0.5] = 0; p[p >= 0.5] = 1`, as BlockDrop's code writes it
            soft, half = scope.op("Sigmoid", column(scope, straight(scope))), scope.constant(0.5)
            low = scope.op("Less", soft, half, kind=FLAG)
            rest = scope.op("Where", low, scope.constant(0.0), soft)
            high = scope.op("Not", scope.op("Less", rest, half, kind=FLAG), kind=FLAG)
            found = scope.op("Where", high, scope.constant(1.0), rest)
        case _:
            found = scope.op("Cast", mask(scope), to=_FLOAT)
    scope.saw(f"gate {form}")
    return _turned(scope, found)


def _turned(scope: Scope, gate: ir.Value) -> ir.Value:
    """Returns the gate itself, or through operators that leave its values alone."""
    match scope.rng.integers(6):
        case 0:
            return scope.op("Reshape", gate, scope.ints(-1, 1))
        case 1:
            return scope.op("Unsqueeze", scope.op("Squeeze", gate, scope.ints(1)), scope.ints(1))
        case 2:
            return scope.op("Identity", gate)
        case _:
            return gate


def blend(scope: Scope) -> None:
    """Chooses between two rows by a gate, both computed."""
    scope.keep(FLOAT, blended(scope, scope.take(GATE), *_sides(scope)))


def chain(scope: Scope) -> None:
    """Residual blocks in a row, each behind a gate of its own: `x = g f(x) + (1 - g) x`."""
    x = scope.take(FLOAT)
    for _ in range(int(scope.rng.integers(2, 4))):
        body = straight(scope, x)
        if scope.chance(0.5):
            body = scope.op("Tanh", scope.op("Add", body, x))
        gate = hard(scope)
        x = scope.keep(FLOAT, blended(scope, scope.keep(GATE, gate), body, x))
    scope.saw("chain of blends")


def twins(scope: Scope) -> None:
    """Two results of one block, blended by one gate; the second may need the first, or only stand after its reader."""
    gate, block = scope.take(GATE), straight(scope, straight(scope))
    a, b = scope.op("Sin", block), scope.op("Tanh", block)
    first = scope.keep(FLOAT, blended(scope, gate, a, scope.take(FLOAT)))
    between = straight(scope, first)
    form = scope.choice(["apart", "apart", "read between", "dependent"])
    if form == "read between":
        scope.keep(FLOAT, between)
    b = scope.op("Mul", b, between) if form == "dependent" else b
    scope.saw("twins", f"twins {form}")
    scope.keep(FLOAT, blended(scope, gate, b, scope.take(FLOAT)))


def experts(scope: Scope) -> None:
    """Sums what several experts say, each behind its own column of a one-hot value; or what a single gate lets pass."""
    count = int(scope.rng.integers(1, 4))
    top = scope.op("ArgMax", straight(scope), axis=1, keepdims=0, kind="count")
    depth, values = scope.constant(WIDTH, np.int64), scope.constant([0.0, 1.0])
    chosen = scope.op("OneHot", top, depth, values, axis=-1)
    weight = scope.op("Sigmoid", column(scope, straight(scope))) if scope.chance(0.3) else None
    total: ir.Value | None = None
    for expert in range(count):
        gate = scope.op("Gather", chosen, scope.ints(expert), axis=1)
        if scope.chance(0.1):
            gate = scope.take(GATE)  # open beside the others, so that they are really summed
        if weight is not None:
            gate = scope.either_way("Mul", gate, weight)
        said = scope.either_way("Mul", gate, straight(scope, straight(scope)))
        total = said if total is None else scope.either_way("Add", total, said)
    scope.saw("experts", f"experts {count}", *(["weighted gate"] if weight is not None else []))
    scope.keep(FLOAT, scope.op("Tanh", total))


def opposites(scope: Scope) -> None:
    """A blend whose two gates are comparisons of their own: each other's opposite, or nearly."""
    value, limit = column(scope, straight(scope)), scope.constant(scope.choice(MARGINS))
    ops = scope.choice([("Greater", "LessOrEqual"), ("Less", "GreaterOrEqual"), ("Greater", "Less"), ("Less", "Less")])
    a, b = _sides(scope)
    first = scope.op("Cast", scope.op(ops[0], value, limit, kind=FLAG), to=_FLOAT)
    turned = [limit, value] if scope.chance(0.3) else [value, limit]
    other = scope.op("Cast", scope.op(ops[1], *turned, kind=FLAG), to=_FLOAT)
    scope.saw("two comparisons")
    scope.keep(FLOAT, scope.op("Tanh", scope.op("Add", scope.op("Mul", first, a), scope.op("Mul", other, b))))


def _sides(scope: Scope) -> tuple[ir.Value, ir.Value]:
    """Returns what to choose from: one side new, mostly; the other old, or new too."""
    a = straight(scope, straight(scope)) if scope.chance(0.8) else scope.take(FLOAT)
    b = scope.take(FLOAT) if scope.chance(0.6) else straight(scope)
    if scope.chance(0.15):
        scope.keep(FLOAT, a)  # what only the blend would need is used elsewhere too
    return (a, b) if scope.chance(0.7) else (b, a)


def blended(scope: Scope, gate: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    """Returns a blend that equals `a` where the gate is 1, and `b` where it is 0; or `a * gate + b`."""
    form = scope.choice(["sum", "sum", "sum", "where", "scaled"])
    scope.saw("blend", f"blend {form}", *(["blend in a branch or a loop"] if scope.depth else []))
    if not scope.depth:
        scope.draft.gates.append(gate)
    spread = gate
    if scope.chance(0.25):
        spread = scope.op("Expand", gate, scope.op("Shape", a, kind="count"))
        scope.saw("blend with Expand")
    if form == "where":
        to = scope.op("Cast", spread, kind=FLAG, to=_BOOL)
        return scope.op("Where", to, a, b) if scope.chance(0.7) else scope.op("Where", _not(scope, to), b, a)
    opened = scope.either_way("Mul", spread, a)
    if form == "scaled":
        return scope.op("Tanh", scope.either_way("Add", opened, b))
    one = scope.constant(scope.choice([1.0, [1.0], [[1.0]]]))
    closed = scope.op("Sub", one, spread if scope.chance(0.6) else gate)
    return scope.either_way("Add", opened, scope.either_way("Mul", closed, b))


def _not(scope: Scope, value: ir.Value) -> ir.Value:
    return scope.op("Not", value, kind=FLAG)


def near_blend(scope: Scope) -> None:
    """What looks like a blend and may not become a gate: its gate is soft, not one per row, or not 0 and 1."""
    a, b = _sides(scope)
    one = scope.constant(1.0)
    form = scope.choice(["soft", "element", "input", "other", "levels", "unbounded", "one side", "column", "top"])
    first = scope.graph.inputs[0] if scope.depth == 0 else scope.take(FLOAT)
    other: ir.Value | None = None
    match form:
        case "soft":
            gate = scope.op("Sigmoid", column(scope, straight(scope)))
        case "element":
            gate = scope.op("Cast", scope.op("Greater", straight(scope), scope.constant(0.137), kind=FLAG), to=_FLOAT)
        case "input":
            gate = scope.op("Slice", first, scope.ints(0), scope.ints(1), scope.ints(1))
        case "other":  # two gates that are not each other's opposite
            gate, other = hard(scope), scope.op("Sub", one, hard(scope))
        case "levels":
            wide = scope.op("Sigmoid", column(scope, straight(scope)))
            gate = scope.op("Round", scope.op("Mul", wide, scope.constant(2.0)))
        case "unbounded":  # (hard - p) + p with p outside of [0, 1] is not exactly 0 or 1
            far = scope.op("Mul", column(scope, straight(scope)), scope.constant(7.3))
            gate = scope.op("Add", scope.op("Sub", hard(scope), far), far)
        case "one side":
            gate, other = hard(scope), scope.constant(0.5)
        case "column":  # a side that is spread over the row by the blend itself
            gate, b = hard(scope), column(scope, b)
        case _:
            gate = scope.op("Cast", scope.op("ArgMax", straight(scope), axis=1, keepdims=1, kind="count"), to=_FLOAT)
    scope.saw("near blend", f"near blend {form}")
    other = scope.op("Sub", one, gate) if other is None else other
    opened, closed = scope.either_way("Mul", gate, a), scope.either_way("Mul", other, b)
    scope.keep(FLOAT, scope.op("Tanh", scope.either_way("Add", opened, closed)))


def scalar_blend(scope: Scope) -> None:
    """A blend that a flag of the whole call decides, not each row."""
    a, b = _sides(scope)
    flag = scope.take(FLAG)
    scope.saw("blend by a flag")
    if scope.chance(0.5):
        scope.keep(FLOAT, scope.op("Where", flag, a, b))
        return
    gate = scope.op("Cast", flag, to=_FLOAT)
    closed = scope.op("Sub", scope.constant(1.0), gate)
    scope.keep(FLOAT, scope.op("Add", scope.op("Mul", gate, a), scope.op("Mul", closed, b)))
