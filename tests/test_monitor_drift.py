"""The rule that says when exits no longer answer the shares of rows that they were tuned for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import perf_counter
from typing import NamedTuple, get_args

import msgspec
import numpy as np
import pytest
from plans import Open, chain, opening, row
from scipy.stats import binom

from eetoolkit.tuning.intervals import intervals_of_shares
from eetoolkit_runtime.errors import DeadlineError
from eetoolkit_runtime.monitoring.drift import BLOCK, DriftTest, tuned_shares
from eetoolkit_runtime.monitoring.monitor import Monitor
from eetoolkit_runtime.plan.halves import cut_point, halves
from eetoolkit_runtime.plan.types import SHARE_OF, Manifest, Tuning
from eetoolkit_runtime.running.answer import Answer, StoppedBy
from eetoolkit_runtime.running.interrupt import Interrupt
from eetoolkit_runtime.truncate import _cut

SHARES = {"exit0": (0.7, 0.65, 0.75), "exit1": (0.2, 0.16, 0.25), "exit2": (0.1, 0.07, 0.14)}


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    yield from opening(tmp_path)


def tuning_of(plan: Manifest, shares: Mapping[str, tuple[float, float, float]]) -> Tuning:
    """Returns what tuning writes of a plan's thresholds and shares."""
    thresholds = {name: exit_.threshold for name, exit_ in plan.exits.items() if not exit_.ends}
    return Tuning(
        goal="", metric="accuracy", costs="", seed=0, rows={}, thresholds=thresholds, exits_before={},
        figures={SHARE_OF + name: figure for name, figure in shares.items()},
    )  # fmt: skip


def tuned_chain() -> Manifest:
    plan = chain().plan()
    return msgspec.structs.replace(plan, tuning=tuning_of(plan, SHARES))


def answering(rng: np.random.Generator, shares: list[float], count: int) -> np.ndarray:
    """Returns rows of `chain` that leave at the exits with these probabilities."""
    exits = rng.choice(3, count, p=shares)
    return np.eye(4, dtype=np.float32)[exits]


def test_rows_as_tuned_give_no_alarm_and_a_shift_is_found(opened: Open) -> None:
    draft, monitor, rng = chain(), Monitor(), np.random.default_rng(0)
    draft.options["tuning"] = tuning_of(draft.plan(), SHARES)
    runner = opened(draft, monitor=monitor)
    runner.run_batch(answering(rng, [0.7, 0.2, 0.1], 20_000))
    before = monitor.snapshot().drift
    assert (before.why_no_rule, before.alarms, before.rows) == (None, 0, 20_000)
    assert before.exits["exit0"].recent == pytest.approx(0.7, abs=0.05)
    assert str(before) == "no alarm in 20,000 rows (at most 0.01 false alarms in 100,000 rows)"
    for x in answering(rng, [0.55, 0.35, 0.1], 1500):
        runner.run(x[None])
    found = monitor.snapshot().drift
    assert found.alarms >= 1
    assert found.first is not None
    assert (found.first.exit, found.first.share) in {("exit0", "below"), ("exit1", "above")}
    assert 20_000 < found.first.rows <= 21_500
    assert f"{found.first.exit} {found.first.share} its interval, lately" in str(found)


def test_rows_with_other_thresholds_exits_or_fallbacks_do_not_count(opened: Open) -> None:
    draft, monitor = chain(), Monitor()
    draft.options["tuning"] = tuning_of(draft.plan(), SHARES)
    runner, other = opened(draft, monitor=monitor), opened(draft, monitor=monitor, fallback="most_confident")
    for _ in range(300):
        runner.run(row(0.9), thresholds={"exit0": 2.0})
        runner.run(row(0.9), exit_at="exit1")
        other.run(row(0.9))
    runner.run_batch(np.repeat(row(0.9), 300, axis=0), exit_at="exit1")
    assert monitor.snapshot().answers == 1200
    assert monitor.snapshot().drift.rows == 0
    runner.run(row(0.9))
    opened(draft, monitor=monitor, fallback="last").run(row(0.9))
    assert monitor.snapshot().drift.rows == 2


def test_a_row_that_was_stopped_counts_as_unknown(opened: Open) -> None:
    draft, monitor, token = chain(), Monitor(), Interrupt()
    draft.options["tuning"] = tuning_of(draft.plan(), SHARES)
    runner = opened(draft, monitor=monitor)
    token.set()
    for _ in range(BLOCK):
        with pytest.raises(DeadlineError):
            runner.run(row(0.9), interrupt=token)
    found = monitor.snapshot()
    assert (found.drift.rows, found.drift.alarms, found.errors["DeadlineError"]) == (BLOCK, 0, BLOCK)


