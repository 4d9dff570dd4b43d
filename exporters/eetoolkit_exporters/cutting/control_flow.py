"""Which `If` and `Loop` nodes become gates of the plan, and which stay inside a segment.

onnxruntime's own `If` is as fast as a gate of the plan where the weights lie in the branch (`scoping`), and faster
where short branches follow each other, as no layout is changed and no fusion lost at a cut. A gate is worth one for
what else it gives: what is skipped is never loaded, and the profile, a deadline and a batch's rows see each part. So a
branch is lowered where a segment of its own costs next to nothing of it, from `SEGMENT` on; a loop, which is as fast in
the plan, where its body costs more than a gate, from `BRANCH` on; and either if something inside it is. A loop also
needs a bound on its rounds, so that no plan runs for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_ir as ir

from eetoolkit_exporters.cutting.cut import holds
from eetoolkit_exporters.cutting.work import count_work
from eetoolkit_exporters.graph import subgraphs
from eetoolkit_runtime.errors import ExportError

Lower = bool | Literal["always"]
"""Whether control flow becomes gates: never, by the cost floor, or always."""


@dataclass(frozen=True)
class Floor:
    """The least cost of a branch that pays; `benchmarks/README.md` has the ratios.

    Attributes:
        multiply_adds: The branch's, at the example's sizes.
        weight_bytes: The size of the weights that the branch alone holds.
        pays: What pays from there on, as messages call it.
    """

    multiply_adds: int
    weight_bytes: int
    pays: str

    def __str__(self) -> str:
        return (
            f"the {self.multiply_adds:,} (or {self.weight_bytes // 1024:,} KiB of weights) for which {self.pays} pays"
        )


SEGMENT = Floor(30_000_000, 8 * 2**20, "a segment of its own")
"""Half a millisecond of a fast core and several of a Raspberry Pi's, of which a cut is about one per cent."""
BRANCH = Floor(500_000, 256 * 2**10, "control flow")
"""About 50 us of a small machine's core, of which an `If`, or a gate of the plan, is some three."""

_CONTROL = {"If", "Loop"}


