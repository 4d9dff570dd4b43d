"""Profiles kept in files and bundles, and two beside each other."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from plans import chain, gated
from plans import edit as tune

import eetoolkit as ee
from eetoolkit.cli import main
from eetoolkit_runtime.profiling.profile import json_schema

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
    "rows below none": (("rows",), -1, "Expected `int` >= 0 - at `$.rows`"),
    "rounds below none": (("rounds",), -3, "Expected `int` >= 0 - at `$.rounds`"),
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
        ee.Profile.read(tmp_path / "it.json")
    assert "it.json is not a profile" in str(caught.value)


def test_a_profile_that_is_read_is_the_one_that_was_written(found: ee.Profile, tmp_path: Path) -> None:
    assert ee.Profile.read(found.write(tmp_path / "it.json")) == found


def test_the_methods_of_a_profile_refuse_what_is_none(found: ee.Profile) -> None:
    wrong: Any = 5
    for call, said in (
        (lambda: ee.Profile.read(wrong), r"^source is 5, expected a text or a path or a Bundle$"),
        (lambda: found.write(wrong), r"^target is 5, expected a text or a path$"),
        (lambda: found.save(wrong), r"^bundle is 5, expected a text or a path or a Bundle$"),
        (lambda: found.compare(wrong), r"^other is 5, expected a Profile$"),
    ):
        with pytest.raises(ee.InputError, match=said):
            call()


# Compared


def test_a_profile_is_like_itself(found: ee.Profile) -> None:
    same = found.compare(found)
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
    seen = found.compare(other)
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
    edit(found, rows=1).save(bundle)
    found.save(ee.load(bundle.path))
    saved = ee.load(bundle.path, check="full")
    names = [path.name for path in bundle.path.glob("profile-*.json")]
    assert [name for name in saved.manifest.files if name.startswith("profile-")] == names
    assert len(names) == 1
    assert ee.Profile.read(saved) == ee.Profile.read(bundle.path) == found
    packed = saved.pack(tmp_path / "chain.ee.zip")
    assert ee.Profile.read(packed) == found
    cut = ee.truncate(saved, "exit0", tmp_path / "cut.ee")
    with pytest.raises(ee.BundleError, match="no profile was saved in"):
        ee.Profile.read(cut)


def test_a_profile_is_saved_in_the_bundle_as_it_is_by_now(tmp_path: Path, found: ee.Profile) -> None:
    bundle = ee.load(chain(0.5, 0.5).save(tmp_path / "chain.ee"))
    tune(bundle.path, name="tuned since")
    assert found.save(bundle.path).manifest.name == "tuned since"
    assert found.save(bundle) == ee.load(bundle.path)
    assert ee.load(bundle.path).manifest.name == "tuned since"
    assert ee.Profile.read(bundle.path) == found
    chain(0.5, weights=True).save(bundle.path)
    with pytest.raises(ee.BundleError, match="this profile is of another bundle"):
        found.save(bundle)


def test_a_profile_is_not_saved_where_a_zip_was_unpacked(
    tmp_path: Path, found: ee.Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EETOOLKIT_CACHE", str(tmp_path / "cache"))
    packed = ee.load(chain(0.5, 0.5).save(tmp_path / "chain.ee")).pack(tmp_path / "chain.zip")
    with pytest.raises(ee.BundleError, match=r"chain\.zip is packed, and only a bundle's folder can be changed"):
        found.save(ee.load(packed))
    assert not ee.load(packed).manifest.profile


def test_a_profile_in_a_file_is_not_overwritten_unasked(tmp_path: Path, found: ee.Profile) -> None:
    target = found.write(tmp_path / "a.json")
    assert ee.Profile.read(target) == found
    with pytest.raises(ee.EEToolkitError, match=r"a.json exists; pass overwrite=True"):
        found.write(target)
    edit(found, rows=9).write(target, overwrite=True)
    assert ee.Profile.read(target).rows == 9
    with pytest.raises(ee.EEToolkitError, match="is a folder; name a file"):
        found.write(tmp_path, overwrite=True)


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
        ee.Profile.read(make(tmp_path))


# Of another language

BY_HAND: dict[str, Any] = {
    "version": 6,
    "bundle": "chain",
    "measured": "2030-01-01T00:00:00+00:00",
    "backend": "a clock and a loop",
    "threads": 1,
    "machine": {"processor": "Cortex-A76", "cores": 4},
    "segments": {
        f"segment{number}": {
            "exit": f"exit{number}",
            "latency": {"runs": 100, "mean_ms": 2.0, "p50_ms": 1.5, "p90_ms": 3.0, "p99_ms": 4.0},
        }
        for number in range(3)
    },
    "exits": {
        f"exit{number}": {"latency": {"runs": 9, "mean_ms": taken, "p50_ms": taken, "p90_ms": taken, "p99_ms": taken}}
        for number, taken in enumerate((2.5, 4.5, 6.5))
    },
}
"""The least that a profile holds, beside the digests of the bundle's graphs."""


