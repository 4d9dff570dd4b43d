"""The choice of methods: by trying every choice of small made-up networks, and what many segments cost."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from eetoolkit.quantizing.choosing import Choice, Chosen, Option, choose
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.plan.types import Method

METHODS: tuple[Method, ...] = ("static", "dynamic")
BOUND = 0.01


class Made:
    """A network whose exits' disagreements are the sums, or something else, of what its segments cause.

    Segment k harms the exits from k on; a faster method harms up to three times as much.
    """

    def __init__(self, seed: int, segments: int, methods: int, kind: str = "additive", exits: int = 2) -> None:
        draw = np.random.default_rng(seed)
        self.names = [f"segment{k}" for k in range(segments)]
        self.kind = kind
        careful = np.where(draw.random((segments, exits)) < 0.3, 0.0, draw.exponential(BOUND / 2, (segments, exits)))
        careful *= np.arange(segments)[:, None] <= np.linspace(0, segments, exits, endpoint=False) + segments / exits
        self.harm = np.stack([careful * factor for factor in (1, draw.uniform(1, 3))])[:methods]
        saved = draw.uniform(-0.2, 1.0, segments)
        self.saved = np.stack([saved, saved + draw.uniform(-0.1, 0.5, segments)])[:methods]
        self.cross = draw.random((segments, segments)) < 0.3
        self.calls: list[dict[str, Method]] = []

    @property
    def options(self) -> dict[str, list[Option]]:
        return {
            name: [Option(METHODS[m], 2.0, 2.0 - self.saved[m, k]) for m in range(len(self.saved))]
            for k, name in enumerate(self.names)
        }

    def harms(self, choice: Choice) -> Array:
        parts = [self.harm[METHODS.index(method), self.names.index(name)] for name, method in choice.items()]
        if self.kind == "additive" or not parts:
            return np.sum(parts, axis=0) if parts else np.zeros(self.harm.shape[2])
        if self.kind == "worst":
            return np.asarray(np.max(parts, axis=0))
        chosen = [self.names.index(name) for name in choice]
        pairs = self.cross[np.ix_(chosen, chosen)].sum()  # "crossing": pairs make it worse, or cancel each other
        return np.asarray(np.sum(parts, axis=0) * (0.5 + 0.4 * pairs))

    def disagreement(self, choice: Choice) -> dict[str, float]:
        self.calls.append(dict(choice))
        return {f"exit{e}": float(each) for e, each in enumerate(self.harms(choice))}

    def saving(self, choice: Choice) -> float:
        return sum(float(self.saved[METHODS.index(m), self.names.index(name)]) for name, m in choice.items())

    def holds(self, choice: Choice) -> bool:
        return bool((self.harms(choice) <= BOUND).all())

    def best(self) -> float:
        """What the best of all choices saves."""
        allowed = ("float", *METHODS[: len(self.saved)])
        every = (
            {name: method for name, method in zip(self.names, each, strict=True) if method != "float"}
            for each in itertools.product(allowed, repeat=len(self.names))
        )
        return max(self.saving(choice) for choice in every if self.holds(choice))  # type: ignore[arg-type]

    def choose(self) -> Chosen:
        return choose(self.options, self.disagreement, BOUND)


CASES = [(s, n, m) for n in (2, 3, 4, 5) for m in (1, 2) for s in range(12)]


def extremes(made: Made) -> list[dict[str, Method]]:
    """Every segment at its most careful, and at its fastest method that is faster than float."""
    faster = {name: [o for o in own if o.saved_ms > 0] for name, own in made.options.items()}
    faster = {name: own for name, own in faster.items() if own}
    return [
        {name: own[0].method for name, own in faster.items()},
        {name: max(own, key=lambda option: option.saved_ms).method for name, own in faster.items()},
    ]


@pytest.mark.parametrize("kind", ["additive", "worst", "crossing"])
def test_the_choice_keeps_the_bound_and_is_not_slower_than_the_extremes_that_do(kind: str) -> None:
    held = 0
    for case in CASES:
        made = Made(*case, kind=kind)
        found = made.choose()
        assert made.holds(found.methods)
        assert made.saving(found.methods) >= 0
        assert set(found.methods) | set(found.why) == set(made.names)
        assert not set(found.methods) & set(found.why)
        for extreme in extremes(made):
            held += made.holds(extreme)
            assert not made.holds(extreme) or made.saving(found.methods) >= made.saving(extreme) - 1e-12
    assert 10 < held < 2 * len(CASES)  # both happen


def test_where_harms_add_up_the_choice_is_near_the_best_of_all() -> None:
    shares = [made.saving(made.choose().methods) / best for made in MADE if (best := made.best()) > 0]
    assert np.mean(shares) > 0.98
    assert min(shares) > 0.6
    assert np.mean(np.isclose(shares, 1)) > 0.85


MADE = [Made(*case) for case in CASES]


@pytest.mark.parametrize("segments", [1, 2, 5, 16, 17, 100])
@pytest.mark.parametrize("methods", [1, 2])
@pytest.mark.parametrize("kind", ["additive", "crossing"])
def test_a_choice_is_run_once_and_few_are(segments: int, methods: int, kind: str) -> None:
    for seed in range(5):
        made = Made(seed, segments, methods, kind)
        found = made.choose()
        assert len(made.calls) == len({frozenset(call.items()) for call in made.calls}) == found.tried
        assert all(made.calls)  # all float is not run
        assert found.tried <= 10 + segments * (1 + methods)


def one(
    saved: Sequence[float], harm: Sequence[float]
) -> tuple[dict[str, list[Option]], list[dict[str, Method]], Chosen]:
    """Returns segments of one method each, the choices that were run, and the one found."""
    options = {f"s{k}": [Option("static", 1.0, 1.0 - each)] for k, each in enumerate(saved)}
    calls: list[dict[str, Method]] = []

    def disagreement(choice: Choice) -> Mapping[str, float]:
        calls.append(dict(choice))
        return {"first": 0.0, "last": sum(harm[int(name[1:])] for name in choice)}

    return calls, choose(options, disagreement, BOUND)


def test_of_a_hundred_segments_the_few_that_do_harm_are_found_with_few_tries() -> None:
    bad = {7, 8, 60}
    calls, found = one([1.0] * 100, [0.02 if k in bad else 0.0 for k in range(100)])
    assert set(found.why) == {f"s{k}" for k in bad}
    assert len(calls) < 40


def test_why_a_segment_stays_float_is_said() -> None:
    calls, found = one([-0.006, 0.5, 0.4, 0.3], [0.0, 0.02, 0.004, 0.007])
    assert found.methods == {"s2": "static"}
    assert found.why == {
        "s0": "static is not faster here: 1.01 times float's latency",
        "s1": "last would disagree on up to 2 % of rows",
        "s3": "last would disagree on up to 1.1 % of rows",  # with s2, by which it would still be allowed alone
    }
    assert not any("s0" in call for call in calls)
    none = choose({"moved": []}, lambda _: {"last": 0.0}, BOUND)
    assert none.why["moved"] == "nothing in it can be quantised"


def test_what_may_all_be_fastest_takes_one_try() -> None:
    made = Made(0, 5, 2)
    made.harm[:] = 0
    told: list[tuple[str, int, int]] = []
    found = choose(made.options, made.disagreement, BOUND, lambda *each: told.append(each))
    assert found.tried == 1
    assert told == [("choosing methods", 1, 0)]
    assert found.methods == extremes(made)[1]


def test_nothing_is_run_where_nothing_is_faster() -> None:
    calls, found = one([-0.1, 0.0], [0.0, 0.0])
    assert not calls
    assert not found.methods
    assert len(found.why) == 2


def test_a_disagreement_that_is_no_number_breaks_the_bound() -> None:
    found = choose({"s": [Option("static", 1.0, 0.5)]}, lambda _: {"last": float("nan")}, BOUND)
    assert not found.methods


def test_one_segment_that_saves_more_than_all_others_is_kept_alone() -> None:
    _, found = one([1.0, 0.1, 0.1], [0.0095, 0.0008, 0.0008])  # it does most harm per millisecond, and goes back first
    assert found.methods == {"s0": "static"}