def test_a_row_that_a_server_should_have_answered_counts_as_unknown() -> None:
    counted, expected = Monitor(), DriftTest(SHARES, 0.01, 100_000)
    counted.attach(tuned_chain(), get_args(StoppedBy))
    for exit_, stopped_by, rows in (("exit0", "exit", 150), ("exit1", "exit", 40), ("exit0", "remote", 66)):
        for _ in range(rows):
            counted.count(Answer({}, exit_, 0.9, (), 3, stopped_by=stopped_by), 0, True)
    expected.add(np.array([150, 40, 0]), 66)
    found = counted.snapshot()
    assert (found.exits["exit0"].answers, found.stopped_by["remote"], found.drift.rows) == (216, 66, 256)
    assert found.drift == expected.verdict()
    assert found.drift.exits["exit0"].recent == pytest.approx(150 / 190)


def test_rows_of_unknown_exits_are_no_evidence_for_either_side() -> None:
    without, with_unknown = (DriftTest(SHARES, 0.01, 100_000) for _ in range(2))
    left = np.array([170, 52, 38])
    without.add(left)
    with_unknown.add(left, 300)
    assert with_unknown.evidence < without.evidence
    for _ in range(1000):
        with_unknown.add(None, 300)
    assert with_unknown.alarms == 0


def test_the_evidence_is_the_papers_sum_of_products() -> None:
    """M is the sum over all beginnings of the likelihood ratios since then, averaged over ends and bets."""
    blocks = [np.array(left) for left in ([180, 50, 26], [150, 70, 36], [170, 60, 26], [140, 80, 36])]
    test = DriftTest(SHARES, 0.01, 100_000)
    for left in blocks:
        test.add(left)
    ratios = []
    for e, (_, low, high) in enumerate(SHARES.values()):
        for end, sign in ((high, 1), (low, -1)):
            for bet in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2):
                other = 1 / (1 + (1 - end) / end * math.exp(-sign * bet))  # the share with so different log odds
                each = [binom.logpmf(b[e], b.sum(), other) - binom.logpmf(b[e], b.sum(), end) for b in blocks]
                ratios.append(sum(math.exp(sum(each[start:])) for start in range(len(each))))
    assert test.evidence == pytest.approx(np.mean(ratios), rel=1e-9)


def simulated_alarms(ends: Mapping[str, tuple[float, float, float]], shares: list[float], weeks: int) -> int:
    """Returns how many of so many weeks of 100,000 rows have an alarm, by the test's steps for all weeks at once."""
    rng, found = np.random.default_rng(0), np.zeros(weeks, bool)
    test = DriftTest(dict(ends), 0.01, 100_000)
    logs, weights = np.full((weeks, *test._bets.shape), -np.inf), np.log(test._weights + 1e-300)
    for left in rng.multinomial(BLOCK, shares, (math.ceil(100_000 / BLOCK), weeks)):
        logs = np.logaddexp(logs, 0) + (left[:, None, :, None] * test._bets - BLOCK * test._norms)
        found |= np.logaddexp.reduce((logs + weights).reshape(weeks, -1), axis=1) >= np.log(test.limit)
    return int(found.sum())


def test_false_alarms_are_within_the_stated_rate_at_an_intervals_end_and_shifts_are_found() -> None:
    """`python -m benchmarks.monitor` does this for 1,000 weeks; these are 100, of which 1 may have an alarm."""
    assert simulated_alarms(SHARES, [0.65, 0.25, 0.10], 100) <= 1
    assert simulated_alarms(SHARES, [0.60, 0.30, 0.10], 20) == 20


def test_a_simulated_step_is_the_tests_own_step() -> None:
    test, left = DriftTest(SHARES, 0.01, 100_000), np.array([150, 70, 36])
    test.add(left)
    logs = left[:, None] * test._bets - BLOCK * test._norms
    assert math.log(test.evidence) == pytest.approx(np.logaddexp.reduce(logs + np.log(test._weights), axis=None))


def test_after_an_alarm_the_evidence_begins_anew() -> None:
    test = DriftTest(SHARES, 0.01, 100_000)
    test.add(np.array([0, 0, 256]))
    assert (test.alarms, test.verdict().evidence) == (1, 0.0)
    test.add(np.array([179, 51, 26]))
    assert test.alarms == 1
    test.add(np.array([0, 256, 0]))
    found = test.verdict()
    assert (found.alarms, found.first.rows, found.last.rows) == (2, 256, 768)  # type: ignore[union-attr]


