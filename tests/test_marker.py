"""`ee.exit` marks an exit in a branch or a loop: the identity in eager PyTorch, an exit of the captured network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from invariants import broken_invariants, subgraphs
from torch import Tensor, cond, nn, while_loop

import eetoolkit as ee
from eetoolkit_exporters.capturing import marker
from eetoolkit_exporters.capturing.capture import Network, capture, check_repeatable
from eetoolkit_exporters.capturing.cascade import open_source
from eetoolkit_exporters.capturing.marker import watching
from eetoolkit_exporters.capturing.source import choose_exits
from eetoolkit_exporters.capturing.torch_source import TorchSource
from eetoolkit_exporters.graph import subgraphs as ir_subgraphs

FAR = 1e6


class Layers(nn.Module):
    """Two layers over x of shape (batch, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)


class Everywhere(Layers):
    """Marks at the top, in a branch that is not taken, in a nested branch and in a loop."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = marker.exit(self.first(x), "top")

        def far(t: Tensor) -> Tensor:
            return marker.exit({"scores": self.first(t), "given": t}, "far")["scores"]

        x = cond(x.sum() > FAR, far, self.second, (x,))

        def step(i: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            t = marker.exit(self.second(t).tanh(), "step")
            t = cond(t.sum() > 0, lambda u: marker.exit(u * 0.5, "nested"), lambda u: u.clone(), (t,))
            return i + 1, t

        count = x.new_zeros((), dtype=torch.int64)
        _, x = while_loop(lambda i, t: (i < 3) & (t.abs().max() < FAR), step, (count, x))
        return {"last": x}


class Marked(Layers):
    """A forward that is given."""

    def __init__(self, forward: Callable[[Layers, Tensor], Any]) -> None:
        super().__init__()
        self._forward = forward

    def forward(self, x: Tensor) -> Any:
        return self._forward(self, x)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """Returns a module with seeded weights, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


EXAMPLE = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def source() -> TorchSource:
    """Returns the network with marks everywhere, opened."""
    return TorchSource(seeded(Everywhere), EXAMPLE)


@pytest.fixture(scope="module")
def network(source: TorchSource) -> Network:
    """Returns it captured."""
    return capture(source, choose_exits(source, None))


def refusal(forward: Callable[[Layers, Tensor], Any]) -> str:
    """Returns the error of capturing a network."""
    with pytest.raises(ee.ExportError) as caught:
        opened = TorchSource(seeded(lambda: Marked(forward)), EXAMPLE)
        capture(opened, choose_exits(opened, None))
    return str(caught.value)


# In eager PyTorch.


def test_a_tensor_comes_back_as_it_was() -> None:
    x = torch.randn(2, 3)
    assert torch.equal(marker.exit(x, "a"), x)


def test_a_dict_comes_back_with_its_keys_in_order() -> None:
    given = {"boxes": torch.randn(2, 4), "label": torch.tensor([1, 2]), "sure": torch.tensor([True, False])}
    found = marker.exit(given, "a")
    assert list(found) == list(given)
    assert all(torch.equal(found[name], given[name]) for name in given)


def test_a_network_trains_through_marks_in_a_branch_and_a_loop() -> None:
    def forward(net: Layers, x: Tensor) -> Tensor:
        x = cond(x.sum() > -FAR, lambda t: marker.exit(net.first(t), "a"), lambda t: t.clone(), (x,))
        return marker.exit({"logits": net.second(x), "given": x}, "b")["logits"]

    def plain(net: Layers, x: Tensor) -> Tensor:
        return net.second(net.first(x))

    gradients = []
    for chosen in (forward, plain):
        net = seeded(lambda chosen=chosen: Marked(chosen)).train()
        net(torch.from_numpy(EXAMPLE)).square().sum().backward()
        gradients.append([parameter.grad for parameter in net.parameters()])
    for marked, unmarked in zip(*gradients, strict=True):
        torch.testing.assert_close(marked, unmarked)


@pytest.mark.parametrize(
    ("outputs", "name", "message"),
    [
        (torch.zeros(1), "", "ee.exit: name is '', expected the exit's name"),
        (torch.zeros(1), 3, "ee.exit: name is 3, expected the exit's name"),
        ({}, "a", "ee.exit: the outputs of 'a' are not a tensor or a dict of tensors"),
        ({"x": 1.0}, "a", "ee.exit: the outputs of 'a' are not a tensor or a dict of tensors"),
        (None, "a", "ee.exit: the outputs of 'a' are not a tensor or a dict of tensors"),
    ],
)
def test_what_is_no_exit_is_refused(outputs: Any, name: Any, message: str) -> None:
    with pytest.raises(ee.ExportError) as caught:
        marker.exit(outputs, name)
    assert str(caught.value) == message


# What a source knows of them.


