"""What a user hands over: a network that can be run as it is, whose outputs have names.

A source runs in its own framework, so it is the reference that a bundle is measured against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import ExportError

if TYPE_CHECKING:
    from eetoolkit_exporters.capturing.side_by_side import Captured

ExitSpec = Sequence[str] | Mapping[str, str | Mapping[str, str]]
"""Names of exits, or for each exit the output it is or the outputs it has, by the source's own names."""
Visits = list[tuple[str, dict[str, Array]]]
"""Exits in the order in which a network met them, each with its outputs."""

LOGITS = "logits"
"""The name of an exit's output where the exit is one tensor."""


class ModelSource(Protocol):
    """A network that runs in its own framework."""

    inputs: dict[str, Array]
    """The example inputs by name, in order."""
    exits: dict[str, dict[str, str]]
    """The marked exits and those that its outputs show: for each, its outputs' names here and in the source."""
    marked: dict[str, tuple[str, ...]]
    """The exits that `ee.exit` marks in it, with their outputs' names."""
    untaken: dict[str, str]
    """What it returns that is no tensor: types by name."""
    returned: list[str]
    """The names of what it returns, in order."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns the outputs by the source's names."""
        ...

    def run_visits(self, inputs: Mapping[str, Array]) -> Visits:
        """Returns every exit met, in order: the marked ones as they were passed, then those that are returned."""
        ...


@runtime_checkable
class GraphSource(ModelSource, Protocol):
    """A network that is a graph already, and can be handed over as it is; its exits are in order."""

    def captured(self) -> Captured:
        """Returns the graph, a copy that the caller may change."""
        ...


def choose_exits(source: ModelSource, exits: ExitSpec | None) -> dict[str, dict[str, str]]:
    """Returns the exits to export: for each, its outputs' names in the answer and in the source.

    Raises:
        ExportError: No exit, an unknown name, or two exits with one name.
    """
    if not source.returned:
        raise ExportError("the network has no exit: its outputs are its exits, and it returned no tensor")
    if exits is None:
        _check_taken(source)
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


def _check_taken(source: ModelSource) -> None:
    for name, kind in source.untaken.items():
        raise ExportError(
            f"exit {name!r} is {kind}, expected a tensor or a dict of tensors: it is not a function of the input that "
            f"can be exported; do not return it, or name the exits, exits={list(source.exits)}"
        )


def _chosen(source: ModelSource, name: str, wanted: str | Mapping[str, str]) -> dict[str, str]:
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


def returned_visits(source: ModelSource, found: Mapping[str, Array]) -> Visits:
    """Returns the exits among the outputs found, in the source's order, each with its outputs."""
    return [
        (name, {output: found[flat] for output, flat in outputs.items()})
        for name, outputs in source.exits.items()
        if all(flat in found for flat in outputs.values())
    ]


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
