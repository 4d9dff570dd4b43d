"""A torch network as one ONNX model, by `torch.onnx.export`, and its errors as one line."""

from __future__ import annotations

import ast
import contextlib
import io
import itertools
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import evaluator, opset20

from eetoolkit_exporters.capturing.dynamic_shapes import (
    Axis,
    Dynamic,
    DynamicShapes,
    choose_rows,
    normalise,
    settle,
)
from eetoolkit_exporters.capturing.marker import marker_to_onnx
from eetoolkit_exporters.capturing.outputs import walk_outputs
from eetoolkit_exporters.capturing.row_axes import Axes, copied
from eetoolkit_exporters.capturing.symbols import rename_symbols
from eetoolkit_exporters.capturing.torch_errors import everything, reason
from eetoolkit_exporters.capturing.torch_source import TorchSource
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.plan.types import Limit
from eetoolkit_runtime.running.inputs import BATCH

SCOPES = "pkg.torch.onnx.name_scopes"
"""In a node's metadata: the modules in which it was traced, outermost first, and its own name in the trace."""
PREFIX = "module."
"""Before the names of the module's parameters and buffers in a program."""
_MAX_PRINTED = 400


class _Flat(torch.nn.Module):
    """The module with its outputs as one tuple of tensors, in the order of `walk_outputs`."""

    def __init__(self, source: TorchSource) -> None:
        super().__init__()
        self.module = source.module
        self._source = source
        self.training = False

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns all exits' outputs."""
        keywords = self._source.keywords
        outputs = self.module(**dict(zip(keywords, tensors, strict=True))) if keywords else self.module(*tensors)
        return tuple(tensor for _, _, tensor in walk_outputs(outputs))


def export_torch(
    source: TorchSource, *, dynamic_batch: bool, dynamic_shapes: DynamicShapes
) -> tuple[ir.Model, dict[str, Limit]]:
    """Returns the module as torch's exporter gives it: markers as operators of our own, the inputs' names the source's.

    Args:
        source: The network.
        dynamic_batch: Whether the rows of every input may vary.
        dynamic_shapes: Further dynamic dimensions.

    Returns:
        The model, and which sizes it takes of the dimensions that do not take all.

    Raises:
        ExportError: Torch cannot export it, or it fixes a size that is to be dynamic.
    """
    program, dynamic, example = _run_exporter(source, dynamic_batch=dynamic_batch, dynamic_shapes=dynamic_shapes)
    model: ir.Model = program.model
    exported: Any = program.exported_program
    _count_calls(model.graph, exported)
    names = _name_dimensions(model.graph, dynamic)
    ir.convenience.rename_values(
        [value for value in model.graph.initializers.values() if (value.name or "").startswith(PREFIX)],
        [name.removeprefix(PREFIX) for name in list(model.graph.initializers) if name.startswith(PREFIX)],
    )
    ranges = {str(key): value for key, value in exported.range_constraints.items()}
    return model, dict(_limits(dynamic, example, names, ranges))


def trace_torch(
    source: TorchSource, *, dynamic_batch: bool, dynamic_shapes: DynamicShapes
) -> torch.export.ExportedProgram:
    """Returns the program from which `export_torch` makes the model: the nodes are called as the model's values.

    What it calls `PREFIX` and a name is the module's parameter or buffer of that name.

    Raises:
        ExportError: As `export_torch`.
    """
    program, _, _ = _run_exporter(source, dynamic_batch=dynamic_batch, dynamic_shapes=dynamic_shapes)
    exported: torch.export.ExportedProgram = program.exported_program
    return exported


