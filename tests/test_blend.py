"""Blended gates become `If` nodes that give the same answers; what is no gate is left, with a note."""

from __future__ import annotations

import functools

import numpy as np
import onnx_ir as ir
import pytest
import torch
from gated_graphs import Array, from_text, from_torch, open_all_gates, run, session
from gated_networks import IMAGE, NETWORKS

from eetoolkit_exporters.capturing.capture import Network
from eetoolkit_exporters.gating.blend import GATE, branch_nodes, find_blends, to_if
from eetoolkit_exporters.gating.hardness import hard_values
from eetoolkit_exporters.graph import subgraphs

TOLERANCE = 1e-5
ROWS = np.random.default_rng(0).normal(0, 2, (24, 1, 6)).astype(np.float32)
GATES = (
    "one = Constant <value = float {1}> () half = Constant <value = float {0.5}> ()"
    " nought = Constant <value = float {0}> () axis = Constant <value = int64[1] {1}> ()"
    " m = ReduceMean <keepdims = 1> (x, axis) p = Sigmoid (m)"
    " test = Greater (p, half) g = Cast <to = 1> (test) n = Sub (one, g) a = Exp (x) b = Neg (x) "
)


@functools.cache
def network(name: str) -> torch.nn.Module:
    """Returns a network of `gated_networks` with seeded weights, each of whose gates goes both ways on `images`."""
    torch.manual_seed(1)
    model = NETWORKS[name]().eval()
    hooks = [layer.register_forward_hook(center) for layer in model.deciders()]
    with torch.no_grad():
        model(images())
    for hook in hooks:
        hook.remove()
    return model


def center(layer: torch.nn.Module, _: object, output: torch.Tensor) -> torch.Tensor:
    """Moves the layer's bias so that half of the rows are above a probability of one half, for each of its gates."""
    middle = output.median(0).values.flatten()
    layer.bias.data -= middle
    return output - middle.view(-1, *[1] * (output.ndim - 2))


@functools.cache
def exported(name: str, *, dynamic_batch: bool) -> Network:
    """Returns it as a graph."""
    rows = 3 if dynamic_batch else 1
    return from_torch(network(name), torch.randn(rows, *IMAGE), dynamic_batch=dynamic_batch)