@dataclass
class Lowering:
    """What is lowered.

    Attributes:
        nodes: The `If` and `Loop` nodes that become gates; for a loop, how often its body may run in one call.
        notes: What was lowered, what was not, and why: a line each.
    """

    nodes: dict[ir.Node, int | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def choose(
    graph: ir.Graph, lower: Lower, max_loop_steps: int | None, symbols: Mapping[str, int], marked: Collection[ir.Graph]
) -> Lowering:
    """Returns which control flow of `graph`, at any depth, becomes gates.

    Args:
        graph: The network.
        lower: Whether it does.
        max_loop_steps: The bound of loops whose own bound cannot be read from the graph.
        symbols: The sizes of dynamic dimensions, to estimate what a branch costs.
        marked: The branches and bodies in which an exit stands.
    """
    return _Chooser(lower, max_loop_steps, symbols, marked).walk(graph)


class _Chooser:
    def __init__(
        self, lower: Lower, max_loop_steps: int | None, symbols: Mapping[str, int], marked: Collection[ir.Graph]
    ) -> None:
        self._lower = lower
        self._max_loop_steps = max_loop_steps
        self._symbols = symbols
        self._marked = marked
        self._found = Lowering()

    def walk(self, graph: ir.Graph, rounds: int = 1) -> Lowering:
        """Looks at the control flow of one graph, which itself runs at most `rounds` times in one call."""
        for node in graph:
            if node.domain != "" or node.op_type not in _CONTROL:
                continue
            bound = None if node.op_type == "If" else loop_bound(node) or self._max_loop_steps
            reason = self._against(node, bound)
            name = node.outputs[0].name or node.name
            if reason is not None:
                self._found.notes.append(f"{node.op_type} {name!r} stays inside its segment: {reason}")
                continue
            total = rounds * (bound or 1)
            self._found.nodes[node] = None if bound is None else total
            self._found.notes.append(
                f"{node.op_type} {name!r} is lowered" + (f", at most {bound} rounds" if bound else "")
            )
            for inner in subgraphs(node):
                self.walk(inner, total)
        return self._found

    def _against(self, node: ir.Node, bound: int | None) -> str | None:
        """Returns why a node is not lowered; None where it is."""
        if not self._lower:
            return "lower_control_flow=False"
        graphs = subgraphs(node)
        return (
            (_against_loop(graphs[0], bound) if node.op_type == "Loop" else None)
            or _against_values(node, graphs)
            or self._against_cost(node, graphs)
        )

    def _against_cost(self, node: ir.Node, graphs: Sequence[ir.Graph]) -> str | None:
        floor = SEGMENT if node.op_type == "If" else BRANCH
        if self._lower == "always" or any(self._worth(graph, floor) for graph in graphs):
            return None
        adds = max((_multiply_adds(graph.all_nodes(), self._symbols) or 0) for graph in graphs)
        return f"{'a branch' if node.op_type == 'If' else 'its body'} costs {adds:,} multiply-adds, less than {floor}"

    def _worth(self, graph: ir.Graph, floor: Floor) -> bool:
        marked = any(inner in self._marked for inner in (graph, *graph.subgraphs()))
        return marked or worth(graph.all_nodes(), self._symbols, floor)


def check_loops_end(graph: ir.Graph) -> None:
    """Refuses a loop that can never end.

    Raises:
        ExportError: Names it.
    """
    for node in graph.all_nodes():
        if node.op_type == "Loop" and node.domain == "" and node.inputs[0] is None:
            condition = _same(subgraphs(node)[0].outputs[0])
            if condition.const_value is not None and holds(condition):
                raise ExportError(
                    f"the loop {node.outputs[0].name or node.name!r} never ends: its condition is always true and it "
                    "has no trip count"
                )


def _against_loop(body: ir.Graph, bound: int | None) -> str | None:
    if len(body.outputs) != len(body.inputs) - 1:
        return "it has scan outputs"
    return "no bound on its rounds can be read from its condition; give max_loop_steps" if bound is None else None


def _against_values(node: ir.Node, graphs: Iterable[ir.Graph]) -> str | None:
    states = [*(value for graph in graphs for value in (*graph.inputs[2:], *graph.outputs)), *node.outputs]
    if any(not isinstance(value.type, ir.TensorType) for value in states):
        return "it passes on something that is not a tensor of a known type"
    if any(value.shape is None for value in states):
        return "it passes on a tensor of an unknown number of dimensions"
    if not all(value.shape is None or len(value.shape) <= 1 for value in _deciders(node)):
        return "its condition is not a single value"
    return None


def worth(nodes: Iterable[ir.Node], symbols: Mapping[str, int], floor: Floor) -> bool:
    """Returns whether nodes cost enough, or hold weights enough."""
    nodes = list(nodes)
    weights = {value for node in nodes for value in node.inputs if value is not None and value.is_initializer()}
    size = sum(value.const_value.nbytes for value in weights if value.const_value is not None)
    if size >= floor.weight_bytes:
        return True
    adds = _multiply_adds(nodes, symbols)
    return adds is None or adds >= floor.multiply_adds


def _multiply_adds(nodes: Iterable[ir.Node], symbols: Mapping[str, int]) -> int | None:
    """Returns the multiply-adds of nodes, those of inner graphs among them."""
    return count_work([node for node in nodes if not subgraphs(node)], [], symbols).multiply_adds


def _deciders(node: ir.Node) -> list[ir.Value]:
    if node.op_type == "If":
        return [value for value in node.inputs[:1] if value is not None]
    body = subgraphs(node)[0]
    return [value for value in (*node.inputs[:2], body.outputs[0]) if value is not None]


def loop_bound(node: ir.Node) -> int | None:
    """Returns how often a loop's body runs at most, as far as the graph proves it.

    Either the trip count is a constant, or the condition is a conjunction with a comparison of a counter and a
    constant, where the counter is a state that starts at a constant and gains a positive constant every round.
    """
    body = subgraphs(node)[0]
    bounds = []
    trips = node.inputs[0] if node.inputs else None
    if trips is not None and (count := _integer(trips)) is not None:
        bounds.append(max(count, 1))
    found = (_compared(condition, node, body) for condition in _conjuncts(body.outputs[0]))
    return min([*bounds, *(bound for bound in found if bound is not None)], default=None)


def _conjuncts(value: ir.Value) -> Iterator[ir.Value]:
    """Yields the values that must all hold for `value` to hold."""
    producer = value.producer()
    if producer is not None and producer.op_type == "And":
        for part in producer.inputs:
            if part is not None:
                yield from _conjuncts(part)
    elif producer is not None and producer.op_type in _SAME and producer.inputs[0] is not None:
        yield from _conjuncts(producer.inputs[0])
    else:
        yield value


_SAME = {"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze"}
_ABOVE: dict[str, Callable[[int], int]] = {"Less": lambda c: c - 1, "LessOrEqual": lambda c: c}
_SWAPPED = {"Greater": "Less", "GreaterOrEqual": "LessOrEqual"}
_NEGATED = {"Less": "GreaterOrEqual", "LessOrEqual": "Greater", "Greater": "LessOrEqual", "GreaterOrEqual": "Less"}


def _compared(condition: ir.Value, node: ir.Node, body: ir.Graph) -> int | None:
    """Returns the bound from one comparison `counter < constant`, in any of its spellings."""
    producer = condition.producer()
    negated = producer is not None and producer.op_type == "Not"
    if negated and producer is not None and producer.inputs[0] is not None:
        producer = producer.inputs[0].producer()
    if producer is None or producer.op_type not in _NEGATED:
        return None
    op = _NEGATED[producer.op_type] if negated else producer.op_type
    left, right = producer.inputs
    if op in _SWAPPED:
        op, left, right = _SWAPPED[op], right, left
    if left is None or right is None or (limit := _integer(right)) is None:
        return None
    largest = _ABOVE[op](limit)  # the counter's largest value with which the loop goes on
    for index, state in enumerate(body.inputs[2:]):
        start = node.inputs[2 + index]
        step = _gain(body.outputs[1 + index], state)
        first = _integer(start) if start is not None else None
        if step is None or step <= 0 or first is None or _wraps(state, max(first, largest) + 2 * step):
            continue
        if _same(left) is state:  # compared before this round's gain: one round more
            return max((largest - first) // step + 2, 1)
        if _same(left) is _same(body.outputs[1 + index]):
            return max((largest - first) // step + 1, 1)
    return None


def _wraps(state: ir.Value, value: int) -> bool:
    """Whether an integer of this dtype cannot hold a value: the counter would start again from below."""
    return state.dtype is None or not state.dtype.is_integer() or value > np.iinfo(state.dtype.numpy()).max


def _gain(after: ir.Value, before: ir.Value) -> int | None:
    """Returns how much a state gains in a round, if that is a constant."""
    producer = _same(after).producer()
    if producer is None or producer.op_type not in {"Add", "Sub"}:
        return None
    left, right = producer.inputs
    if left is None or right is None:
        return None
    if producer.op_type == "Add" and _same(right) is before:
        left, right = right, left
    gain = _integer(right)
    if _same(left) is not before or gain is None:
        return None
    return gain if producer.op_type == "Add" else -gain


def _same(value: ir.Value) -> ir.Value:
    """Returns the value that `value` is a copy of."""
    producer = value.producer()
    while producer is not None and producer.op_type in _SAME - {"Cast"} and producer.inputs[0] is not None:
        value = producer.inputs[0]
        producer = value.producer()
    return value


def _integer(value: ir.Value) -> int | None:
    """Returns the only number of a constant integer tensor, also of one that `x.new_zeros(())` makes."""
    value = _same(value)
    tensor, producer = value.const_value, value.producer()
    if tensor is None and producer is not None and producer.op_type == "ConstantOfShape":
        shape = producer.inputs[0]
        if shape is not None and shape.const_value is not None and (shape.const_value.numpy() == 1).all():
            tensor = producer.attributes["value"].as_tensor() if "value" in producer.attributes else None
    if tensor is None or tensor.size != 1 or not tensor.dtype.is_integer():
        return None
    return int(tensor.numpy().item())
