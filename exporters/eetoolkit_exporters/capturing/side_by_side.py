"""The stages of a cascade in one graph: they share their inputs, and each node keeps the opset of its own stage."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from eetoolkit_exporters.capturing.marker import Mark
from eetoolkit_exporters.capturing.symbols import Dim, rename_symbols
from eetoolkit_exporters.graph import fresh, values_of
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.plan.types import Limit
from eetoolkit_runtime.running.inputs import BATCH


@dataclass(frozen=True)
class Captured:
    """A network as a graph: what it returns by name, what it marks, and which sizes it takes."""

    graph: ir.Graph
    outputs: dict[str, ir.Value]
    marks: Sequence[Mark] = ()
    limits: dict[str, Limit] = field(default_factory=dict)


def put_side_by_side(stages: Sequence[Captured], inputs: Sequence[Mapping[str, str]]) -> Captured:
    """Returns the stages as one graph.

    A dimension that one stage fixes is fixed for all; what varies in all of them has the first stage's name.

    Args:
        stages: Their graphs are taken apart.
        inputs: For each stage, the cascade's name of each of its inputs.

    Raises:
        ExportError: Stages that want an input of different dtypes or shapes.
    """
    limits = _share_dimensions(stages, inputs)
    found: dict[str, ir.Value] = {}
    shared: dict[str, ir.Value] = {}
    nodes: list[ir.Node] = []
    initializers: list[ir.Value] = []
    opsets: dict[str, int] = {}
    for number, (stage, names) in enumerate(zip(stages, inputs, strict=True)):
        graph, outputs, prefix = stage.graph, stage.outputs, f"stage{number}."
        graph.outputs.clear()
        for value in list(graph.inputs):
            name = names[str(value.name)]
            kept = shared.setdefault(name, value)
            if kept is not value:
                value.replace_all_uses_with(kept)
                outputs = {key: kept if output is value else output for key, output in outputs.items()}
            else:
                kept.name = name
        found.update({f"{prefix}{name}": value for name, value in outputs.items()})
        own = set(graph.inputs)
        initializers.extend(graph.initializers.values())
        for value in list(values_of(graph)):
            if value not in own and value.name:
                value.name = f"{prefix}{value.name}"
        for node in graph.all_nodes():
            node.name = f"{prefix}{node.name}"
        opsets.update(graph.opset_imports)
        graph.inputs.clear()
        graph.initializers.clear()
        stage_nodes = list(graph)
        graph.remove(stage_nodes)
        nodes.extend(stage_nodes)
    merged = ir.Graph(
        list(shared.values()), [], nodes=nodes, initializers=initializers, opset_imports=opsets, name="cascade"
    )
    return Captured(merged, found, limits=limits)


class _Alike:
    """Dimensions of the stages that are one: a forest, in which a dimension's root stands for all of its tree."""

    def __init__(self) -> None:
        self._parents: dict[Hashable, Hashable] = {}

    def root(self, key: Hashable) -> Hashable:
        """Returns what stands for a dimension."""
        while (parent := self._parents.setdefault(key, key)) != key:
            key = parent
        return key

    def join(self, one: Hashable, other: Hashable) -> None:
        """Makes two dimensions one; sizes stand for names, and `batch` for any other."""
        roots = sorted((self.root(one), self.root(other)), key=lambda root: (not isinstance(root, int), root != BATCH))
        self._parents[roots[1]] = roots[0]


def _share_dimensions(stages: Sequence[Captured], inputs: Sequence[Mapping[str, str]]) -> dict[str, Limit]:
    """Gives the dimensions of the stages' inputs that are one the same name or size; returns their limits."""
    alike = _Alike()
    first: dict[str, tuple[ir.Value, list[Hashable]]] = {}
    for number, (stage, names) in enumerate(zip(stages, inputs, strict=True)):
        for value in stage.graph.inputs:
            dims = [_key(number, dim) for dim in value.shape or ()]
            kept, known = first.setdefault(names[str(value.name)], (value, dims))
            if kept.dtype != value.dtype or len(dims) != len(known):
                raise _apart(number, value, kept)
            for mine, other in zip(dims, known, strict=True):
                roots = {alike.root(mine), alike.root(other)}
                if len(roots) == 2 and all(isinstance(root, int) for root in roots):
                    raise _apart(number, value, kept)
                alike.join(mine, other)
    used = {BATCH}
    named: dict[Hashable, Dim] = {BATCH: BATCH}
    limits: dict[str, Limit] = {}
    for number, stage in enumerate(stages):
        renamed: dict[str, Dim] = {}
        for symbol in _symbols(stage.graph):
            root = alike.root(_key(number, symbol))
            if not isinstance(root, int) and root not in named:
                named[root] = fresh(symbol, used)
            renamed[symbol] = root if isinstance(root, int) else named[root]
        rename_symbols(stage.graph, renamed)
        for symbol, limit in stage.limits.items():
            if isinstance(name := renamed[symbol], str):
                limits[name] = _both(limits.get(name, Limit()), limit)
    return limits


def _key(number: int, dim: int | str | ir.SymbolicDim) -> Hashable:
    size = dim.value if isinstance(dim, ir.SymbolicDim) else dim
    return size if isinstance(size, int) or size == BATCH else (number, size)


def _symbols(graph: ir.Graph) -> list[str]:
    dims = [dim for value in graph.inputs for dim in value.shape or () if not isinstance(dim, int)]
    return list(dict.fromkeys(dim.value for dim in dims if dim.value is not None))


def _both(one: Limit, other: Limit) -> Limit:
    most = [limit.max for limit in (one, other) if limit.max is not None]
    return Limit(min=max(one.min, other.min), max=min(most, default=None))


def _apart(number: int, value: ir.Value, kept: ir.Value) -> ExportError:
    return ExportError(
        f"stage {number}: input {value.name!r} is {value.dtype}{value.shape}, the first stage's is "
        f"{kept.dtype}{kept.shape}; put the conversion into the stage's network"
    )