def images() -> torch.Tensor:
    """Returns images of many kinds."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(-1, 1.5, 60).view(-1, 1, 1, 1)
    return torch.randn(60, *IMAGE, generator=generator) * scale + scale * torch.randn(60, 3, 1, 1, generator=generator)


def decided(graph: ir.Graph, gates: list[ir.Node], feeds: list[dict[str, Array]]) -> np.ndarray:
    """Returns what each top-level gate decides for each input."""
    predicates = [gate.inputs[0] for gate in gates if gate.graph is graph]
    kept = list(graph.outputs)
    graph.outputs[:] = list(dict.fromkeys(value for value in predicates if value is not None))
    found = session(graph)
    graph.outputs[:] = kept
    return np.array([[bool(np.all(array)) for array in found.run(None, feed)] for feed in feeds])


@pytest.mark.parametrize("dynamic_batch", [True, False], ids=["dynamic", "one_row"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_gated_block_becomes_a_gate_that_answers_as_the_network_does(name: str, dynamic_batch: bool) -> None:
    graph, model = exported(name, dynamic_batch=dynamic_batch).graph.clone(), network(name)
    blends, notes = find_blends(graph, hard_values(graph))
    assert notes == []
    assert len(blends) == model.GATES
    assert all(blend.per_row for blend in blends)
    gates = open_all_gates(graph)
    assert all(gate.metadata_props[GATE] == "row" for gate in gates)
    assert all(gate.inputs[0].dtype == ir.DataType.BOOL and len(gate.inputs[0].shape) == 1 for gate in gates)
    feeds = [{str(graph.inputs[0].name): image[None].numpy()} for image in images()]
    both = decided(graph, gates, feeds)
    assert both.any(0).all()
    assert not both.all(0).any()
    running = session(graph)
    for feed, image in zip(feeds, images(), strict=True):
        expected = model(image[None]).detach().numpy()
        np.testing.assert_allclose(running.run(None, feed)[0], expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_closed_gate_runs_no_convolution_of_its_block(name: str) -> None:
    """Only the down-sampling shortcut is left on the closed side, or before the gate where both sides use it."""
    graph = exported(name, dynamic_batch=True).graph.clone()
    for gate in open_all_gates(graph):
        opened, closed = subgraphs(gate)
        assert sum(node.op_type == "Conv" for node in opened) >= 2
        assert all(node.attributes["kernel_shape"].as_ints() == (1, 1) for node in closed if node.op_type == "Conv")


FORMS = {
    "select": "ga = Mul (g, a) nb = Mul (n, b) y = Add (ga, nb)",
    "select_turned": "ga = Mul (a, g) nb = Mul (b, n) y = Add (nb, ga)",
    "select_by_not": "t = Not (test) k = Cast <to = 1> (t) ga = Mul (g, a) nb = Mul (k, b) y = Add (ga, nb)",
    "select_by_other_test": "t = LessOrEqual (p, half) k = Cast <to = 1> (t) ga = Mul (g, a) nb = Mul (k, b)"
    " y = Add (ga, nb)",
    "select_by_where": "k = Where (test, nought, one) ga = Mul (g, a) nb = Mul (k, b) y = Add (ga, nb)",
    "select_by_negative": "v = Neg (g) k = Add (v, one) ga = Mul (g, a) nb = Mul (k, b) y = Add (ga, nb)",
    "select_expanded": "s = Shape (a) e = Expand (g, s) f = Expand (n, s) ga = Mul (e, a) nb = Mul (f, b)"
    " y = Add (ga, nb)",
    "select_weighted": "w = Mul (g, p) v = Mul (n, p) ga = Mul (w, a) nb = Mul (v, b) y = Add (ga, nb)",
    "through": "d = Sub (g, p) h = Add (d, p) k = Sub (one, h) ga = Mul (h, a) nb = Mul (k, b) y = Add (ga, nb)",
    "where": "y = Where (test, a, b)",
    "where_not": "t = Not (test) y = Where (t, a, b)",
    "where_zero": "y = Where (test, a, nought)",
    "where_fill": "t = Not (test) y = Where (t, half, a)",
    "residual": "ga = Mul (g, a) y = Add (ga, b)",
    "residual_turned": "na = Mul (n, a) y = Add (b, na)",
    "residual_weighted": "w = Mul (p, g) ga = Mul (w, a) y = Add (b, ga)",
    "product": "ga = Mul (g, a) y = Tanh (ga)",
    "product_weighted": "w = Mul (p, g) ga = Mul (a, w) y = Tanh (ga)",
    "product_used_twice": "ga = Mul (g, a) s = Add (ga, b) y = Mul (s, ga)",
    "product_of_negative": "na = Mul (n, a) y = Tanh (na)",
    "of_a_row": "z = Constant <value = int64[1] {1}> () r = Squeeze (test, z) q = Unsqueeze (r, z) y = Where (q, a, b)",
    "nested": "c = Where (test, a, b) e = Abs (c) ga = Mul (g, e) nb = Mul (n, c) y = Add (ga, nb)",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_of_blend_becomes_a_gate_with_the_same_answer(form: str) -> None:
    graph = from_text(GATES + FORMS[form])
    expected = [run(graph, {"x": row})[0] for row in ROWS]
    gates = open_all_gates(graph)
    assert len(gates) == (2 if form in {"nested", "product_used_twice"} else 1)
    assert graph.outputs[0].name == "y"
    assert_well_formed(graph)
    for row, one in zip(ROWS, expected, strict=True):
        np.testing.assert_allclose(run(graph, {"x": row})[0], one, rtol=1e-6, atol=1e-6)
    feeds = [{"x": row} for row in ROWS]
    assert 0 < decided(graph, gates, feeds).mean() < 1


def assert_well_formed(graph: ir.Graph) -> None:
    """Every value has a name of its own, a dtype and a shape; every node an opset; constants stand at the top."""
    nodes = list(graph.all_nodes())
    values = [value for node in nodes for value in node.outputs]
    names = [value.name for value in (*graph.inputs, *graph.initializers.values(), *values)]
    assert len(set(names)) == len(names)
    assert all(node.version == 20 for node in nodes)
    assert all(value.dtype is not None and value.shape is not None for value in values)
    assert not any(inner.initializers for node in nodes for inner in subgraphs(node))


def test_the_experts_of_a_router_are_nested_so_that_one_of_them_runs() -> None:
    graph = from_text(
        GATES + "i = ArgMax <axis = 1, keepdims = 1> (x) c = Constant <value = int64[6] {0, 1, 2, 3, 4, 5}> ()"
        " e = Equal (i, c) h = Cast <to = 1> (e) sizes = Constant <value = int64[4] {1, 1, 1, 3}> ()"
        " h0, h1, h2, h3 = Split <axis = 1> (h, sizes) k2 = Exp (b)"
        " i0 = Constant <value = int64[1] {0}> () i1 = Constant <value = int64[1] {1}> ()"
        " i2 = Constant <value = int64[1] {2}> () i3 = Constant <value = int64[1] {3}> ()"
        " f0 = Slice (h, i0, i1, axis) f1 = Slice (h, i1, i2, axis) f2 = Gather <axis = 1> (h, i2)"
        " m0 = Mul (f0, a) m1 = Mul (f1, b) m2 = Mul (f2, k2) s = Add (m0, m1) y = Add (s, m2)"
    )
    expected = [run(graph, {"x": row})[0] for row in ROWS]
    gates = open_all_gates(graph)
    assert [gate.graph is graph for gate in gates] == [False, False, True]
    opened, closed = subgraphs(gates[2])
    assert [node.op_type for node in opened] == ["Exp"]
    assert [node for node in closed if node.op_type == "If"] == [gates[1]]
    assert not any(node.op_type in {"Mul", "Add"} for node in graph.all_nodes())
    for row, one in zip(ROWS, expected, strict=True):
        np.testing.assert_array_equal(run(graph, {"x": row})[0], one)


def test_the_columns_of_a_one_hot_of_two_are_each_others_complement() -> None:
    graph = from_text(
        GATES + "i = Cast <to = 7> (g) d = Constant <value = int64 {2}> () v = Constant <value = float[2] {0, 1}> ()"
        " f = Squeeze (i, axis) h = OneHot <axis = 1> (f, d, v) k0 = Constant <value = int64[1] {0}> ()"
        " k1 = Constant <value = int64[1] {1}> () h0 = Gather <axis = 1> (h, k0) h1 = Gather <axis = 1> (h, k1)"
        " ha = Mul (h1, a) hb = Mul (h0, b) y = Add (hb, ha)"
    )
    expected = [run(graph, {"x": row})[0] for row in ROWS]
    (blend,), _ = find_blends(graph, hard_values(graph))
    assert {str(blend.open[0].name), str(blend.closed.name if blend.closed else None)} == {"a", "b"}
    open_all_gates(graph)
    assert [run(graph, {"x": row})[0].tolist() for row in ROWS] == [one.tolist() for one in expected]


def test_a_gate_of_one_value_for_the_call_is_marked_so() -> None:
    graph = from_text(GATES + "t = ReduceMax <keepdims = 0> (g) c = Greater (t, half) y = Where (c, a, b)")
    expected = [run(graph, {"x": row})[0] for row in ROWS]
    (gate,) = open_all_gates(graph)
    assert gate.metadata_props[GATE] == "call"
    assert gate.inputs[0] is not None
    assert gate.inputs[0].shape == ir.Shape([])
    for row, one in zip(ROWS, expected, strict=True):
        np.testing.assert_array_equal(run(graph, {"x": row})[0], one)


def test_blends_inside_a_loop_and_a_branch_are_found_and_rewritten_there() -> None:
    graph = from_text(
        GATES + "m3 = Constant <value = int64 {3}> () go = Constant <value = bool {1}> ()"
        " y = Loop (m3, go, x) <body = body (int64 i, bool c, float[batch,6] s) => (bool c2, float[batch,6] s2) {"
        " mean = ReduceMean <keepdims = 1> (s, axis) open = Greater (mean, nought) q = Sin (s) r = Cos (s)"
        " s2 = Where (open, q, r) c2 = Identity (c) }>"
    )
    expected = [run(graph, {"x": row})[0] for row in ROWS]
    (gate,) = open_all_gates(graph)
    assert gate.graph is not graph
    assert [[node.op_type for node in part] for part in subgraphs(gate)] == [["Sin"], ["Cos"]]
    assert_well_formed(graph)
    for row, one in zip(ROWS, expected, strict=True):
        np.testing.assert_array_equal(run(graph, {"x": row})[0], one)


LEFT = {
    "soft": (
        "q = Sub (one, p) pa = Mul (p, a) qb = Mul (q, b) y = Add (pa, qb)",
        "y looks like a gate by p, but it is not provably 0 or 1 in every element; both sides always run",
    ),
    "soft_residual": (
        "pa = Mul (p, a) y = Add (pa, b)",
        "y looks like a gate by p, but it is not provably 0 or 1 in every element; both sides always run",
    ),
    "per_element": (
        "t = Greater (x, nought) h = Cast <to = 1> (t) n2 = Sub (one, h) l = Mul (h, a) r = Mul (n2, b) y = Add (l, r)",
        "y looks like a gate by h, but its shape is [batch,6], which is not one value per row; both sides always run",
    ),
    "per_column": (
        "z = Constant <value = int64[1] {0}> () v = ReduceMean (x, z) t = Greater (v, nought) y = Where (t, a, b)",
        "y looks like a gate by t, but its shape is [1,6], which is not one value per row; both sides always run",
    ),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_is_no_gate_is_left_with_a_note_that_says_why(case: str) -> None:
    body, note = LEFT[case]
    graph = from_text(GATES + body)
    assert find_blends(graph, hard_values(graph)) == ([], [note])


@pytest.mark.parametrize(
    "body",
    [
        "ab = Mul (a, b) y = Add (ab, x)",
        "y = Mul (p, a)",
        "t = Greater (x, nought) y = Where (t, a, b)",
        "s = Sigmoid (x) q = Sub (one, s) sa = Mul (s, a) qb = Mul (q, b) y = Add (sa, qb)",
        "c = Constant <value = bool {1}> () y = Where (c, a, b)",
    ],
    ids=["no_gate", "attention", "activation", "highway", "constant"],
)
def test_what_does_not_look_like_a_gate_gets_no_note(body: str) -> None:
    graph = from_text(GATES + body)
    assert find_blends(graph, hard_values(graph)) == ([], [])


def test_a_gate_for_the_rows_of_a_fixed_batch_is_left() -> None:
    graph = from_text(GATES + FORMS["select"], inputs="float[4,6] x", outputs="float[4,6] y")
    _, notes = find_blends(graph, hard_values(graph))
    assert notes == ["y looks like a gate by g, but the batch is fixed at 4 rows; both sides always run"]


def test_a_side_that_cannot_be_brought_to_the_results_shape_leaves_the_blend() -> None:
    body = "k = ReduceMax <keepdims = 1> (x, axis) ga = Mul (g, a) nk = Mul (n, k) y = Add (nk, ga)"
    graph = from_text(GATES + body, inputs="float[batch,size] x", outputs="float[batch,size] y")
    blends, notes = find_blends(graph, hard_values(graph))
    assert [blend.result.name for blend in blends] == ["nk"]
    why = "its two sides are not of the result's shape and dtype"
    assert notes == [f"y looks like a gate by g, but {why}; both sides always run"]


def test_blends_are_priced_without_a_change_as_they_are_after_it() -> None:
    graph = from_text(
        GATES + "w = Abs (a) v = Sqrt (w) u = Add (b, x) gv = Mul (g, v) nu = Mul (n, u) y = Add (gv, nu)"
    )
    (blend,), _ = find_blends(graph, hard_values(graph))
    opened, closed = ([str(node.outputs[0].name) for node in part] for part in branch_nodes([blend]))
    assert (opened, closed) == (["a", "w", "v"], ["b", "u"])
    kept = [value for node in graph for value in node.outputs if value.name == "w"]
    assert [[node.outputs[0].name for node in part] for part in branch_nodes([blend], kept)] == [["v"], ["b", "u"]]
    (gate,) = open_all_gates(graph)
    assert [[node.outputs[0].name for node in part] for part in subgraphs(gate)] == [opened, closed]


def test_blends_may_be_rewritten_in_any_order() -> None:
    expected = None
    for order in (slice(None), slice(None, None, -1)):
        graph = from_text(GATES + FORMS["nested"])
        if expected is None:
            expected = [run(graph, {"x": row})[0] for row in ROWS]
        blends, _ = find_blends(graph, hard_values(graph))
        assert len(blends) == 2
        for blend in blends[order]:
            to_if([blend])
        for row, one in zip(ROWS, expected, strict=True):
            np.testing.assert_array_equal(run(graph, {"x": row})[0], one)


def test_what_is_kept_outlives_its_blend() -> None:
    graph = from_text(GATES + FORMS["select"])
    (blend,), _ = find_blends(graph, hard_values(graph))
    kept = [value for node in graph for value in node.outputs if value.name == "ga"]
    to_if([blend], kept)
    assert {"ga"} == {node.outputs[0].name for node in graph if node.op_type == "Mul"}


@pytest.mark.parametrize("seed", range(60))
def test_random_blends_give_the_same_answers_as_gates(seed: int) -> None:
    graph = from_text(GATES + random_blends(np.random.default_rng(seed)))
    rows = ROWS[:8]
    expected = [run(graph, {"x": row})[0] for row in rows]
    gates = open_all_gates(graph)
    assert gates
    assert_well_formed(graph)
    running = session(graph)
    for row, one in zip(rows, expected, strict=True):
        np.testing.assert_allclose(running.run(None, {"x": row})[0], one, rtol=1e-5, atol=1e-5)


def random_blends(rng: np.random.Generator) -> str:
    """Returns the lines of a random network whose blends feed each other, share gates and stand side by side."""
    lines, values, gates = [], ["x", "a", "b"], [("g", "n", "test")]

    def pick() -> str:
        return values[-1 - min(int(rng.exponential(2)), len(values) - 1)]

    for i in range(int(rng.integers(3, 12))):
        kind = int(rng.integers(8))
        (g, n, test), p, q = gates[int(rng.integers(len(gates)))], pick(), pick()
        match kind:
            case 0:
                lines.append(
                    f"m{i} = ReduceMean <keepdims = 1> ({p}, axis) t{i} = Greater (m{i}, nought)"
                    f" g{i} = Cast <to = 1> (t{i}) n{i} = Sub (one, g{i})"
                )
                gates.append((f"g{i}", f"n{i}", f"t{i}"))
                continue
            case 1:
                lines.append(f"u{i} = Mul ({g}, {p}) w{i} = Mul ({q}, {n}) v{i} = Add (u{i}, w{i})")
            case 2:
                lines.append(f"u{i} = Mul ({n}, {p}) v{i} = Add ({q}, u{i})")
            case 3:
                lines.append(f"v{i} = Where ({test}, {p}, {q})")
            case 4:
                lines.append(f"v{i} = Mul ({p}, {n})")
            case 5:
                lines.append(f"v{i} = {rng.choice(['Sin', 'Tanh', 'Neg', 'Relu'])} ({p})")
            case 6:
                other = gates[int(rng.integers(len(gates)))][0]
                lines.append(f"k{i} = Mul ({g}, {other}) u{i} = Mul (k{i}, {p}) v{i} = Add (u{i}, {q})")
            case _:
                lines.append(f"s{i} = Add ({p}, {q}) v{i} = Tanh (s{i})")
        values.append(f"v{i}")
    lines.append(f"last = Where (test, {values[-1]}, {pick()}) y = Tanh (last)")
    return " ".join(lines)


class Lerp(torch.nn.Module):
    """A block that `torch.lerp` blends in, by a hard gate."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.gate = torch.nn.Linear(6, 6), torch.nn.Linear(6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.lerp(x, torch.relu(self.block(x)), (self.gate(x) > 0).float())


