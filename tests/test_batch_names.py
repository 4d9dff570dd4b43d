"""The batch's name in a segment, which decides what onnxruntime fuses where the batch is one row."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import nn

import eetoolkit as ee
from eetoolkit_exporters.emitting.batch_names import loosen
from eetoolkit_exporters.emitting.graphs import read_model
from eetoolkit_exporters.single_file.single_file import write_single_file
from eetoolkit_runtime.running.sessions import SessionSettings

WIDTH = 16


class Layers(nn.Module):
    """Post-norm residual layers, an exit behind each."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(3)])
        self.mixes = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(3)])
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH) for _ in range(3)])
        self.heads = nn.ModuleList([nn.Linear(WIDTH, 4) for _ in range(3)])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = []
        for layer, mix, norm, head in zip(self.layers, self.mixes, self.norms, self.heads, strict=True):
            x = norm(x + mix(layer(x)))
            found.append(head(x.mean(1)))
        return tuple(found)


def cut(folder: Path) -> ee.Bundle:
    torch.manual_seed(0)
    return ee.export(Layers().eval(), torch.randn(2, 5, WIDTH), folder / "n.ee", threshold=2.0)


def batches(bundle: ee.Bundle, segment: str) -> set[str]:
    """Returns the names of the leading dimensions of a segment's inputs."""
    graph = onnx.load(bundle.path / str(bundle.manifest.segments[segment].model), load_external_data=False).graph
    shapes = [value.type.tensor_type.shape.dim for value in graph.input]
    return {dims[0].dim_param for dims in shapes if len(dims) > 1}


def fused(bundle: ee.Bundle, segment: str, folder: Path) -> Counter[str]:
    """Returns the operators of a segment as onnxruntime runs it for one row."""
    settings = SessionSettings(threads=1, one_row=True)

    def written(options: ort.SessionOptions) -> None:
        options.optimized_model_filepath = str(folder / "optimised.onnx")

    settings.open_segment(bundle, segment, written)
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx", load_external_data=False).graph.node)


def test_a_residual_that_enters_a_segment_is_fused_with_its_norm(tmp_path: Path) -> None:
    bundle = cut(tmp_path)
    assert batches(bundle, "segment0") == {"batch"}
    assert batches(bundle, "segment1") == {"eetoolkit_batch"}
    assert fused(bundle, "segment1", tmp_path)["SkipLayerNormalization"] == 1


@pytest.mark.parametrize(
    ("shape", "inputs", "expected"),
    [
        ("batch,4", [], "batch"),
        ("batch,length", [], "eetoolkit_batch"),
        ("batch,4", ["x", "h"], "batch"),
        ("batch,4", ["x"], "eetoolkit_batch"),
    ],
    ids=["all known but for it", "another is not", "of a network's input", "of another's"],
)
def test_the_name_stays_where_a_shape_can_be_worked_out(shape: str, inputs: list[str], expected: str) -> None:
    model = ir.from_onnx_text(f"""<ir_version: 10, opset_import: ["" : 20]>
        g (float[batch,4] x, float[{shape}] h) => (int64[2] s, float[batch,4] y)
        {{ s = Shape ({"x" if inputs == ["x"] else "h"}) y = Tanh (x) }}""")
    loosen(model, inputs)
    assert [str(dims[0]) for value in model.graph.inputs if (dims := value.shape) and value.name == "h"] == [expected]


def test_answers_are_the_networks_for_one_row_and_for_many(tmp_path: Path) -> None:
    bundle = cut(tmp_path)
    torch.manual_seed(0)
    network = Layers().eval()
    x = torch.randn(3, 5, WIDTH)
    with torch.inference_mode(), ee.Runner(bundle, threads=1) as runner:
        expected = network(x)[-1].numpy()
        for row, answer in enumerate(runner.run_batch(x.numpy())):
            np.testing.assert_allclose(answer.outputs["logits"][0], expected[row], atol=1e-5)
            alone = runner.run(x[row : row + 1].numpy())
            np.testing.assert_allclose(alone.outputs["logits"][0], expected[row], atol=1e-5)


def test_what_is_made_of_a_bundle_has_the_batch_by_its_own_name_or_as_one(tmp_path: Path) -> None:
    bundle = cut(tmp_path)
    model = read_model(bundle, str(bundle.manifest.segments["segment1"].model))
    assert "eetoolkit_batch" not in str(model.graph)
    text = str(onnx.load(write_single_file(bundle, tmp_path / "n.onnx")).graph)
    assert "eetoolkit_batch" not in text
    assert '"batch"' not in text
