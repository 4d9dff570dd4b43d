"""A bundle as one ONNX file: the same answers as the runner's, and what cannot be one file.

The random plans are those of `test_runner_plans`, their exits cut down to the one output that all have.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lots import MANY
from networks.case import seeded
from networks.compiled import Compiled
from onnxruntime.capi.onnxruntime_pybind11_state import Fail
from plans import (
    NETWORKS,
    PER_ROW,
    Array,
    Draft,
    add_head,
    chain,
    column,
    fixed,
    gate,
    leave,
    looped,
    move,
    only_moves,
    over_half,
    row,
    switch,
    switched,
)
from test_runner_plans import Generator, inputs_of
from torch import Tensor

import eetoolkit as ee
from eetoolkit_exporters.single_file import single_file
from eetoolkit_exporters.single_file.graph_builder import GraphLevel
from eetoolkit_exporters.single_file.nesting import Nesting, State
from eetoolkit_exporters.single_file.single_file import write_single_file
from eetoolkit_exporters.single_file.steps import slot_key
from eetoolkit_runtime.plan.types import Segment
from eetoolkit_runtime.running.decision import in_float32


class SingleFile:
    """A single file in a session of its own."""

    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3  # where there is no answer, the outputs are empty, which onnxruntime remarks on
        self._session = ort.InferenceSession(str(path), options)
        self._names = [value.name for value in self._session.get_outputs()]
        self.exits: list[str] = json.loads(self._session.get_modelmeta().custom_metadata_map[single_file.EXITS])

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Returns all its outputs."""
        return dict(zip(self._names, self._session.run(self._names, inputs), strict=True))


def unlike(  # noqa: PLR0911 - one difference each
    found: dict[str, Array], exits: list[str], expected: ee.Answer | None, tolerance: float
) -> str | None:
    """Returns how outputs differ from the runner's answer, None where it raises; None where they do not."""
    index, confidence = int(found["exit"]), found["confidence"]
    if found["exit"].shape != () or confidence.shape != ():
        return f"shapes {found['exit'].shape}, {confidence.shape}"
    if expected is None:
        return None if index == -1 and np.isnan(confidence) else f"an answer, {found}"
    if index == -1 or exits[index] != expected.exit:
        return f"exit {index} of {exits}, expected {expected.exit}"
    if not np.allclose(confidence, expected.confidence, atol=tolerance, rtol=0, equal_nan=True):
        return f"confidence {confidence}, expected {expected.confidence}"
    if found.keys() - {"exit", "confidence"} != expected.outputs.keys():
        return f"outputs {sorted(found)}, expected {sorted(expected.outputs)}"
    for name, array in expected.outputs.items():
        other = found[name]
        if (other.dtype, other.shape) != (array.dtype, array.shape):
            return f"{name} is {other.dtype}{other.shape}, expected {array.dtype}{array.shape}"
        if not np.allclose(other, array, atol=tolerance, rtol=tolerance, equal_nan=True):
            return f"{name} is {other}, expected {array}"
    return None


def with_one_output(draft: Draft) -> Draft:
    """Keeps only `logits` of every exit."""
    for name, segment in draft.segments.items():
        if (exit_ := segment.exit) is not None:
            only = msgspec.structs.replace(exit_, outputs={"logits": exit_.outputs["logits"]})
            draft.segments[name] = msgspec.structs.replace(segment, exit=only)
    return draft


def first_difference(draft: Draft, inputs: list[dict[str, Array]], folder: Path, fallback: str = "last") -> str | None:
    """Returns where the file and the runner first part; None where they never do. Our operators are exact."""
    draft.options["fallback"] = fallback
    bundle = draft.save(folder / "bundle.ee")
    found = SingleFile(write_single_file(bundle, folder / "network.onnx"))
    with ee.Runner(bundle, threads=1) as runner:
        for number, x in enumerate(inputs):
            try:
                expected = runner.run(x)
            except ee.RunError:
                expected = None
            if (difference := unlike(found.run(x), found.exits, expected, 0)) is not None:
                return f"input {number}: {difference}"
    return None


def rows(*values: tuple[float, ...]) -> list[dict[str, Array]]:
    return [{"x": row(*some)} for some in values]


