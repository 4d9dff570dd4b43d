"""Exits attached to a network that has one: heads on values of its graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from eetoolkit_exporters.attaching.graft import graft
from eetoolkit_exporters.attaching.heads import (
    DENSE,
    WHOLE,
    Everywhere,
    FeatureLayout,
    Gather,
    Head,
    Pointwise,
    Whole,
    classifier,
    kinds_of,
    parts_of,
)  # fmt: skip
from eetoolkit_exporters.attaching.layout import layouts
from eetoolkit_exporters.attaching.part import Part
from eetoolkit_exporters.attaching.places import Place, choose_places, find_places
from eetoolkit_exporters.capturing.capture import Network, capture, check_deterministic
from eetoolkit_exporters.capturing.cascade import CascadeSource, open_source
from eetoolkit_exporters.capturing.dynamic_shapes import DynamicShapes
from eetoolkit_exporters.capturing.shapes import dims_of
from eetoolkit_exporters.capturing.side_by_side import Captured
from eetoolkit_exporters.capturing.source import LOGITS, ModelSource, Visits, returned_visits
from eetoolkit_exporters.criteria.builder import Builder
from eetoolkit_exporters.graph import names_of, values_of
from eetoolkit_runtime.arguments import checked
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import ExportError, first_line

FINAL = "final"
"""The name of the exit that is the network's own output."""

_MASKS = {
    "attention_mask": True, "input_mask": True, "mask": True,
    "key_padding_mask": False, "src_key_padding_mask": False, "padding_mask": False,
}  # fmt: skip
"""What a network may call a mask of shape (batch, steps), and whether it marks the steps that count."""

HeadSpec = str | nn.Module
"""A kind of head (`heads.parts_of`), or a module from features to logits."""


@dataclass(frozen=True)
class Base:
    """A network with one answer: its source, its graph, and what the source calls the answer."""

    source: ModelSource
    network: Network
    answer: str


def open_base(
    model: Any,
    example_inputs: Any,
    *,
    dynamic_batch: bool = True,
    dynamic_shapes: DynamicShapes = None,
    input_names: Sequence[str] | None = None,
) -> Base:
    """Returns a network that answers once.

    Raises:
        ExportError: A cascade, a network with exits, or one that torch cannot export.
    """
    source = open_source(model, example_inputs, input_names)
    if isinstance(source, CascadeSource):
        raise ExportError("a cascade has exits already; give its last network alone")
    if source.marked:
        raise ExportError(f"the network has exits already ({', '.join(source.marked)}); ee.export takes it as it is")
    answer = LOGITS if LOGITS in source.returned else source.returned[0] if len(source.returned) == 1 else None
    if answer is None:
        raise ExportError(
            f"the network returns {', '.join(source.returned)}; let it return its logits alone, or in a dict as "
            "`logits`; if these are its exits, ee.export takes it as it is"
        )
    network = capture(source, {FINAL: {LOGITS: answer}}, dynamic_batch=dynamic_batch, dynamic_shapes=dynamic_shapes)
    check_deterministic(network.graph)
    return Base(source, network, answer)


