"""A source as one ONNX graph with named exits."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir
import torch

from eetoolkit_exporters.source import CascadeSource, OnnxSource, Source, TorchSource, walk_outputs
from eetoolkit_exporters.tidy import tidy
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.inputs import BATCH
from eetoolkit_runtime.verify import difference

DynamicShapes = Mapping[str, Mapping[int, str]]
"""Dynamic dimensions beside the batch: for an input's name, {axis: symbol}."""

MIN_OPSET = 13
_MAX_REASON = 400
_REPEATABLE = 1e-4  # reductions on several threads may differ in rounding


@dataclass
class NetworkExit:
    """An exit of a network: its outputs by name; `confidence` is set by `judge`."""

    name: str
    outputs: dict[str, ir.Value]
    confidence: ir.Value | None = None


@dataclass
class Network:
    """One ONNX graph whose exits are values in it. Every node carries the opset that it was written for."""

    graph: ir.Graph
    exits: list[NetworkExit]
    ordered: bool
    """Whether the exits' order is the caller's to keep (a cascade), and not that of their depth."""
    temperatures: dict[str, float] = field(default_factory=dict)
    """Graph inputs that are constants in the manifest, and their values."""


def capture(
    source: Source,
    exits: Mapping[str, Mapping[str, str]],
    *,
    dynamic_batch: bool = True,
    dynamic_shapes: DynamicShapes | None = None,
) -> Network:
    """Returns the source as one graph: functions inlined, constants as initializers, values with shapes.

    Args:
        source: The network.
        exits: For each exit, its outputs' names in the answer and in the source.
        dynamic_batch: Whether the leading dimension of every input is dynamic (torch; an ONNX file says so itself).
        dynamic_shapes: Further dynamic dimensions (torch).

    Raises:
        ExportError: A module that torch cannot export, an opset below 13, a random operator.
    """
    if isinstance(source, CascadeSource):
        graph, outputs = _capture_cascade(source, dynamic_batch=dynamic_batch, dynamic_shapes=dynamic_shapes)
    elif isinstance(source, TorchSource | OnnxSource):
        graph, outputs = _capture_single(source, dynamic_batch=dynamic_batch, dynamic_shapes=dynamic_shapes)
    else:
        raise ExportError(f"cannot capture a {type(source).__name__}")
    named = [NetworkExit(name, {key: outputs[flat] for key, flat in wanted.items()}) for name, wanted in exits.items()]
    return Network(graph, named, ordered=isinstance(source, CascadeSource))


def _capture_single(
    source: TorchSource | OnnxSource, *, dynamic_batch: bool, dynamic_shapes: DynamicShapes | None
) -> tuple[ir.Graph, dict[str, ir.Value]]:
    if isinstance(source, TorchSource):
        model = _export_torch(source, dynamic_batch=dynamic_batch, dynamic_shapes=dynamic_shapes)
        names = [flat for outputs in source.exits.values() for flat in outputs.values()]
        model = tidy(model, infer_shapes=False)
    else:
        if dynamic_shapes:
            raise ExportError(f"dynamic_shapes is for torch networks; {source.path} says itself which sizes vary")
        model = tidy(_read_onnx(source), infer_shapes=True)
        names = [str(value.name) for value in model.graph.outputs]
    return model.graph, dict(zip(names, model.graph.outputs, strict=True))


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


def _export_torch(source: TorchSource, *, dynamic_batch: bool, dynamic_shapes: DynamicShapes | None) -> ir.Model:
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
            )
        except Exception as error:
            if fixed := _FIXED.search(_everything(error)):
                size, number, axis = map(int, fixed.groups())
                raise _fixed(list(dynamic.items())[number], axis, size) from error
            raise ExportError(f"torch cannot export the network: {_reason(error)}") from error
    if program is None:
        raise ExportError(f"torch cannot export the network: {printed.getvalue()[-_MAX_REASON:]}")
    model: ir.Model = program.model
    for value, (name, axes) in zip(model.graph.inputs, dynamic.items(), strict=True):
        for axis in axes:
            if value.shape is not None and isinstance(value.shape[axis], int):
                raise _fixed((name, axes), axis, value.shape[axis])
    _mend_shapes(model)
    ir.convenience.rename_values(
        [value for value in model.graph.initializers.values() if (value.name or "").startswith("module.")],
        [name.removeprefix("module.") for name in list(model.graph.initializers) if name.startswith("module.")],
    )
    return model


