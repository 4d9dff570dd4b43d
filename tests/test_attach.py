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


# Features of every layout.


class Signal(nn.Module):
    """Takes (batch, channels, steps), as networks for sound and sensors do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Sequential(nn.Conv1d(2, 6, 3, padding=1), nn.BatchNorm1d(6), nn.ReLU())
        self.head = nn.Linear(6, 3)

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(signal).amax(2))


class Tagger(nn.Module):
    """Takes tokens and their mask; answers once, or for every token."""

    def __init__(self, *, every: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.norm = nn.Embedding(9, 6), nn.LayerNorm(6)
        self.shared, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        self.every = every

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        tokens = self.norm(self.embed(input_ids))
        for _ in range(3):
            tokens = torch.tanh(self.shared(tokens))
        return self.head(tokens if self.every else tokens[:, 0])


class Steps(nn.Module):
    """Takes (steps, batch, width)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gru, self.head = nn.GRU(4, 6), nn.Linear(6, 3)

    def forward(self, steps: torch.Tensor) -> torch.Tensor:
        return self.head(self.gru(steps)[0][-1])


class Blocks(nn.Module):
    """A block that ends in a linear layer over channels last, and permutes them back, as ConvNeXt does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.block = Permuting()
        self.head = nn.Conv2d(5, 3, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = nn.functional.interpolate(self.head(self.block(image)), scale_factor=2.0)
        return found


class Permuting(nn.Module):
    """Halves the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Linear(4, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.linear(self.conv(image).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


IDS = torch.tensor([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8]])
MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])


def linear(model: nn.Module, features: torch.Tensor, head: int = 0) -> torch.Tensor:
    """Returns what a head's layer gives."""
    return model.heads[head].linear(features)


def test_channels_of_a_signal_come_first():
    model = ee.attach_exits(Signal().eval(), ["conv"], num_classes=3)
    signal = torch.rand(2, 2, 6)  # as many steps as channels
    found = model(signal)["conv"]
    torch.testing.assert_close(found, linear(model, model.backbone.conv(signal).mean(2)))


def test_channels_of_tokens_come_last():
    model = ee.attach_exits(Tagger().eval(), ["norm"], num_classes=3)
    found = model(IDS)["norm"]
    torch.testing.assert_close(found, linear(model, model.backbone.norm(model.backbone.embed(IDS)).mean(1)))


def test_steps_may_come_before_rows():
    model = ee.attach_exits(Steps().eval(), ["gru"], num_classes=3)
    steps = torch.rand(7, 2, 4)
    torch.testing.assert_close(model(steps)["gru"], linear(model, model.backbone.gru(steps)[0].mean(0)))


def test_a_permutation_behind_the_layer_is_seen():
    model = ee.attach_exits(Blocks().eval(), ["block"], num_classes=3)
    image = torch.rand(2, 1, 8, 6)
    found = model(image)["block"]
    assert found.shape == (2, 3, 8, 6)
    small = linear(model, model.backbone.block(image).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, nn.functional.interpolate(small, (8, 6), mode="bilinear"))


def test_the_mean_leaves_out_what_the_mask_leaves_out():
    model = ee.attach_exits(Tagger().eval(), ["norm"], num_classes=3)
    found = model(IDS, attention_mask=MASK)["norm"]
    tokens = model.backbone.norm(model.backbone.embed(IDS))
    expected = torch.stack([tokens[0, :3].mean(0), tokens[1].mean(0)])
    torch.testing.assert_close(found, linear(model, expected))
    torch.testing.assert_close(model(IDS, MASK)["norm"], found)  # by place as well


def test_a_backbone_that_answers_for_every_token_gets_such_heads():
    model = ee.attach_exits(Tagger(every=True), ["norm"], num_classes=3)
    labels = torch.zeros(2, 5, dtype=torch.long)
    history = ee.fit_exits(model, [((IDS, MASK), labels)], epochs=20, learning_rate=0.1)
    assert history[-1]["norm"] < history[0]["norm"] / 2
    found = model(IDS, MASK)
    assert found["norm"].shape == found["final"].shape == (2, 5, 3)
    torch.testing.assert_close(found["norm"], linear(model, model.backbone.norm(model.backbone.embed(IDS))))


def test_a_module_that_is_called_again_and_again_needs_a_number():
    with pytest.raises(ee.ExportError) as error:
        ee.attach_exits(Tagger().eval(), ["shared"], num_classes=3)(IDS)
    assert str(error.value) == ("the backbone calls shared 3 times: say after which call, 'shared:0' to 'shared:2'")
    with pytest.raises(ee.ExportError, match="shared:3: the backbone calls shared 3 times, counted from 0"):
        ee.attach_exits(Tagger().eval(), ["shared:3"], num_classes=3)(IDS)


def test_the_number_is_that_of_the_call():
    model = ee.attach_exits(Tagger().eval(), ["shared:0", "shared:1"], num_classes=3)
    found = model(IDS)
    tokens = model.backbone.shared(model.backbone.norm(model.backbone.embed(IDS)))
    torch.testing.assert_close(found["shared:0"], linear(model, tokens.mean(1)))
    torch.testing.assert_close(found["shared:1"], linear(model, model.backbone.shared(tokens.tanh()).mean(1), 1))


def test_an_answer_without_an_axis_of_the_classes_gets_a_word():
    model = ee.attach_exits(Tagger(every=True).eval(), ["norm"], num_classes=4)
    with pytest.raises(ee.ExportError) as error:
        model(IDS)
    assert str(error.value) == (
        "no head of ours fits 'norm': the backbone answers [2, 5, 3], where one axis must be 4 classes; give one of "
        "your own, attach_exits(backbone, {'norm': head})"
    )


def test_inputs_keep_the_backbones_names_and_the_mask_counts_on_the_device(tmp_path: Path):
    model = ee.attach_exits(Tagger().eval(), ["norm", "shared:1"], num_classes=3)
    ee.fit_exits(model, [((IDS, MASK), torch.tensor([0, 1]))])
    shapes = {"input_ids": {1: "length"}, "attention_mask": {1: "length"}}
    bundle = ee.export(model, (IDS, MASK), tmp_path / "a.ee", dynamic_shapes=shapes)
    assert [spec.name for spec in bundle.manifest.inputs] == ["input_ids", "attention_mask"]
    assert list(bundle.exits) == ["norm", "shared_1", "final"]
    ids, mask = IDS[:1, :4], MASK[:1, :4]
    with torch.no_grad():
        expected = model(ids, mask)
    with ee.Runner(bundle) as runner:
        for answer in runner.run_all_exits({"input_ids": ids.numpy(), "attention_mask": mask.numpy()}):
            theirs = bundle.manifest.titles.get(answer.exit, answer.exit)
            np.testing.assert_allclose(answer.outputs["logits"], expected[theirs], atol=1e-5)
