"""A profile's bars add up, and its picture is drawn whole."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from plans import chain, gated, looped, only_moves, row

import eetoolkit as ee
from eetoolkit.showing.profile_picture import Kind, bars, draw, spell_exit, spell_ms
from eetoolkit_runtime.profiling.costs import WholeCost
from eetoolkit_runtime.profiling.latency import Latency

PNG = b"\x89PNG\r\n\x1a\n"
edit = msgspec.structs.replace


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> ee.Profile:
    x = np.random.default_rng(0).uniform(0, 1, (6, 4)).astype(np.float32)
    return ee.profile(chain(0.5, 0.5).save(tmp_path_factory.mktemp("picture") / "c"), x, threads=1, seconds=0)


def test_bars_stand_one_after_the_other_and_end_where_the_robust_means_add_up(found: ee.Profile) -> None:
    all_ = bars(found)
    assert [bar.segment for bar in all_] == ["segment0", "segment1", "segment2"]
    end = 0.0
    for bar, cost, (name, exit_) in zip(all_, found.segments.values(), found.exits.items(), strict=True):
        assert cost.latency is not None
        assert bar.start_ms == pytest.approx(end)
        assert bar.full_ms == pytest.approx(cost.latency.robust_ms)
        assert bar.call_ms == pytest.approx(cost.latency.robust_ms * cost.visits)
        assert bar.exit_ms == (None if exit_.call is None else exit_.call.robust_ms)
        assert (bar.exit, bar.share) == (name, exit_.share)
        end += bar.full_ms


def test_a_loop_adds_what_all_its_visits_take_and_a_skipped_block_has_no_bar(tmp_path: Path) -> None:
    loop = ee.profile(looped().save(tmp_path / "loop"), row(4, 0, 0, 0), threads=1, seconds=0)
    step = loop.segments["step"].latency
    assert step is not None
    assert bars(loop)[0].full_ms == pytest.approx(4 * step.robust_ms)
    skipped = ee.profile(gated().save(tmp_path / "gated"), row(-1, 0, 0, 0), threads=1, seconds=0)
    assert [bar.segment for bar in bars(skipped)] == ["gate", "head"]


def test_an_exit_in_two_segments_tells_its_share_once(found: ee.Profile) -> None:
    segments = found.segments | {"segment1": edit(found.segments["segment1"], exit="exit0")}
    first, second, _ = bars(edit(found, segments=segments))
    assert (first.exit, second.exit) == ("exit0", "exit0")
    assert second.share is None
    assert spell_exit(second) == "exit0  as above"
    assert spell_exit(first).startswith(f"exit0  {found.exits['exit0'].share:.1%}")


@pytest.mark.parametrize(("ms", "text"), [(0.0451, "0.045 ms"), (1.0, "1 ms"), (12.34, "12.3 ms"), (1234, "1.23 s")])
def test_latencies_are_spelled_shortly(ms: float, text: str) -> None:
    assert spell_ms(ms) == text


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_a_picture_is_drawn_and_the_same_profile_gives_the_same_one(
    found: ee.Profile, tmp_path: Path, kind: Kind
) -> None:
    pytest.importorskip("matplotlib")
    first = draw(found, tmp_path / "any name", kind)
    if kind == "png":
        assert first.read_bytes().startswith(PNG)
    else:
        assert re.search(r"<svg [^>]*viewBox=.*</svg>\s*$", first.read_text(), re.DOTALL)
    assert draw(found, tmp_path / "again", kind).read_bytes() == first.read_bytes()
    with pytest.raises(ee.EEToolkitError, match="again exists; pass overwrite=True"):
        draw(found, tmp_path / "again", kind)
    draw(found, tmp_path / "again", kind, overwrite=True)


def test_the_picture_has_one_statistic_throughout_and_names_it(found: ee.Profile, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    # Were a mean or a median drawn anywhere, it would be a thousand times as long.
    wrong = {name: edit(cost, latency=spoiled(cost.latency)) for name, cost in found.segments.items()}
    exits = {name: edit(cost, call=spoiled(cost.call)) for name, cost in found.exits.items()}
    whole = WholeCost(file="w.onnx", latency=found.expected, ratio=1.0, full_path_ratio=1.0, difference=None)
    profiles = (
        edit(found, whole=whole),
        edit(found, segments=wrong, exits=exits, expected=spoiled(found.expected), whole=edit(whole, latency=spoiled(
            found.expected))),
    )  # fmt: skip
    drawn = [draw(each, tmp_path / f"{n}.svg", "svg").read_text() for n, each in enumerate(profiles)]
    assert drawn[0] == drawn[1]
    assert "the segments one after the other; all are robust means" in drawn[0]


def spoiled(latency: Latency | None) -> Latency | None:
    """Returns the same robust mean among other figures."""
    if latency is None:
        return None
    return edit(latency, mean_ms=1000 * latency.mean_ms, p50_ms=1000 * latency.p50_ms, p90_ms=1000 * latency.p90_ms)


def test_long_names_and_dollars_do_no_harm(found: ee.Profile, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    segments = {f"a_segment_with_{'$x^' * 20}_{name}": cost for name, cost in found.segments.items()}
    path = draw(edit(found, bundle="$\\frac$ & <b>", segments=segments), tmp_path / "p.svg", "svg")
    width = re.search(r'<svg [^>]*width="([\d.]+)pt"', path.read_text())
    assert width is not None
    assert float(width[1]) < 72 * 20


def test_a_profile_without_segments_has_no_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    moves = ee.profile(only_moves().save(tmp_path / "moves"), row(1, 0, 0, 0), threads=1, seconds=0)
    assert bars(moves) == ()
    with pytest.raises(ee.EEToolkitError, match="nothing to draw: no segment was run"):
        draw(moves, tmp_path / "p.svg", "svg")