def test_a_source_knows_marks_in_branches_that_its_example_does_not_take(source: TorchSource) -> None:
    assert source.marked == {
        "top": ("logits",), "far": ("scores", "given"), "step": ("logits",), "nested": ("logits",),
    }  # fmt: skip
    assert list(source.exits) == [*source.marked, "last"]
    assert source.returned == ["last"]


def test_a_second_source_of_one_network_knows_them_too(source: TorchSource) -> None:
    assert TorchSource(source.module, EXAMPLE).marked == source.marked


def test_visits_come_in_the_order_in_which_eager_met_them(source: TorchSource) -> None:
    row = EXAMPLE[:1]
    layers = source.module
    with torch.no_grad():
        x = layers.first(torch.from_numpy(row))
        expected = [("top", x)]
        x = layers.second(x)
        for _ in range(3):
            x = layers.second(x).tanh()
            expected.append(("step", x))
            if x.sum() > 0:
                x = x * 0.5
                expected.append(("nested", x))
        expected.append(("last", x))
    visits = source.run_visits({"x": row})
    assert [name for name, _ in visits] == [name for name, _ in expected]
    for (_, outputs), (_, tensor) in zip(visits, expected, strict=True):
        np.testing.assert_allclose(outputs["logits"], tensor.numpy(), atol=1e-6)


def test_visits_of_a_network_without_marks_are_what_it_returns() -> None:
    opened = TorchSource(seeded(lambda: Marked(lambda net, x: {"a": net.first(x), "b": {"u": x, "v": x * 2}})), EXAMPLE)
    visits = opened.run_visits({"x": EXAMPLE})
    assert opened.marked == {}
    assert [(name, list(outputs)) for name, outputs in visits] == [("a", ["logits"]), ("b", ["u", "v"])]


def test_a_watcher_sees_nothing_after_its_block() -> None:
    with watching() as watcher:
        marker.exit(torch.zeros(1), "a")
    marker.exit(torch.zeros(1), "b")
    assert [name for name, _ in watcher.visits] == ["a"]


def test_a_visit_keeps_its_values_when_the_tensor_changes() -> None:
    x = torch.zeros(2)
    with watching() as watcher:
        marker.exit(x, "a")
        x += 1
    np.testing.assert_array_equal(watcher.visits[0][1]["logits"], [0, 0])


# What a capture makes of them.


def test_marked_exits_stand_where_they_were_marked_and_before_the_returned(network: Network) -> None:
    assert [exit_.name for exit_ in network.exits] == ["top", "far", "step", "nested", "last"]
    levels = dict.fromkeys(subgraphs(network.graph), 2)
    levels |= {inner: 1 for node in network.graph for inner in ir_subgraphs(node)} | {network.graph: 0}
    depth = {exit_.name: levels[value.graph] for exit_ in network.exits for value in exit_.outputs.values()}
    assert depth == {"top": 0, "far": 1, "step": 1, "nested": 2, "last": 0}


def test_marks_leave_the_graph_in_our_form(network: Network) -> None:
    used = [value for exit_ in network.exits for value in exit_.outputs.values()]
    assert [text for text in broken_invariants(network.graph) if not text.endswith("is unused")] == []
    assert all(str(value.shape) == "[batch,4]" and value.dtype == ir.DataType.FLOAT for value in used)
    assert "eetoolkit" not in network.graph.opset_imports


def test_a_value_that_a_branch_only_captured_is_its_own_as_an_exit(network: Network) -> None:
    far = next(exit_ for exit_ in network.exits if exit_.name == "far")
    assert {value.producer().op_type for value in far.outputs.values()} == {"Identity"}
    assert len({value.graph for value in far.outputs.values()}) == 1


def test_the_captured_network_answers_as_eager_does(source: TorchSource, network: Network) -> None:
    proto = ir.to_proto(ir.Model(network.graph, ir_version=10)).SerializeToString()
    session = ort.InferenceSession(proto, providers=["CPUExecutionProvider"])
    for x in (EXAMPLE, -EXAMPLE, EXAMPLE[:1]):
        np.testing.assert_allclose(session.run(None, {"x": x})[0], source.run({"x": x})["last"], atol=1e-6)


def test_one_name_may_stand_in_several_places() -> None:
    def forward(net: Layers, x: Tensor) -> Tensor:
        return cond(
            x.sum() > 0,
            lambda t: marker.exit(net.first(t), "expert"),
            lambda t: marker.exit(net.second(t), "expert"),
            (x,),
        )

    opened = TorchSource(seeded(lambda: Marked(forward)), EXAMPLE)
    captured = capture(opened, choose_exits(opened, None))
    assert [exit_.name for exit_ in captured.exits] == ["expert", "expert", "exit0"]
    assert len({exit_.outputs["logits"].graph for exit_ in captured.exits}) == 3


