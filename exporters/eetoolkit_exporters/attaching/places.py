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
from eetoolkit_runtime.errors import ExportError, did_you_mean
from eetoolkit_runtime.plan.types import Dim
from eetoolkit_runtime.running.inputs import BATCH

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
        also: Further modules whose output it is.
    """

    name: str
    value: str
    share: float
    shape: tuple[Dim, ...]
    channels: int
    rows: int
    alone: bool
    also: tuple[str, ...] = ()

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
    operator with weights are unknown, shares are counted in such operators.

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
class _Spot:
    """A value that most of the later work builds on: its node, and the work up to there."""

    number: int
    value: ir.Value
    work: int
    alone: bool


@dataclass(frozen=True)
class _Candidate:
    """One that a head can read: its axes, whether a module ends there, and how deep this lies."""

    spot: _Spot
    layout: Layout
    depth: int
    ends: bool

    @property
    def work(self) -> int:
        """Returns the work up to there."""
        return self.spot.work

    @property
    def pooled(self) -> bool:
        """Whether it has no positions any more."""
        dims = dims_of(self.spot.value.shape)
        return all(dim == 1 for axis, dim in enumerate(dims) if axis not in (self.layout.rows, self.layout.channels))


def choose_places(places: Sequence[Place], names: Iterable[str]) -> list[Place]:
    """Returns the places that names mean: their own, those of further modules that end there, or of values.

    Raises:
        ExportError: No such place.
    """
    known: dict[str, Place] = {}
    for place in places:
        for name in (place.name, *place.also, place.value):
            known.setdefault(name, place)
    for name in names:
        if name not in known:
            own = [place.name for place in places]
            listed = ", ".join(own[:8]) + (", ..." if len(own) > 8 else "")
            raise ExportError(f"the network has no place {name!r}; it has {listed}{did_you_mean(name, known)}")
    return [known[name] for name in names]


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
    spots = list(_spots(weighted, whole))
    candidates = sorted(_candidates(spots, weighted, names, layouts(network.graph)), key=_by_work)
    strict = [candidate for candidate in candidates if candidate.spot.alone]
    found = _thinned(_chain(strict, weighted), whole)
    modules = any(candidate.ends for candidate in candidates)
    relaxed = [candidate for candidate in candidates if not candidate.spot.alone and candidate.ends == modules]
    for depth in sorted({candidate.depth for candidate in relaxed}):
        long = [candidate for candidate in relaxed if candidate.depth == depth and _in_long(candidate, found, whole)]
        if long:
            found = sorted([*found, *_thinned(_chain(long, weighted), whole)], key=_by_work)
    if not found or whole - found[0].work <= _SAME * whole:
        raise ExportError(f"the network has no place for an exit: {_reason(weighted, names, spots, found)}")
    dynamic = any(BATCH in dims_of(value.shape) for value in network.graph.inputs)
    return tuple(_place(candidate, weighted, names, whole, dynamic=dynamic) for candidate in found)


def _by_work(candidate: _Candidate) -> tuple[int, int]:
    return candidate.work, candidate.spot.number


def _spots(weighted: Weighted, whole: int) -> Iterator[_Spot]:
    """Yields the floating-point values behind the first work or lookup, and before the last, that may be places."""
    for number, before in enumerate(weighted.before):
        work = weighted.work_of(before)
        if work < whole and (work > 0 or before & weighted.lookups):
            beside = whole - weighted.work_of(before | weighted.after[number])
            for value in weighted.made(number):
                alone = weighted.alone(number, value)
                floats = value.dtype is not None and value.dtype.is_floating_point()
                tolerated = whole * (_BESIDE if alone else _BESIDE_RELAXED)
                if floats and not weighted.returned(value) and beside <= tolerated:
                    yield _Spot(number, value, work, alone)


def _candidates(
    spots: Iterable[_Spot], weighted: Weighted, names: ModuleNames, found: Mapping[ir.Value, Layout]
) -> Iterator[_Candidate]:
    """Yields those that a head can read: of rank 2 to 4, with known axes of rows and channels."""
    for spot in spots:
        layout, dims = found.get(spot.value), dims_of(spot.value.shape)
        if layout is not None and len(dims) in _RANKS and isinstance(dims[layout.channels], int):
            readers = weighted.readers_of(spot.value)
            ends = bool(names.ends(spot.value, readers))
            yield _Candidate(spot, layout, names.depth(spot.value, readers), ends)


def _chain(candidates: Sequence[_Candidate], weighted: Weighted) -> list[_Candidate]:
    """Returns those of candidates, by their work, each of which needs the one before: the last one, and on its way."""
    chain: list[_Candidate] = []
    for candidate in reversed(candidates):
        if not chain or weighted.before[chain[-1].spot.number] >> candidate.spot.number & 1:
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
    return [max(group, key=lambda c: (not c.pooled, -c.depth, c.spot.number)) for group in groups]


def _in_long(candidate: _Candidate, found: Sequence[_Candidate], whole: int) -> bool:
    """Whether a candidate lies in a long stretch of work without a place, and apart from its ends."""
    before = max((place.work for place in found if place.work <= candidate.work), default=0)
    after = min((place.work for place in found if place.work > candidate.work), default=whole)
    return after - before > _LONG * whole and min(candidate.work - before, after - candidate.work) > _SAME * whole


def _place(candidate: _Candidate, weighted: Weighted, names: ModuleNames, whole: int, *, dynamic: bool) -> Place:
    value, layout = candidate.spot.value, candidate.layout
    dims = dims_of(value.shape)
    if dynamic:
        dims[layout.rows] = BATCH  # torch has lost it on some ways
    return Place(
        name=_named(value, weighted, names),
        value=str(value.name),
        share=candidate.work / whole,
        shape=tuple(dims),
        channels=layout.channels,
        rows=layout.rows,
        alone=candidate.spot.alone,
        also=names.ends(value, weighted.readers_of(value))[1:],
    )


def _reason(weighted: Weighted, names: ModuleNames, spots: Sequence[_Spot], found: Sequence[_Candidate]) -> str:
    """Returns why a network has no place, or none that comes early enough to save work."""
    steps = [node.outputs[0] for node, work in zip(weighted.nodes, weighted.work, strict=True) if work]
    if not steps:
        return "it multiplies nothing that depends on its inputs with weights, and an exit could save nothing"
    if len(steps) == 1:
        return f"all its work is one step, {_named(steps[0], weighted, names)!r}"
    if spots and not found:
        where = _named(spots[-1].value, weighted, names)
        return f"of {where!r} and others the axes of rows and channels are not known; mark an exit with ee.exit"
    alive = weighted.alive_halfway()
    if len(alive) > 1:
        one, other = (_named(value, weighted, names) for value in (alive[0], alive[-1]))
        return (
            f"halfway {one!r} and {other!r} are both needed, and no value leads to all that follows (two streams that "
            "meet at the end?); mark an exit that reads what you choose with ee.exit"
        )
    return f"nearly all its work comes before the first, {_named(found[0].spot.value, weighted, names)!r}"


def _named(value: ir.Value, weighted: Weighted, names: ModuleNames) -> str:
    return names.name(value, weighted.readers_of(value))
