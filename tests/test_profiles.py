"""Profiles kept in files and bundles, several as one, and two beside each other."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from plans import chain, gated
from plans import edit as tune

import eetoolkit as ee
from eetoolkit_runtime.profiling.latency import QUANTILES, pool, summarise
from eetoolkit_runtime.profiling.profile import Energy, OperatorCost, WholeCost

X = np.random.default_rng(0).uniform(0, 1, (6, 4)).astype(np.float32)
edit = msgspec.structs.replace


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ee.Bundle:
    return ee.load(chain(0.5, 0.5).save(tmp_path_factory.mktemp("profiles") / "chain.ee"))


@pytest.fixture(scope="module")
def found(bundle: ee.Bundle) -> ee.Profile:
    return ee.profile(bundle, X, np.zeros(len(X), int), threads=1, seconds=0)


# Read

ABSURD: dict[str, tuple[tuple[str, ...], Any, str]] = {
    "no rows": (("rows",), 0, "Expected `int` >= 1 - at `$.rows`"),
    "no rounds": (("rounds",), -3, "Expected `int` >= 1 - at `$.rounds`"),
    "more rows than a number holds": (("timed",), 10**16, "- at `$.timed`"),
    "a share beyond all": (("exits", "exit0", "share"), 1.1, "Expected `float` <= 1"),
    "an accuracy below none": (("accuracy",), -0.1, "Expected `float` >= 0"),
    "visits below none": (("segments", "segment0", "visits"), -1, "Expected `float` >= 0"),
    "nothing taken": (("exits", "exit0", "latency", "robust_ms"), 0, "Expected `float` >= 1e-15"),
    "nothing taken by segments": (("exits", "exit0", "segments_ms"), 0, "Expected `float` >= 1e-15"),
    "taken for ever": (("expected", "mean_ms"), 1e300, "Expected `float` <= 1000000000000000.0"),
    "bytes below none": (("segments", "segment0", "size_bytes"), -1, "Expected `int` >= 0"),
    "an exit that there is not": (("segments", "segment0", "exit"), "other", "do not name the same exits"),
    "no segments": (("segments",), {}, "its 0 segments, 3 exits and 3 thresholds do not name the same exits"),
    "no exits": (("exits",), {}, "its 3 segments, 0 exits and 3 thresholds do not name the same exits"),
    "a threshold of another exit": (("thresholds",), {"exit0": 0.5, "other": 1}, "do not name the same exits"),
}


@pytest.mark.parametrize("name", ABSURD)
def test_a_profile_of_what_cannot_be_is_refused(name: str, found: ee.Profile, tmp_path: Path) -> None:
    place, value, said = ABSURD[name]
    keys = inside = msgspec.to_builtins(found)
    for key in place[:-1]:
        inside = inside[key]
    assert place[-1] in inside
    inside[place[-1]] = value
    (tmp_path / "it.json").write_bytes(msgspec.json.encode(keys))
    with pytest.raises(ee.BundleError, match=re.escape(said)) as caught:
        ee.read_profile(tmp_path / "it.json")
    assert "it.json is not a profile" in str(caught.value)


def test_a_profile_that_is_read_is_the_one_that_was_written(found: ee.Profile, tmp_path: Path) -> None:
    assert ee.read_profile(ee.write_profile(found, tmp_path / "it.json")) == found
    merged = ee.merge_profiles([found] * 3)
    assert ee.read_profile(ee.write_profile(merged, tmp_path / "three.json")) == merged


# Pooled


def test_pooled_latencies_are_those_of_all_runs_together() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.gamma(3, 1, 4000), rng.gamma(9, 1, 1000)
    pooled, exact = pool([summarise(one), summarise(other)]), summarise(np.concatenate([one, other]))
    assert pooled.runs == 5000
    assert pooled.mean_ms == pytest.approx(exact.mean_ms)
    assert pooled.robust_ms == pytest.approx((4 * summarise(one).robust_ms + summarise(other).robust_ms) / 5)
    for quantile, value, expected in zip(QUANTILES, pooled.quantiles_ms, exact.quantiles_ms, strict=True):
        assert value == pytest.approx(expected, rel=0.05), quantile
    assert (pooled.quantiles_ms[0], pooled.quantiles_ms[-1]) == pytest.approx(
        (min(one.min(), other.min()), max(one.max(), other.max())), rel=1e-5
    )


def test_pooling_apart_latencies_puts_the_median_where_most_runs_are() -> None:
    pooled = pool([summarise([1.0] * 30), summarise([9.0] * 10)])
    assert (pooled.p50_ms, pooled.mean_ms) == (pytest.approx(1.0), pytest.approx(3.0))


def test_pooling_one_latency_is_that_latency() -> None:
    latency = summarise([1.0, 2.0, 5.0])
    assert pool([latency]) == latency
    assert pool([latency, latency]).p50_ms == pytest.approx(latency.p50_ms)


# Merged


def test_merged_profiles_count_all_inputs_and_runs(found: ee.Profile) -> None:
    name = "exit0"
    half = edit(found.exits[name], share=0.5, accuracy=1.0)
    quarter = edit(found.exits[name], share=0.25, accuracy=0.5)
    a = edit(found, rows=10, exits=found.exits | {name: half}, accuracy=0.9, measured="2026-01-02")
    b = edit(found, rows=30, exits=found.exits | {name: quarter}, accuracy=0.5, measured="2026-01-01")
    merged = ee.merge_profiles([a, b])
    assert (merged.merged, merged.rows, merged.rounds) == (2, 40, 2 * found.rounds)
    assert merged.measured == "2026-01-01"
    assert merged.expected.runs == 2 * found.expected.runs
    assert merged.expected.mean_ms == pytest.approx(found.expected.mean_ms)
    assert merged.accuracy == pytest.approx((0.9 * 10 + 0.5 * 30) / 40)
    exit_ = merged.exits[name]
    assert exit_.share == pytest.approx((5 + 7.5) / 40)
    assert exit_.accuracy == pytest.approx((5 * 1.0 + 7.5 * 0.5) / 12.5)
    segment = merged.segments["segment0"]
    assert segment.latency is not None
    assert segment.latency.runs == 2 * found.rounds * len(X)
    assert ee.merge_profiles([merged, a]).merged == 3


def test_merged_calls_are_weighted_by_their_number(found: ee.Profile) -> None:
    def with_calls(runs: int, took: float, called_ms: float) -> ee.Profile:
        cost = edit(found.exits["exit0"], call=summarise([took] * runs), called_ms=called_ms)
        return edit(found, exits=found.exits | {"exit0": cost})

    none = edit(found, exits=found.exits | {"exit0": edit(found.exits["exit0"], call=None, called_ms=None)})
    merged = ee.merge_profiles([with_calls(10, 3.0, 2.0), with_calls(40, 1.0, 1.25), none]).exits["exit0"]
    assert merged.call is not None
    assert merged.call.mean_ms == pytest.approx((10 * 3 + 40 * 1) / 50)
    assert merged.called_ms == pytest.approx((10 * 2 + 40 * 1.25) / 50)


def test_what_only_one_profile_has_is_merged_only_where_it_stays_true(found: ee.Profile) -> None:
    latency = found.expected
    whole = WholeCost(file="w.onnx", latency=latency, ratio=1, full_path_ratio=2, difference=1e-6)
    energy = Energy(meter="ina226", idle_w=1, call_mj=2, full_path_mj=3)
    a = edit(found, whole=whole, energy=energy)
    assert ee.merge_profiles([a, found]).whole is None
    both = ee.merge_profiles([a, edit(a, energy=edit(energy, call_mj=4))])
    assert both.whole is not None
    assert both.whole.ratio == pytest.approx(1)
    assert both.energy == Energy(meter="ina226", idle_w=1, call_mj=3, full_path_mj=3)
    assert ee.merge_profiles([a, edit(a, energy=edit(energy, meter="other"))]).energy is None


def test_merged_operators_are_weighted_by_their_runs(found: ee.Profile) -> None:
    def traced(runs: int, conv: float, relu: float) -> ee.Profile:
        operators = tuple(
            OperatorCost(node=name, operator=name, runs=runs, p50_us=us, share=us / (conv + relu))
            for name, us in (("Conv", conv), ("Relu", relu))
        )
        segment = edit(found.segments["segment0"], operators=operators, traced_ms=1.0)
        return edit(found, segments=found.segments | {"segment0": segment})

    merged = ee.merge_profiles([traced(10, 8, 2), traced(30, 4, 4)]).segments["segment0"].operators
    assert merged is not None
    assert [(cost.node, cost.runs, cost.p50_us) for cost in merged] == [("Conv", 40, 5.0), ("Relu", 40, 3.5)]
    assert sum(cost.share for cost in merged) == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"threads": 7}, "differ in threads"),
        ({"providers": ("CUDAExecutionProvider", "CPUExecutionProvider")}, "differ in providers"),
        ({"files": {}}, "differ in files"),
        ({"thresholds": {"exit0": 0.1}}, "differ in thresholds"),
    ],
)
def test_profiles_of_other_things_are_not_merged(found: ee.Profile, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ee.BundleError, match=said):
        ee.merge_profiles([found, edit(found, **change)])
    with pytest.raises(ee.BundleError, match="no profiles to merge"):
        ee.merge_profiles([])


# Compared


def test_a_profile_is_like_itself(found: ee.Profile) -> None:
    same = ee.compare_profiles(found, found)
    assert same.changes == ()
    assert same.expected.ratio == 1
    assert same.expected.within_spread is None
    assert same.full_path.within_spread
    assert (same.only_a, same.only_b) == ((), ())
    assert list(same.segments) == list(found.segments)


def test_a_comparison_names_what_changed_and_gives_ratios(found: ee.Profile) -> None:
    slow = found.segments["segment0"].latency
    assert slow is not None
    slower = edit(slow, p50_ms=3 * slow.p50_ms + slow.spread_ms * 9)
    segments = {
        "segment0": edit(found.segments["segment0"], latency=slower),
        "segment1": edit(found.segments["segment1"], latency=None),
        "new": found.segments["segment2"],
    }
    other = edit(
        found, threads=2, segments=segments, machine=edit(found.machine, processor="another"),
        thresholds=found.thresholds | {"exit0": 0.25}, files={"x.onnx": "0"},
        providers=("Other", "CPUExecutionProvider"),
    )  # fmt: skip
    seen = ee.compare_profiles(found, other)
    changes = {change.what: (change.a, change.b) for change in seen.changes}
    assert changes["threads"] == ("1", "2")
    assert changes["processor"] == (found.machine.processor, "another")
    assert changes["threshold of exit0"] == (">= 0.5", ">= 0.25")
    assert changes["graphs"] == ("3 of 3 are its own", "1 of 1 are its own")
    assert changes["providers"] == ("CPUExecutionProvider", "Other, CPUExecutionProvider")
    assert changes.keys() == {"threads", "providers", "processor", "threshold of exit0", "graphs"}
    assert (seen.only_a, seen.only_b) == (("segment2",), ("new",))
    pair = seen.segments["segment0"]
    assert pair.ratio == pytest.approx(slower.p50_ms / slow.p50_ms)
    assert pair.within_spread is False
    assert (seen.segments["segment1"].b_ms, seen.segments["segment1"].ratio) == (None, None)


# Kept


def test_a_saved_profile_is_a_file_of_the_bundle_and_replaces_the_one_before(tmp_path: Path, found: ee.Profile) -> None:
    bundle = ee.load(chain(0.5, 0.5).save(tmp_path / "chain.ee"))
    ee.save_profile(bundle, edit(found, rows=1))
    ee.save_profile(ee.load(bundle.path), found)
    saved = ee.load(bundle.path, check="full")
    names = [path.name for path in bundle.path.glob("profile-*.json")]
    assert [name for name in saved.manifest.files if name.startswith("profile-")] == names
    assert len(names) == 1
    assert ee.read_profile(saved) == ee.read_profile(bundle.path) == found
    packed = saved.pack(tmp_path / "chain.ee.zip")
    assert ee.read_profile(packed) == found
    cut = ee.truncate(saved, "exit0", tmp_path / "cut.ee")
    with pytest.raises(ee.BundleError, match="no profile was saved in"):
        ee.read_profile(cut)


def test_a_profile_is_saved_in_the_bundle_as_it_is_by_now(tmp_path: Path, found: ee.Profile) -> None:
    bundle = ee.load(chain(0.5, 0.5).save(tmp_path / "chain.ee"))
    tune(bundle.path, name="tuned since")
    ee.save_profile(bundle, found)
    assert ee.load(bundle.path).manifest.name == "tuned since"
    assert ee.read_profile(bundle.path) == found
    chain(0.5, weights=True).save(bundle.path)
    with pytest.raises(ee.BundleError, match="this profile is of another bundle"):
        ee.save_profile(bundle, found)


def test_a_profile_is_not_saved_where_a_zip_was_unpacked(
    tmp_path: Path, found: ee.Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EETOOLKIT_CACHE", str(tmp_path / "cache"))
    packed = ee.load(chain(0.5, 0.5).save(tmp_path / "chain.ee")).pack(tmp_path / "chain.zip")
    with pytest.raises(ee.BundleError, match=r"chain\.zip is packed, and only a bundle's folder can be changed"):
        ee.save_profile(ee.load(packed), found)
    assert not ee.load(packed).manifest.profile


def test_a_profile_in_a_file_is_not_overwritten_unasked(tmp_path: Path, found: ee.Profile) -> None:
    target = ee.write_profile(found, tmp_path / "a.json")
    assert ee.read_profile(target) == found
    with pytest.raises(ee.EEToolkitError, match=r"a.json exists; pass overwrite=True"):
        ee.write_profile(found, target)
    ee.write_profile(edit(found, rows=9), target, overwrite=True)
    assert ee.read_profile(target).rows == 9
    with pytest.raises(ee.EEToolkitError, match="is a folder; name a file"):
        ee.write_profile(found, tmp_path, overwrite=True)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "none.json", "none.json does not exist"),
        (
            lambda folder: gated().save(folder / "gated.ee"),
            "no profile was saved in .*gated.ee; run `eetoolkit",
        ),
        (lambda folder: folder, "is not a bundle"),
    ],
)
def test_where_no_profile_is_the_error_says_so(tmp_path: Path, make: Callable[[Path], Path], said: str) -> None:
    with pytest.raises(ee.BundleError, match=said):
        ee.read_profile(make(tmp_path))
