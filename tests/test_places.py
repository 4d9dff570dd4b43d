"""Where exits can stand: the ends of blocks of whatever network, and why a network has none."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
import transformers as hf
from networks.files import perceptron
from torch import nn
from torch._higher_order_ops.while_loop import while_loop
from torch.nn import functional

import eetoolkit as ee
from eetoolkit_exporters.attaching.places import find_places
from eetoolkit_exporters.capturing.capture import Network, capture
from eetoolkit_exporters.capturing.cascade import open_source

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
    return hf.AlbertForSequenceClassification(hf.AlbertConfig(**TEXT, embedding_size=8, num_hidden_layers=5))


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
    albert: ["albert.embeddings", *(f"{GROUP}:{visit}" for visit in range(4)), "albert.encoder"],
}  # fmt: skip
"""The ends of blocks; where the last block ends, a module around it ends as well, and has the name."""


IMAGES = (resnet, mobilenet, convnext, vit)


@functools.cache
def captured(build: Callable[[], nn.Module]) -> tuple[Network, tuple[ee.Place, ...]]:
    torch.manual_seed(0)
    source = open_source(build().eval(), PIXELS if build in IMAGES else TOKENS)
    network = capture(source, source.exits)
    return network, find_places(network, source.inputs)


@pytest.mark.parametrize("build", BLOCKS, ids=lambda build: build.__name__)
def test_every_end_of_a_block_is_a_place(build: Callable[[], nn.Module]) -> None:
    _, places = captured(build)
    found = names(places)
    assert [name for name in found if name in BLOCKS[build]] == BLOCKS[build]
    assert len(set(found)) == len(found)
    assert all(place.alone for place in places)
    shares = [place.share for place in places]
    assert shares == sorted(shares)
    assert shares[-1] < 1
    for place in places:
        assert (place.rows, place.channels) == (0, 2 if len(place.shape) == 3 else 1)
        assert place.shape[0] == "batch"
        assert isinstance(place.shape[place.channels], int)


def test_a_shared_layer_has_the_same_work_at_each_visit() -> None:
    shares = {place.name: place.share for place in captured(albert)[1]}
    visits = [shares[f"{GROUP}:{visit}"] for visit in range(4)] + [shares["albert.encoder"]]
    np.testing.assert_allclose(np.diff(visits), np.diff(visits)[0], rtol=1e-6)
    assert shares["albert.embeddings"] == 0


@pytest.mark.parametrize("build", [resnet, bert], ids=lambda build: build.__name__)
def test_behind_a_place_nothing_else_is_read_that_depends_on_the_inputs_and_weights(
    build: Callable[[], nn.Module],
) -> None:
    network, places = captured(build)
    model = ir.to_proto(ir.Model(network.graph, ir_version=10))
    example = PIXELS if build in IMAGES else TOKENS
    other = {name: array if name == "attention_mask" else array[..., ::-1].copy() for name, array in example.items()}
    output = model.graph.output[0].name
    (answer,) = session(model).run([output], example)
    assert np.abs(session(model).run([output], other)[0] - answer).max() > 1e-4
    for place in places:
        first, second = onnx.ModelProto.FromString(model.SerializeToString()), model
        first.graph.output.append(onnx.helper.make_tensor_value_info(place.value, onnx.TensorProto.FLOAT, None))
        (value,) = session(first).run([place.value], example)
        second = onnx.ModelProto.FromString(model.SerializeToString())
        for node in second.graph.node:
            node.output[:] = [f"{name}_made" if name == place.value else name for name in node.output]
        second.graph.input.append(onnx.helper.make_tensor_value_info(place.value, onnx.TensorProto.FLOAT, value.shape))
        (found,) = session(second).run([output], other | {place.value: value})
        np.testing.assert_allclose(found, answer, atol=1e-5)


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


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
        "down1.1": True, "down1": True, "down2": False, "down3": False, "middle": False, "up3": False, "cat_2": True,
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
        "the network has no place for an exit: halfway 'left' and 'right.0' are both needed, and no value leads to "
        "all that follows (two streams that meet at the end?); mark an exit that reads what you choose with ee.exit"
    )


def test_what_comes_before_two_streams_and_behind_them_is_a_place() -> None:
    assert names(ee.find_exits(Streams(stem=True).eval(), IMAGE)) == ["stem", "cat"]


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
        (("batch", 8, 10), 0, 1), ((10, "batch", 1, 12), 1, 3), (("batch", 10, 12), 0, 2),
    ]  # fmt: skip
    assert [places[0].name, places[2].name] == ["relu", "gru"]


def test_rows_are_followed_where_they_do_not_come_first() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32), 2, enable_nested_tensor=False)
    places = ee.find_exits(encoder.eval(), torch.rand(6, 1, 16), dynamic_shapes={"src": {1: "batch"}})
    (place,) = [place for place in places if place.name == "layers.0"]
    assert (place.shape, place.rows, place.channels) == ((6, "batch", 16), 1, 2)


def test_products_without_weights_whose_size_is_unknown_do_not_change_how_shares_are_counted() -> None:
    model = hf.BertForSequenceClassification(hf.BertConfig(**TEXT, num_hidden_layers=1)).eval()
    places = ee.find_exits(model, TOKENS, dynamic_shapes={name: {1: "steps"} for name in TOKENS})
    shares = {place.name: place.share for place in places}
    assert shares["bert.embeddings"] == 0
    projections, feed_forward, products, behind = 8 * 4 * 16 * 16, 8 * 2 * 16 * 32, 2 * 8 * 8 * 16, 16 * 16 + 16 * 5
    least = projections / (projections + feed_forward + behind)
    most = (projections + products) / (projections + products + feed_forward + behind)
    assert least <= shares["bert.encoder.layer.0.attention"] <= most


class Functional(nn.Module):
    """Residual steps of matrices, without a module inside; a mask from an input goes to each."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(8, 8)) for _ in range(4))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        kept = (1 - mask.float()[:, :, None]) * -1e4
        for weight in self.weights:
            x = x + functional.gelu(functional.layer_norm(x, (8,)) @ weight + kept)
        return x


