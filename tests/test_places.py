"""Where exits can stand: the ends of blocks of whatever network, and why a network has none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import onnx_ir as ir
import pytest
import torch
import transformers as hf
from networks.files import perceptron
from torch import nn
from torch.nn import functional

import eetoolkit as ee
from eetoolkit_exporters.attaching.places import find_places
from eetoolkit_exporters.capturing.capture import Network, capture
from eetoolkit_exporters.capturing.cascade import open_source
from eetoolkit_runtime.arrays import Array

RNG = np.random.default_rng(0)
PIXELS = {"pixel_values": RNG.random((1, 3, 64, 64), np.float32)}
TOKENS = {"input_ids": np.arange(8)[None], "attention_mask": np.array([[1, 1, 1, 1, 1, 1, 0, 0]])}
IMAGE = torch.rand(1, 3, 16, 16)
ROW = torch.rand(1, 8)


def names(places: tuple[ee.Place, ...]) -> list[str]:
    return [place.name for place in places]


# Architectures of Hugging Face's transformers


def resnet() -> nn.Module:
    sizes = {"embedding_size": 8, "hidden_sizes": [16, 24, 32, 48], "depths": [2, 2, 2, 2]}
    return hf.ResNetForImageClassification(hf.ResNetConfig(**sizes, layer_type="basic", num_labels=5))


def mobilenet() -> nn.Module:
    return hf.MobileNetV2ForImageClassification(hf.MobileNetV2Config(image_size=64, depth_multiplier=0.35))


def convnext() -> nn.Module:
    sizes = {"hidden_sizes": [8, 16, 24, 32], "depths": [2, 2, 2, 2]}
    return hf.ConvNextForImageClassification(hf.ConvNextConfig(**sizes, num_labels=5))


def vit() -> nn.Module:
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    return hf.ViTForImageClassification(hf.ViTConfig(**sizes, image_size=64, patch_size=16, num_labels=5))


SMALL = {"vocab_size": 50, "max_position_embeddings": 32, "num_labels": 5}
TEXT = SMALL | {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}


def bert() -> nn.Module:
    return hf.BertForSequenceClassification(hf.BertConfig(**TEXT, num_hidden_layers=3))


def distilbert() -> nn.Module:
    return hf.DistilBertForSequenceClassification(
        hf.DistilBertConfig(**SMALL, dim=16, n_layers=3, n_heads=2, hidden_dim=32)
    )


def albert() -> nn.Module:
    return hf.AlbertForSequenceClassification(hf.AlbertConfig(**TEXT, embedding_size=8, num_hidden_layers=12))


GROUP = "albert.encoder.albert_layer_groups.0"
BLOCKS = {
    resnet: [
        "resnet.embedder",
        *("resnet.encoder.stages.0.layers.0", "resnet.encoder.stages.0"),
        *("resnet.encoder.stages.1.layers.0", "resnet.encoder.stages.1"),
        *("resnet.encoder.stages.2.layers.0", "resnet.encoder.stages.2"),
        *("resnet.encoder.stages.3.layers.0", "resnet.encoder"),
    ],
    mobilenet: ["mobilenet_v2.conv_stem", *(f"mobilenet_v2.layer.{n}" for n in range(16)), "mobilenet_v2.conv_1x1"],
    convnext: [
        "convnext.embeddings",
        *("convnext.encoder.stages.0.layers.0", "convnext.encoder.stages.0"),
        *("convnext.encoder.stages.1.layers.0", "convnext.encoder.stages.1"),
        *("convnext.encoder.stages.2.layers.0", "convnext.encoder.stages.2"),
        *("convnext.encoder.stages.3.layers.0", "convnext.encoder"),
    ],
    vit: ["vit.embeddings", "vit.layers.0", "vit.layers.1", "vit"],
    bert: ["bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1", "bert.encoder"],
    distilbert: [
        *("distilbert.embeddings", "distilbert.transformer.layer.0", "distilbert.transformer.layer.1", "distilbert")
    ],
    albert: ["albert.embeddings", *(f"{GROUP}:{visit}" for visit in range(11)), "albert.encoder"],
}  # fmt: skip
"""The ends of blocks; where the last block ends, a module around it ends as well, and has the name."""


@pytest.mark.parametrize("build", BLOCKS, ids=lambda build: build.__name__)
def test_every_end_of_a_block_is_a_place(build: Any) -> None:
    torch.manual_seed(0)
    image = build in (resnet, mobilenet, convnext, vit)
    places = ee.find_exits(build().eval(), PIXELS if image else TOKENS)
    found = names(places)
    assert [name for name in found if name in BLOCKS[build]] == BLOCKS[build]
    assert len(set(found)) == len(found)
    assert all(place.alone for place in places)
    shares = [place.share for place in places]
    assert shares == sorted(shares)
    assert shares[-1] < 1
    last = places[-1].shape
    assert last[places[-1].rows] == "batch"
    for place in places:
        assert isinstance(place.shape[place.channels], int)
        assert place.channels == (1 if build in (resnet, mobilenet, convnext) else 2)


def test_shared_layers_have_a_share_for_each_visit() -> None:
    torch.manual_seed(0)
    shares = {place.name: place.share for place in ee.find_exits(albert().eval(), TOKENS)}
    visits = [shares[f"{GROUP}:{visit}"] for visit in range(11)]
    np.testing.assert_allclose(np.diff(visits), np.diff(visits)[0], rtol=1e-6)
    assert shares["albert.embeddings"] == 0


# Networks of other forms


class Dense(nn.Module):
    """Two blocks of three layers, each of which reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first = nn.ModuleList(nn.Conv2d(8 + 4 * n, 4, 3, padding=1) for n in range(3))
        self.between = nn.Conv2d(20, 8, 1)
        self.second = nn.ModuleList(nn.Conv2d(8 + 4 * n, 4, 3, padding=1) for n in range(3))
        self.out = nn.Linear(20, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self._block(self.first, self.stem(x))
        x = self._block(self.second, functional.avg_pool2d(self.between(x), 2))
        return self.out(x.mean((2, 3)))

    def _block(self, layers: nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
        for layer in layers:
            x = torch.cat([x, functional.relu(layer(x))], 1)
        return x


def test_a_densenet_has_a_place_behind_every_layer() -> None:
    places = ee.find_exits(Dense().eval(), IMAGE)
    assert all(place.alone for place in places)
    assert [place.shape[1] for place in places] == [8, 12, 16, 20, 8, 12, 16, 20]
    assert places[0].name == "stem"
    assert [place.name for place in places if place.shape[1] == 12] == ["cat", "cat_3"]


class UNet(nn.Module):
    """An encoder whose every level is read again by the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.down3 = self._pair(3, 8), self._pair(8, 16), self._pair(16, 32)
        self.middle = self._pair(32, 32)
        self.up3, self.up2, self.up1 = self._pair(64, 16), self._pair(32, 8), self._pair(16, 8)
        self.out = nn.Conv2d(8, 2, 1)

    @staticmethod
    def _pair(before: int, after: int) -> nn.Sequential:
        return nn.Sequential(
            *(nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.Conv2d(after, after, 3, padding=1), nn.ReLU())
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.down1(x)
        b = self.down2(functional.max_pool2d(a, 2))
        c = self.down3(functional.max_pool2d(b, 2))
        x = self.middle(functional.max_pool2d(c, 2))
        for skipped, level in ((c, self.up3), (b, self.up2), (a, self.up1)):
            x = level(torch.cat([functional.interpolate(x, scale_factor=2.0), skipped], 1))
        return self.out(x)


def test_in_a_unet_ends_of_modules_are_places_beside_which_others_are_alive() -> None:
    alone = {place.name: place.alone for place in ee.find_exits(UNet().eval(), torch.rand(1, 3, 32, 32))}
    assert alone == {
        "down1.1": True, "down1": True, "down2": False, "down3": False, "middle": False, "up3": False, "up2": False,
        "up1.1": True, "up1": True,
    }  # fmt: skip


class Streams(nn.Module):
    """Two streams that meet at the end."""

    def __init__(self, *, stem: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 1) if stem else nn.Identity()
        self.left, self.right = (nn.Sequential(*self._layers(), nn.Flatten()) for _ in range(2))
        self.out = nn.Linear(16, 5)

    @staticmethod
    def _layers() -> list[nn.Module]:
        return [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.out(torch.cat([self.left(x), self.right(x)], 1))


def test_a_network_of_two_streams_says_that_it_has_no_place() -> None:
    with pytest.raises(ee.ExportError) as caught:
        ee.find_exits(Streams(stem=False).eval(), IMAGE)
    assert str(caught.value) == (
        "the network has no place for an exit: halfway 'left.4' and 'right.0' are both needed, and no value leads to "
        "all that follows (two streams that meet at the end?); mark an exit that reads what you choose: ee.exit"
    )


def test_what_two_streams_have_in_common_is_a_place() -> None:
    assert names(ee.find_exits(Streams(stem=True).eval(), IMAGE)) == ["stem"]


class Recurrent(nn.Module):
    """A GRU on frames behind a convolution over time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 3, padding=1)
        self.gru = nn.GRU(8, 12, num_layers=2, batch_first=True)
        self.out = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states, _ = self.gru(functional.relu(self.conv(x)).transpose(1, 2))
        return self.out(states[:, -1])


def test_recurrent_layers_are_places_with_their_rows_and_channels() -> None:
    places = ee.find_exits(Recurrent().eval(), torch.rand(1, 4, 10))
    assert [(place.shape, place.rows, place.channels) for place in places] == [
        (("batch", 10, 8), 0, 2), ((10, "batch", 12), 1, 2), (("batch", 10, 12), 0, 2),
    ]  # fmt: skip
    assert places[-1].name == "gru"
