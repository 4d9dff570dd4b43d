"""What only one branch needs moves into it, and nothing else."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from gated_graphs import from_text, run

from eetoolkit_exporters.gating.sink import exclusive, sink

X = np.random.default_rng(0).normal(0, 1, (1, 6)).astype(np.float32)
SCALAR = "total = ReduceSum <keepdims = 0> (x) zero = Constant <value = float {0}> () open = Greater (total, zero)"


def branch(then: str, other: str) -> str:
    """Returns an `If` on `open` whose branches hand on values."""
    return (
        f"y = If (open) <then_branch = t () => (float[batch,6] t_out) {{ {then} }},"
        f" else_branch = e () => (float[batch,6] e_out) {{ {other} }}>"
    )


def both_ways(graph: ir.Graph) -> list[np.ndarray]:
    """Returns the outputs for an input that opens the gate and for one that closes it."""
    return [output for x in (abs(X), -abs(X)) for output in run(graph, {"x": x})]


def moved(body: str, outputs: str = "float[batch,6] y", keep: tuple[str, ...] = ()) -> tuple[list[str], ...]:
    """Sinks the `If` of some lines and returns the names of what its then-branch, else-branch and graph make."""
    graph = from_text(body, outputs=outputs)
    values = {str(value.name): value for node in graph for value in node.outputs}
    before = both_ways(graph)
    if_node = values["y"].producer()
    assert if_node is not None
    count = sink(if_node, [values[name] for name in keep])
    for one, other in zip(before, both_ways(graph), strict=True):
        np.testing.assert_array_equal(one, other)
    then, other_ = (if_node.attributes[name].as_graph() for name in ("then_branch", "else_branch"))
    inside = [[str(node.outputs[0].name) for node in part] for part in (then, other_)]
    assert count == sum(name in values for part in inside for name in part)
    return (*inside, [str(node.outputs[0].name) for node in graph])


def test_a_chain_moves_in_order_and_hands_its_result_on_itself() -> None:
    then, other, rest = moved(
        f"{SCALAR} a = Relu (x) b = Exp (a) c = Add (a, b) d = Neg (x)"
        + branch("t_out = Identity (c)", "e_out = Identity (d)")
    )
    assert then == ["a", "b", "c"]
    assert other == ["d"]
    assert rest == ["total", "open", "y"]


def test_what_both_branches_use_stays() -> None:
    then, other, rest = moved(
        f"{SCALAR} a = Relu (x) b = Exp (a) c = Neg (a)" + branch("t_out = Identity (b)", "e_out = Identity (c)")
    )
    assert (then, other) == (["b"], ["c"])
    assert "a" in rest


def test_what_later_nodes_use_stays_and_so_does_what_it_needs() -> None:
    then, _, rest = moved(
        f"{SCALAR} a = Relu (x) b = Exp (a) c = Neg (b)"
        + branch("t_out = Identity (c)", "e_out = Identity (x)")
        + " z = Add (y, b)",
        outputs="float[batch,6] z",
    )
    assert then == ["c"]
    assert sorted(rest) == ["a", "b", "open", "total", "y", "z"]


def test_what_the_predicate_uses_stays() -> None:
    body = "a = Exp (x) total = ReduceSum <keepdims = 0> (a) zero = Constant <value = float {6}> ()"
    body += " open = Greater (total, zero)" + branch("t_out = Identity (a)", "e_out = Identity (x)")
    assert moved(body)[0] == ["t_out"]


def test_an_output_and_what_is_kept_stay() -> None:
    body = f"{SCALAR} a = Relu (x) b = Exp (a) c = Neg (b)" + branch("t_out = Identity (c)", "e_out = Identity (x)")
    assert moved(body, outputs="float[batch,6] y, float[batch,6] b")[0] == ["c"]
    assert moved(body, keep=("a",))[0] == ["b", "c"]
    assert moved(body)[0] == ["a", "b", "c"]


def test_a_node_with_branches_of_its_own_moves_with_what_they_capture() -> None:
    inner = (
        " n = If (open) <then_branch = p () => (float[batch,6] p_out) { p_out = Relu (a) },"
        " else_branch = q () => (float[batch,6] q_out) { q_out = Neg (b) }>"
    )
    body = f"{SCALAR} a = Exp (x) b = Abs (x){inner}" + branch("t_out = Identity (n)", "e_out = Identity (x)")
    then, _, rest = moved(body)
    assert set(then) == {"a", "b", "n"}
    assert then[-1] == "n"
    assert rest == ["total", "open", "y"]


def test_a_use_deep_inside_a_branch_counts_as_that_branch() -> None:
    deep = (
        "t_out = If (open) <then_branch = p () => (float[batch,6] p_out) { p_out = Relu (a) },"
        " else_branch = q () => (float[batch,6] q_out) { q_out = Neg (x) }>"
    )
    then, _, rest = moved(f"{SCALAR} a = Exp (x)" + branch(deep, "e_out = Identity (x)"))
    assert then == ["a", "t_out"]
    assert rest == ["total", "open", "y"]


def test_the_work_outside_of_a_loop_is_not_moved_into_it() -> None:
    graph = from_text(
        f"{SCALAR} a = Exp (x) m = Constant <value = int64 {{2}}> () go = Constant <value = bool {{1}}> ()"
        " y = Loop (m, go, x) <body = b (int64 i, bool c, float[batch,6] s) => (bool c2, float[batch,6] s2) {"
        " w = Abs (s) s2 = If (open) <then_branch = t () => (float[batch,6] p) { p = Add (a, w) },"
        " else_branch = e () => (float[batch,6] q) { q = Neg (s) }> c2 = Identity (c) }>"
    )
    before = both_ways(graph)
    inner = next(node for node in graph.all_nodes() if node.op_type == "If")
    assert sink(inner) == 1
    assert [node.outputs[0].name for node in inner.attributes["then_branch"].as_graph()] == ["w", "p"]
    for one, other in zip(before, both_ways(graph), strict=True):
        np.testing.assert_array_equal(one, other)


def test_exclusive_moves_nothing_and_counts_only_the_users_given() -> None:
    graph = from_text("a = Relu (x) b = Exp (a) c = Neg (b) d = Add (c, x) e = Add (d, a) y = Mul (e, d)")
    made = {str(value.name): value for node in graph for value in node.outputs}
    users = [node for node in graph if node.outputs[0] is made["d"]]
    assert [node.outputs[0].name for node in exclusive([made["c"]], users)] == ["b", "c"]
    assert exclusive([made["c"]], users, keep=[made["c"]]) == []
    assert exclusive([made["d"]], [node for node in graph if node.outputs[0] is made["e"]]) == []
    assert len(graph) == 6
