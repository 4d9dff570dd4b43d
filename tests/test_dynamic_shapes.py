"""Dynamic dimensions in every form of torch.export, and where the rows of a batch lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks.case import Array
from torch import Tensor, nn
from torch.export import Dim, ShapesCollection

import eetoolkit as ee
from eetoolkit.tuning.collect import collect
from eetoolkit_exporters.attaching.attach import open_base
from eetoolkit_exporters.attaching.part import Part
from eetoolkit_exporters.capturing.dynamic_shapes import Axis, choose_rows, normalise, settle
from eetoolkit_exporters.capturing.torch_source import TorchSource
from eetoolkit_runtime.plan.types import Limit

X, STATE = np.ones((1, 5, 4), np.float32), np.ones((2, 1, 3), np.float32)


class Spotter(nn.Module):
    """A recurrent network whose state goes in and out, with an exit before it."""

    def __init__(self, layers: int = 2, *, batch_first: bool = True) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 3, layers, batch_first=batch_first)
        self.early, self.late = nn.Linear(4, 5), nn.Linear(3, 5)
        self.time = int(batch_first)

    def forward(self, x: Tensor, state: Tensor) -> dict[str, Any]:
        """Returns the exits of some steps, and the state behind them."""
        found, after = self.gru(x, state)
        last = found.select(self.time, -1)
        return {"early": self.early(x.mean(self.time)), "late": {"logits": self.late(last), "state": after}}


class Mean(nn.Module):
    """Takes (steps, rows, width), and no state."""

    def forward(self, steps: Tensor) -> Tensor:
        """Returns (rows, width)."""
        return steps.mean(0)


def spotter(**options: Any) -> nn.Module:
    """Returns a seeded one, in evaluation mode."""
    torch.manual_seed(0)
    return Spotter(**options).eval()


FORMS: dict[str, Any] = {
    "dict of dicts": {"x": {0: "n", 1: "t"}, "state": {1: "n"}},
    "tuple of dicts": ({0: "n", 1: "t"}, {1: "n"}),
    "list of lists": [["n", "t", None], [None, "n", None]],
    "tuple of tuples": (("n", "t", None), (None, "n", None)),
    "dims": {"x": {0: Dim("n"), 1: Dim("t")}, "state": {1: Dim("n")}},
    "negative axes": {"x": {-3: "n", -2: "t"}, "state": {-2: "n"}},
    "with None": {"x": {0: "n", 1: "t", 2: None}, "state": (None, "n", None)},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_says_the_same(form: str) -> None:
    found = normalise(FORMS[form], TorchSource(spotter(), (X, STATE)))
    symbols = {name: {axis: said.symbol for axis, said in axes.items()} for name, axes in found.items()}
    assert symbols == {"x": {0: "n", 1: "t"}, "state": {1: "n"}}


def test_hints_and_sizes_keep_their_meaning() -> None:
    given = ({0: 1, 1: Dim.DYNAMIC(min=2, max=9)}, (Dim.STATIC, Dim.AUTO, Dim("width", max=8)))
    assert normalise(given, TorchSource(spotter(), (X, STATE))) == {
        "x": {0: Axis(kind="static"), 1: Axis(None, 2, 9)},
        "state": {0: Axis(kind="static"), 1: Axis(kind="auto"), 2: Axis("width", 0, 8)},
    }


def test_one_hint_for_a_tensor_is_for_all_its_dimensions() -> None:
    found = normalise({"x": Dim.AUTO}, TorchSource(spotter(), (X, STATE)))
    assert found == {"x": {axis: Axis(kind="auto") for axis in range(3)}, "state": {}}


def test_forwards_own_names_are_known_beside_those_of_the_bundle() -> None:
    source = TorchSource(spotter(), (X, STATE), ["sound", "memory"])
    assert normalise({"x": {1: "t"}}, source) == normalise({"sound": {1: "t"}}, source)


def test_inputs_in_a_list_or_by_keyword_are_found() -> None:
    class Open(nn.Module):
        def forward(self, *parts: Tensor, **others: Tensor) -> Tensor:
            return sum((*parts, *others.values()), torch.zeros(()))

    x = np.ones((1, 4), np.float32)
    assert normalise({"parts": ({1: "a"}, None)}, TorchSource(Open().eval(), (x, x)))["input0"] == {1: Axis("a")}
    assert normalise({"others": {"p": {1: "a"}}}, TorchSource(Open().eval(), {"p": x}))["p"] == {1: Axis("a")}


def test_a_collection_of_shapes_is_read() -> None:
    source = TorchSource(spotter(), (X, STATE))
    shapes = ShapesCollection()
    x, state = source.arguments()[0]
    shapes[x] = {1: Dim("t")}
    source.arguments = lambda: ((x, state), {})  # type: ignore[method-assign] # it knows tensors by identity
    assert normalise(shapes, source)["x"][1].symbol == "t"


@pytest.mark.parametrize(
    ("network", "example", "given", "expected"),
    [
        (spotter, (X, STATE), None, {"x": 0, "state": 1}),
        (lambda: spotter(layers=1), (X, STATE[:1]), None, {"x": 0, "state": 1}),
        (spotter, (X, STATE), {"state": {1: "batch"}}, {"x": 0, "state": 1}),
        (lambda: spotter(batch_first=False), (X.transpose(1, 0, 2), STATE), {"x": {0: "t"}}, {"x": 1, "state": 1}),
        (Mean, X.transpose(1, 0, 2), None, {"steps": 1}),
        (Mean, np.ones((3, 2, 4), np.float32), {"steps": {1: "batch"}}, {"steps": 1}),
    ],
    ids=["layers first", "one layer", "said", "steps first, named", "steps first", "several rows"],
)
def test_rows_are_found_where_they_lie(
    network: Callable[[], nn.Module], example: Any, given: Any, expected: dict[str, int]
) -> None:
    source = TorchSource(network().eval(), example)
    dynamic, _ = choose_rows(source, normalise(given, source), dynamic_batch=True)
    found = {name: [k for k, said in axes.items() if said.symbol == "batch"] for name, axes in dynamic.items()}
    assert found == {name: [axis] for name, axis in expected.items()}


def test_what_a_user_calls_the_rows_is_the_batch() -> None:
    source = TorchSource(spotter(), (X, STATE))
    given = {"x": {0: Dim("N", min=2, max=8), 1: "T"}, "state": {1: Dim("N", min=2, max=8)}}
    dynamic, _ = choose_rows(source, normalise(given, source), dynamic_batch=True)
    assert dynamic == {"x": {0: Axis("batch", None, 8), 1: Axis("T")}, "state": {1: Axis("batch", None, 8)}}


def test_symbols_are_safe_and_differ() -> None:
    source = TorchSource(spotter(), (X, STATE))
    given = {"x": {1: "seq len", 2: Dim.AUTO}, "state": {0: "seq_len", 2: "n/2"}}
    found = settle(source, normalise(given, source))
    assert {name: [said.symbol for said in axes.values()] for name, axes in found.items()} == {
        "x": ["seq_len", "x_2"],
        "state": ["seq_len_2", "n_over_2"],
    }


def test_a_size_that_the_user_excludes_is_refused() -> None:
    source = TorchSource(spotter(), (X, STATE))
    with pytest.raises(ee.ExportError) as caught:
        settle(source, normalise({"x": {1: Dim("t", max=4)}}, source))
    assert str(caught.value) == "dynamic_shapes of 'x': axis 1 takes 0 to 4, but the example has 5"


@pytest.fixture(scope="module")
def streaming(tmp_path_factory: pytest.TempPathFactory) -> ee.Bundle:
    """Returns a network with a state, of any number of rows and of 2 to 9 steps."""
    folder = tmp_path_factory.mktemp("streaming")
    steps = {"x": {1: Dim("steps", min=2, max=9)}}
    golden = {"x": np.tile(X, (3, 1, 1)), "state": np.tile(STATE, (1, 3, 1))}
    example = {"x": X, "state": STATE}
    return ee.export(spotter(), example, folder / "s.ee", dynamic_shapes=steps, golden_inputs=golden)


def eager(x: Array, state: Array, batch_first: bool = True) -> dict[str, Any]:
    """Returns what the network itself gives."""
    with torch.no_grad():
        found: dict[str, Any] = spotter(batch_first=batch_first)(torch.from_numpy(x), torch.from_numpy(state))
    return found


def test_a_bundle_says_where_rows_lie_and_which_sizes_it_takes(streaming: ee.Bundle) -> None:
    plan = streaming.manifest
    shapes = {spec.name: spec.shape for spec in plan.inputs}
    assert shapes == {"x": ("batch", "steps", 4), "state": (2, "batch", 3)}
    assert plan.slots["late_state"].shape == (2, "batch", 3)
    assert plan.limits == {"steps": Limit(min=2, max=9)}
    assert plan.batch is None


def test_rows_of_a_state_part_and_meet_as_the_network_has_them(streaming: ee.Bundle) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((4, 7, 4)).astype(np.float32)
    state = rng.standard_normal((2, 4, 3)).astype(np.float32)
    expected = eager(x, state)["late"]
    with ee.Runner(streaming) as runner:
        answers = runner.run_batch({"x": x, "state": state}, exit_at="late")
        one = runner.run((x[1:2], state[:, 1:2]), exit_at="late")
    after = np.concatenate([answer.outputs["state"] for answer in answers], 1)
    np.testing.assert_allclose(after, expected["state"].numpy(), atol=1e-5)
    np.testing.assert_allclose(one.outputs["logits"], expected["logits"].numpy()[1:2], atol=1e-5)


def test_a_length_beyond_the_limits_is_refused(streaming: ee.Bundle) -> None:
    with ee.Runner(streaming) as runner, pytest.raises(ee.InputError, match="steps is 10, expected 2 to 9"):
        runner.run((np.ones((1, 10, 4), np.float32), STATE))


def test_the_network_verifies_on_further_rows_of_its_state(streaming: ee.Bundle) -> None:
    x, state = np.full((2, 4, 4), 0.5, np.float32), np.zeros((2, 2, 3), np.float32)
    assert ee.verify(streaming, spotter(), inputs={"x": x, "state": state}).failures == ()


def test_tuning_collects_rows_of_a_state(streaming: ee.Bundle) -> None:
    x = np.random.default_rng(2).standard_normal((40, 3, 4)).astype(np.float32)
    state = np.zeros((2, 40, 3), np.float32)
    record = collect(streaming, {"x": x, "state": state}, np.arange(40))
    expected = eager(x, state)["late"]["logits"].numpy()
    np.testing.assert_array_equal(record.prediction[:, -1], expected.argmax(1))
    np.testing.assert_allclose(record.outputs["logits"][:, -1], expected, atol=1e-5)


def test_a_profile_takes_rows_of_a_state(streaming: ee.Bundle) -> None:
    x, state = np.ones((3, 4, 4), np.float32), np.zeros((2, 3, 3), np.float32)
    profile = ee.profile(streaming, {"x": x, "state": state}, threads=1, seconds=0)
    assert profile.rows == 3


def test_a_length_that_the_code_asks_for_is_a_limit(tmp_path: Path) -> None:
    class Asks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :3] if x.shape[1] > 4 else x[:, -3:]

    x = np.ones((1, 6), np.float32)
    bundle = ee.export(Asks().eval(), x, tmp_path / "a.ee", dynamic_shapes={"x": {1: "length"}})
    assert bundle.manifest.limits == {"length": Limit(min=5)}


def test_a_recurrent_network_of_any_length_exports_after_it_has_run(tmp_path: Path) -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(4, 3, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.gru(x)[0][:, -1]
            return found

    torch.manual_seed(0)
    network = Plain().eval()
    x = torch.rand(1, 9, 4)
    expected = network(x).detach().numpy()
    bundle = ee.export(network, X, tmp_path / "p.ee", dynamic_shapes={"x": {1: "length"}})
    with ee.Runner(bundle) as runner:
        np.testing.assert_allclose(runner.run(x.numpy()).outputs["logits"], expected, atol=1e-5)


class Patches(nn.Module):
    """A vision transformer of one layer: four patches and a token whose state is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(1, 8, 2, stride=2), nn.Parameter(torch.randn(1, 1, 8))
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)

    def forward(self, image: Tensor) -> Tensor:
        """Returns (rows, 8) of (rows, 1, 4, 4)."""
        tokens = self.patches(image).flatten(2).transpose(1, 2)
        return self.layer(torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1))[:, 0]


def test_a_single_row_does_not_fix_the_rows_of_an_attention() -> None:
    torch.manual_seed(0)
    network, rows = Patches().eval(), torch.randn(4, 1, 4, 4)
    base = open_base(network, rows[:1])
    part = Part(base.network, base.network.exits[0].outputs)
    (found,) = part.run({"image": rows.numpy()}).values()
    np.testing.assert_allclose(found, network(rows).detach().numpy(), rtol=1e-5, atol=1e-5)
