"""How far a device's answers may be from the source's: by what the network computes with, or measured."""

from __future__ import annotations

import dataclasses
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir
import onnxruntime as ort

from eetoolkit_exporters.capturing.capture import Network
from eetoolkit_exporters.cutting.cut import graph_of
from eetoolkit_exporters.emitting.graphs import whole_model
from eetoolkit_runtime.arguments import is_number, shortened
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.plan.criteria import kind_of
from eetoolkit_runtime.plan.types import Criterion
from eetoolkit_runtime.verify import DEFAULT_TOLERANCE, difference

_EPS = {ir.DataType.FLOAT16: 2.0**-10, ir.DataType.BFLOAT16: 2.0**-7}
_ROUNDINGS = 10
"""Machine epsilons that a chain of operators in half precision adds up to, where frameworks round in other places."""
_QUANTISING = re.compile(r"Quantize|Integer|NBits|^Q[A-Z]")  # not DequantizeLinear, which rounds nothing
_BITS = 8  # of values whose operator gives floats, or sums of their products
_WIDEST = 16
FLIPS = 4
"""A factor on one step, and on what the few golden rows show: over 478 digits through a quantised BranchyNet,
optimisations change up to three times as much as over the first eight."""


def check_tolerance(tolerance: object) -> float | None:
    """Returns the tolerance that a user asks for; None: the default.

    Raises:
        ExportError: It is no finite number above 0.
    """
    if tolerance is None:
        return None
    if not (is_number(tolerance) and 0 < tolerance < math.inf):
        raise ExportError(f"tolerance is {shortened(tolerance)}, expected a finite number above 0")
    return float(tolerance)


def rounding(graph: ir.Graph) -> float:
    """Returns by how much the arithmetic of a graph may differ between two frameworks, relative to the largest value.

    In float32 and float64 1e-4; in half precision ten times the machine epsilon of its coarsest type; where it
    quantises, four of its coarsest steps: where two frameworks' last bits lie on both sides of a boundary, a value is
    rounded to another step, and either is right.
    """
    values = [*graph.inputs, *(value for node in graph.all_nodes() if not _looks_up(node) for value in node.outputs)]
    half = (_ROUNDINGS * _EPS[value.dtype] for value in values if value.dtype in _EPS)
    steps = (_step(node) for node in graph.all_nodes() if quantises(node))
    return max([DEFAULT_TOLERANCE, *half, *steps])


def measured(network: Network, criteria: Mapping[str, Criterion], rows: Sequence[Mapping[str, Array]]) -> float:
    """Returns four times what onnxruntime's optimisations change in a quantised network's answers to `rows`, else 0.

    They fuse quantising operators into kernels for integers, which round otherwise. How far one flipped step of a
    feature moves the answers is the network's own matter, so it is measured and not guessed.
    """
    top = [exit_ for exit_ in network.exits if graph_of(exit_, network) is network.graph]
    if not any(map(quantises, network.graph.all_nodes())):
        return 0.0
    try:
        model = whole_model(dataclasses.replace(network, exits=top))
    except ExportError:  # stages of different opsets, which no single graph can hold
        return 0.0
    counted = {f"{name}_confidence" for name, criterion in criteria.items() if kind_of(criterion).counted}
    names = [
        str(value.name)
        for value in model.graph.outputs
        if value.name not in counted and value.dtype is not None and value.dtype.is_floating_point()
    ]
    plain, fused = _both(model, names, rows)
    found = (difference(b, a) for one, other in zip(plain, fused, strict=True) for a, b in zip(one, other, strict=True))
    return FLIPS * max((each for each in found if math.isfinite(each)), default=0.0)


def _both(model: ir.Model, names: Sequence[str], rows: Sequence[Mapping[str, Array]]) -> list[list[list[Array]]]:
    """Returns the outputs for every row without and with optimisations."""
    levels = (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "whole.onnx")
        ir.save(model, path, external_data="whole.bin")  # one file holds 2 GB at most
        for level in levels:
            options = ort.SessionOptions()
            options.graph_optimization_level, options.log_severity_level = level, 3
            try:
                session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
                taken = [value.name for value in session.get_inputs()]
                found.append([session.run(names, {name: row[name] for name in taken}) for row in rows])
            except Exception as error:
                raise ExportError(f"onnxruntime fails on the network: {' '.join(str(error).split())}") from error
    return found


def _looks_up(node: ir.Node) -> bool:
    """Whether an operator copies rows of weights, which rounds nothing."""
    table = node.inputs[0] if node.op_type == "Gather" else None
    return table is not None and table.is_initializer()


def quantises(node: ir.Node) -> bool:
    """Whether an operator rounds to a few steps."""
    return _QUANTISING.search(node.op_type) is not None


def _step(node: ir.Node) -> float:
    """Returns a few steps of an operator's quantised values, relative to the largest of a range around 0."""
    shown = [value.dtype for value in node.outputs if value.dtype is not None and value.dtype.is_integer()]
    bits = min((int(dtype.itemsize * 8) for dtype in shown), default=_BITS)
    return FLIPS * 2.0 ** (1 - (bits if bits <= _WIDEST else _BITS))
