"""The criteria written out in float64, straight from their definitions, one row at a time, exit after exit.

`max_prob` is max p, `margin` the largest p less the second largest (CALM, section 3.5), `entropy` is 1 - H(p) / ln C
(BranchyNet, section 4.1, on the scale on which higher is surer), with p = softmax(z / T) over C classes.
"""

from __future__ import annotations

import math

import numpy as np

from networks.case import Array


def probabilities(scores: Array, scale: str, temperature: float) -> list[float]:
    """Returns p of one vector of scores, which are z, log p or p itself up to the temperature."""
    z = [float(score) for score in scores]
    if any(map(math.isnan, z)):
        return [math.nan] * len(z)
    if scale == "probs":
        powers = [score ** (1 / temperature) for score in z]
    else:
        powers = [math.exp((score - max(z)) / temperature) for score in z]
    total = math.fsum(powers)
    return [power / total for power in powers]


def of_vector(p: list[float], kind: str) -> float:
    """Returns the confidence of one distribution."""
    if any(map(math.isnan, p)):
        return math.nan
    if kind == "max_prob":
        return max(p)
    if kind == "margin":
        first, second = sorted(p, reverse=True)[:2]
        return first - second
    if kind == "entropy":
        return 1 - math.fsum(-value * math.log(value) for value in p if value > 0) / math.log(len(p))
    raise ValueError(kind)


def confidence(
    scores: Array, kind: str, scale: str = "logits", temperature: float = 1.0, axis: int = 1,
    quantile: float | None = None,
) -> Array:  # fmt: skip
    """Returns one confidence a row, float64; dense scores are judged at every position and then reduced.

    A quantile is the value at rank floor(q (n - 1)) of the n sorted positions.
    """
    found = []
    for row in np.moveaxis(np.asarray(scores, np.float64), axis, -1):
        positions = [of_vector(probabilities(z, scale, temperature), kind) for z in row.reshape(-1, row.shape[-1])]
        if any(map(math.isnan, positions)):
            found.append(math.nan)
        elif quantile is None:
            found.append(math.fsum(positions) / len(positions))
        else:
            found.append(sorted(positions)[math.floor(quantile * (len(positions) - 1))])
    return np.array(found)


def two(score: float, scale: str) -> list[float]:
    """Returns the scores of two classes, on the scale of one score: 1 - p and p, where p = sigmoid(z), e^z or z."""
    if math.isnan(score):
        return [math.nan, math.nan]
    if scale == "logits":
        return [0.0, score] if math.isfinite(score) else [-math.inf, 0.0][:: 1 if score > 0 else -1]
    if scale == "probs":
        return [1 - score, score]
    rest = -math.expm1(score)
    return [math.log(rest) if rest > 0 else -math.inf, score]


IMPOSSIBLE = -1e30
"""What stands for log 0 in an ensemble."""


def log_probabilities(scores: Array, scale: str, temperature: float) -> list[float]:
    """Returns log p of one vector of scores; -inf where p is 0, all NaN where there is no distribution."""
    z = [float(score) for score in scores]
    if any(map(math.isnan, z)):
        return [math.nan] * len(z)
    if scale == "probs":
        z = [math.log(score) if score > 0 else -math.inf for score in z]
    top = max(z)
    if math.isinf(top):
        return [math.nan] * len(z)
    total = math.log(math.fsum(math.exp((score - top) / temperature) for score in z))
    return [(score - top) / temperature - total for score in z]


def first_largest(scores: Array, scale: str) -> int | None:
    """Returns the class that an exit is for; None where its scores are no distribution."""
    if any(map(math.isnan, log_probabilities(scores, scale, 1.0))):
        return None
    best = 0
    for index, score in enumerate(scores):
        if score > scores[best]:
            best = index
    return best


def patience(classes: list[int | None]) -> list[float]:
    """Returns the counter after each exit: PABEE, section 3.2, cnt_i = cnt_(i-1) + 1 if the answers agree, else 0."""
    counters: list[float] = []
    counter, previous = 0, None
    for found in classes:
        counter = counter + 1 if found is not None and found == previous else 0
        counters.append(math.nan if found is None else counter)
        previous = found
    return counters


def patience_in_regression(values: list[float], tau: float) -> list[float]:
    """Returns the counter after each exit: PABEE, section 3.2, with |y_i - y_(i-1)| < tau for equality."""
    counters: list[float] = []
    counter = 0
    for index, value in enumerate(values):
        close = index > 0 and abs(value - values[index - 1]) < tau
        counter = counter + 1 if close else 0
        counters.append(math.nan if math.isnan(value) else counter)
    return counters


def vote(classes: list[int | None]) -> list[tuple[float, int]]:
    """Returns the share and the class with most votes after each exit; among equals the class voted for last."""
    found: list[tuple[float, int]] = []
    for count in range(1, len(classes) + 1):
        votes = [voted for voted in classes[:count] if voted is not None]
        most = max((votes.count(voted) for voted in votes), default=0)
        leaders = [voted for voted in votes if votes.count(voted) == most]
        label = leaders[-1] if leaders else -1
        found.append((math.nan if classes[count - 1] is None else most / count, label))
    return found


def mean_of_p(log_p: list[list[float]]) -> list[float]:
    """Returns the log of the mean of p over exits, for each class (Wisdom of Committees, section 3)."""
    found = []
    for of_class in zip(*log_p, strict=True):
        terms = [max(value, IMPOSSIBLE) if not math.isnan(value) else value for value in of_class]
        top = max(terms)
        found.append(top + math.log(math.fsum(math.exp(value - top) for value in terms) / len(terms)))
    return [math.nan] * len(found) if any(map(math.isnan, found)) else found


def geometric(log_p: list[list[float]], weights: list[float], bias: list[float]) -> list[float]:
    """Returns q, the weighted sum of log p over exits and the bias (Zero Time Waste, section 3.2)."""
    found = []
    for index, own in enumerate(bias):
        terms = [max(of_exit[index], IMPOSSIBLE) for of_exit in log_p]
        found.append(math.fsum([weight * term for weight, term in zip(weights, terms, strict=True)]) + own)
    bad = any(math.isnan(value) for of_exit in log_p for value in of_exit)
    return [math.nan] * len(found) if bad else found


def softmax(q: list[float]) -> list[float]:
    """Returns the distribution of q."""
    if any(map(math.isnan, q)):
        return [math.nan] * len(q)
    powers = [math.exp(value - max(q)) for value in q]
    return [power / math.fsum(powers) for power in powers]