def test_a_lerp_by_a_hard_gate_is_a_blend() -> None:
    torch.manual_seed(0)
    module = Lerp().eval()
    graph = from_torch(module, torch.randn(3, 6)).graph
    (gate,) = open_all_gates(graph)
    opened, _ = subgraphs(gate)
    assert [node.op_type for node in opened if node.op_type in {"Gemm", "MatMul"}]
    running = session(graph)
    for row in ROWS:
        expected = module(torch.from_numpy(row)).detach().numpy()
        np.testing.assert_allclose(running.run(None, {graph.inputs[0].name: row})[0], expected, atol=1e-6)


PICKS = {
    "gather": lambda stacked, index: stacked.gather(1, index[:, None, None].expand(-1, 1, 6)).squeeze(1),
    "index": lambda stacked, index: stacked[torch.arange(len(index)), index],
}


@pytest.mark.parametrize("pick", PICKS)
def test_a_pick_from_stacked_experts_is_noted(pick: str) -> None:
    class Router(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = torch.nn.ModuleList(torch.nn.Linear(6, 6) for _ in range(3))
            self.route = torch.nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return PICKS[pick](torch.stack([expert(x) for expert in self.experts], 1), self.route(x).argmax(1))

    graph = from_torch(Router(), torch.randn(3, 6)).graph
    blends, notes = find_blends(graph, hard_values(graph))
    assert blends == []
    assert any("picks one of 3 values, and all of them always run" in note for note in notes)
