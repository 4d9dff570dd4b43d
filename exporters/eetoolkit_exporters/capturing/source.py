"""What a user hands over: a network that can be run as it is, whose outputs have names.

A source runs in its own framework, so it is the reference that a bundle is measured against.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch

from eetoolkit_exporters.capturing.marker import any_marked, watching
from eetoolkit_exporters.capturing.torch_errors import from_tracing, known, reason
from eetoolkit_runtime.errors import ExportError

Array = npt.NDArray[Any]
Model = torch.nn.Module | str | os.PathLike[str]
ExitSpec = Sequence[str] | Mapping[str, str | Mapping[str, str]]
"""Names of exits, or for each exit the output it is or the outputs it has, by the source's own names."""

_DTYPES = {
    torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64,
    torch.uint32, torch.uint16, torch.uint8, torch.bool,
}  # fmt: skip

Visits = list[tuple[str, dict[str, Array]]]
"""Exits in the order in which a network met them, each with its outputs."""

LOGITS = "logits"
"""What the output of an exit is called that is one tensor."""


class Source(Protocol):
    """A network that runs in its own framework."""

    inputs: dict[str, Array]
    """The example inputs by name, in order."""
    exits: dict[str, dict[str, str]]
    """The marked exits and those that its outputs show: for each, its outputs' names here and in the source."""
    marked: dict[str, tuple[str, ...]]
    """The exits that `ee.exit` marks in it, with their outputs' names."""
    returned: list[str]
    """The names of what it returns, in order."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns the outputs by the source's names."""
        ...

    def run_visits(self, inputs: Mapping[str, Array]) -> Visits:
        """Returns every exit met, in order: the marked ones as they were passed, then those that are returned."""
        ...


def choose_exits(source: Source, exits: ExitSpec | None) -> dict[str, dict[str, str]]:
    """Returns the exits to export: for each, its outputs' names in the answer and in the source.

    Raises:
        ExportError: No exit, an unknown name, or two exits with one name.
    """
    if not source.returned:
        raise ExportError("the network has no exit: its outputs are its exits, and it returned no tensor")
    if exits is None:
        return source.exits
    if isinstance(exits, str) or not isinstance(exits, Sequence | Mapping):
        raise ExportError(f"exits is {exits!r}, expected a list of names or a mapping")
    chosen: dict[str, dict[str, str]] = {}
    for name in exits:
        if name in chosen:
            raise ExportError(f"two exits are called {name!r}; give each its own name")
        chosen[name] = _chosen(source, name, exits[name] if isinstance(exits, Mapping) else name)
    if not chosen:
        raise ExportError("exits is empty: name at least one output")
    if not any(flat in source.returned for outputs in chosen.values() for flat in outputs.values()):
        raise ExportError(
            f"exits are {', '.join(chosen)}, all of them marked; name one that is returned too: it answers where none "
            "of them fires"
        )
    return chosen


def _chosen(source: Source, name: str, wanted: str | Mapping[str, str]) -> dict[str, str]:
    if isinstance(wanted, str) and wanted in source.exits:
        if wanted in source.marked and wanted != name:
            raise ExportError(f"exit {name!r}: {wanted!r} is marked in the network and keeps its name")
        return source.exits[wanted]
    if isinstance(wanted, Mapping) and wanted:
        outputs = dict(wanted)
    elif isinstance(wanted, str):
        outputs = {LOGITS: wanted}
    else:
        raise ExportError(f"exit {name!r} is {wanted!r}, expected an output's name or a mapping of outputs")
    for flat in outputs.values():
        if flat not in source.returned:
            known = ", ".join(sorted(source.returned))
            raise ExportError(f"exit {name!r}: no output {flat!r}; the outputs are {known}")
    return outputs