def test_a_network_without_modules_has_places_and_masks_do_not_count_as_alive() -> None:
    places = ee.find_exits(Functional().eval(), (torch.rand(1, 5, 8), torch.ones(1, 5, dtype=torch.int64)))
    assert [(place.share, place.alone) for place in places] == [(0.25, True), (0.5, True), (0.75, True)]
    assert all(place.name == place.value and place.name.startswith("add_") for place in places)


def test_group_normalisation_keeps_the_axis_of_channels() -> None:
    steps = [step for _ in range(3) for step in (nn.Conv2d(8, 8, 3), nn.GroupNorm(2, 8), nn.ReLU())]
    places = ee.find_exits(nn.Sequential(*steps, nn.Flatten(), nn.Linear(800, 3)).eval(), torch.rand(1, 8, 16, 16))
    assert [(place.name, place.channels) for place in places] == [("2", 1), ("5", 1), ("8", 1)]


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4)).eval()


def test_a_sequential_has_a_place_behind_every_activation_with_its_share_of_multiply_adds() -> None:
    places = ee.find_exits(chain(), ROW)
    whole = 8 * 16 + 16 * 16 + 16 * 4
    assert places == (
        ee.Place("1", "relu", 8 * 16 / whole, ("batch", 16), channels=1, rows=0, alone=True),
        ee.Place("3", "tanh", (8 * 16 + 16 * 16) / whole, ("batch", 16), channels=1, rows=0, alone=True),
    )
    assert str(places[0]) == "Place('1', 28.6% of the work, [batch, 16])"


def test_without_a_dynamic_batch_the_rows_lie_where_the_example_has_one() -> None:
    places = ee.find_exits(chain(), ROW, dynamic_batch=False)
    assert [(place.shape, place.rows, place.channels) for place in places] == [((1, 16), 0, 1)] * 2


class Modules(nn.Module):
    """The same block thrice, then what two exits read."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.early, self.last = nn.Linear(8, 100), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        once = self.block(x)
        return {"early": self.early(once), "last": self.last(self.block(self.block(once)))}


def test_of_several_outputs_the_last_counts_and_what_it_needs() -> None:
    shares = {place.name: place.share for place in ee.find_exits(Modules().eval(), ROW)}
    assert shares == {"block:0": 0.25, "block:1": 0.5, "block:2": 0.75}


# Files


def test_a_file_of_scikit_learn_has_the_hidden_layer(tmp_path: Path) -> None:
    (place,) = ee.find_exits(perceptron(tmp_path))
    assert (place.name, place.shape[1], place.alone) == ("next_activations", 16, True)
    assert place.share == 64 / (64 + 10)


def test_names_of_a_file_lose_what_exporters_put_around_them(tmp_path: Path) -> None:
    weights = [np.random.default_rng(n).standard_normal((4, 4)).astype(np.float32) for n in range(2)]
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w0"], ["/fc1/MatMul_output_0"]),
        onnx.helper.make_node("Relu", ["/fc1/MatMul_output_0"], ["/act/Relu_output_0"]),
        onnx.helper.make_node("MatMul", ["/act/Relu_output_0", "w1"], ["logits"]),
    ]
    x, logits = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 4]) for name in ("x", "logits"))
    initializers = [onnx.numpy_helper.from_array(weight, f"w{n}") for n, weight in enumerate(weights)]
    graph = onnx.helper.make_graph(nodes, "network", [x], [logits], initializers)
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    assert names(ee.find_exits(tmp_path / "m.onnx")) == ["act/Relu"]


class Looped(nn.Module):
    """A loop of one layer, whose steps no static count knows, between two others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()

        def step(i: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return i + 1, self.inner(x).tanh()

        _, x = while_loop(lambda i, x: i < x.abs().sum(), step, (torch.tensor(0), x))
        return self.out(x.sin())


def test_where_multiply_adds_are_unknown_operators_with_weights_are_counted() -> None:
    places = ee.find_exits(Looped().eval(), ROW)
    assert [(place.name, place.share) for place in places] == [("relu", 1 / 3), ("sin", 2 / 3)]


# What has no place


def test_one_layer_is_one_step() -> None:
    with pytest.raises(ee.ExportError) as caught:
        ee.find_exits(nn.Linear(8, 3).eval(), ROW)
    assert str(caught.value) == "the network has no place for an exit: all its work is one step, 'linear'"


def test_without_weights_there_is_nothing_to_save() -> None:
    with pytest.raises(ee.ExportError, match="it multiplies nothing that depends on its inputs with weights"):
        ee.find_exits(nn.Sequential(nn.ReLU(), nn.Flatten()).eval(), ROW)


def test_a_network_whose_work_is_all_in_its_first_layer_says_so() -> None:
    with pytest.raises(ee.ExportError, match="nearly all its work comes before the first, '1'"):
        ee.find_exits(nn.Sequential(nn.Linear(8, 4000), nn.AdaptiveAvgPool1d(8), nn.Linear(8, 3)).eval(), ROW)


def test_a_cascade_is_refused() -> None:
    with pytest.raises(ee.ExportError, match="model is a list of networks, a cascade, which has its exits already"):
        ee.find_exits([chain(), chain()], ROW)