def by_hand(bundle: ee.Bundle, path: Path) -> Path:
    """Writes the least profile of a bundle."""
    files = {name: file.sha256 for name, file in bundle.manifest.files.items() if name.endswith(".onnx")}
    path.write_text(json.dumps(BY_HAND | {"files": files}))
    return path


def test_a_profile_written_by_hand_is_what_tuning_goes_by(bundle: ee.Bundle, tmp_path: Path) -> None:
    path = by_hand(bundle, tmp_path / "it.json")
    np.savez(tmp_path / "data.npz", x=np.tile(X, (20, 1)), labels=np.tile(X, (20, 1)).argmax(axis=1))
    arguments = ("tune", str(bundle.path), "--data", str(tmp_path / "data.npz"), "--profile", str(path), "--json")
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    tuned = json.loads(done.stdout)
    assert (tuned["unit"], tuned["costs"]) == ("ms", "a profile of Cortex-A76, 2030-01-01T00:00:00+00:00")
    assert tuned["whole"]["cost"]["value"] == pytest.approx(6.5)


def test_a_profile_written_by_hand_is_shown_compared_drawn_and_saved(
    bundle: ee.Bundle, found: ee.Profile, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    path = by_hand(bundle, tmp_path / "it.json")
    found.write(tmp_path / "other.json")
    for arguments in (
        ("--show", path, "--svg", tmp_path / "it.svg"),
        ("--compare", path, tmp_path / "other.json"),
    ):
        done = CliRunner().invoke(main, ["profile", *map(str, arguments)])
        assert done.exit_code == 0, done.output
        assert "segment0" in done.output
    read = ee.Profile.read(path)
    assert "Cortex-A76" in str(read)
    differs = {change.what for change in read.compare(found).changes}
    assert {"processor", "backend"} <= differs
    assert not differs & {"system", "numpy", "spin", "pool", "inputs", "share of exit0"}  # which it does not tell
    copied = ee.load(shutil.copytree(bundle.path, tmp_path / "copy.ee"))
    assert read.save(copied).manifest.profile.expected_ms == {f"segment{number}": 3.0 for number in range(3)}


@pytest.mark.parametrize("key", ["version", "bundle", "files", "measured", "backend", "threads", "machine", "segments"])
def test_what_a_profile_must_hold(bundle: ee.Bundle, tmp_path: Path, key: str) -> None:
    path = by_hand(bundle, tmp_path / "it.json")
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != key}))
    with pytest.raises(ee.BundleError, match=key):
        ee.Profile.read(path)


def test_the_committed_json_schema_is_that_of_the_profile() -> None:
    committed = (Path(__file__).parents[1] / "docs" / "profile.schema.json").read_bytes()
    assert committed == json_schema(), (
        "write eetoolkit_runtime.profiling.profile.json_schema() to docs/profile.schema.json"
    )


def test_the_page_names_every_key_of_a_profile() -> None:
    page = (Path(__file__).parents[1] / "docs" / "bundle-format.md").read_text(encoding="utf-8")
    definitions = json.loads(json_schema())["$defs"].values()
    keys = {key for definition in definitions for key in definition.get("properties", ())}
    assert keys == {key for key in keys if f"`{key}`" in page}