_FIXED = re.compile(r"inferred a static shape of (\d+) for dimension inputs\['tensors'\]\[(\d+)\]\.shape\[(\d+)\]")


def _fixed(dynamic: tuple[str, Mapping[int, str]], axis: int, size: object) -> ExportError:
    name, axes = dynamic
    fix = (
        "pass dynamic_batch=False with an example of one row, or do not write the batch size into the network"
        if axis == 0
        else "leave it out of dynamic_shapes, or do not write its size into the network"
    )
    return ExportError(f"input {name!r}: the network fixes dimension {axis} ({axes[axis]}) at {size}; {fix}")


def _mend_shapes(model: ir.Model) -> None:
    """Puts symbols where torch wrote the example's size: its meta kernels of LSTM and GRU fix the length."""
    symbols = {dim.value for value in model.graph.inputs for dim in value.shape or () if not isinstance(dim, int)}
    symbols.discard(None)
    values = [value for node in model.graph for value in node.outputs if value.shape is not None]
    shapes = [value.shape for value in values]
    for value in values:
        value.shape = None
    ir.passes.common.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    for value, shape in zip(values, shapes, strict=True):
        found = value.shape
        value.shape = shape
        if found is not None and shape is not None and len(found) == len(shape):
            value.shape = ir.Shape(
                mine if isinstance(dim, int) and not isinstance(mine, int) and mine.value in symbols else dim
                for mine, dim in zip(found, shape, strict=True)
            )


def _read_onnx(source: OnnxSource) -> ir.Model:
    try:
        model = ir.load(source.path)
    except Exception as error:
        raise ExportError(f"{source.path}: cannot be read: {str(error).splitlines()[0]}") from error
    opset = model.opset_imports.get("", 0)
    if opset < MIN_OPSET:
        raise ExportError(
            f"{source.path}: opset {opset}, expected {MIN_OPSET} or newer; convert it with onnx's converter"
        )
    _name_batch(model.graph)
    return model


def _name_batch(graph: ir.Graph) -> None:
    """Calls the leading dynamic dimension of the inputs `batch`, everywhere it stands."""
    initializers = set(graph.initializers.values())
    leading = {
        str(value.shape[0])
        for value in graph.inputs
        if value not in initializers and value.shape is not None and len(value.shape) and not value.shape.is_static(0)
    }
    values = [*graph.inputs, *(output for node in graph.all_nodes() for output in node.outputs)]
    for value in values:
        shape = value.shape
        if shape is None:
            continue
        dims = [
            BATCH if not isinstance(dim, int) and dim.value is not None and str(dim) in leading else dim
            for dim in shape
        ]
        if value.is_graph_input() and dims and not isinstance(dims[0], int):
            dims[0] = BATCH
        value.shape = ir.Shape(dims)


