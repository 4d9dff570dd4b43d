"""Where exits can stand in a trained network: values behind which nothing else that it computed is needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from eetoolkit_exporters.attaching.layout import Layout, layouts
from eetoolkit_exporters.attaching.module_names import ModuleNames
from eetoolkit_exporters.attaching.weighted import Weighted, weigh
from eetoolkit_exporters.capturing.capture import Network, capture
from eetoolkit_exporters.capturing.cascade import CascadeSource, open_source
from eetoolkit_exporters.capturing.dynamic_shapes import DynamicShapes
from eetoolkit_exporters.capturing.shapes import dims_of
from eetoolkit_runtime.arguments import checked
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.plan.types import Dim

# Shares of the whole network's work.
_SAME = 0.005  # places that are no further apart are one; blocks of a network of a hundred are
_LONG = 1 / 3  # a stretch without a place where one tensor is alone
_BESIDE = 1 / 3  # what may be left to do that neither leads to a place nor follows from it
_BESIDE_RELAXED = 0.1
_RANKS = (2, 3, 4)


@dataclass(frozen=True, repr=False)
class Place:
    """A value of a network on which an exit can stand.

    Attributes:
        name: The outermost torch module whose output it is (`layer1.0`; `layer:3` for the fourth call of a module that
            is called more than once); else the value's own, behind the module in which it was made (`layer1.0/add_7`).
        value: Its name in the graph.
        share: The multiply-adds up to there over the whole network's, 0 to 1.
        shape: Sizes and symbols.
        channels: The axis of its channels.
        rows: The axis of its rows.
        alone: Whether no other tensor that depends on inputs and weights is alive there.
    """

    name: str
    value: str
    share: float
    shape: tuple[Dim, ...]
    channels: int
    rows: int
    alone: bool

    def __repr__(self) -> str:
        """Returns a line: `Place('layer1.0', 12.3 % of the work, [batch, 64, 8, 8])`."""
        dims = ", ".join("?" if dim is None else str(dim) for dim in self.shape)
        beside = "" if self.alone else ", other tensors are alive"
        return f"Place({self.name!r}, {self.share:.1%} of the work, [{dims}]{beside})"


@checked(ExportError)
def find_exits(
    model: Any,
    example_inputs: Any = None,
    *,
    dynamic_batch: bool = True,
    dynamic_shapes: DynamicShapes = None,
    input_names: Sequence[str] | None = None,
) -> tuple[Place, ...]:
    """Returns the places of a trained network where exits can stand, by the share of work up to there.

    A place is a value that all later work builds on, with no other tensor alive that depends on inputs and weights: the
    ends of blocks, whatever the architecture. Where more than a third of the work has no such value, ends of modules
    are places as well beside which others are alive (`alone` is False). Places within half a percent of the work of
    each other are one. Of several outputs the last one counts, and what it needs. Where the multiply-adds of an
    operator are unknown, shares are counted in operators with weights.

    Args:
        model: A `torch.nn.Module` in evaluation mode, or the path of an `.onnx` file (opset 13 and up).
        example_inputs: One example of every input: a tensor or array, a tuple, or a mapping by name. For an `.onnx`
            file with float inputs None draws random ones.
        dynamic_batch: Whether the number of rows may vary.
        dynamic_shapes: Further dynamic dimensions: for an input's name, {axis: symbol}.
        input_names: What the inputs are called; None: as `forward` calls them.

    Raises:
        ExportError: A network that cannot be captured, or has no such place; it says why.
    """
    source = open_source(model, example_inputs, input_names)
    if isinstance(source, CascadeSource):
        raise ExportError("model is a list of networks, a cascade, which has its exits already; pass one network")
    network = capture(source, source.exits, dynamic_batch=dynamic_batch, dynamic_shapes=dynamic_shapes)
    return find_places(network, source.inputs)


@dataclass(frozen=True)
class _Candidate:
    """A value with a known layout: what it needs, and what it would be called."""

    number: int
    value: ir.Value
    work: int
    layout: Layout
    depth: int
    alone: bool

    @property
    def pooled(self) -> bool:
        """Whether it has no positions any more."""
        dims = dims_of(self.value.shape)
        return all(dim == 1 for axis, dim in enumerate(dims) if axis not in (self.layout.rows, self.layout.channels))


def find_places(network: Network, example: Mapping[str, Array]) -> tuple[Place, ...]:
    """Returns the places of a captured network, by the share of work up to there.

    Args:
        network: The network.
        example: Its example inputs.

    Raises:
        ExportError: It has no place; why.
    """
    weighted = weigh(network, example)
    names = ModuleNames(weighted.nodes)
    whole = int(weighted.work.sum())
    candidates = sorted(_candidates(weighted, names, layouts(network.graph)), key=_by_work)
    strict = [candidate for candidate in candidates if candidate.alone]
    found = _thinned(_chain(strict, weighted), whole)
    relaxed = [candidate for candidate in candidates if not candidate.alone]
    for depth in sorted({candidate.depth for candidate in relaxed}):
        long = [candidate for candidate in relaxed if candidate.depth == depth and _in_long(candidate, found, whole)]
        if long:
            found = sorted([*found, *_thinned(_chain(long, weighted), whole)], key=_by_work)
    if not found:
        raise ExportError(f"the network has no place for an exit: {_reason(weighted)}")
    return tuple(_place(candidate, weighted, names, whole) for candidate in found)


def _by_work(candidate: _Candidate) -> tuple[int, int]:
    return candidate.work, candidate.number


def _candidates(weighted: Weighted, names: ModuleNames, found: Mapping[ir.Value, Layout]) -> Iterator[_Candidate]:
    """Yields the values that have a layout, lie before the last work, and that most of the later work builds on."""
    whole = int(weighted.work.sum())
    for number in range(len(weighted.nodes)):
        work = weighted.work_of(weighted.before[number])
        if work == whole or (work == 0 and not weighted.before[number] & weighted.lookups):
            continue
        beside = whole - weighted.work_of(weighted.before[number] | weighted.after[number])
        for value in weighted.made(number):
            alone = weighted.alone(number, value)
            layout = found.get(value, Layout())
            if not layout.known or not _is_feature(value) or weighted.returned(value):
                continue
            if beside <= whole * (_BESIDE if alone else _BESIDE_RELAXED):
                depth = names.depth(value, weighted.readers_of(value))
                yield _Candidate(number, value, work, layout, depth, alone)


def _is_feature(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point() and len(value.shape or ()) in _RANKS


def _chain(candidates: Sequence[_Candidate], weighted: Weighted) -> list[_Candidate]:
    """Returns those of candidates, by their work, each of which needs the one before: the last one, and on its way."""
    chain: list[_Candidate] = []
    for candidate in reversed(candidates):
        if not chain or weighted.before[chain[-1].number] >> candidate.number & 1:
            chain.append(candidate)
    return chain[::-1]


def _thinned(candidates: Iterable[_Candidate], whole: int) -> list[_Candidate]:
    """Returns one of those that are as good as at the same share of the work.

    It is one that still has positions, of the outermost module, and of these the last: behind what normalises it.
    """
    groups: list[list[_Candidate]] = []
    for candidate in candidates:
        if groups and candidate.work - groups[-1][0].work <= _SAME * whole:
            groups[-1].append(candidate)
        else:
            groups.append([candidate])
    return [max(group, key=lambda c: (not c.pooled, -c.depth, c.number)) for group in groups]


def _in_long(candidate: _Candidate, found: Sequence[_Candidate], whole: int) -> bool:
    """Whether a candidate lies in a long stretch of work without a place, and apart from its ends."""
    before = max((place.work for place in found if place.work <= candidate.work), default=0)
    after = min((place.work for place in found if place.work > candidate.work), default=whole)
    return after - before > _LONG * whole and min(candidate.work - before, after - candidate.work) > _SAME * whole


def _place(candidate: _Candidate, weighted: Weighted, names: ModuleNames, whole: int) -> Place:
    value, layout = candidate.value, candidate.layout
    if layout.rows is None or layout.channels is None:
        raise ValueError(f"{value.name}: a candidate has a known layout")
    return Place(
        name=names.name(value, weighted.readers_of(value)),
        value=str(value.name),
        share=candidate.work / whole,
        shape=tuple(dims_of(value.shape)),
        channels=layout.channels,
        rows=layout.rows,
        alone=candidate.alone,
    )


def _reason(weighted: Weighted) -> str:
    """Returns why a network has no place."""
    steps = [node for node, work in zip(weighted.nodes, weighted.work, strict=True) if work]
    if not steps:
        return "it multiplies nothing that depends on its inputs with weights, and an exit could save nothing"
    if len(steps) == 1:
        return f"all its work is one step, {steps[0].outputs[0].name!r}"
    alive = weighted.alive_halfway()
    if len(alive) > 1:
        return (
            f"halfway {alive[0]!r} and {alive[-1]!r} are both needed, and no value leads to all that follows (two "
            "streams that meet at the end?); mark an exit that reads what you choose: ee.exit"
        )
    return "of no value before the last work the axes of rows and channels are known; mark an exit: ee.exit"
