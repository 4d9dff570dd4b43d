"""A run that fails says where with a typed error, and the runner goes on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from plans import (
    PER_ROW,
    Draft,
    Open,
    add_head,
    chain,
    column,
    gate,
    gated,
    leave,
    looped,
    opening,
    over_half,
    row,
    switched,
)

from eetoolkit_runtime.errors import DeadlineError, EEToolkitError, InputError, IntegrityError, RunError
from eetoolkit_runtime.running.runner import Runner


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    yield from opening(tmp_path)


def fragile() -> Draft:
    """Returns a plan whose second segment fails inside onnxruntime where x[0] is over 3: an index out of bounds."""
    draft = Draft()
    draft.slot("first", shape=PER_ROW)
    draft.segment("first", column("first", 0), reads=["x"], writes=["first"], next="fragile")
    draft.segment(
        "fragile",
        "at = Cast<to = 7>(first)  picked = Gather<axis = 1>(x, at)  y = Add(x, picked)",
        reads=["x", "first"],
        writes=["y"],
        next="head",
    )
    add_head(draft, "y")
    return draft


@pytest.mark.parametrize("method", ["run", "run_all_exits", "run_batch"])
@pytest.mark.parametrize("warm", [True, False])
def test_a_failure_inside_onnxruntime_names_the_segment(opened: Open, method: str, warm: bool) -> None:
    runner = opened(fragile())
    if warm:
        runner.run(row(1))
    with pytest.raises(RunError, match=r"^segment 'fragile': .*out of .*bounds") as caught:
        getattr(runner, method)(row(9))
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("method", ["run", "run_all_exits"])
@pytest.mark.parametrize("where", ["start", "later"])
def test_a_failure_names_the_segment_even_where_its_output_shape_is_not_known_yet(
    opened: Open, method: str, where: str
) -> None:
    draft = Draft()
    draft.slot("y", shape=("batch", "k"))  # k is no symbol of the inputs
    if where == "later":
        draft.segment("before", "x1 = Abs(x)", reads=["x"], writes=["x1"], next="fragile")
    body = f"{column('first', 0)}  at = Cast<to = 7>(first)  y = Gather<axis = 1>(x, at)"
    draft.segment("fragile", body, reads=["x"], writes=["y"], next="head")
    add_head(draft, "y")
    with pytest.raises(RunError, match=r"^segment 'fragile': .*out of .*bounds"):
        getattr(opened(draft), method)(row(9))


def test_a_runner_goes_on_after_a_failure(opened: Open) -> None:
    runner = opened(fragile())
    for _ in range(3):
        with pytest.raises(RunError):
            runner.run(row(9))
        np.testing.assert_array_equal(runner.run(row(1, 2)).outputs["logits"], row(1, 2) + 2)


@pytest.mark.parametrize("case", [3, -1, 100])
def test_a_switch_without_such_a_case_is_a_run_error(opened: Open, case: int) -> None:
    with pytest.raises(RunError) as caught:
        opened(switched()).run(row(case))
    assert str(caught.value) == f"segment 'router': the switch 'expert' is {case}, expected 0 to 2"


def test_a_loop_may_use_all_its_visits(opened: Open) -> None:
    assert opened(looped(max_visits=5)).run(row(5)).path.count("step") == 5


@pytest.mark.parametrize("method", ["run", "run_all_exits"])
def test_a_loop_that_exceeds_its_visits_is_a_run_error(opened: Open, method: str) -> None:
    runner = opened(looped(max_visits=5))
    with pytest.raises(RunError) as caught:
        getattr(runner, method)(row(6))
    assert str(caught.value) == "segment 'step': more than max_visits 5 visits; is the loop endless?"


def test_visits_are_counted_for_each_call(opened: Open) -> None:
    runner = opened(looped(max_visits=5))
    assert [runner.run(row(4)).path.count("step") for _ in range(4)] == [4, 4, 4, 4]


def test_a_start_in_a_loop_counts_its_first_visit(opened: Open) -> None:
    draft = Draft()
    draft.slot("again", "bool", PER_ROW)
    draft.segment(
        "start", over_half("again", 0), reads=["x"], writes=["again"], next=gate("again", "start", "head"), max_visits=2
    )
    add_head(draft, "x")
    runner = opened(draft)
    assert runner.run(row(0)).path == ("start", "head")
    with pytest.raises(RunError, match="more than max_visits 2 visits"):
        runner.run(row(1))


@pytest.mark.parametrize("method", ["run", "run_all_exits"])
def test_a_gate_that_turns_out_to_have_many_values_is_a_run_error(opened: Open, method: str) -> None:
    draft = gated()
    found = draft.segments["gate"]
    draft.slot("open", "bool", ("wide",))
    draft.segment(
        "gate",
        "no = Sub(x, x)  each = Greater(x, no)  four = Constant<value_ints = [4]>()  open = Reshape(each, four)",
        reads=["x"],
        writes=found.writes,
        next=found.next,
    )
    with pytest.raises(RunError, match="segment 'gate'"):
        getattr(opened(draft), method)(row(1))


@pytest.mark.parametrize("method", ["run", "run_all_exits"])
def test_a_confidence_that_turns_out_to_have_many_values_is_a_run_error(opened: Open, method: str) -> None:
    draft = chain()
    draft.slots["confidence1"] = msgspec.structs.replace(draft.slots["confidence1"], shape=("wide",))
    found = draft.segments["segment1"]
    draft.segment(
        "segment1", "four = Constant<value_ints = [4]>()  confidence = Reshape(x, four)  h = Identity(before)",
        reads=found.reads, writes=found.writes, exit=found.exit, next=found.next,
    )  # fmt: skip
    runner = opened(draft)
    for _ in range(2):
        with pytest.raises(RunError) as caught:
            getattr(runner, method)(row(0.1, 0.9))
        assert str(caught.value) == "segment 'segment1': the confidence 'confidence1' has 4 values, expected one"


def renamed(draft: Draft, segment: str, *, output: str | None = None, inputs: str | None = None) -> Draft:
    """Returns the draft with an input or output of one graph called otherwise than the manifest says."""
    graph = draft.graphs[segment].graph
    for old, new in ((graph.output[0].name, output), (graph.input[0].name, inputs)):
        if new is not None:
            for value in (*graph.output, *graph.input):
                value.name = new if value.name == old else value.name
            for node in graph.node:
                node.input[:] = [new if name == old else name for name in node.input]
                node.output[:] = [new if name == old else name for name in node.output]
    return draft


def test_a_graph_without_the_outputs_that_the_manifest_names_is_an_integrity_error(opened: Open) -> None:
    runner = opened(renamed(gated(), "block", output="z"))
    assert runner.run(row(0)).exit == "last"
    with pytest.raises(IntegrityError) as caught:
        runner.run(row(1))
    assert str(caught.value) == (
        "segment 'block': its graph's outputs are ['z'], the manifest names ['y']; export again"
    )


def test_a_graph_without_the_inputs_that_the_manifest_names_is_an_integrity_error(opened: Open) -> None:
    with pytest.raises(IntegrityError) as caught:
        opened(renamed(gated(), "block", inputs="pixels"), load="eager")
    assert str(caught.value) == (
        "segment 'block': its graph's inputs are ['pixels'], the manifest names ['x']; export again"
    )


def test_a_graph_with_an_input_that_the_manifest_does_not_feed_is_an_integrity_error(opened: Open) -> None:
    draft = gated()
    draft.segments["head"] = msgspec.structs.replace(draft.segments["head"], reads={"x": "x"})
    with pytest.raises(IntegrityError, match=r"its graph's inputs are \['x', 'y'\], the manifest names \['x'\]"):
        opened(draft, load="eager")


def test_a_graph_output_that_the_manifest_does_not_name_is_left_alone(opened: Open) -> None:
    draft = gated()
    block = draft.segments["block"]
    draft.segment("block", "y = Neg(x)  spare = Abs(x)", reads=["x"], writes=["spare", "y"], next="head")
    draft.segments["block"] = msgspec.structs.replace(block, model="block.onnx")
    answer = opened(draft).run(row(1))
    np.testing.assert_array_equal(answer.outputs["logits"], -row(1))


def test_a_graph_whose_output_is_of_another_dtype_than_its_slot_never_answers(opened: Open) -> None:
    draft = chain()
    draft.slots["h0"] = msgspec.structs.replace(draft.slots["h0"], dtype="float64")
    runner = opened(draft)
    for _ in range(3):
        with pytest.raises(EEToolkitError, match=r"^segment 'segment0': .*float"):
            runner.run(row(0.9))


def test_a_graph_whose_input_is_of_another_dtype_than_its_slot_never_answers(opened: Open) -> None:
    draft = Draft({"x": ("float64", ("batch", 4))})
    add_head(draft, "x")
    for value in draft.graphs["head"].graph.input:
        value.type.tensor_type.elem_type = 1
    runner = opened(draft)
    for _ in range(3):
        with pytest.raises(EEToolkitError, match=r"^segment 'head': .*(float|double)"):
            runner.run(np.zeros((1, 4)))


@pytest.mark.parametrize("shape", [("batch", 5), ("batch", 4, 1)])
def test_a_graph_whose_output_is_of_another_shape_than_its_slot_never_answers(
    opened: Open, shape: tuple[int | str | None, ...]
) -> None:
    draft = chain()
    draft.slots["h0"] = msgspec.structs.replace(draft.slots["h0"], shape=shape)
    runner = opened(draft)
    for _ in range(3):
        with pytest.raises(EEToolkitError, match=r"^segment 'segment0': "):
            runner.run(row(0.9))


# Arguments

SETTINGS: list[dict[str, Any]] = [
    {"threads": 2**40}, {"threads": True}, {"threads": "2"}, {"threads": 1.5}, {"threads": [1]}, {"spin": 5},
    {"spin": None}, {"pool": ["own"]}, {"pool": True}, {"load": None}, {"load": {}}, {"check": "half"}, {"check": 5},
    {"providers": 5}, {"providers": [1]}, {"providers": []}, {"providers": [("CPUExecutionProvider", 5)]},
    {"providers": [("CPUExecutionProvider",)]}, {"providers": {"CPUExecutionProvider": {}}}, {"providers": ["None"]},
    {"providers": [b"CPUExecutionProvider"]}, {"fallback": True}, {"fallback": ["last"]}, {"keep": 2.0}, {"keep": -1},
    {"arena": 1}, {"arena": "no"}, {"prepack": None},
]  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_setting_of_the_wrong_type_or_size_is_a_run_error(tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = chain().save(tmp_path / "b")
    with pytest.raises(EEToolkitError, match=next(iter(settings))):
        Runner(folder, **settings)


@pytest.mark.parametrize("bundle", [5, None, b"b", ["b"], object(), 1.5, True])
def test_what_is_no_bundle_is_refused(bundle: Any) -> None:
    with pytest.raises(EEToolkitError, match=r"^bundle is "):
        Runner(bundle)


ODD: list[Any] = [5, "exit", b"exit0", True, [1], (), {}, {"exit0": True}, {"exit0": "0.5"}, {"exit0": [1]}, {5: 0.5},
                  {"exit0": np.array([0.5, 0.6])}, math.nan, object(), ["exit0"], 10**400, -1]  # fmt: skip
METHODS = {
    "run": ("exit_at", "thresholds", "deadline_ms", "interrupt"), "refine": ("deadline_ms", "interrupt"),
    "run_batch": ("exit_at", "thresholds"), "stream": ("exit_at", "thresholds", "rows", "progress"),
    "warmup": ("runs",), "open": ("segment",), "trace": ("took",),
}  # fmt: skip


@pytest.mark.parametrize(
    ("method", "parameter"), [(method, parameter) for method, all_ in METHODS.items() for parameter in all_]
)
def test_an_argument_of_the_wrong_type_is_a_typed_error(opened: Open, method: str, parameter: str) -> None:
    runner = opened(chain())
    refused = 0
    for value in ODD:
        if parameter == "runs" and value == 10**400:
            continue  # as long as the caller likes
        given = () if method == "open" else ([row(0.1)],) if method == "stream" else (row(0.1),)
        try:
            result = getattr(runner, method)(*given, **{parameter: value})
            list(result if isinstance(result, Iterator) else ())
        except EEToolkitError as error:
            assert isinstance(error, InputError | DeadlineError), f"{value!r:.50}: {error!r}"
            refused += 1
    assert refused >= len(ODD) - 4


@pytest.mark.parametrize("method", ["run", "refine", "run_batch", "stream", "warmup", "run_all_exits"])
def test_inputs_of_any_type_are_taken_or_refused_by_name(opened: Open, method: str) -> None:
    runner = opened(chain())
    for value in (5, "x", b"x", True, [1], [[1]], {}, {"x": None}, {5: row(0.1)}, object(), print, math.nan, [object()],
                  np.array("x"), np.array(["x"] * 4)[None], (), (1, 2), {"x": [[1, 2], [3]]}, 1j):  # fmt: skip
        if method == "stream" and isinstance(value, dict | tuple) and not value:
            continue  # no rows
        with pytest.raises(InputError):
            found = getattr(runner, method)(value)
            list(found if isinstance(found, Iterator) else ())
    if method not in ("run_batch", "warmup"):
        return
    with pytest.raises(InputError):
        getattr(runner, method)(None if method == "run_batch" else np.zeros((0, 4), np.float32))


# Memory and shapes


def test_a_buffer_that_there_is_no_memory_for_is_an_error_that_names_it_and_its_size(opened: Open) -> None:
    draft = Draft()
    draft.slot("wide", shape=("batch", 1 << 30, 1 << 8))
    draft.slot("sure", shape=PER_ROW)
    draft.segment(
        "large",
        f"""
        {column("sure", 0)}
        most = Constant<value = int64[3] {{1, {1 << 30}, {1 << 8}}}>()  one = Constant<value = float {{1}}>()
        wide = Expand(one, most)
        """,
        reads=["x"], writes=["wide", "sure"], exit=leave("last", "wide", "sure"),
    )  # fmt: skip
    runner = opened(draft)
    with pytest.raises(
        RunError, match=r"^segment 'large': its output 'wide': no memory for float32\[1, \d+, 256\], 1,024\.0 GiB$"
    ):
        runner.run(row(0.1))


@pytest.mark.parametrize(
    ("body", "found"),
    [("sure = ReduceMax<keepdims = 0>(x)", r"float32\[\]"), ("sure = Neg(x)", r"float32\[2, 4\]"),
     ("a = Constant<value_ints = [1]>()  sure = ReduceMax(x, a)", r"float32\[2, 1\]")],
)  # fmt: skip
def test_a_batch_whose_graph_gives_other_shapes_than_its_slots_is_an_error(opened: Open, body: str, found: str) -> None:
    draft = Draft()
    draft.slot("sure", shape=PER_ROW)
    draft.slot("y")
    draft.segment(
        "only", f"y = Identity(x)  {body}", reads=["x"], writes=["y", "sure"], exit=leave("last", "y", "sure")
    )
    runner = opened(draft)
    with pytest.raises(RunError, match=rf"^segment 'only': 'sure' is {found}, expected float32\[batch\]$"):
        runner.run_batch(np.concatenate([row(0.1), row(0.2)]))