def _run_exporter(
    source: TorchSource, *, dynamic_batch: bool, dynamic_shapes: DynamicShapes
) -> tuple[Any, Dynamic, dict[str, Array]]:
    """Returns what torch makes of the module, which dimensions are dynamic, and the example that was traced."""
    named, rows = choose_rows(source, normalise(dynamic_shapes, source), dynamic_batch=dynamic_batch)
    dynamic = settle(source, named)
    example = _traced(source, dynamic, rows)
    specs = tuple({axis: said.hint() for axis, said in axes.items()} for axes in dynamic.values())
    _forget_eager_calls()
    with _quiet() as printed:
        try:
            program = torch.onnx.export(
                _Flat(source),
                tuple(map(torch.from_numpy, example.values())),
                dynamo=True,
                dynamic_shapes=(specs,) if any(specs) else None,
                input_names=list(source.inputs),
                verbose=False,
                custom_translation_table=_TRANSLATIONS,
            )
        except Exception as error:
            if fixed := _FIXED.search(everything(error)):
                size, number, axis = map(int, fixed.groups())
                raise _fixed(list(dynamic.items())[number], axis, size) from error
            raise ExportError(f"torch cannot export the network: {reason(error, source.module)}") from error
    if program is None:
        raise ExportError(f"torch cannot export the network: {printed.getvalue()[-_MAX_PRINTED:]}")
    return program, dynamic, example


def _traced(source: TorchSource, dynamic: Dynamic, rows: Axes | None) -> dict[str, Array]:
    """Returns the example, with a single row twice or more: torch takes a size of 1 for one that never varies.

    How many, no other dimension is long, so that torch does not take one for the other.
    """
    counts = {
        array.shape[axis] for name, array in source.inputs.items() if (axis := (rows or {}).get(name)) is not None
    }
    if rows is None or counts != {1}:
        return dict(source.inputs)
    sizes = {size for array in source.inputs.values() for size in array.shape}
    most = [said.max for axes in dynamic.values() for said in axes.values() if said.symbol == BATCH and said.max]
    times = next(count for count in itertools.count(2) if count not in sizes)
    return copied(source.inputs, rows, min([times, *most]))


def _forget_eager_calls() -> None:
    """Makes torch trace recurrent layers as it would in a fresh process.

    Their operators remember from an eager call to go straight to the kernel for numbers, whose shapes fix the length.
    """
    for operator in ("gru", "lstm", "rnn_tanh", "rnn_relu"):
        remembered = getattr(getattr(torch.ops.aten, operator).input, "_dispatch_cache", None)
        if remembered is not None:
            remembered.clear()


def _count_calls(graph: ir.Graph, exported: Any) -> None:
    """Writes which call of a module a node was traced in behind the module's path: `layer@3` is the fourth.

    torch.export counts them in the keys of `nn_module_stack`; the exporter keeps only the paths.
    """
    stacks = {node.name: node.meta.get("nn_module_stack", {}) for node in exported.graph.nodes}
    for node in graph:
        if SCOPES in node.metadata_props:
            *paths, name = ast.literal_eval(node.metadata_props[SCOPES])
            calls = {path: key.rpartition("@")[2] for key, (path, _) in stacks.get(name, {}).items() if "@" in key}
            scopes = [f"{path}@{calls[path]}" if path in calls else path for path in paths]
            node.metadata_props[SCOPES] = repr([*scopes, name])


def _name_dimensions(graph: ir.Graph, dynamic: Dynamic) -> dict[str, str]:
    """Gives torch's own symbols the names that they are to have, and returns these.

    Raises:
        ExportError: A size that is to be dynamic is fixed.
    """
    names: dict[str, str] = {}
    for value, (name, axes) in zip(graph.inputs, dynamic.items(), strict=True):
        for axis, said in axes.items():
            dim = value.shape[axis] if value.shape is not None else None
            if isinstance(dim, int):
                if said.kind != "auto":
                    raise _fixed((name, axes), axis, dim)
            elif dim is not None and re.fullmatch(r"\w+", str(dim.value)) and names.get(str(dim.value)) != BATCH:
                names[str(dim.value)] = BATCH if said.symbol == BATCH else names.get(str(dim.value), str(said.symbol))
    rename_symbols(graph, names)
    return names


