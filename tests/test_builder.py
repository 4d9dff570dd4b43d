"""What the builder says of its nodes' dtypes and shapes, against onnx's own inference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
from networks.judged import Shape, network_of

from eetoolkit_exporters.criteria import builder
from eetoolkit_exporters.criteria.confidences import add_confidences
from eetoolkit_exporters.criteria.resolve import choose_criteria
from eetoolkit_exporters.emitting.graphs import whole_model
from eetoolkit_runtime.plan.types import Criterion

Dims = list[int | str | None]

MEMBERS = (Criterion(kind="margin", threshold=0.1), Criterion(kind="patience"))
CHAINED = ["patience", "vote", "mean_ensemble", "geometric_ensemble", Criterion(kind="all_of", members=MEMBERS)]
ALONE = [
    Criterion(kind=kind, scale=scale)
    for kind in ("max_prob", "entropy", "margin")
    for scale in ("logits", "log_probs", "probs")
]
DENSE = [Criterion(kind=kind, quantile=quantile) for kind in ("max_prob", "margin") for quantile in (None, 0.2)]
CASES: list[tuple[Any, Shape]] = [
    *((spec, shape) for spec in (*ALONE, *CHAINED) for shape in (("batch", 5), ("batch", 1), ("batch",))),
    *((spec, ("batch", 4, "height", 3)) for spec in DENSE),
    (Criterion(kind="patience", tau=0.5), ("batch", 1)),
    (Criterion(kind="learned", output="logits", invert=True), ("batch", 1)),
]


def disagreements(spec: Any, shape: Shape, opset: int, dtype: str, folder: Path) -> tuple[list[str], int]:
    """Returns where builder and onnx differ on the values of three exits, and how many dimensions both know."""
    network = network_of(folder, [{"logits": shape}] * 3, opset, dtype)
    add_confidences(network, choose_criteria(network.exits, spec))
    model = ir.to_proto(whole_model(network))
    said = types_of(model)
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = types_of(onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True))
    wrong, known = [], 0
    for name, (kind, dims) in said.items():
        other_kind, others = inferred[name]
        if kind != other_kind or (dims is not None and others is not None and len(dims) != len(others)):
            wrong.append(f"{name}: {kind}{dims}, inferred {other_kind}{others}")
            continue
        pairs = [pair for pair in zip(dims or [], others or [], strict=False) if None not in pair]
        known += len(pairs)
        wrong += [f"{name}: {dims}, inferred {others}" for mine, other in pairs if mine != other]
    return wrong, known


def types_of(model: onnx.ModelProto) -> dict[str, tuple[int, Dims | None]]:
    """Returns the dtype of what every node makes, and its dimensions where they are known."""
    made = {name for node in model.graph.node for name in node.output}
    found: dict[str, tuple[int, Dims | None]] = {}
    for value in (each for each in (*model.graph.value_info, *model.graph.output) if each.name in made):
        tensor = value.type.tensor_type
        dims: Dims | None = None
        if tensor.HasField("shape"):
            named = [dim.dim_param if not dim.dim_param.startswith("unk__") else "" for dim in tensor.shape.dim]
            dims = [dim.dim_value or name or None for dim, name in zip(tensor.shape.dim, named, strict=True)]
        found[value.name] = tensor.elem_type, dims
    return found


@pytest.mark.parametrize("opset", [13, 20])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_dtypes_and_shapes_are_those_that_onnx_infers(dtype: str, opset: int, tmp_path: Path) -> None:
    for spec, shape in CASES:
        wrong, known = disagreements(spec, shape, opset, dtype, tmp_path)
        assert wrong == [], (spec, shape)
        assert known >= 3, (spec, shape)


def test_that_comparison_would_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "_broadcast", lambda inputs: inputs[0].shape)
    assert disagreements("vote", ("batch", 5), 20, "float32", tmp_path)[0]
    monkeypatch.undo()
    monkeypatch.setattr(builder, "_BOOLEAN", frozenset())
    assert disagreements("patience", ("batch", 5), 20, "float32", tmp_path)[0]