ROWS = rows((2, 0.9), (0, 0.1), (1, 0.4, 0.9), (2, 0.9), (0, 0.6), (1,), (0.6, 0.2, 0.3, 0.4), (9, 0.2), (30,), (-1,))
NAN_ROWS = rows((math.nan, 0.9), (0.2, math.nan), (math.nan, math.nan, 3, math.nan))

every_fallback = pytest.mark.parametrize("fallback", ["last", "most_confident"])


# Plans by hand


@every_fallback
@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_the_networks_of_the_other_tests_answer_as_the_runner_does(network: str, fallback: str, tmp_path: Path) -> None:
    assert first_difference(with_one_output(NETWORKS[network]()), ROWS, tmp_path, fallback) is None


@every_fallback
def test_a_chain_compares_with_nan_as_the_runner_does(fallback: str, tmp_path: Path) -> None:
    assert first_difference(chain(), NAN_ROWS, tmp_path, fallback) is None


@every_fallback
def test_an_exit_may_lie_in_a_loop(fallback: str, tmp_path: Path) -> None:
    inputs = rows((3, 1), (9, 1, 2), (1,), (5, 0.3), (2,))
    assert first_difference(looped(leave_at=0.45, max_visits=4), inputs, tmp_path, fallback) is None


def test_a_plan_without_a_model_is_a_file_too(tmp_path: Path) -> None:
    assert first_difference(only_moves(), ROWS, tmp_path) is None


def test_a_disabled_exit_is_left_out(tmp_path: Path) -> None:
    draft = chain()
    exit_ = draft.segments["segment0"].exit
    assert exit_ is not None
    disabled = msgspec.structs.replace(exit_, threshold="never")
    draft.segments["segment0"] = msgspec.structs.replace(draft.segments["segment0"], exit=disabled)
    assert first_difference(draft, rows((0.9, 0.9), (0.9, 0.1)), tmp_path, "most_confident") is None
    names = {tensor.name for tensor in onnx.load(tmp_path / "network.onnx").graph.initializer}
    assert {name for name in names if "threshold" in name} == {"exit1_threshold"}


def test_a_loop_that_exceeds_its_bound_has_no_answer(tmp_path: Path) -> None:
    found = SingleFile(write_single_file(looped(max_visits=3).save(tmp_path / "b.ee"), tmp_path / "n.onnx"))
    assert [int(found.run({"x": row(steps)})["exit"]) for steps in (1, 3, 4)] == [0, 0, -1]


def test_a_switch_without_such_a_case_has_no_answer(tmp_path: Path) -> None:
    found = SingleFile(write_single_file(switched().save(tmp_path / "b.ee"), tmp_path / "n.onnx"))
    outputs = [found.run({"x": row(case)}) for case in (0, 2, 3, -1)]
    assert [int(given["exit"]) for given in outputs] == [0, 0, -1, -1]
    assert np.isnan([given["confidence"] for given in outputs]).tolist() == [False, False, True, True]


# Shapes of control flow


def ladder(rungs: int, exits: bool = False) -> Draft:
    """What tail duplication makes of a chain of skipped blocks: each gate stands twice, and no join is left."""
    draft = Draft()
    draft.slot("open", "bool", PER_ROW)
    draft.slot("middle", shape=PER_ROW)

    def gate_nodes(k: int, y: str) -> str:
        return f"""
            axes{k} = Constant<value_ints = [1]>()  sum{k} = ReduceSum<keepdims = 0>({y}, axes{k})
            middle = Sin(sum{k})  limit{k} = Constant<value = float {{{0.3 * k % 1 - 0.5}}}>()
            open = Greater(middle, limit{k})
        """

    writes = ["open", "middle"]
    draft.segment(
        "gate0", gate_nodes(0, "x"), reads=["x"], writes={"open": "open", "middle": "middle", "y": move("x")},
        next=gate("open", "block0", "gate1"),
    )  # fmt: skip
    for k in range(rungs):
        block = f"factor{k} = Constant<value = float {{{1 + 0.1 * k}}}>()  t = Mul(y, factor{k})  z = Cos(t)"
        if k == rungs - 1:
            draft.segment(f"block{k}", block, reads=["y"], writes={"y": "z"}, next="head")
            continue
        onward = gate("open", f"block{k + 1}", f"gate{k + 2}" if k + 2 < rungs else "head")
        early = leave("early", "y", "middle", 0.97) if exits and k % 2 else None
        draft.segment(
            f"block{k}", block + gate_nodes(k + 1, "z"), reads=["y"],
            writes={"y": "z", "open": "open", "middle": "middle"}, exit=early, next=onward,
        )  # fmt: skip
        draft.segment(f"gate{k + 1}", gate_nodes(k + 1, "y"), reads=["y"], writes=writes, next=onward)
    add_head(draft, "y")
    return draft


