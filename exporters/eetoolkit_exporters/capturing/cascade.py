"""Several networks as one source, and the source of whatever was handed over."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from eetoolkit_exporters.capturing.onnx_source import OnnxSource
from eetoolkit_exporters.capturing.source import Array, Visits, returned_visits
from eetoolkit_exporters.capturing.torch_source import TorchSource
from eetoolkit_runtime.errors import ExportError

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
        return returned_visits(self, self.run(inputs))


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
