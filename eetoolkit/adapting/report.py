"""What adapting a network found: its places, the heads there, what was chosen, and whether it pays."""

from __future__ import annotations

import msgspec

from eetoolkit.tuning.intervals import Interval
from eetoolkit.tuning.placing import Tried
from eetoolkit.tuning.report import TuningReport
from eetoolkit.tuning.wording import percent, short, spell_times
from eetoolkit_runtime.printable import printable

PARTS = {"fit": "fitted heads", "choose": "chose kinds of heads", "tune": "chose places and thresholds"}
"""What the rows of each part did; the tuning says which of the last gave the figures."""


class HeadFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of head at one place, on rows that it was not fitted to.

    Attributes:
        kind: What it gathers, see `attach_exits`.
        loss: Per row, of what it was fitted to.
        accuracy: Its share of right answers; without labels, of answers equal to the network's.
        candidate: Whether it was one of the exits that were chosen among.
        exit: The exit that it became; None where it did not stay.
    """

    kind: str
    loss: float
    accuracy: float
    candidate: bool
    exit: str | None = None


class PlaceFigures(msgspec.Struct, frozen=True, kw_only=True):
    """A place of the network.

    Attributes:
        name: As `find_exits` names it.
        share: The multiply-adds up to there over the whole network's.
        shape: Sizes and symbols.
        heads: What was tried there.
    """

    name: str
    share: float
    shape: tuple[str | int | None, ...]
    heads: tuple[HeadFigures, ...]

    @property
    def best(self) -> HeadFigures:
        """The most accurate head."""
        return max(self.heads, key=lambda head: head.accuracy)

    @property
    def chosen(self) -> tuple[HeadFigures, ...]:
        """The heads that stay."""
        return tuple(head for head in self.heads if head.exit is not None)


class AdaptReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `Adapted.bundle` found.

    Attributes:
        network: Its name.
        max_accuracy_drop: The goal: accuracy may drop by this much below the network's.
        rows: How many rows did what.
        labelled: Whether accuracies are of labels; else of the network's own answers.
        accuracy: The network's own, on the rows that chose heads.
        places: Every place, by share.
        costs: Where the costs come from by which places were chosen.
        tried: The best placement of at most 1, 2, ... exits, on the tuning rows.
        fixed: The cheapest exit that meets the goal if it always answers, on the tuning rows; None where none does at
            less than the network's cost.
        tuning: What tuning the chosen bundle found, on held-out rows; None where no placement pays.
        speedup: The whole network's mean latency, one session, over the bundle's, in turns on held-out rows of this
            machine; None where it was not measured.
        over_fixed: The same of always answering at `fixed`, over the bundle's.
        pays: Whether early exits make the network faster within the goal; None: nobody knows yet.
        reason: What is gained, or why nothing is, or why nobody knows.
        notes: What the reader must know.
    """

    network: str
    max_accuracy_drop: float
    rows: dict[str, int]
    labelled: bool
    accuracy: float
    places: tuple[PlaceFigures, ...]
    costs: str = ""
    tried: tuple[Tried, ...] = ()
    fixed: Tried | None = None
    tuning: TuningReport | None = None
    speedup: Interval | None = None
    over_fixed: Interval | None = None
    pays: bool | None = None
    reason: str = "no bundle was asked for yet"
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """Whether early exits pay, in one line."""
        said = {True: "early exits pay", False: "early exits do not pay", None: "whether early exits pay is unknown"}
        return printable(f"{said[self.pays]}: {self.reason}; goal: {self.goal}")

    @property
    def goal(self) -> str:
        """What was asked for."""
        points = 100 * self.max_accuracy_drop
        return f"at most {points:g} {'point' if points == 1 else 'points'} lost"

    @property
    def against_fixed(self) -> str:
        """What is gained against the best fixed exit, in one line; nothing before a placement was looked for."""
        if not self.tried:
            return ""
        if self.fixed is None:
            return "no fixed exit meets the goal at less than the network's cost"
        name = self.spell_exit(self.fixed.exits[0])
        if self.over_fixed is not None:
            return f"{spell_times(self.over_fixed)} the speed of the best fixed exit, always {name}"
        return f"the best fixed exit, always {name}, has {percent(self.fixed.cost)} of the network's cost"

    def spell_exit(self, name: str) -> str:
        """Returns a candidate's name, short: its place, and its kind where the name has it."""
        for place in self.places:
            if name == place.name or name in {f"{place.name} {head.kind}" for head in place.heads}:
                return short(place.name) + printable(name.removeprefix(place.name))
        return short(name)

    @property
    def what(self) -> str:
        """What accuracies are."""
        return "accuracy" if self.labelled else "agreement"

    def __str__(self) -> str:
        lines = [f"{self.network}: {self.verdict}"]
        lines += [self.against_fixed] if self.against_fixed else []
        lines += [
            f"{short(place.name)}: {percent(place.share)} of the work, {self.what} {percent(place.best.accuracy)}"
            + "".join(f"; exit, {head.kind}" for head in place.chosen)
            for place in self.places
        ]
        lines.append(f"whole network: {self.what} {percent(self.accuracy)}")
        lines += [
            f"at most {spell_count(count)}: {percent(tried.cost)} of the cost, {self.what} {percent(tried.score)}, "
            f"{', '.join(map(self.spell_exit, tried.exits)) or 'none'}"
            for count, tried in enumerate(self.tried, 1)
        ]
        lines.append("rows: " + ", ".join(f"{count} {PARTS[name]}" for name, count in self.rows.items()))
        lines += [f"note: {note}" for note in self.notes]
        own = [] if self.tuning is None else [str(self.tuning)]
        return "\n".join([*map(printable, lines), *own])


def spell_count(exits: int) -> str:
    """Returns a number of exits."""
    return f"{exits} exit" if exits == 1 else f"{exits} exits"
