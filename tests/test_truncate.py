"""A truncated bundle always answers at one exit, as `exit_at` does, and holds nothing of what lies behind it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from plans import (
    NETWORKS,
    Draft,
    chain,
    exit_in_a_branch,
    leave,
    looped,
    one_name_twice,
    recorded,
    row,
)
from test_runner_plans import Generator, inputs_of

from eetoolkit_runtime.bundle.bundle import Bundle, load
from eetoolkit_runtime.bundle.golden import read_golden
from eetoolkit_runtime.errors import BundleError, InputError, IntegrityError, RunError
from eetoolkit_runtime.plan.types import Stop
from eetoolkit_runtime.running.runner import Runner
from eetoolkit_runtime.truncate import truncate
from eetoolkit_runtime.verify import verify

ROWS = [row(a, b, c) for a in (0, 0.9, 2) for b in (0, 0.9) for c in (0, 0.9, math.nan)]


def with_samples(draft: Draft, folder: Path) -> Draft:
    """Returns the draft with what its own runner gives as golden samples."""
    with Runner(draft.save(folder), threads=1) as runner:
        draft.samples = [recorded(runner, x) for x in ROWS[::3]]
    return draft


CASES: list[tuple[Callable[[], Draft], str]] = [
    (chain, "exit0"),
    (chain, "exit1"),
    (chain, "exit2"),
    (lambda: chain(weights=True), "exit1"),
    (one_name_twice, "early"),
    (one_name_twice, "last"),
    (lambda: looped(leave_at=0.9), "inside"),
    (lambda: looped(leave_at=0.9), "last"),
    (exit_in_a_branch, "side"),
    (exit_in_a_branch, "last"),
]
each = pytest.mark.parametrize(("build", "at"), CASES, ids=[f"{k}-{at}" for k, (_, at) in enumerate(CASES)])


@each
def test_its_answers_are_those_of_exit_at(build: Callable[[], Draft], at: str, tmp_path: Path) -> None:
    whole = load(build().save(tmp_path / "whole.ee"))
    short = truncate(whole, at)
    with Runner(whole, threads=1) as runner, Runner(short, threads=1) as shorter:
        for x in ROWS:
            expected, found = runner.run(x, exit_at=at), shorter.run(x)
            assert (found.exit, found.path) == (expected.exit, expected.path)
            assert found.outputs["logits"].tobytes() == expected.outputs["logits"].tobytes()


@each
def test_it_answers_at_its_exit_although_the_bundle_falls_back_on_the_most_confident(
    build: Callable[[], Draft], at: str, tmp_path: Path
) -> None:
    draft = build()
    draft.options["fallback"] = "most_confident"
    whole = load(draft.save(tmp_path / "whole.ee"))
    short = truncate(whole, at)
    with Runner(whole, threads=1) as runner, Runner(short, threads=1) as shorter:
        for x in ROWS:
            assert shorter.run(x).exit == runner.run(x, exit_at=at).exit


@each
def test_it_holds_only_the_files_that_its_segments_name(build: Callable[[], Draft], at: str, tmp_path: Path) -> None:
    short = truncate(build().save(tmp_path / "whole.ee"), at)
    named = {f for s in short.manifest.segments.values() for f in (s.model, *s.weights) if f is not None}
    assert set(short.manifest.files) == named
    assert {path.name for path in short.path.iterdir()} == {"manifest.json", *named}


@each
def test_it_verifies_itself(build: Callable[[], Draft], at: str, tmp_path: Path) -> None:
    short = truncate(with_samples(build(), tmp_path / "first").save(tmp_path / "whole.ee"), at)
    assert verify(short).failures == ()


def test_what_lies_behind_is_gone(tmp_path: Path) -> None:
    short = truncate(chain().save(tmp_path / "whole.ee"), "exit1").manifest
    assert list(short.segments) == ["segment0", "segment1"]
    assert isinstance(short.segments["segment1"].next, Stop)
    assert set(short.slots) == {"h0", "confidence0", "h1", "confidence1"}


def test_what_only_the_rest_would_have_read_is_not_written(tmp_path: Path) -> None:
    draft = chain()
    first = draft.segments["segment0"]
    draft.segment(
        "segment0", "two = Constant<value = float {2}>()  at = Constant<value_int = 0>()  h = Mul(x, two)"
        "  confidence = Gather<axis = 1>(x, at)  extra = Neg(x)",
        reads=["x"], writes={**first.writes, "extra": "extra"}, exit=first.exit, next=first.next,
    )  # fmt: skip
    draft.segments["segment2"] = msgspec.structs.replace(
        draft.segments["segment2"], reads={"x": "extra", "before": "h1"}
    )
    short = truncate(draft.save(tmp_path / "whole.ee"), "exit1").manifest
    assert "extra" not in short.slots
    assert "extra" not in short.segments["segment0"].writes


def test_a_segment_on_the_way_that_only_the_rest_would_have_read_does_no_harm(tmp_path: Path) -> None:
    draft = chain()
    draft.segment("ahead", "early = Neg(x)", reads=["x"], writes=["early"], next="segment0")
    draft.segment("segment2", "y = Abs(early)", reads=["early"], writes=["y"], exit=leave("exit2", "y", "confidence0"))
    draft.options["start"] = "ahead"
    whole = load(draft.save(tmp_path / "whole.ee"))
    with Runner(whole, threads=1) as runner, Runner(truncate(whole, "exit1"), threads=1) as shorter:
        expected, found = runner.run(row(0.3), exit_at="exit1"), shorter.run(row(0.3))
        assert (found.exit, found.path) == (expected.exit, expected.path)


def test_earlier_exits_are_disabled_and_thresholds_bring_them_back(tmp_path: Path) -> None:
    short = truncate(chain().save(tmp_path / "whole.ee"), "exit1")
    assert [exit_.enabled for exit_ in short.exits.values()] == [False, True]
    with Runner(short, threads=1) as runner:
        assert runner.run(row(0.9)).exit == "exit1"
        assert runner.run(row(0.9), thresholds={"exit0": 0.5}).exit == "exit0"


def test_its_last_exit_accepts_everything(tmp_path: Path) -> None:
    last = truncate(chain().save(tmp_path / "whole.ee"), "exit1").exits["exit1"]
    assert last.threshold == "always"


def test_the_bundle_that_it_came_from_is_as_it_was(tmp_path: Path) -> None:
    folder = chain().save(tmp_path / "whole.ee")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    truncate(folder, "exit0")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_its_golden_samples_end_at_its_exit(tmp_path: Path) -> None:
    short = truncate(with_samples(chain(), tmp_path / "first").save(tmp_path / "whole.ee"), "exit1")
    samples = read_golden(short)
    assert [[visit.exit for visit in sample.visits] for sample in samples] == [["exit0", "exit1"]] * len(ROWS[::3])
    np.testing.assert_array_equal(samples[2].inputs["x"], ROWS[6])


def test_it_is_written_beside_the_bundle_unless_a_place_is_named(tmp_path: Path) -> None:
    folder = chain().save(tmp_path / "whole.ee")
    assert truncate(folder, "exit0").path == tmp_path / "whole-exit0.ee"
    assert truncate(folder, "exit0", tmp_path / "mine.ee").path == tmp_path / "mine.ee"


def test_it_is_written_beside_an_archive_and_not_into_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EETOOLKIT_CACHE", str(tmp_path / "cache"))
    archive = load(chain().save(tmp_path / "whole.ee")).pack(tmp_path / "whole.zip")
    assert truncate(archive, "exit0").path == tmp_path / "whole-exit0.ee"


def test_it_may_replace_the_bundle_that_it_came_from(tmp_path: Path) -> None:
    folder = chain().save(tmp_path / "whole.ee")
    short: Bundle = truncate(folder, "exit0", folder, overwrite=True)
    assert list(load(folder, check="full").exits) == ["exit0"]
    assert {path.name for path in folder.iterdir()} == {"manifest.json", *short.manifest.files}


def test_a_bundle_that_is_there_is_not_replaced_unasked(tmp_path: Path) -> None:
    folder = chain().save(tmp_path / "whole.ee")
    truncate(folder, "exit0")
    with pytest.raises(BundleError, match=r"whole-exit0\.ee exists; pass overwrite=True"):
        truncate(folder, "exit0")
    truncate(folder, "exit0", overwrite=True)


def test_an_exit_that_is_not_there_is_refused_with_the_exits(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        truncate(chain().save(tmp_path / "whole.ee"), "exit7")
    assert str(caught.value) == "no exit 'exit7'; the exits are exit0, exit1, exit2"


def test_a_changed_file_is_not_copied(tmp_path: Path) -> None:
    folder = chain(weights=True).save(tmp_path / "whole.ee")
    weights = next(folder.glob("segment0-*.bin"))
    weights.write_bytes(b"\0" * weights.stat().st_size)
    with pytest.raises(IntegrityError, match=weights.name):
        truncate(folder, "exit0")
    assert [path.name for path in tmp_path.iterdir()] == ["whole.ee"]


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_to_truncate_at_the_last_exit_keeps_every_answer_that_was_the_last(network: str, tmp_path: Path) -> None:
    whole = load(NETWORKS[network]().save(tmp_path / "whole.ee"))
    last = list(whole.exits)[-1]
    short = truncate(whole, last)
    assert set(short.manifest.segments) == set(whole.manifest.segments)


def test_random_plans_truncated_at_each_exit_answer_as_exit_at_does(tmp_path: Path) -> None:
    for seed in range(30):
        whole = load(Generator(seed).draft.save(tmp_path / f"{seed}.ee"))
        for at in whole.exits:
            with Runner(whole, threads=1) as runner, Runner(truncate(whole, at), threads=1) as shorter:
                for x in inputs_of(seed)[:3]:
                    try:
                        expected = runner.run(x, exit_at=at)
                    except RunError as error:
                        with pytest.raises(RunError) as caught:
                            shorter.run(x)
                        assert str(caught.value) == str(error)
                        continue
                    found = shorter.run(x)
                    assert (found.exit, found.path) == (expected.exit, expected.path), f"seed {seed} at {at}"
                    for name, array in expected.outputs.items():
                        assert found.outputs[name].tobytes() == array.tobytes(), f"seed {seed} at {at}: {name}"


def test_a_bundle_from_a_zip_is_cut_beside_the_zip_and_not_in_the_cache(tmp_path: Path) -> None:
    (tmp_path / "sent").mkdir()
    packed = load(chain().save(tmp_path / "b.ee")).pack(tmp_path / "sent" / "b.zip")
    opened = load(packed, cache=tmp_path / "cache")
    assert truncate(opened, "exit0").path == tmp_path / "sent" / "b-exit0.ee"
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [opened.path.name]
