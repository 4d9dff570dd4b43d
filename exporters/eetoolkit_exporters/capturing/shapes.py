"""Shapes and dtypes of values at every level of a graph, as far as they follow from the inputs.

onnx infers into branches and bodies, but there it sees no constant of the graph around, and it knows nothing of what
a loop carries. Both are given to it here.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping

import onnx_ir as ir
from onnx_ir.passes import common as passes

from eetoolkit_exporters.graph import subgraphs

Shapes = Mapping[ir.Value, ir.Shape]

_LENT = 64  # elements; what says a shape or an axis is far smaller
_INVENTED = re.compile(r"unk__\d+")  # onnx's own names for sizes that it does not know


def infer_shapes(model: ir.Model) -> None:
    """Gives the values their shapes and dtypes, where they can be found; those that stand there are kept."""
    _infer(model, {})


def mend_shapes(model: ir.Model) -> None:
    """Keeps torch's shapes, but puts the inputs' symbols where torch has the example's sizes or names of its own.

    Its meta kernels of LSTM and GRU fix the length, and a loop's body calls the batch by another name.
    """
    own = {value: value.shape for value in _values(model.graph) if value.shape is not None}
    for value in own:
        value.shape = None
    _infer(model, own)
    symbols = {dim.value for value in model.graph.inputs for dim in value.shape or () if not isinstance(dim, int)}
    symbols.discard(None)
    for value, shape in own.items():
        value.shape = _mended(shape, value.shape, symbols)


def _mended(own: ir.Shape, found: ir.Shape | None, symbols: set[str | None]) -> ir.Shape:
    if found is None or len(found) != len(own):
        return own
    return ir.Shape(
        mine
        if _dim(dim) not in symbols and (_dim(mine) in symbols or (not isinstance(dim, int) and isinstance(mine, int)))
        else dim
        for mine, dim in zip(found, own, strict=True)
    )


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yields what the nodes make, at every level, and what loops' bodies are given."""
    for node in graph.all_nodes():
        yield from node.outputs
        if node.op_type == "Loop":
            yield from node.attributes["body"].as_graph().inputs


def _infer(model: ir.Model, own: Shapes) -> None:
    infer = passes.ShapeInferencePass(check_type=False, strict_mode=False)
    known = {value for value in _values(model.graph) if value.shape is not None}
    loops = _loops(model.graph, own, known)
    while True:  # each round settles what a loop carries, or makes it less certain: both end
        with _lent_constants(model.graph):
            infer(model)
        if not any(loop.apply() for loop in loops):
            return
        _forget(model.graph, known)


def _loops(graph: ir.Graph, own: Shapes, known: set[ir.Value]) -> list[_Loop]:
    """Returns the loops of a graph and of the branches in it; each holds those of its body."""
    found: list[_Loop] = []
    for node in graph:
        inner = [loop for subgraph in subgraphs(node) for loop in _loops(subgraph, own, known)]
        found += [_Loop(node, inner, own, known)] if node.op_type == "Loop" and node.domain == "" else inner
    return found


def _forget(graph: ir.Graph, known: Collection[ir.Value]) -> None:
    """Clears what onnx inferred from less than is known now: it would keep the sizes that it invented."""
    for value in _values(graph):
        if value not in known:
            value.shape = None


@contextlib.contextmanager
def _lent_constants(graph: ir.Graph) -> Iterator[None]:
    """Gives every subgraph copies of the small constants that it captures, for as long as the block runs."""
    lent: dict[tuple[ir.Graph, ir.Value], ir.Value] = {}
    places: list[tuple[ir.Node, int, ir.Value]] = []
    for node in graph.all_nodes():
        where = node.graph
        if where is graph or not isinstance(where, ir.Graph):
            continue
        for index, value in enumerate(node.inputs):
            tensor = None if value is None else value.const_value
            if value is None or tensor is None or tensor.size > _LENT or value.graph is where:
                continue
            copy = lent.get((where, value))
            if copy is None:
                copy = ir.Value(name=f"{value.name}__lent{len(lent)}", shape=value.shape, type=value.type)
                copy.const_value = ir.tensor(tensor.numpy(), name=copy.name)
                where.register_initializer(copy)
                lent[where, value] = copy
            places.append((node, index, value))
            node.replace_input_with(index, copy)
    try:
        yield
    finally:
        for node, index, value in places:
            node.replace_input_with(index, value)
        for (where, _), copy in lent.items():
            del where.initializers[str(copy.name)]


