"""When thresholds no longer fit: the share of an exit has left the interval that it was tuned with.

**What is tested.** Each exit's share of the rows has an interval from the held-out rows (`share of EXIT` in
`Tuning.figures`). The hypothesis is that every row that comes leaves at each exit with a probability, given all rows
before it, within that exit's interval.

**Evidence.** For an exit, the upper end u of its interval and a bet d > 0, the factor of a row is
`exp(d x) / (1 + u (exp(d) - 1))`, where x is 1 if the row left there, else 0. Its mean is at most 1 wherever the
probability of x is at most u, so the product over rows is a nonnegative supermartingale: a bet on a bounded mean
(Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting", JRSS B 86(1)), here the
likelihood ratio of a share whose log odds are higher by d. For the lower end, d < 0. The logarithm is linear in the
counts, so those of a block suffice.

**When the change was is not known.** Every block of rows begins a product of its own; their sum follows
`M <- (M + 1) * factor`, Shiryaev's and Roberts' statistic, an e-detector of Shin, Ramdas and Rinaldo 2024
("E-detectors: a nonparametric framework for sequential change detection", NEJSDS 2(2), section 2; arXiv 2203.03532).
The test takes the mean of these over all exits, both ends and a grid of bets, which is an e-detector again. There is an
alarm where it reaches c, and it begins anew.

**The rate.** Under the hypothesis the mean of `M + c * alarms` grows by at most 1 with each block that begins, since M
gives up at least c at an alarm. So the mean number of alarms among the first B blocks is at most B / c, for every B,
and so is the probability of any. `c = blocks in per_rows / false_alarms` makes that `false_alarms` in each `per_rows`.

**Where a row's exit is not known**, since a deadline stopped the run, no server answered or it failed, the row counts
as 0 against upper ends and as 1 against lower ends. Leaving it out would favour exits that are reached early; so
counted, the factors' means stay at most 1, whatever stopped which row.
"""

from __future__ import annotations

import datetime
import math

import numpy as np

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.monitoring.snapshot import Alarm, Drift, TunedShare
from eetoolkit_runtime.plan.types import SHARE_OF, Manifest

