"""A torch network as a source: it runs eagerly, and what `forward` returns are its exits."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from eetoolkit_exporters.capturing.marker import any_marked, forget_visits, watching
from eetoolkit_exporters.capturing.outputs import other_outputs, walk_outputs
from eetoolkit_exporters.capturing.source import LOGITS, Visits, returned_visits, to_array
from eetoolkit_exporters.capturing.torch_errors import from_tracing, known, reason
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import ExportError

_DTYPES = {
    torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64,
    torch.uint32, torch.uint16, torch.uint8, torch.bool,
}  # fmt: skip


class TorchSource:
    """A `torch.nn.Module` in evaluation mode.

    Args:
        module: Its `forward` returns tensors, in whatever `walk_outputs` takes.
        example_inputs: A tensor or array, a tuple of them in `forward`'s order, or a mapping by parameter name.
        input_names: Names of the inputs in the bundle; None: those of `forward`'s parameters.

    Attributes:
        parameters: What `forward` calls the inputs that it takes by place.
        rest: Its `*args`, if it has them.
        others: Its `**kwargs`.

    Raises:
        ExportError: Training mode, inputs that `forward` does not take, or no outputs.
    """

    def __init__(self, module: torch.nn.Module, example_inputs: Any, input_names: Sequence[str] | None = None) -> None:
        _check_evaluation(module)
        self.module = module
        self.keywords: tuple[str, ...] | None = None
        self.parameters, self.rest, self.others = parameters_of(module)
        if example_inputs is None:
            raise ExportError("example_inputs is None: a torch network needs one example of every input")
        _check_flat(example_inputs)
        if isinstance(example_inputs, Mapping):
            self.keywords = tuple(example_inputs)
            tensors = [to_tensor(value) for value in example_inputs.values()]
        elif isinstance(example_inputs, tuple | list):
            tensors = [to_tensor(value) for value in example_inputs]
        else:
            tensors = [to_tensor(example_inputs)]
        names = list(input_names) if input_names is not None else self._parameter_names(len(tensors))
        if len(names) != len(tensors) or len(set(names)) != len(names):
            raise ExportError(f"input_names are {names}, expected {len(tensors)} different names")
        self.inputs = {name: _numpy(tensor, f"input {name!r}") for name, tensor in zip(names, tensors, strict=True)}
        outputs, self.marked = self._first_call(tensors)
        self.untaken = other_outputs(outputs)
        found: dict[str, dict[str, str]] = {}
        self.returned: list[str] = []
        for exit_, output, tensor in walk_outputs(outputs):
            _numpy(tensor, f"exit {exit_!r}")
            flat = f"{exit_}.{output}" if output else exit_
            if flat in self.returned:
                raise ExportError(f"two outputs are called {flat!r}; give each its own name")
            self.returned.append(flat)
            found.setdefault(exit_, {})[output or LOGITS] = flat
        self.exits: dict[str, dict[str, str]] = {}
        for name, marked in self.marked.items():
            if set(found.get(name, marked)) != set(marked):
                raise ExportError(
                    f"exit {name!r} is marked with outputs {', '.join(marked)} and returned with "
                    f"{', '.join(found[name])}; give both the same outputs, or names of their own"
                )
            self.exits[name] = {output: f"marked:{name}.{output}" for output in marked}
        self.exits.update(found)

    def _first_call(self, tensors: Sequence[torch.Tensor]) -> tuple[Any, dict[str, tuple[str, ...]]]:
        """Returns what the module returns, and the exits that it marks, in branches not taken too.

        PyTorch traces both branches, but only once: where an exit was ever marked, what it remembers is thrown away.
        """
        outputs = self.call(tensors)
        if not any_marked():
            return outputs, {}
        torch.compiler.reset()
        with watching() as watcher:
            outputs = self.call(tensors)
        return outputs, {name: tuple(arrays) for name, arrays in watcher.visits} | watcher.traced

    def call(self, tensors: Sequence[torch.Tensor]) -> Any:
        """Returns what the module itself returns, without gradients.

        Raises:
            ExportError: The module fails.
        """
        try:
            with torch.no_grad():
                if self.keywords is not None:
                    return self.module(**dict(zip(self.keywords, tensors, strict=True)))
                return self.module(*tensors)
        except Exception as error:
            shapes = ", ".join(f"{tuple(tensor.shape)} {tensor.dtype}".replace("torch.", "") for tensor in tensors)
            said = reason(error) if from_tracing(error) else known(error) or " ".join(str(error).split())
            raise ExportError(f"the network fails on inputs of {shapes}: {said}") from error

    def arguments(self) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
        """Returns the example as `forward` takes it: by place and by keyword."""
        tensors = tuple(map(to_tensor, self.inputs.values()))
        return (tensors, {}) if self.keywords is None else ((), dict(zip(self.keywords, tensors, strict=True)))

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns the outputs by name, as eager PyTorch computes them.

        PyTorch compiles branches and loops even so, anew for other numbers of rows, and torch 2.13 fails on some with
        one row (a KeyError). As they stand they run at once, but for those whose states are in dicts.
        """
        tensors = [to_tensor(inputs[name]) for name in self.inputs]
        try:
            with torch.compiler.set_stance("force_eager"):
                outputs = self.call(tensors)
        except ExportError:
            forget_visits()
            outputs = self.call(tensors)
        return {
            f"{exit_}.{output}" if output else exit_: tensor.detach().cpu().numpy()
            for exit_, output, tensor in walk_outputs(outputs)
        }

    def run_visits(self, inputs: Mapping[str, Array]) -> Visits:
        """Returns every exit met, in order: the marked ones as they were passed, then those that are returned."""
        with watching() as watcher:
            return watcher.visits + returned_visits(self, self.run(inputs))

    def _parameter_names(self, count: int) -> list[str]:
        if self.keywords is not None:
            return list(self.keywords)
        return [self.parameters[i] if i < len(self.parameters) else f"input{i}" for i in range(count)]