def two_entries(max_visits: int, leave_at: float | None) -> Draft:
    """A cycle of two segments that is entered and left at either of them."""
    draft = Draft()
    draft.slot("first", "bool", PER_ROW)
    draft.slot("more", "bool", PER_ROW)
    draft.slot("middle", shape=PER_ROW)
    draft.segment(
        "begin", over_half("first", 0), reads=["x"], writes={"first": "first", "y": move("x")},
        next=gate("first", "a", "b"),
    )  # fmt: skip
    for name, other, onward, factor in (("a", "b", "head", 0.9), ("b", "a", "minus", 1.2)):
        draft.segment(
            name,
            f"""
            factor = Constant<value = float {{{factor}}}>()  t = Add(y, x)  z = Mul(t, factor)
            axes = Constant<value_ints = [1]>()  sum = ReduceSum<keepdims = 0>(z, axes)  middle = Sigmoid(sum)
            limit = Constant<value = float {{9}}>()  more = Less(sum, limit)
            """,
            reads=["x", "y"],
            writes={"y": "z", "more": "more", "middle": "middle"},
            exit=None if leave_at is None else leave("early", "y", "middle", leave_at),
            next=gate("more", other, onward),
            max_visits=max_visits,
        )
    draft.segment("minus", "z = Neg(y)", reads=["y"], writes={"y": "z"}, next="head")
    add_head(draft, "y")
    return draft


def many_exits(number: int) -> Draft:
    """A chain of so many exits that `If` in `If` to the end would be deeper than protobuf reads."""
    draft = Draft()
    draft.slot("sure", shape=PER_ROW)
    for k in range(number):
        last = k == number - 1
        draft.segment(
            f"s{k}",
            f"""
            turn = Constant<value = float {{{0.37 * k}}}>()  t = Add(x, turn)  s = Sin(t)
            zero = Constant<value_int = 0>()  sure = Gather<axis = 1>(s, zero)  z = Add(y, s)
            """,
            reads={"x": "x", "y": "y" if k else "x"},
            writes={"y": "z", "sure": "sure"},
            exit=leave(f"exit{k}", "y", "sure", "always" if last else 0.9999),
            next=None if last else f"s{k + 1}",
        )
    return draft


def many_cases(number: int) -> Draft:
    """A switch with so many cases that a chain of `If` would be deeper than protobuf reads."""
    draft = Draft()
    draft.slot("expert", "int32", PER_ROW)
    draft.segment(
        "router", f"{column('score', 0)}  expert = Cast<to = 6>(score)", reads=["x"], writes=["expert"],
        next=switch("expert", *(f"expert{k % 30}" for k in range(number))),
    )  # fmt: skip
    for k in range(30):
        body = f"ten = Constant<value = float {{{k * 10}}}>()  y = Add(x, ten)"
        draft.segment(f"expert{k}", body, reads=["x"], writes=["y"], next="head")
    add_head(draft, "y")
    return draft


def drawn(count: int) -> list[dict[str, Array]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(0, 1.5, (1, 4)).astype(np.float32)} for _ in range(count)]


@every_fallback
@pytest.mark.parametrize("exits", [False, True])
def test_tails_that_branches_share_are_written_once(exits: bool, fallback: str, tmp_path: Path) -> None:
    assert first_difference(ladder(12, exits), drawn(40), tmp_path, fallback) is None
    model = onnx.load(tmp_path / "network.onnx")
    assert sum(node.op_type == "Cos" for node in all_nodes(model.graph)) == 12


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from all_nodes(attribute.g)


@every_fallback
@pytest.mark.parametrize(("max_visits", "leave_at"), [(50, None), (5, None), (5, 0.999)])
def test_a_loop_may_have_two_entries(max_visits: int, leave_at: float | None, fallback: str, tmp_path: Path) -> None:
    draft = two_entries(max_visits, leave_at)
    inputs = [*drawn(30), *rows((0.6, 0.1), (0.4, 0.1), (0.9, 0.9, 0.9, 0.9), (0.1, 0.9, 0.9, 0.9), (-1, -1))]
    assert first_difference(draft, inputs, tmp_path, fallback) is None


