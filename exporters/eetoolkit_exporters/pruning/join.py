"""Joining segments that run one behind the other, and trimming what nothing looks at any more."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import msgspec
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from eetoolkit_exporters.emitting.graphs import read_model
from eetoolkit_exporters.single_file.graph_builder import GraphLevel, Shared
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.plan.types import Manifest, Segment, Slot, Source


@dataclass(frozen=True)
class Part:
    """A segment with its graph, whose weights are still in the files of the bundle that it comes from."""

    segment: Segment
    model: ir.Model | None


def join(bundle: Bundle, plan: Manifest, chain: Sequence[str]) -> Part:
    """Returns the segments of a chain as one.

    Args:
        bundle: Where the graphs are.
        plan: The bundle's plan without some exits.
        chain: Names of segments, each but the first the only one behind another, nothing decided between them.

    Raises:
        ExportError: Graphs of different opsets, which no single one can hold.
    """
    segments = [plan.segments[name] for name in chain]
    if len(chain) == 1:
        (segment,) = segments
        return Part(segment, _read(bundle, segment))
    joint = _Joint(plan)
    for name, segment in zip(chain, segments, strict=True):
        joint.add(name, segment, _read(bundle, segment))
    visits = [segment.max_visits for segment in segments if segment.max_visits is not None]
    return joint.part(chain[0], segments[-1], min(visits, default=None))


def _read(bundle: Bundle, segment: Segment) -> ir.Model | None:
    return None if segment.model is None else read_model(bundle, segment.model)


class _Joint:
    """A chain's graph in the making.

    What a slot holds after the segments so far is a value of the graph, or where to take it from: as all of them are
    one segment in the end, that is what a slot or constant held before the first of them.
    """

    def __init__(self, plan: Manifest) -> None:
        self._slots = {spec.name: Slot(dtype=spec.dtype, shape=spec.shape) for spec in plan.inputs} | plan.slots
        self._constants = plan.constants
        self._level = GraphLevel(Shared())
        self._held: dict[str, ir.Value | Source] = {}
        self._inputs: dict[str, ir.Value] = {}

    def add(self, name: str, segment: Segment, model: ir.Model | None) -> None:
        """Adds a segment behind the others."""
        outputs: dict[str, ir.Value] = {}
        if model is not None:
            inner = {str(value.name): value for value in model.graph.inputs}
            feeds = {read: self._value(segment.reads[read], value) for read, value in inner.items()}
            outputs = self._level.inline(model, feeds, name)
        self._held |= {slot: self._taken(source, outputs) for slot, source in segment.writes.items()}

    def part(self, name: str, last: Segment, max_visits: int | None) -> Part:
        """Returns the whole as a segment that ends as the last one does."""
        read = {id(value): slot for slot, value in self._inputs.items()}
        given: dict[tuple[int, Slot], str] = {}
        writes: dict[str, Source] = {}
        for slot, held in self._held.items():
            if isinstance(held, Source):
                writes[slot] = held
            elif id(held) in read:
                origin = read[id(held)]
                writes[slot] = Source(constant=origin) if origin in self._constants else Source(slot=origin)
            else:  # slots whose shapes are declared otherwise have an output each
                key = (id(held), self._slots[slot])
                if key not in given:
                    given[key] = self._give(held, slot)
                writes[slot] = Source(output=given[key])
        segment = Segment(
            reads={str(value.name): slot for slot, value in self._inputs.items()},
            writes=writes,
            exit=last.exit,
            next=last.next,
            max_visits=max_visits,
        )
        return Part(segment, self._model(name) if given else None)

    def _taken(self, source: Source, outputs: dict[str, ir.Value]) -> ir.Value | Source:
        if source.output is not None:
            return outputs[source.output]
        return source if source.slot is None else self._held.get(source.slot, source)

    def _value(self, slot: str, like: ir.Value) -> ir.Value:
        """Returns what a slot or constant holds as a value of the graph, an input where it comes from before."""
        held = self._held.get(slot, Source(slot=slot))
        if isinstance(held, ir.Value):
            return held
        origin = str(held.slot if held.constant is None else held.constant)
        if origin not in self._inputs:
            value = self._level.input(origin, like.dtype or ir.DataType.UNDEFINED)
            value.shape = like.shape
            self._inputs[origin] = value
        return self._inputs[origin]

    def _give(self, value: ir.Value, slot: str) -> str:
        self._level.give(value, slot)
        output = self._level.outputs[-1]
        output.name = self._level.shared.fresh(slot)
        return output.name

    def _model(self, name: str) -> ir.Model:
        shared, graph = self._level.shared, self._level.graph(name)
        for value in shared.initializers.values():
            graph.register_initializer(value)
        graph.opset_imports.update(shared.opsets)
        return ir.Model(graph, ir_version=shared.ir_version, producer_name="eetoolkit")


def trim(part: Part, looked_at: Collection[str]) -> Part:
    """Returns the part without the slots that nobody looks at, and all that computed only these."""
    writes = {slot: source for slot, source in part.segment.writes.items() if slot in looked_at}
    wanted = {source.output for source in writes.values()} - {None}
    if part.model is None or not wanted:
        changed = {"writes": writes} if part.model is None else {"writes": writes, "reads": {}, "model": None}
        return Part(msgspec.structs.replace(part.segment, **changed), None)
    graph = part.model.graph
    graph.outputs[:] = [value for value in graph.outputs if value.name in wanted]
    RemoveUnusedNodesPass()(part.model)
    graph.inputs[:] = [value for value in graph.inputs if value.uses() or value.is_graph_output()]
    reads = {str(value.name): part.segment.reads[str(value.name)] for value in graph.inputs}
    return Part(msgspec.structs.replace(part.segment, writes=writes, reads=reads), part.model)
