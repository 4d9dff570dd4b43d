"""Blended gates as control flow: what a network computes both ways and mixes by a hard gate becomes an `If`.

    g * a + (1 - g) * b      If(g) a     else b         SkipNet (Wang et al. 2018), BlockDrop (Wu et al. 2018)
    Where(g, a, b)           If(g) a     else b
    g * a + b                If(g) a + b else b         ConvNet-AIG (Veit and Belongie 2018)
    g * a                    If(g) a     else zeros     experts, summed
    g0 * a0 + (g1 * a1 ...)  If(g0) a0   else (g1 * a1 ...), where the g are columns of one one-hot value

Equal to the blend up to a rounding, where all that is mixed is finite. A weighted gate, `g * w * a`, keeps its weight.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product as pairs
from typing import Literal

import onnx_ir as ir

from eetoolkit_exporters.gating.decisions import Decision, Decisions, one_minus
from eetoolkit_exporters.gating.gate_builder import BranchBuilder, GateBuilder, known_shape, same_shape
from eetoolkit_exporters.gating.sink import exclusive
from eetoolkit_exporters.graph import OURS

GATE = "eetoolkit.gate"
"""Key in an `If` node's metadata: "row" where its predicate is bool (batch,), "call" where it is bool ()."""


@dataclass(frozen=True, eq=False)
class Blend:
    """A value that is mixed from two by a hard gate.

    Attributes:
        node: The last node of the blend; its output is the result.
        decision: The gate.
        combine: How the open form is made of `open`: it is the one value, the sum, or the product of the two.
        open: What the result is made of where the gate is open.
        closed: What the result is where it is closed; None for zeros.
    """

    node: ir.Node
    decision: Decision
    combine: Literal["Identity", "Add", "Mul"]
    open: tuple[ir.Value, ...]
    closed: ir.Value | None
    builder: GateBuilder

    @property
    def result(self) -> ir.Value:
        """The value that the blend computes."""
        return self.node.outputs[0]

    @property
    def per_row(self) -> bool:
        """Whether the gate is decided for each row, and not once for the call."""
        return self.decision.per_row

    @property
    def operands(self) -> tuple[ir.Value, ...]:
        """The values that it mixes."""
        return (*self.open, *((self.closed,) if self.closed is not None else ()))


def branch_nodes(blends: Sequence[Blend], keep: Collection[ir.Value] = ()) -> tuple[list[ir.Node], list[ir.Node]]:
    """Returns what `to_if` and `sink` would move into the open and into the closed branch, without moving it."""
    by, current = _superfluous(blends, keep), blends[0].builder.current
    opened = {current(value) for blend in blends for value in blend.open}
    closed = {current(blend.closed) for blend in blends if blend.closed is not None}
    return exclusive(opened - closed, by, closed.union(keep)), exclusive(closed - opened, by, opened.union(keep))


def _superfluous(blends: Sequence[Blend], keep: Collection[ir.Value]) -> list[ir.Node]:
    """Returns the nodes that the `If` makes superfluous: the products, `1 - g`, and what only they use."""
    current = blends[0].builder.current
    needed = {current(value) for blend in blends for value in (*blend.operands, blend.decision.source)}
    nodes = [blend.node for blend in blends]
    inputs = [value for node in nodes for value in node.inputs if value is not None]
    return [*exclusive(inputs, nodes, needed.union(keep)), *nodes]


def find_blends(graph: ir.Graph, hard: Collection[ir.Value]) -> tuple[list[Blend], list[str]]:
    """Returns the blends at every level in topological order, and a note for each value that only looks like one.

    Args:
        graph: The whole graph, with shapes; constants are its initializers.
        hard: Values that are 0 or 1 in every element, from `hard_values`.
    """
    decisions, builder = Decisions(graph, hard), GateBuilder(graph)
    blends, notes = [], []
    for level in (graph, *graph.subgraphs()):
        found = _Finder(level, decisions, builder)
        blends.append(found.blends())
        notes += found.notes
    order = {node: position for position, node in enumerate(graph.all_nodes())}
    return sorted((blend for some in blends for blend in some), key=lambda blend: order[blend.node]), notes