@every_fallback
def test_a_long_chain_of_exits_is_not_nested_to_its_end(fallback: str, tmp_path: Path) -> None:
    assert first_difference(many_exits(60), drawn(30), tmp_path, fallback) is None
    onnx.checker.check_model(onnx.load(tmp_path / "network.onnx"), full_check=True)


def test_a_switch_may_have_many_cases(tmp_path: Path) -> None:
    inputs = [{"x": row(case, 1)} for case in (0, 1, 29, 30, 44, 69, 70, -1)]
    assert first_difference(many_cases(70), inputs, tmp_path) is None


@every_fallback
def test_what_a_constant_decides_is_decided_when_the_file_is_written(fallback: str, tmp_path: Path) -> None:
    draft = Draft()
    draft.constant("yes", "bool", [True])
    draft.constant("one", "int64", [1])
    draft.constant("half", "float32", [0.5])
    for name, dtype in (("open", "bool"), ("case", "int64"), ("sure0", "float32")):
        draft.slot(name, dtype, PER_ROW)
    draft.segment(
        "begin", writes={"open": fixed("yes"), "case": fixed("one"), "sure0": fixed("half"), "y": move("x")},
        exit=leave("early", "x", "sure0", 0.6), next=gate("open", "plus", "minus"),
    )  # fmt: skip
    draft.segment("plus", "z = Add(y, y)", reads=["y"], writes={"y": "z"}, next=switch("case", "minus", "head"))
    draft.segment("minus", "z = Neg(y)", reads=["y"], writes={"y": "z"}, next="head")
    add_head(draft, "y")
    assert first_difference(draft, rows((1, 2, 3, 0.4), (1, 2, 3, 0.6)), tmp_path, fallback) is None
    operators = [node.op_type for node in all_nodes(onnx.load(tmp_path / "network.onnx").graph)]
    assert operators.count("If") == (fallback == "most_confident")
    assert "Neg" not in operators


def test_what_a_segment_finds_constant_is_hidden_from_onnxruntime(tmp_path: Path) -> None:
    # onnxruntime 1.32 puts a branch in place of an `If` whose condition is constant, and crashes if that is nested
    draft = Draft()
    for name in ("open", "shut"):
        draft.slot(name, "bool", PER_ROW)
    known = "one = Constant<value_ints = [1]>()  yes = Cast<to = 9>(one)"
    draft.segment(
        "begin", f"{known}  {over_half('open', 0)}  shut = Not(yes)", reads=["x"],
        writes={"open": "open", "shut": "shut", "y": move("x")}, next=gate("open", "inner", "head"),
    )  # fmt: skip
    draft.segment(
        "inner",
        f"""{known}
        z = If(yes) <then_branch = then () => (float[batch,4] a) {{ a = Neg(y) }},
            else_branch = else () => (float[batch,4] b) {{ b = Abs(y) }}>""",
        reads=["y"],
        writes={"y": "z"},
        next=gate("shut", "never", "head"),
    )
    draft.segment("never", "z = Sin(y)", reads=["y"], writes={"y": "z"}, next="head")
    add_head(draft, "y")
    assert first_difference(draft, rows((1, 2, -3), (0, 2, -3)), tmp_path) is None
    nodes = list(all_nodes(onnx.load(tmp_path / "network.onnx").graph))
    makers = {name: node for node in nodes for name in node.output}
    conditions = [makers[node.input[0]] for node in nodes if node.op_type == "If"]
    assert [(maker.op_type, *list(maker.input)[1:]) for maker in conditions].count(("And", "true")) == 2
    assert len(conditions) == 3


# Random plans

PARTS, PER_PART = 5 if MANY else 2, 25


@pytest.mark.parametrize("part", range(PARTS))
def test_random_plans_answer_as_the_runner_does(part: int, tmp_path: Path) -> None:
    for seed in range(part * PER_PART, (part + 1) * PER_PART):
        fallback = ("last", "most_confident")[seed % 2]
        draft, inputs = with_one_output(Generator(seed).draft), inputs_of(seed)[1:4]
        folder = tmp_path / f"{seed}"
        difference = first_difference(draft, inputs, folder, fallback)
        assert difference is None, f"seed {seed}: {difference}"
        if seed % 10 == 0:
            onnx.checker.check_model(onnx.load(folder / "network.onnx"), full_check=True)


