"""Some values of a network's graph, computed by onnxruntime for as many rows as are given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir
import onnxruntime as ort

from eetoolkit_exporters.capturing.capture import Network, NetworkExit
from eetoolkit_exporters.capturing.shapes import dims_of
from eetoolkit_exporters.emitting.graphs import whole_model
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import ExportError, first_line
from eetoolkit_runtime.running.inputs import axes_of_rows, rows_between

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
        numbered = {f"part{number}": value for number, value in enumerate(values.values())}
        exits = [NetworkExit(name, {_VALUE: value}) for name, value in numbered.items()]
        model = whole_model(Network(network.graph, exits, ordered=True, constants=network.constants))
        outputs = {value: name for name, value in reversed(numbered.items())}  # one value may be wanted twice
        self._wanted = {name: f"{outputs[value]}_{_VALUE}" for name, value in values.items()}
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads or 0
        if not optimised:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = ort.InferenceSession(
                ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ExportError(f"onnxruntime cannot load the network: {first_line(error)}") from error
        self._given = {value.name for value in self._session.get_inputs()}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns the values.

        Raises:
            ExportError: onnxruntime fails on these inputs.
        """
        given = {name: array for name, array in inputs.items() if name in self._given}
        names = list(dict.fromkeys(self._wanted.values()))
        try:
            found = dict(zip(names, self._session.run(names, given), strict=True))
        except Exception as error:
            raise ExportError(f"the network fails on these inputs: {first_line(error)}") from error
        return {name: found[flat] for name, flat in self._wanted.items()}


def rows_in(network: Network) -> dict[str, int | None]:
    """Returns for each input the axis of its rows; None: it goes to every row."""
    inputs = [value for value in network.graph.inputs if value.name not in network.constants]
    axes = axes_of_rows([tuple(dims_of(value.shape)) for value in inputs])
    return {str(value.name): axis for value, axis in zip(inputs, axes, strict=True)}


def count_rows(network: Network, inputs: Mapping[str, Array]) -> int:
    """Returns how many rows inputs hold.

    Raises:
        ExportError: None of them holds rows, or they hold different numbers.
    """
    counts = {name: inputs[name].shape[axis] for name, axis in rows_in(network).items() if axis is not None}
    if len(set(counts.values())) != 1:
        shown = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ExportError(f"the inputs hold different numbers of rows ({shown or 'none'})")
    return int(next(iter(counts.values())))


def blocks(network: Network, inputs: Mapping[str, Array], size: int, start: int = 0) -> Iterator[dict[str, Array]]:
    """Yields inputs block by block, `size` rows at a time, or one where the network takes no more."""
    axes, count = rows_in(network), count_rows(network, inputs)
    if all(isinstance(dim, int) for value in network.graph.inputs for dim in dims_of(value.shape)[:1]):
        size = 1
    for first in range(start, count, size):
        yield {
            name: array if (axis := axes.get(name)) is None else rows_between(array, axis, first, first + size)
            for name, array in inputs.items()
        }