def test_one_name_may_be_marked_and_returned() -> None:
    def forward(net: Layers, x: Tensor) -> dict[str, Tensor]:
        x = cond(x.sum() > 0, lambda t: marker.exit(net.first(t), "answer"), lambda t: t.clone(), (x,))
        return {"answer": net.second(x)}

    opened = TorchSource(seeded(lambda: Marked(forward)), EXAMPLE)
    captured = capture(opened, choose_exits(opened, ["answer"]))
    assert [exit_.name for exit_ in captured.exits] == ["answer", "answer"]


@pytest.mark.parametrize(
    ("exits", "expected"),
    [
        (["step", "last"], ["step", "last"]),
        (["last", "far", "top"], ["top", "far", "last"]),
        (["last"], ["last"]),
        ({"end": "last", "top": "top"}, ["top", "end"]),
    ],
    ids=str,
)
def test_marked_exits_may_be_left_out(
    exits: list[str] | Mapping[str, str], expected: list[str], source: TorchSource
) -> None:
    assert [exit_.name for exit_ in capture(source, choose_exits(source, exits)).exits] == expected


# What is refused.


def test_a_mark_whose_result_nothing_uses_is_named() -> None:
    def forward(net: Layers, x: Tensor) -> Tensor:
        marker.exit(net.first(x), "lost")
        return net.first(x)

    assert refusal(forward) == (
        "exit 'lost' is marked, but nothing depends on what ee.exit returned, and PyTorch leaves it out: write "
        "`t = ee.exit(t, 'lost')` and go on with t"
    )


def test_one_name_with_different_outputs_is_refused() -> None:
    def forward(net: Layers, x: Tensor) -> Tensor:
        return marker.exit(net.first(x), "a") + marker.exit({"scores": x}, "a")["scores"]

    assert refusal(forward) == (
        "exit 'a' is marked with outputs scores and elsewhere with logits; give every place the same outputs, or names "
        "of their own"
    )


def test_a_name_that_is_marked_and_returned_with_different_outputs_is_refused() -> None:
    def forward(net: Layers, x: Tensor) -> dict[str, Tensor]:
        return {"a": marker.exit({"scores": x}, "a")["scores"]}

    assert refusal(forward) == (
        "exit 'a' is marked with outputs scores and returned with logits; give both the same outputs, or names of "
        "their own"
    )


def test_marked_exits_alone_are_refused(source: TorchSource) -> None:
    with pytest.raises(ee.ExportError, match=r"^exits are step, all of them marked; name one that is returned too"):
        choose_exits(source, ["step"])


def test_a_marked_exit_keeps_its_name(source: TorchSource) -> None:
    with pytest.raises(ee.ExportError, match=r"^exit 'other': 'step' is marked in the network and keeps its name$"):
        choose_exits(source, {"other": "step", "last": "last"})


def test_marks_in_a_cascade_are_refused(source: TorchSource) -> None:
    with pytest.raises(ee.ExportError, match=r"^stage 0 of the cascade marks exits .*; let the stage return them$"):
        open_source([source.module, source.module], EXAMPLE)


def test_a_run_that_fails_as_it_stands_counts_no_visit_twice(tmp_path: Path) -> None:
    def forward(net: Layers, x: Tensor) -> dict[str, Tensor]:
        x = marker.exit(net.first(x), "early")
        states = x.new_zeros((), dtype=torch.int64), {"t": x}  # a dict, which eager loops do not take
        _, found = while_loop(lambda i, s: i < 3, lambda i, s: (i + 1, {"t": net.second(s["t"])}), states)
        return {"last": found["t"]}

    network, x = seeded(lambda: Marked(forward)), torch.ones(1, 4)
    source = TorchSource(network, (x,))
    assert [name for name, _ in source.run_visits(source.inputs)] == ["early", "last"]
    assert [*ee.export(network, (x,), tmp_path / "it.ee").exits] == ["early", "last"]


def test_a_marked_exit_that_is_random_is_refused() -> None:
    def forward(net: Layers, x: Tensor) -> Tensor:
        noise = marker.exit(torch.rand(2, 4), "noise")
        return net.first(x) + noise * 0

    with pytest.raises(ee.ExportError, match=r"the network gives another 'noise' when it is called twice"):
        check_repeatable(TorchSource(seeded(lambda: Marked(forward)), EXAMPLE), 1e-4)


class Looped(Layers):
    """Marks an exit in a loop alone."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        def step(i: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            return i + 1, marker.exit(self.first(t).tanh(), "step")

        _, x = while_loop(lambda i, t: i < 3, step, (torch.tensor(0), x.clone()))
        return {"last": self.second(x)}


def test_an_exit_in_a_loop_that_stays_inside_its_segment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ee.ExportError) as caught:
        ee.export(seeded(Looped), EXAMPLE[:1], tmp_path / "m.ee", lower_control_flow=False)
    assert "can answer only where a plan goes into its loop or branch: " in str(caught.value)
    assert str(caught.value).endswith("lower_control_flow=False")
    assert not list(tmp_path.iterdir())