BLOCK = 256
"""Rows, at least, that are looked at together; a change is taken to begin with a block."""
_BETS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""By how much the log odds of a share may have moved: from 0.5 to 0.52, and to 0.96."""
_MOST_GAIN = 500.0  # in one block, so that no sum leaves a float64; it is an alarm anyway
_RECENT = 2000  # rows after which one weighs 1 / e of the newest in `recent`
Shares = dict[str, tuple[float, float, float]]


def tuned_shares(plan: Manifest) -> tuple[Shares, str | None]:
    """Returns each exit's share with its interval as the plan was tuned; or none, and why there is none.

    That of the exit at which a device's half hands over is of all rows that go on.
    """
    tuning, split = plan.tuning, plan.split
    again = "tune and apply again" if split is None else "tune the whole bundle, apply, and split it again"
    if tuning is None and split is not None:
        return {}, f"this device's half holds no tuned shares, since the bundle that was split had none; {again}"
    if tuning is None:
        return {}, "the bundle was not tuned, so nobody knows which shares its thresholds should give; tune and apply"
    now = {name: exit_.threshold for name, exit_ in plan.exits.items() if not exit_.ends}
    changed = [name for name, threshold in now.items() if threshold != tuning.thresholds.get(name, "never")]
    if changed:
        return {}, f"the threshold of {changed[0]} is another than tuning chose; {again}"
    found = {name: tuning.figures[SHARE_OF + name] for name in plan.exits if SHARE_OF + name in tuning.figures}
    if split is not None and len(found) == len(plan.exits) - 1 and split.exit not in found:
        found = {name: found[name] if name in found else _rest(found) for name in plan.exits}
    if len(found) < len(plan.exits) or not math.isclose(sum(value for value, _, _ in found.values()), 1, abs_tol=1e-6):
        return {}, f"the manifest does not hold the tuned share of every exit; {again}"
    if not any(low > 0 or high < 1 for _, low, high in found.values()):
        return {}, "the held-out rows were too few to say anything of the exits' shares; tune on more"
    return found, None


def _rest(shares: Shares) -> tuple[float, float, float]:
    """Returns the share of the rows that leave at none of these, which lies there wherever all of these do."""
    value, low, high = (sum(column) for column in zip(*shares.values(), strict=True))
    return max(0.0, 1 - value), max(0.0, 1 - high), min(1.0, 1 - low)


class DriftTest:
    """The evidence so far, of constant size.

    Args:
        shares: Each exit's, in the plan's order; of which at least one end is within (0, 1).
        false_alarms: The mean number of false alarms in `per_rows` rows.
        per_rows: See `false_alarms`.
    """

    def __init__(self, shares: Shares, false_alarms: float, per_rows: int) -> None:
        self._shares = shares
        self._names = tuple(shares)
        self._false_alarms, self._per_rows = false_alarms, per_rows
        _, lows, highs = np.array(list(shares.values()), np.float64).T
        ends, some = np.stack([highs, lows]), np.stack([highs < 1, lows > 0])  # an end at 1 or 0 cannot be left
        bets = np.array(_BETS)
        self._bets = np.stack([bets, -bets])[:, None] + np.zeros((len(shares), 1))  # (2, E, B): upper ends, lower ends
        self._norms = np.log1p(ends[:, :, None] * np.expm1(self._bets))
        self._weights = some[:, :, None] / (some.sum() * len(bets)) + np.zeros(len(bets))
        self.limit = math.ceil(per_rows / BLOCK) / false_alarms
        self._sums = np.zeros(self._bets.shape)
        self.evidence = 0.0
        self._left, self._unknown, self._waiting = np.zeros(len(shares), np.int64), 0, 0
        self._recent = [0.0] * len(shares)
        self.rows = self.alarms = 0
        self._first: Alarm | None = None
        self._last: Alarm | None = None

    @property
    def size_bytes(self) -> int:
        """What its arrays take."""
        return 4 * self._bets.nbytes + self._left.nbytes

    def add(self, left: Array | None, unknown: int = 0) -> None:
        """Counts rows, and looks at them as soon as they are a block.

        Args:
            left: How many rows left at each exit, int64 (E,); None: none did.
            unknown: How many more came whose exit is not known.
        """
        if left is not None:
            self._left += left
            self._waiting += int(left.sum())
        self._unknown += unknown
        self._waiting += unknown
        if self._waiting >= BLOCK:
            self._look()

    def _look(self) -> None:
        left, unknown, count = self._left, self._unknown, self._waiting
        gains = left[:, None] * self._bets
        gains -= count * self._norms
        if unknown:
            gains[1] += unknown * self._bets[1]
        np.minimum(gains, _MOST_GAIN, out=gains)
        self._sums += 1
        self._sums *= np.exp(gains, out=gains)
        self.evidence = float(np.vdot(self._sums, self._weights))
        self.rows += count
        weight = 1.0 if self.rows == count else -math.expm1(-count / _RECENT)
        known = max(1, count - unknown)
        self._recent = [was + weight * (k / known - was) for was, k in zip(self._recent, left.tolist(), strict=True)]
        self._left, self._unknown, self._waiting = np.zeros_like(left), 0, 0
        if self.evidence >= self.limit:
            self._alarm()

    def _alarm(self) -> None:
        below, place = divmod(int((self._sums * self._weights).sum(axis=2).argmax()), len(self._names))
        self._last = Alarm(
            exit=self._names[place],
            share="below" if below else "above",
            recent=self._recent[place],
            rows=self.rows,
            at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        self._first = self._first or self._last
        self.alarms += 1
        self._sums = np.zeros(self._bets.shape)
        self.evidence = 0.0

    def verdict(self) -> Drift:
        """Returns what it says by now."""
        recent: list[float] | list[None] = self._recent if self.rows else [None] * len(self._names)
        return Drift(
            false_alarms=self._false_alarms,
            per_rows=self._per_rows,
            rows=self.rows + self._waiting,
            alarms=self.alarms,
            first=self._first,
            last=self._last,
            evidence=math.log(max(self.evidence, 1)) / math.log(self.limit) if self.limit > 1 else 0.0,
            exits={
                name: TunedShare(value=value, low=low, high=high, recent=lately)
                for (name, (value, low, high)), lately in zip(self._shares.items(), recent, strict=True)
            },
        )