def to_if(blends: Sequence[Blend], keep: Collection[ir.Value] = ()) -> ir.Node:
    """Puts an `If` in the place of blends; its then-branch computes the open forms, its else-branch the closed ones.

    Its predicate is a bool value of shape (batch,) for a gate that is decided per row, which no runtime accepts unless
    the batch is 1, or (); `metadata_props[GATE]` says which. Its outputs have the results' names, dtypes and shapes,
    and take their places everywhere in the graph; a caller that holds on to a `result` must take the output instead.

    Args:
        blends: Of one decision in one graph, in topological order, none of which needs another's result; other blends
            of the same search may be rewritten before or after these, or have been moved by `sink`.
        keep: Values that are needed whatever happens; what the blends alone used goes, unless it is one of these.
    """
    last, build = blends[-1], blends[0].builder
    graph = last.node.graph
    if graph is None:
        raise ValueError(f"{last.node.name} is in the graph no more")
    superfluous = _superfluous(blends, keep)
    predicate = build.predicate(last.decision, last.node)
    opened, closed = BranchBuilder(build, last.node), BranchBuilder(build, last.node)
    for blend in blends:
        result = blend.result
        opened.add(f"{result.name}_open", result, blend.combine, [build.current(value) for value in blend.open])
        if blend.closed is None:
            closed.add_zeros(f"{result.name}_closed", result)
        else:
            closed.add(f"{result.name}_closed", result, "Identity", [build.current(blend.closed)])
    outputs = [build.take_over(blend.result) for blend in blends]
    if_node = ir.Node(
        "",
        "If",
        [predicate],
        [
            ir.AttrGraph("then_branch", opened.graph(f"{outputs[0].name}_open")),
            ir.AttrGraph("else_branch", closed.graph(f"{outputs[0].name}_closed")),
        ],
        outputs=outputs,
        version=last.node.version,
        name=build.name(f"gate_of_{outputs[0].name}"),
        metadata_props={GATE: "row" if last.per_row else "call"},
    )
    graph.insert_after(last.node, if_node)
    for blend, output in zip(blends, outputs, strict=True):
        blend.result.replace_all_uses_with(output, replace_graph_outputs=True)
    graph.remove(superfluous, safe=True)
    if len(blends) > 1:  # what reads the first result may stand before the last
        graph.sort()
    return if_node


@dataclass(frozen=True)
class _Product:
    """`gate * rest`; or, with a weight, something that is zero where the gate is closed."""

    node: ir.Node
    decision: Decision
    factors: tuple[ir.Value, ir.Value]
    weighted: bool

    @property
    def value(self) -> ir.Value:
        """What it is where the gate is open."""
        return self.node.outputs[0] if self.weighted else self.factors[1]


