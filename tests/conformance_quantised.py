"""The cases with integers: networks whose quantised graphs are the same on whatever processor makes them.

Weights, biases and rows of convolutions are small multiples of powers of two, so that float sums are exact in any order
and ranges are the same everywhere. Weights have 7 bits: no sum of two products exceeds 16 bits, where x86 without VNNI
saturates. Golden samples and answers are of integers wherever `static` is; `tests/test_conformance.py` holds that.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from eetoolkit_exporters.export import export
from eetoolkit_exporters.quantizing.candidates import make_candidates
from eetoolkit_exporters.quantizing.methods import Settings
from eetoolkit_exporters.quantizing.onnxruntime_quantizer import quantize_static
from eetoolkit_exporters.quantizing.write import write_quantized
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.plan.types import Method, Quantization

EXITS = 3
CHANNELS, SIDE = 8, 4
"""Of pictures and of what convolutions give; over fewer channels they stay float."""
WORDS, LENGTH, WIDTH, CLASSES = 40, 6, 32, 4
HIGHEST = 255 / 32
"""What activations are cut off at: 255 steps of a power of two."""


def pictures(seed: int, count: int) -> list[Array]:
    """Returns pictures of 8 channels, float32 [1, 8, 4, 4], in steps of 1/32 from -4 to 127/32."""
    draw = np.random.default_rng(seed)
    found = draw.integers(-128, 128, (count, 1, CHANNELS, SIDE, SIDE))
    found[:, 0, 0, 0, :2] = -128, 127
    return [(each / 32).astype(np.float32) for each in found]


def sentences(seed: int, count: int) -> list[Array]:
    """Returns sentences, int64 [1, 6], words of a vocabulary of 40."""
    return [each[None] for each in np.random.default_rng(seed).integers(0, WORDS, (count, LENGTH))]


def convolutional(path: Path) -> Path:
    """Writes three convolutions, an exit behind each."""
    draw = np.random.default_rng(0)
    weights: dict[str, Array] = {}
    text = ""
    for k, before in enumerate(("x", "h0", "h1")):
        weights[f"w{k}"] = draw.integers(-3, 4, (CHANNELS, CHANNELS, 3, 3)) / 4
        weights[f"b{k}"] = draw.integers(-8, 9, CHANNELS) / 4
        weights[f"v{k}"] = draw.normal(0, 0.3, (CHANNELS, CLASSES))
        text += f"""
            c{k} = Conv <pads = [1, 1, 1, 1]> ({before}, w{k}, b{k})  h{k} = Clip (c{k}, low, high)
            p{k} = GlobalAveragePool (h{k})  f{k} = Flatten (p{k})  [head{k}] exit{k} = MatMul (f{k}, v{k})"""
    weights |= {"low": np.array(0), "high": np.array(HIGHEST)}
    return network(path, f"float[batch, {CHANNELS}, {SIDE}, {SIDE}] x", text, weights)


def embedded(path: Path) -> Path:
    """Writes an embedding and three products with matrices, an exit behind each."""
    draw = np.random.default_rng(1)
    weights: dict[str, Array] = {"table": draw.normal(0, 1, (WORDS, WIDTH)), "axis": np.array([1])}
    text = "e = Gather (table, x)"
    for k, before in enumerate(("e", "h0", "h1")):
        weights[f"w{k}"] = draw.normal(0, WIDTH**-0.5, (WIDTH, WIDTH))
        weights[f"v{k}"] = draw.normal(0, 1, (WIDTH, CLASSES))
        text += f"""
            c{k} = MatMul ({before}, w{k})  h{k} = Relu (c{k})
            p{k} = ReduceMean <keepdims = 0> (h{k}, axis)  [head{k}] exit{k} = MatMul (p{k}, v{k})"""
    return network(path, f"int64[batch, {LENGTH}] x", text, weights)


def network(path: Path, given: str, text: str, weights: Mapping[str, Array]) -> Path:
    """Writes a network, its input and its nodes as ONNX text, with three exits."""
    exits = ", ".join(f"float[batch, {CLASSES}] exit{k}" for k in range(EXITS))
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["": 20]> network ({given}) => ({exits}) {{{text}}}'
    )
    for name, array in weights.items():
        kept = array if name == "axis" else array.astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(kept, name))
    onnx.save(model, path)
    return path


def quantised(
    write: Callable[[Path], Path], rows: Sequence[Array], method: Method, thresholds: Sequence[float]
) -> Callable[[Path], Path]:
    """Returns what exports a network and quantises all its segments by a method, as `eetoolkit.quantize` does."""

    def build(target: Path) -> Path:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            source = export(write(folder / "network.onnx"), rows[0], folder / "float.ee", **_limits(thresholds))
            (folder / "candidates").mkdir()
            made = make_candidates(
                source, [(row,) for row in rows], folder / "candidates", Settings(reduce_range=True),
                lambda _name, _methods: (method,), lambda _what, _done, _total: None,
            )  # fmt: skip
            said = Quantization(
                segments=dict.fromkeys(made.by_method, method),
                activations=made.activations if method == "static" else None,
                rows=len(rows),
                created_with=made.settings[method],
                stale=method != "float16",
            )
            return write_quantized(made, said.segments, said, target).path

    return build


def cut_from_quantised(
    write: Callable[[Path], Path], rows: Sequence[Array], thresholds: Sequence[float]
) -> Callable[[Path], Path]:
    """Returns what exports a network that was quantised as a whole, heads excepted; its slots are uint8."""
    from onnxruntime.quantization import QuantType

    settings: dict[str, Any] = {
        "per_channel": True, "reduce_range": True, "activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8,
    }  # fmt: skip

    def build(target: Path) -> Path:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            model = ir.load(write(folder / "network.onnx"))
            for number, node in enumerate(model.graph):
                node.name = node.name or str(number)
            heads = [f"head{k}" for k in range(EXITS)]
            feeds = [{"x": row} for row in rows]
            types = ("Conv", "Clip", "GlobalAveragePool", "Flatten")
            ir.save(quantize_static(model, types, heads, feeds, settings), folder / "quantised.onnx")
            return export(folder / "quantised.onnx", rows[0], target, **_limits(thresholds)).path

    return build


def _limits(thresholds: Sequence[float]) -> dict[str, Any]:
    return {"name": "three exits", "threshold": {f"exit{k}": limit for k, limit in enumerate(thresholds)}}
