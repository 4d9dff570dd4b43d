"""Whether a goal was met on held-out rows: one rule, against exact binomial probabilities, and what it refuses."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from bisect import bisect_left
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import binom
from test_tuning_search import made, plan_of
from test_tuning_tune import bundle, data, exported  # noqa: F401 - fixtures

import eetoolkit as ee
from eetoolkit.cli import main
from eetoolkit.tuning.collect import collect
from eetoolkit.tuning.evaluate import Evaluator, Subset
from eetoolkit.tuning.goal import GoalSpec
from eetoolkit.tuning.guarantee import GuaranteedChoice
from eetoolkit.tuning.intervals import Figures, bootstrap_means
from eetoolkit.tuning.objective import NEVER_REACHED, Candidates
from eetoolkit.tuning.outcome import LEAST_ROWS, Outcome, goal_outcome
from eetoolkit.tuning.remarks import budget_slack, remarks
from eetoolkit.tuning.risk import guarantee_of, least_rows

EARLY = np.array([0.0, np.nan])  # the first of two exits always answers


def outcome_of(
    kind: str,
    value: float,
    rows: int,
    lost: int,
    *,
    gained: int = 0,
    deep: int = 0,
    metric: bool = False,
    limits: np.ndarray = EARLY,
) -> Outcome:
    """Returns the outcome where an early exit loses so many rows and gains some; some rows (`deep`) leave late.

    The early exit costs a tenth of the whole network. In all there are three times as many rows.
    """
    part, chosen, whole = _figures(rows, lost, gained, deep, metric, tuple(limits))
    return goal_outcome(GoalSpec(kind, value), part, limits, chosen, whole, 3 * rows, None)  # type: ignore[arg-type] # its kinds


@functools.cache
def _figures(
    rows: int, lost: int, gained: int, deep: int, metric: bool, limits: tuple[float, ...]
) -> tuple[Subset, Figures, Figures]:
    record = made(0, rows=rows, exits=2)
    place = np.arange(rows)
    score = np.stack([place >= lost, (place < rows - gained) | (place < lost)], axis=1).astype(float)
    sure = np.stack([np.where(place >= rows - deep, -1.0, 1.0), np.ones(rows)], axis=1).astype(np.float32)
    record = dataclasses.replace(record, confidence=sure)
    part = Subset(record, score, np.tile([0.1, 1.0], (rows, 1)), (lambda *_: 0.0) if metric else None, "last", 0)
    evaluator = Evaluator(part, part, Candidates((np.zeros(1), np.zeros(0))), plan_of(2))
    return part, evaluator.choice("tuned", np.array(limits)), evaluator.always("whole network", None)


def most_lost(goal: float, rows: int) -> int:
    """Returns with how many lost rows at most a goal is called met; -1 where never."""

    def not_met(lost: int) -> bool:
        return not outcome_of("max_accuracy_drop", goal, rows, lost).met

    return bisect_left(range(rows + 1), 1, key=not_met) - 1


def test_who_loses_more_rows_does_not_meet_a_goal_that_who_loses_fewer_misses() -> None:
    met = [outcome_of("max_accuracy_drop", 0.1, 150, lost).met is True for lost in range(30)]
    assert met == sorted(met, reverse=True)
    assert sum(met) - 1 == most_lost(0.1, 150)


@pytest.mark.parametrize(("goal", "tolerance"), [(0.0, 0.02), (0.004, 0.02), (0.01, 0.02), (0.02, 0.04), (0.1, 0.05)])
def test_what_misses_by_more_than_the_tolerance_passes_once_in_forty_draws_at_most(
    goal: float, tolerance: float
) -> None:
    for rows in (100, 200, 400, 1500):
        most = most_lost(goal, rows)
        assert binom.cdf(most, rows, goal + tolerance) <= 1 / 40 + 0.005, rows
    assert binom.cdf(most, rows, goal / 2) > 0.9  # what keeps it well is called so
    assert most_lost(goal, 250) >= 0


def test_450_digits_with_a_drop_of_four_points_miss_a_goal_of_one_and_say_how_many_rows_tell_it() -> None:
    found = outcome_of("max_accuracy_drop", 0.01, 150, 6)
    assert found.met is False
    assert found.reason.startswith(
        "the drop is +4.00 [+1.33, +7.33] points on 150 held-out rows; the goal allows 1 point"
    )
    lucky = outcome_of("max_accuracy_drop", 0.01, 150, 3)  # 2 %, with an interval down to 0
    assert lucky.met is False
    assert "150 rows may show that by chance: they measure it to +-3.7 points, +-1 point needs about" in lucky.reason
    assert lucky.rows_needed is not None
    assert f"held-out rows, {lucky.rows_needed} rows in all" in lucky.reason
    surely = outcome_of("max_accuracy_drop", 0.01, 1500, 60)
    assert (surely.met, surely.rows_needed) == (False, None)


GOALS = [
    ("max_accuracy_drop", 0.01),
    ("max_accuracy_drop", 0.0),
    ("max_accuracy_drop", 0.5),
    ("min_accuracy", 0.9),
    ("min_accuracy", 1.0),
    ("min_accuracy", 0.1),
    ("budget_ms", 0.5),
    ("budget_share", 0.9),
    ("budget_share", 0.12),
]


@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.parametrize(("kind", "value"), GOALS)
def test_a_handful_of_rows_tells_nothing_and_as_many_as_are_named_do(kind: str, value: float, metric: bool) -> None:
    for lost in (0, 1):
        few = outcome_of(kind, value, 4, lost, metric=metric)
        assert few.met is None
        assert few.rows_needed is not None
        assert "4 rows are too few to know: they measure it to +-" in few.reason
    named = outcome_of(kind, value, 4, 0, metric=metric).rows_needed
    assert named is not None
    assert named % 3 == 0
    assert outcome_of(kind, value, named // 3, 0, metric=metric).met is True
    less = outcome_of(kind, value, int(0.9 * named / 3), 0, metric=metric)
    assert less.met is None
    assert less.rows_needed == pytest.approx(named, rel=0.1)
    assert not metric or "accuracy" not in less.reason


def test_fewer_than_thirty_rows_are_never_enough_even_for_the_whole_network() -> None:
    whole = np.full(2, np.nan)
    assert outcome_of("max_accuracy_drop", 0.01, LEAST_ROWS - 1, 0, limits=whole).met is None
    found = outcome_of("max_accuracy_drop", 0.0, LEAST_ROWS, 0, limits=whole)
    assert found == Outcome(met=True, reason="the whole network always answers, so nothing is lost")


def test_a_least_accuracy_and_a_budget_are_missed_where_their_figure_misses_them() -> None:
    assert outcome_of("min_accuracy", 0.95, 1000, 51).met is False
    assert outcome_of("min_accuracy", 0.95, 1000, 50).met is True
    # 28 of 100 rows cost 1, the others 0.1: 0.352 of the whole.
    assert outcome_of("budget_share", 0.352, 400, 0, deep=112).met is True
    over = outcome_of("budget_share", 0.35, 400, 0, deep=112)
    assert over.met is False
    assert over.reason.startswith("a run costs 35.2% [")
    assert "the goal allows 35%" in over.reason
    milliseconds = outcome_of("budget_ms", 0.36, 400, 0, deep=112)
    assert milliseconds.met is True
    assert milliseconds.reason.startswith("a run costs 0.352 ms [")
    # The rows that cost most may be missing from few: 0.1 is within a quarter of 0.11, what 40 rows rule out is not.
    assert outcome_of("budget_share", 0.11, 40, 0).met is None


def test_what_asks_for_less_is_no_harder_to_meet() -> None:
    for rows in (120, 400):
        most = [most_lost(goal, rows) for goal in (0.0, 1e-300, 0.002, 0.006, 0.01, 0.03, 0.2)]
        assert most == sorted(most)
        assert most[-1] > 0


def test_rows_that_differ_widen_what_can_be_known() -> None:
    still = outcome_of("max_accuracy_drop", 0.01, 250, 0)
    moved = outcome_of("max_accuracy_drop", 0.01, 250, 25, gained=25)
    assert (still.met, moved.met) == (True, None)  # both lose nothing in the mean
    assert moved.rows_needed is not None
    assert moved.rows_needed > 3 * 250


def test_a_guarantee_is_met_where_it_was_shown_and_unknown_where_rows_could_not_show_it() -> None:
    def of(rows: int, lost: int) -> Outcome:
        loss = (np.arange(rows) < lost).astype(float)[:, None]
        given = guarantee_of("ltt", loss, 0 if lost or rows < needed else 1, 0.05, 0.05)
        part = outcome_part(rows)
        chosen = Evaluator(part, part, Candidates((np.zeros(1), np.zeros(0))), plan_of(2)).choice("tuned", EARLY)
        guaranteed = GuaranteedChoice(given, EARLY, needed)
        return goal_outcome(GoalSpec("risk", 0.05), part, EARLY, chosen, chosen, 4 * rows, guaranteed)

    needed = least_rows("ltt", 0.05, 0.05)
    assert of(needed, 0).met is True
    assert of(needed, needed // 2).met is False
    few = of(needed - 10, 0)
    assert (few.met, few.rows_needed) == (None, 4 * needed)
    assert (
        f"{needed - 10} rows of its own are too few to show a risk of at most 5%: at least {needed} are needed"
        in few.reason
    )


def outcome_part(rows: int) -> Subset:
    record = made(0, rows=rows, exits=2)
    return Subset(record, np.ones((rows, 2)), np.tile([0.1, 1.0], (rows, 1)), None, "last", 0)


@pytest.fixture
def few_rows(bundle: ee.Bundle) -> ee.TuningReport:  # noqa: F811 - a fixture
    x, labels = data(12)
    return ee.tune(bundle, x, labels, threads=1)


def test_what_is_not_met_is_not_written_unless_forced(
    bundle: ee.Bundle,  # noqa: F811 - a fixture
    few_rows: ee.TuningReport,
    tmp_path: Path,
) -> None:
    before = (bundle.path / "manifest.json").read_bytes()
    assert few_rows.goal_met is None
    assert few_rows.rows_needed is not None
    # Nothing is lost on 5 held-out rows of 12: Wilson's end, z^2 / (n + z^2), is at most 0.01 + 0.02 from n = 125 on.
    assert 125 * 12 / 5 <= few_rows.rows_needed <= 1.03 * 125 * 12 / 5
    missed = msgspec.structs.replace(few_rows, goal_met=False, goal_reason="it drops")
    for report, said in ((few_rows, rf"goal unknown: .*, {few_rows.rows_needed} rows in all"), (missed, "it drops")):
        fix = r"Nothing was written: tune on more rows, ask for less, or pass force=True \(--force\)"
        with pytest.raises(ee.TuneError, match=rf"{said}\. {fix}"):
            report.apply()
        with pytest.raises(ee.TuneError, match=fix):
            report.prune(tmp_path / "short.ee")
    assert (bundle.path / "manifest.json").read_bytes() == before
    assert not (tmp_path / "short.ee").exists()
    assert few_rows.apply(force=True).manifest.tuning is not None
    assert few_rows.prune(tmp_path / "short.ee", force=True).rows > 0
    met = msgspec.structs.replace(few_rows, goal_met=True)
    assert met.apply().manifest.tuning is not None


def test_the_command_declines_last_and_does_what_else_was_asked(
    bundle: ee.Bundle,  # noqa: F811 - a fixture
    tmp_path: Path,
) -> None:
    pytest.importorskip("jinja2")
    x, labels = data(60)
    np.savez(tmp_path / "val.npz", x=x, labels=labels)
    before = (bundle.path / "manifest.json").read_bytes()
    command = ["tune", str(bundle.path), "--data", str(tmp_path / "val.npz"), "--threads", "1"]
    plain = CliRunner().invoke(main, command)
    assert plain.exit_code == 0, plain.output
    assert plain.stdout.startswith("goal unknown")
    declined = CliRunner().invoke(
        main,
        [
            *command, "--apply", "--prune", str(tmp_path / "short.ee"), "--json",
            "--report", str(tmp_path / "page.html"), "--record", str(tmp_path / "r.npz"),
        ],
    )  # fmt: skip
    assert declined.exit_code == 1
    told = json.loads(declined.stdout)
    assert told["goal_met"] is None
    assert told["rows_needed"] > 60
    assert f"{told['rows_needed']} rows in all" in told["goal_reason"]
    assert declined.stderr.startswith("error: goal unknown: ")
    assert declined.stderr.rstrip().endswith("or pass --force")
    assert declined.stderr.count("\n") == 1
    page = (tmp_path / "page.html").read_text()
    assert page.index("Goal unknown: ") < page.index("<nav")
    assert ee.tune(bundle, record=tmp_path / "r.npz").goal_met is None
    assert (bundle.path / "manifest.json").read_bytes() == before
    assert not (tmp_path / "short.ee").exists()
    shown = CliRunner().invoke(main, [*command, "--apply"])
    assert shown.exit_code == 1
    assert "bundle" in shown.stdout
    assert "unchanged; --apply --force writes" in shown.stdout
    assert shown.stdout.count(told["goal_reason"]) == 1
    assert shown.stderr == (
        "error: goal unknown: see above. Nothing was written: tune on more rows, ask for less, or pass --force\n"
    )
    forced = CliRunner().invoke(main, [*command, "--apply", "--force"])
    assert forced.exit_code == 0, forced.output
    assert "thresholds written" in forced.stdout
    assert ee.load(bundle.path).manifest.tuning is not None


def clear_middle(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns data of which the first exit sees nothing, and the second all that the last does."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 4, rows)
    noise = draw.normal(size=(rows, 4)) * 0.5
    middle = 2 * np.eye(4)[labels]
    return np.concatenate([noise, middle - noise, 0 * middle], axis=1).astype(np.float32), labels


def test_whether_early_exit_pays_is_unknown_where_the_goal_is_not_met_and_nothing_is_recommended(
    bundle: ee.Bundle,  # noqa: F811 - a fixture
) -> None:
    few = ee.tune(bundle, *clear_middle(60), calibrate=False, threads=1)
    assert str(few.verdict) == (
        "whether early exit pays is unknown: the held-out rows are too few to know whether the goal is met; about "
        f"{few.rows_needed} rows in all would do"
    )
    assert "truncate" not in str(few)
    x, labels = data(600)
    record = collect(bundle, x, labels, threads=1)
    report = ee.tune(bundle, record=record, max_accuracy_drop=0.02, seed=5)
    assert report.goal_met is False
    assert str(report.verdict) == "whether early exit pays is unknown: the goal is missed on the held-out rows"
    assert "pays here" not in str(report)


def test_where_rows_are_too_few_to_show_a_goal_this_is_said_and_about_how_many_would_do(
    bundle: ee.Bundle,  # noqa: F811 - a fixture
    tmp_path: Path,
) -> None:
    pytest.importorskip("jinja2")
    x, labels = data(4000)
    some = collect(bundle, x[:897], labels[:897], threads=1)
    report = ee.tune(bundle, record=some, max_accuracy_drop=0.001, calibrate=False)
    assert set(report.thresholds.values()) == {"never"}
    assert report.goal_met is True
    # One standard error of rows of which none is lost, sqrt(1 + 7 / 5) / n, is 0.001 at 1550 of 7 in 12 rows.
    assert report.rows_needed == pytest.approx(1550 * 12 / 7, rel=0.01)
    said = (
        "whether early exit pays is unknown: 524 tuning rows are too few to show that an early exit keeps the goal; "
        f"about {report.rows_needed} rows in all would do"
    )
    assert str(report.verdict) == said
    some.save(tmp_path / "some.npz")
    command = ["tune", str(bundle.path), "--record", str(tmp_path / "some.npz"), "--max-accuracy-drop", "0.001"]
    told = CliRunner().invoke(main, [*command, "--no-calibrate", "--report", str(tmp_path / "page.html")])
    assert " ".join(said.split()) in " ".join(told.stdout.split())
    assert "W" + said[1:] in (tmp_path / "page.html").read_text()
    # The same rows show that it does not pay where nothing leaves early at less cost.
    blind = dataclasses.replace(some, prediction=np.where(some.exit < 2, -1, some.prediction))
    sure = ee.tune(bundle, record=blind, max_accuracy_drop=0.001, calibrate=False)
    assert str(sure.verdict).startswith("early exit does not pay here: the whole network")
    assert sure.rows_needed is None


def test_no_number_of_rows_shows_that_nothing_is_lost(bundle: ee.Bundle) -> None:  # noqa: F811 - a fixture
    report = ee.tune(bundle, *data(400), max_accuracy_drop=0.0, calibrate=False, threads=1)
    assert set(report.thresholds.values()) == {"never"}
    assert str(report.verdict).endswith(
        "no number of rows shows that an early exit loses nothing; allow a drop above 0"
    )


def test_where_always_answering_at_one_exit_is_as_good_and_as_cheap_that_is_written_and_truncate_is_named(
    bundle: ee.Bundle,  # noqa: F811 - a fixture
) -> None:
    x, labels = clear_middle(900)
    report = ee.tune(bundle, x, labels, max_accuracy_drop=0.01, calibrate=False, threads=1)
    assert report.goal_met is True
    assert (report.verdict.best_static, report.verdict.static_exit) == ("always exit1", "exit1")
    assert not report.verdict.pays
    assert "always answering at exit1 meets the goal and costs no more; `eetoolkit truncate BUNDLE --at exit1`" in (
        str(report.verdict)
    )
    assert report.thresholds["exit0"] == "never"
    assert report.chosen.cost.value == report.verdict.static_cost == 3
    with ee.Runner(report.apply(), threads=1) as runner:
        for n in range(0, 900, 50):
            found, always = runner.run(x[n : n + 1]), runner.run(x[n : n + 1], exit_at="exit1")
            assert found.exit == "exit1"
            np.testing.assert_array_equal(found.outputs["logits"], always.outputs["logits"])


@pytest.mark.parametrize("goal", [{"max_accuracy_drop": 0.03}, {"min_accuracy": 0.85}, {"budget_share": 0.5}])
def test_a_verdict_that_early_exit_does_not_pay_comes_with_the_static_choice(
    bundle: ee.Bundle,  # noqa: F811 - a fixture
    goal: dict[str, float],
) -> None:
    x, labels = data(400)
    record = collect(bundle, x, labels, threads=1)
    for seed in range(4):
        report = ee.tune(bundle, record=record, seed=seed, **goal)  # type: ignore[arg-type] # the names are its goals
        costs = {each.name: each.cost.value for each in (*report.always, report.whole)}
        assert report.verdict.static_cost == costs[report.verdict.best_static]
        assert report.verdict.pays is (report.chosen.cost.value != report.verdict.static_cost)


def test_labels_of_other_rows_or_classes_are_remarked_on(bundle: ee.Bundle) -> None:  # noqa: F811 - a fixture
    x, labels = data(300)
    record = collect(bundle, x, labels, threads=1)
    shuffled = np.random.default_rng(0).permutation(labels)
    said = r"the whole network is right for \d+ of 300 rows, no more than by guessing among 4 classes"
    for given, remarked in ((labels, False), ((labels + 1) % 4, True), (shuffled, True)):
        other = dataclasses.replace(record, label=given)
        report = ee.tune(bundle, record=other, max_accuracy_drop=0.5)
        assert bool(re.search(said, str(report))) is remarked


def test_a_metric_that_sees_no_difference_in_a_few_rows_is_not_met_by_definition() -> None:
    found = outcome_of("max_accuracy_drop", 0.01, 40, 0, metric=True)
    assert found.met is None
    assert "whole network always answers" not in found.reason
    silent = outcome_of("max_accuracy_drop", 0.01, 40, 0, metric=True, limits=np.full(2, np.nan))
    assert silent.met is True
    assert silent.reason == "the whole network always answers, so nothing is lost"


@pytest.mark.parametrize("rows", [1, 7, 300, 9000])
def test_means_over_resampled_rows_are_those_of_one_draw_after_the_other(rows: int) -> None:
    columns, draw = np.random.default_rng(1).normal(size=(rows, 2)), np.random.default_rng(5)
    expected = [columns[draw.integers(0, rows, rows)].mean(axis=0) for _ in range(1000)]
    np.testing.assert_allclose(bootstrap_means(columns, 5), expected, rtol=1e-12)


def test_an_exit_that_never_fires_and_may_still_answer_is_named() -> None:
    part, chosen, _ = _figures(40, 0, 0, 0, False, (0.0, np.nan))
    goal, outcome = GoalSpec("budget_share", 0.5), Outcome(met=True, reason="")
    for limit, named in ((NEVER_REACHED, True), (0.5, False), (np.nan, False)):
        found = list(remarks(goal, part, chosen, np.array([limit, np.nan]), 40, outcome, static=False))
        said = "no finite confidence reaches the threshold of exit0, which may still answer where no exit fires"
        assert any(note.startswith(said) for note in found) is named


@pytest.mark.parametrize(
    ("kind", "value", "lost", "said"),
    [("budget_share", 1.0, 3, 1), ("budget_share", 0.99, 3, 0), ("budget_ms", 5.0, 3, 1), ("budget_ms", 0.5, 3, 0),
     ("budget_ms", 5.0, 0, 0), ("max_accuracy_drop", 5.0, 3, 0)],
)  # fmt: skip
def test_a_budget_that_the_better_whole_network_keeps_is_remarked_on(
    kind: str, value: float, lost: int, said: int
) -> None:
    _, chosen, whole = _figures(40, lost, 0, 0, False, (0.0, np.nan))
    assert whole.cost.value == 1
    assert len(list(budget_slack(GoalSpec(kind, value), chosen, whole))) == said
