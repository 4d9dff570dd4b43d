"""What `If`, `Loop` and blended gates become: segments, gates and moves, and what stays inside a segment and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import parser

import eetoolkit as ee
from eetoolkit_runtime.plan.types import Gate, Goto, Switch

HEADER = '<ir_version: 10, opset_import: ["" : 20]>\n'


def network(folder: Path, text: str) -> Path:
    """Writes an ONNX file of the given graph."""
    model = parser.parse_model(HEADER + text)
    onnx.checker.check_model(model, full_check=True)
    path = folder / "network.onnx"
    onnx.save(model, path)
    return path


def compile_(folder: Path, text: str, **options: Any) -> ee.Bundle:
    return ee.export(network(folder, text), None, folder / "network.ee", overwrite=True, **options)


def check(folder: Path, bundle: ee.Bundle, rows: int = 20, scale: float = 1.0) -> list[ee.Answer]:
    """Runs random rows; asserts that all exits equal one session's outputs, and returns the last exits' answers."""
    session = ort.InferenceSession(folder / "network.onnx", providers=["CPUExecutionProvider"])
    rng, answers = np.random.default_rng(0), []
    with ee.Runner(bundle, threads=1) as runner:
        for _ in range(rows):
            x = (rng.normal(size=(1, 4)) * scale).astype(np.float32)
            expected = dict(zip([o.name for o in session.get_outputs()], session.run(None, {"x": x}), strict=True))
            found = runner.run_all_exits(x)
            assert {answer.exit for answer in found} == set(expected)
            for answer in found:
                np.testing.assert_allclose(answer.outputs["logits"], expected[answer.exit], atol=1e-6)
            answers.append(found[-1])
    return answers


BRANCH = """net (float[1,4] x) => (float[1,4] y)
<float zero = {0.0}> {
    s = ReduceSum <keepdims=0> (x)
    p = Greater (s, zero)
    used_by_one = Exp (x)
    used_by_both = Tanh (x)
    b = If (p) <
        then_branch = open () => (float[1,4] a) { a0 = Sin (used_by_one)  a = Add (a0, used_by_both) },
        else_branch = closed () => (float[1,4] c) { c = Identity (used_by_both) }
    >
    y0 = Cos (b)
    y1 = Softmax (y0)
    y = Sub (y1, x)
}"""


def test_an_if_becomes_a_gate_whose_empty_branch_is_a_move_and_no_segment(tmp_path):
    bundle = compile_(tmp_path, BRANCH, lower_control_flow="always")
    plan = bundle.manifest
    gate = plan.segments[plan.start]
    assert isinstance(gate.next, Gate)
    assert gate.writes["b"] == gate.writes["used_by_both"]
    answers = check(tmp_path, bundle)
    assert {answer.gates[0][1] for answer in answers} == {0, 1}
    for answer in answers:
        taken = gate.next.then if answer.gates[0][1] else gate.next.otherwise
        assert answer.path == (plan.start, taken)


def test_what_only_one_branch_needs_is_computed_in_it(tmp_path):
    bundle = compile_(tmp_path, BRANCH, lower_control_flow="always")
    ops = {
        name: {node.op_type for node in onnx.load(bundle.path / segment.model).graph.node}
        for name, segment in bundle.manifest.segments.items()
        if segment.model
    }
    gate = bundle.manifest.segments[bundle.manifest.start].next
    assert "Exp" not in ops[bundle.manifest.start]
    assert "Tanh" in ops[bundle.manifest.start]
    assert "Exp" in ops[gate.then]


def test_a_small_join_is_copied_into_the_branches_before_it_and_the_notes_say_so(tmp_path):
    bundle = compile_(tmp_path, BRANCH, lower_control_flow="always")
    ends = [name for name, segment in bundle.manifest.segments.items() if segment.exit is not None]
    assert len(ends) == 2
    assert any(note.startswith("tail duplication: 1 cop") for note in bundle.manifest.notes)


def test_cheap_branches_stay_inside_by_the_cost_floor_and_the_notes_say_why(tmp_path):
    bundle = compile_(tmp_path, BRANCH)
    assert list(bundle.manifest.segments) == ["segment0"]
    (note,) = bundle.manifest.notes
    assert note == (
        "If 'b' stays inside its segment: a branch costs 0 multiply-adds, less than the 30,000,000 "
        "(or 8,192 KiB of weights) for which a segment "
        "of its own pays"
    )
    check(tmp_path, bundle)


PRODUCTS = """net (float[1,4] x) => (float[1,4] y)
<float zero = {0.0}, float[4,4] w = {1,2,3,4,5,6,7,8,9,8,7,6,5,4,3,2}> {
    s = ReduceSum <keepdims=0> (x)
    p = Greater (s, zero)
    b = If (p) <
        then_branch = open () => (float[1,4] a) { a0 = MatMul (x, w)  a = MatMul (a0, w) },
        else_branch = closed () => (float[1,4] c) { c = MatMul (x, w) }
    >
    y = MatMul (b, w)
}"""


def test_of_an_if_inside_a_segment_the_larger_branch_is_its_work(tmp_path):
    bundle = compile_(tmp_path, PRODUCTS)
    assert [segment.work.multiply_adds for segment in bundle.manifest.segments.values()] == [3 * 4 * 4]
    check(tmp_path, bundle, scale=0.01)


def test_control_flow_stays_inside_where_the_user_says_so(tmp_path):
    bundle = compile_(tmp_path, BRANCH, lower_control_flow=False)
    assert list(bundle.manifest.segments) == ["segment0"]
    assert bundle.manifest.notes == ("If 'b' stays inside its segment: lower_control_flow=False",)
    check(tmp_path, bundle)


ROUTER = """net (float[1,4] x) => (float[1,4] y)
<int64 one = {1}, int64 zero = {0}> {
    i = ArgMax <axis=1, keepdims=0> (x)
    j = Squeeze (i)
    p = Equal (j, zero)
    b = If (p) <
        then_branch = first () => (float[1,4] a) { a = Sin (x) },
        else_branch = others () => (float[1,4] c) {
            q = Equal (j, one)
            c = If (q) <
                then_branch = second () => (float[1,4] d) { d = Exp (x) },
                else_branch = third () => (float[1,4] e) { e = Tanh (x) }
            >
        }
    >
    y = Add (b, x)
}"""


def test_an_elif_chain_becomes_one_switch(tmp_path):
    bundle = compile_(tmp_path, ROUTER, lower_control_flow="always")
    switch = bundle.manifest.segments["segment0"].next
    assert isinstance(switch, Switch)
    assert len(switch.cases) == 3
    answers = check(tmp_path, bundle)
    assert {answer.gates[0][1] for answer in answers} == {0, 1, 2}
    assert all(len(answer.path) == 2 for answer in answers)


def loop(condition: str, *, trips: str = "", start: str = "", states: str = "i0, x") -> str:
    return f"""net (float[1,4] x) => (float[1,4] y)
