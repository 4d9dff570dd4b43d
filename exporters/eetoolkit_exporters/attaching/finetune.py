"""A copy of a network trained together with heads at its places: the program that torch exports, with gradients."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.export.graph_signature import InputKind

from eetoolkit_exporters.attaching.attach import FINAL, Base, MultiExit
from eetoolkit_exporters.attaching.features import Progress
from eetoolkit_exporters.attaching.fit import Target, are_probabilities
from eetoolkit_exporters.attaching.part import row_axes_of
from eetoolkit_exporters.capturing.dynamic_shapes import DynamicShapes
from eetoolkit_exporters.capturing.shapes import dims_of
from eetoolkit_exporters.capturing.torch_export import PREFIX, trace_torch
from eetoolkit_exporters.capturing.torch_source import TorchSource
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import ExportError, first_line
from eetoolkit_runtime.verify import difference

_LEARNING_RATE = 1e-4
_BATCH = 32
_LEAST = 1e-9  # probability
_TOLERANCE = 1e-5  # of the largest value: what torch and the graph may differ by at a place


def finetune_network(
    model: MultiExit,
    inputs: Mapping[str, Array],
    target: Target,
    rows: Array,
    *,
    epochs: int,
    dynamic_shapes: DynamicShapes = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> nn.Module:
    """Returns a copy of the network that was trained together with copies of the heads, by Adam.

    The loss is that of the network's own answer plus the mean of the heads'. Statistics of normalisation and what does
    not require a gradient stay. A head learns only where torch's values are those of the graph.

    Args:
        model: A torch network with fitted heads; it is not changed.
        inputs: All rows, by the network's names.
        target: What all exits are to answer.
        rows: The numbers of the rows to train on.
        epochs: How often each is seen.
        dynamic_shapes: As the network was captured with.
        seed: Of the order of the rows.
        progress: Is told (what, done, total).

    Raises:
        ExportError: An ONNX file, a network that takes one row at a time, has nothing to train, or that torch cannot
            differentiate.
    """
    traced = Traced(check_trainable(model), model, dynamic_shapes)
    heads = nn.ModuleDict({str(number): copy.deepcopy(head) for number, head in enumerate(model.heads.values())})
    names = dict(zip(heads, model.heads, strict=True))
    axes = row_axes_of(model.network)

    def taken(some: Array) -> dict[str, Array]:
        return {
            name: array if (axis := axes.get(name)) is None else np.take(array, some, axis)
            for name, array in inputs.items()
        }

    learn = traced.agreeing(model, taken(rows[:_BATCH]))
    if not learn:
        raise ExportError("torch's values at the places differ from the graph's: the network cannot be fine-tuned")
    parameters = [*traced.trained, *heads.parameters()]
    for parameter in heads.parameters():
        parameter.requires_grad_()
    optimizer = torch.optim.Adam(parameters, _LEARNING_RATE)
    draw = np.random.default_rng(seed)
    batches = [batch for _ in range(epochs) for batch in _batches(draw.permutation(rows))]
    for number, batch in enumerate(batches):
        if progress is not None:
            progress("fine-tuning", number, len(batches))
        given = taken(batch)
        values = traced.run(given)
        losses = [
            target.of(heads[key](*(values[value] for value in reads)), batch)
            for key, name in names.items()
            if name in learn and (reads := [str(value.name) for value in model.values_at(name).values()])
        ]
        loss = target.of(values[FINAL], batch) + torch.stack(losses).mean()
        optimizer.zero_grad()
        try:
            loss.backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise ExportError(f"torch cannot differentiate the network: {first_line(error)}") from error
        optimizer.step()
    return traced.copy()


def check_trainable(model: Base | MultiExit) -> TorchSource:
    """Returns the source of a network that can be fine-tuned.

    Raises:
        ExportError: It says why.
    """
    if not isinstance(model.source, TorchSource):
        raise ExportError("an ONNX file cannot be fine-tuned: pass the torch module, or leave finetune at 0")
    axes = row_axes_of(model.network)
    sizes = {str(value.name): dims_of(value.shape) for value in model.network.graph.inputs}
    if any(axis is not None and isinstance(sizes[name][axis], int) for name, axis in axes.items()):
        raise ExportError("the network fixes its number of rows and cannot be fine-tuned: leave finetune at 0")
    if not any(parameter.requires_grad for parameter in model.source.module.parameters()):
        raise ExportError("no parameter requires a gradient: call requires_grad_() of what is to be fine-tuned")
    return model.source


def _batches(order: Array) -> Iterator[Array]:
    """Yields rows by the batch; the last one is as large as the others, or larger."""
    yield from np.array_split(order, max(len(order) // _BATCH, 1))


class Traced:
    """The program of a torch network, with parameters of its own."""

    def __init__(self, source: TorchSource, model: MultiExit, dynamic_shapes: DynamicShapes) -> None:
        self._module, self._names = source.module, list(source.inputs)
        self._program = trace_torch(source, dynamic_batch=True, dynamic_shapes=dynamic_shapes)
        self._wanted = {place.value for place in model.places.values()}
        self._answer = source.returned.index(model.answer)
        self._as_logs = are_probabilities(source.run(source.inputs)[model.answer])
        own = dict(source.module.named_parameters(remove_duplicate=False))
        once: dict[int, torch.Tensor] = {}  # parameters may be tied
        for parameter in own.values():
            clone = parameter.detach().clone().requires_grad_(parameter.requires_grad)
            once.setdefault(id(parameter), clone)
        self._parameters = {name: once[id(parameter)] for name, parameter in own.items()}
        self.trained = [parameter for parameter in once.values() if parameter.requires_grad]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, torch.Tensor]:
        """Returns the inputs, the values at places, and the network's answer as logits.

        Raises:
            ExportError: The program fails on these inputs.
        """
        given = {name: torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in self._names}
        kept = _Keeping(self._program.graph_module, self._wanted)
        try:
            answer = kept.run(*self._arguments(given))[self._answer]
        except Exception as error:
            raise ExportError(f"the network fails as torch's program: {first_line(error)}") from error
        return {**given, **kept.found, FINAL: answer.clamp(min=_LEAST).log() if self._as_logs else answer}

    def agreeing(self, model: MultiExit, inputs: Mapping[str, Array]) -> set[str]:
        """Returns the exits at whose places the program has the values of the graph."""
        with torch.no_grad():
            own = self.run(inputs)
        taps = model.taps(inputs)
        return {
            name
            for name, place in model.places.items()
            if place.value in own and difference(taps[place.value], own[place.value].numpy()) <= _TOLERANCE
        }

    def copy(self) -> nn.Module:
        """Returns the module with the parameters as they are now.

        Raises:
            ExportError: It cannot be copied.
        """
        try:
            found = copy.deepcopy(self._module)
        except Exception as error:
            raise ExportError(f"the network cannot be copied (copy.deepcopy): {first_line(error)}") from error
        with torch.no_grad():
            for name, parameter in found.named_parameters():
                parameter.copy_(self._parameters[name])
        return found

    def _arguments(self, inputs: Mapping[str, torch.Tensor]) -> Iterator[Any]:
        """Yields what the program takes: parameters, buffers, constants and inputs in turn."""
        program, given = self._program, iter(inputs.values())
        for spec in program.graph_signature.input_specs:
            target = spec.target or ""
            match spec.kind:
                case InputKind.USER_INPUT:
                    yield next(given)
                case InputKind.PARAMETER:
                    yield self._parameters[target.removeprefix(PREFIX)]
                case _:
                    yield program.state_dict[target] if target in program.state_dict else program.constants[target]


class _Keeping(fx.Interpreter):
    """Runs a program and keeps the values of some nodes, by name."""

    def __init__(self, program: fx.GraphModule, wanted: Collection[str]) -> None:
        super().__init__(program)
        self._wanted = wanted
        self.found: dict[str, torch.Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Returns the node's value."""
        value = super().run_node(n)
        if n.name in self._wanted:
            self.found[n.name] = value
        return value