class MultiExit:
    """A network with heads at places of its graph, which `ee.export` takes; made by `attach_exits`.

    Attributes:
        places: Where each head stands, by exit.
        heads: The heads, torch modules, by exit; `fit_exits` trains them.
        network: The network's own graph, whose only exit is its answer.
    """

    def __init__(self, base: Base, places: Mapping[str, Place], heads: Mapping[str, HeadSpec]) -> None:
        self.source, self.network, self.answer = base.source, base.network, base.answer
        self.places = dict(sorted(places.items(), key=lambda named: named[1].share))
        self.inputs = base.source.inputs
        self.marked: dict[str, tuple[str, ...]] = {}
        self.untaken: dict[str, str] = {}
        self.last_exit = FINAL if FINAL not in self.places else f"{FINAL}_answer"
        self.exits = {name: {LOGITS: name} for name in (*self.places, self.last_exit)}
        self.returned = list(self.exits)
        self._values = {str(value.name): value for value in values_of(base.network.graph)}
        for place in self.places.values():
            self._values[place.value].shape = ir.Shape(place.shape)  # in which torch may have lost the batch
        self.heads = dict(self._make(heads))

    @property
    def final(self) -> ir.Value:
        """The network's own answer."""
        return next(iter(self.network.exits[0].outputs.values()))

    @cached_property
    def classes(self) -> int | None:
        """The axis of the network's own answer that holds its classes; None where that is not known."""
        rank = len(self.final.shape or ())
        return 1 if rank == 2 else layouts(self.network.graph)[self.final].channels

    @cached_property
    def mask(self) -> str | None:
        """The name of the input that says which steps of a sequence count."""
        masks = [value for value in self.network.graph.inputs if value.name in _MASKS and len(value.shape or ()) == 2]
        return str(masks[0].name) if masks else None

    def values_at(self, exit_: str) -> dict[str, ir.Value]:
        """Returns what the head of an exit reads: the features, and a mask of their steps where there is one."""
        found = {exit_: self._values[self.places[exit_].value]}
        layout = self.layout_at(exit_)
        if self.mask is not None and layout.is_sequence:
            mask = self._values[self.mask]
            if dims_of(mask.shape)[1] == dims_of(found[exit_].shape)[layout.positions[0]]:
                found[self.mask] = mask
        return found

    def layout_at(self, exit_: str) -> FeatureLayout:
        """Returns how the features at an exit lie."""
        place = self.places[exit_]
        sizes = tuple(size if isinstance(size, int) else None for size in dims_of(self._values[place.value].shape))
        return FeatureLayout(sizes, place.rows, place.channels)

    def kinds_at(self, exit_: str) -> tuple[str, ...]:
        """Returns the kinds of heads that may stand at an exit's place; a masked sequence has no last step to read."""
        kinds = kinds_of(self.layout_at(exit_))
        return tuple(kind for kind in kinds if kind != "last" or len(self.values_at(exit_)) == 1)

    def captured(self) -> Captured:
        """Returns the network's graph with the heads appended.

        Raises:
            ExportError: A head that was not fitted, or that torch cannot export.
        """
        unfitted = [name for name, head in self.heads.items() if not head.fitted]
        if unfitted:
            raise ExportError(f"the heads of {', '.join(unfitted)} are not fitted yet: call ee.fit_exits first")
        graph, found, final = self.appended({name: (name, head) for name, head in self.heads.items()})
        outputs = {**found, self.last_exit: final}
        graph.outputs[:] = list(outputs.values())
        return Captured(graph, outputs, limits=self.network.limits)

    def appended(self, modules: Mapping[str, tuple[str, nn.Module]]) -> tuple[ir.Graph, dict[str, ir.Value], ir.Value]:
        """Returns a copy of the network's graph with modules appended, what each gives, and the network's own answer.

        Args:
            modules: Each with the exit at which it reads what heads read there.
        """
        graph = self.network.graph.clone()
        values = {str(value.name): value for value in values_of(graph)}
        reading = {
            name: (module, [values[value] for value in self._names_at(exit_)])
            for name, (exit_, module) in modules.items()
        }
        return graph, append_modules(graph, reading), values[str(self.final.name)]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns each head's output, as PyTorch computes it, and the network's own, as its framework does."""
        taps, found = self.taps(inputs), {}
        for name, head in self.heads.items():
            given = [taps[value] if value in taps else inputs[value] for value in self._names_at(name)]
            with torch.no_grad():
                found[name] = head(*(torch.from_numpy(np.ascontiguousarray(each)) for each in given)).numpy()
        return {**found, self.last_exit: self.source.run(inputs)[self.answer]}

    def run_visits(self, inputs: Mapping[str, Array]) -> Visits:
        """Returns the heads' exits, and the network's own."""
        return returned_visits(self, self.run(inputs))

    def taps(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns what the places hold, by the names of their values, as the graph was captured."""
        return self._tapped.run(inputs)

    @cached_property
    def _tapped(self) -> Part:
        names = dict.fromkeys(place.value for place in self.places.values())
        return Part(self.network, {name: self._values[name] for name in names}, optimised=False)

    def _names_at(self, exit_: str) -> list[str]:
        return [str(value.name) for value in self.values_at(exit_).values()]

    def _make(self, heads: Mapping[str, HeadSpec]) -> Iterator[tuple[str, Head]]:
        """Yields the heads."""
        for name in [name for name in self.places if name in heads]:  # in the order in which they are met
            spec = heads[name]
            if isinstance(spec, Head):
                yield name, spec
                continue
            example, answer = self._example
            given = [torch.from_numpy(np.ascontiguousarray(example[value])) for value in self._names_at(name)]
            try:
                yield name, self._head(name, spec, given, answer)
            except ExportError as error:
                if not isinstance(spec, str):
                    raise ExportError(f"the head at {name!r}: {error}") from error
                fix = f"give one of your own, attach_exits(network, {{{name!r}: head}})"
                raise ExportError(f"no such head fits {name!r}: {error}; {fix}") from error

    @cached_property
    def _example(self) -> tuple[dict[str, Array], Array]:
        """What inputs and places hold for the example, and the network's own answer."""
        return {**self.inputs, **self.taps(self.inputs)}, self.source.run(self.inputs)[self.answer]

    def _head(self, name: str, spec: HeadSpec, given: Sequence[torch.Tensor], answer: Array) -> Head:
        if isinstance(spec, nn.Module):
            return _own(spec, given[0])
        rows = layouts(self.network.graph)[self.final].rows
        if rows:
            raise ExportError(f"the network answers {list(answer.shape)}, rows along axis {rows}; transpose them to 0")
        layout, masks = self.layout_at(name), self._names_at(name)[1:]
        keeps = _MASKS[masks[0]] if masks else True
        if answer.ndim == 2:
            parts, hidden = parts_of(spec)
            gathers = [(part, Gather(part, layout, keeps=keeps)) for part in parts]
            width = sum(gather(*given).shape[1] for _, gather in gathers)
            return Head(spec, gathers, classifier(width, answer.shape[1], hidden=hidden))
        if answer.ndim != given[0].ndim or answer.ndim < 3:
            raise ExportError(f"features are {list(given[0].shape)}, the network answers {list(answer.shape)}")
        axis, dims = self.classes, dims_of(self.final.shape)
        if axis is None:
            raise ExportError(f"which axis of the answer, {dims}, holds the classes is not known")
        places = [place for place in range(1, answer.ndim) if place != axis]
        size = [answer.shape[place] for place in places]
        same = size == [given[0].shape[place] for place in layout.positions]
        if not same and any(not isinstance(dims[place], int) for place in places):
            raise ExportError(f"the answer, {dims}, has other positions than the features, and these vary")
        everywhere = Everywhere(layout, None if same else size)
        width = given[0].shape[layout.channels]
        return Head(DENSE, [(DENSE, everywhere)], Pointwise(width, answer.shape[axis], axis))


