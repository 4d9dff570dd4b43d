"""What standard operators make of the ranges of their inputs: one rule an operator, sound and not always tight."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import onnx_ir as ir


class Range(NamedTuple):
    """The least and the greatest that an element of a value can be, and whether all elements are whole numbers."""

    low: float = -math.inf
    high: float = math.inf
    whole: bool = False

    @property
    def hard(self) -> bool:
        """Whether every element is 0 or 1."""
        return self.whole and self.low > -1 and self.high < 2

    @property
    def unit(self) -> bool:
        """Whether every element is in [0, 1]."""
        return self.low >= 0 and self.high <= 1


UNKNOWN = Range()
HARD = Range(0, 1, whole=True)
UNIT = Range(0, 1)

Rule = Callable[[ir.Node, list[Range]], list[Range]]


def join(*ranges: Range) -> Range:
    """Returns what holds for the elements of all."""
    return Range(
        min(found.low for found in ranges), max(found.high for found in ranges), all(found.whole for found in ranges)
    )


def _same(_: ir.Node, inputs: list[Range]) -> list[Range]:
    return [inputs[0]]


def _join(_: ir.Node, inputs: list[Range]) -> list[Range]:
    return [join(*inputs)]


def _always(*found: Range) -> Rule:
    return lambda *_: list(found)


def _add(x: Range, y: Range) -> Range:
    return Range(x.low + y.low, x.high + y.high, x.whole and y.whole)


def _negate(x: Range) -> Range:
    return Range(-x.high, -x.low, x.whole)


def _multiply(x: Range, y: Range) -> Range:
    # 0 times infinity is 0: infinite ends stand for "no bound", and elements are finite
    ends = [a * b if a and b else 0.0 for a in x[:2] for b in y[:2]]
    return Range(min(ends), max(ends), x.whole and y.whole)


def _divide(x: Range, y: Range) -> Range:
    if y.low <= 0 or math.isinf(y.high):
        return UNKNOWN
    return _multiply(x, Range(1 / y.high, 1 / y.low))


def _minimum(_: ir.Node, inputs: list[Range]) -> list[Range]:
    return [join(*inputs)._replace(high=min(found.high for found in inputs))]


def _maximum(_: ir.Node, inputs: list[Range]) -> list[Range]:
    return [join(*inputs)._replace(low=max(found.low for found in inputs))]


def _clip(node: ir.Node, inputs: list[Range]) -> list[Range]:
    x, low, high = [*inputs, UNKNOWN, UNKNOWN][:3]
    given = [*node.inputs, None, None][1:3]
    if given[0] is not None:
        x = Range(max(x.low, low.low), max(x.high, low.high), x.whole and low.whole)
    if given[1] is not None:
        x = Range(min(x.low, high.low), min(x.high, high.high), x.whole and high.whole)
    return [x]


def _to_whole(function: Callable[[float], float]) -> Rule:
    def rule(_: ir.Node, inputs: list[Range]) -> list[Range]:
        low, high = (end if math.isinf(end) else function(end) for end in inputs[0][:2])
        return [Range(low, high, whole=True)]

    return rule


def _relu(_: ir.Node, inputs: list[Range]) -> list[Range]:
    return [Range(max(inputs[0].low, 0.0), max(inputs[0].high, 0.0), inputs[0].whole)]


def _absolute(_: ir.Node, inputs: list[Range]) -> list[Range]:
    x = inputs[0]
    low = 0.0 if x.low <= 0 <= x.high else min(abs(x.low), abs(x.high))
    return [Range(low, max(abs(x.low), abs(x.high)), x.whole)]


def _cast(node: ir.Node, inputs: list[Range]) -> list[Range]:
    if ir.DataType(node.attributes["to"].as_int()).is_integer():  # drops the fraction
        return _to_whole(math.trunc)(node, inputs)
    return [inputs[0]]


def _dequantise(_: ir.Node, inputs: list[Range]) -> list[Range]:
    x, scale, zero = [*inputs, Range(0, 0, whole=True)][:3]
    return [_multiply(_add(x, _negate(zero)), scale)]


def _sign(_: ir.Node, inputs: list[Range]) -> list[Range]:
    return [Range(-1.0 if inputs[0].low < 0 else 0.0, 1.0 if inputs[0].high > 0 else 0.0, whole=True)]


def _mean(_: ir.Node, inputs: list[Range]) -> list[Range]:
    return [inputs[0]._replace(whole=False)]


def _where(_: ir.Node, inputs: list[Range]) -> list[Range]:
    return [join(*inputs[1:])]


def _one_hot(_: ir.Node, inputs: list[Range]) -> list[Range]:
    return [inputs[2]]


def _filled(node: ir.Node, _: list[Range]) -> list[Range]:
    value = node.attributes.get("value")
    number = 0.0 if value is None else float(np.asarray(value.as_tensor().numpy()).item())
    return [Range(number, number, number.is_integer())]


def _scatter(node: ir.Node, inputs: list[Range]) -> list[Range]:
    reduction = node.attributes.get("reduction")
    replaced = reduction is None or reduction.as_string() == "none"
    return [join(inputs[0], inputs[2]) if replaced else UNKNOWN]


def _index(node: ir.Node, _: list[Range]) -> list[Range]:
    """ArgMax and ArgMin: below the size of their axis."""
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    size = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
    return [Range(0, size - 1 if isinstance(size, int) else math.inf, whole=True)]


def _top(_: ir.Node, inputs: list[Range]) -> list[Range]:
    return [inputs[0], Range(0, math.inf, whole=True)]


def _split(node: ir.Node, inputs: list[Range]) -> list[Range]:
    return [inputs[0]] * len(node.outputs)


def _names(names: str, rule: Rule) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


def _pair(function: Callable[[Range, Range], Range]) -> Rule:
    return lambda _, inputs: [function(*inputs)]


RULES: dict[str, Rule] = {
    **_names(
        "Identity Reshape Expand Squeeze Unsqueeze Flatten Slice Gather GatherElements GatherND Transpose Tile "
        "Compress DepthToSpace SpaceToDepth ReverseSequence ReduceMax ReduceMin MaxPool GlobalMaxPool",
        _same,
    ),
    **_names("Concat", _join),
    **_names("Sigmoid HardSigmoid Softmax", _always(UNIT)),
    **_names("And Or Not Xor Equal Greater GreaterOrEqual Less LessOrEqual IsNaN IsInf", _always(HARD)),
    **_names("Tanh Erf Sin Cos Softsign", _always(Range(-1, 1))),
    **_names("Softplus ReduceL2 ReduceL1", _always(Range(low=0))),
    **_names("LogSoftmax", _always(Range(high=0))),
    **_names("Shape Size NonZero", _always(Range(0, math.inf, whole=True))),
    **_names("GlobalAveragePool ReduceMean", _mean),
    **_names("ArgMax ArgMin", _index),
    **_names("ScatterElements ScatterND", _scatter),
    "Hardmax": _always(HARD),
    "Exp": lambda _, inputs: [Range(0, 1 if inputs[0].high <= 0 else math.inf)],
    "Abs": _absolute,
    "Add": _pair(_add),
    "Sub": lambda _, inputs: [_add(inputs[0], _negate(inputs[1]))],
    "Mul": _pair(_multiply),
    "Div": _pair(_divide),
    "Neg": lambda _, inputs: [_negate(inputs[0])],
    "Min": _minimum,
    "Max": _maximum,
    "Clip": _clip,
    "Relu": _relu,
    "Round": _to_whole(round),
    "Floor": _to_whole(math.floor),
    "Ceil": _to_whole(math.ceil),
    "Sign": _sign,
    "Cast": _cast,
    "DequantizeLinear": _dequantise,
    "Where": _where,
    "OneHot": _one_hot,
    "ConstantOfShape": _filled,
    "TopK": _top,
    "Split": _split,
}
