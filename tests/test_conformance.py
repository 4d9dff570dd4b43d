"""The committed cases, which every runner of any language must answer; here Python's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from case_runner import answer_case, unlike
from portable import faults

import conformance
import eetoolkit as ee
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.files.tensorfile import read_tensors
from eetoolkit_runtime.plan.types import Criterion
from eetoolkit_runtime.running.interpret import interpret, visit_exits

FOLDER = Path(__file__).parents[1] / "runtime" / "conformance"
CASES = sorted(path.parent for path in FOLDER.glob("cases/*/case.json"))


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: folder.name)
def test_the_runner_answers_as_the_case_says(folder: Path) -> None:
    found = answer_case(folder)
    assert (found.failures, found.ties) == ([], 0)
    assert found.runs > 0


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: folder.name)
def test_graphs_hold_nothing_that_another_machine_cannot_take(folder: Path) -> None:
    assert faults(ee.load(folder / "bundle")) == []


def test_the_cases_show_what_a_plan_can_hold() -> None:
    names = {folder.name for folder in CASES}
    kinds = set(Criterion.__annotations__["kind"].__args__) - {"custom", "learned"}
    assert {f"criterion_{kind}" for kind in kinds} <= names
    answered = {folder.name: set() for folder in CASES}
    for folder in CASES:
        for run in msgspec.json.decode((folder / "case.json").read_bytes())["runs"]:
            answered[folder.name].add(run["answer"]["exit"] if "error" not in run else "error")
    assert {name for name in names if name.startswith("criterion") and len(answered[name]) < 2} == set()
    assert all("error" in answered[name] for name in ("switch", "switch_int32", "loop", "start_in_a_loop"))


QUANTISED = ("int8_static", "int8_slots", "int8_blockwise", "int8_dynamic", "float16_weights")


@pytest.mark.parametrize("name", QUANTISED)
def test_exits_of_quantised_cases_do_not_hang_by_a_rounding(name: str) -> None:
    folder = conformance.HERE / conformance.CASES / name
    tensors, _ = read_tensors((folder / "tensors.safetensors").read_bytes())
    limits = {name: exit_.threshold for name, exit_ in ee.load(folder / "bundle").exits.items()}
    runs = msgspec.json.decode((folder / "case.json").read_bytes())["runs"]
    assert {run["answer"]["exit"] for run in runs} == set(limits)
    for visit in (visit for run in runs for visit in run["visits"] if limits[visit["exit"]] != "always"):
        assert abs(tensors[visit["confidence"]].item() - limits[visit["exit"]]) > 1e-2


def plainly(bundle: ee.Bundle) -> Callable[[str, dict[str, Array]], dict[str, Array]]:
    """Returns what runs a bundle's graphs for an interpreter as they stand: nothing fused, blockwise products float."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    sessions: dict[str, ort.InferenceSession] = {}
    for name, segment in bundle.manifest.segments.items():
        model = onnx.load(bundle.path / str(segment.model))
        for attribute in (attribute for node in model.graph.node for attribute in node.attribute):
            if attribute.name == "accuracy_level":
                attribute.i = 1  # float32, as on processors for which there is no kernel of integers
        sessions[name] = ort.InferenceSession(model.SerializeToString(), options)

    def run(name: str, feeds: dict[str, Array]) -> dict[str, Array]:
        names = [value.name for value in sessions[name].get_outputs()]
        return dict(zip(names, sessions[name].run(names, feeds), strict=True))

    return run


@pytest.mark.parametrize("name", QUANTISED)
def test_quantised_cases_are_answered_without_kernels_for_integers_too(name: str) -> None:
    folder = conformance.HERE / conformance.CASES / name
    case = msgspec.json.decode((folder / "case.json").read_bytes())
    tensors, _ = read_tensors((folder / "tensors.safetensors").read_bytes())
    bundle = ee.load(folder / "bundle")
    graphs = plainly(bundle)
    for run in case["runs"]:
        inputs = {name: tensors[tensor] for name, tensor in run["inputs"].items()}
        answers = [*visit_exits(bundle.manifest, inputs, graphs), interpret(bundle.manifest, inputs, graphs)]
        for answer, expected in zip(answers, [*run["visits"], run["answer"]], strict=True):
            assert unlike(answer, expected, tensors, case["tolerance"]) is None


@pytest.mark.parametrize("name", ["int8_static", "int8_slots", "int8_dynamic"])
def test_no_sum_of_two_products_exceeds_16_bits(name: str) -> None:
    bundle = ee.load(conformance.HERE / conformance.CASES / name / "bundle")
    highest = 0
    for segment in bundle.manifest.segments.values():
        graph = onnx.load(bundle.path / str(segment.model)).graph
        tables = {node.input[0] for node in graph.node if node.op_type == "Gather"}
        for tensor in graph.initializer:
            if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1 and tensor.name not in tables:
                highest = max(highest, int(np.abs(onnx.numpy_helper.to_array(tensor).astype(np.int32)).max()))
    assert 0 < 2 * 255 * highest < 2**15


def test_what_differs_is_noticed(tmp_path: Path) -> None:
    for side in ("made", "kept"):
        (tmp_path / side / "chain").mkdir(parents=True)
        conformance.write(conformance.cases()["chain"], tmp_path / side / "chain")
    assert list(conformance.differences(tmp_path / "made", tmp_path / "kept")) == []
    (tmp_path / "kept" / "chain" / "case.json").write_text("{}")
    (tmp_path / "kept" / "chain" / "more.json").write_text("{}")
    assert list(conformance.differences(tmp_path / "made", tmp_path / "kept")) == ["chain/case.json", "chain/more.json"]
