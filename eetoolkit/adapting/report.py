"""What adapting a network found: its places, the heads there, what was chosen, and whether it pays."""

from __future__ import annotations

import msgspec

from eetoolkit.tuning.intervals import Interval
from eetoolkit.tuning.placing import Tried
from eetoolkit.tuning.report import TuningReport
from eetoolkit.tuning.wording import percent, short
from eetoolkit_runtime.printable import printable


class HeadFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of head at one place, on rows that it was not fitted to.

    Attributes:
        kind: What it gathers, see `attach_exits`.
        loss: Per row, of what it was fitted to.
        accuracy: Its share of right answers; without labels, of answers equal to the network's.
        candidate: Whether it was one of the exits that were chosen among.
    """

    kind: str
    loss: float
    accuracy: float
    candidate: bool


class PlaceFigures(msgspec.Struct, frozen=True, kw_only=True):
    """A place of the network.

    Attributes:
        name: As `find_exits` names it.
        share: The multiply-adds up to there over the whole network's.
        shape: Sizes and symbols.
        heads: What was tried there.
        chosen: The kind of the head that stays there; None where there is none.
    """

    name: str
    share: float
    shape: tuple[str | int | None, ...]
    heads: tuple[HeadFigures, ...]
    chosen: str | None = None

    @property
    def accuracy(self) -> float:
        """The best head's."""
        return max(head.accuracy for head in self.heads)


class AdaptReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `Adapted.bundle` found.

    Attributes:
        network: Its name.
        rows: How many rows did what.
        labelled: Whether accuracies are of labels; else of the network's own answers.
        accuracy: The network's own, on the rows that chose heads.
        places: Every place, by share.
        costs: Where the costs come from by which places were chosen.
        tried: The best placement of at most 1, 2, ... exits, on the tuning rows.
        tuning: What tuning the chosen bundle found, on held-out rows; None where no placement pays.
        speedup: The whole network's mean latency, one session, over the bundle's, in turns on held-out rows of this
            machine; None where it was not measured.
        pays: Whether early exits make the network faster within the goal; None: nobody knows yet.
        reason: What is gained, or why nothing is, or why nobody knows.
        notes: What the reader must know.
    """

    network: str
    rows: dict[str, int]
    labelled: bool
    accuracy: float
    places: tuple[PlaceFigures, ...]
    costs: str = ""
    tried: tuple[Tried, ...] = ()
    tuning: TuningReport | None = None
    speedup: Interval | None = None
    pays: bool | None = None
    reason: str = "no bundle was asked for yet"
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """Whether early exits pay, in one line."""
        said = {True: "early exits pay", False: "early exits do not pay", None: "whether early exits pay is unknown"}
        return printable(f"{said[self.pays]}: {self.reason}")

    def __str__(self) -> str:
        what = "right" if self.labelled else "as the network"
        lines = [f"{self.network}: {self.verdict}"]
        lines += [
            f"{short(place.name)}: {percent(place.share)} of the work, {percent(place.accuracy)} {what}"
            + (f"; exit, {place.chosen}" if place.chosen else "")
            for place in self.places
        ]
        lines.append(f"whole network: {percent(self.accuracy)} {what}")
        lines += [f"note: {note}" for note in self.notes]
        own = [] if self.tuning is None else [str(self.tuning)]
        return "\n".join([*map(printable, lines), *own])