<int64 i0 = {{0}}, int64 one = {{1}}, int64 five = {{5}}, int64 three = {{3}},
 float limit = {{3.0}}, bool yes = {{1}}> {{
    n, r = Loop ({trips}, {start}, {states}) <
        body = body (int64 t, bool c, int64 i, float[1,4] h) => (bool more, int64 i2, float[1,4] h2) {{
            i2 = Add (i, one)
            h1 = Sin (h)
            h2 = Add (h1, x)
            {condition}
        }}
    >
    y = Tanh (r)
}}"""


BELOW = "s = ReduceSum <keepdims=0> (h2)  low = Less (s, limit)"


@pytest.mark.parametrize(
    ("condition", "trips", "bound"),
    [
        ("more = Identity (c)", "five", 5),
        (f"{BELOW}  few = Less (i2, five)  more = And (low, few)", "", 5),
        (f"{BELOW}  few = Less (i, five)  more = And (few, low)", "", 6),
        (f"{BELOW}  few = LessOrEqual (i2, five)  more = And (low, few)", "", 6),
        (f"{BELOW}  few = Greater (five, i2)  more = And (low, few)", "", 5),
        (f"{BELOW}  many = GreaterOrEqual (i2, five)  few = Not (many)  more = And (low, few)", "", 5),
        (f"{BELOW}  few = Less (i2, five)  more = And (low, few)", "three", 3),
        (f"{BELOW}  more = Identity (low)", "three", 3),
    ],
)
def test_a_loop_becomes_a_segment_that_runs_again_with_a_bound_from_the_graph(tmp_path, condition, trips, bound):
    bundle = compile_(tmp_path, loop(condition, trips=trips, start="yes"), lower_control_flow="always")
    visited = [segment for segment in bundle.manifest.segments.values() if segment.max_visits is not None]
    assert [segment.max_visits for segment in visited] == [bound]
    assert any(f"Loop 'n' is lowered, at most {bound} rounds" in note for note in bundle.manifest.notes)
    answers = check(tmp_path, bundle)
    assert max(max(answer.visits.values()) for answer in answers) <= bound
    assert max(max(answer.visits.values()) for answer in answers) > 1


HALVING = """net (float[1,4] x) => (float[1,4] y)
<float half = {0.5}, float limit = {1.0}, bool yes = {1}, float zero = {0.0}> {
    h0 = Abs (x)
    r = Loop (, yes, h0) <
        body = body (int64 t, bool c, float[1,4] h) => (bool more, float[1,4] h2) {
            h2 = Mul (h, half)
            s = ReduceSum <keepdims=0> (h2)
            more = Greater (s, limit)
        }
    >
    y = Add (r, x)
}"""


def test_a_loop_of_unknown_length_stays_inside_unless_a_bound_is_given(tmp_path):
    inside = compile_(tmp_path, HALVING, lower_control_flow="always")
    assert list(inside.manifest.segments) == ["segment0"]
    assert inside.manifest.notes == (
        "Loop 'r' stays inside its segment: no bound on its rounds can be read from its condition; give max_loop_steps",
    )
    check(tmp_path, inside, scale=100)
    lowered = compile_(tmp_path, HALVING, lower_control_flow="always", max_loop_steps=12)
    assert [s.max_visits for s in lowered.manifest.segments.values() if s.max_visits] == [12]
    check(tmp_path, lowered, scale=100)
    with ee.Runner(lowered) as runner, pytest.raises(ee.RunError, match="more than max_visits 12"):
        runner.run(np.full((1, 4), 1e6, np.float32))


def test_a_loop_that_never_ends_is_refused(tmp_path):
    text = loop("more = Identity (yes)", start="yes")
    with pytest.raises(ee.ExportError, match="the loop 'n' never ends: its condition is always true"):
        compile_(tmp_path, text)


def test_states_that_swap_places_every_round_are_moved_all_at_once(tmp_path):
    text = """net (float[1,4] x) => (float[1,4] y)
