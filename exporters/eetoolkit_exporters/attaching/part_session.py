"""A part of a network as one session, which can be sent to other processes: they need neither torch nor onnx."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnxruntime as ort

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import ExportError, first_line


class PartSession:
    """Computes values of a network by onnxruntime. Pickled, it is its graph, opened again where it is unpickled.

    Args:
        model: The graph, serialised.
        wanted: The graph's output for each name that `run` gives.
        threads: How many onnxruntime may use; None: all.
        optimised: Whether onnxruntime may rewrite the graph.

    Attributes:
        threads: As given.

    Raises:
        ExportError: onnxruntime cannot load it.
    """

    def __init__(self, model: bytes, wanted: Mapping[str, str], threads: int | None, *, optimised: bool = True) -> None:
        self._given = model, dict(wanted), threads, optimised
        self.threads = threads
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads or 0
        if not optimised:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ExportError(f"onnxruntime cannot load the network: {first_line(error)}") from error
        self._inputs = {value.name for value in self._session.get_inputs()}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns the values.

        Raises:
            ExportError: onnxruntime fails on these inputs.
        """
        wanted = self._given[1]
        given = {name: array for name, array in inputs.items() if name in self._inputs}
        names = list(dict.fromkeys(wanted.values()))
        try:
            found = dict(zip(names, self._session.run(names, given), strict=True))
        except Exception as error:
            raise ExportError(f"the network fails on these inputs: {first_line(error)}") from error
        return {name: found[flat] for name, flat in wanted.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, self._given


def _opened(model: bytes, wanted: Mapping[str, str], threads: int | None, optimised: bool) -> PartSession:
    """Returns what was pickled."""
    return PartSession(model, wanted, threads, optimised=optimised)
