"""Convolutions kept in onnxruntime's blocked layout where a segment starts inside a residual network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

import eetoolkit as ee
from eetoolkit_exporters.emitting.graphs import read_model
from eetoolkit_exporters.emitting.layout import drop_blocked
from eetoolkit_exporters.single_file.single_file import write_single_file


class Residual(nn.Module):
    """Blocks of a width, an exit before the last `behind` of them."""

    def __init__(self, channels: int, behind: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.first = nn.ModuleList([nn.Conv2d(channels, channels, 3, padding=1) for _ in range(behind)])
        self.second = nn.ModuleList([nn.Conv2d(channels, channels, 3, padding=1) for _ in range(behind)])
        self.heads = nn.ModuleList([nn.Linear(channels, 4) for _ in range(2)])

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = torch.relu(self.stem(image))
        early = self.heads[0](x.mean((2, 3)))
        for first, second in zip(self.first, self.second, strict=True):
            x = torch.relu(x + second(torch.relu(first(x))))
        return early, self.heads[1](x.mean((2, 3)))


def cut(channels: int, behind: int, folder: Path) -> ee.Bundle:
    torch.manual_seed(0)
    return ee.export(Residual(channels, behind).eval(), torch.randn(1, 3, 6, 6), folder / "n.ee", threshold=2.0)


def identities(bundle: ee.Bundle) -> list[str]:
    model = bundle.manifest.segments["segment1"].model
    graph = onnx.load(bundle.path / str(model), load_external_data=False).graph
    return [node.op_type for node in graph.node if node.output[0].endswith("_blocked")]


@pytest.mark.parametrize(
    ("channels", "behind", "expected"),
    [(16, 1, ["AveragePool"]), (24, 2, ["Conv"]), (24, 1, []), (32, 2, ["AveragePool"]), (40, 2, ["Conv"])],
)
def test_an_identity_of_the_blocked_layout_stands_before_a_shortcut_where_it_costs_little(
    channels: int, behind: int, expected: list[str], tmp_path: Path
) -> None:
    bundle = cut(channels, behind, tmp_path)
    assert identities(bundle) == expected
    torch.manual_seed(0)
    network = Residual(channels, behind).eval()
    image = torch.randn(1, 3, 6, 6)
    with torch.inference_mode(), ee.Runner(bundle, threads=1) as runner:
        np.testing.assert_allclose(runner.run(image.numpy()).outputs["logits"], network(image)[1], atol=1e-5)


def test_it_costs_nothing_on_paper_and_is_gone_in_what_a_bundle_is_made_into(tmp_path: Path) -> None:
    bundle = cut(24, 2, tmp_path)
    segment = bundle.manifest.segments["segment1"]
    model = read_model(bundle, str(segment.model))
    assert segment.work is not None
    assert not [value.name for node in model.graph for value in node.outputs if str(value.name).endswith("_blocked")]
    assert segment.work.multiply_adds == 4 * 9 * 24**2 * 36 + 24 * 4
    file = onnx.load(write_single_file(bundle, tmp_path / "n.onnx"))
    assert "_blocked" not in str(file.graph)


def test_a_networks_own_convolution_is_not_taken_for_an_identity(tmp_path: Path) -> None:
    bundle = cut(24, 2, tmp_path)
    segment = bundle.manifest.segments["segment1"]
    model = onnx.load(bundle.path / str(segment.model))
    model.graph.node[0].name = "mine"
    onnx.save(model, tmp_path / "mine.onnx", save_as_external_data=False)
    renamed = ir.load(tmp_path / "mine.onnx")
    count = len(renamed.graph)
    drop_blocked(renamed)
    assert len(renamed.graph) == count
