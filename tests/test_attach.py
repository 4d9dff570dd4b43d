"""Heads on the values of a trained network's graph: what they read, what they become, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import parser
from torch import nn

import eetoolkit as ee
from eetoolkit_exporters.attaching.attach import MultiExit

Array = np.ndarray[tuple[Any, ...], np.dtype[Any]]

DRAW = np.random.default_rng(0)


class Backbone(nn.Module):
    """A network with BatchNorm and one answer, whose code knows nothing of exits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer1 = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.final = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(16, 10)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.final(self.layer2(self.layer1(image)))
        return {"features": features, "logits": self.head(features.mean((2, 3)))}


IMAGES = DRAW.normal(size=(150, 1, 8, 8)).astype(np.float32)
CLASSES = DRAW.integers(10, size=150)


def check_bundle(model: MultiExit, rows: dict[str, Array], folder: Path, tolerance: float = 1e-5) -> ee.Bundle:
    """Asserts that a bundle's exits give what heads and network do, for each of the first three rows."""
    bundle = ee.export(model, None, folder)
    with ee.Runner(bundle) as runner:
        for row in range(3):
            given = {name: array[row : row + 1] for name, array in rows.items()}
            expected = model.run(given)
            found = {
                bundle.manifest.titles.get(a.exit, a.exit): a.outputs["logits"] for a in runner.run_all_exits(given)
            }
            assert list(found) == list(expected)
            for name, logits in found.items():
                np.testing.assert_allclose(logits, expected[name], atol=tolerance, rtol=tolerance)
    return bundle


@pytest.fixture(scope="module")
def convolutions() -> tuple[Backbone, dict[str, torch.Tensor], MultiExit]:
    """Returns a network, its state before exits were attached and fitted, and what it became."""
    backbone = Backbone().eval()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    own = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    heads = {"layer1": "mean+max+grid+mlp", "layer2": own, "final": "max"}
    model = ee.attach_exits(backbone, heads, IMAGES[:1])
    with torch.no_grad():
        assert model.run({"image": IMAGES})["layer2"].shape == (150, 10)
        expected = own(backbone.layer2(backbone.layer1(torch.from_numpy(IMAGES))))
    np.testing.assert_allclose(model.run({"image": IMAGES})["layer2"], expected, atol=1e-5)  # as it was given
    return backbone, before, model


def test_heads_that_were_never_fitted_are_refused_at_export(
    convolutions: tuple[Backbone, dict[str, torch.Tensor], MultiExit], tmp_path: Path
) -> None:
    model = convolutions[2]
    for name in ("layer1", "final"):
        model.heads[name].fitted = False
    with pytest.raises(ee.ExportError, match=r"the heads of layer1, final are not fitted yet: call ee.fit_exits first"):
        ee.export(model, None, tmp_path / "x.ee")
    assert not (tmp_path / "x.ee").exists()


def test_a_bundle_gives_what_heads_and_network_do(
    convolutions: tuple[Backbone, dict[str, torch.Tensor], MultiExit], tmp_path: Path
) -> None:
    backbone, before, model = convolutions
    assert not isinstance(model, nn.Module)
    own = model.heads["layer2"].classify[2].weight.detach().clone()
    found = ee.fit_exits(model, IMAGES, CLASSES)
    assert list(found) == ["layer1", "layer2", "final"]
    assert not own.equal(model.heads["layer2"].classify[2].weight)  # heads of one's own are trained as well
    bundle = check_bundle(model, {"image": IMAGES}, tmp_path / "attached.ee")
    assert list(bundle.exits) == ["layer1", "layer2", "final", "final_answer"]
    with torch.no_grad():
        answer = backbone(torch.from_numpy(IMAGES))["logits"].numpy()
    np.testing.assert_allclose(model.run({"image": IMAGES})["final_answer"], answer, atol=1e-5)
    state = backbone.state_dict()
    assert list(state) == list(before)
    assert all(state[name].equal(value) for name, value in before.items())
    assert not any(module.training or module._forward_hooks for module in backbone.modules())


# Sequences and their masks.


