"""Random programs as ONNX files: `If` and `Loop` in every form, nested; blended gates; and exits anywhere.

A program is a function of one row (or, where it holds gates of one value per row and nothing else, of any number), all
of whose floats are of shape (rows, 6), so that any two fit. What is in it is recorded, so that a test can state how
often each form must occur.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from program_gates import blend, chain, experts, near_blend, opposites, scalar_blend, twins
from program_scopes import (
    CASES,
    COUNT,
    DTYPES,
    FLAG,
    FLOAT,
    MAKERS,
    MARGINS,
    WIDE,
    WIDTH,
    Draft,
    Scope,
    Style,
    mean,
    narrow,
    some_rows,
    straight,
    use,
)

DEEPEST = 3
_MAX_NODES = 110


@dataclass(frozen=True)
class Program:
    """A program and what a test needs to know of it.

    Attributes:
        path: Its file.
        inputs: The names of its inputs, all float32 (rows, 6).
        exits: The names of its outputs, in order.
        rows: Whether it takes any number of rows, each on its own; else it decides once per call and takes one row.
        seen: What it holds, and how often.
        gates: The values in the top-level graph that decide for each row, 0 or 1.
        nodes: How many nodes it has, on all levels.
    """

    path: Path
    inputs: tuple[str, ...]
    exits: tuple[str, ...]
    rows: bool
    seen: Counter[str]
    gates: tuple[str, ...]
    nodes: int

    def feeds(self, seed: int, count: int, rows: int = 1) -> list[dict[str, np.ndarray]]:
        """Draws inputs of several kinds, far apart and close together, so that gates go both ways."""
        rng = np.random.default_rng((seed, 7))
        return [{name: _draw(rng, number % 5, rows) for name in self.inputs} for number in range(count)]


def _draw(rng: np.random.Generator, kind: int, rows: int) -> np.ndarray:
    values = rng.normal(size=(rows, WIDTH))
    match kind:
        case 1:
            values = values * 3
        case 2:
            values = values * 0.4 + rng.choice([-1.2, 1.2], size=(rows, 1))
        case 3:
            values = values * rng.integers(0, 2, values.shape)
        case 4:
            values = values + rng.normal(0, 2, size=(rows, 1))
    return values.astype(np.float32)


def random_program(seed: int, path: Path) -> Program:
    """Writes the program of `seed` to `path` and returns what it is."""
    rng = np.random.default_rng((seed, 3))
    rows = seed % 4 == 0
    batch = "batch" if rows or rng.random() < 0.5 else 1
    style = Style(rows=rows, batch=batch, heavy=0.5 if seed % 10 in {3, 8} else 0.0)
    draft = Draft(rng, style, int(rng.integers(13, 21)), inputs=int(rng.integers(1, 3)))
    scope = Scope(draft, draft.graph)
    scope.pools[FLOAT].extend(draft.graph.inputs)
    grow(scope, int(rng.integers(3, 9)))
    _gather(scope)
    alive = _function_of_inputs(draft.graph)
    if not alive & set(scope.pools[FLOAT][len(draft.graph.inputs) :]):
        alive.add(scope.keep(FLOAT, scope.op("Tanh", draft.graph.inputs[0])))
    made = [value for value in scope.pools[FLOAT] if value in alive and not value.is_graph_input()]
    picks = rng.choice(len(made), min(len(made), int(rng.integers(0, 4))), replace=False)
    exits = list(dict.fromkeys([*(made[pick] for pick in picks), made[-1]]))
    scope.saw("exit of a branch or a loop" if any(v.producer().op_type in {"If", "Loop"} for v in exits) else "exit")
    if any(value.uses() for value in exits):
        scope.saw("exit that is used again")
    for value in exits:
        value.shape = scope.shape(FLOAT)
        draft.graph.outputs.append(value)
    ir.save(ir.Model(draft.graph, ir_version=10), path)
    gates = tuple(dict.fromkeys(str(gate.name) for gate in draft.gates))
    names = tuple(str(value.name) for value in draft.graph.inputs)
    made_exits = tuple(str(value.name) for value in exits)
    return Program(path, names, made_exits, rows, draft.seen, gates, draft.nodes)


def _function_of_inputs(graph: ir.Graph) -> set[ir.Value]:
    """Returns the values that more of the inputs decides than their shapes; no other can be an exit."""
    alive = set(graph.inputs)
    for node in graph:
        if node.op_type != "Shape" and not alive.isdisjoint(_read(node)):
            alive.update(node.outputs)
    return alive


def _read(node: ir.Node) -> Iterator[ir.Value]:
    """Yields what a node reads, and what those nodes inside it read that its outputs depend on."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            graph = attribute.as_graph()
            waiting, seen = list(graph.outputs), set[ir.Value]()
            while waiting:
                value = waiting.pop()
                yield value
                producer = value.producer()
                if value not in seen and producer is not None and producer.graph is graph:
                    waiting += [] if producer.op_type == "Shape" else _read(producer)
                seen.add(value)


