"""Several networks as one source, and the source of whatever was handed over."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from eetoolkit_exporters.capturing.onnx_source import OnnxSource
from eetoolkit_exporters.capturing.source import GraphSource, Visits, returned_visits
from eetoolkit_exporters.capturing.torch_source import TorchSource, keywords_of, parameters_of
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import ExportError, did_you_mean

Model = torch.nn.Module | str | os.PathLike[str]


@dataclass(frozen=True)
class Stage:
    """One network of a cascade, and the cascade's name of each of its inputs."""

    source: TorchSource | OnnxSource
    inputs: dict[str, str]


class CascadeSource:
    """Several networks, each of which reads the original inputs; each has one exit or more.

    Args:
        models: The stages, small to large.
        example_inputs: As for a single network; by name, each stage takes those that it names, else all.

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
        self.untaken: dict[str, str] = {}
        for number, model in enumerate(models):
            try:
                source = _open_stage(model, example_inputs, input_names)
            except ExportError as error:
                raise ExportError(f"stage {number} of the cascade: {error}") from error
            if source.marked:
                raise ExportError(
                    f"stage {number} of the cascade marks exits ({', '.join(source.marked)}); let the stage return them"
                )
            self.untaken |= {f"stage{number}.{name}": kind for name, kind in source.untaken.items()}
            if isinstance(example_inputs, Mapping) or not self.inputs:
                names = list(source.inputs)
            elif len(source.inputs) == len(self.inputs):
                names = list(source.inputs if set(source.inputs) == set(self.inputs) else self.inputs)
            else:
                raise ExportError(f"stage {number} has {len(source.inputs)} inputs, the first has {len(self.inputs)}")
            self.stages.append(Stage(source, dict(zip(source.inputs, names, strict=True))))
            self.inputs |= dict(zip(names, source.inputs.values(), strict=True))
            for outputs in source.exits.values():
                self.exits[f"exit{len(self.exits)}"] = {name: f"stage{number}.{flat}" for name, flat in outputs.items()}
        self.returned = [flat for outputs in self.exits.values() for flat in outputs.values()]

    def by_input(self, dynamic_shapes: Any) -> Mapping[str, Any]:
        """Returns what `dynamic_shapes` says of each input of the cascade; files say it themselves.

        Raises:
            ExportError: An input that is not there, or no stage that is a torch network.
        """
        if dynamic_shapes and not any(isinstance(stage.source, TorchSource) for stage in self.stages):
            raise ExportError("dynamic_shapes is for torch networks; the files of the cascade say it themselves")
        if isinstance(dynamic_shapes, tuple | list) and len(dynamic_shapes) == len(self.inputs):
            return dict(zip(self.inputs, dynamic_shapes, strict=True))
        if not isinstance(dynamic_shapes or {}, Mapping):
            raise ExportError(f"dynamic_shapes is {dynamic_shapes!r}, expected {{input: {{axis: symbol}}}}")
        for name in dynamic_shapes or {}:
            if name not in self.inputs:
                meant = did_you_mean(str(name), self.inputs)
                raise ExportError(f"dynamic_shapes names {name!r}; the inputs are {', '.join(self.inputs)}{meant}")
        return dynamic_shapes or {}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns every stage's outputs, as `stage{i}.{name}`."""
        found: dict[str, Array] = {}
        for number, stage in enumerate(self.stages):
            own = stage.source.run({name: inputs[shared] for name, shared in stage.inputs.items()})
            found.update({f"stage{number}.{name}": array for name, array in own.items()})
        return found

    def run_visits(self, inputs: Mapping[str, Array]) -> Visits:
        """Returns the stages' exits, stage by stage."""
        return returned_visits(self, self.run(inputs))


def _open_stage(model: Any, example_inputs: Any, input_names: Sequence[str] | None) -> TorchSource | OnnxSource:
    """Returns a stage; it takes the examples by name that it knows."""
    if isinstance(model, str | os.PathLike):
        return OnnxSource(model, example_inputs, some=True)
    if not isinstance(model, torch.nn.Module):
        return open_single(model, example_inputs, input_names)
    places, rest, others = parameters_of(model)
    if isinstance(example_inputs, Mapping):
        takes = [name for name in example_inputs if others is not None or name in (*places, *keywords_of(model))]
        if not takes:
            raise ExportError(f"it takes none of the inputs {', '.join(example_inputs)}, but {', '.join(places)}")
        if input_names is not None and len(input_names) == len(example_inputs):
            called = dict(zip(example_inputs, input_names, strict=True))
            input_names = [called[name] for name in takes]
        return TorchSource(model, {name: example_inputs[name] for name in takes}, input_names)
    count = len(example_inputs) if isinstance(example_inputs, tuple | list) else 1
    if rest is None and count > len(places):
        raise ExportError(
            f"it takes {', '.join(places) or 'nothing'}, got {count} inputs; where stages read different ones pass "
            "example_inputs by name: {'" + (places or ("x",))[0] + "': ..., ...}"
        )
    return TorchSource(model, example_inputs, input_names)


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
) -> TorchSource | OnnxSource | CascadeSource | GraphSource:
    """Returns the source for a module, an `.onnx` file, a list of either, or a network that is a graph already."""
    if isinstance(model, GraphSource):
        return model
    if isinstance(model, list | tuple):
        return CascadeSource(model, example_inputs, input_names)
    if isinstance(model, str | os.PathLike) and input_names is not None:
        raise ExportError(f"input_names: {model} names its inputs itself; leave it out")
    return open_single(model, example_inputs, input_names)
