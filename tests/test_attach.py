"""Exits attached to a trained backbone, and their training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import eetoolkit as ee


class Backbone(nn.Module):
    """A single-exit network with BatchNorm, whose code knows nothing of exits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer1 = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(16, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.layer2(self.layer1(image))
        return self.head(features.mean((2, 3)))


@pytest.fixture
def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    digits = load_digits()
    images = torch.from_numpy(digits.images[:512, None].astype(np.float32) / 16)
    labels = torch.from_numpy(digits.target[:512])
    return list(zip(images.split(64), labels.split(64), strict=True))


def test_fitting_trains_the_heads_and_changes_nothing_of_the_backbone(batches):
    backbone = Backbone()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    model = ee.attach_exits(backbone, ["layer1", "layer2"], num_classes=10)
    history = ee.fit_exits(model, batches, epochs=8, learning_rate=0.02)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert history[-1]["layer1"] < history[0]["layer1"]
    assert history[-1]["layer2"] < history[0]["layer2"]
    assert not any(part.training for part in model.modules())


def test_an_attached_backbone_exports_and_agrees_with_eager_pytorch_at_every_exit(batches, tmp_path: Path):
    model = ee.attach_exits(Backbone().eval(), ["layer1", "layer2"], num_classes=10)
    ee.fit_exits(model, batches)
    images = batches[0][0]
    bundle = ee.export(model, images[:1], tmp_path / "attached.ee", golden_inputs=images[:4])
    assert list(bundle.exits) == ["layer1", "layer2", "final"]
    with ee.Runner(bundle) as runner, torch.no_grad():
        for row in range(16):
            expected = model(images[row : row + 1])
            for answer in runner.run_all_exits(images[row : row + 1].numpy()):
                np.testing.assert_allclose(answer.outputs["logits"], expected[answer.exit], atol=1e-5)


def test_own_heads_are_used_as_they_are():
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    model = ee.attach_exits(Backbone().eval(), {"layer1": head}).eval()
    image = torch.ones(1, 1, 8, 8)
    assert torch.equal(model(image)["layer1"], head(model.backbone.layer1(image)))


def test_a_head_can_stand_at_a_nested_path():
    model = ee.attach_exits(Backbone().eval(), ["layer1.0"], num_classes=10)
    assert model(torch.ones(2, 1, 8, 8))["layer1.0"].shape == (2, 10)


@pytest.mark.parametrize(
    ("heads", "num_classes", "message"),
    [
        (["laeyr1"], 10, "; did you mean 'layer1'?"),
        (["layer9"], 10, "the backbone has no module 'layer9'; it has layer1"),
        (["layer1"], None, "num_classes is None, expected at least 2: the heads need their width"),
        ([], 10, "heads is [], expected module paths, or a mapping from paths to heads"),
        ("layer1", 10, "heads is 'layer1', expected module paths, or a mapping from paths to heads"),
        (["layer1", "layer1"], 10, "a path stands twice in ['layer1', 'layer1']"),
    ],
)
def test_wrong_heads_are_refused_in_one_line(heads, num_classes, message):
    with pytest.raises(ee.ExportError) as error:
        ee.attach_exits(Backbone(), heads, num_classes=num_classes)
    assert message in str(error.value)


def test_a_module_that_the_backbone_never_calls_is_named():
    model = ee.attach_exits(Backbone().eval(), ["unused"], num_classes=10)
    with pytest.raises(ee.ExportError, match="the backbone did not call unused for this input"):
        model(torch.ones(1, 1, 8, 8))


def test_heads_that_were_never_trained_are_refused_at_export(tmp_path: Path):
    model = ee.attach_exits(Backbone().eval(), ["layer1"], num_classes=10)
    with pytest.raises(ee.ExportError, match=r"have no values yet: train them first \(ee.fit_exits\)"):
        ee.export(model, torch.ones(1, 1, 8, 8), tmp_path / "x.ee")


def test_batches_that_run_dry_are_named(batches):
    model = ee.attach_exits(Backbone(), ["layer1"], num_classes=10)
    with pytest.raises(ee.ExportError, match="batches is empty in epoch 2: pass a list or a DataLoader"):
        ee.fit_exits(model, iter(batches[:1]), epochs=2)


def test_fitting_takes_only_an_attached_model(batches):
    with pytest.raises(ee.ExportError, match="fit_exits takes what attach_exits returned, got Backbone"):
        ee.fit_exits(Backbone(), batches)


def test_labels_beyond_the_classes_are_refused(batches):
    model = ee.attach_exits(Backbone(), ["layer1"], num_classes=7)
    with pytest.raises(ee.ExportError, match=r"the loss of heads of shape .*\(64, 7\).* fails on labels \("):
        ee.fit_exits(model, batches)