def _capture_cascade(
    source: CascadeSource, *, dynamic_batch: bool, dynamic_shapes: DynamicShapes | None
) -> tuple[ir.Graph, dict[str, ir.Value]]:
    """Puts the stages side by side in one graph; each node keeps the opset of its own stage."""
    graphs = []
    for number, stage in enumerate(source.stages):
        try:
            graphs.append(_capture_single(stage.source, dynamic_batch=dynamic_batch, dynamic_shapes=dynamic_shapes))
        except ExportError as error:
            raise ExportError(f"stage {number} of the cascade: {error}") from error
    found: dict[str, ir.Value] = {}
    shared: dict[str, ir.Value] = {}
    nodes: list[ir.Node] = []
    initializers: list[ir.Value] = []
    opsets: dict[str, int] = {}
    for number, ((graph, outputs), stage) in enumerate(zip(graphs, source.stages, strict=True)):
        prefix = f"stage{number}."
        graph.outputs.clear()
        for value in list(graph.inputs):
            name = stage.inputs[str(value.name)]
            kept = shared.setdefault(name, value)
            if (kept.dtype, kept.shape) != (value.dtype, value.shape):
                raise ExportError(
                    f"stage {number}: input {value.name!r} is {value.dtype}{value.shape}, the first stage's is "
                    f"{kept.dtype}{kept.shape}; put the conversion into the stage's network"
                )
            if kept is not value:
                value.replace_all_uses_with(kept)
                outputs = {key: kept if output is value else output for key, output in outputs.items()}  # noqa: PLW2901
            else:
                kept.name = name
        found.update({f"{prefix}{name}": value for name, value in outputs.items()})
        for value in list(graph.initializers.values()):
            value.name = f"{prefix}{value.name}"
            initializers.append(value)
        for node in list(graph):
            node.name = f"{prefix}{node.name}"
            for value in node.outputs:
                value.name = f"{prefix}{value.name}"
        opsets.update(graph.opset_imports)
        graph.inputs.clear()
        graph.initializers.clear()
        stage_nodes = list(graph)
        graph.remove(stage_nodes)
        nodes.extend(stage_nodes)
    merged = ir.Graph(
        list(shared.values()), [], nodes=nodes, initializers=initializers, opset_imports=opsets, name="cascade"
    )
    return merged, found


@contextlib.contextmanager
def _quiet() -> Iterator[io.StringIO]:
    """Keeps torch's exporter from printing its progress and its hints about itself."""
    printed = io.StringIO()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            warnings.simplefilter("ignore")
            yield printed
    finally:
        logging.disable(logging.NOTSET)


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    return chain


def _everything(error: BaseException) -> str:
    return "\n".join(str(part) for part in _chain(error))


def _reason(error: BaseException) -> str:
    """Shortens torch's error to what a user can act on: the innermost cause and the line of the network's own code."""
    chain, everything = _chain(error), _everything(error)
    innermost = next((part for part in reversed(chain) if str(part).strip()), error)
    text = next((line.strip() for line in str(innermost).splitlines() if line.strip()), type(innermost).__name__)
    if "data-dependent expression" in everything:
        text = (
            "a Python `if`, loop or size depends on a tensor's values; write it with torch.cond, torch.where or "
            "torch.while_loop"
        )
    elif match := re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", everything):
        text = f"no ONNX operator for {match.group(1)}"
    lines = re.findall(r'File "([^"]+)", line (\d+), in (\S+)\n\s+(.+)', everything)
    own = [line for line in lines if "/torch/" not in line[0] and "eetoolkit_exporters" not in line[0]]
    if own:
        path, number, _, code = own[-1]
        text = f"{text} ({path}:{number}: {code.strip()})"
    return text[:_MAX_REASON]


def check_deterministic(graph: ir.Graph) -> None:
    """Refuses operators that draw random numbers.

    Raises:
        ExportError: Names them.
    """
    random = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
    found = sorted({node.op_type for node in graph.all_nodes() if node.domain == "" and node.op_type in random})
    if found:
        raise ExportError(
            f"the network draws random numbers in evaluation ({', '.join(found)}); an export must be deterministic: "
            "replace the sampling by its decision (argmax, p > 0.5)"
        )


def check_repeatable(source: Source) -> None:
    """Refuses a network that answers the same inputs differently when it is called twice.

    Raises:
        ExportError: Names the output.
    """
    first, second = source.run(source.inputs), source.run(source.inputs)
    for name, array in first.items():
        if difference(second[name], array) > _REPEATABLE:
            raise ExportError(
                f"the network gives another {name!r} when it is called twice with the same inputs: it draws random "
                "numbers (functional.dropout without training=False?) or keeps state; an export must be deterministic"
            )
