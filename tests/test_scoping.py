"""Weights in the branch that reads them, and back."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from eetoolkit_exporters.emitting.files import INLINE_BYTES
from eetoolkit_exporters.emitting.scoping import lift, localize

LARGE = INLINE_BYTES // 4  # elements of float32
NESTED = f"""
<ir_version: 10, opset_import: ["" : 20]>
nested (float[1,{LARGE}] x, bool a, bool b, float[1,{LARGE}] everywhere, float[1,{LARGE}] inner,
        float[1,{LARGE}] deepest, float[1,{LARGE}] both, float[1,1] small, float[1,1] limit) => (float[1,{LARGE}] y)
{{
    h = Mul(x, everywhere)
    y = If(a) <
        then_branch = then () => (float[1,{LARGE}] t) {{
            p = Add(h, inner)
            t = If(b) <
                then_branch = deep () => (float[1,{LARGE}] d) {{ q = Mul(p, deepest) d = Add(q, small) }},
                else_branch = flat () => (float[1,{LARGE}] f) {{ r = Mul(both, everywhere) f = Add(p, r) }}
            >
        }},
        else_branch = otherwise () => (float[1,{LARGE}] e) {{
            s = Add(h, small)
            u = Mul(s, limit)
            e = Mul(u, both)
        }}
    >
}}
"""


@pytest.fixture
def nested() -> ir.Model:
    model = ir.from_onnx_text(NESTED)
    rng = np.random.default_rng(0)
    for value in list(model.graph.inputs)[3:]:
        assert value.shape is not None
        value.const_value = ir.tensor(rng.random(value.shape.numpy(), dtype=np.float32), name=value.name)
        model.graph.inputs.remove(value)
        model.graph.register_initializer(value)
    return model


def _homes(model: ir.Model) -> dict[str, str]:
    return {name: str(graph.name) for graph in model.graphs() for name in graph.initializers}


def _outputs(model: ir.Model) -> list[np.ndarray]:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).random((1, LARGE), dtype=np.float32)
    choices = [(a, b) for a in (True, False) for b in (True, False)]
    return [session.run(None, {"x": x, "a": np.array(a), "b": np.array(b)})[0] for a, b in choices]


def test_large_weights_lie_in_the_innermost_graph_that_holds_their_readers(nested: ir.Model) -> None:
    before = _outputs(nested)
    localize(nested)
    homes = _homes(nested)
    assert {name: homes[name] for name in ("everywhere", "inner", "deepest", "both")} == {
        "everywhere": "nested", "inner": "then", "deepest": "deep", "both": "nested",
    }  # fmt: skip
    for one, other in zip(before, _outputs(nested), strict=True):
        np.testing.assert_array_equal(one, other)


def test_small_ones_are_copied_into_every_reader(nested: ir.Model) -> None:
    localize(nested)
    assert sorted(home for name, home in _homes(nested).items() if name.startswith("small")) == ["deep", "otherwise"]


def test_what_is_kept_stays_outermost_and_what_is_single_keeps_its_name(nested: ir.Model) -> None:
    top = nested.graph.initializers
    localize(nested, keep=[top["inner"]], single=[top["limit"], top["small"]])
    homes = _homes(nested)
    assert (homes["inner"], homes["limit"], homes["small"]) == ("nested", "otherwise", "nested")


def test_what_was_lowered_can_be_lifted(nested: ir.Model) -> None:
    before = _outputs(nested)
    localize(nested)
    lift(nested)
    assert set(_homes(nested).values()) == {"nested"}
    for one, other in zip(before, _outputs(nested), strict=True):
        np.testing.assert_array_equal(one, other)
