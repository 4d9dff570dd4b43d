"""The tuner's frontier beside greedy search and others' rules, on held-out rows.

One record holds every exit's answer to all rows that a case's network has not learned from. It is split again and again
by `eetoolkit.tuning.splits`; on the tune part of each split every rule chooses thresholds for each of several goals,
and one search is asked for the same. All of it is then replayed on the split's test part, with the same costs.

What was tried on the validation rows alone against choosing too closely, read as here at equal cost (points, at the
mean of 14 costs): thresholds averaged over searches on 16 resamples lost 0.3 to 0.8, their median 0.1 to 0.2; score
smoothed by a regression on all confidences gave -0.02 to +0.04, standard errors 0.04 to 0.11; 12 candidates an exit
lost 0.08 to 0.17, 50 lost 0.05, 25 or 200 gave -0.07 to +0.07 and not one sign for all cases. None was kept. Starting
the search from the rules' own choices gave 0.01 to 0.05 on all three cases, against each of four rules, and was kept.
Moves of two exits at once, and all settings where these are few, were dropped: over 20 splits and 9 constraints they
changed nothing for digits, MNIST and MobileNet, and for film reviews held-out cost by -0.23 % (standard error 0.08) and
the drop by +0.01 points (0.01), at two to ten times the time of the search.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import t as student

import eetoolkit as ee
from benchmarks import earlyon_rule
from benchmarks.cases.case import Case
from benchmarks.cases.catalogue import NAMES, load_case
from benchmarks.section import Row, Section, publish
from eetoolkit.tuning.baselines import baselines
from eetoolkit.tuning.collect import collect
from eetoolkit.tuning.costs import choose_costs
from eetoolkit.tuning.evaluate import Subset, objective_of
from eetoolkit.tuning.manifest import may_fire
from eetoolkit.tuning.objective import scores_of, settings_of
from eetoolkit.tuning.search import Constraint, Search
from eetoolkit.tuning.splits import split
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.plan.types import Manifest

SPLITS = 20
DROPS = (0.0, 0.005, 0.01, 0.02)
BUDGETS = (2 / 3, 1 / 3)
"""Between the whole network's cost (0) and the first exit's (1), evenly by their ratio."""


def _interval(row: Row, name: str, form: str) -> str:
    return f"{row[name]:{form}} ({row[name + '_low']:{form}} to {row[name + '_high']:{form}})"


SECTION = Section(
    "frontiers",
    "Tuning: the frontier on held-out data",
    (
        "Everything from one record per case, of all rows that the network has not learned from, in "
        f"{SPLITS} splits into a tune and a test part (`eetoolkit.tuning.splits`; no temperatures). On each tune part "
        f"every rule chooses its thresholds for {len(DROPS) + len(BUDGETS)} goals: least cost at a drop of at most "
        f"{', '.join(f'{100 * drop:g}' for drop in DROPS)} points, and best accuracy within {len(BUDGETS)} budgets "
        "between the first exit's cost and the whole network's; one search is asked for the same goals. Costs are "
        "multiply-adds, and for film reviews, whose length varies, segments run. *At its cost*: the frontier is what "
        "its points, all chosen on the tune part, score and cost on the test part, with straight lines between "
        "them (which choosing between two points by lot reaches); it is read at the very cost that the rule's choice "
        "has on the test part, and the points are its accuracy less that choice's. *On the tune part*: the same there, "
        "by the best point that costs no more; it cannot be below 0, which is checked for every goal and split. *Its "
        "worst goal*: the least of the goals' means. *At its accuracy*: test cost of the cheapest point that the "
        "tune part calls as accurate as the rule's choice, over that choice's test cost (geometric mean), and what "
        "test accuracy this gains. *Lost*: how much larger the drop against the last exit is on the test part than on "
        "the tune part, for the search's own choice of each goal and for the rule's: who searches more promises more. "
        "95 % intervals are of the mean over splits; as these overlap, of the corrected resampled t (Nadeau and Bengio "
        "2003). *Above*, *below*: the interval at its cost lies so; *on*: it holds 0."
    ),
    (
        ("case", lambda row: str(row["case"])),
        ("against", lambda row: str(row["rule"])),
        ("on the tune part, points", lambda row: f"{row['tune_points']:+.2f}"),
        ("at its cost, points", lambda row: _interval(row, "points", "+.2f")),
        ("its worst goal", lambda row: f"{row['worst_points']:+.2f}"),
        ("frontier is", lambda row: f"**{row['verdict']}**" if row["verdict"] == "below" else str(row["verdict"])),
        ("cost at its accuracy", lambda row: _interval(row, "cost_ratio", ".2f")),
        ("points there", lambda row: _interval(row, "points_there", "+.2f")),
        ("lost, search and rule", lambda row: f"{row['own_lost']:.2f}, {row['rule_lost']:.2f}"),
    ),
)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of one split, by rule and goal.

    Attributes:
        tune_points: What the frontier gains at no more cost on the tune part, in points of accuracy.
        points: And on the test part at the cost of the rule's choice there.
        log_ratio: The logarithm of what the frontier costs on the test part at the rule's accuracy on the tune part,
            over what the rule's choice does.
        points_there: What that gains on the test part.
        lost: How much larger the choice's drop is on the test part than on the tune part, in points.
        own_lost: The same of the search's choices, by goal.
    """

    tune_points: dict[str, Array]
    points: dict[str, Array]
    log_ratio: dict[str, Array]
    points_there: dict[str, Array]
    lost: dict[str, Array]
    own_lost: Array