class _Finder:
    """Finds the blends of one level."""

    def __init__(self, graph: ir.Graph, decisions: Decisions, builder: GateBuilder) -> None:
        self._graph = graph
        self._decisions = decisions
        self._builder = builder
        self._products: dict[ir.Node, _Product] = {}
        self._weights: set[ir.Node] = set()
        self.notes: list[str] = []

    def blends(self) -> list[Blend]:
        """Returns the blends of this level, and collects the notes."""
        found: list[Blend] = []
        absorbed: dict[ir.Node, set[ir.Node]] = {}
        for node in self._graph:
            if node.domain or not node.outputs or node.outputs[0] in self._decisions.hard:
                continue
            blend = None
            if node.op_type in _PICKS:
                self._note_pick(node)
            elif node.op_type == "Mul" and (product := self._product(node)) is not None:
                self._products[node] = product
            elif node.op_type == "Where":
                blend = self._choice(node)
            elif node.op_type == "Add":
                blend, taken = self._sum(node)
                for product in taken:
                    absorbed.setdefault(product.node, set()).add(node)
            if blend is not None:
                found.append(blend)
        for node, product in self._products.items():
            if node in self._weights:
                continue
            users = {user for user, _ in node.outputs[0].uses()}
            if node.outputs[0].is_graph_output() or users - absorbed.get(node, set()):
                found += self._alone(product)
        return found

    def _product(self, node: ir.Node) -> _Product | None:
        shape = known_shape(node.outputs[0])
        x, y = node.inputs
        if shape is None or x is None or y is None:
            return None
        for gate, rest in ((x, y), (y, x)):
            if rest.const_value is None and (decision := self._decisions.of(gate, shape)) is not None:
                return _Product(node, decision, (gate, rest), weighted=False)
        for gate, rest in ((x, y), (y, x)):
            if rest.const_value is None and (decision := self._within(gate, shape)) is not None:
                return _Product(node, decision, (gate, rest), weighted=True)
        return None

    def _within(self, value: ir.Value, shape: ir.Shape) -> Decision | None:
        """Returns the hard factor of a weight that has one value per row."""
        value = _unexpanded(value)
        if not self._decisions.per_row(value, shape):
            return None
        waiting: list[ir.Value] = [value]
        passed: set[ir.Node] = set()
        while waiting:
            value = waiting.pop()
            if not self._decisions.per_row(value):
                continue
            if (decision := self._decisions.of(value, value.shape)) is not None:
                self._weights |= passed
                return decision
            producer = value.producer()
            if producer is not None and producer.op_type in {"Mul", "Reshape", "Unsqueeze", "Squeeze", "Identity"}:
                passed.add(producer)
                waiting += [operand for operand in producer.inputs if operand is not None]
        return None

    def _choice(self, node: ir.Node) -> Blend | None:
        condition, x, y = node.inputs
        shape = known_shape(node.outputs[0])
        if condition is None or x is None or y is None or (x.const_value is not None and y.const_value is not None):
            return None
        decision = self._decisions.of(condition, shape)
        if decision is None:
            if _looks_like_choice(node.outputs[0], condition, x, y):
                self._note(node, condition)
            return None
        if decision.inverted:
            return self._blend(node, decision.turned(), (y,), x)
        return self._blend(node, decision, (x,), y)

    def _sum(self, node: ir.Node) -> tuple[Blend | None, tuple[_Product, ...]]:
        """Returns the blend that ends with an addition, and the products whose values it makes superfluous."""
        x, y = node.inputs
        if x is None or y is None or known_shape(node.outputs[0]) is None:
            return None, ()
        first, second = (self._products.get(producer) if (producer := v.producer()) else None for v in (x, y))
        if first is not None and second is not None and first.decision.complements(second.decision):
            if first.decision.inverted:
                first, second = second, first
            blend = self._blend(node, first.decision, (first.value,), second.value)
            if blend is None:
                self._note(node, _unexpanded(first.factors[0]))
                return None, ()
            return blend, (first, second)
        for product, rest in ((first, y), (second, x)):
            if product is None:
                continue
            if self._closed_with(product.decision, rest):
                blend = self._blend(node, product.decision, (product.value,), rest)
            elif rest.const_value is None and same_shape(rest, node.outputs[0]):
                blend = self._blend(node, product.decision, (product.value, rest), rest, "Add")
            else:
                continue
            if blend is not None:
                return blend, (product,)
        if (gate := self._gate_like(x, y, node.outputs[0].shape)) is not None:
            self._note(node, gate)
        return None, ()

    def _closed_with(self, decision: Decision, rest: ir.Value) -> bool:
        """Returns whether `rest` is zero wherever the gate is open: all of it hangs on other columns of a one-hot."""
        producer = rest.producer()
        if producer is None:
            return False
        if producer.op_type == "Add" and not producer.domain:
            return all(value is not None and self._closed_with(decision, value) for value in producer.inputs)
        product = self._products.get(producer)
        return product is not None and decision.excludes(product.decision)

    def _alone(self, product: _Product) -> list[Blend]:
        if product.weighted:
            blend = self._blend(product.node, product.decision, product.factors, None, "Mul")
        else:
            blend = self._blend(product.node, product.decision, (product.value,), None)
        return [blend] if blend is not None else []

    def _blend(
        self,
        node: ir.Node,
        decision: Decision,
        opened: tuple[ir.Value, ...],
        closed: ir.Value | None,
        combine: Literal["Identity", "Add", "Mul"] = "Identity",
    ) -> Blend | None:
        """Returns the blend, None if a branch's value cannot be brought to the result's shape and dtype."""
        result = node.outputs[0]
        for value in (*(opened if combine == "Identity" else ()), *((closed,) if closed is not None else ())):
            if value.dtype != result.dtype or not (same_shape(value, result) or self._builder.can_expand(result)):
                return None
        if closed is None and not self._builder.can_expand(result):
            return None
        return Blend(node, decision, combine, opened, closed, self._builder)

    def _note(self, node: ir.Node, gate: ir.Value) -> None:
        """Notes why the value that looks like the gate of a choice or a sum is none."""
        result = node.outputs[0]
        wide = result.shape is not None and any(dim != 1 for dim in result.shape[1:])
        if wide and OURS not in node.meta:
            why = self._decisions.against(gate, result.shape) or "its two sides are not of the result's shape and dtype"
            self.notes.append(f"{result.name} looks like a gate by {gate.name}, but {why}; both sides always run")

    def _note_pick(self, node: ir.Node) -> None:
        """Notes a computed index that picks one of several values, which are computed side by side."""
        data, index = node.inputs[:2]
        stack = data.producer() if data is not None else None
        if stack is None or stack.op_type != "Concat" or stack.domain or index is None or index.const_value is not None:
            return
        computed = [value for value in stack.inputs if value is not None and value.producer() is not None]
        if len(computed) >= 2 and all(map(_is_floating, computed)) and OURS not in node.meta:
            self.notes.append(
                f"{node.outputs[0].name}: {index.name} picks one of {len(computed)} values, and all of them always "
                "run; write a sum of (index == k) * value_k, or torch.cond, and it becomes a switch"
            )

    def _gate_like(self, x: ir.Value, y: ir.Value, shape: ir.Shape | None) -> ir.Value | None:
        """Returns g of `g * a + (1 - g) * b`, hard or one value per row, or of `g * a + b`, in [0, 1] for each row."""
        hard, per_row = self._decisions.hard, self._decisions.per_row
        first, second = _factors(x), _factors(y)
        for gate, other in (*pairs(first, second), *pairs(second, first)):
            producer = other.producer()
            whole = one_minus(producer) if producer is not None and not producer.domain else None
            if whole is not None and _unexpanded(whole) is gate and (gate in hard or per_row(gate, shape)):
                return gate
        soft = (gate for gate in (*first, *second) if per_row(gate, shape) and gate not in hard)
        return next((gate for gate in soft if self._decisions.ranges[gate].unit), None)


_PICKS = {"Gather", "GatherElements", "GatherND"}


def _looks_like_choice(result: ir.Value, condition: ir.Value, x: ir.Value, y: ir.Value) -> bool:
    """Whether a condition with fewer elements than the result chooses between two computed values."""
    if condition.shape is None or result.shape is None or condition.shape == result.shape:
        return False
    computed = all(value.const_value is None for value in (condition, x, y))
    return computed and x.shape == y.shape == result.shape and _is_floating(result)


def _factors(value: ir.Value) -> list[ir.Value]:
    """Returns the computed factors of a product, as they were before they were expanded."""
    producer = value.producer()
    if producer is None or producer.op_type != "Mul" or producer.domain:
        return []
    return [_unexpanded(factor) for factor in producer.inputs if factor is not None and factor.const_value is None]


def _unexpanded(value: ir.Value) -> ir.Value:
    producer = value.producer()
    while producer is not None and producer.op_type == "Expand" and producer.inputs[0] is not None:
        value, producer = producer.inputs[0], producer.inputs[0].producer()
    return value


def _is_floating(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()