def grow(scope: Scope, steps: int) -> None:
    """Adds `steps` random steps to a scope, the last of which makes rows."""
    for _ in range(steps):
        _step(scope)
    if scope.pools[FLOAT][-1].graph is not scope.graph:
        scope.keep(FLOAT, straight(scope))


def _gather(scope: Scope) -> None:
    """Adds up what nobody has looked at, mostly, so that no pass takes it away as unused."""
    idle = [value for value in scope.pools[FLOAT] if value.graph is scope.graph and not value.uses()]
    if len(idle) < 2 or scope.chance(0.15):
        return
    total = idle[0]
    for value in idle[1:]:
        total = scope.either_way("Add", total, value)
    scope.keep(FLOAT, scope.op("Tanh", scope.op("Mul", total, scope.constant(0.6))))


def _step(scope: Scope) -> None:
    rows, small = scope.draft.style.rows, scope.draft.nodes < _MAX_NODES
    often = 2.0 if rows else 0.6
    steps = [(_plain, 5), (blend, 2 * often), (near_blend, 1 + 0.5 * rows), (chain, 0.35 * often), (some_rows, 0.4)]
    steps += [(experts, 0.35 * often), (opposites, 0.2 * often), (twins, 0.3 * often)]
    if not rows:
        steps += [(use, 1.5), (MAKERS[COUNT], 0.5), (MAKERS[WIDE], 0.5), (scalar_blend, 0.3)]
        if small and scope.depth < DEEPEST:
            often = 1.6 if not scope.depth or scope.region.endswith("loop") else 1.0
            steps += [(branch, 2.5 * often), (cases, 0.9 * often), (loop, 2.2 * often)]
    weights = np.array([weight for _, weight in steps])
    steps[int(scope.rng.choice(len(steps), p=weights / weights.sum()))][0](scope)


def _plain(scope: Scope) -> None:
    value = None
    for _ in range(int(scope.rng.integers(1, 4))):
        value = scope.keep(FLOAT, straight(scope, value))


# If


def branch(scope: Scope) -> None:
    """An `If` with branches that work, or pass on what there is."""
    for kind, value in _if(scope, scope.take(FLAG), _kinds(scope)):
        scope.keep(kind, value)


def _if(scope: Scope, on: ir.Value, kinds: list[str]) -> list[tuple[str, ir.Value]]:
    number = scope.draft.fresh()
    style = scope.choice(["work", "work", "work", "captured", "captured", "constant"])
    styles = ["work" if scope.chance(0.9) else "captured", style]
    if scope.chance(0.5):
        styles.reverse()
    scope.saw("if", f"if in depth {scope.depth}", *(f"branch {style}" for style in styles), f"results {len(kinds)}")
    scope.saw(*(["if in a loop"] if "loop" in scope.region else []))
    mine = [_private(scope) if scope.chance(0.25) else None for _ in styles]
    if on.shape is None and scope.chance(0.1):
        on = scope.op("Reshape", on, scope.ints(1), kind=FLAG)
        scope.saw("predicate of one element")
    start = scope.draft.number
    then = _branch(scope, kinds, f"{scope.region}/{number}.then", styles[0], mine[0])
    ended = scope.draft.number
    if scope.chance(0.3):
        scope.draft.number = start
        scope.saw("names used twice")
    other = _branch(scope, kinds, f"{scope.region}/{number}.else", styles[1], mine[1])
    scope.draft.number = max(ended, scope.draft.number)
    return _emit_if(scope, on, then, other, kinds)


def _emit_if(
    scope: Scope, on: ir.Value, then: ir.Graph, other: ir.Graph, kinds: list[str]
) -> list[tuple[str, ir.Value]]:
    outputs = [ir.Value(name=scope.draft.fresh(), type=ir.TensorType(DTYPES[kind])) for kind in kinds]
    scope.op("If", on, outputs=outputs, then_branch=then, else_branch=other)
    return list(zip(kinds, outputs, strict=True))


def _kinds(scope: Scope) -> list[str]:
    """Returns what a branch or loop gives: rows first, then anything."""
    more = [scope.choice([FLOAT, FLOAT, FLAG, COUNT, WIDE]) for _ in range(int(scope.rng.integers(0, 3)))]
    return [FLOAT, *more]


