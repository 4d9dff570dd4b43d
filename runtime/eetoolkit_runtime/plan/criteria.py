"""What each kind of criterion is: the one table that the exporter, the tuner and the checks read."""

from __future__ import annotations

import msgspec

from eetoolkit_runtime.plan.types import Criterion, CriterionKind


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of criterion.

    Attributes:
        default: The threshold where the user gives none; None: the share of the members that must fire.
        options: Keys of `Criterion` that it takes beside those that all kinds take.
        softmax: Whether it takes the softmax of class scores.
        reads_scores: Whether it reads class scores itself, and not only its members.
        stateful: Whether its confidence hangs on the exits met before.
        counted: Whether its confidence is a count or a share, the same on every machine: at its threshold there is no
            rounding.
        combined: Whether it has members.
        ensemble: Whether its answer is another one than the exit's own: logits, whatever the exit's scale.
    """

    default: float | None = 0.9
    options: frozenset[str] = frozenset()
    softmax: bool = False
    reads_scores: bool = True
    stateful: bool = False
    counted: bool = False
    combined: bool = False
    ensemble: bool = False


_DISTRIBUTION = Kind(softmax=True, options=frozenset({"quantile"}))
_SHARE = Kind(default=None, options=frozenset({"members"}), reads_scores=False, counted=True, combined=True)

KINDS: dict[CriterionKind, Kind] = {
    "max_prob": _DISTRIBUTION,
    "entropy": _DISTRIBUTION,
    "margin": _DISTRIBUTION,
    "patience": Kind(default=2.0, options=frozenset({"tau"}), stateful=True, counted=True),
    "vote": Kind(stateful=True, counted=True),
    "mean_ensemble": Kind(softmax=True, stateful=True, ensemble=True),
    "geometric_ensemble": Kind(softmax=True, stateful=True, ensemble=True, options=frozenset({"weights", "bias"})),
    "learned": Kind(reads_scores=False, options=frozenset({"invert"})),
    "all_of": _SHARE,
    "any_of": _SHARE,
    "at_least": msgspec.structs.replace(_SHARE, options=frozenset({"members", "n"})),
    "custom": Kind(reads_scores=False, options=frozenset({"function"})),
}


def kind_of(criterion: Criterion) -> Kind:
    """Returns what the criterion's kind is."""
    return KINDS[criterion.kind]


def needed(criterion: Criterion) -> int | None:
    """Returns how many members must fire; None where `at_least` does not say."""
    return {"all_of": len(criterion.members), "any_of": 1}.get(criterion.kind, criterion.n)