<int64 five = {5}, bool yes = {1}> {
    start = Neg (x)
    a, b = Loop (five, yes, x, start) <
        body = body (int64 t, bool c, float[1,4] g, float[1,4] h) => (bool c2, float[1,4] h2, float[1,4] g2) {
            c2 = Identity (c)
            h2 = Identity (h)
            g2 = Sin (g)
        }
    >
    two = Add (a, a)
    y = Sub (two, b)
}"""
    bundle = compile_(tmp_path, text, lower_control_flow="always")
    assert any(segment.max_visits == 5 for segment in bundle.manifest.segments.values())
    check(tmp_path, bundle)


def test_a_loop_with_scan_outputs_stays_inside(tmp_path):
    text = """net (float[1,4] x) => (float[1,4] y)
<int64 three = {3}, bool yes = {1}, int64[1] axis = {0}> {
    r, all = Loop (three, yes, x) <
        body = body (int64 t, bool c, float[1,4] h) => (bool c2, float[1,4] h2, float[1,4] seen) {
            c2 = Identity (c)
            h2 = Sin (h)
            seen = Identity (h2)
        }
    >
    sum = ReduceSum <keepdims=0> (all, axis)
    y = Add (sum, r)
}"""
    bundle = compile_(tmp_path, text, lower_control_flow="always")
    assert bundle.manifest.notes == ("Loop 'r' stays inside its segment: it has scan outputs",)
    check(tmp_path, bundle)


def test_bounds_of_nested_loops_multiply(tmp_path):
    text = """net (float[1,4] x) => (float[1,4] y)
