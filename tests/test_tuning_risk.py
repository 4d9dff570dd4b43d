"""Guarantees: p-values and bounds against their formulas in plain Python, and Monte Carlo over the draw of the rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from test_tuning_search import made, plan_of

from eetoolkit.tuning.evaluate import Subset
from eetoolkit.tuning.guarantee import risk_path
from eetoolkit.tuning.objective import scores_of
from eetoolkit.tuning.replay import stops
from eetoolkit.tuning.risk import (
    Method,
    bound,
    conformal,
    guarantee_of,
    hoeffding_bentkus,
    last_passing,
    least_rows,
    log_wealth,
    losses,
)

RISK, DELTA = 0.05, 0.1


def test_the_p_value_is_that_of_the_paper() -> None:
    for lost, count in ((0, 100), (3, 100), (5, 100), (30, 100), (1, 37)):
        mean = lost / count
        low = min(mean, RISK)
        first = low * math.log(low / RISK) if low else 0.0
        hoeffding = math.exp(-count * (first + (1 - low) * math.log((1 - low) / (1 - RISK))))
        tail = sum(math.comb(count, k) * RISK**k * (1 - RISK) ** (count - k) for k in range(lost + 1))
        expected = min(1.0, hoeffding, math.e * tail)
        assert hoeffding_bentkus(np.array([mean]), count, RISK)[0] == pytest.approx(expected)


def test_the_wealth_is_that_of_a_plain_loop() -> None:
    loss = np.random.default_rng(0).uniform(size=40) ** 3
    total, squares, worth, best, variance = 0.0, 0.0, 1.0, 0.0, 0.25
    for t, value in enumerate(loss.tolist(), 1):
        bet = min(1.0, math.sqrt(2 * math.log(1 / DELTA) / (len(loss) * variance)))
        worth *= 1 - bet * (value - RISK)
        best = max(best, worth)
        total += value
        mean = (0.5 + total) / (1 + t)
        squares += (value - mean) ** 2
        variance = (0.25 + squares) / (1 + t)
    assert log_wealth(loss[:, None], RISK, DELTA)[0] == pytest.approx(math.log(best))


def test_the_betting_bound_is_where_the_wealth_reaches_one_over_delta() -> None:
    loss = (np.random.default_rng(1).uniform(size=500) < 0.03).astype(float)
    found = bound("ucb", loss[:, None], DELTA)
    assert loss.mean() < found < loss.mean() + 0.03
    assert log_wealth(loss[:, None], found + 1e-4, DELTA)[0] > math.log(1 / DELTA)
    assert log_wealth(loss[:, None], found - 1e-4, DELTA)[0] < math.log(1 / DELTA)
    assert bound("ucb", np.ones((10, 1)), DELTA) == 1.0


def test_a_bound_is_the_least_risk_that_passes() -> None:
    loss = (np.random.default_rng(2).uniform(size=400) < 0.02).astype(float)
    methods: tuple[Method, ...] = ("ltt", "ucb", "crc")
    for method in methods:
        found = bound(method, loss[:, None], DELTA)
        assert last_passing(method, loss[:, None], found + 1e-6, DELTA) == 1
        assert last_passing(method, loss[:, None], found - 1e-6, DELTA) == 0
        assert guarantee_of(method, loss[:, None], 1, 0.05, DELTA).bound == found
    # None lost of n: the binomial bound of Bentkus, e (1 - r)^n = delta, or Hoeffding's (1 - r)^n = delta, the less.
    assert bound("ltt", np.zeros((400, 1)), DELTA) == pytest.approx(1 - DELTA ** (1 / 400))


def test_a_bound_is_of_the_whole_path_that_was_passed() -> None:
    lost = [8, 0, 4]  # of 400 rows: at a risk that only the last shows, the test would stop at the first
    loss = np.array([[row < count for count in lost] for row in range(400)], float)
    methods: tuple[Method, ...] = ("ltt", "ucb", "crc")
    for method in methods:
        found = guarantee_of(method, loss, 3, 0.05, DELTA).bound
        assert last_passing(method, loss, found + 1e-6, DELTA) == 3
        assert last_passing(method, loss, found - 1e-6, DELTA) < 3
        assert found == pytest.approx(guarantee_of(method, loss[:, :1], 1, 0.05, DELTA).bound)


def test_the_last_passing_setting_is_taken_and_nothing_after_a_failure() -> None:
    rates = [0, 0, 5, 0]  # of 100 rows, so that the third fails and the fourth would pass
    loss = np.array([[row < lost * 4 for lost in rates] for row in range(400)], float)
    methods: tuple[Method, ...] = ("ltt", "ucb")
    for method in methods:
        assert last_passing(method, loss, 0.02, DELTA) == 2
    # made monotone, what was lost stays lost
    assert conformal(loss).tolist() == [1 / 401, 1 / 401, 21 / 401, 21 / 401]
    assert last_passing("crc", loss, 0.02, DELTA) == 2
    assert last_passing("ltt", loss[:, :2], 0.02, DELTA) == 2
    assert last_passing("ltt", loss[:, 2:], 0.02, DELTA) == 0
    told = guarantee_of("ltt", loss, 2, 0.02, DELTA)
    assert (told.passed, told.found, told.rows, told.delta) == (True, 0.0, 400, DELTA)
    assert not guarantee_of("ltt", loss, 0, 0.02, DELTA).passed
    assert guarantee_of("crc", loss, 2, 0.02, DELTA).delta is None


@pytest.mark.parametrize("method", ["ltt", "ucb", "crc"])
def test_fewer_rows_than_the_least_never_pass(method: Method) -> None:
    count = least_rows(method, RISK, DELTA)
    assert last_passing(method, np.zeros((count, 1)), RISK, DELTA) == 1
    fewer = count - 1 if method != "ucb" else int(count / 1.1) - 2
    assert last_passing(method, np.zeros((fewer, 1)), RISK, DELTA) == 0


DRAWS = 1000
ROWS = 500


def drawn(draw: np.random.Generator) -> np.ndarray:
    """Returns the losses of rows along a path of 40 settings whose risk is known, (ROWS, 40)."""
    hard, luck = draw.uniform(size=(ROWS, 1)), draw.uniform(size=(ROWS, 1))
    return ((hard < np.linspace(0, 0.4, 40)) & (luck < 0.5)).astype(float)


TRUE_RISKS = np.linspace(0, 0.4, 40) * 0.5


@pytest.mark.parametrize("method", ["ltt", "ucb"])
def test_the_risk_is_broken_in_at_most_delta_of_a_thousand_draws(method: Method) -> None:
    draw = np.random.default_rng(0)
    risks = []
    for _ in range(DRAWS):
        passing = last_passing(method, drawn(draw), RISK, DELTA)
        risks.append(TRUE_RISKS[passing - 1] if passing else 0.0)
    broken = np.mean(np.array(risks) > RISK)
    assert broken <= DELTA + 3 * math.sqrt(DELTA * (1 - DELTA) / DRAWS)
    assert np.mean(risks) > 0.5 * RISK  # a rule that never dares anything would hold as well


@pytest.mark.parametrize("method", ["ltt", "ucb"])
def test_it_holds_for_a_path_that_the_search_has_built(method: Method) -> None:
    everyone = made(7, rows=20_000, exits=4)
    cost = np.broadcast_to([0.25, 0.5, 0.75, 1.0], everyone.exit.shape)
    whole = Subset(everyone, scores_of(everyone, None), cost, None, "last", 0)
    path = risk_path(whole.take(np.arange(1500)), plan_of(4), RISK)
    assert len(path) > 10
    others = whole.take(np.arange(1500, 20_000))
    loss = losses(others, stops(others.record, path))
    risks = loss.mean(axis=0)
    assert risks[0] < RISK < risks[-1]
    draw, found = np.random.default_rng(3), []
    for _ in range(DRAWS):
        passing = last_passing(method, loss[draw.integers(0, len(loss), ROWS)], RISK, DELTA)
        found.append(risks[passing - 1] if passing else 0.0)
    assert np.mean(np.array(found) > RISK) <= DELTA + 3 * math.sqrt(DELTA * (1 - DELTA) / DRAWS)
    assert np.mean(found) > 0.4 * RISK


def test_conformal_risk_control_bounds_the_mean_over_draws() -> None:
    draw = np.random.default_rng(1)
    risks = [TRUE_RISKS[max(0, last_passing("crc", drawn(draw), RISK, DELTA) - 1)] for _ in range(DRAWS)]
    assert np.mean(risks) <= RISK + 3 * np.std(risks) / math.sqrt(DRAWS)
    assert np.mean(risks) > 0.7 * RISK
    assert np.mean(np.array(risks) > RISK) > DELTA  # it promises the mean, and not each draw


def test_taking_the_first_failing_setting_would_break_it() -> None:
    draw = np.random.default_rng(2)
    passing = [last_passing("ucb", drawn(draw), RISK, DELTA) for _ in range(300)]
    means = [np.mean(TRUE_RISKS[np.array(passing) - 1 + more] > RISK) for more in (0, 6)]
    assert means[0] <= DELTA < means[1]
