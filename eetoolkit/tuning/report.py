"""What tuning found, as one value: the choice, what it costs, and all that a page about it shows."""

from __future__ import annotations

import html
import os
from collections.abc import Iterator, Mapping
from functools import partial

import msgspec

from eetoolkit.fleet.tuned import FleetOutcome
from eetoolkit.tuning.calibrate import Calibration
from eetoolkit.tuning.intervals import Figures, Point, Thresholds, intervals_of_shares
from eetoolkit.tuning.manifest import tuned_plan, undo_tuning, with_golden
from eetoolkit.tuning.pruning import Pruning, write_pruned
from eetoolkit.tuning.report_data import ClassFigures, CostSpread, Histogram, Mistake
from eetoolkit.tuning.verdict import Verdict
from eetoolkit.tuning.where import WhereToSplit
from eetoolkit.tuning.wording import Wording
from eetoolkit_runtime.arguments import checked
from eetoolkit_runtime.bundle.bundle import Bundle, load
from eetoolkit_runtime.bundle.rewriting import change_bundle
from eetoolkit_runtime.errors import TuneError
from eetoolkit_runtime.plan.types import SHARE_OF, Guarantee, Tuning
from eetoolkit_runtime.printable import printable
from eetoolkit_runtime.running.decision import spell_threshold
from eetoolkit_runtime.running.inputs import Inputs


class TuningReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `tune` found. `apply` writes it into the bundle, `undo` takes it back.

    Attributes:
        bundle: The bundle's name.
        path: Where it is.
        files: Digests of its graphs.
        goal: What was asked for.
        goal_met: Whether the choice meets it on the held-out rows; None: they are too few to know. See
            `outcome` for the rule.
        goal_reason: The figure that tells, and what is missing.
        rows_needed: About how many rows in all would do, where there are too few.
        least_score: What the goal asks of the held-out rows: a score of at least this; None: it asks for another thing.
        most_cost: The same: a mean cost of at most this.
        metric: What counted as good: `accuracy`, or the metric's name.
        unit: Of all costs.
        costs: Where they come from.
        seed: Of the split.
        rows: How many rows each part had.
        by_label: Whether every part has each label's share.
        chosen: The choice.
        before: The thresholds that the bundle had.
        whole: The last exit always.
        always: Every exit always, where the row's path meets it.
        baselines: What other rules choose on the same rows and costs.
        frontier: By rising cost on the tuning rows.
        verdict: Whether early exit pays, and each exit.
        calibration: Each exit's reliability, before and after.
        histograms: Each exit's confidences, right against wrong.
        classes: Each class.
        mistakes: Rows that left early and wrong.
        spread: What runs cost.
        labels: The classes' names, where the bundle has them.
        titles: What the user called exits that the bundle calls otherwise.
        constants: What criteria's constants hold with it, temperatures above all; `apply` writes them too.
        pruned: The choice without the exits that do not pay and without their heads; None where all pay.
        guarantee: What is guaranteed of the choice.
        fleet: What each device of a fleet gains, where one was tuned for; all other costs are of one device of it.
        split: Where to split between the device and a server, where a link was given; all costs are of that place.
        notes: What the reader must know: too little data, choices that were made.
    """

    bundle: str
    path: str
    files: dict[str, str]
    goal: str
    goal_met: bool | None
    goal_reason: str
    rows_needed: int | None
    least_score: float | None
    most_cost: float | None
    metric: str
    unit: str
    costs: str
    seed: int
    rows: dict[str, int]
    by_label: bool
    chosen: Figures
    before: Figures
    whole: Figures
    always: tuple[Figures, ...]
    baselines: tuple[Figures, ...]
    frontier: tuple[Point, ...]
    verdict: Verdict
    calibration: tuple[Calibration, ...]
    histograms: tuple[Histogram, ...]
    classes: tuple[ClassFigures, ...]
    mistakes: tuple[Mistake, ...]
    spread: CostSpread
    labels: tuple[str, ...] | None = None
    titles: dict[str, str] = {}
    constants: dict[str, tuple[float, ...]] = {}
    pruned: Figures | None = None
    guarantee: Guarantee | None = None
    fleet: FleetOutcome | None = None
    split: WhereToSplit | None = None
    notes: tuple[str, ...] = ()

    @property
    def thresholds(self) -> Thresholds:
        """The chosen thresholds by exit."""
        return self.chosen.thresholds

    @property
    def outcome(self) -> str:
        """Whether the goal was met, in one line."""
        known = {True: "met", False: "missed", None: "unknown"}
        return f"goal {known[self.goal_met]}: {self.goal_reason}"

    @checked(TuneError)
    def apply(self, *, force: bool = False) -> Bundle:
        """Writes thresholds, temperatures and what they are based on into the manifest, in one step.

        Args:
            force: Whether to write them too where the goal was missed, or rows are too few to know.

        Returns:
            The bundle as it is now.

        Raises:
            TuneError: The goal was missed or nobody knows; the bundle is another one by now.
            BundleError: It is packed, or the manifest cannot be written.
        """
        self._check_goal(force=force)
        return change_bundle(
            self.path, lambda now, folder: with_golden(now, self._plan(now, self.chosen).manifest, folder)
        )

    @checked(TuneError)
    def prune(
        self,
        output: str | os.PathLike[str],
        inputs: Inputs | Iterator[Inputs] | None = None,
        *,
        threads: int | None = None,
        overwrite: bool = False,
        force: bool = False,
    ) -> Pruning:
        """Writes a bundle tuned so, without the exits that do not pay and with one graph where they stood.

        Where no exit can go, it has all of them; `Pruning.kept` says why.

        Args:
            output: Where to write.
            inputs: What to compare both bundles by, as `profile` takes it: any number of rows, or an iterator of single
                ones; None: the golden samples.
            threads: As the `Runner`'s.
            overwrite: Whether a bundle at `output` may be replaced.
            force: Whether to write it too where the goal was missed, or rows are too few to know.

        Raises:
            TuneError: The goal was missed or nobody knows; the bundle is another one by now.
            InputError: Inputs that the bundle does not take, or none.
            ExportError: The extra `export` is not installed, or the bundle cannot be pruned; it says why.
            BundleError: `output` is in the way, or the bundle itself.
        """
        if self.split is not None and self.split.command is not None:
            raise TuneError(
                f"these thresholds are of a network that is {self.split.chosen.name}: tune without link= (--link)"
            )
        self._check_goal(force=force)
        bundle = load(self.path)
        chosen, silent = (self._plan(bundle, figures) for figures in (self.chosen, self.pruned or self.chosen))
        limits = {} if self.pruned is None else self.pruned.thresholds
        gone = tuple(name for name, limit in limits.items() if limit == "never")
        found = write_pruned(chosen, silent, gone, output, inputs, self.seed, threads=threads, overwrite=overwrite)
        return found if gone else msgspec.structs.replace(found, kept=self._why_none_goes())

    def _check_goal(self, *, force: bool) -> None:
        if self.goal_met is not True and not force:
            raise TuneError(
                f"{self.outcome}. Nothing was written: tune on more rows, ask for less, or pass force=True (--force)"
            )

    def _why_none_goes(self) -> str:
        unsure = "" if self.unit == "ms" else "; what heads cost is not known without a profile"
        if self.guarantee is not None and not self.guarantee.passed:
            return "no early exit passed the guarantee"
        if all(verdict.pays for verdict in self.verdict.exits):
            return f"every exit pays{unsure}"
        if self.guarantee is not None:
            return "the guarantee was shown with the exits that do not pay"
        return f"the exits that do not pay are needed for the goal{unsure}"

    def undo(self) -> Bundle:
        """Puts back what the manifest held before `apply`; returns the bundle as it is now.

        Raises:
            TuneError: The bundle was not tuned.
        """
        return undo_tuning(self.path)

    def _plan(self, bundle: Bundle, choice: Figures) -> Bundle:
        """Returns the bundle with a choice of thresholds, in memory."""
        plan = tuned_plan(bundle, self.files, choice.thresholds, self.constants, partial(self._note, choice))
        return msgspec.structs.replace(bundle, manifest=plan)

    def _note(self, choice: Figures, tuning: Mapping[str, object]) -> Tuning:
        """Returns what the manifest keeps of a choice, with what was before."""
        figures = {name: getattr(choice, name) for name in ("score", "drop", "share")}
        shares = intervals_of_shares(choice.exits, self.rows["test"])
        figures |= {SHARE_OF + name: share for name, share in shares.items()}
        return Tuning(
            goal=self.goal,
            metric=self.metric,
            costs=self.costs,
            seed=self.seed,
            rows=dict(self.rows),
            figures={name: (figure.value, figure.low, figure.high) for name, figure in figures.items()},
            guarantee=self.guarantee,
            **tuning,  # type: ignore[arg-type] # the keys that `apply` knows
        )

    def __repr__(self) -> str:
        return printable(f"<TuningReport {self.bundle}: {self.outcome}>")

    def _repr_html_(self) -> str:
        """Returns its text for notebooks; `write_report` makes the page."""
        return f"<pre>{html.escape(str(self))}</pre>"

    def __str__(self) -> str:
        chosen, say = self.chosen, Wording(self.metric, self.unit)
        lines = [f"{self.bundle}: {self.outcome}", f"goal: {self.goal}"]
        for name, threshold in chosen.thresholds.items():
            share = chosen.exits.get(name, 0.0)
            lines.append(f"{name} {spell_threshold(threshold)}, {share:.1%} of the rows leave here")
        lines.append(f"{self.metric} {say.score(chosen.score)}, whole network {say.score(self.whole.score)}")
        lines.append(f"drop {say.drop(chosen.drop)}")
        lines.append(f"cost {say.share(chosen.share)} of the whole network's, by {self.costs}")
        lines.append(str(self.verdict))
        if self.guarantee is not None:
            lines.append(spell_guarantee(self.guarantee))
        lines += [] if self.fleet is None else [str(self.fleet)]
        lines += [] if self.split is None else [f"split: {self.split}"]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(map(printable, lines))


def spell_guarantee(given: Guarantee) -> str:
    """Returns in one line what is guaranteed, and how it was shown."""
    risk = f"{100 * given.risk:g}%"
    if not given.passed:
        return f"no early exit passed a risk of {risk} on {given.rows} rows: the whole network answers"
    sure = "in the mean over draws" if given.delta is None else f"with probability {1 - given.delta:g}"
    shown = f"{given.rows} rows, found {given.found:.2%}, bound {given.bound:.2%}"
    return f"{given.loss}: at most {risk} {sure} ({given.method}, {shown})"