def _limits(
    dynamic: Dynamic, example: Mapping[str, Array], names: Mapping[str, str], ranges: Mapping[str, Any]
) -> Iterator[tuple[str, Limit]]:
    """Yields the sizes that the graph takes: those that the user wants, of those with which torch found its way."""
    alone = {
        said.symbol for name, axes in dynamic.items() for axis, said in axes.items() if example[name].shape[axis] == 1
    }
    for own, symbol in names.items():
        said = [axis for axes in dynamic.values() for axis in axes.values() if axis.symbol == symbol]
        lows, highs = [axis.min or 0 for axis in said], [axis.max for axis in said if axis.max is not None]
        if own in ranges and symbol not in alone:  # of a size of 1 torch says what it likes
            lows += [int(low) for low in [ranges[own].lower] if low.is_Integer]
            highs += [int(high) for high in [ranges[own].upper] if high.is_Integer]
        low = max(lows, default=0) if symbol != BATCH else 0
        if low > 1 or highs:
            yield symbol, Limit(min=low if low > 1 else 0, max=min(highs, default=None))


def _to_if(
    predicate: ir.Value, then: ir.Function, otherwise: ir.Function, operands: Sequence[ir.Value]
) -> Sequence[ir.Value]:
    """Translates `torch.cond` as torch 2.13 does, with an opset on the calls of its branches and a boolean predicate.

    Without an opset they count as version 1, a loop's around them as 20, and torch's own passes refuse the mixture.
    """
    recorder: Any = evaluator.default()
    opset = recorder.opset.version
    if predicate.dtype is not None and predicate.dtype != ir.DataType.BOOL:  # torch lets a number decide
        cast = ir.Node("", "Cast", [predicate], [ir.AttrInt64("to", ir.DataType.BOOL)], version=opset)
        recorder.nodes.append(cast)
        predicate = cast.outputs[0]
    branches = []
    for function in (then, otherwise):
        call = ir.Node(function.domain, function.name, operands, num_outputs=len(function.outputs), version=opset)
        for inner, outer in zip(function.outputs, call.outputs, strict=True):
            outer.name = f"{inner.name}_{function.name}"  # onnxruntime wants names that differ
        branches.append(ir.Graph((), call.outputs, nodes=[call], name=function.name))
    attributes = [ir.AttrGraph("then_branch", branches[0]), ir.AttrGraph("else_branch", branches[1])]
    node = ir.Node("", "If", [predicate], attributes, num_outputs=len(then.outputs), version=opset)
    recorder.nodes.append(node)
    return node.outputs


def _to_marker(tensors: Sequence[ir.Value], name: str, outputs: str) -> Sequence[ir.Value]:
    recorder: Any = evaluator.default()
    recorder.nodes.append(node := marker_to_onnx(tensors, name, outputs))
    return node.outputs


def _to_blend(start: Any, end: Any, weight: Any) -> Any:
    """Translates `torch.lerp` as the blend that it is; torch's own way hides it behind a second choice."""
    op: Any = opset20
    one = op.CastLike(op.Constant(value_float=1.0), weight)
    return op.Add(op.Mul(weight, end), op.Mul(op.Sub(one, weight), start))


_TRANSLATIONS: dict[Any, Any] = {
    torch.ops.aten.lerp.Tensor: _to_blend,
    torch.ops.higher_order.cond: _to_if,
    torch.ops.eetoolkit.exit.default: _to_marker,
}


_FIXED = re.compile(r"inferred a static shape of (\d+) for dimension inputs\['tensors'\]\[(\d+)\]\.shape\[(\d+)\]")


def _fixed(dynamic: tuple[str, Mapping[int, Axis]], axis: int, size: object) -> ExportError:
    name, axes = dynamic
    symbol = axes[axis].symbol
    fix = (
        "pass dynamic_batch=False with an example of one row, or do not write the batch size into the network"
        if symbol == BATCH
        else "leave it out of dynamic_shapes, or do not write its size into the network"
    )
    return ExportError(f"input {name!r}: the network fixes dimension {axis} ({symbol}) at {size}; {fix}")


@contextlib.contextmanager
def _quiet() -> Iterator[io.StringIO]:
    """Keeps torch's exporter from printing its progress and its hints about itself."""
    printed = io.StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            warnings.simplefilter("ignore")
            yield printed
    finally:
        logging.disable(logging.NOTSET)
