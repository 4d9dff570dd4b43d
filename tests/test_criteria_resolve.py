"""What the manifest is told of the criteria, and which wishes are refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
from networks.judged import Shape, network_of

from eetoolkit_exporters.criteria.confidences import add_confidences
from eetoolkit_exporters.criteria.resolve import bind, choose_criteria, default_threshold, exits_before
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.plan.criteria import KINDS
from eetoolkit_runtime.plan.types import Constant, Criterion

NAN, INF = math.nan, math.inf
MEMBERS = (
    Criterion(kind="max_prob", threshold=0.5, temperature=2.0),
    Criterion(kind="entropy", threshold=0.3),
    Criterion(kind="patience", threshold=1),
)


def test_what_tuning_changes_is_a_graph_input_and_the_criterion_names_it(tmp_path: Path) -> None:
    network = network_of(tmp_path, [{"logits": ("batch", 5)}] * 2)
    chosen = {
        "exit0": Criterion(kind="all_of", members=MEMBERS),
        "exit1": Criterion(kind="geometric_ensemble", weights=(0.5, 2.0), temperature=1.5),
    }
    given = choose_criteria(network.exits, chosen)
    named = add_confidences(network, given)
    inputs = {str(value.name): value for value in network.graph.inputs}
    for name, array in network.constants.items():
        assert (inputs[name].dtype, inputs[name].shape) == (ir.DataType.FLOAT, ir.Shape(array.shape))
    values = {
        name: network.constants[name].tolist()
        for criterion in named.values()
        for _, name in criterion.named_constants()
    }
    assert set(values) == set(network.constants)
    first, second = named["exit0"], named["exit1"]
    assert [values[str(member.threshold)] for member in first.members] == [0.5, pytest.approx(0.3), 1.0]
    assert [values.get(str(member.temperature)) for member in first.members] == [2.0, 1.0, 1.0]
    assert values[str(second.weights)] == [0.5, 2.0]
    assert values[str(second.bias)] == [0.0] * 5
    assert values[str(second.temperature)] == 1.5
    constants = {
        name: Constant(dtype="float32", shape=array.shape, data=tuple(array.ravel().tolist()))
        for name, array in network.constants.items()
    }
    back = bind(second, constants, {})
    assert (back.weights, back.temperature) == (given["exit1"].weights, given["exit1"].temperature)


def test_an_exit_that_stands_in_two_places_has_its_constants_once(tmp_path: Path) -> None:
    network = network_of(tmp_path, [{"logits": ("batch", 5)}] * 2)
    network.exits[1].name = "exit0"
    members = (Criterion(kind="max_prob", threshold=0.5), Criterion(kind="max_prob", threshold=0.5))
    named = add_confidences(network, choose_criteria(network.exits, Criterion(kind="any_of", members=members)))
    assert list(named) == ["exit0"]
    assert set(network.constants) == {"exit0_temperature", "exit0_threshold", "exit0_threshold_2"}
    assert {name for _, name in named["exit0"].named_constants()} == set(network.constants)


def test_every_value_that_state_is_made_of_has_a_dtype(tmp_path: Path) -> None:
    for kind in sorted(kind for kind, its in KINDS.items() if its.stateful):
        network = network_of(tmp_path, [{"logits": ("batch", 5)}] * 4)
        before = set(network.graph)
        add_confidences(network, choose_criteria(network.exits, kind))
        for node in set(network.graph) - before:
            for value in node.outputs:
                assert value.dtype is not None, (kind, node.op_type)
                if node.op_type not in {"Reshape", "Gather"}:
                    assert value.shape is not None or node.op_type == "MatMul", (kind, node.op_type)


VECTOR, TWO, POINT = [("batch", 3)], [("batch", 3)] * 2, [("batch", 1)] * 2
DYNAMIC: list[Shape] = [("batch", "classes")]

REFUSED: list[tuple[Any, list[Shape], str]] = [
    ("vote", [("batch", 3), ("batch", 4)], "exit 'exit1': vote runs over all exits so far, and 'exit0' has 3 classes"),
    ("patience", DYNAMIC, "exit 'exit0': patience reads shape [batch,classes]: the class dimension, axis 1, must be"),
    (Criterion(kind="geometric_ensemble", bias=(1.0,)), POINT, "bias has 1 numbers, expected 2, one for each class"),
    ("vote", [("batch", 1), ("batch", 3)], "exit 'exit1': vote runs over all exits so far, and 'exit0' has 2 classes"),
    ("mean_ensemble", [("batch", 3, 4)], "mean_ensemble reads shape [batch,3,4], expected (batch, classes): state"),
    ("learned", VECTOR, "exit 'exit0': the criterion reads 'confidence'; its outputs are logits"),
    (Criterion(kind="learned", output="logits"), VECTOR, "learned reads shape [batch,3], expected one number a row"),
    (Criterion(kind="patience", tau=0.1), VECTOR, "patience reads shape [batch,3], expected one number a row"),
    (Criterion(kind="geometric_ensemble", weights=(1.0,)), TWO,
     "exit 'exit1': criterion: weights has 1 numbers, expected 2, one for each exit so far"),
    (Criterion(kind="geometric_ensemble", bias=(1.0,)), VECTOR, "bias has 1 numbers, expected 3, one for each class"),
    (Criterion(kind="all_of"), VECTOR, "exit 'exit0': criterion: all_of has 0 members"),
    (Criterion(kind="at_least", members=MEMBERS), VECTOR, "at_least has 3 members and n=None"),
    (Criterion(kind="at_least", n=4, members=MEMBERS), VECTOR, "at_least has 3 members and n=4"),
    (Criterion(kind="max_prob", tau=1.0), VECTOR, "exit 'exit0': criterion: max_prob has no option tau"),
    (Criterion(kind="max_prob", threshold=0.5), VECTOR, "criterion: threshold is for the members of all_of, any_of"),
    (Criterion(kind="max_prob", temperature=0.0), VECTOR, "temperature is 0.0, expected a positive number"),
    (Criterion(kind="max_prob", temperature=NAN), VECTOR, "temperature is nan, expected a positive number"),
    (Criterion(kind="geometric_ensemble", bias=(INF, 0.0, 0.0)), VECTOR, "expected finite numbers"),
    (Criterion(kind="geometric_ensemble", weights="w"), VECTOR, "weights is named by the export; leave it out"),
    (Criterion(kind="custom"), VECTOR, "criterion: function is None, not a torch function"),
    (Criterion(kind="custom", function="mine"), VECTOR, "criterion: function is 'mine', not a torch function"),
    (Criterion(kind="max_prob", quantile=1j), VECTOR, "is neither a number nor a function"),  # type: ignore[arg-type]
    (lambda z: z, VECTOR, "gave the shape [2, 3] for 2 rows, expected [2], one number a row"),
    (lambda z: z.sum(), VECTOR, "gave the shape [] for 2 rows"),
    (lambda z: 1.0, VECTOR, "returned float, expected a tensor"),
    (lambda z: z["logits"], VECTOR, "fails: "),
    (lambda z: torch.rand(len(z)), VECTOR, "draws random numbers"),
    (lambda z: z.amax(1) if z.sum() > 0 else z.amin(1), VECTOR, "torch cannot export"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "shapes", "message"), REFUSED, ids=[message[:40] for *_, message in REFUSED])
def test_a_criterion_that_cannot_be_computed_is_refused(
    spec: Any, shapes: list[Shape], message: str, tmp_path: Path
) -> None:
    network = network_of(tmp_path, [{"logits": shape} for shape in shapes])
    with pytest.raises(ExportError) as caught:
        add_confidences(network, choose_criteria(network.exits, spec))
    assert message in str(caught.value)


def test_vote_does_not_overwrite_an_output_called_label(tmp_path: Path) -> None:
    network = network_of(tmp_path, [{"logits": ("batch", 3), "label": ("batch", 3)}])
    with pytest.raises(ExportError, match="vote adds the output 'label', and the exit has one of that name"):
        choose_criteria(network.exits, "vote")


def test_class_scores_that_no_name_tells_are_refused(tmp_path: Path) -> None:
    network = network_of(
        tmp_path, [{"a": ("batch", 3), "b": ("batch", 3), "u": ("batch", 1)}, {"logits": ("batch", 3)}]
    )
    chosen = {"exit0": Criterion(kind="learned", output="u"), "exit1": "patience"}
    with pytest.raises(ExportError, match="of the outputs a, b, u none is called 'logits'"):
        add_confidences(network, choose_criteria(network.exits, chosen))


def test_a_first_exit_may_be_named() -> None:
    assert exits_before(["a", "b", "c"], "b") == ["a"]
    assert exits_before(["a", "b", "c"], None) == ()
    with pytest.raises(ExportError, match="min_exit is 'd'; the exits are a, b, c"):
        exits_before(["a", "b", "c"], "d")


@pytest.mark.parametrize(("kind", "threshold"), [
    ("max_prob", 0.9), ("entropy", 0.9), ("margin", 0.9), ("patience", 2), ("vote", 0.9), ("mean_ensemble", 0.9),
    ("geometric_ensemble", 0.9), ("learned", 0.9), ("custom", 0.9), ("all_of", 1),
])  # fmt: skip
def test_a_threshold_has_a_default(kind: str, threshold: float) -> None:
    assert default_threshold(Criterion(kind=kind)) == pytest.approx(threshold, abs=1e-7)  # type: ignore[arg-type]