class Tagger(nn.Module):
    """Takes tokens and their mask; answers once, or for every token."""

    def __init__(self, *, every: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.norm = nn.Embedding(9, 6), nn.LayerNorm(6)
        self.shared, self.head = nn.Sequential(nn.Linear(6, 6), nn.Tanh()), nn.Linear(6, 3)
        self.every = every

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        tokens = self.norm(self.embed(input_ids))
        for _ in range(4):
            tokens = self.shared(tokens)
        found: torch.Tensor = self.head(tokens if self.every else tokens[:, 0])
        return found


class Padded(Tagger):
    """The same, whose mask says what is left out."""

    def forward(self, input_ids: torch.Tensor, key_padding_mask: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return super().forward(input_ids)


IDS = DRAW.integers(9, size=(60, 5))
MASK = (np.arange(5) < DRAW.integers(1, 6, size=(60, 1))).astype(np.int64)
TAGS = DRAW.integers(3, size=(60, 5))
LENGTHS = {"input_ids": {1: "length"}, "attention_mask": {1: "length"}}


def classified(model: MultiExit, exit_: str, gathered: Array) -> Array:
    """Returns what the layer of a head gives."""
    with torch.no_grad():
        found: Array = model.heads[exit_].classify(torch.from_numpy(np.asarray(gathered, np.float32))).numpy()
    return found


def masked_mean(tokens: Array, mask: Array) -> Array:
    return np.stack([row[kept.astype(bool)].mean(0) for row, kept in zip(tokens, mask, strict=True)])


@pytest.fixture(scope="module")
def tagger() -> MultiExit:
    """Returns a network for tokens of any length that calls a module four times, with its heads fitted."""
    given = IDS[:1], MASK[:1]
    model = ee.attach_exits(Tagger().eval(), {"norm": "mean", "shared:1": "mean+max"}, given, dynamic_shapes=LENGTHS)
    ee.fit_exits(model, (IDS, MASK), TAGS[:, 0])
    return model


def test_the_mean_of_tokens_leaves_out_what_the_mask_leaves_out(tagger: MultiExit) -> None:
    with torch.no_grad():
        tokens = Tagger().norm(Tagger().embed(torch.from_numpy(IDS))).numpy()
    found = tagger.run({"input_ids": IDS, "attention_mask": MASK})["norm"]
    np.testing.assert_allclose(found, classified(tagger, "norm", masked_mean(tokens, MASK)), atol=1e-5)


def test_a_number_is_that_of_a_modules_call(tagger: MultiExit) -> None:
    net = Tagger()
    with torch.no_grad():
        tokens = net.norm(net.embed(torch.from_numpy(IDS)))
        second = net.shared(net.shared(tokens)).numpy()
    found = tagger.taps({"input_ids": IDS, "attention_mask": MASK})[tagger.places["shared:1"].value]
    np.testing.assert_allclose(found, second, atol=1e-5)


def test_masks_count_on_the_device_at_any_length_and_inputs_keep_their_names(tagger: MultiExit, tmp_path: Path) -> None:
    bundle = check_bundle(tagger, {"input_ids": IDS[:, :4], "attention_mask": MASK[:, :4]}, tmp_path / "a.ee")
    assert [spec.name for spec in bundle.manifest.inputs] == ["input_ids", "attention_mask"]
    assert list(bundle.exits) == ["norm", "shared_1", "final"]


def test_a_mask_of_padding_says_what_is_left_out() -> None:
    padding = MASK == 0
    model = ee.attach_exits(Padded().eval(), ["norm"], (IDS[:1], padding[:1]))
    tokens = model.taps({"input_ids": IDS, "key_padding_mask": padding})[model.places["norm"].value]
    found = model.run({"input_ids": IDS, "key_padding_mask": padding})["norm"]
    np.testing.assert_allclose(found, classified(model, "norm", masked_mean(tokens, MASK)), atol=1e-5)


def test_a_network_that_answers_for_every_token_has_such_heads(tmp_path: Path) -> None:
    model = ee.attach_exits(Tagger(every=True).eval(), ["norm"], (IDS[:1], MASK[:1]))
    assert model.heads["norm"].kind == "dense"
    labels = IDS % 3  # which an embedding tells
    fits = ee.fit_exits(model, (IDS, MASK), labels, distill=False)
    rows = {"input_ids": IDS, "attention_mask": MASK}
    found = model.run(rows)
    assert found["norm"].shape == found["final"].shape == (60, 5, 3)
    assert (found["norm"].argmax(2) == labels).all()
    assert fits["norm"].loss < 0.2
    ee.fit_exits(model, (IDS, MASK))  # by its answers alone
    found = model.run(rows)
    assert (found["norm"].argmax(2) == found["final"].argmax(2)).mean() > 0.9
    names = ["norm", "final"]
    bundle = ee.export(model, None, tmp_path / "tags.ee", criterion=ee.Criterion(kind="max_prob", axis=2))
    with ee.Runner(bundle) as runner:
        for name, answer in zip(names, runner.run_all_exits((IDS[:1], MASK[:1])), strict=True):
            np.testing.assert_allclose(answer.outputs["logits"], found[name][:1], atol=1e-5)


# Graphs of every layout; `Relu` and `Tanh` make the places.

GRAPHS = {
    "an image": "float[batch,1,8,6] x) => (float[batch,3] y) <W> { a = Conv <pads = [1,1,1,1]> (x, k) h = Relu (a) "
    "b = Conv (h, l) t = Tanh (b) p = GlobalAveragePool (t) f = Flatten (p) y = MatMul (f, m) }",
    "a segmentation": "float[batch,1,8,6] x) => (float[batch,3,8,6] y) <W> { "
    "a = Conv <pads = [1,1,1,1], strides = [2,2]> (x, k) h = Relu (a) b = Conv <pads = [1,1,1,1]> (h, l) t = Tanh (b) "
    "u = Resize <mode = \"nearest\"> (t, , s) y = Conv (u, n) }",
    "steps before rows": "float[7,batch,4] x) => (float[batch,3] y) <W> { a = MatMul (x, v) h = Relu (a) "
    "b = MatMul (h, w) t = Tanh (b) c = MatMul (t, w) d = Relu (c) g = Gather <axis = 0> (d, i) y = MatMul (g, z) }",
    "probabilities": "float[batch,1,8,6] x) => (float[batch,3] q) <W> { a = Conv <pads = [1,1,1,1]> (x, k) "
    "h = Relu (a) b = Conv (h, l) t = Tanh (b) p = GlobalAveragePool (t) f = Flatten (p) y = MatMul (f, m) "
    "q = Softmax (y) }",
    "float16": "float16[batch,4] x) => (float16[batch,3] y) <H> { a = MatMul (x, v) h = Relu (a) b = MatMul (h, w) "
    "t = Tanh (b) y = MatMul (t, z) }",
}  # fmt: skip
WEIGHTS = {"k": (6, 1, 3, 3), "l": (6, 6, 3, 3), "m": (6, 3), "n": (3, 6, 1, 1), "v": (4, 6), "w": (6, 6), "z": (6, 3)}
SHAPES = {"an image": (80, 1, 8, 6), "a segmentation": (80, 1, 8, 6), "steps before rows": (7, 80, 4),
          "probabilities": (80, 1, 8, 6), "float16": (80, 4)}  # fmt: skip


def saved(what: str, folder: Path, opset: int) -> tuple[Path, Array]:
    """Returns a file of a network, and rows for it."""
    half = what == "float16"
    draw = np.random.default_rng(1)
    values: dict[str, Array] = {name: draw.normal(size=shape).astype(np.float32) for name, shape in WEIGHTS.items()}
    values |= {"s": np.array([1, 1, 2, 2], np.float32), "i": np.array(-1)}
    text = f"net ({GRAPHS[what]}".replace("<W>", "").replace("<H>", "")
    model = parser.parse_model(f'<ir_version: 7, opset_import: ["" : {opset}]> {text}')
    read = {name for node in model.graph.node for name in node.input}
    for name, value in values.items():
        if name in read:
            array = value.astype(np.float16) if half else value
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model.ir_version = 10 if opset > 20 else 8
    onnx.checker.check_model(model)
    path = folder / f"{what}.onnx"
    onnx.save(model, path)
    rows = draw.normal(size=SHAPES[what]).astype(np.float16 if half else np.float32)
    return path, rows


FITTED = [
    ("an image", 13, "h", "mean+max+grid"), ("an image", 21, "h", "mean+max+grid+mlp"), ("a segmentation", 18, "h", ""),
    ("steps before rows", 17, "h", "first+last+mean"), ("probabilities", 17, "h", "mean"), ("float16", 13, "h", "mean"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "opset", "place", "kind"), FITTED, ids=[f"{what} {n}" for what, n, *_ in FITTED])
def test_a_file_is_fitted_and_exported(what: str, opset: int, place: str, kind: str, tmp_path: Path) -> None:
    path, rows = saved(what, tmp_path, opset)
    axis = 1 if what == "steps before rows" else 0
    model = ee.attach_exits(path, {place: kind}, rows.take([0], axis))
    assert model.heads[place].kind == (kind or "dense")
    fits = ee.fit_exits(model, rows)  # by its own answers
    assert np.isfinite(fits[place].loss)
    found = model.run({"x": rows})
    assert found[place].shape == found["final"].shape
    if what == "probabilities":
        np.testing.assert_allclose(found["final"].sum(1), 1, atol=1e-5)
        logits = found[place] - found[place].max(1, keepdims=True)
        own = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        loss = -(found["final"] * np.log(own)).sum(1).mean()
        assert loss < -(found["final"] * np.log(found["final"].mean(0))).sum(1).mean()  # better than guessing
    tolerance = 1e-3 if what == "float16" else 1e-5
    bundle = ee.export(model, None, tmp_path / "a.ee")
    with ee.Runner(bundle) as runner:
        for row in range(3):
            given = rows.take([row], axis)
            for answer, name in zip(runner.run_all_exits(given), (place, "final"), strict=True):
                np.testing.assert_allclose(answer.outputs["logits"], found[name][[row]], atol=tolerance, rtol=tolerance)


def test_a_network_with_a_branch_takes_its_rows_one_by_one(tmp_path: Path) -> None:
    net = Branching().eval()
    rows = DRAW.normal(size=(40, 6)).astype(np.float32)
    model = ee.attach_exits(net, ["body"], rows[:1])
    ee.fit_exits(model, rows)
    with torch.no_grad():
        expected = torch.cat([net(torch.from_numpy(row[None])) for row in rows]).numpy()
    one_by_one = np.concatenate([model.run({"x": row[None]})["final"] for row in rows])
    np.testing.assert_allclose(one_by_one, expected, atol=1e-5)
    check_bundle(model, {"x": rows}, tmp_path / "branch.ee")


class Branching(nn.Module):
    """Decides on the row's values which layer it takes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
        self.often, self.seldom, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.body(x)
        h = torch.cond(h.sum() > 3, lambda h: self.often(h).relu(), lambda h: self.seldom(h).tanh(), (h,))
        found: torch.Tensor = self.head(h)
        return found


# What is refused.


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("an image", tmp_path_factory.mktemp("net"), 17)[0]


ONE = np.zeros((1, 1, 8, 6), np.float32)
WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "an unknown place": (["hh"], {}, "the network has no place 'hh'; it has h"),
    "a place of other letters": (["layre"], {}, "the network has no place 'layre'"),
    "no places": ([], {}, "heads is [], expected places, or a mapping from places to heads"),
    "a text": ("h", {}, "heads is 'h', expected places, or a mapping from places to heads"),
    "a place twice": (["h", "h"], {}, "a place stands twice in ['h', 'h']"),
    "a number for a head": ({"h": 3}, {}, "a head is int, expected a kind such as 'mean+max', or a module"),
    "an unknown kind": (["h"], {"head": "average"}, "no such head fits 'h': head is 'average', expected mean, max"),
    "a kind for sequences": ({"h": "first"}, {}, "no such head fits 'h': features of shape [None, 6, 8, 6] are no"),
    "a module that fails": ({"h": nn.Linear(3, 3)}, {}, "the head at 'h': it fails on features of shape [1, 6, 8, 6]"),
    "a module of no tensor": ({"h": nn.LSTM(6, 3)}, {}, "the head at 'h': it"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_wrong_heads_are_refused_in_one_line(what: str, file: Path) -> None:
    heads, more, message = WRONG[what]
    with pytest.raises(ee.ExportError) as error:
        ee.attach_exits(file, heads, ONE, **more)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_place_almost_named_is_suggested() -> None:
    with pytest.raises(ee.ExportError, match="did you mean 'layer1'"):
        ee.attach_exits(Backbone().eval(), ["laeyr1"], IMAGES[:1])


def test_a_network_in_training_mode_is_refused() -> None:
    with pytest.raises(ee.ExportError, match="the network is in training mode"):
        ee.attach_exits(Backbone(), ["layer1"], IMAGES[:1])


def test_a_network_of_several_answers_is_refused(tmp_path: Path) -> None:
    text = "net (float[batch,4] x) => (float[batch,4] a, float[batch,4] b) { a = Sin (x) b = Cos (a) }"
    onnx.save(parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}'), tmp_path / "two.onnx")
    with pytest.raises(ee.ExportError, match="the network returns a, b; let it return its logits alone"):
        ee.attach_exits(tmp_path / "two.onnx", ["a"], np.zeros((1, 4), np.float32))


def test_a_cascade_has_exits_already(file: Path) -> None:
    with pytest.raises(ee.ExportError, match="a cascade has exits already; give its last network alone"):
        ee.attach_exits([file, file], ["h"], ONE)


def test_which_sizes_vary_is_said_when_exits_are_attached(file: Path, tmp_path: Path) -> None:
    model = ee.attach_exits(file, {"h": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))}, ONE)
    with pytest.raises(ee.ExportError, match="the network was captured by attach_exits: say there which sizes vary"):
        ee.export(model, None, tmp_path / "x.ee", dynamic_batch=False)