def test_ends_that_cannot_be_left_are_not_tested() -> None:
    test = DriftTest({"exit0": (1.0, 0.97, 1.0), "exit1": (0.0, 0.0, 0.03)}, 0.01, 100_000)
    for _ in range(400):
        test.add(np.array([BLOCK, 0]))
    assert test.alarms == 0
    test.add(np.array([BLOCK // 2, BLOCK // 2]))
    assert test.alarms == 1


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        (chain().plan(), "the bundle was not tuned"),
        (_cut(tuned_chain(), "exit1"), "the bundle was not tuned"),
        (msgspec.structs.replace(tuned_chain(), segments=chain(0.5, 0.6).plan().segments), "the threshold of exit1"),
        (
            msgspec.structs.replace(tuned_chain(), tuning=tuning_of(chain().plan(), {})),
            "the manifest does not hold the tuned share of every exit",
        ),
        (
            msgspec.structs.replace(
                tuned_chain(), tuning=tuning_of(chain().plan(), dict.fromkeys(SHARES, (1 / 3, 0.0, 1.0)))
            ),
            "the held-out rows were too few",
        ),
    ],
)
def test_without_tuned_shares_it_counts_and_says_why_there_is_no_rule(plan: Manifest, why: str) -> None:
    monitor = Monitor()
    monitor.attach(plan, ("exit", "end"))
    assert monitor.snapshot().drift.why_no_rule is not None
    assert str(monitor.snapshot().drift).startswith(f"no rule: {why}")
    assert tuned_shares(plan)[0] == {}


def test_a_devices_half_keeps_the_shares_of_its_exits_and_of_what_goes_on(opened: Open) -> None:
    plan = tuned_chain()
    device = halves(plan, cut_point(plan, "exit0")).device
    shares, why = tuned_shares(device)
    assert why is None
    assert list(shares) == ["exit0", "handover"]
    assert shares["exit0"] == SHARES["exit0"]
    assert shares["handover"] == pytest.approx((0.3, 0.25, 0.35))
    assert device.tuning is not None
    assert plan.tuning is not None
    assert set(device.tuning.thresholds) == {"exit0"}
    lowest = dict.fromkeys(plan.exits, 0.1)
    promised = msgspec.structs.replace(plan, tuning=msgspec.structs.replace(plan.tuning, exits_before=lowest))
    before = halves(promised, cut_point(promised, "exit1")).device.tuning
    assert before is not None
    assert set(before.exits_before) == {"exit0", "exit1"}
    unsure = msgspec.structs.replace(plan, fallback="most_confident")  # the server may answer as exit0
    assert halves(unsure, cut_point(unsure, "exit0")).device.tuning is None


def test_rows_that_a_server_answered_count_as_handed_over() -> None:
    plan, monitor = tuned_chain(), Monitor()
    monitor.attach(halves(plan, cut_point(plan, "exit0")).device, ("exit", "end"))
    for name, count in (("exit0", 180), ("exit1", 51), ("exit2", 25)):
        for _ in range(count):
            monitor.count(Said(name), perf_counter(), True)
    as_tuned = monitor.snapshot().drift
    assert (as_tuned.why_no_rule, as_tuned.rows, as_tuned.alarms) == (None, BLOCK, 0)
    assert as_tuned.exits["handover"].recent == pytest.approx(76 / BLOCK)
    for _ in range(4 * BLOCK):
        monitor.count(Said("exit2"), perf_counter(), True)
    found = monitor.snapshot().drift
    assert found.first is not None
    assert (found.first.exit, found.first.share) in {("exit0", "below"), ("handover", "above")}


class Said(NamedTuple):
    """An answer, as far as a monitor looks."""

    exit: str
    confidence: float = 0.5
    stopped_by: str = "exit"


def test_a_half_of_what_was_not_tuned_says_what_to_do() -> None:
    plan = chain().plan()
    shares, why = tuned_shares(halves(plan, cut_point(plan, "exit0")).device)
    assert shares == {}
    assert why is not None
    assert why.endswith("since the bundle that was split had none; tune the whole bundle, apply, and split it again")


def test_intervals_of_shares_hold_together_as_often_as_they_say() -> None:
    """Clopper and Pearson's definition: beyond each end, what was found has probability 1 % over 2 E at most."""
    found = intervals_of_shares({"a": 0.9, "b": 0.1, "c": 0.0}, 50)
    assert (found["c"].low, found["b"].value) == (0.0, 0.1)
    for name, hits in (("a", 45), ("b", 5), ("c", 0)):
        if hits:
            assert binom.sf(hits - 1, 50, found[name].low) == pytest.approx(0.01 / 6)
        assert binom.cdf(hits, 50, found[name].high) == pytest.approx(0.01 / 6)
    truth, rng, missed = np.array([0.8, 0.15, 0.05]), np.random.default_rng(1), 0
    for counts in rng.multinomial(60, truth, 300):
        ends = intervals_of_shares(dict(zip("abc", (counts / 60).tolist(), strict=True)), 60)
        missed += any(not each.low <= p <= each.high for each, p in zip(ends.values(), truth, strict=True))
    assert missed <= 300 * 0.01


def test_a_rate_of_an_alarm_a_block_has_a_verdict_too() -> None:
    test = DriftTest(SHARES, 1.0, BLOCK)
    assert test.verdict().evidence == 0.0
    test.add(np.array([BLOCK, 0, 0]))
    assert test.verdict().alarms == 1
