"""Fine-tuning trains a copy of the network together with its heads, and counts what that loses."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import transformers as hf
from single_exit import Array, digits_network
from torch import nn

import eetoolkit as ee
from eetoolkit_exporters.attaching.attach import MultiExit, open_base
from eetoolkit_exporters.attaching.finetune import Traced, check_trainable, finetune_network
from eetoolkit_exporters.attaching.fit import Target
from eetoolkit_exporters.attaching.places import find_places

RNG = np.random.default_rng(0)
_LINEAR = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 8] row) => (float[N, 8] logits) { hidden = Relu (row) logits = Softmax <axis = 1> (hidden) }"""


class Residual(nn.Module):
    """Blocks that end in a normalisation, which the graph holds in the convolution before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.blocks = nn.Sequential(*(self._block() for _ in range(3)))
        self.classifier = nn.Linear(8, 10)

    @staticmethod
    def _block() -> nn.Module:
        return nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Returns logits, (batch, 10)."""
        return self.classifier(self.blocks(self.stem(image)).mean((2, 3)))  # type: ignore[no-any-return]


def residual() -> nn.Module:
    torch.manual_seed(0)
    net = Residual()
    with torch.no_grad():
        net(torch.rand(64, 1, 8, 8))  # statistics unlike those at the start
    return net.eval()


def bert() -> nn.Module:
    torch.manual_seed(0)
    config = hf.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, num_labels=3,
    )  # fmt: skip
    return hf.BertForSequenceClassification(config).eval()  # type: ignore[no-any-return]


def tokens(count: int) -> dict[str, Array]:
    mask = np.ones((count, 8), np.int64)
    mask[::2, 5:] = 0
    return {"input_ids": RNG.integers(0, 50, (count, 8)), "attention_mask": mask}


def images(count: int) -> dict[str, Array]:
    return {"image": RNG.random((count, 1, 8, 8), np.float32)}


def everywhere(net: nn.Module, rows: dict[str, Array]) -> MultiExit:
    """Returns the network with fitted heads at all of its places."""
    base = open_base(net, rows)
    places = {place.name: place for place in find_places(base.network, base.source.inputs)}
    model = MultiExit(base, places, dict.fromkeys(places, "mean"))
    ee.fit_exits(model, rows)
    return model


@functools.cache
def fitted(build: Callable[[], nn.Module], rows: Callable[[int], dict[str, Array]]) -> tuple[nn.Module, MultiExit]:
    """Returns a network, and itself with fitted heads everywhere, for all tests: change neither."""
    net = build()
    return net, everywhere(net, rows(40))


def labels_of(count: int, classes: int) -> Target:
    return Target(torch.from_numpy(RNG.integers(0, classes, count)), None, 0.0)


@pytest.mark.parametrize(("build", "rows"), [(residual, images), (bert, tokens)])
def test_the_program_has_the_values_of_the_graph_at_every_place(build, rows) -> None:  # type: ignore[no-untyped-def]
    _, model = fitted(build, rows)
    traced = Traced(check_trainable(model), model, None)
    assert len(model.places) > 2
    assert traced.agreeing(model, rows(5)) == set(model.places)


def test_a_place_with_other_values_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    _, model = fitted(residual, images)
    traced = Traced(check_trainable(model), model, None)
    other = {name: value + 1e-3 * np.abs(value).max() for name, value in model.taps(images(5)).items()}
    monkeypatch.setattr(MultiExit, "taps", lambda *_: other)
    assert traced.agreeing(model, images(5)) == set()


@pytest.mark.parametrize(("build", "rows", "classes"), [(residual, images, 10), (bert, tokens, 3)])
def test_a_copy_is_trained_and_nothing_else(build, rows, classes) -> None:  # type: ignore[no-untyped-def]
    (net, model), given = fitted(build, rows), rows(40)
    before, heads = copy.deepcopy(net.state_dict()), copy.deepcopy(nn.ModuleDict(_keyed(model)).state_dict())
    tuned = finetune_network(model, given, labels_of(40, classes), np.arange(40), epochs=1)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(torch.equal(value, heads[name]) for name, value in nn.ModuleDict(_keyed(model)).state_dict().items())
    assert not any(parameter.grad is not None for parameter in net.parameters())
    moved = {name for name, value in tuned.state_dict().items() if not torch.equal(value, before[name])}
    assert moved >= {name for name, parameter in net.named_parameters() if parameter.ndim > 1}
    assert not moved & {name for name, _ in net.named_buffers()}
    assert not any(module.training for module in tuned.modules())


