"""The parts of the data, the intervals of figures, and labelled data from files."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image
from plans import Draft, chain, gated
from scipy.stats import binomtest, bootstrap

import eetoolkit as ee
from eetoolkit.reading.images import ImageOptions
from eetoolkit.reading.labelled import read_labelled
from eetoolkit.tuning.collect import collect
from eetoolkit.tuning.costs import choose_costs
from eetoolkit.tuning.intervals import difference_of, mean_of, ratio_of, rows_needed, wilson
from eetoolkit.tuning.splits import SHARES, split
from eetoolkit_runtime.bundle.bundle import load
from eetoolkit_runtime.errors import InputError, TuneError
from eetoolkit_runtime.plan.types import Preprocess, SavedProfile, Work
from eetoolkit_runtime.profiling.latency import Latency, summarise


@pytest.mark.parametrize("guarantee", [False, True])
@pytest.mark.parametrize("calibrate", [False, True])
def test_every_row_is_in_one_part_and_labels_keep_their_shares(calibrate: bool, guarantee: bool) -> None:
    labels = np.repeat([0, 1, 2], [700, 250, 50])
    found = split(labels, calibrate=calibrate, guarantee=guarantee, seed=0)
    parts = {name: getattr(found, name) for name in SHARES}
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(1000))
    wanted = {"calibrate": calibrate, "tune": True, "guarantee": guarantee, "test": True}
    total = sum(share for name, share in SHARES.items() if wanted[name])
    for name, places in parts.items():
        assert len(places) == pytest.approx(1000 * SHARES[name] / total if wanted[name] else 0, abs=4)
        for label, count in enumerate((700, 250, 50) if wanted[name] and not guarantee else ()):
            assert (labels[places] == label).sum() == pytest.approx(count * SHARES[name] / total, abs=3)
    assert found.by_label is not guarantee


def test_the_seed_alone_says_which_rows() -> None:
    labels = np.arange(200) % 5
    one, same, other = (split(labels, calibrate=False, guarantee=False, seed=seed).test for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert not split(np.zeros((20, 3)), calibrate=False, guarantee=False, seed=0).by_label


def test_an_empty_part_is_refused() -> None:
    with pytest.raises(TuneError, match="1 rows leave a part empty; the parts are tune, test"):
        split([1], calibrate=False, guarantee=False, seed=0)


def test_wilsons_interval_is_that_of_the_formula() -> None:
    # Brown, Cai and DasGupta (2001): the roots of (p - x)^2 = z^2 x (1 - x) / n.
    for hits, count in ((0, 20), (3, 20), (20, 20), (450, 500)):
        found, z = wilson(hits, count), 1.959963984540054
        for end in (found.low, found.high):
            assert (hits / count - end) ** 2 == pytest.approx(z**2 * end * (1 - end) / count, abs=1e-12)
        assert found.low <= found.value <= found.high
        known = binomtest(hits, count).proportion_ci(confidence_level=0.95, method="wilson")
        assert (found.low, found.high) == pytest.approx((known.low, known.high))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    draw, count = np.random.default_rng(0), 400
    held = {"mean": 0, "difference": 0, "ratio": 0}
    for seed in range(count):
        pairs = draw.exponential(size=(80, 2)) + draw.exponential(size=(80, 1))
        held["mean"] += (found := mean_of(pairs[:, 0], seed)).low <= 2 <= found.high
        held["difference"] += (found := difference_of(pairs[:, 0] - pairs[:, 1], seed)).low <= 0 <= found.high
        held["ratio"] += (found := ratio_of(pairs[:, 0], pairs[:, 1], seed)).low <= 1 <= found.high
    # 95 %, by two of its standard errors; intervals of 90 % or of 99 % would be more than four away.
    assert all(0.928 <= times / count <= 0.972 for times in held.values()), held


def ratio(above: np.ndarray, below: np.ndarray, axis: int) -> np.ndarray:
    return above.mean(axis=axis) / below.mean(axis=axis)


@pytest.mark.parametrize("seed", range(3))
def test_bootstrap_intervals_are_scipys_of_the_same_draws(seed: int) -> None:
    pairs = np.random.default_rng(7).exponential(size=(80, 2))
    above, below = pairs.T

    def expected(*samples: np.ndarray, statistic: Callable[..., np.ndarray] = np.mean) -> tuple[float, float]:
        low, high = bootstrap(
            samples, statistic, paired=True, n_resamples=1000, confidence_level=0.95, method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
        return float(low), float(high)

    for found, ends in (
        (mean_of(above, seed), expected(above)),
        (difference_of(above - below, seed), expected(above - below)),
        (ratio_of(above, below, seed), expected(above, below, statistic=ratio)),
    ):
        assert (found.low, found.high) == pytest.approx(ends, rel=1e-12)


def test_rows_that_all_agree_are_not_taken_for_certain() -> None:
    found = difference_of(np.zeros(100), 0)
    assert found.high == -found.low == wilson(0, 100).high > 0.03
    assert rows_needed(np.zeros(100), 0.01) == math.ceil(1.959963984540054**2 * 0.01 * 0.99 / 0.01**2)
    draw = np.random.default_rng(0).normal(size=100_000)
    assert rows_needed(draw, 0.1) == pytest.approx(384, rel=0.02)


def test_costs_are_the_manifests_latencies_else_multiply_adds_else_segments(tmp_path: Path) -> None:
    bundle = load(chain(0.5).save(tmp_path / "it.ee"))
    record = collect(bundle, np.zeros((2, 4), np.float32), [0, 1], threads=1)
    plan = bundle.manifest

    def of(**changes: object) -> tuple[str, list[float]]:
        found = choose_costs(msgspec.structs.replace(plan, **changes), record, None, ("CPUExecutionProvider",))
        return found.unit, found.of_visits(record)[0].tolist()

    worked = {
        name: msgspec.structs.replace(segment, work=Work(nodes=1, parameters=1, multiply_adds=10 * (k + 1)))
        for k, (name, segment) in enumerate(plan.segments.items())
    }
    assert of() == ("segments", [1, 2])
    assert of(segments=worked) == ("multiply-adds", [10, 30])
    profiled = SavedProfile(expected_ms={"segment0": 0.5, "segment1": 2.0})
    assert of(segments=worked, profile=profiled) == ("ms", [0.5, 2.5])
    with pytest.raises(TuneError, match="has no latency for segment1, which rows of the data come through"):
        of(profile=SavedProfile(expected_ms={"segment0": 0.5}))


def called(profile: ee.Profile, **calls: tuple[int, float]) -> ee.Profile:
    """Returns a profile in which each exit has answered so many calls, so many times as slowly as runs to it alone."""
    exits = {}
    for name, cost in profile.exits.items():
        runs, slower = calls.get(name, (0, 1.0))
        latency = cost.latency
        assert latency is not None
        call = msgspec.structs.replace(latency, runs=runs, robust_ms=latency.robust_ms * slower) if runs else None
        called_ms = cost.segments_ms if runs else None
        exits[name] = msgspec.structs.replace(cost, call=call, called_ms=called_ms)
    return msgspec.structs.replace(profile, exits=exits)


def test_what_a_run_costs_is_what_calls_that_its_exit_answered_took_in_a_profile(tmp_path: Path) -> None:
    bundle = load(chain(0.5, 0.5).save(tmp_path / "it.ee"))
    x = np.random.default_rng(0).uniform(0, 1, (8, 4)).astype(np.float32)
    record = collect(bundle, x, np.arange(8) % 2, threads=1)
    profile = ee.profile(bundle, x, threads=1, seconds=0)
    always = [cost.latency.robust_ms for cost in profile.exits.values() if cost.latency is not None]

    def slower(**calls: tuple[int, float]) -> list[float]:
        """Returns what a run to each exit costs, over what it takes where all runs leave there."""
        found = choose_costs(bundle.manifest, record, called(profile, **calls), profile.providers).of_visits(record)
        return list(found.mean(axis=0) / always)

    assert slower() == pytest.approx([1, 1, 1])
    # Exits that answered many calls by their own, the others by all of them.
    many = 10**9
    all_ = (1.3 * always[0] + 1.1 * always[1]) / (always[0] + always[1])
    assert slower(exit0=(many, 1.3), exit1=(many, 1.1)) == pytest.approx([1.3, 1.1, all_])
    # Ten of its own count as much as all.
    all_ = (90 * 1.3 * always[0] + 10 * 1.1 * always[2]) / (90 * always[0] + 10 * always[2])
    found = slower(exit0=(90, 1.3), exit2=(10, 1.1))
    assert found == pytest.approx([0.9 * 1.3 + 0.1 * all_, all_, (1.1 + all_) / 2])


def test_where_calls_are_many_their_mean_is_what_costs_say(tmp_path: Path) -> None:
    bundle = load(chain(0.5, 0.5).save(tmp_path / "it.ee"))
    x = np.random.default_rng(0).uniform(0, 1, (8, 4)).astype(np.float32)
    record = collect(bundle, x, np.arange(8) % 2, threads=1)
    with ee.Runner(bundle, threads=1) as runner:
        ended = np.array([list(bundle.exits).index(runner.run(row[None]).exit) for row in x])
    shares = np.bincount(ended, minlength=3)
    slower = {name: (int(shares[e]) * 10**9, 1.1 + e / 10) for e, name in enumerate(bundle.exits)}
    profile = called(ee.profile(bundle, x, threads=1, seconds=0), **slower)
    calls = [cost.call.runs * cost.call.robust_ms for cost in profile.exits.values() if cost.call is not None]
    costs = choose_costs(bundle.manifest, record, profile, profile.providers).of_visits(record)
    assert costs[np.arange(8), ended].mean() == pytest.approx(sum(calls) / (8 * 10**9))


def test_one_disturbed_run_in_each_latency_of_a_profile_hardly_changes_what_runs_cost(tmp_path: Path) -> None:
    bundle = load(chain(0.5, 0.5).save(tmp_path / "it.ee"))
    x = np.random.default_rng(0).uniform(0, 1, (8, 4)).astype(np.float32)
    record = collect(bundle, x, np.arange(8) % 2, threads=1)
    base = ee.profile(bundle, x, threads=1, seconds=0)
    edit, draw = msgspec.structs.replace, np.random.default_rng(1)
    ends = dict(zip(base.exits, (1.0, 3.0, 10.0), strict=True))

    def costs(disturbed: int) -> np.ndarray:
        """Returns what runs cost by segments of 1, 2 and 7 ms, in so many of 200 runs 100 times as much."""

        def took(ms: float) -> Latency:
            runs = ms * draw.gamma(100, 1 / 100, 200)
            runs[:disturbed] *= 100
            return summarise(runs)

        segments = {name: edit(cost, latency=took(ms)) for (name, cost), ms in zip(
            base.segments.items(), (1.0, 2.0, 7.0), strict=True)}  # fmt: skip
        exits = {
            name: edit(
                cost, latency=took(ends[name]), segments_ms=ends[name], call=took(ends[name]), called_ms=ends[name]
            )
            for name, cost in base.exits.items()
        }
        found = edit(base, segments=segments, exits=exits)
        return choose_costs(bundle.manifest, record, found, found.providers).of_visits(record)[0]

    assert costs(0) == pytest.approx(list(ends.values()), rel=0.03)  # the mean, within noise
    assert costs(1) == pytest.approx(list(ends.values()), rel=0.03)


@pytest.mark.parametrize("fallback", ["last", "most_confident"])
def test_a_profile_of_other_rows_keeps_what_a_gated_path_costs(tmp_path: Path, fallback: str) -> None:
    draft = gated()
    draft.options["fallback"] = fallback
    bundle = load(draft.save(tmp_path / "it.ee"))
    way = np.array([0.9, 0, 0, 0], np.float32), np.zeros(4, np.float32)
    rows = [np.stack([way[k] for k in order]) for order in ([0, 1, 1, 1], [0, 0, 0, 1])]
    profile = ee.profile(bundle, rows[0], threads=1, seconds=0)
    record = collect(bundle, rows[1], np.arange(4) % 2, threads=1)
    found = choose_costs(bundle.manifest, record, profile, profile.providers)
    paths = found.of_visits(record)[np.arange(4), record.last]
    means = {name: cost.latency.robust_ms for name, cost in profile.segments.items() if cost.latency is not None}
    with ee.Runner(bundle, threads=1) as runner:
        plain = [sum(means[name] for name in runner.run(row[None]).path) for row in rows[1]]
    assert len(set(plain)) == 2
    assert paths / paths[0] == pytest.approx(np.array(plain) / plain[0])


def test_labelled_data_is_read_from_arrays_and_class_folders(tmp_path: Path) -> None:
    plan = chain(0.5).plan()
    x, labels = np.zeros((3, 4), np.float32), np.array([0, 1, 2])
    np.savez(tmp_path / "named.npz", x=x, labels=labels)
    np.savez(tmp_path / "other.npz", images=x, labels=labels)
    for name in ("named.npz", "other.npz"):
        inputs, found = read_labelled(plan, str(tmp_path / name), ImageOptions())
        np.testing.assert_array_equal(found, labels)  # type: ignore[arg-type]
        np.testing.assert_array_equal(inputs["x"], x)
    with pytest.raises(InputError, match="arrays are taken as they are"):
        read_labelled(plan, str(tmp_path / "named.npz"), ImageOptions(scale=1.0))
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(InputError, match=r"expected a \.npz with the arrays x and labels"):
        read_labelled(plan, str(tmp_path / "x.npy"), ImageOptions())

    spec = Draft({"image": ("float32", ("batch", 1, 2, 2))}).inputs
    way = {"image": Preprocess(layout="NCHW", resize=(2, 2))}
    plan = msgspec.structs.replace(plan, inputs=spec, preprocess=way, labels=("cat", "dog"))
    for folder, shades in (("dog", (255, 0)), ("cat", (51,))):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for shade in shades:
            Image.new("L", (2, 2), shade).save(tmp_path / "data" / folder / f"{shade}.png")
    pairs, none = read_labelled(plan, str(tmp_path / "data"), ImageOptions())
    assert none is None
    assert len(pairs) == 3
    for _ in range(2):  # it may be read again
        assert [(round(float(row[0].max()), 3), label) for row, label in pairs] == [(0.2, 0), (0.0, 1), (1.0, 1)]
    with pytest.raises(InputError, match="'dog' is no class; these are cat, bird"):
        read_labelled(msgspec.structs.replace(plan, labels=("cat", "bird")), str(tmp_path / "data"), ImageOptions())
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no folders in this folder; expected one for each class"):
        read_labelled(plan, str(tmp_path / "empty"), ImageOptions())
