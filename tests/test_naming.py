"""Names of users and of graphs, which may hold anything, become names that a plan may have; people keep theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from plans import PER_ROW, ROW, Draft, column, leave, row

import eetoolkit as ee
from eetoolkit.showing.summary import summarize
from eetoolkit_exporters.naming import plain, plain_names
from eetoolkit_runtime.bundle.golden import read_golden
from eetoolkit_runtime.plan.names import is_name

X = np.random.default_rng(0).standard_normal((2, 16)).astype(np.float32)
INPUTS = ("input.1", "onnx::Cast_5", "画像")
EXITS = ("my exit", "my_exit", "__proto__", "出口")
PLAN_INPUTS = ("input.1", "onnx__Cast_5", "unnamed")
PLAN_EXITS = ("my_exit_2", "my_exit", "proto", "unnamed_2")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a file of names that a plan may not have: an exit is the sum of its inputs by a weight of its own."""
    draw = np.random.default_rng(1)
    weights = {f"/{name}/w": draw.standard_normal((16, 4)).astype(np.float32) for name in EXITS}
    nodes = [helper.make_node("Sum", INPUTS, ["/sum/0"])]
    for place, name in enumerate(EXITS):
        nodes.append(helper.make_node("Tanh", [f"/sum/{place}"], [f"/sum/{place + 1}"]))
        nodes.append(helper.make_node("MatMul", [f"/sum/{place + 1}", f"/{name}/w"], [name]))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 16]) for name in INPUTS],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in EXITS],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def bundle(model: Path, tmp_path_factory: pytest.TempPathFactory) -> ee.Bundle:
    target = tmp_path_factory.mktemp("bundle") / "b.ee"
    limits = dict.fromkeys(EXITS[:-1], 0.6)
    return ee.export(model, dict.fromkeys(INPUTS, X), target, threshold=limits, criterion={"my exit": "entropy"})


def test_the_plan_has_names_of_its_own_and_the_users_as_titles(bundle: ee.Bundle) -> None:
    assert tuple(spec.name for spec in bundle.manifest.inputs) == PLAN_INPUTS
    assert tuple(bundle.exits) == PLAN_EXITS
    ours, theirs = (*PLAN_INPUTS, *PLAN_EXITS), (*INPUTS, *EXITS)
    changed = {name: title for name, title in zip(ours, theirs, strict=True) if name != title}
    assert bundle.manifest.titles == summarize(bundle)["titles"] == changed
    assert bundle.exits["my_exit_2"].criterion.kind == "entropy"


def test_inputs_may_have_the_plans_names_or_the_users(bundle: ee.Bundle) -> None:
    with ee.Runner(bundle) as runner:
        answers = [runner.run(dict(zip(names, (X[:1], X[1:], X[:1]), strict=True))) for names in (INPUTS, PLAN_INPUTS)]
        np.testing.assert_array_equal(*(answer.outputs["logits"] for answer in answers))
        with pytest.raises(ee.InputError) as caught:
            runner.run({"画像": X[:1], "unnamed": X[:1], "input.1": X[:1], "onnx::Cast_5": X[:1]})
    assert str(caught.value) == (
        "got inputs ['input.1', 'onnx::Cast_5', 'unnamed', '画像'], expected ['input.1', 'onnx::Cast_5', '画像']"
    )


def test_a_users_name_goes_before_the_plans_in_later_calls_too(tmp_path: Path) -> None:
    draft = Draft({"a": ("float32", ROW), "b": ("float32", ROW)})
    draft.options["titles"] = {"a": "b", "b": "a"}
    draft.segment("s", "y = Sub(a, b)", reads=("a", "b"), writes=["y"], next="head")
    draft.slot("sure", shape=PER_ROW)
    draft.segment("head", column("sure", 0), reads={"x": "a"}, writes=["sure"], exit=leave("last", "y", "sure"))
    with ee.Runner(draft.save(tmp_path / "b.ee")) as runner:
        for _ in range(3):
            answer = runner.run({"a": row(1), "b": row(3)})
            np.testing.assert_array_equal(answer.outputs["logits"], row(2))


def test_exits_may_have_the_plans_names_or_the_users(bundle: ee.Bundle, tmp_path: Path) -> None:
    inputs = (X[:1], X[1:], X[:1])
    with ee.Runner(bundle) as runner:
        for theirs, ours in zip(EXITS[:-1], PLAN_EXITS[:-1], strict=True):
            assert runner.run(inputs, exit_at=theirs).exit == runner.run(inputs, exit_at=ours).exit == ours
            always = {name: -1.0 if name == theirs else "never" for name in EXITS[:-1]}
            assert runner.run(inputs, thresholds=always).exit == ours
        with pytest.raises(ee.InputError, match="thresholds: an exit is named twice among my exit, my_exit_2"):
            runner.run(inputs, thresholds={"my exit": 0.5, "my_exit_2": "never"})
    cut = ee.truncate(bundle, EXITS[0], tmp_path / "cut.ee")
    assert [*cut.exits] == [PLAN_EXITS[0]]
    assert [*cut.manifest.titles.values()] == ["onnx::Cast_5", "画像", "my exit"]
    pruned = ee.prune(bundle, [EXITS[0], EXITS[1]], tmp_path / "pruned.ee")
    assert [*pruned.manifest.titles.values()] == ["onnx::Cast_5", "画像", "__proto__", "出口"]


def test_the_network_is_compared_by_the_users_names(bundle: ee.Bundle, model: Path) -> None:
    assert ee.verify(bundle, model, criterion={"my exit": "entropy"}).passed


def test_golden_samples_have_the_plans_names(bundle: ee.Bundle) -> None:
    (sample, *_) = read_golden(bundle)
    assert tuple(sample.inputs) == PLAN_INPUTS
    assert tuple(visit.exit for visit in sample.visits) == PLAN_EXITS


@given(st.text(max_size=300))
def test_any_text_becomes_a_name(text: str) -> None:
    assert is_name(plain(text))


@given(st.lists(st.text(max_size=8) | st.sampled_from(["a b", "a_b", "a_b_2", "画", "像", "5", "_5"])))
def test_different_texts_become_different_names_and_names_stay(texts: list[str]) -> None:
    found = plain_names(texts, ["a_b_3", "unnamed"])
    assert len(set(found.values())) == len(set(texts))
    assert all(is_name(name) for name in found.values())
    assert all(found[text] == text for text in texts if is_name(text))
