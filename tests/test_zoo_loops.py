"""The zoo's loops against their papers' formulas in plain numpy, and row by row against batches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from eetoolkit.zoo import act, anytime_neural_network, layer_reordering, loop_exits, pondernet, universal_transformer
from eetoolkit.zoo.system import System
from eetoolkit.zoo.train import tensors
from eetoolkit_exporters.capturing.marker import watching

Array = npt.NDArray[np.float64]

LOOPS = (act.SYSTEM, pondernet.SYSTEM, universal_transformer.SYSTEM)
ROWS = 60


def images() -> torch.Tensor:
    return tensors("test")[0][:ROWS]


def weights(module: torch.nn.Module) -> dict[str, Array]:
    return {name: value.double().numpy() for name, value in module.state_dict().items()}


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def gru(w: dict[str, Array], x: Array, h: Array) -> Array:
    """One step of the cell that `torch.nn.GRUCell` documents; reset, update, new."""
    from_x = np.split(w["cell.weight_ih"] @ x + w["cell.bias_ih"], 3)
    from_h = np.split(w["cell.weight_hh"] @ h + w["cell.bias_hh"], 3)
    reset, update = sigmoid(from_x[0] + from_h[0]), sigmoid(from_x[1] + from_h[1])
    new = np.tanh(from_x[2] + reset * from_h[2])
    result: Array = (1 - update) * new + update * h
    return result


def graves(w: dict[str, Array], pixels: Array) -> tuple[Array, int, float]:
    """The logits, N and R of one image, written from section 2 of the paper: first all h, then N, R and the mean."""
    state, states, halting = np.zeros(act.STATE), [], []
    for n in range(1, act.MAX_STEPS + 1):
        state = gru(w, np.concatenate([pixels, [float(n == 1)]]), state)
        states.append(state)
        halting.append(float(sigmoid(w["halt.weight"] @ state + w["halt.bias"])[0]))
    sums = np.cumsum(halting)
    reached = [n for n in range(1, act.MAX_STEPS + 1) if sums[n - 1] >= 1 - act.EPSILON]
    count = min([*reached, act.MAX_STEPS])
    remainder = 1 - sum(halting[: count - 1])
    p = [*halting[: count - 1], remainder]
    mean = sum((share * s for share, s in zip(p, states, strict=False)), np.zeros(act.STATE))
    return w["head.weight"] @ mean + w["head.bias"], count, remainder


def test_act_is_the_formula_of_its_paper() -> None:
    model = act.SYSTEM.load()
    w = weights(model)
    counts = set()
    for row in images():
        logits, count, remainder = graves(w, row.flatten().double().numpy())
        with torch.no_grad():
            answer = model(row[None])["exit0"]
        np.testing.assert_allclose(answer["logits"][0], logits, rtol=1e-4, atol=1e-4)
        assert float(answer["ponder_cost"]) == pytest.approx(count + remainder, abs=1e-5)
        assert act.decisions(model, (row[None],)) == [1] * (count - 1) + [0]
        counts.add(count)
    assert len(counts) > 1


@pytest.mark.parametrize(("bias", "steps", "remainder"), [(20.0, 1, 1.0), (-20.0, act.MAX_STEPS, 1.0)])
def test_act_halts_at_once_or_is_forced_to(bias: float, steps: int, remainder: float) -> None:
    model = act.SYSTEM.load()
    torch.nn.init.zeros_(model.halt.weight)
    torch.nn.init.constant_(model.halt.bias, bias)
    with torch.no_grad():
        answer = model(images()[:1])["exit0"]
    assert float(answer["ponder_cost"]) == pytest.approx(steps + remainder, abs=1e-5)


def test_pondernet_halts_at_the_median_of_its_distribution() -> None:
    model = pondernet.SYSTEM.load()
    w = weights(model)
    counts = set()
    for row in images():
        pixels, state, going, count = row.flatten().double().numpy(), np.zeros(pondernet.STATE), 1.0, 0
        p: list[float] = []
        while sum(p) < pondernet.QUANTILE and count < pondernet.MAX_STEPS:
            state, count = gru(w, pixels, state), count + 1
            halting = float(sigmoid(w["halt.weight"] @ state + w["halt.bias"])[0])
            p.append(halting * going)
            going *= 1 - halting
        with torch.no_grad():
            answer = model(row[None])["exit0"]
        expected = w["head.weight"] @ state + w["head.bias"]
        np.testing.assert_allclose(answer["logits"][0], expected, rtol=1e-4, atol=1e-4)
        assert float(answer["ponder_cost"]) == count
        assert pondernet.decisions(model, (row[None],)) == [1] * (count - 1) + [0]
        counts.add(count)
    assert len(counts) > 1


def test_pondernets_loss_is_the_sum_written_out() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(3, pondernet.MAX_STEPS, 10), torch.tensor([1, 7, 9])
    halting = torch.rand(3, pondernet.MAX_STEPS)
    halting[:, -1] = 1
    total = 0.0
    prior = [pondernet.PRIOR * (1 - pondernet.PRIOR) ** n for n in range(pondernet.MAX_STEPS)]
    for row in range(3):
        going = 1.0
        for n in range(pondernet.MAX_STEPS):
            p = going * float(halting[row, n])
            going *= 1 - float(halting[row, n])
            z = logits[row, n].double().numpy()
            total += p * (np.log(np.exp(z).sum()) - z[labels[row]])
            total += pondernet.PRIOR_WEIGHT * p * np.log(p / (prior[n] / sum(prior)))
    found = pondernet.loss({"exit0": {"logits": logits, "halting": halting}}, labels)
    assert float(found) == pytest.approx(total / 3, rel=1e-5)


@pytest.mark.parametrize("system", LOOPS, ids=lambda system: system.name)
def test_a_batch_gives_what_its_rows_give_alone(system: System) -> None:
    model = system.load()
    some = images()[:12]
    with torch.no_grad():
        together = model(some)["exit0"]
        for row in range(len(some)):
            alone = model(some[row : row + 1])["exit0"]
            for name, tensor in alone.items():
                torch.testing.assert_close(tensor[0], together[name][row], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["act", "universal_transformer"])
def test_training_unrolls_what_evaluation_loops_over(name: str) -> None:
    system = {system.name: system for system in LOOPS}[name]
    model = system.load()
    some = images()[:12]
    with torch.no_grad():
        looped = model(some)["exit0"]
        unrolled = model.train()(some)["exit0"]
    for output, tensor in looped.items():
        torch.testing.assert_close(tensor, unrolled[output], rtol=1e-5, atol=1e-5)


def test_a_position_that_has_halted_keeps_its_state() -> None:
    model = universal_transformer.SYSTEM.load()
    with torch.no_grad():
        depth = model.begin(images()[:1])
        running = depth.running.clone()
        running[:, 2:5] = False
        later = model.deepen(depth._replace(running=running))
    torch.testing.assert_close(later.states[:, 2:5], depth.states[:, 2:5], rtol=0, atol=0)
    assert not torch.equal(later.states[:, :2], depth.states[:, :2])
    assert float(later.ponder[:, 2:5].abs().max()) == 0


def test_adaloss_weighs_by_the_inverse_of_the_running_average() -> None:
    balanced = anytime_neural_network.AdaLoss()
    labels = torch.tensor([0, 1])
    sure, unsure = torch.eye(10)[:2] * 5, torch.zeros(2, 10)
    averages = np.zeros(2)
    for batch, outputs in enumerate([(unsure, sure), (unsure, unsure), (sure, sure)]):
        losses = np.array([torch.nn.functional.cross_entropy(logits, labels) for logits in outputs])
        memory = anytime_neural_network.MEMORY
        averages = losses if batch == 0 else memory * averages + (1 - memory) * losses
        weight = (1 / averages) / (1 / averages).mean()
        assert float(balanced(outputs, labels)) == pytest.approx(float((weight * losses).sum()), rel=1e-5)
    assert float(balanced.weights()[1]) > float(balanced.weights()[0])


def test_adaloss_has_no_weights_before_the_first_batch() -> None:
    with pytest.raises(RuntimeError, match="no averages before its first batch"):
        anytime_neural_network.AdaLoss().weights()


def test_the_loop_follows_the_path_that_the_router_chose() -> None:
    model = layer_reordering.SYSTEM.load()
    paths = set()
    with torch.no_grad():
        for row in images().split(1):
            features = model.embed(row.flatten(1))
            path = layer_reordering.PATHS[int(model.router(row.flatten(1)).argmax())]
            torch.testing.assert_close(model(row), model.along(features, path), rtol=1e-5, atol=1e-5)
            going_on = layer_reordering.decisions(model, (row,))[2::2]
            assert going_on == [1] * (len(path) - 1) + [0]
            paths.add(path)
    assert len(paths) > 1


def test_the_marked_exit_gives_every_iterations_answer() -> None:
    model = loop_exits.SYSTEM.load()
    row = images()[:1]
    with torch.no_grad():
        with watching() as watcher:
            last = model(row)["last"]
        unrolled = list(model.train()(row).values())
    assert [name for name, _ in watcher.visits] == ["iteration"] * loop_exits.ITERATIONS
    for (_, outputs), logits in zip(watcher.visits, unrolled, strict=True):
        np.testing.assert_allclose(outputs["logits"], logits.numpy(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(last, unrolled[-1], rtol=1e-5, atol=1e-5)
