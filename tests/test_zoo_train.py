"""The zoo's frame: its list, its training, its checkpoints; and its gates, routers and policies against the papers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

import eetoolkit as ee
from eetoolkit import zoo
from eetoolkit.cli import main
from eetoolkit.zoo import (
    blockdrop,
    convnet_aig,
    depth_adaptive,
    hierarchical_exit,
    routed_exits,
    router,
    skipnet,
    slimmable,
)
from eetoolkit.zoo import train as training
from eetoolkit.zoo.system import System


class Tiny(nn.Module):
    """Two linear layers, with a BatchNorm for an integer buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 16)
        self.norm = nn.BatchNorm1d(16)
        self.last = nn.Linear(16, 10)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        hidden: Tensor = self.norm(self.first(image.flatten(1)))
        return {"only": self.last(hidden.relu())}


def tiny_loss(outputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    return functional.cross_entropy(outputs["only"], labels)


TINY = System("tiny", "Tiny", "nobody", build=Tiny, loss=tiny_loss, epochs=2)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# The list


def test_the_list_of_systems_costs_no_torch() -> None:
    script = "import sys; from eetoolkit import zoo; assert zoo.names(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("name", zoo.names())
def test_a_module_of_the_zoo_is_a_system_of_its_name(name: str) -> None:
    system = zoo.find(name)
    assert system.name == name
    assert system.title
    assert system.source


def test_an_unknown_system_is_an_error_that_lists_the_others() -> None:
    with pytest.raises(ee.EEToolkitError, match=r"the zoo has no 'penguin'; it has .*branchynet, .*skipnet"):
        zoo.find("penguin")
    with pytest.raises(ee.EEToolkitError, match="the zoo has no 'train'"):
        zoo.find("train")


@pytest.mark.parametrize("name", zoo.names())
def test_a_shipped_checkpoint_gives_the_accuracy_that_it_says(name: str) -> None:
    system = zoo.find(name)
    with safe_open(system.checkpoint, framework="pt") as file:
        metadata = file.metadata()
        dtypes = {file.get_tensor(key).dtype for key in file.keys()}  # noqa: SIM118 - not a mapping
    assert metadata["network"] == name
    assert dtypes - {torch.int64, torch.bool} == {system.storage}
    assert system.checkpoint.stat().st_size <= 2.1e6
    found = training.exit_accuracies(system, system.load(), *training.tensors("test"))
    said = {key.removeprefix("test_accuracy_"): float(value) for key, value in metadata.items() if "test_acc" in key}
    assert found == pytest.approx(said, abs=0.0023), "one digit of 450 may fall the other way on another machine"
    assert list(found.values())[-1] >= 0.95


# Training


def test_the_same_seed_trains_the_same_weights(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    # The weights, not the files: safetensors writes the metadata's keys in any order.
    files = [training.train(TINY, seed, tmp_path / f"{n}.safetensors").checkpoint for n, seed in enumerate((3, 3, 4))]
    first, second, other = (load_file(file) for file in files)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["last.weight"], other["last.weight"])


def test_what_training_reports_is_what_its_checkpoint_gives(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    trained = training.train(TINY, 0, tmp_path / "tiny.safetensors")
    assert trained.size_bytes == (tmp_path / "tiny.safetensors").stat().st_size
    stored = load_file(trained.checkpoint)
    assert {key: value.dtype for key, value in stored.items()} == {
        key: torch.int64 if "num_batches" in key else torch.float16 for key in Tiny().state_dict()
    }
    model = Tiny()
    model.load_state_dict(stored)
    images, labels = training.tensors("validation")
    right = (model.eval()(images)["only"].argmax(dim=1) == labels).double().mean().item()
    assert trained.accuracy["validation"] == {"only": right}
    assert trained.decisions is None
    with safe_open(trained.checkpoint, framework="pt") as file:
        assert file.metadata()["validation_accuracy_only"] == f"{right:.4f}"


def test_training_leaves_other_parameters_alone() -> None:
    model = Tiny()
    before = {key: value.clone() for key, value in model.named_parameters()}
    training.fit(model, tiny_loss, epochs=1, parameters=model.last.parameters())
    changed = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    assert changed == {"last.weight", "last.bias"}
    assert not model.training


def test_selection_keeps_the_epoch_of_the_lowest_validation_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    images, labels = training.tensors("validation")

    def watched(outputs: dict[str, Tensor], labels: Tensor) -> Tensor:
        loss = tiny_loss(outputs, labels)
        if torch.is_inference_mode_enabled():
            seen.append(loss.item() + 10 * (len(seen) > 2))  # from the fourth epoch on: much worse, it says
            return loss + 10 * (len(seen) > 3)
        return loss

    model = training.fit(Tiny(), watched, epochs=6, select=True)
    with torch.no_grad():
        assert tiny_loss(model(images), labels).item() == pytest.approx(min(seen), abs=1e-6)
    assert len(seen) == 6


def test_augmented_images_are_images_and_differ() -> None:
    images = training.tensors("test")[0][:20]
    first, second = training.augment(images), training.augment(images)
    assert first.shape == images.shape
    assert first.min() >= 0
    assert first.max() <= 1
    assert not torch.equal(first, second)
    assert (first - images).abs().mean() < 0.2, "moved a little, not replaced"


# The command line


@pytest.fixture
def only_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "names", lambda: ("tiny",))
    monkeypatch.setattr(zoo, "find", lambda name: TINY)


@pytest.mark.usefixtures("only_tiny")
def test_zoo_train_writes_and_never_replaces_unasked(tmp_path: Path) -> None:
    command = ["zoo", "train", "--output", str(tmp_path), "--json"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert [found["name"] for found in json.loads(result.stdout)] == ["tiny"]
    path = tmp_path / "tiny.safetensors"
    before = path.read_bytes()
    result = CliRunner().invoke(main, [*command, "--seed", "1"])
    assert (result.exit_code, result.stderr) == (
        1,
        f"error: {path} exists: pass --overwrite to replace it, or another --output\n",
    )
    assert path.read_bytes() == before
    assert CliRunner().invoke(main, [*command, "--seed", "1", "--overwrite"]).exit_code == 0
    assert path.read_bytes() != before


def test_zoo_list_names_every_system() -> None:
    result = CliRunner().invoke(main, ["zoo", "list", "--json"])
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert list(rows) == list(zoo.names())
    assert rows["branchynet"]["accuracy"] >= 0.98
    assert "branchynet" in CliRunner().invoke(main, ["zoo", "list"]).stdout


# Gates: what blending gives is what skipping gives


def by_skipping(
    blocks: nn.ModuleList, features: Tensor, taken: list[int], closed: Callable[[Tensor], Tensor]
) -> Tensor:
    for block, run in zip(blocks, taken, strict=True):
        shortcut = block.shortcut(features)  # type: ignore[operator]
        features = block(features) if run else closed(shortcut)
    return features


@pytest.mark.parametrize("name", ["skipnet", "skipnet_lstm", "convnet_aig", "blockdrop"])
def test_a_blended_network_answers_as_if_closed_blocks_were_not_there(name: str) -> None:
    system = zoo.find(name)
    model: Any = system.load()
    assert system.decisions is not None
    images = training.tensors("test")[0][:60]
    paths = []
    with torch.no_grad():
        for row, logits in zip(torch.split(images, 1), model(images), strict=True):
            taken = system.decisions(model, (row,))
            always = [1] if name.startswith("skipnet") else []
            closed = functional.relu if name == "convnet_aig" else nn.Identity()
            features = by_skipping(model.blocks, model.stem(row), always + taken, closed)
            assert torch.allclose(model.head(features)[0], logits, atol=1e-4)
            paths.append(tuple(taken))
    assert len(set(paths)) > 1, "the gates depend on the image"


def test_straight_through_gates_are_exactly_zero_or_one_and_pass_gradients() -> None:
    model = skipnet.build()
    _, probabilities, opened = model.walk(training.tensors("test")[0])
    assert set(opened.detach().flatten().tolist()) <= {0.0, 1.0}
    assert torch.equal(opened.detach() > 0.5, probabilities.detach() > 0.5)
    bias = model.gates.gates[2][-1].bias  # type: ignore[union-attr, index]
    passed, wanted = (torch.autograd.grad(g[:, 2].sum(), bias, retain_graph=True)[0] for g in (opened, probabilities))
    assert torch.allclose(passed, wanted)
    assert wanted.abs().max() > 0


def test_hybrid_loss_is_reinforce_with_the_rewards_to_come() -> None:
    n, gates = 5, 3
    logits = torch.randn(n, 10)
    labels = torch.arange(n)
    probabilities = torch.rand(n, gates, requires_grad=True)
    opened = torch.bernoulli(torch.full((n, gates), 0.5))
    skipnet.hybrid_loss((logits, probabilities, opened), labels).backward()  # type: ignore[no-untyped-call]
    p, g = probabilities.detach().numpy(), opened.numpy()
    loss = -functional.log_softmax(logits, dim=1)[range(n), labels].numpy()
    reward = np.array([
        [-loss[row] + skipnet.ALPHA / gates * sum(1 - g[row, j] for j in range(i, gates)) for i in range(gates)]
        for row in range(n)
    ])  # fmt: skip
    score = np.where(g == 1, 1 / p, -1 / (1 - p))  # d log P(g) / d p
    expected = -skipnet.POLICY_WEIGHT * (reward - reward.mean(axis=0)) * score / n
    assert probabilities.grad is not None
    np.testing.assert_allclose(probabilities.grad.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_convnet_aig_draws_in_training_only() -> None:
    model = convnet_aig.ConvNetAIG()
    images = training.tensors("test")[0][:64]
    gates = [model.train().walk(images)[1] for _ in range(2)]
    assert not torch.equal(*gates)
    assert {round(value, 6) for value in gates[0].flatten().tolist()} == {0.0, 1.0}
    assert torch.equal(model.eval().walk(images)[1], model.walk(images)[1])


def test_convnet_aig_pays_for_missing_the_target_rate() -> None:
    logits, labels = torch.zeros(4, 10), torch.zeros(4, dtype=torch.int64)
    gates = torch.tensor([[1.0, 0, 1], [1, 0, 0], [1, 0, 1], [1, 0, 0]])
    expected = np.log(10) + convnet_aig.RATE_WEIGHT * (0.5**2 + 0.5**2 + 0) / 3
    assert convnet_aig.loss((logits, gates), labels).item() == pytest.approx(expected, rel=1e-6)


def test_blockdrop_rewards_right_answers_with_few_blocks() -> None:
    actions = torch.tensor([[1.0, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    logits = torch.eye(10)[[3, 4, 5]]
    found = blockdrop.reward(actions, logits, torch.tensor([3, 4, 6]))
    assert found.tolist() == [0.75, 0.0, -blockdrop.PENALTY]


def test_blockdrop_curriculum_frees_the_last_blocks_first() -> None:
    sampled = blockdrop.Sampled(blockdrop.BlockDrop(), joint=False).train()
    sampled.free = 3
    bounded, drawn, preferred, *_ = sampled(training.tensors("test")[0])
    assert drawn[:, :-3].eq(1).all()
    assert preferred[:, :-3].eq(1).all()
    assert drawn[:, -3:].eq(0).any()
    assert bounded.min() >= 0.2 - 1e-6
    assert bounded.max() <= 0.8 + 1e-6
    assert not sampled.model.blocks[0].training, "the network rests while the policy learns"


# Routers: one row at a time, equal to the chosen part called by hand


def test_routing_loss_is_the_expected_loss_with_budget_and_entropy() -> None:
    scores, losses, shares = torch.randn(4, 3), torch.rand(4, 3), (0.2, 0.3, 0.5)
    p = np.exp(scores.numpy())
    p /= p.sum(axis=1, keepdims=True)
    expected = (p * losses.numpy()).sum(axis=1).mean()
    expected += router.BUDGET_WEIGHT * ((p.mean(axis=0) - shares) ** 2).sum()
    expected -= router.ENTROPY_WEIGHT * (p * np.log(p)).sum(axis=1).mean()
    assert router.routing_loss(scores, losses, shares).item() == pytest.approx(float(expected), rel=1e-5)


def test_the_depth_oracle_weighs_likelihood_against_blocks() -> None:
    depths = depth_adaptive.DEPTH
    logits = torch.zeros(1, depths, 10)
    logits[0, 2:, 7] = 20.0  # right from the third depth on, and no better after
    scores = torch.zeros(1, depths)
    labels = torch.tensor([7])
    found = depth_adaptive.loss((scores, logits), labels).item()
    assert found == pytest.approx(2 / depths * np.log(10) + np.log(depths), rel=1e-3)
    scores[0, 2] = 30.0  # says what the oracle says
    assert depth_adaptive.loss((scores, logits), labels).item() == pytest.approx(found - np.log(depths), rel=1e-3)


def router_by_hand(model: Any, image: Tensor, taken: list[int]) -> list[Tensor]:
    return [model.experts[taken[0]](model.stem(image))]


def slimmable_by_hand(model: Any, image: Tensor, taken: list[int]) -> list[Tensor]:
    return [model.at(taken[0], image)]


def depth_by_hand(model: Any, image: Tensor, taken: list[int]) -> list[Tensor]:
    depth = 1 + sum(taken)
    return [model.heads[depth - 1](nn.Sequential(*model.blocks[:depth])(model.stem(image)))]


def routed_exits_by_hand(model: Any, image: Tensor, taken: list[int]) -> list[Tensor]:
    features = model.first(image)
    routed = (nn.Identity(), model.short, model.long)[taken[0]](features)
    return [model.head0(features), model.head1(routed), model.head2(model.last(routed))]


def hierarchical_by_hand(model: Any, image: Tensor, taken: list[int]) -> list[Tensor]:
    features = model.trunk(image)
    within = torch.full((1, 10), hierarchical_exit.OUTSIDE)
    within[:, list(hierarchical_exit.GROUPS[taken[0]])] = model.fine[taken[0]](features)
    return [within, model.rest(features)]


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("router", router_by_hand),
        ("slimmable", slimmable_by_hand),
        ("depth_adaptive", depth_by_hand),
        ("routed_exits", routed_exits_by_hand),
        ("hierarchical_exit", hierarchical_by_hand),
    ],
)
def test_a_row_is_answered_by_the_part_that_its_decisions_name(
    name: str, by_hand: Callable[[Any, Tensor, list[int]], list[Tensor]]
) -> None:
    system = zoo.find(name)
    assert system.one_row
    assert system.decisions is not None
    model = system.load()
    paths = []
    with torch.no_grad():
        for row in torch.split(training.tensors("test")[0][:60], 1):
            taken = system.decisions(model, (row,))
            outputs = model(row)
            exits = [outputs] if isinstance(outputs, Tensor) else list(dict(enumerate(outputs)).values())
            exits = list(outputs.values()) if isinstance(outputs, dict) else exits
            for found, expected in zip(exits, by_hand(model, row, taken), strict=True):
                assert torch.allclose(found, expected, atol=1e-4)
            paths.append(tuple(taken))
    assert len(set(paths)) > 1, "the choice depends on the image"


def test_the_budgets_of_routers_are_shares() -> None:
    for shares in (router.SHARES, slimmable.SHARES, routed_exits.SHARES):
        assert sum(shares) == pytest.approx(1)