def main() -> None:
    """Collects each case's record, splits it, and compares."""
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name in NAMES:
        case = load_case(name)
        plan, whole, unit = recorded(case)
        rows += compare(case, plan, whole, unit)
    publish(SECTION, rows)


def recorded(case: Case) -> tuple[Manifest, Subset, str]:
    """Returns the plan of a case with all its exits, its held-out rows with score and cost, and the costs' unit."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = ee.export(case.network, case.example, Path(folder) / case.name, name=case.name, **case.options)
        labels = np.concatenate([case.validation.labels, case.test.labels])
        rows = [*case.validation.rows, *case.test.rows]
        record = collect(bundle, list(zip(rows, labels, strict=True)), threads=1)
    plan = bundle.manifest
    costs = choose_costs(plan, record, None, ())
    return plan, Subset(record, scores_of(record, None), costs.of_visits(record), None, plan.fallback, 0), costs.unit


def compare(case: Case, plan: Manifest, whole: Subset, unit: str) -> Iterator[Row]:
    """Yields a row for each rule."""
    parts = [split(whole.record.label, calibrate=False, guarantee=False, seed=seed) for seed in range(SPLITS)]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        tune, test = ([whole.take(getattr(one, name)) for one in parts] for name in ("tune", "test"))
        found = list(pool.map(measure, repeat(plan), tune, test))
    tune_rows, test_rows = len(parts[0].tune), len(parts[0].test)
    for rule in found[0].points:
        points = np.array([one.points[rule] for one in found])
        mean, low, high = resampled(points.mean(axis=1), test_rows / tune_rows)
        ratio = resampled(np.array([one.log_ratio[rule].mean() for one in found]), test_rows / tune_rows)
        there = resampled(np.array([one.points_there[rule].mean() for one in found]), test_rows / tune_rows)
        yield {
            "case": case.title, "name": case.name, "unit": unit, "rule": rule,
            "splits": len(found), "tune_rows": tune_rows, "test_rows": test_rows,
            "tune_points": float(np.mean([one.tune_points[rule] for one in found])),
            "points": mean, "points_low": low, "points_high": high,
            "worst_points": float(points.mean(axis=0).min()),
            "verdict": "above" if low > 0 else "below" if high < 0 else "on",
            **dict(zip(("cost_ratio", "cost_ratio_low", "cost_ratio_high"), np.exp(ratio).tolist(), strict=True)),
            **dict(zip(("points_there", "points_there_low", "points_there_high"), there, strict=True)),
            "own_lost": float(np.mean([one.own_lost for one in found])),
            "rule_lost": float(np.mean([one.lost[rule] for one in found])),
        }  # fmt: skip


def measure(plan: Manifest, tune: Subset, test: Subset) -> Outcome:
    """Returns what the search and the rules choose on one part of a record, and what it scores on another.

    Raises:
        RuntimeError: A rule's choice is above the search's frontier on the part that both chose on.
    """
    allowed, last = np.array(may_fire(plan)), tune.means((tune.record.last, tune.record.last))
    first_cost = tune.means(tune.always(0))[1] / last[1]
    goals = [Constraint(least_score=last[0] - drop) for drop in DROPS]
    goals += [Constraint(most_cost=first_cost**share) for share in BUDGETS]
    chosen: dict[str, list[Array]] = {}
    for goal in goals:
        rules = [*baselines(tune, allowed, goal), (earlyon_rule.NAME, earlyon_rule.earlyon(tune, plan, allowed, goal))]
        for rule, limits in rules:
            chosen.setdefault(rule, []).append(limits)
    objective = objective_of(plan, tune, np.concatenate(list(chosen.values())))
    chosen["greedy coordinate descent"] = [objective.choices.spell(Search(objective).greedy(goal)) for goal in goals]
    search, own = Search(objective), []
    for place, goal in enumerate(goals):
        others = [limits[place] for limits in chosen.values()]
        own.append(objective.choices.spell(search.best(goal, settings_of(tune.record, objective.choices, others))))
    tuned = search.points.frontier()
    tested = shares(test, objective.choices.spell(tuned.settings))
    found = Outcome({}, {}, {}, {}, {}, shares(tune, own)[0] - shares(test, own)[0])
    for rule, choices in chosen.items():
        (tune_score, tune_cost), (score, cost) = shares(tune, choices), shares(test, choices)
        at_cost = tuned.cost.searchsorted(tune_cost * (1 + 1e-9), side="right") - 1
        at_score = tuned.score.searchsorted(last[0] + tune_score / 100 - 1e-9)
        found.tune_points[rule] = 100 * (tuned.score[at_cost] - last[0]) - tune_score
        if at_cost.min() < 0 or found.tune_points[rule].min() < -1e-6:
            raise RuntimeError(f"{rule} beats the search on the rows that both chose on")
        found.points[rule] = interpolated(tested, cost) - score
        found.log_ratio[rule] = np.log(tested[1, at_score] / cost)
        found.points_there[rule] = tested[0, at_score] - score
        found.lost[rule] = tune_score - score
    return found


def shares(part: Subset, limits: npt.ArrayLike) -> Array:
    """Returns what thresholds (S, E) gain on the last exit, in points, and cost, as a share of its: (2, S)."""
    score, cost = part.means_at(np.asarray(limits))
    full_score, full_cost = part.means((part.record.last, part.record.last))
    return np.stack([100 * (score - full_score), cost / full_cost])


def interpolated(frontier: Array, costs: Array) -> Array:
    """Returns score at `costs` along straight lines between points (2, P) of score and cost, flat beyond them."""
    score, cost = frontier[:, np.argsort(frontier[1], kind="stable")]
    return np.asarray(np.interp(costs, cost, score))


def resampled(values: Array, overlap: float) -> tuple[float, float, float]:
    """Returns the mean of a figure of several splits, (S,), with its 95 % interval: the corrected resampled t.

    Splits of the same rows are not independent: the variance of the mean is s^2 (1 / S + test rows / tune rows) (Nadeau
    and Bengio 2003, "Inference for the Generalization Error", section 4).

    Args:
        values: One for each split.
        overlap: Test rows over tune rows.
    """
    half = student.ppf(0.975, len(values) - 1) * np.sqrt(values.var(ddof=1) * (1 / len(values) + overlap))
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


if __name__ == "__main__":
    main()
