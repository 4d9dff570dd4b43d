"""ONNX files that torch had no part in, and cascades of several models."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from networks.case import Array, Case, Inputs, digits, features, seeded
from networks.forms import Layers, Single


def _weight(name: str, *shape: int, scale: float = 0.3) -> onnx.TensorProto:
    seed = sum(map(ord, name))
    values = np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)
    return numpy_helper.from_array(values, name)


def _constant(name: str, value: Any, dtype: type[np.generic] = np.int64) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, dtype), name)


def _save(
    path: Path, nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], exits: dict[str, int], opset: int,
    *, external: bool = False,
) -> Path:  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]) for name, size in exits.items()],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    if external:
        onnx.save_model(
            model, path, save_as_external_data=True, location=f"{path.stem}.weights", size_threshold=256,
            convert_attribute=False,
        )  # fmt: skip
    else:
        onnx.save_model(model, path)
    return path


def _gated(opset: int, *, external: bool = False) -> Any:
    """Returns the builder of a file whose second exit reads the input again and whose third reads everything."""

    def build(folder: Path) -> Path:
        node = helper.make_node
        nodes = [
            node("Gemm", ["x", "w0", "b0"], ["h0"]),
            node("Relu", ["h0"], ["r0"]),
            node("MatMul", ["r0", "v0"], ["early"]),
            node("Concat", ["r0", "x"], ["c0"], axis=1),
            node("ReduceMean", ["x", "axes"], ["m0"]) if opset >= 18 else node("ReduceMean", ["x"], ["m0"], axes=[1]),
            node("MatMul", ["c0", "w1"], ["h1"]),
            node("Mul", ["h1", "m0"], ["g1"]),
            node("Tanh", ["g1"], ["r1"]),
            node("MatMul", ["r1", "v1"], ["middle"]),
            node("Clip", ["h1", "low", "high"], ["clipped"]),
            node("Concat", ["r0", "clipped"], ["c2"], axis=-1),
            node("MatMul", ["c2", "w2"], ["h2"]),
            node("Add", ["h2", "middle"], ["late"]),
        ]
        weights = [
            _weight("w0", 64, 16), _weight("b0", 16), _weight("v0", 16, 7, scale=1.0), _weight("w1", 80, 16),
            _weight("v1", 16, 7, scale=1.0), _weight("w2", 32, 7), _constant("low", -1.0, np.float32),
            _constant("high", 1.0, np.float32), *([_constant("axes", [1])] if opset >= 18 else []),
        ]  # fmt: skip
        exits = {"late": 7, "early": 7, "middle": 7}
        return _save(folder / f"gated{opset}.onnx", nodes, weights, exits, opset, external=external)

    return build


def _non_zero(folder: Path) -> Path:
    """A NonZero whose result, of as many columns as there are positive features, crosses the boundary."""
    node = helper.make_node
    nodes = [
        node("Gemm", ["x", "w0", "b0"], ["h"]),
        node("Greater", ["h", "zero"], ["positive"]),
        node("NonZero", ["positive"], ["where"]),
        node("Transpose", ["where"], ["places"], perm=[1, 0]),
        node("GatherND", ["h", "places"], ["picked"]),
        node("Shape", ["h"], ["size"]),
        node("ConstantOfShape", ["size"], ["empty"]),
        node("Sqrt", ["picked"], ["roots"]),
        node("ScatterND", ["empty", "places", "roots"], ["spread"]),
        node("MatMul", ["spread", "v0"], ["early"]),
        node("Mul", ["picked", "picked"], ["squares"]),
        node("ScatterND", ["spread", "places", "squares"], ["again"]),
        node("MatMul", ["again", "v1"], ["late"]),
    ]
    weights = [
        _weight("w0", 64, 16), _weight("b0", 16), _constant("zero", 0.0, np.float32), _weight("v0", 16, 5, scale=0.8),
        _weight("v1", 16, 5, scale=0.3),
    ]  # fmt: skip
    return _save(folder / "non_zero.onnx", nodes, weights, {"early": 5, "late": 5}, 17)


def _if_loop(folder: Path) -> Path:
    """An If and a Loop, both of which read outer values, between two exits."""
    node, info = helper.make_node, helper.make_tensor_value_info
    unknown = info("unused", TensorProto.FLOAT, None)
    then = helper.make_graph([node("MatMul", ["r", "w1"], ["branch"])], "then", [], [unknown])
    then.output[0].name = "branch"
    other = helper.make_graph([node("Sub", ["r", "half"], ["branch2"])], "otherwise", [], [unknown])
    other.output[0].name = "branch2"
    body = helper.make_graph(
        [
            node("Mul", ["state", "growth"], ["grown"]),
            node("Add", ["grown", "r"], ["next"]),
            node("Identity", ["on"], ["still"]),
        ],
        "body",
        [
            info("i", TensorProto.INT64, []), info("on", TensorProto.BOOL, []),
            info("state", TensorProto.FLOAT, ["N", 16]),
        ],
        [info("still", TensorProto.BOOL, []), info("next", TensorProto.FLOAT, ["N", 16])],
    )  # fmt: skip
    nodes = [
        node("Gemm", ["x", "w0", "b0"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "v0"], ["early"]),
        node("ReduceMean", ["r"], ["mean"], keepdims=0),
        node("Greater", ["mean", "limit"], ["open"]),
        node("If", ["open"], ["chosen"], then_branch=then, else_branch=other),
        node("Loop", ["steps", "", "chosen"], ["looped"], body=body),
        node("Tanh", ["looped"], ["t"]),
        node("MatMul", ["t", "v1"], ["late"]),
    ]
    weights = [
        _weight("w0", 64, 16), _weight("b0", 16), _weight("w1", 16, 16), _weight("v0", 16, 5, scale=0.6),
        _weight("v1", 16, 5, scale=0.9), _constant("half", 0.5, np.float32), _constant("limit", 0.9, np.float32),
        _constant("growth", 0.7, np.float32), _constant("steps", 3),
    ]  # fmt: skip
    return _save(folder / "if_loop.onnx", nodes, weights, {"early": 5, "late": 5}, 16)


def scikit_learn(folder: Path, *, zipmap: bool = False) -> Path:
    """Writes a logistic regression over the digits, `label` and `probabilities`, as skl2onnx converts it."""
    return _convert(LogisticRegression(C=0.02, max_iter=200), folder / "regression.onnx", zipmap=zipmap)


def perceptron(folder: Path) -> Path:
    """Writes a perceptron over the digits, `label` and `probabilities`, as skl2onnx converts it."""
    return _convert(MLPClassifier((16,), max_iter=15, random_state=0), folder / "perceptron.onnx", zipmap=False)


def _convert(classifier: Any, path: Path, *, zipmap: bool) -> Path:
    from skl2onnx import to_onnx
    from sklearn.datasets import load_digits

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fit that has not converged will do
        classifier.fit(digits(500).reshape(500, 64), load_digits().target[:500])
        options = {type(classifier): {"zipmap": zipmap}}
        example = digits(1).reshape(1, 64)
        path.write_bytes(to_onnx(classifier, example, options=options, target_opset=17).SerializeToString())
    return path


def _two_networks(folder: Path) -> list[Any]:
    return [seeded(Single, 1)(folder), seeded(Layers3, 2)(folder)]


class Layers3(Layers):
    """A second stage with two exits of its own, whose parameter has another name."""

    def forward(self, picture: Any) -> tuple[Any, Any]:
        _, middle, late = self.logits(picture)
        return middle, late


def _file_then_network(folder: Path) -> list[Any]:
    return [_gated(13)(folder), seeded(Single, 2)(folder)]


def _scikit_learn_then_network(folder: Path) -> list[Any]:
    return [scikit_learn(folder), perceptron(folder), seeded(Single, 2)(folder)]


def _stage_inputs(name: str) -> Any:
    draw, real = features(name)

    def random(rng: np.random.Generator, rows: int, length: int | None) -> Inputs:
        return {key: _soften(value) for key, value in draw(rng, rows, length).items()}

    return random, real


def _soften(values: Array) -> Array:
    return (values / 2).astype(np.float32)


_PROBABILITIES = {"exits": {"linear": "stage0.probabilities", "perceptron": "stage1.probabilities", "deep": "exit4"}}

CASES = (
    Case("onnx_opset13", _gated(13), *features(), exits=("early", "middle", "late")),
    Case("onnx_opset21_external", _gated(21, external=True), *features(), exits=("early", "middle", "late")),
    Case("onnx_non_zero", _non_zero, *features(), exits=("early", "late")),
    Case("onnx_if_loop", _if_loop, *features(), exits=("early", "late")),
    Case("cascade_torch", _two_networks, *features(), exits=("exit0", "exit1", "exit2"), by_name=False),
    Case(
        "cascade_onnx_torch", _file_then_network, *features(), exits=("exit0", "exit1", "exit2", "exit3"),
        by_name=False,
    ),
    Case(
        "cascade_scikit_learn", _scikit_learn_then_network, *_stage_inputs("X"),
        exits=("linear", "perceptron", "deep"), scales={"linear": "probs", "perceptron": "probs"},
        options=_PROBABILITIES, outputs={"linear": "exit1", "perceptron": "exit3", "deep": "exit4"}, by_name=False,
    ),
)  # fmt: skip
