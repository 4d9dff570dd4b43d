"""Some values of a network's graph, computed by onnxruntime for as many rows as are given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from eetoolkit_exporters.attaching.part_session import PartSession
from eetoolkit_exporters.capturing.capture import Network, NetworkExit
from eetoolkit_exporters.emitting.emit import input_specs
from eetoolkit_exporters.emitting.graphs import whole_model
from eetoolkit_runtime.arguments import check_range
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.plan.types import Limit, Preprocess, TensorSpec
from eetoolkit_runtime.running.inputs import BATCH, Inputs, most_rows, prepare, row_axes, rows_between
from eetoolkit_runtime.running.sessions import MOST_THREADS

_VALUE = "value"


class Part:
    """The part of a network that its values need.

    Args:
        network: The network.
        values: What is computed, by the names that `run` gives them.
        threads: How many onnxruntime may use; None: all.
        optimised: Whether onnxruntime may rewrite the graph.

    Raises:
        ExportError: onnxruntime cannot load it.
    """

    def __init__(
        self, network: Network, values: Mapping[str, ir.Value], *, threads: int | None = None, optimised: bool = True
    ) -> None:
        if threads is not None:
            check_range(ExportError, "threads", threads, 1, MOST_THREADS)
        numbered = {f"part{number}": value for number, value in enumerate(values.values())}
        exits = [NetworkExit(name, {_VALUE: value}) for name, value in numbered.items()]
        model = whole_model(Network(network.graph, exits, ordered=True, constants=network.constants))
        outputs = {value: name for name, value in reversed(numbered.items())}  # one value may be wanted twice
        wanted = {name: f"{outputs[value]}_{_VALUE}" for name, value in values.items()}
        self.session = PartSession(ir.to_proto(model).SerializeToString(), wanted, threads, optimised=optimised)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns the values; see `PartSession.run`."""
        return self.session.run(inputs)


@dataclass(frozen=True)
class NetworkInputs:
    """Which inputs a network takes, and what the user says of them; see `Manifest`."""

    inputs: tuple[TensorSpec, ...]
    limits: Mapping[str, Limit] = field(default_factory=dict)
    preprocess: Mapping[str, Preprocess] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None


def inputs_of(network: Network) -> NetworkInputs:
    """Returns which inputs a captured network takes."""
    return NetworkInputs(input_specs(network), network.limits)


def arrays_by_name(network: Network, inputs: Inputs) -> dict[str, Array]:
    """Returns any number of rows in any form as arrays that the network takes, by its names.

    Raises:
        ExportError: A network that counts no rows.
        InputError: Other inputs than the network's.
    """
    plan = inputs_of(network)
    if all(axis is None for axis in row_axes(plan)):
        shapes = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in plan.inputs)
        raise ExportError(f"no input of the network counts rows ({shapes}): capture it with a dimension `batch`")
    arrays = prepare(plan, inputs, one_row=False)
    return {spec.name: array for spec, array in zip(plan.inputs, arrays, strict=True)}


def count_rows(network: Network, inputs: Mapping[str, Array]) -> int:
    """Returns how many rows inputs hold."""
    name, axis = next((name, axis) for name, axis in row_axes_of(network).items() if axis is not None)
    return int(inputs[name].shape[axis])


def blocks(network: Network, inputs: Mapping[str, Array], size: int, start: int = 0) -> Iterator[dict[str, Array]]:
    """Yields inputs block by block, `size` rows at a time, or as many as the network takes."""
    plan, axes = inputs_of(network), row_axes_of(network)
    if all(BATCH not in spec.shape for spec in plan.inputs):
        size = 1
    size = min(size, most_rows(plan) or size)
    for first in range(start, count_rows(network, inputs), size):
        yield {
            name: array if (axis := axes.get(name)) is None else rows_between(array, axis, first, first + size)
            for name, array in inputs.items()
        }


def row_axes_of(network: Network) -> dict[str, int | None]:
    """Returns for each input the axis of its rows; None: it goes to every row."""
    plan = inputs_of(network)
    return {spec.name: axis for spec, axis in zip(plan.inputs, row_axes(plan), strict=True)}