def parameters_of(module: torch.nn.Module) -> tuple[tuple[str, ...], str | None, str | None]:
    """Returns what `forward` calls the inputs that it takes by place, and its `*args` and `**kwargs` if it has them."""
    kinds = inspect.Parameter
    by_kind: dict[Any, list[str]] = {}
    for parameter in _signature(module).parameters.values():
        by_kind.setdefault(parameter.kind, []).append(parameter.name)
    places = (*by_kind.get(kinds.POSITIONAL_ONLY, ()), *by_kind.get(kinds.POSITIONAL_OR_KEYWORD, ()))
    rest, others = (next(iter(by_kind.get(kind, ())), None) for kind in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD))
    return places, rest, others


def _signature(module: torch.nn.Module) -> inspect.Signature:
    """Returns what `forward` takes; a module that wraps another one says whose inputs it hands on."""
    return inspect.signature(getattr(module, "stands_for", module).forward)


def keywords_of(module: torch.nn.Module) -> tuple[str, ...]:
    """Returns the inputs that `forward` takes by keyword alone."""
    parameters = _signature(module).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind == inspect.Parameter.KEYWORD_ONLY)


def _check_flat(example_inputs: Any) -> None:
    """Refuses an input that is several tensors, which would be stacked."""
    named = example_inputs if isinstance(example_inputs, Mapping) else {}
    if isinstance(example_inputs, tuple | list):
        named = {f"number {number}": value for number, value in enumerate(example_inputs)}
    for name, value in named.items():
        parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
        if any(isinstance(part, torch.Tensor | np.ndarray) for part in parts):
            raise ExportError(
                f"input {name} is a {type(value).__name__} of tensors; a bundle's inputs are tensors: let forward take "
                "them one by one, as in forward(self, x, h, c), and put them together inside"
            )


def to_tensor(value: Any) -> torch.Tensor:
    """Returns a tensor or anything array-like as a tensor in main memory, without gradients."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    return torch.from_numpy(np.asarray(to_array(value), order="C"))


def _check_evaluation(module: torch.nn.Module) -> None:
    if isinstance(module, torch.fx.GraphModule) and _calls_operators(module.graph):
        training, fix = _training_nodes(module.graph), "call model.eval() before torch.export.export"
    else:
        training = [name or type(module).__name__ for name, part in module.named_modules() if part.training]
        fix = "call model.eval() first (--weights does)"
    if training:
        shown = ", ".join(training[:3]) + (", ..." if len(training) > 3 else "")
        raise ExportError(f"the network is in training mode ({shown}): {fix}")
    lazy = [name for name, value in module.named_parameters() if torch.nn.parameter.is_lazy(value)]
    if lazy:
        raise ExportError(f"the parameters {', '.join(lazy)} have no values yet: run the network once, and train it")


def _calls_operators(graph: torch.fx.Graph) -> bool:
    """Whether a graph is one of torch.export, whose operators say what training does; its modules' flags do not."""
    return any(isinstance(node.target, torch._ops.OpOverload) for node in graph.nodes)


def _training_nodes(graph: torch.fx.Graph) -> list[str]:
    found = []
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            names = [argument.name for argument in node.target._schema.arguments]
            given = dict(zip(names, node.args, strict=False)) | node.kwargs
            if given.get("train") is True or given.get("training") is True:
                found.append(node.name)
    return found


def _numpy(tensor: torch.Tensor, what: str) -> Array:
    if tensor.dtype not in _DTYPES:
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise ExportError(f"{what} is {dtype}, which numpy and a device cannot hold; convert it to float32")
    return tensor.detach().cpu().numpy()
