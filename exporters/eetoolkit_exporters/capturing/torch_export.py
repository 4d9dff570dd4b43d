"""A torch network as one ONNX model, by `torch.onnx.export`, and its errors as one line."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import evaluator, opset20

from eetoolkit_exporters.capturing.marker import marker_to_onnx
from eetoolkit_exporters.capturing.torch_errors import everything, reason
from eetoolkit_exporters.capturing.torch_source import TorchSource, walk_outputs
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.inputs import BATCH

DynamicShapes = Mapping[str, Mapping[int, str]]
"""Dynamic dimensions beside the batch: for an input's name, {axis: symbol}."""

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


def _dynamic(
    source: TorchSource, dynamic_shapes: DynamicShapes | None, *, dynamic_batch: bool
) -> dict[str, dict[int, str]]:
    """Returns the dynamic axes of every input, with their symbols."""
    dynamic = {name: {0: BATCH} if dynamic_batch and tensor.ndim else {} for name, tensor in source.inputs.items()}
    if dynamic_shapes is not None and not isinstance(dynamic_shapes, Mapping):
        raise ExportError(f"dynamic_shapes is {dynamic_shapes!r}, expected {{input: {{axis: symbol}}}}")
    for name, axes in (dynamic_shapes or {}).items():
        if name not in dynamic:
            raise ExportError(f"dynamic_shapes names {name!r}; the inputs are {', '.join(dynamic)}")
        rank = source.inputs[name].ndim
        if not isinstance(axes, Mapping) or not all(isinstance(axis, int) and 0 <= axis < rank for axis in axes):
            raise ExportError(f"dynamic_shapes of {name!r} is {axes!r}, expected {{axis below {rank}: symbol}}")
        dynamic[name].update(axes)
    return dynamic


def export_torch(source: TorchSource, *, dynamic_batch: bool, dynamic_shapes: DynamicShapes | None) -> ir.Model:
    """Returns the module as torch's exporter gives it: markers as operators of our own, the inputs' names the source's.

    Args:
        source: The network.
        dynamic_batch: Whether the leading dimension of every input is dynamic.
        dynamic_shapes: Further dynamic dimensions.

    Raises:
        ExportError: Torch cannot export it, or it fixes a size that is to be dynamic.
    """
    tensors = tuple(torch.from_numpy(array) for array in source.inputs.values())
    dynamic = _dynamic(source, dynamic_shapes, dynamic_batch=dynamic_batch)
    any_dynamic = any(dynamic.values())
    with _quiet() as printed:
        try:
            program = torch.onnx.export(
                _Flat(source),
                tensors,
                dynamo=True,
                dynamic_shapes=(tuple(dynamic.values()),) if any_dynamic else None,
                input_names=list(source.inputs),
                verbose=False,
                custom_translation_table=_TRANSLATIONS,
            )
        except Exception as error:
            if fixed := _FIXED.search(everything(error)):
                size, number, axis = map(int, fixed.groups())
                raise _fixed(list(dynamic.items())[number], axis, size) from error
            raise ExportError(f"torch cannot export the network: {reason(error)}") from error
    if program is None:
        raise ExportError(f"torch cannot export the network: {printed.getvalue()[-_MAX_PRINTED:]}")
    model: ir.Model = program.model
    for value, (name, axes) in zip(model.graph.inputs, dynamic.items(), strict=True):
        for axis in axes:
            if value.shape is not None and isinstance(value.shape[axis], int):
                raise _fixed((name, axes), axis, value.shape[axis])
    ir.convenience.rename_values(
        [value for value in model.graph.initializers.values() if (value.name or "").startswith("module.")],
        [name.removeprefix("module.") for name in list(model.graph.initializers) if name.startswith("module.")],
    )
    return model


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


def _fixed(dynamic: tuple[str, Mapping[int, str]], axis: int, size: object) -> ExportError:
    name, axes = dynamic
    fix = (
        "pass dynamic_batch=False with an example of one row, or do not write the batch size into the network"
        if axis == 0
        else "leave it out of dynamic_shapes, or do not write its size into the network"
    )
    return ExportError(f"input {name!r}: the network fixes dimension {axis} ({axes[axis]}) at {size}; {fix}")


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
