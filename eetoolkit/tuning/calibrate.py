"""Temperatures by likelihood, and how reliable an exit's probabilities are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from eetoolkit.tuning.record import Record
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.plan.criteria import kind_of
from eetoolkit_runtime.plan.types import Manifest
from eetoolkit_runtime.running.scores import parts, two_classes

BINS = 15
"""Equal-width bins of the largest probability, as Guo et al. count them."""
_LOG_RANGE = (-4.0, 4.0)  # T from 0.018 to 55
_SPREAD = 0.5  # of log T beforehand: two thirds of all T from 0.6 to 1.6
_RULED_OUT = -1e3  # a log p that counts no further: a class of probability 0 must not decide about T
_LEAST = -1e30  # the least log p, as the graphs have it


class Bin(msgspec.Struct, frozen=True):
    """Predictions whose largest probability lies in one bin: how many, its mean, and the share that is right."""

    rows: int
    confidence: float
    accuracy: float


class Reliability(msgspec.Struct, frozen=True, kw_only=True):
    """How far an exit's probabilities can be believed.

    Attributes:
        temperature: What divided the logits.
        ece: Expected calibration error over `bins` (Guo et al. 2017, arXiv 1706.04599, equation 3).
        brier: Sum of squared errors over the classes, in the mean (Brier 1950).
        log_loss: Negative log-likelihood in nats, in the mean.
        bins: `BINS` equal widths of the largest probability, from 0 to 1.
    """

    temperature: float
    ece: float
    brier: float
    log_loss: float
    bins: tuple[Bin, ...]


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """One exit before and after, on the held-out rows."""

    exit: str
    before: Reliability
    after: Reliability


def raw_scores(record: Record, plan: Manifest, exit_: str) -> tuple[Array, Array] | None:
    """Returns an exit's z of all its visits, (n, C), so that p = softmax(z / T), and the columns that are right, (n,).

    None where its outputs do not hold them: dense ones, ensembles (whose answer is another one), no classes, or fewer
    than there are labels.
    """
    said = plan.exits[exit_].scores
    if said is None or kind_of(plan.exits[exit_].criterion).ensemble:
        return None
    scores, here = record.outputs.get(said.output), record.exit == record.exits.index(exit_)
    if scores is None or not here.any():
        return None
    z, labels = scores[here].astype(np.float64), np.broadcast_to(record.label[:, None], here.shape)[here]
    single = z.size == len(z)
    if labels.max() >= (2 if single else z.shape[1]):
        return None
    if single:  # class 1 first, since among equals the first is said
        z, labels = two_classes(z.reshape(-1, 1), said.scale)[:, ::-1], 1 - labels
    elif z.ndim != 2:
        return None
    if said.scale == "probs":
        with np.errstate(divide="ignore"):
            z = np.log(np.maximum(z, 0))
    return np.maximum(z, _LEAST), labels


def fit_temperatures(record: Record, plan: Manifest) -> dict[str, tuple[str, float]]:
    """Returns the temperature of each exit that has one in the manifest: by exit, (constant, T).

    T minimises the negative log-likelihood of the labels (temperature scaling, Guo et al. 2017, section 4.2), see
    `fit_temperature`.

    Args:
        record: The calibration part.
        plan: The bundle's.
    """
    found = {}
    for name, exit_ in plan.exits.items():
        constants = {part.temperature for part in parts(exit_.criterion) if isinstance(part.temperature, str)}
        known = raw_scores(record, plan, name) if len(constants) == 1 else None
        if known is not None:
            found[name] = (constants.pop(), fit_temperature(*known))
    return found


def fit_temperature(z: Array, labels: Array) -> float:
    """Returns the likeliest T where the labels (n,) are drawn from softmax(z / T), z of (n, C).

    And T itself from a lognormal around 1: where all of few rows are right, the likeliest T by these alone would be 0,
    and all confidences 1. On many rows that weighs nothing.
    """
    rows = np.arange(len(z))

    def loss(log_t: float) -> float:
        likely = np.maximum(log_p(z, np.exp(log_t))[rows, labels], _RULED_OUT).sum()
        return float((log_t / _SPREAD) ** 2 / 2 - likely)

    return float(np.exp(minimize_scalar(loss, bounds=_LOG_RANGE, method="bounded", options={"xatol": 1e-6}).x))


def reliability(z: Array, labels: Array, temperature: float) -> Reliability:
    """Returns how reliable softmax(z / T) is, z of (n, C), labels (n,)."""
    logs = log_p(z, temperature)
    p, rows = np.exp(logs), np.arange(len(z))
    sure, right = p.max(axis=1), z.argmax(axis=1) == labels
    # The bin (k / 15, (k + 1) / 15]; 0 itself is in the first.
    place = np.clip(np.ceil(sure * BINS).astype(int) - 1, 0, BINS - 1)
    bins = []
    for k in range(BINS):
        here = place == k
        filled = bool(here.any())
        bins.append(
            Bin(
                int(here.sum()),
                float(sure[here].mean()) if filled else 0.0,
                float(right[here].mean()) if filled else 0.0,
            )
        )
    return Reliability(
        temperature=temperature,
        ece=sum(each.rows * abs(each.accuracy - each.confidence) for each in bins) / len(z),
        brier=float(((p - np.eye(p.shape[1])[labels]) ** 2).sum(axis=1).mean()),
        log_loss=float(-logs[rows, labels].mean()),
        bins=tuple(bins),
    )


def calibrations(
    record: Record, plan: Manifest, before: Mapping[str, float], after: Mapping[str, float]
) -> Iterator[Calibration]:
    """Yields each exit's reliability at two temperatures, by exit, 1 where none is given."""
    for name in record.exits:
        known = raw_scores(record, plan, name)
        if known is not None:
            old, new = before.get(name, 1.0), after.get(name, before.get(name, 1.0))
            yield Calibration(exit=name, before=reliability(*known, old), after=reliability(*known, new))


def temperatures_of(plan: Manifest, constants: Mapping[str, tuple[float, ...]]) -> dict[str, float]:
    """Returns each exit's temperature, as `constants` hold them."""
    found = {}
    for name, exit_ in plan.exits.items():
        for part in parts(exit_.criterion):
            if isinstance(part.temperature, str):
                found[name] = constants[part.temperature][0]
    return found


def log_p(z: Array, temperature: float) -> Array:
    """Returns log softmax(z / T) over the last axis, (n, C), at least -1e30."""
    return np.asarray(np.maximum(log_softmax(z / temperature, axis=1), _LEAST))
