"""The ways to quantise a segment's graph: which apply, and the graph of each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from eetoolkit_exporters.cutting.work import count_work
from eetoolkit_exporters.graph import fresh, subgraphs, values_of
from eetoolkit_exporters.quantizing import onnxruntime_quantizer as quantizer
from eetoolkit_exporters.quantizing.folding import fold_norms, fold_transposes
from eetoolkit_exporters.quantizing.kept import PRODUCTS, kept, weights_of
from eetoolkit_exporters.quantizing.weights import (
    is_lookup,
    is_plain,
    load_weights,
    products_of_matrices,
    quantize_embeddings,
    store_as_float16,
)
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.plan.types import Activations, Method, Segment
from eetoolkit_runtime.running.inputs import BATCH

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_MATRICES = ("Gemm", "MatMul")
_STATIC = (
    *_CONVOLUTIONS, *_MATRICES, "Add", "Mul", "Relu", "LeakyRelu", "Clip", "Sigmoid", "MaxPool", "AveragePool",
    "GlobalAveragePool", "Concat", "Split", "Slice", "Pad", "Resize", "Reshape", "Flatten", "Squeeze", "Unsqueeze",
    "Transpose",
)  # fmt: skip
"""What computes with 8 bits around convolutions; no softmax, no norm, nothing that takes masks."""
_OPSET = 13
"""The first whose `DequantizeLinear` has an axis."""
_FEW_CHANNELS = 4
_SMALLEST_BLOCK = 16
_UNKNOWN_SIZE = 64
"""What a dimension counts whose size is not known, when the work of convolutions and of matrices is compared."""


@dataclass(frozen=True)
class Settings:
    """How segments are quantised.

    Attributes:
        activations: What static ones compute with.
        reduce_range: Whether weights have 7 bits, for processors whose 16-bit sums saturate.
        block: How many weights of a column have one scale in blockwise ones, a power of two.
    """

    activations: Activations = "uint8"
    reduce_range: bool = False
    block: int = 128


@dataclass(frozen=True)
class Quantized:
    """A quantised graph.

    Attributes:
        model: Inputs and outputs are called and typed as before; all weights are in memory, in the outermost graph.
        left: Operators with weights that stay float although no exit keeps them, as `LSTM` or `Conv in If`.
        settings: What onnxruntime was told, and its release.
    """

    model: ir.Model
    left: tuple[str, ...]
    settings: dict[str, str | int]


def methods(model: ir.Model, segment: Segment) -> tuple[Method, ...]:
    """Returns the int8 methods that apply to a segment, the most accurate first; none where it has to stay float.

    Where most multiply-adds lie in convolutions the whole segment is `static`; else the convolutions stay float.
    """
    model = _prepared(model, segment)
    products, lookups = _quantizable(model, segment)
    convolutions = [node for node in products if node.op_type in _CONVOLUTIONS]
    matrices = [node for node in products if node.op_type in _MATRICES]
    if convolutions and _work(model, convolutions) >= _work(model, matrices):
        return ("static",)
    if any(_is_plain(node) for node in matrices):
        return ("blockwise", "dynamic")
    return ("blockwise",) if lookups else ()


def left(model: ir.Model, segment: Segment) -> tuple[str, ...]:
    """Returns the operators with weights in a segment, but for those that its exit keeps."""
    own = _prepared(model, segment)
    return _left(own, kept(own, segment))


def _left(model: ir.Model, but: Collection[ir.Node]) -> tuple[str, ...]:
    found: dict[str, None] = {}

    def visit(graph: ir.Graph, where: str) -> None:
        for node in graph:
            if node not in but:
                if weights_of(node) is not None or is_lookup(node):
                    found[f"{node.op_type}{where}"] = None
                for inner in subgraphs(node):
                    visit(inner, f" in {node.op_type}")

    visit(model.graph, "")
    return tuple(found)


def quantized(
    model: ir.Model, segment: Segment, method: Method, feeds: Iterable[Mapping[str, Array]], settings: Settings
) -> Quantized:
    """Returns a segment's graph as a method makes it; `model` is not changed.

    Args:
        model: The segment's graph, all its weights in the outermost one.
        segment: What the plan says of it.
        method: How it is quantised.
        feeds: Inputs of one row each, by the graph's names; only `static` reads them, each time anew.
        settings: How.

    Raises:
        ExportError: A graph that onnxruntime's quantiser cannot take, or one without weights for float16.
    """
    own = _copy(model) if method == "float16" else _prepared(model, segment)
    load_weights(own)
    told: dict[str, str | int] = {"onnxruntime": ort.__version__}
    if method == "float16":
        if not store_as_float16(own):
            raise ExportError("it has no weights of float32 that float16 can hold, or only small ones")
        return Quantized(own, (), told)
    if method == "static":
        fold_norms(own)
    stays = kept(own, segment)
    products, lookups = _quantizable(own, segment, method)
    floats = _left(own, {*stays, *products, *lookups})
    quantize_embeddings(own, lookups)
    if method == "static":
        if not products:
            raise ExportError(f"onnxruntime's quantiser takes none of its products: {', '.join(floats)}")
        result = _static(own, {*stays, *_untouched(own, products)}, feeds, settings)
        told |= {"activations": settings.activations, "per_channel": 1, "reduce_range": int(settings.reduce_range)}
    else:
        gemms = [node for node in products if node.op_type == "Gemm"]
        chosen = [*(node for node in products if node.op_type == "MatMul"), *products_of_matrices(own, gemms)]
        if method == "blockwise":
            blocks = {str(node.name): _block(node, settings.block) for node in chosen}
            result = quantizer.quantize_blockwise(own, blocks) if blocks else own
            told |= {"bits": quantizer.BITS, "block": settings.block, "accuracy_level": quantizer.ACCURACY_LEVEL}
        else:
            result = _dynamic(own, [str(node.name) for node in chosen], settings)
            told |= {"per_channel": 1, "reduce_range": int(settings.reduce_range)}
    return Quantized(_finished(result, model), floats, told)


def _copy(model: ir.Model) -> ir.Model:
    """Returns a copy whose nodes all have names of their own."""
    own = ir.Model(model.graph.clone(), ir_version=model.ir_version, producer_name=model.producer_name)
    used: set[str] = set()
    for number, node in enumerate(own.graph.all_nodes()):
        node.name = fresh(node.name or f"{node.op_type}_{number}", used)
    return own


def _prepared(model: ir.Model, segment: Segment) -> ir.Model:
    """Returns a copy whose products have weights as onnxruntime's quantiser takes them."""
    own = _copy(model)
    fold_transposes(own, kept(own, segment))
    return own