<int64 three = {3}, int64 four = {4}, bool yes = {1}> {
    r = Loop (three, yes, x) <
        body = outer (int64 t, bool c, float[1,4] h) => (bool c2, float[1,4] h2) {
            c2 = Identity (c)
            h1 = Sin (h)
            h2 = Loop (four, yes, h1) <
                body = inner (int64 u, bool d, float[1,4] g) => (bool d2, float[1,4] g2) {
                    d2 = Identity (d)
                    g1 = Cos (g)
                    g2 = Add (g1, x)
                }
            >
        }
    >
    y = Tanh (r)
}"""
    bundle = compile_(tmp_path, text, lower_control_flow="always")
    assert sorted(s.max_visits for s in bundle.manifest.segments.values() if s.max_visits) == [3, 12]
    answers = check(tmp_path, bundle)
    assert sorted(answers[0].visits.values())[-2:] == [3, 12]


def test_the_plan_of_a_network_without_control_flow_is_a_chain(tmp_path):
    text = """net (float[1,4] x) => (float[1,4] y, float[1,4] z)
{ y = Neg (x)  z0 = Exp (y)  z = Tanh (z0) }"""
    bundle = compile_(tmp_path, text)
    assert [type(segment.next) for segment in bundle.manifest.segments.values()][:1] == [Goto]
    assert bundle.manifest.notes == ()


def test_earlier_exits_than_the_first_that_may_fire_are_disabled(tmp_path):
    text = """net (float[1,4] x) => (float[1,4] y, float[1,4] z, float[1,4] w)
{ y = Sin (x)  z0 = Exp (y)  z = Tanh (z0)  w0 = Exp (z)  w = Tanh (w0) }"""
    bundle = compile_(tmp_path, text, min_exit="z", threshold=0.0)
    assert [exit_.enabled for exit_ in bundle.exits.values()] == [False, True, True]
    with ee.Runner(bundle) as runner:
        assert runner.run(np.zeros((1, 4), np.float32)).exit == "z"
    with pytest.raises(ee.ExportError, match="min_exit is 'nowhere'; the exits are y, z, w"):
        compile_(tmp_path, text, min_exit="nowhere")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lower_control_flow": "sometimes"}, "lower_control_flow is 'sometimes', expected True, False or 'always'"),
        ({"max_loop_steps": 0}, "max_loop_steps is 0, expected a number above 0"),
        ({"fallback": "first"}, "fallback is 'first', expected 'last' or 'most_confident'"),
    ],
)
def test_a_wrong_choice_is_one_clear_line(tmp_path, options, message):
    with pytest.raises(ee.ExportError, match=message):
        compile_(tmp_path, BRANCH, **options)


def test_rows_that_affect_each_other_run_one_by_one(tmp_path):
    """Nothing between the segments shows it: one golden row more must."""
    text = """net (float[batch,4] x) => (float[batch,4] z, float[batch,4] y)
<int64[1] rows = {0}> { m = ReduceMean (x, rows)  d = Sub (x, m)  z = Add (d, d)  y = Tanh (x) }"""
    bundle = compile_(tmp_path, text)
    assert bundle.manifest.batch == 1
    assert "rows run one by one: together the golden samples give other answers" in bundle.manifest.notes
    rows = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    with ee.Runner(bundle) as runner:
        for row, answer in zip(rows, runner.run_batch(rows, exit_at="z"), strict=True):
            np.testing.assert_array_equal(
                answer.outputs["logits"], runner.run(row[None], exit_at="z").outputs["logits"]
            )


def test_a_state_that_grows_gets_a_slot_whose_shape_depends_on_data(tmp_path):
    text = """net (float[batch,4] x) => (float[batch,4] y)