def test_a_lost_write_of_a_branch_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Nesting._join

    def careless(self: Nesting, level: GraphLevel, test: Any, ends: Any, before: State) -> State:
        state = original(self, level, test, ends, before)
        stale = {key: value for key, value in before.values.items() if key == slot_key("wide0")}
        return State({**state.values, **stale}, state.route)

    monkeypatch.setattr(Nesting, "_join", careless)
    assert sum(noticed(Generator(seed).draft, inputs_of(seed)[:2], tmp_path / f"{seed}") for seed in range(25)) > 3


def noticed(draft: Draft, inputs: list[dict[str, Array]], folder: Path) -> bool:
    """Returns whether the file differs from the runner, or cannot even run."""
    try:
        return first_difference(with_one_output(draft), inputs, folder) is not None
    except Fail:  # a tensor that was never set has another shape than the one it is added to
        return True


# What can be edited


def edited(path: Path, **values: float) -> SingleFile:
    """Returns the file with initializers set."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(values.pop(tensor.name), np.float32), tensor.name))
    assert not values, values
    onnx.save(model, path)
    return SingleFile(path)


def test_thresholds_are_initializers_called_after_their_exits(tmp_path: Path) -> None:
    path = write_single_file(chain().save(tmp_path / "b.ee"), tmp_path / "n.onnx")
    x = {"x": row(0.6, 0.7, 0.8)}
    assert int(SingleFile(path).run(x)["exit"]) == 0
    assert int(edited(path, exit0_threshold=0.65).run(x)["exit"]) == 1
    assert int(edited(path, exit1_threshold=0.75).run(x)["exit"]) == 2


def test_the_one_file_is_not_exported_again(tmp_path: Path) -> None:
    path = write_single_file(chain().save(tmp_path / "b.ee"), tmp_path / "n.onnx")
    with pytest.raises(ee.ExportError) as caught:
        ee.export(path, row(0.6, 0.7, 0.8), tmp_path / "again.ee")
    assert str(caught.value) == (
        f"{path} is a bundle already, as the one file that `eetoolkit pack --single-file` wrote; "
        "export the network that the bundle was made of"
    )
    assert not (tmp_path / "again.ee").exists()


def test_constants_are_initializers_of_their_names(tmp_path: Path) -> None:
    draft = Draft()
    draft.constant("temperature0", "float32", 2.0)
    draft.slot("sure", shape=PER_ROW)
    draft.segment(
        "only", f"y = Div(x, t)  {column('sure', 0)}", reads={"x": "x", "t": "temperature0"}, writes=["y", "sure"],
        exit=leave("only", "y", "sure"),
    )  # fmt: skip
    path = write_single_file(draft.save(tmp_path / "b.ee"), tmp_path / "n.onnx")
    assert SingleFile(path).run({"x": row(1, 2)})["logits"].tolist() == [[0.5, 1, 0, 0]]
    assert edited(path, temperature0=4).run({"x": row(1, 2)})["logits"].tolist() == [[0.25, 0.5, 0, 0]]


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(width=32, allow_nan=False))
def test_a_threshold_in_float32_is_reached_by_the_same_confidences(threshold: float, confidence: float) -> None:
    limit = in_float32(threshold)
    with np.errstate(over="ignore"):
        near = [confidence, limit.item(), *(np.nextafter(limit, np.float32(end)).item() for end in (-np.inf, np.inf))]
    for value in near:
        assert (np.float32(value) >= limit) == (value >= threshold)


# The file


def test_the_file_holds_its_weights_and_says_what_it_is(tmp_path: Path) -> None:
    draft = chain(weights=True)
    draft.options["labels"] = ("a", "b", "c", "d")
    assert first_difference(draft, ROWS, tmp_path) is None
    model = onnx.load(tmp_path / "network.onnx", load_external_data=False)
    assert not any(onnx.external_data_helper.uses_external_data(tensor) for tensor in model.graph.initializer)
    assert {entry.key: json.loads(entry.value) for entry in model.metadata_props} == {
        "eetoolkit.exits": ["exit0", "exit1", "exit2"], "eetoolkit.labels": ["a", "b", "c", "d"],
    }  # fmt: skip
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"x": [1, 4], "logits": [1, 4], "exit": [], "confidence": []}


def test_weights_lie_in_the_one_branch_that_reads_them(tmp_path: Path) -> None:
    draft = chain(weights=True)
    model = onnx.load(write_single_file(draft.save(tmp_path / "b.ee"), tmp_path / "n.onnx"))
    outside = {tensor.name for tensor in model.graph.initializer if not tensor.name.endswith("_threshold")}
    here = {name for node in model.graph.node for name in node.input}
    assert outside <= here
    assert sum(len(graph.initializer) for graph in _inner(model.graph)) >= 2


def _inner(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    for inner in (attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")):
        yield inner
        yield from _inner(inner)


def test_the_file_is_the_same_every_time(tmp_path: Path) -> None:
    bundle = with_one_output(Generator(3).draft).save(tmp_path / "b.ee")
    first, second = (write_single_file(bundle, tmp_path / name).read_bytes() for name in ("1.onnx", "2.onnx"))
    assert first == second


def refused(draft: Draft, folder: Path) -> str:
    """Returns why a plan cannot be one file."""
    with pytest.raises(ee.ExportError) as error:
        write_single_file(draft.save(folder / "b.ee"), folder / "n.onnx")
    assert not (folder / "n.onnx").exists()
    return str(error.value)


def changed(draft: Draft, segment: str, **outputs: str) -> Draft:
    """Returns the draft with other outputs of an exit."""
    old: Segment = draft.segments[segment]
    assert old.exit is not None
    draft.segments[segment] = msgspec.structs.replace(old, exit=msgspec.structs.replace(old.exit, outputs=outputs))
    return draft


def test_exits_must_have_the_same_outputs(tmp_path: Path) -> None:
    assert refused(changed(chain(), "segment1", boxes="h1"), tmp_path / "names") == (
        "one file has the same outputs at every exit: 'exit0' has ['logits'], 'exit1' has ['boxes']"
    )
    assert refused(changed(chain(), "segment1", logits="confidence1"), tmp_path / "rank") == (
        "one file has the same outputs at every exit: 'logits' is float32 of 2 dimensions at 'exit0', "
        "float32 of 1 dimensions at 'exit1'"
    )


def test_an_output_may_not_have_a_name_that_is_taken(tmp_path: Path) -> None:
    draft = changed(chain(), "segment0", x="h0")
    for k in (1, 2):
        changed(draft, f"segment{k}", x=f"h{k}")
    assert refused(draft, tmp_path / "input").startswith("the exits' output 'x' has the name of an input")
    for k in (0, 1, 2):
        changed(draft, f"segment{k}", exit=f"h{k}")
    assert refused(draft, tmp_path / "own").startswith("the exits' output 'exit' has the name of an output")
    taken = Draft({"exit": ("float32", ("batch", 4))})
    taken.slot("sure", shape=PER_ROW)
    taken.segment(
        "only", f"y = Neg(exit)  {column('sure', 0).replace('x,', 'exit,')}", reads=["exit"], writes=["y", "sure"],
        exit=leave("only", "y", "sure"),
    )  # fmt: skip
    assert refused(taken, tmp_path / "given").startswith("the input 'exit' has the name of an output")


def test_segments_of_different_opsets_cannot_be_one_file(tmp_path: Path) -> None:
    draft = chain()
    draft.graphs["segment1"].opset_import[0].version = 17
    assert refused(draft, tmp_path) == (
        "segment1: operators of opset 17 and 18 cannot be in one graph; export the stages with one opset"
    )


def test_what_protobuf_cannot_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_file, "_LIMIT_BYTES", 10)
    assert "GB of weights; one ONNX file takes 2 GiB: ship the bundle" in refused(chain(weights=True), tmp_path)


def test_what_is_there_is_not_overwritten_silently(tmp_path: Path) -> None:
    bundle = chain().save(tmp_path / "b.ee")
    path = write_single_file(bundle, tmp_path / "n.onnx")
    with pytest.raises(ee.EEToolkitError, match="exists; pass overwrite=True"):
        write_single_file(bundle, path)
    with pytest.raises(ee.EEToolkitError, match=r"is a folder; name a file, such as .*NAME"):
        write_single_file(bundle, tmp_path, overwrite=True)
    with pytest.raises(ee.EEToolkitError, match=r"the folder .*nowhere does not exist"):
        write_single_file(bundle, tmp_path / "nowhere" / "n.onnx")
    assert write_single_file(ee.load(bundle), path, overwrite=True) == path
    assert not list(tmp_path.glob("*.partial*"))


def test_a_changed_file_of_the_bundle_is_noticed(tmp_path: Path) -> None:
    bundle = chain(weights=True).save(tmp_path / "b.ee")
    weights = next(bundle.glob("segment1*.bin"))
    weights.write_bytes(bytes(reversed(weights.read_bytes())))
    with pytest.raises(ee.IntegrityError):
        write_single_file(bundle, tmp_path / "n.onnx")


# Exported networks


def assert_same_answers(bundle: ee.Bundle, inputs: list[dict[str, Array]], folder: Path, tolerance: float) -> set[str]:
    """Compares the answers to each row, and returns the exits that they came from."""
    found = SingleFile(write_single_file(bundle, folder / "network.onnx"))
    seen = set()
    with ee.Runner(bundle, threads=1) as runner:
        for number, x in enumerate(inputs):
            expected = runner.run(x)
            difference = unlike(found.run(x), found.exits, expected, tolerance)
            assert difference is None, f"row {number}: {difference}"
            seen.add(expected.exit)
    return seen


TOLERANCE = 1e-5  # onnxruntime fuses other operators where there is no boundary, or inside an `If`


@pytest.mark.parametrize("compiled", ["branchy", "multi_scale", "tied", "cond_inside", "cascade_torch"], indirect=True)
def test_exported_networks_answer_as_the_runner_does(compiled: Compiled, tmp_path: Path) -> None:
    samples = compiled.samples["random"]
    thresholds, _ = samples.decisions
    plan = compiled.bundle.manifest
    segments = {
        name: msgspec.structs.replace(
            segment, exit=msgspec.structs.replace(segment.exit, threshold=thresholds[segment.exit.name])
        )
        if segment.exit is not None and not segment.exit.ends
        else segment
        for name, segment in plan.segments.items()
    }
    bundle = ee.Bundle(compiled.bundle.path, msgspec.structs.replace(plan, segments=segments))
    assert len(assert_same_answers(bundle, samples.rows, tmp_path, TOLERANCE)) > 1


class Skipping(torch.nn.Module):
    """Blocks that a gate may skip, with an exit between them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(16, 16) for _ in range(4))
        self.gates = torch.nn.ModuleList(torch.nn.Linear(16, 1) for _ in range(4))
        self.heads = torch.nn.ModuleList(torch.nn.Linear(16, 5) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        middle = x
        for k, (block, gate_) in enumerate(zip(self.blocks, self.gates, strict=True)):
            x = torch.cond(gate_(x)[0, 0] > 0, lambda t, f=block: t + torch.relu(f(t)), lambda t: t.clone(), (x,))
            middle = x if k == 1 else middle
        return self.heads[0](middle), self.heads[1](x)


class Pondering(torch.nn.Module):
    """A cell that runs until it has halted, between two exits."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = torch.nn.Linear(16, 16)
        self.halt = torch.nn.Linear(16, 1)
        self.heads = torch.nn.ModuleList(torch.nn.Linear(16, 5) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        def more(step: Tensor, _: Tensor, halted: Tensor) -> Tensor:
            return (step < 6) & (halted.sum() < 0.9)

        def turn(step: Tensor, h: Tensor, halted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            h = torch.tanh(self.cell(h))
            return step + 1, h, halted + 0.5 * torch.sigmoid(4 * self.halt(h))

        _, h, _ = torch.while_loop(more, turn, (torch.tensor(0), x, torch.zeros(1, 1)))
        return self.heads[0](x), self.heads[1](h)


@pytest.mark.parametrize("network", [Skipping, Pondering])
def test_lowered_control_flow_answers_as_the_runner_does(network: type[torch.nn.Module], tmp_path: Path) -> None:
    model = seeded(network, 3)(tmp_path)
    bundle = ee.export(
        model, (torch.zeros(1, 16),), tmp_path / "network.ee", input_names=["x"], threshold=0.5,
        dynamic_batch=False, lower_control_flow="always",
    )  # fmt: skip
    rng = np.random.default_rng(1)
    inputs = [{"x": rng.normal(0, 1, (1, 16)).astype(np.float32)} for _ in range(40)]
    assert assert_same_answers(bundle, inputs, tmp_path, TOLERANCE) == {"exit0", "exit1"}
    with ee.Runner(bundle) as runner:
        assert len({runner.run(x).path for x in inputs}) > 2