class TorchSource:
    """A `torch.nn.Module` in evaluation mode.

    Args:
        module: Its `forward` returns a tensor, or a tuple, list or dict of tensors or of dicts of tensors.
        example_inputs: A tensor or array, a tuple of them in `forward`'s order, or a mapping by parameter name.
        input_names: Names of the inputs in the bundle; None: those of `forward`'s parameters.

    Raises:
        ExportError: Training mode, inputs that `forward` does not take, or outputs that are not tensors.
    """

    def __init__(self, module: torch.nn.Module, example_inputs: Any, input_names: Sequence[str] | None = None) -> None:
        _check_evaluation(module)
        self.module = module
        self.keywords: tuple[str, ...] | None = None
        if example_inputs is None:
            raise ExportError("example_inputs is None: a torch network needs one example of every input")
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

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns the outputs by name, as eager PyTorch computes them.

        PyTorch compiles branches and loops even so, and torch 2.13 fails on some with one row (a KeyError):
        then they run as they stand, which knows no states in dicts.
        """
        tensors = [to_tensor(inputs[name]) for name in self.inputs]
        try:
            outputs = self.call(tensors)
        except ExportError as error:
            if not from_tracing(error):
                raise
            with torch.compiler.set_stance("force_eager"):
                outputs = self.call(tensors)
        return {
            f"{exit_}.{output}" if output else exit_: tensor.detach().cpu().numpy()
            for exit_, output, tensor in walk_outputs(outputs)
        }

    def run_visits(self, inputs: Mapping[str, Array]) -> Visits:
        """Returns every exit met, in order: the marked ones as they were passed, then those that are returned."""
        with watching() as watcher:
            return watcher.visits + _returned(self, self.run(inputs))

    def _parameter_names(self, count: int) -> list[str]:
        if self.keywords is not None:
            return list(self.keywords)
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = [p.name for p in inspect.signature(self.module.forward).parameters.values() if p.kind in kinds]
        return [parameters[i] if i < len(parameters) else f"input{i}" for i in range(count)]


def _returned(source: Source, found: Mapping[str, Array]) -> Visits:
    return [
        (name, {output: found[flat] for output, flat in outputs.items()})
        for name, outputs in source.exits.items()
        if all(flat in found for flat in outputs.values())
    ]


def walk_outputs(outputs: Any) -> Iterator[tuple[str, str | None, torch.Tensor]]:
    """Yields (exit, output, tensor) of what `forward` returned; output is None where the exit is one tensor.

    A tuple's or list's exits are `exit0`, `exit1`, ...; a mapping's are its keys; None is passed over.

    Raises:
        ExportError: Anything that is not a tensor.
    """
    if isinstance(outputs, torch.Tensor):
        outputs = (outputs,)
    if isinstance(outputs, Mapping):
        items = [(str(name), value) for name, value in outputs.items()]
    elif isinstance(outputs, tuple | list):
        items = [(f"exit{i}", value) for i, value in enumerate(outputs)]
    else:
        raise ExportError(f"forward returned {type(outputs).__name__}, expected a tuple, list or dict of tensors")
    for name, value in items:
        if isinstance(value, torch.Tensor):
            yield name, None, value
        elif isinstance(value, Mapping) and value and all(isinstance(v, torch.Tensor | None) for v in value.values()):
            for output, tensor in value.items():
                if tensor is not None:
                    yield name, str(output), tensor
        elif value is not None:
            raise ExportError(
                f"exit {name!r} is {type(value).__name__}, expected a tensor or a dict of tensors: it is not a "
                "function of the input that can be exported"
            )


class OnnxSource:
    """An `.onnx` file with one or more outputs, from any framework; it runs in onnxruntime without optimisations.

    Args:
        path: The file.
        example_inputs: An array, a tuple in the graph's order, a mapping by name, or None: random ones of its shapes.

    Raises:
        ExportError: The file cannot be loaded, or the inputs do not fit.
    """

    def __init__(self, path: str | os.PathLike[str], example_inputs: Any = None) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ExportError(f"{self.path} does not exist or is not a file; expected an .onnx file")
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(
                str(self.path), options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except Exception as error:
            raise ExportError(f"{self.path}: onnxruntime cannot load it: {_one_line(error)}") from error
        names = [value.name for value in self._session.get_inputs()]
        for value in (*self._session.get_inputs(), *self._session.get_outputs()):
            if not value.type.startswith("tensor("):
                raise ExportError(
                    f"{self.path}: {value.name!r} is a {value.type}, expected a tensor; for scikit-learn models "
                    "convert with options={'zipmap': False}"
                )
        if example_inputs is None:
            values = [_random(value) for value in self._session.get_inputs()]
        elif isinstance(example_inputs, Mapping):
            if set(example_inputs) != set(names):
                raise ExportError(f"example_inputs are {sorted(example_inputs)}, the file's inputs are {names}")
            values = [to_array(example_inputs[name]) for name in names]
        else:
            values = [
                to_array(v) for v in (example_inputs if isinstance(example_inputs, tuple | list) else (example_inputs,))
            ]
        if len(values) != len(names):
            raise ExportError(f"got {len(values)} example inputs, the file has {len(names)}: {names}")
        self.inputs = dict(zip(names, values, strict=True))
        self._outputs = [value.name for value in self._session.get_outputs()]
        if twice := [name for name in self._outputs if self._outputs.count(name) > 1]:
            raise ExportError(f"{self.path}: two exits are called {twice[0]!r}; give each its own name")
        self.exits = {name: {LOGITS: name} for name in self._outputs}
        self.marked: dict[str, tuple[str, ...]] = {}
        self.returned = self._outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns the outputs by name.

        Raises:
            ExportError: onnxruntime fails on these inputs.
        """
        try:
            outputs = self._session.run(None, {name: inputs[name] for name in self.inputs})
        except Exception as error:
            raise ExportError(f"{self.path}: fails on inputs: {_one_line(error)}") from error
        return dict(zip(self._outputs, outputs, strict=True))

    def run_visits(self, inputs: Mapping[str, Array]) -> Visits:
        """Returns the exits in the file's order."""
        return _returned(self, self.run(inputs))


@dataclass(frozen=True)
class Stage:
    """One network of a cascade, and the cascade's name of each of its inputs."""

    source: TorchSource | OnnxSource
    inputs: dict[str, str]


