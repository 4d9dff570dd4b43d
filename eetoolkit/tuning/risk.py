"""Guarantees: how far along a path of thresholds, from safe to fast, the risk is shown to be bounded.

A row's loss is 1 where the answer is wrong and the whole network's is right, in general how much less the answer
scores, between 0 and 1; its mean is the risk. The path is fixed before the rows of the guarantee are looked at. The
settings along it are tested one after the other, each at level delta, up to the first that fails (fixed-sequence
testing): that is valid whether or not the risk rises along the path. After "Fast yet Safe: Early-Exiting with Risk
Control" (Jazbec et al. 2024, arXiv 2405.20915).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import numpy as np
from scipy.stats import binom

from eetoolkit.tuning.evaluate import Subset
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import TuneError
from eetoolkit_runtime.plan.types import Guarantee

Method = Literal["ltt", "ucb", "crc"]
METHODS: Mapping[Method, str] = MappingProxyType(
    {
        "ltt": "Learn then Test: fixed-sequence testing, Hoeffding-Bentkus p-values",
        "ucb": "upper confidence bound: Waudby-Smith and Ramdas betting",
        "crc": "conformal risk control: the expected loss",
    }
)
_HALVINGS = 30
RAREST = 1e-5
"""The least risk, and the least probability that a guarantee fails: less takes more rows than anybody has labelled."""
LOSS = "early answer wrong and the whole network's right"
_ASSUMPTIONS = (
    "the rows of the guarantee and the inputs to come are drawn independently from one distribution",
    "the path of thresholds was built on other rows",
)


def losses(subset: Subset, answered: Array) -> Array:
    """Returns the loss of each row's answer at a visit, (N,): (N, S) for S settings.

    Raises:
        TuneError: A metric without a value from 0 to 1 for each row.
    """
    if subset.score is None or subset.score.min() < 0 or subset.score.max() > 1:
        raise TuneError("a risk needs accuracy, or a metric that gives a number from 0 to 1 for each row")
    score = subset.score.astype(np.float64)
    rows = np.arange(len(subset.record))
    full = score[rows, subset.record.last]
    found = np.take_along_axis(score, answered.reshape(len(rows), -1), axis=1).reshape(answered.shape)
    return np.maximum(0.0, full.reshape(-1, *[1] * (answered.ndim - 1)) - found)


def last_passing(method: Method, loss: Array, risk: float, delta: float) -> int:
    """Returns how many settings of a path pass, so that the last passing one is this number less one; 0: none does.

    Args:
        method: `ltt`, `ucb` or `crc`.
        loss: (n, S), of n rows in random order, for the S settings of the path from safe to fast.
        risk: At most this.
        delta: Level of each test; `crc` has none.
    """
    if method == "crc":
        passes = conformal(loss) <= risk
    elif method == "ucb":
        passes = log_wealth(loss, risk, delta) >= math.log(1 / delta)
    else:
        passes = hoeffding_bentkus(loss.mean(axis=0), len(loss), risk) <= delta
    return len(passes) if passes.all() else int(passes.argmin())


def hoeffding_bentkus(mean: Array, count: int, risk: float) -> Array:
    """Returns p-values, (S,), of the hypotheses that the risk is over `risk`, from mean losses of `count` rows.

    Bates et al. 2021 (arXiv 2101.02703), section 3.1, as Learn then Test uses it (Angelopoulos et al. 2021, arXiv
    2110.01052, proposition 1): the less of exp(-n h1(min(m, r), r)) and e P(Bin(n, r) <= ceil(n m)).
    """
    low = np.minimum(mean, risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        first = np.where(low > 0, low * np.log(low / risk), 0.0)
        divergence = first + (1 - low) * np.log((1 - low) / (1 - risk))
    # n m is a whole number for losses of 0 and 1, which its rounding must not lift to the next.
    bentkus = math.e * binom.cdf(np.ceil(count * mean - 1e-9), count, risk)
    return np.asarray(np.minimum(1.0, np.minimum(np.exp(-count * divergence), bentkus)))


def log_wealth(loss: Array, risk: float, delta: float) -> Array:
    """Returns the log of the most that a bet against "the mean is over `risk`" has ever been worth, (S,).

    The bets of Waudby-Smith and Ramdas (2024, arXiv 2010.09686, section 4.2) as Bates et al. 2021 (arXiv 2101.02703),
    proposition 5, make an upper bound of them: at 1 / delta the hypothesis is refused.

    Args:
        loss: (n, S), in random order.
        risk: The mean that is bet against.
        delta: What the bets are sized for.
    """
    count = len(loss)
    step = np.arange(1, count + 1)[:, None]
    mean = (0.5 + np.cumsum(loss, axis=0)) / (1 + step)
    variance = (0.25 + np.cumsum((loss - mean) ** 2, axis=0)) / (1 + step)
    before = np.concatenate([np.full((1, loss.shape[1]), 0.25), variance[:-1]])
    bet = np.minimum(1.0, np.sqrt(2 * math.log(1 / delta) / (count * before)))
    with np.errstate(divide="ignore"):
        wealth = np.cumsum(np.log(np.maximum(0.0, 1 - bet * (loss - risk))), axis=0)
    return np.asarray(wealth.max(axis=0))


def bound(method: Method, loss: Array, delta: float) -> float:
    """Returns the least risk at which a path with losses (n, S) is passed to its end, between their means and 1.

    At less the test would stop at a setting before. Of one setting, for `ucb` it is the upper confidence bound of
    Waudby-Smith and Ramdas, for `ltt` that of Hoeffding and Bentkus, for `crc` what it holds to the risk.
    """
    if method == "crc":
        return float(conformal(loss)[-1])
    low, high = float(loss.mean(axis=0).max()), 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        passes = last_passing(method, loss, middle, delta) == loss.shape[1]
        low, high = (low, middle) if passes else (middle, high)
    return high


def conformal(loss: Array) -> Array:
    """Returns what conformal risk control holds to the risk, (S,), for losses (n, S) along a path from safe to fast.

    (n m + 1) / (n + 1) (Angelopoulos et al. 2022, arXiv 2208.02814, theorem 1). It takes losses that never fall along
    the path: each row's is replaced by its largest so far, which is no less.
    """
    return np.asarray((np.maximum.accumulate(loss, axis=1).sum(axis=0) + 1) / (len(loss) + 1))


def least_rows(method: Method, risk: float, delta: float) -> int:
    """Returns how many rows a guarantee takes at least, were none of them lost."""
    if method == "crc":
        return math.ceil(1 / risk) - 1
    if method == "ltt":
        return math.ceil(math.log(1 / delta) / -math.log1p(-risk))
    count = math.ceil(math.log(1 / delta) / math.log1p(risk))  # where every bet is 1, the most
    while log_wealth(np.zeros((count, 1)), risk, delta)[0] < math.log(1 / delta):
        count = math.ceil(1.05 * count) + 1
    return count


def guarantee_of(method: Method, loss: Array, passing: int, risk: float, delta: float) -> Guarantee:
    """Returns what is guaranteed of the last passing setting of a path with losses (n, S)."""
    extra = ("losses are made monotone along the path, row by row",) if method == "crc" else ()
    return Guarantee(
        method=METHODS[method],
        loss=LOSS,
        risk=risk,
        delta=None if method == "crc" else delta,
        rows=len(loss),
        found=float(loss[:, passing - 1].mean()) if passing else 0.0,
        bound=bound(method, loss[:, :passing], delta) if passing else 0.0,
        passed=passing > 0,
        assumptions=(*_ASSUMPTIONS, *extra),
    )
