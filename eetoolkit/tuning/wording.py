"""Figures as people read them: percent, milliseconds, counts, each with its interval."""

from __future__ import annotations

from dataclasses import dataclass

from eetoolkit.tuning.intervals import Interval
from eetoolkit_runtime.printable import printable

_LONGEST_NAME = 24
_STEPS = ((1e9, " G"), (1e6, " M"), (1e3, " k"))


@dataclass(frozen=True)
class Wording:
    """How the figures of one report are spelled.

    Attributes:
        metric: What answers score: `accuracy` is a share, any other is a number.
        unit: Of costs.
        labels: The classes' names, where they have some.
    """

    metric: str
    unit: str
    labels: tuple[str, ...] | None = None

    def score(self, figure: float | Interval) -> str:
        """Returns what answers score: 97.4%, or 0.9741 of another metric."""
        if isinstance(figure, Interval):
            return self._with_ends(figure, *map(self.score, _values(figure)))
        return percent(figure) if self.metric == "accuracy" else f"{figure:.4g}"

    def drop(self, figure: float | Interval) -> str:
        """Returns a difference of two scores with its sign, in percentage points where they are shares."""
        return self.difference(figure) + (" points" if self.metric == "accuracy" else "")

    def difference(self, figure: float | Interval) -> str:
        """Returns the same without its unit, which headings say."""
        if isinstance(figure, Interval):
            return self._with_ends(figure, *map(self.difference, _values(figure)))
        if self.metric != "accuracy":
            return f"{figure:+.4g}"
        return f"{0.0 if abs(figure) < 5e-5 else 100 * figure:+.2f}".replace("+0.00", "0.00")

    @property
    def drop_unit(self) -> str:
        """Returns what the unit of differences is, for headings."""
        return ", points" if self.metric == "accuracy" else ""

    def share(self, figure: float | Interval) -> str:
        """Returns a share in percent."""
        if isinstance(figure, Interval):
            return self._with_ends(figure, *map(self.share, _values(figure)))
        return percent(figure)

    def cost(self, figure: float | Interval) -> str:
        """Returns a cost with its unit: 0.312 ms, 1.24 M multiply-adds."""
        if isinstance(figure, Interval):
            value, low, high = map(self.amount, _values(figure))
            return self._with_ends(figure, value, low, high) + f" {self.unit}"
        return f"{self.amount(figure)} {self.unit}"

    def amount(self, figure: float) -> str:
        """Returns a cost without its unit."""
        if self.unit == "ms":
            return f"{figure:.3f}" if abs(figure) < 1 else f"{figure:.4g}"
        for size, letter in _STEPS:
            if abs(figure) >= size:
                return f"{figure / size:.3g}{letter}"
        return f"{figure:.3g}"

    def label(self, number: int) -> str:
        """Returns a class's name, with its number where the name does not show it."""
        if self.labels is None or not 0 <= number < len(self.labels):
            return str(number)
        return printable(self.labels[number])

    @staticmethod
    def _with_ends(figure: Interval, value: str, low: str, high: str) -> str:
        return value if figure.low == figure.high else f"{value} [{low}, {high}]"


def percent(share: float) -> str:
    """Returns a share in percent, with the digits that it has room for: 3.21%, 97.4%, 100%."""
    if share in (0, 1):
        return f"{share:.0%}"
    return f"{share:.2%}" if abs(share) < 0.1 or share > 0.99 else f"{share:.1%}"


def spell_times(ratio: Interval) -> str:
    """Returns a ratio of speeds or of latencies: 3.12 [2.90, 3.31] times."""
    return f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] times"


def short(name: str) -> str:
    """Returns a printable name with its middle left out where it is long: both of its ends tell names apart."""
    clean, half = printable(name), _LONGEST_NAME // 2
    return clean if len(clean) <= _LONGEST_NAME else f"{clean[: half - 1]}...{clean[-half + 2 :]}"


def _values(figure: Interval) -> tuple[float, float, float]:
    return figure.value, figure.low, figure.high