class CascadeSource:
    """Several networks, each of which reads the original inputs; each has one exit or more.

    Args:
        models: The stages, small to large.
        example_inputs: As for a single network; every stage takes the same.

    Raises:
        ExportError: A stage that does not take the inputs.
    """

    def __init__(self, models: Sequence[Model], example_inputs: Any, input_names: Sequence[str] | None = None) -> None:
        if not models:
            raise ExportError("the cascade is empty: pass at least one model")
        self.stages: list[Stage] = []
        self.inputs: dict[str, Array] = {}
        self.exits: dict[str, dict[str, str]] = {}
        self.marked: dict[str, tuple[str, ...]] = {}
        for number, model in enumerate(models):
            try:
                source = open_single(model, example_inputs, input_names)
            except ExportError as error:
                raise ExportError(f"stage {number} of the cascade: {error}") from error
            if source.marked:
                raise ExportError(
                    f"stage {number} of the cascade marks exits ({', '.join(source.marked)}); let the stage return them"
                )
            if not self.inputs:
                self.inputs = dict(source.inputs)
            if len(source.inputs) != len(self.inputs):
                raise ExportError(f"stage {number} has {len(source.inputs)} inputs, the first has {len(self.inputs)}")
            names = source.inputs if set(source.inputs) == set(self.inputs) else self.inputs
            self.stages.append(Stage(source, dict(zip(source.inputs, names, strict=True))))
            for outputs in source.exits.values():
                self.exits[f"exit{len(self.exits)}"] = {name: f"stage{number}.{flat}" for name, flat in outputs.items()}
        self.returned = [flat for outputs in self.exits.values() for flat in outputs.values()]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns every stage's outputs, as `stage{i}.{name}`."""
        found: dict[str, Array] = {}
        for number, stage in enumerate(self.stages):
            own = stage.source.run({name: inputs[shared] for name, shared in stage.inputs.items()})
            found.update({f"stage{number}.{name}": array for name, array in own.items()})
        return found

    def run_visits(self, inputs: Mapping[str, Array]) -> Visits:
        """Returns the stages' exits, stage by stage."""
        return _returned(self, self.run(inputs))


def open_single(model: Any, example_inputs: Any, input_names: Sequence[str] | None = None) -> TorchSource | OnnxSource:
    """Returns the source for a module or an `.onnx` file."""
    if isinstance(model, torch.nn.Module):
        return TorchSource(model, example_inputs, input_names)
    if isinstance(model, str | os.PathLike):
        return OnnxSource(model, example_inputs)
    raise ExportError(
        f"model is {type(model).__name__}, expected a torch.nn.Module, the path of an .onnx file, or a list"
    )


def open_source(
    model: Any, example_inputs: Any, input_names: Sequence[str] | None = None
) -> TorchSource | OnnxSource | CascadeSource:
    """Returns the source for a module, an `.onnx` file, or a list of either."""
    if isinstance(model, list | tuple):
        return CascadeSource(model, example_inputs, input_names)
    if isinstance(model, str | os.PathLike) and input_names is not None:
        raise ExportError(f"input_names: {model} names its inputs itself; leave it out")
    return open_single(model, example_inputs, input_names)


def _check_evaluation(module: torch.nn.Module) -> None:
    training = [name or type(module).__name__ for name, part in module.named_modules() if part.training]
    if training:
        shown = ", ".join(training[:3]) + (", ..." if len(training) > 3 else "")
        raise ExportError(f"the network is in training mode ({shown}): call model.eval() first")
    lazy = [name for name, value in module.named_parameters() if torch.nn.parameter.is_lazy(value)]
    if lazy:
        raise ExportError(f"the parameters {', '.join(lazy)} have no values yet: train them first (ee.fit_exits)")


def to_tensor(value: Any) -> torch.Tensor:
    """Returns a tensor or anything array-like as a tensor in main memory, without gradients."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    return torch.from_numpy(np.asarray(to_array(value), order="C"))


def _numpy(tensor: torch.Tensor, what: str) -> Array:
    if tensor.dtype not in _DTYPES:
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise ExportError(f"{what} is {dtype}, which numpy and a device cannot hold; convert it to float32")
    return tensor.detach().cpu().numpy()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def to_array(value: Any) -> Array:
    """Returns a tensor or anything array-like as an array.

    Raises:
        ExportError: It is not a number or an array of numbers.
    """
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        what = array.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise ExportError(f"an example input is {what}, expected a tensor or an array of numbers")
    if array.size == 0:
        raise ExportError(f"an example input has the shape {list(array.shape)}: it has no rows")
    return array


def _random(value: Any) -> Array:
    shape = [dim if isinstance(dim, int) else 1 for dim in value.shape]
    rng = np.random.default_rng(0)
    if value.type in ("tensor(float)", "tensor(double)", "tensor(float16)"):
        kinds = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
        return rng.standard_normal(shape).astype(kinds[value.type])
    raise ExportError(f"input {value.name!r} is {value.type}: pass example_inputs, random ones would mean nothing")