def _finished(model: ir.Model, original: ir.Model) -> ir.Model:
    """Returns a graph without what onnxruntime's quantiser notes in it."""
    model.ir_version = original.ir_version
    model.producer_name, model.producer_version = original.producer_name, original.producer_version
    model.metadata_props.clear()
    model.graph.name = original.graph.name
    names = [[value.name for value in graph.outputs] for graph in (model.graph, original.graph)]
    if names[0] != names[1]:
        raise ExportError(f"onnxruntime's quantiser called the outputs {names[0]}, expected {names[1]}")
    return model


def _quantizable(
    model: ir.Model, segment: Segment, method: Method | None = None
) -> tuple[list[ir.Node], list[ir.Node]]:
    """Returns the products and the lookups of the outermost graph that may compute with int8 weights, by any method."""
    if model.graph.opset_imports.get("", 1) < _OPSET:
        return [], []
    stays = kept(model, segment)
    nodes = [node for node in model.graph if node not in stays]
    products = [node for node in nodes if _has_matrix(node) and (method is None or _is_taken(node, method))]
    small = {*products, *(node for node in nodes if is_lookup(node))}
    lookups = [
        node
        for node in nodes
        if is_lookup(node) and (table := node.inputs[0]) is not None and {use.node for use in table.uses()} <= small
    ]
    return products, lookups


def _has_matrix(node: ir.Node) -> bool:
    """Whether a node multiplies with float32 weights as onnxruntime's quantiser takes them, and int8 can be faster."""
    if node.domain or node.op_type not in (*_CONVOLUTIONS, *_MATRICES):
        return False
    weights = node.inputs[1]
    if weights is None or not weights.is_initializer() or weights.const_value is None:
        return False
    tensor = weights.const_value
    flat = node.op_type in _CONVOLUTIONS or len(tensor.shape) == 2
    takes = flat and tensor.dtype == ir.DataType.FLOAT and not weights.is_graph_input()
    return takes and not _sums_few_channels(node, tensor)


def _sums_few_channels(node: ir.Node, weights: ir.TensorProtocol) -> bool:
    """Whether a convolution sums over so few channels, as those of a picture, that int8 is slower than float."""
    whole = node.op_type == "Conv" and node.attributes.get_int("group", 1) == 1
    return whole and weights.shape.numpy()[1] < _FEW_CHANNELS