class _Loop:
    """The states of a loop: their shapes in its body and behind it are what the initial and the next state share."""

    def __init__(self, node: ir.Node, inner: list[_Loop], own: Shapes, known: set[ir.Value]) -> None:
        body = node.attributes["body"].as_graph()
        for value, dtype in zip(body.inputs[:2], (ir.DataType.INT64, ir.DataType.BOOL), strict=True):
            _type(value, dtype)
            _fill(value, ir.Shape([]), known)
        states = zip(node.inputs[2:], body.inputs[2:], body.outputs[1:], node.outputs, strict=False)  # scans follow
        self._states = [
            (initial, state, following, final) for initial, state, following, final in states if initial is not None
        ]
        self._inner, self._own, self._known, self._given = inner, own, known, frozenset(known)
        self._assumed = self._settled = False

    def apply(self) -> bool:
        """Takes the next step towards the states' shapes; True: infer again."""
        if self._settled:
            return False
        if not self._assumed:
            return self._assume()
        if any(loop.apply() for loop in self._inner):
            return True
        return self._weaken() or self._settle()

    def _assume(self) -> bool:
        """Lets the states have the initial ones' shapes in the body."""
        self._assumed = True
        for initial, state, _, _ in self._states:
            _type(state, initial.dtype)
            _fill(state, initial.shape, self._known)
        return True

    def _weaken(self) -> bool:
        """Takes back what the next states do not agree with."""
        changed = False
        for _, state, following, _ in self._states:
            if state in self._given or state.shape is None:
                continue
            agreed = _agreed(state.shape, following.shape if following.shape is not None else self._own.get(following))
            if agreed is None or _dims(agreed) != _dims(state.shape):
                state.shape, changed = agreed, True
        if changed:
            for loop in self._inner:
                loop.restart()
        return changed

    def _settle(self) -> bool:
        self._settled = True
        filled = [
            _fill(final, _agreed(initial.shape, following.shape) if state in self._given else state.shape, self._known)
            for initial, state, following, final in self._states
        ]
        return any(filled)

    def restart(self) -> None:
        """Forgets what followed from initial states that are less certain now."""
        self._assumed = self._settled = False
        for _, state, _, final in self._states:
            self._known -= {state, final} - self._given


def _type(value: ir.Value, dtype: ir.DataType | None) -> None:
    if value.dtype is None and dtype is not None:
        value.dtype = dtype


def _fill(value: ir.Value, shape: ir.Shape | None, known: set[ir.Value]) -> bool:
    """Gives a value a shape that is not known; True: it is now."""
    if value in known or shape is None:
        return False
    value.shape = ir.Shape(shape)
    known.add(value)
    return True


def _agreed(one: ir.Shape | None, other: ir.Shape | None) -> ir.Shape | None:
    if one is None or other is None or len(one) != len(other):
        return None
    return ir.Shape(mine if mine == dim else None for mine, dim in zip(_dims(one), _dims(other), strict=True))


def dims_of(shape: Iterable[int | ir.SymbolicDim] | None) -> list[int | str | None]:
    """Returns sizes and symbols; None where one is not known, and nothing where nothing is."""
    return [dim if isinstance(dim, int) else dim.value for dim in shape or ()]


def _dims(shape: ir.Shape) -> tuple[int | str | None, ...]:
    return tuple(_dim(dim) for dim in shape)


def _dim(dim: int | ir.SymbolicDim) -> int | str | None:
    (value,) = dims_of([dim])
    return None if isinstance(value, str) and _INVENTED.fullmatch(value) else value