def _own(module: nn.Module, features: torch.Tensor) -> Head:
    """Returns the head that a module of the user's own is.

    Raises:
        ExportError: It does not take the features.
    """
    head = Head(type(module).__name__, [(WHOLE, Whole())], module, fitted=True)
    try:
        with torch.no_grad():
            found = head(features)
    except Exception as error:
        raise ExportError(f"it fails on features of shape {list(features.shape)}: {first_line(error)}") from error
    if not isinstance(found, torch.Tensor):
        raise ExportError(f"it returns {type(found).__name__}, expected a tensor")
    return head


def append_modules(graph: ir.Graph, modules: Mapping[str, tuple[nn.Module, Sequence[ir.Value]]]) -> dict[str, ir.Value]:
    """Appends modules to a graph and returns what each gives, by name.

    Args:
        graph: The graph.
        modules: Each with the values of the graph that it reads.
    """
    values = {str(value.name): value for _, given in modules.values() for value in given}
    numbers = {name: number for number, name in enumerate(values)}
    which = [[numbers[str(value.name)] for value in given] for _, given in modules.values()]
    build = Builder(Network(graph, [], ordered=False), list(values.values()), "", names_of(graph))
    found = graft(build, _Each([module for module, _ in modules.values()], which), values, "head")
    return dict(zip(modules, found, strict=True))


class _Each(nn.Module):
    """Modules side by side, each of which takes some of the values."""

    def __init__(self, modules: Sequence[nn.Module], which: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.inner, self.which = nn.ModuleList(modules), which

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns what each gives."""
        return tuple(
            module(*(values[number] for number in numbers))
            for module, numbers in zip(self.inner, self.which, strict=True)
        )


@checked(ExportError, but=("heads",))
def attach_exits(
    model: Any,
    heads: Sequence[str] | Mapping[str, HeadSpec],
    example_inputs: Any,
    *,
    head: str = "mean",
    dynamic_batch: bool = True,
    dynamic_shapes: DynamicShapes = None,
    input_names: Sequence[str] | None = None,
) -> MultiExit:
    """Returns a trained network with heads at places of its graph, for `fit_exits` and then `ee.export`.

    The network's code, weights and answers stay untouched; its own answer is the last exit, `final`.

    Args:
        model: A `torch.nn.Module` in evaluation mode or the path of an `.onnx` file, with one output, or one that is
            called `logits`.
        heads: Places, as `ee.find_exits` names them; or for each the kind of its head, or a module from features to
            logits that has been trained, or is to be.
        example_inputs: As `ee.export` takes them.
        head: The kind of heads at places without one: `mean`, `max`, `grid` (2 x 2 means of an image), `first` or
            `last` (steps of a sequence), or several with `+`; then a linear layer, or two with `+mlp`. Steps that an
            `attention_mask` leaves out do not count. Where the network answers at every position (a segmentation,
            tags of tokens) so does the head.
        dynamic_batch: As for `ee.export`.
        dynamic_shapes: As for `ee.export`.
        input_names: As for `ee.export`.

    Raises:
        ExportError: No such place, no heads, or a head that does not fit there.
    """
    if not heads or isinstance(heads, str | bytes) or not isinstance(heads, Mapping | Sequence):
        raise ExportError(f"heads is {heads!r}, expected places, or a mapping from places to heads")
    if len(set(heads)) != len(heads):
        raise ExportError(f"a place stands twice in {list(heads)}")
    wanted = {name: heads[name] if isinstance(heads, Mapping) else head for name in heads}
    wrong = [spec for spec in wanted.values() if not isinstance(spec, str | nn.Module)]
    if wrong:
        raise ExportError(f"a head is {type(wrong[0]).__name__}, expected a kind such as 'mean+max', or a module")
    base = open_base(
        model, example_inputs, dynamic_batch=dynamic_batch, dynamic_shapes=dynamic_shapes, input_names=input_names
    )
    places = choose_places(find_places(base.network, base.source.inputs), list(wanted))
    return MultiExit(base, dict(zip(wanted, places, strict=True)), wanted)