def _private(scope: Scope) -> ir.Value:
    """Returns work that is done before a branch, and that only this branch will use."""
    value = straight(scope)
    for _ in range(int(scope.rng.integers(0, 3))):
        value = straight(scope, value)
    scope.saw("work that one branch uses")
    return value


def _branch(scope: Scope, kinds: list[str], region: str, style: str, mine: ir.Value | None = None) -> ir.Graph:
    inner = Scope(scope.draft, ir.Graph([], [], nodes=[], name=region.replace("/", ".")), scope, region)
    if mine is not None and style == "work":
        inner.keep(FLOAT, straight(inner, mine))
    if style == "work":
        grow(inner, int(scope.rng.integers(0, 4 - scope.depth // 2)))
        _gather(inner)
    for kind in kinds:
        _deliver(inner, _result(inner, kind, style))
    return inner.graph


def _result(inner: Scope, kind: str, style: str) -> ir.Value:
    """Returns what a branch gives for a kind: its own work, something captured, or a constant."""
    if style == "constant":
        inner.saw("constant result")
        return _start(inner, kind)
    pool = inner.pools[kind]
    if style == "captured":
        pool = [value for value in pool if value.graph is not inner.graph]
        return pool[-1 - int(inner.rng.integers(min(len(pool), 4)))] if pool else _start(inner, kind)
    own = [value for value in pool if value.graph is inner.graph]
    if own:
        return own[-1]
    return straight(inner) if kind == FLOAT else inner.take(kind)


def _start(scope: Scope, kind: str) -> ir.Value:
    """Returns a constant of a kind; rows of a batch whose size is not known are spread from one."""
    match kind:
        case "flag":
            return scope.constant(scope.chance(0.5), np.bool_)
        case "count":
            return scope.constant(scope.rng.integers(CASES), np.int64)
        case _:
            width = WIDTH if kind == FLOAT else int(scope.rng.integers(0, 4))
            row = scope.constant(np.round(scope.rng.normal(0, 0.5, (1, width)), 3) + 0.0004)
            if scope.draft.style.batch == 1 or width != WIDTH:
                return row
            return scope.op("Expand", row, scope.op("Shape", scope.draft.graph.inputs[0], kind=COUNT))


def _deliver(inner: Scope, value: ir.Value, *, twice: bool = False) -> None:
    """Makes a value a result of the scope's graph; what comes from outside, or stands there already, as a copy."""
    mine = value.graph is inner.graph and not (value.is_initializer() and twice)
    if inner.graph.inputs and value is inner.graph.inputs[0]:
        mine = False  # onnxruntime counts in place: an iteration number handed on as it is shows the next round's
    if not mine or (value in inner.graph.outputs and not twice) or inner.chance(0.05):
        value = inner.op("Identity", value, outputs=[ir.Value(name=inner.draft.fresh(), type=value.type)])
    elif value in inner.graph.outputs:
        inner.saw("one result twice")
    inner.graph.outputs.append(value)


def cases(scope: Scope) -> None:
    """`if`, `elif`, ..., `else`: a router over a count, or over flags one after the other."""
    number, kinds = scope.draft.fresh(), [FLOAT, *([scope.choice([FLOAT, COUNT])] if scope.chance(0.4) else [])]
    router = scope.chance(0.6)
    count = int(scope.rng.integers(2, CASES))
    on = scope.take(COUNT)
    scope.saw("router" if router else "elif", f"cases {count + 1}")
    known = [_is(scope, on, case) if router else scope.take(FLAG) for case in range(count)] if scope.chance(0.5) else []
    for kind, value in _case(scope, on if router else None, known, kinds, f"{number}", range(count)):
        scope.keep(kind, value)


def _is(scope: Scope, on: ir.Value, case: int) -> ir.Value:
    return scope.either_way("Equal", on, scope.constant(case, np.int64), kind=FLAG)


def _case(
    scope: Scope, on: ir.Value | None, known: list[ir.Value], kinds: list[str], number: str, left: range
) -> list[tuple[str, ir.Value]]:
    """Adds the `If` of the first case left, whose else-branch holds the next one and nothing else of use."""
    case, region = left[0], f"{scope.region}/{number}.case{left[0]}"
    own = _is(scope, on, case) if on is not None and not known else None
    flag = known[case] if known else own or scope.take(FLAG)
    then = _branch(scope, kinds, f"{region}.then", scope.choice(["work", "work", "captured"]))
    if len(left) == 1:
        return _emit_if(scope, flag, then, _branch(scope, kinds, f"{region}.else", "work"), kinds)
    graph = ir.Graph([], [], nodes=[], name=f"{region}.else".replace("/", "."))
    inner = Scope(scope.draft, graph, scope, f"{region}.else")
    for _, value in _case(inner, on, known, kinds, number, left[1:]):
        graph.outputs.append(value)
    if len(graph) == 1:
        scope.saw("else with one If")
    return _emit_if(scope, flag, then, graph, kinds)


# Loop


def loop(scope: Scope) -> None:
    """A `Loop` by a trip count, by a condition, by both, or by a condition that is passed on as it is."""
    number, form = scope.draft.fresh(), scope.choice(["count", "while", "while", "both", "passed"])
    kinds = [FLOAT, *(scope.choice([FLOAT, FLOAT, COUNT, FLAG, WIDE]) for _ in range(int(scope.rng.integers(0, 3))))]
    starts = [scope.take(kind) if scope.chance(0.6) else _start(scope, kind) for kind in kinds]
    if scope.chance(0.3) and kinds.count(FLOAT) > 1:
        same = _start(scope, FLOAT) if scope.chance(0.6) else scope.take(FLOAT)
        starts = [same if kind == FLOAT else start for kind, start in zip(kinds, starts, strict=True)]
        scope.saw("one start for two states")
    counted = form in {"while", "both"} and scope.chance(0.5)
    if counted:
        kinds.append("counter")
        zero = [start for start, kind in zip(starts, kinds, strict=False) if kind == COUNT]
        starts.append(scope.constant(0, np.int64) if not zero or scope.chance(0.5) else zero[0])
    trips = _trips(scope) if form != "while" else None
    go = _go(scope, form)
    scope.saw("loop", f"loop {form}", f"loop in depth {scope.depth}")
    around = {"loop in a branch": (".then", ".else", ".case"), "loop in a loop": (".loop",)}
    scope.saw(*(what for what, parts in around.items() if any(part in scope.region for part in parts)))
    body, scanned = _body(scope, kinds, f"{scope.region}/{number}.loop", form)
    dtypes = [DTYPES[COUNT if kind == "counter" else kind] for kind in kinds] + [DTYPES[FLOAT]] * scanned
    outputs = [ir.Value(name=scope.draft.fresh(), type=ir.TensorType(dtype)) for dtype in dtypes]
    scope.op("Loop", trips, go, *starts, outputs=outputs, body=body)
    for kind, value in zip(kinds, outputs, strict=False):
        if kind == "counter":
            scope.keep(COUNT, scope.op("Mod", value, scope.constant(CASES, np.int64), kind=COUNT))
        elif kind in {COUNT, WIDE} or scope.chance(0.85):  # now and then nobody looks at a result
            scope.keep(kind, value)
    if scanned:
        total = scope.op("Tanh", scope.reduce("ReduceSum", outputs[-1], (0,), keepdims=0))
        scope.keep(FLOAT, scope.either_way("Mul", total, scope.take(FLOAT)))


def _trips(scope: Scope) -> ir.Value:
    match scope.rng.integers(5):
        case 0:
            scope.saw("computed trips")
            return scope.op("Min", scope.take(COUNT), scope.constant(3, np.int64), kind=COUNT)
        case 1:
            scope.saw("computed trips")
            return scope.op("Where", scope.take(FLAG), *(scope.constant(n, np.int64) for n in (2, 0)), kind=COUNT)
        case _:
            trips = int(scope.choice([0, 1, 2, 2, 3, 4]))
            scope.saw(*(["no trips"] if trips == 0 else []))
            return scope.constant(trips, np.int64)


def _go(scope: Scope, form: str) -> ir.Value | None:
    """Returns the condition that a loop starts with; None where it always starts."""
    if form == "count":
        return scope.constant(True, np.bool_) if scope.chance(0.5) else None
    if scope.chance(0.4):
        return scope.constant(True, np.bool_)
    scope.saw("computed start")
    return scope.take(FLAG)


def _body(scope: Scope, kinds: list[str], region: str, form: str) -> tuple[ir.Graph, int]:
    """Returns a loop's body, and how many scan outputs it has."""
    real = [COUNT if kind == "counter" else kind for kind in kinds]
    turn, go, *states = (
        ir.Value(name=scope.draft.fresh(), type=ir.TensorType(DTYPES[kind])) for kind in (COUNT, FLAG, *real)
    )
    turn.shape = go.shape = ir.Shape([])
    graph = ir.Graph([turn, go, *states], [], nodes=[], name=region.replace("/", "."))
    inner = Scope(scope.draft, graph, scope, region)
    for kind, state in zip(kinds, states, strict=True):
        if kind != "counter":
            inner.pools[kind].append(state)
    if inner.chance(0.3):
        inner.pools[COUNT].append(turn)
        inner.pools[FLAG].append(go)
    if inner.chance(0.4):
        step = inner.op("Mul", inner.op("Cast", turn, to=ir.DataType.FLOAT), inner.constant(0.137))
        inner.keep(FLOAT, inner.op("Sin", inner.op("Add", inner.take(FLOAT), step)))
        inner.saw("iteration number")
    grow(inner, int(scope.rng.integers(0, 3)))
    _gather(inner)
    following = [_next_state(inner, kind, state) for kind, state in zip(kinds, states, strict=True)]
    following = _turned(inner, kinds, states, following)
    counter = following[kinds.index("counter")] if "counter" in kinds else None
    more = _more(inner, form, go, counter or turn, counted=counter is not None)
    if FLAG in kinds and form in {"while", "both"} and inner.chance(0.5):  # what was found in the round before
        late = kinds.index(FLAG)
        more, following[late] = states[late], more
        inner.saw("condition a round late")
    _deliver(inner, more, twice=True)
    for index, value in enumerate(following):
        again = index and kinds[index] == kinds[0] and inner.chance(0.15)
        _deliver(inner, following[0] if again else value, twice=True)
    scanned = int(inner.chance(0.12))
    if scanned:
        inner.saw("scan output")
        flat = inner.reduce("ReduceMean", straight(inner), (0,), keepdims=0)
        flat.shape = ir.Shape([WIDTH])  # where there are no trips, onnxruntime makes the empty result by this
        graph.outputs.append(flat)
    return graph, scanned


def _next_state(inner: Scope, kind: str, state: ir.Value) -> ir.Value:
    """Returns what a state becomes: bounded, so that no loop explodes, and new, mostly."""
    one = inner.constant(1, np.int64)
    if kind == "counter":
        return inner.either_way("Add", state, one, kind=COUNT)
    if inner.chance(0.15):
        inner.saw("state that stays")
        return state
    if kind == WIDE:
        inner.saw("state whose shape changes")
        grown = inner.op("Concat", state, narrow(inner, state), axis=1, kind=WIDE)
        return grown if inner.chance(0.5) else inner.take(WIDE)
    if kind == COUNT and inner.chance(0.8):
        more = inner.op("Add", state, one, kind=COUNT)
        return inner.op("Mod", more, inner.constant(CASES, np.int64), kind=COUNT)
    if kind != FLOAT or inner.chance(0.1):
        return inner.take(kind) if inner.chance(0.7) else _start(inner, kind)
    mixed = inner.op("Add", inner.pools[FLOAT][-1], inner.op("MatMul", state, inner.draft.weights[0]))
    return inner.op("Tanh", mixed)


def _turned(inner: Scope, kinds: list[str], states: list[ir.Value], following: list[ir.Value]) -> list[ir.Value]:
    """Swaps or rotates what states of one kind become; some take another's old value."""
    same = [index for index, kind in enumerate(kinds) if kind == FLOAT]
    if len(same) < 2 or not inner.chance(0.6):
        return following
    turned = list(following)
    source = states if inner.chance(0.4) else following
    for index, other in zip(same, same[1:] + same[:1], strict=True):
        turned[index] = source[other] if inner.chance(0.85) else states[other]
    inner.saw("states swapped")
    return turned


def _more(inner: Scope, form: str, go: ir.Value, turn: ir.Value, *, counted: bool) -> ir.Value:
    """Returns whether to go on: as before, always, or while a number is small and something computed holds."""
    if form == "passed":
        return go
    if form == "count":
        return inner.constant(True, np.bool_) if inner.chance(0.4) else go
    if form == "both" and inner.chance(0.4):  # a state that is overwritten in the same moment, or one from outside
        inner.saw("condition is a state")
        return inner.take(FLAG)
    limit = int(inner.rng.integers(1, 4)) + counted
    bound = inner.constant(limit, np.int64)
    match inner.rng.integers(4):
        case 0:
            small = inner.op("Greater", bound, turn, kind=FLAG)
        case 1:
            small = inner.op("LessOrEqual", turn, inner.constant(limit - 1, np.int64), kind=FLAG)
        case _:
            small = inner.op("Less", turn, bound, kind=FLAG)
    if inner.chance(0.2):
        return small
    wanted = inner.op("Greater", mean(inner, inner.pools[FLOAT][-1]), inner.constant(inner.choice(MARGINS)), kind=FLAG)
    return inner.either_way("And", wanted, small, kind=FLAG)