<int64 zero = {0}, int64 one = {1}, int64 five = {5}, bool yes = {1}, float limit = {0.5}, int64[1] rows = {0}> {
    n, r = Loop (, yes, zero, x) <
        body = body (int64 t, bool c, int64 i, float[batch,4] h) => (bool more, int64 i2, float[b2,4] h2) {
            i2 = Add (i, one)
            h2 = Concat <axis=0> (h, x)
            few = Less (i2, five)
            s = ReduceSum <keepdims=0> (h)
            low = Less (s, limit)
            more = And (few, low)
        }
    >
    m = ReduceMean <keepdims=1> (r, rows)
    y = Add (m, x)
}"""
    bundle = compile_(tmp_path, text, lower_control_flow="always")
    assert any(segment.max_visits for segment in bundle.manifest.segments.values())
    assert len({len(answer.path) for answer in check(tmp_path, bundle)}) > 1


def test_a_counter_that_wraps_around_proves_no_bound(tmp_path):
    text = loop(BELOW + "  few = Less (i2, five)  more = And (low, few)", start="yes")
    small = text.replace(
        "int64 i0 = {0}, int64 one = {1}, int64 five = {5}", "int8 i0={0}, int8 one={100}, int8 five={120}"
    )
    small = small.replace("int64 i,", "int8 i,").replace("int64 i2", "int8 i2")
    bundle = compile_(tmp_path, small, lower_control_flow="always")
    assert any("no bound on its rounds can be read" in note for note in bundle.manifest.notes)


TWO_RESULTS = """net (float[batch,4] x) => (float[batch,4] y)
<float half = {{0.5}}, float one = {{1.0}}, int64[1] last = {{1}}> {{
    m = ReduceMean (x, last)
    p = Sigmoid (m)
    t = Greater (p, half)
    g = Cast <to = 1> (t)
    n = Sub (one, g)
    deep = Sin (x)
    deeper = Exp (deep)
    a = Cos (deeper)
    c = Tanh (deeper)
    ga = Mul (g, a)
    nx = Mul (n, x)
    first = Add (ga, nx)
    between = Neg (first)
    gc = Mul (g, {operand})
    second = Add (gc, nx)
    y = Add (between, second)
}}"""


def test_a_block_that_feeds_two_results_of_one_gate_is_skipped_with_both(tmp_path):
    bundle = compile_(tmp_path, TWO_RESULTS.format(operand="c"), lower_control_flow="always")
    plan = bundle.manifest
    assert sum(isinstance(segment.next, Gate) for segment in plan.segments.values()) == 1
    first = onnx.load(bundle.path / plan.segments[plan.start].model)
    assert {"Sin", "Exp", "Cos", "Tanh"}.isdisjoint(node.op_type for node in first.graph.node)
    answers = check(tmp_path, bundle)
    assert {answer.gates for answer in answers} == {((plan.start, 0),), ((plan.start, 1),)}


def test_a_result_that_needs_another_of_the_same_gate_has_a_gate_of_its_own(tmp_path):
    bundle = compile_(tmp_path, TWO_RESULTS.format(operand="between"), lower_control_flow="always")
    gates = [segment for segment in bundle.manifest.segments.values() if isinstance(segment.next, Gate)]
    assert len(gates) > 1
    check(tmp_path, bundle)


TWO_BRANCHES = """net (float[1,4] x) => (float[1,4] y)
<float limit = {-8.0}, float zero = {0.0}, int64 case_1 = {2}> {
    m = ReduceMax <keepdims=0> (x)
    s = ReduceSum <keepdims=0> (x)
    p = Greater (m, zero)
    q = Greater (s, limit)
    number = Cast <to = 1> (q)
    mine = Gather <axis = 1> (x, case_1)
    z0 = Add (x, mine)
    z = Add (z0, number)
    y = If (p) <
        then_branch = a () => (float[1,4] ya) { ya = Sin (z) },
        else_branch = b () => (float[1,4] yb) {
            yb = If (q) <then_branch = c () => (float[1,4] yc) { yc = Cos (z) },
                         else_branch = d () => (float[1,4] yd) { yd = Exp (z) }>
        }
    >
}"""


def test_a_weight_called_as_a_constant_of_ours_is_not_taken_for_it(tmp_path):
    for name in ("case_1", "constant_3", "constant_4"):
        bundle = compile_(tmp_path, TWO_BRANCHES.replace("case_1", name), lower_control_flow="always")
        assert any(isinstance(segment.next, Switch) for segment in bundle.manifest.segments.values())
        answers = check(tmp_path, bundle, rows=400, scale=3)
        assert {case for answer in answers for _, case in answer.gates} == {0, 1, 2}


ROW_AND_CALL = """net (float[batch,4] x) => (float[batch,4] y)
<float two = {2.0}, float limit = {1.5}, int64[1] last = {1}, int64 zero = {0}> {
    first = Gather <axis = 1> (x, zero)
    one = Greater (first, two)
    row = Unsqueeze (one, last)
    top = ReduceMax <keepdims = 0> (x)
    call = Greater (top, limit)
    number = Cast <to = 1> (call)
    h = Sum (x, number)
    s = Sin (h)
    c = If (call) <then_branch = a () => (float[batch,4] ca) { ca = Exp (h) },
                   else_branch = b () => (float[batch,4] cb) { cb = Tanh (h) }>
    y = Where (row, s, c)
}"""


def test_a_decision_of_a_row_and_one_of_the_call_are_no_switch(tmp_path):
    path = network(tmp_path, ROW_AND_CALL)
    bundle = ee.export(path, np.full((1, 4), 0.1, np.float32), tmp_path / "b.ee", lower_control_flow="always")
    assert not any(isinstance(segment.next, Switch) for segment in bundle.manifest.segments.values())
    assert bundle.manifest.batch == 1
    check(tmp_path, bundle, scale=2)


EARLY_AND_LATE = """net (float[batch,4] x) => (float[batch,4] early, float[batch,4] late)
<float zero = {0.0}, int64[1] last = {1}, int64 first = {0}> {
    x0 = Gather <axis = 1> (x, first)
    t = Greater (x0, zero)
    g = Unsqueeze (t, last)
    f = Sin (x)
    a = Where (g, f, x)
    early = Neg (a)
    deep = Exp (x)
    deeper = Cos (deep)
    b = Where (g, deeper, x)
    late = Add (a, b)
}"""


def test_a_gate_does_not_take_a_later_exits_work_before_an_earlier_exit(tmp_path):
    bundle = compile_(tmp_path, EARLY_AND_LATE, lower_control_flow="always")
    found = check(tmp_path, bundle)
    assert len(found) == 20
    with ee.Runner(bundle) as runner:
        for first in (-1.0, 1.0):
            answer = runner.run(np.array([[first, 0, 0, 0]], np.float32), exit_at="early")
            kinds = [
                node.op_type
                for name in answer.path
                for node in onnx.load(bundle.path / str(bundle.manifest.segments[name].model)).graph.node
            ]
            assert {"Exp", "Cos"}.isdisjoint(kinds)


CROSSED = """net (float[batch,4] x) => (float[batch,4] y)
<float zero = {0.0}, int64[1] last = {1}, int64 first = {0}, int64 second = {1}> {
    x0 = Gather <axis = 1> (x, first)
    t0 = Greater (x0, zero)
    g = Unsqueeze (t0, last)
    x1 = Gather <axis = 1> (x, second)
    t1 = Greater (x1, zero)
    h = Unsqueeze (t1, last)
    f0 = Sin (x)
    a0 = Where (g, f0, x)
    f1 = Cos (x)
    b0 = Where (h, f1, x)
    f2 = Tanh (a0)
    b1 = Where (h, f2, a0)
    f3 = Exp (b0)
    a1 = Where (g, f3, b0)
    y = Add (a1, b1)
}"""


def test_gates_whose_results_need_each_other_crosswise_make_no_cycle(tmp_path):
    check(tmp_path, compile_(tmp_path, CROSSED, lower_control_flow="always"), rows=40)


def test_an_exit_whose_number_of_rows_is_unknown_is_refused(tmp_path):
    text = """net (float[batch,4] x) => (float[n,4] y)
    <float zero = {0.0}> {
        s = ReduceSum <keepdims=0> (x)
        p = Greater (s, zero)
        y = If (p) <then_branch = a () => (float[batch,4] ya) { ya = Sin (x) },
                    else_branch = b () => (float[1,4] yb) { yb = Constant <value = float[1,4] {1, 2, 3, 4}> () }>
    }"""
    with pytest.raises(ee.ExportError, match=r"exit 'y': how many rows it has cannot be known from its shape"):
        compile_(tmp_path, text, lower_control_flow="always")


def test_operators_of_another_domain_stand_beside_ours(tmp_path):
    text = TWO_BRANCHES.replace("z = Add (z0, number)", "z1 = Add (z0, number) z = com.microsoft.Gelu (z1)")
    text = text.replace("int64 case_1 = {2}>", "int64 case_1 = {2}, float[1,4] z>")
    header = '<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>\n'
    onnx.save(parser.parse_model(header + text), tmp_path / "network.onnx")
    bundle = ee.export(tmp_path / "network.onnx", None, tmp_path / "b.ee", lower_control_flow="always")
    check(tmp_path, bundle)