def _keyed(model: MultiExit) -> dict[str, nn.Module]:
    return {str(number): head for number, head in enumerate(model.heads.values())}


def test_what_requires_no_gradient_stays() -> None:
    net = residual()
    net.get_submodule("stem").requires_grad_(requires_grad=False)
    tuned = finetune_network(everywhere(net, images(40)), images(40), labels_of(40, 10), np.arange(40), epochs=1)
    before = net.state_dict()
    moved = {name for name, value in tuned.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert not any(name.startswith("stem") for name in moved)


def test_tied_weights_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
            self.second.weight = self.first.weight

        def forward(self, row: torch.Tensor) -> torch.Tensor:
            return self.last(self.second(self.first(row).relu()).relu())  # type: ignore[no-any-return]

    net, rows = Tied().eval(), {"row": RNG.random((40, 8), np.float32)}
    tuned = finetune_network(everywhere(net, rows), rows, labels_of(40, 3), np.arange(40), epochs=1)
    assert tuned.second.weight is tuned.first.weight
    assert not torch.equal(tuned.first.weight, net.first.weight)


def test_heads_find_more_in_a_network_that_was_trained_with_them() -> None:
    net, (given, labels) = digits_network()
    place = ee.find_exits(net, given[:1])[0].name
    model = ee.attach_exits(net, [place], given[:1])
    before = ee.fit_exits(model, given, labels)[place]
    target, rows = Target(torch.from_numpy(labels), None, 0.0), np.arange(500)
    tuned = finetune_network(model, {"image": given}, target, rows, epochs=10)
    again = ee.attach_exits(tuned, [place], given[:1])
    assert ee.fit_exits(again, given, labels)[place].loss < 0.95 * before.loss


def test_a_network_that_cannot_be_trained_is_told(tmp_path: Path) -> None:
    onnx.save(onnx.parser.parse_model(_LINEAR), file := tmp_path / "net.onnx")
    with pytest.raises(ee.ExportError, match="an ONNX file cannot be fine-tuned: pass the torch module"):
        ee.add_exits(file, RNG.random((200, 8), np.float32), finetune=1)
    net = residual()
    fixed = ee.attach_exits(net, ["stem"], images(1), dynamic_batch=False)
    with pytest.raises(ee.ExportError, match="the network fixes its number of rows and cannot be fine-tuned"):
        check_trainable(fixed)
    frozen = ee.attach_exits(net.requires_grad_(requires_grad=False), ["stem"], images(1))
    with pytest.raises(ee.ExportError, match=r"no parameter requires a gradient: call requires_grad_\(\)"):
        check_trainable(frozen)


def test_what_fine_tuning_loses_counts_against_the_goal(tmp_path: Path) -> None:
    net, (given, labels) = digits_network()
    before = copy.deepcopy(net.state_dict())
    settings = {"finetune": 1, "places": [ee.find_exits(net, given[:1])[0].name], "threads": 1, "folder": tmp_path}
    adapted = ee.add_exits(net, given, labels, max_accuracy_drop=0.03, **settings)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert any("fine-tuned for 1 epoch: the network's own answer was right on" in note for note in adapted.first.notes)
    worse = replace(adapted, goal=replace(adapted.goal, lost=0.031))
    with pytest.raises(ee.TuneError, match=r"early exits do not pay: fine-tuning costs 3\.10 points of accuracy"):
        worse.bundle(tmp_path / "worse.ee", profile="multiply-adds")
    assert not (tmp_path / "worse.ee").exists()
    adapted.bundle(tmp_path / "digits.ee", profile="multiply-adds", force=True)
    tuned = adapted.model.run({"image": given[:50]})["final"]
    assert not np.array_equal(tuned, net(torch.from_numpy(given[:50])).detach().numpy())
