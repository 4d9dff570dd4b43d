"""Reading a graph at every level, and names and constants that are new."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from eetoolkit_exporters.graph import (
    ancestors,
    captured,
    constant,
    copy_of,
    fresh,
    names_of,
    needs,
    subgraphs,
    values_of,
)

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
given (float[2] x, bool go, float[2] weight) => (float[2] y)
<float[2] inner = {1, 2}>
{
    a = Exp (x)
    b = Neg (a)
    unread = Sin (x)
    c = If (go) <
        else_branch = no () => (float[2] e) { e = Identity (b) },
        then_branch = yes () => (float[2] t) {
            p = Mul (a, weight)
            t = If (go) <
                then_branch = deep () => (float[2] d) { d = Add (p, inner) },
                else_branch = flat () => (float[2] f) { f = Abs (p) }
            >
        }
    >
    y = Tanh (c)
}
"""


@pytest.fixture
def graph() -> ir.Graph:
    """Returns the graph, whose else-branch hands `b` on as it is: no file says so, but passes do."""
    found = ir.from_proto(onnx.parser.parse_model(TEXT)).graph
    copy = node_of(found, "e")
    branch = copy.graph
    assert isinstance(branch, ir.Graph)
    branch.outputs[0] = node_of(found, "b").outputs[0]
    branch.remove(copy, safe=True)
    return found


def node_of(graph: ir.Graph, output: str) -> ir.Node:
    return next(node for node in graph.all_nodes() if node.outputs[0].name == output)


def names(values: list[ir.Value]) -> list[str | None]:
    return [value.name for value in values]


def test_the_then_branch_comes_first_whatever_the_file_says(graph: ir.Graph) -> None:
    assert [inner.name for inner in subgraphs(node_of(graph, "c"))] == ["yes", "no"]
    assert [inner.name for inner in graph.subgraphs()][:2] != ["yes", "deep"]  # onnx_ir's order is the file's
    assert subgraphs(node_of(graph, "a")) == ()


def test_values_are_found_at_every_level_each_before_what_lies_behind_it(graph: ir.Graph) -> None:
    found = [str(value.name) for value in values_of(graph)]
    assert found == ["x", "go", "weight", "inner", "a", "b", "unread", "c", "p", "t", "d", "f", "y"]
    assert names_of(graph) == set(found)


def test_a_node_needs_what_its_branches_read_and_hand_on(graph: ir.Graph) -> None:
    yes, no = subgraphs(node_of(graph, "c"))
    assert names(captured(yes)) == ["a", "weight", "go", "inner"]
    assert names(captured(no)) == ["b"]
    assert names(needs(node_of(graph, "c"))) == ["go", "a", "weight", "inner", "b"]


def test_ancestors_end_where_they_are_not_asked_for(graph: ir.Graph) -> None:
    last = [node_of(graph, "y").outputs[0]]
    everything = ancestors(last, lambda node: node.graph is graph)
    assert {str(node.outputs[0].name) for node in everything} == {"a", "b", "c", "y"}
    assert {str(node.outputs[0].name) for node in ancestors(last, lambda node: node.op_type != "If")} == {"y"}


def test_a_name_that_is_taken_gets_a_number() -> None:
    used = {"x", "x_2"}
    assert [fresh("x", used), fresh("x", used), fresh("y", used)] == ["x_3", "x_4", "y"]


def test_equal_constants_are_one_and_others_have_names_of_their_own(graph: ir.Graph) -> None:
    one, same, other = (constant(graph, value) for value in (np.int64(1), np.int64(1), np.int32(1)))
    assert one is same
    assert one is not other
    assert constant(graph, np.zeros((0, 3))) is not constant(graph, np.zeros((0, 5)))
    assert one.const_value is not None
    assert (one.const_value.numpy().dtype, one.const_value.numpy().item()) == (np.int64, 1)
    assert len(names_of(graph)) == len(list(values_of(graph)))
    assert {one.name, other.name} <= graph.initializers.keys()


def test_a_copy_is_of_the_values_dtype_and_shape(graph: ir.Graph) -> None:
    node = copy_of(graph.inputs[0], "copy", 20)
    made = node.outputs[0]
    assert (node.op_type, node.version, node.graph) == ("Identity", 20, None)
    assert (made.name, made.dtype, made.shape) == ("copy", ir.DataType.FLOAT, ir.Shape([2]))
