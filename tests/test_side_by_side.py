"""Stages of a cascade that call their dimensions otherwise, fix some, or read different inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import eetoolkit as ee
from eetoolkit_runtime.plan.types import Limit

X = np.random.default_rng(0).standard_normal((1, 5, 4)).astype(np.float32)


def file(folder: Path, name: str, dims: list[Any], inputs: tuple[str, ...] = ("x",)) -> Path:
    """Writes a file that gives y, (rows, 3), of the sum of its inputs."""
    nodes = [helper.make_node("Sum", list(inputs), ["s"])]
    nodes += [helper.make_node("ReduceMean", ["s"], ["m"], axes=[1], keepdims=0)]
    graph = helper.make_graph(
        [*nodes, helper.make_node("MatMul", ["m", "w"], ["y"])],
        "network",
        [helper.make_tensor_value_info(each, TensorProto.FLOAT, dims) for each in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [dims[0], 3])],
        [numpy_helper.from_array(np.eye(4, 3, dtype=np.float32), "w")],
    )
    path = folder / f"{name}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


class Mean(nn.Module):
    """Reads a sequence of any length."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns (rows, width)."""
        return x.mean(1)


class Masked(nn.Module):
    """Reads one input more."""

    def forward(self, x: Tensor, *, mask: Tensor) -> Tensor:
        """Returns (rows, width)."""
        return (x * mask).mean(1)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (["N", "seq", 4], ["batch", "length", 4], ("batch", "seq", 4)),
        (["N", "seq", 4], ["M", "?", 4], ("batch", "seq", 4)),
        (["N", "seq", 4], ["N", 5, 4], ("batch", 5, 4)),
        (["N", 5, 4], ["N", "seq", 4], ("batch", 5, 4)),
        ([1, "seq", 4], ["N", "seq", 4], (1, "seq", 4)),
    ],
    ids=str,
)
def test_dimensions_are_shared_by_place(
    first: list[Any], second: list[Any], expected: tuple[Any, ...], tmp_path: Path
) -> None:
    stages = [file(tmp_path, "one", first), file(tmp_path, "two", second)]
    bundle = ee.export(stages, X, tmp_path / "c.ee")
    assert bundle.manifest.inputs[0].shape == expected
    assert ee.verify(bundle, stages).failures == ()


def test_sizes_that_two_stages_fix_differently_are_refused(tmp_path: Path) -> None:
    stages = [file(tmp_path, "one", ["N", 5, 4]), file(tmp_path, "two", ["N", 6, 4])]
    with pytest.raises(ee.ExportError, match=r"stage 1"):
        ee.export(stages, X, tmp_path / "c.ee")


def test_dynamic_shapes_are_for_the_stages_of_torch(tmp_path: Path) -> None:
    stages = [Mean().eval(), file(tmp_path, "two", ["N", "seq", 4])]
    shapes = {"x": {1: torch.export.Dim("steps", max=9)}}
    bundle = ee.export(stages, X, tmp_path / "c.ee", dynamic_shapes=shapes)
    assert bundle.manifest.inputs[0].shape == ("batch", "steps", 4)
    assert bundle.manifest.limits == {"steps": Limit(max=9)}
    longer = np.concatenate([X, X[:, :2]], 1)
    with ee.Runner(bundle) as runner:
        found = runner.run(longer, exit_at="exit1").outputs["logits"]
    np.testing.assert_allclose(found, longer.mean(1) @ np.eye(4, 3, dtype=np.float32), atol=1e-6)


def test_dynamic_shapes_for_files_alone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ee.ExportError, match="dynamic_shapes is for torch networks"):
        ee.export([file(tmp_path, "one", ["N", 5, 4])] * 2, X, tmp_path / "c.ee", dynamic_shapes={"x": {1: "t"}})


def test_each_stage_takes_the_inputs_that_it_names(tmp_path: Path) -> None:
    mask = (X > 0).astype(np.float32)
    stages = [Mean().eval(), Masked().eval(), file(tmp_path, "three", ["N", "seq", 4], ("mask", "more"))]
    inputs = {"x": X, "mask": mask, "more": 2 * X}
    bundle = ee.export(stages, inputs, tmp_path / "c.ee", dynamic_shapes={"x": {1: "t"}, "mask": {1: "t"}})
    assert {spec.name: spec.shape for spec in bundle.manifest.inputs} == {
        "x": ("batch", "t", 4), "mask": ("batch", "t", 4), "more": ("batch", "t", 4),
    }  # fmt: skip
    with ee.Runner(bundle) as runner:
        answers = [runner.run(inputs, exit_at=f"exit{number}").outputs["logits"] for number in range(3)]
    np.testing.assert_allclose(answers[0], X.mean(1), atol=1e-6)
    np.testing.assert_allclose(answers[1], (X * mask).mean(1), atol=1e-6)
    np.testing.assert_allclose(answers[2], (mask + 2 * X).mean(1) @ np.eye(4, 3), atol=1e-6)


def test_a_stage_that_takes_fewer_inputs_by_place_is_told_to_name_them(tmp_path: Path) -> None:
    with pytest.raises(ee.ExportError) as caught:
        ee.export([Mean().eval(), Masked().eval()], (X, X), tmp_path / "c.ee")
    assert str(caught.value) == (
        "stage 0 of the cascade: it takes x, got 2 inputs; where stages read different ones pass example_inputs by "
        "name: {'x': ..., ...}"
    )
