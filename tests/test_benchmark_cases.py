"""The benchmark's splits, thresholds and peers: what must hold before anything is timed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import peers, real_cases, real_process, real_report, turns
from benchmarks.cases import archives, fit, mnist, mobilenet, reviews
from benchmarks.cases.case import Case, Link, Part, logits
from benchmarks.cases.splits import split
from benchmarks.policy import Policy, choose, stops


def test_splits_are_disjoint_stratified_and_the_same_every_time() -> None:
    labels = np.repeat(np.arange(5), [100, 200, 300, 250, 150])
    parts = split(labels, 150, 200)
    every = np.concatenate([parts.train, parts.validation, parts.test])
    assert sorted(every.tolist()) == list(range(1000))
    assert (len(parts.validation), len(parts.test)) == (150, 200)
    for rows in (parts.train, parts.validation, parts.test):
        shares = np.bincount(labels[rows]) / len(rows)
        np.testing.assert_allclose(shares, [0.1, 0.2, 0.3, 0.25, 0.15], atol=0.004)
    again = split(labels, 150, 200)
    assert (again.test == parts.test).all()
    assert (again.validation == parts.validation).all()


def test_splits_larger_than_the_data_are_refused() -> None:
    with pytest.raises(ValueError, match="10 rows cannot be parted into 5 and 5"):
        split(np.zeros(10, np.int64), 5, 5)


def test_weights_are_made_once_for_each_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(archives.CACHE_VARIABLE, str(tmp_path))
    recipe = fit.Recipe(0, 1, 0.1, 0.0, (1.0,), 0.0, 0.0, 0.0, data="none")

    def make(one: fit.Recipe) -> torch.Tensor:
        network = fit.trained("linear", lambda: torch.nn.Linear(3, 2), one, lambda _: [], 0)
        assert not network.training
        return network.state_dict()["weight"]

    first = make(recipe)
    (path,) = tmp_path.iterdir()
    monkeypatch.setattr(fit, "fit", lambda *_, **__: pytest.fail("trained again"))
    assert torch.equal(make(recipe), first)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        make(replace(recipe, seed=1))


def test_earlier_exits_learn_from_the_last_and_not_it_from_them() -> None:
    recipe = replace(mnist.RECIPE, exit_weights=(1.0, 0.0), smoothing=0.0)
    first, last = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0])
    loss = fit.joint_loss((first, last), labels, recipe)
    own, taught = first.log_softmax(1), last.softmax(1)
    by_hand = -own[torch.arange(4), labels].mean() + (taught * (taught.log() - own)).sum(1).mean()
    torch.testing.assert_close(loss, by_hand)
    torch.autograd.backward(loss)
    assert last.grad is None or not last.grad.any()


def test_augmented_images_keep_their_shape_and_range() -> None:
    images = torch.rand(6, 1, 28, 28)
    moved = mnist.augment(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert torch.equal(moved, mnist.augment(images, torch.Generator().manual_seed(0)))


def test_inverted_residuals_have_a_shortcut_where_shapes_agree() -> None:
    network = mobilenet.MobileNet().eval()
    blocks = [block for block in network.modules() if isinstance(block, mobilenet.InvertedResidual)]
    assert [block.same for block in blocks] == [False, True, False, True, True, False, True, True]
    features = torch.rand(2, 24, 5, 5)
    torch.testing.assert_close(blocks[1](features), features + blocks[1].layers(features))
    assert [exit_.shape for exit_ in network(torch.rand(2, 1, 28, 28))] == [(2, 10)] * 3


def test_padding_is_masked() -> None:
    ids, mask = reviews.pad([np.array([5, 6]), np.array([7, 8, 9])])
    assert ids.tolist() == [[5, 6, 0], [7, 8, 9]]
    assert mask.tolist() == [[1, 1, 0], [1, 1, 1]]


def test_rows_stop_at_the_first_exit_that_is_sure_enough() -> None:
    confidences = np.array([[0.9, 0.5, 0.5], [0.99, 0.8, 0.5], [0.1, 0.1, 0.1]])
    assert stops(confidences, np.array([0.9, 0.8])).tolist() == [0, 1, 2]
    assert stops(confidences[-1:], np.array([])).tolist() == [0, 0, 0]


def test_the_policy_is_the_cheapest_within_the_loss() -> None:
    confidences = np.array([[0.9, 0.8, 0.7, 0.6], [1.0, 1.0, 1.0, 1.0]])
    right = np.array([[True, True, False, True], [True, True, True, True]])
    assert choose(confidences, right, [1, 10], 0.0) == Policy((0, 1), (pytest.approx(0.75),))
    assert choose(confidences, right, [1, 10], 0.25) == Policy((0, 1), (0.0,))
    never = np.array([[False] * 4, [True] * 4])
    assert choose(confidences, never, [1, 10], 0.0) == Policy((1,), ())


@pytest.mark.parametrize("seed", range(5))
def test_the_policy_keeps_the_accuracy_and_saves(seed: int) -> None:
    rng = np.random.default_rng(seed)
    confidences = rng.random((4, 200))
    right = rng.random((4, 200)) < 0.6 + 0.4 * confidences
    costs = [1, 3, 6, 10]
    policy = choose(confidences, right, costs, 0.02)
    taken = np.array(policy.exits)[stops(confidences[list(policy.exits)], np.array(policy.thresholds))]
    assert right[taken, np.arange(200)].mean() >= right[-1].mean() - 0.02
    assert np.array(costs)[taken].mean() < 10
    # No better one with a single threshold for all exits.
    for level in np.linspace(0, 1, 40):
        taken_at = stops(confidences, np.full(3, level))
        if right[taken_at, np.arange(200)].mean() >= right[-1].mean() - 0.02:
            assert np.array(costs)[taken].mean() <= 1.01 * np.array(costs)[taken_at].mean()


def test_every_peer_that_needs_nothing_fetched_answers_as_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exits = (0, 2, 3)

    def refuse(*_: object) -> None:
        raise ValueError("not fetched in tests")

    monkeypatch.setattr(peers.earlyon_peer, "eager", refuse)
    monkeypatch.setattr(peers.earlyon_peer, "staged", refuse)
    torch.manual_seed(0)
    network = mnist.ResNet().eval()
    chain = tuple(Link(trunk, head) for trunk, head in zip(network.stages, network.heads, strict=True))
    generator = np.random.default_rng(0)
    rows = [(generator.random((1, 1, 28, 28), np.float32),) for _ in range(8)]
    part = Part(rows, np.zeros(8, np.int64))
    case = Case("mnist", "untrained", network, chain, (torch.rand(2, 1, 28, 28),), part, part)
    wanted = logits(network, rows)
    confidences = torch.from_numpy(wanted).softmax(2).amax(2).numpy()
    ordered = np.sort(confidences, axis=1)
    thresholds = tuple(float(ordered[number, 4:6].mean()) for number in exits[:-1])
    policy = Policy(exits, thresholds)
    stopped = tuple(np.array(exits)[stops(confidences[list(exits)], np.array(thresholds))].tolist())
    assert peers.write(case, policy, 1, tmp_path) is None
    found, refused = peers.open_peers(case, policy, 1, stopped, rows, tmp_path, 1, 0)
    assert set(refused) == {"earlyon eager", "earlyon staged"}
    assert set(found) == {
        "bundle", "whole", "fixed", "hand-truncated", "hand-truncated, no earlier heads", "one file", "eager",
    }  # fmt: skip
    for name, peer in found.items():
        real_process.check(name, peer, wanted, stopped)
    with pytest.raises(RuntimeError, match="bundle answers otherwise than the eager network on row 0"):
        real_process.check("bundle", found["bundle"], wanted + 1, stopped)
    with pytest.raises(RuntimeError, match="eager stops at exit"):
        real_process.check("eager", found["eager"], wanted, tuple(5 for _ in stopped))


def test_the_chain_of_a_bert_is_the_bert_on_one_row() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32
    )
    torch.manual_seed(0)
    network = reviews.ReviewBert(transformers.BertModel(config, add_pooling_layer=False)).eval()
    ids = torch.randint(0, 50, (1, 7))
    wanted = network(ids, torch.ones_like(ids))
    states = ids
    for link, exit_ in zip(reviews.links(network), wanted, strict=True):
        states = link.trunk(states)
        torch.testing.assert_close(link.head(states), exit_)


def test_what_runs_in_turns_is_timed_on_every_row() -> None:
    called: dict[str, list[int]] = {"a": [], "b": []}

    def peer(name: str) -> peers.Peer:
        return peers.Peer(range(40), called[name].append, lambda _: (np.zeros((1, 2)), -1))

    found = turns.timed({name: peer(name) for name in called}, 0.0, 0, settle=False)
    assert found.shape == (2, 2, 40)
    assert (found > 0).all()
    assert [len(rows) for rows in called.values()] == [2 * (40 + 2)] * 2  # and the first row of both blocks, untimed


def test_the_ratio_is_of_the_means_and_its_interval_paired() -> None:
    below = np.random.default_rng(0).random((3, 50)) + 0.5
    assert turns.ratio(2 * below, below) == pytest.approx((2, 2, 2))
    noisy = below * (1 + 0.2 * np.random.default_rng(1).random((3, 50)))
    times, low, high = turns.ratio(noisy, below)
    assert low < times < high
    assert times == pytest.approx(noisy.mean() / below.mean())


def test_what_is_compared_is_the_bundle_over_its_peer() -> None:
    bundle = np.random.default_rng(0).random((3, 50)) + 0.5
    found = turns.compared({"peer": 4 * bundle, "bundle": bundle})
    assert found["peer"]["bundle_over"] == pytest.approx(0.25)
    assert found["peer"]["bundle_over_p95"] == pytest.approx(0.25)
    assert found["bundle"]["bundle_over"] == found["bundle"]["bundle_over_p95"] == 1
    assert found["peer"]["mean_ms"] == pytest.approx(4 * bundle.mean())


def test_a_static_network_has_the_benefit_of_the_doubt() -> None:
    def rights(*shares: float) -> np.ndarray:
        return np.array([[place < share * 1000 for place in range(1000)] for share in shares])

    last = np.full(1000, 2)
    assert real_cases._fixed(rights(0.9, 0.994, 1.0), rights(0.9, 0.99, 1.0), last) == 2
    assert real_cases._fixed(rights(0.9, 0.995, 1.0), rights(0.9, 0.99, 1.0), last) == 1  # on validation data
    assert real_cases._fixed(rights(0.9, 0.99, 1.0), rights(0.995, 0.99, 1.0), last) == 0  # on test data
    assert real_cases._fixed(rights(0.9, 0.99, 1.0), rights(0.9, 0.97, 1.0), np.full(1000, 1)) == 1  # as the bundle


def test_missed_targets_are_told_with_their_figures() -> None:
    def peer(over: float) -> dict[str, float]:
        return {"bundle_over": over, "low": over - 0.05, "high": over + 0.05, "mean_ms": 1.0}

    kept = {"bundle": peer(1), "whole": peer(0.33), "fixed": peer(0.7), "hand-truncated": peer(0.97)}
    row = {"case": "MNIST", "name": "mnist", "threads": 1, "drop_points": 0.2, "peers": kept}
    assert real_report._targets([row]) == "No target was missed."
    missed = {**kept, "whole": peer(0.41), "fixed": peer(0.75), "hand-truncated": peer(1.0)}
    told = real_report._targets([{**row, "drop_points": 0.6, "peers": missed}])
    assert "0.60 points lost" in told
    assert "0.410 (0.360 to 0.460) of the whole network, at most 0.4" in told
    assert "0.750 (0.700 to 0.800) of the best fixed exit, at most 0.769" in told
    assert "1.000 (0.950 to 1.050) of a hand-truncated session, at most 1.03" in told


def test_a_later_exit_costs_more_and_a_convolution_what_its_formula_says() -> None:
    network = mnist.ResNet().eval()
    chain = tuple(Link(trunk, head) for trunk, head in zip(network.stages, network.heads, strict=True))
    part = Part([(np.zeros((1, 1, 28, 28), np.float32),)], np.zeros(1, np.int64))
    costs = real_cases._costs(Case("mnist", "untrained", network, chain, (), part, part))
    stem, block, shortcut, head = 196 * 25 * 12, 196 * 9 * (12 * 16 + 16 * 16), 196 * 12 * 16, 160
    assert costs[0] == stem + block + shortcut + head
    assert costs == sorted(costs)
