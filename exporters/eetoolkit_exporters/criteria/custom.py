"""A user's own criterion: a torch function from an exit's outputs to one number a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from eetoolkit_exporters.attaching.graft import example_of, graft
from eetoolkit_exporters.capturing.torch_source import to_tensor
from eetoolkit_exporters.criteria.builder import Builder
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.plan.types import Function


def name_of(function: Function | None) -> str:
    """Returns what a bundle calls a function: its module and qualified name."""
    if callable(function):
        named = function if hasattr(function, "__qualname__") else type(function)
        return f"{named.__module__}.{named.__qualname__}"
    return str(function)


def evaluate(function: Function | None, outputs: Mapping[str, Array]) -> Array:
    """Returns what the function gives for an exit's outputs, float64 of shape (batch,), in eager PyTorch.

    Raises:
        ExportError: There is only its name, it fails, or it does not give one number a row.
    """
    if not callable(function):
        raise ExportError(f"the custom criterion {function} is known by name only: pass `criterion` as to the export")
    rows = len(next(iter(outputs.values())))
    with torch.no_grad():
        given = {name: to_tensor(array) for name, array in outputs.items()}
        try:
            found = function(given if len(given) > 1 else next(iter(given.values())))
        except Exception as error:
            raise ExportError(f"the criterion {name_of(function)} fails: {' '.join(str(error).split())}") from error
    if not isinstance(found, torch.Tensor):
        raise ExportError(f"the criterion {name_of(function)} returned {type(found).__name__}, expected a tensor")
    if found.numel() != rows or tuple(found.shape[:1]) != (rows,):
        raise ExportError(
            f"the criterion {name_of(function)} gave the shape {list(found.shape)} for {rows} rows, expected [{rows}], "
            "one number a row"
        )
    return np.asarray(found.detach().cpu().to(torch.float64).numpy()).reshape(-1)


def append(build: Builder, outputs: Mapping[str, ir.Value], function: Callable[..., Any]) -> ir.Value:
    """Appends the nodes of the function that torch exports, and returns its result, float32 of shape (batch,).

    Raises:
        ExportError: A function that torch cannot export, that gives no number per row, or that has branches or loops.
    """
    evaluate(function, {name: example_of(value) for name, value in outputs.items()})
    return graft(build, _Whole(function, tuple(outputs)), outputs, "custom")[0]


class _Whole(torch.nn.Module):
    """The function with an exit's outputs as its arguments."""

    def __init__(self, function: Callable[..., Any], names: tuple[str, ...]) -> None:
        super().__init__()
        self._function = function
        self._names = names

    def forward(self, *outputs: torch.Tensor) -> torch.Tensor:
        """Returns float32 of shape (batch,)."""
        given = dict(zip(self._names, outputs, strict=True))
        found = self._function(given if len(given) > 1 else outputs[0])
        return torch.Tensor(found.reshape(-1).to(torch.float32))