def _is_taken(node: ir.Node, method: Method) -> bool:
    """Whether a method takes a product; static takes none whose bias has other channels than its scales."""
    weights, bias = (node.inputs[1], node.inputs[2]) if len(node.inputs) > 2 else (None, None)
    if method != "static":
        return _is_plain(node)
    if weights is None or weights.const_value is None or bias is None or bias.const_value is None:
        return True
    first = node.op_type == "Conv" or node.attributes.get_int("transB", 0) == 1
    scales = int(weights.const_value.shape.numpy()[0 if first else 1])
    return scales in (1, bias.const_value.size)


def _is_plain(node: ir.Node) -> bool:
    return node.op_type == "MatMul" or (node.op_type == "Gemm" and is_plain(node))


def _work(model: ir.Model, nodes: Iterable[ir.Node]) -> int:
    """Returns the multiply-adds of nodes; of one whose shapes are not known, the number of its weights."""
    dims = [dim for value in values_of(model.graph) if value.shape is not None for dim in value.shape]
    symbols = {name for dim in dims if not isinstance(dim, int) for name in dim.free_symbols()}
    sizes = dict.fromkeys(symbols, _UNKNOWN_SIZE) | {BATCH: 1}
    total = 0
    for node in nodes:
        adds = count_work([node], (), sizes).multiply_adds
        weights = node.inputs[1]
        if adds is None and weights is not None and weights.const_value is not None:
            adds = weights.const_value.size
        total += adds or 0
    return total


def _untouched(model: ir.Model, products: Collection[ir.Node]) -> list[ir.Node]:
    """Returns the nodes that `static` must leave alone.

    Products without weights of its kind, and what cuts off values that somebody else reads as well: onnxruntime takes
    the range behind a `Relu` for the one before it.
    """
    found = [node for node in model.graph if node.op_type in PRODUCTS and node not in products]
    for node in model.graph:
        before = node.inputs[0] if node.op_type in ("Relu", "Clip") else None
        if before is not None and (before.is_graph_output() or len(before.uses()) > 1):
            found.append(node)
    return found


def _static(
    model: ir.Model, without: Collection[ir.Node], feeds: Iterable[Mapping[str, Array]], settings: Settings
) -> ir.Model:
    """Returns the graph with int8 convolutions; what takes or gives infinite values on the rows stays float."""
    from onnxruntime.quantization import QuantType

    if next(iter(feeds), None) is None:
        raise ExportError("static quantisation reads rows to find the ranges of tensors; there are none")
    told = {
        "per_channel": True,
        "reduce_range": settings.reduce_range,
        "activation_type": QuantType.QUInt8 if settings.activations == "uint8" else QuantType.QInt8,
        "weight_type": QuantType.QInt8,
        "extra_options": {"MatMulConstBOnly": True, "ActivationSymmetric": settings.activations == "int8"},
    }
    names = {str(node.name) for node in without}
    while True:
        result = quantizer.quantize_static(model, _STATIC, names, feeds, told)
        endless = _infinite(result)
        touched = {
            str(node.name)
            for node in model.graph
            if any(value is not None and value.name in endless for value in (*node.inputs, *node.outputs))
        }
        if touched <= names:
            return result
        names |= touched


def _infinite(model: ir.Model) -> set[str]:
    """Returns the names of tensors whose scales are no numbers."""
    found = set()
    for node in model.graph:
        scale = node.inputs[1] if node.op_type == "QuantizeLinear" else None
        if scale is not None and scale.const_value is not None and not np.isfinite(scale.const_value.numpy()).all():
            found.add(str(scale.name).removesuffix("_scale"))
    return found


def _dynamic(model: ir.Model, names: list[str], settings: Settings) -> ir.Model:
    from onnxruntime.quantization import QuantType

    if not names:
        return model
    told = {
        "per_channel": True,
        "reduce_range": settings.reduce_range,
        "weight_type": QuantType.QInt8,
        "extra_options": {"WeightSymmetric": True, "MatMulConstBOnly": True},
    }
    return quantizer.quantize_dynamic(model, names, told)


def _block(product: ir.Node, largest: int) -> int:
    """Returns the block of a product: no longer than its columns need."""
    weights = product.inputs[1]
    rows = largest if weights is None or weights.const_value is None else len(weights.const_value.numpy())
    return max(_SMALLEST_BLOCK, min(largest, 1 << (rows - 1).bit_length()))
