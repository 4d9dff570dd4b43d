"""Where to split: costs against sums by hand, choices against brute force, and what limits must give."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import PER_ROW, Draft, leave
from test_tuning_search import made, plan_of

import eetoolkit as ee
from eetoolkit.cli import main
from eetoolkit.report.page import render
from eetoolkit.tuning.choose import Task
from eetoolkit.tuning.costs import Costs
from eetoolkit.tuning.dataset import TuningData
from eetoolkit.tuning.goal import GoalSpec
from eetoolkit.tuning.link import Link
from eetoolkit.tuning.objective import candidates
from eetoolkit.tuning.record import Record
from eetoolkit.tuning.replay import stops
from eetoolkit.tuning.splitting import ALL_THERE, HERE, Cut, best_place, place, split_costs
from eetoolkit_runtime.plan.halves import cut_points

ROOT = Path(__file__).parents[1]
EXITS = 3
PLAN = plan_of(EXITS)
CUTS = [
    Cut(segment=point.segment, exit=point.exit, at=point.exit, sent_bytes=1000, received_bytes=50)
    for point in cut_points(PLAN)
]
EVERYTHING = Cut(segment=None, exit=None, at="the inputs", sent_bytes=4000, received_bytes=50)
X = np.random.default_rng(0).uniform(0, 1, (400, 4)).astype(np.float32)
LABELS = np.where(X[:, 0] > 0.5, X.argmax(1), X.argmin(1))  # the first exit is right where it is sure, the last else
TURNED = """
    zero = Constant<value = int64[1] {0}>()  half = Constant<value = float {0.5}>()
    first = Gather<axis = 1>(x, zero)  sign = Sub (first, half)  h = Mul (before, sign)
"""


def task_of(record: Record, costs: Costs, goal: GoalSpec) -> Task:
    count = len(record)
    tune, test = np.arange(0, count, 2), np.arange(1, count, 2)
    parts = {"tune": len(tune), "test": len(test)}
    return Task(goal, PLAN, TuningData(record, record, tune, tune[:0], test, parts, False), costs, None, 0)


def placed(task: Task, server: Costs, link: Link) -> list[Any]:
    record = task.data.record
    costs: list[tuple[Cut | None, Costs]] = [(None, task.costs)]
    for cut in (*CUTS, EVERYTHING):
        link_ms = link.expected_ms(cut.sent_bytes, cut.received_bytes)
        costs.append((cut, split_costs(PLAN, cut, task.costs, server, record, link_ms)))
    return place(task, costs)


def record_of(seed: int, rows: int = 120) -> Record:
    """Returns a record with the names of the plan's segments and exits."""
    record = made(seed, rows=rows, exits=EXITS)
    models = tuple(name for name, segment in PLAN.segments.items() if segment.model is not None)
    return dataclasses.replace(record, exits=tuple(PLAN.exits), segments=models)


MS = st.floats(0.01, 100)


@settings(max_examples=40, deadline=None)
@given(
    device=st.lists(MS, min_size=EXITS, max_size=EXITS),
    server=st.lists(MS, min_size=EXITS, max_size=EXITS),
    scales=st.lists(st.floats(0.5, 2), min_size=2 * EXITS, max_size=2 * EXITS),
    link_ms=st.floats(0, 500),
)
def test_a_run_costs_the_devices_segments_one_request_and_the_servers(
    device: list[float], server: list[float], scales: list[float], link_ms: float
) -> None:
    record = record_of(0, rows=5)
    own, there = np.array(scales[:EXITS]), np.array(scales[EXITS:])
    here = Costs(np.array(device), 0.0, "ms", "here", scale=own)
    far = Costs(np.array(server), 0.0, "ms", "there", scale=there)
    for place_, cut in enumerate(CUTS):
        found = split_costs(PLAN, cut, here, far, record, link_ms).of_visits(record)
        for end in range(EXITS):
            if end <= place_:
                expected = sum(device[: end + 1]) * own[end]
            else:
                expected = sum(device[: place_ + 1]) * own[place_]
                expected += link_ms + sum(server[place_ + 1 : end + 1]) * there[end]
            assert found[:, end] == pytest.approx(expected)
    everything = split_costs(PLAN, EVERYTHING, here, far, record, link_ms).of_visits(record)
    assert everything[0] == pytest.approx(np.cumsum(server) * there + link_ms)


@pytest.mark.parametrize(("kind", "value"), [("min_accuracy", 0.7), ("budget_ms", 4.0)])
@pytest.mark.parametrize(("round_trip_ms", "speed"), [(0.5, 10.0), (3.0, 4.0), (0.0, 1.5)])
def test_the_choice_is_that_of_brute_force(
    kind: Any, value: float, round_trip_ms: float, speed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eetoolkit.tuning.choose.margin_of", lambda *_: None)  # what is compared has none
    for module in ("static", "splitting"):
        monkeypatch.setattr(f"eetoolkit.tuning.{module}.AS_GOOD", 1.0)
    record = record_of(3, rows=80)
    here = Costs(np.array([1.0, 2.0, 5.0]), 0.0, "ms", "here")
    far = Costs(here.of / speed, 0.0, "ms", "there")
    link = Link(round_trip_ms=round_trip_ms, up_mbit_s=10)
    task = task_of(record, here, GoalSpec(kind, value))
    places = placed(task, far, link)
    best = best_place(places, task.goal)
    # All thresholds at all places, by the rule of the runner.
    part = record.take(task.data.tune)
    choices = candidates(part, PLAN, np.array([True, True, False]), most=200)
    every = np.array(list(itertools.product(*(range(len(own) + 1) for own in choices.thresholds))))
    ended = stops(part, choices.spell(every))
    rows = np.arange(len(part))[:, None]
    right = (part.prediction == part.label[:, None])[rows, ended].mean(0)
    found = []
    for cut in (None, *CUTS):
        link_ms = 0.0 if cut is None else link.expected_ms(cut.sent_bytes, cut.received_bytes)
        costs = here if cut is None else split_costs(PLAN, cut, here, far, record, link_ms)
        ms = costs.of_visits(part)[rows, ended].mean(0)
        if kind == "min_accuracy":
            found.append(ms[right >= value - 1e-12].min(initial=np.inf))
        else:
            found.append(-right[ms <= value * (1 + 1e-12)].max(initial=-np.inf))
    score, cost = best.point
    assert (cost if kind == "min_accuracy" else -score) == pytest.approx(min(found))
    assert [each.cut for each in places[:-1]] == [None, *CUTS]


def places_at(link: Link, speed: float) -> tuple[str, dict[str, float]]:
    record = record_of(5, rows=300)
    here = Costs(np.array([1.0, 2.0, 5.0]), 0.0, "ms", "here")
    task = task_of(record, here, GoalSpec("max_accuracy_drop", 0.0))
    places = placed(task, Costs(here.of / speed, 0.0, "ms", "there"), link)
    return best_place(places, task.goal).name, {each.name: each.point[1] for each in places}


def test_a_link_and_a_server_without_cost_take_all_behind_the_first_exit() -> None:
    best, costs = places_at(Link(round_trip_ms=0), 1e9)
    assert best == "split at exit0"
    assert costs[ALL_THERE] < costs[best]  # which is shown and never chosen: it is no split


def test_over_a_link_without_end_nothing_is_sent() -> None:
    best, costs = places_at(Link(round_trip_ms=1e6), 1e9)
    assert best == HERE
    assert costs[HERE] < 8 < costs[ALL_THERE]


def test_more_latency_never_makes_a_place_cheaper() -> None:
    costs = [places_at(Link(round_trip_ms=ms, up_mbit_s=1), 20)[1] for ms in (0, 1, 10, 100)]
    for name in costs[0]:
        values = [each[name] for each in costs]
        assert values == sorted(values)


def test_what_crosses_costs_bytes_over_bandwidth() -> None:
    link = Link(round_trip_ms=20, up_mbit_s=1, down_mbit_s=10, request_ms=2)
    assert link.expected_ms(1000, 500) == pytest.approx(20 + 2 + 8 + 0.4)
    tensors = [np.zeros((1, 10), np.float32), np.zeros(3, np.int64)]
    assert link.sent_bytes(tensors) == 64
    assert msgspec.structs.replace(link, crossing="uint8").sent_bytes(tensors) == 10 + 24
    assert msgspec.structs.replace(link, crossing="float16").sent_bytes(tensors) == 20 + 24


# From a bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draft = Draft()
    for k, (body, limit) in enumerate((("h = Identity (x)", 0.5), ("h = Identity (before)", 0.5), (TURNED, "always"))):
        reads = {"x": "x"} if k == 0 else {"x": "x", "before": f"h{k - 1}"}
        draft.slot(f"confidence{k}", shape=PER_ROW)
        draft.segment(
            f"segment{k}",
            f"{body}  at = Constant<value_int = {k}>()  confidence = Gather<axis = 1>(x, at)",
            reads=reads,
            writes={f"h{k}": "h", f"confidence{k}": "confidence"},
            exit=leave(f"exit{k}", f"h{k}", f"confidence{k}", limit),
            next=None if k == 2 else f"segment{k + 1}",
        )
    return draft.save(tmp_path_factory.mktemp("where") / "chain.ee")


@pytest.fixture(scope="module")
def profile(bundle: Path) -> ee.Profile:
    """A profile that takes 10 ms for every segment."""
    found = ee.profile(bundle, X[:4], LABELS[:4], threads=1, seconds=0)
    keys = msgspec.to_builtins(found)
    for segment in keys["segments"].values():
        segment["latency"] = {"runs": 9, "mean_ms": 10.0, "p50_ms": 10.0, "p90_ms": 10.0, "p99_ms": 10.0}
    for cost in keys["exits"].values():
        cost |= {"latency": None, "segments_ms": None, "call": None, "called_ms": None, "passing": None}
    keys["overhead_us"] = 0
    return msgspec.convert(keys, ee.Profile)


def tuned(bundle: Path, profile: ee.Profile, **more: Any) -> ee.TuningReport:
    return ee.tune(bundle, X, LABELS, profile=profile, threads=1, calibrate=False, **more)


def test_a_report_says_where_to_split_and_what_each_place_costs(bundle: Path, profile: ee.Profile) -> None:
    link = {"round_trip_ms": 1, "up_mbit_s": 1, "down_mbit_s": 1}
    report = tuned(bundle, profile, link=link, server=100, max_accuracy_drop=0.0)
    where = report.split
    assert where is not None
    assert [each.name for each in where.places] == [HERE, "split at exit0", "split at exit1", ALL_THERE]
    assert where.chosen == min(where.places[:-1], key=lambda each: each.tune_cost or 0)
    assert where.chosen.exit == "exit0"
    assert (where.chosen.cost, where.chosen.thresholds) == (report.chosen.cost, report.thresholds)
    # The row and the first exit's features, both of four float32; back come four logits, a number and a confidence.
    assert (where.chosen.sent_bytes, where.chosen.received_bytes) == (32, 28)
    assert where.chosen.link_ms == pytest.approx(1 + (32 + 28) * 8 / 1000)
    assert where.chosen.sent == pytest.approx(1 - report.chosen.exits["exit0"])
    assert where.command is not None
    assert where.command.split()[:2] == ["eetoolkit", "split"]
    assert "--at exit0 --out-device drafted-device.ee --out-server drafted-server" in where.command
    assert "best split at exit0" in str(report)
    assert "best split at exit0" in render(report)
    with pytest.raises(ee.TuneError, match=r"tune without link= \(--link\)"):
        report.prune("nowhere.ee", force=True)


def test_far_away_the_choice_is_what_it_is_without_a_link(bundle: Path, profile: ee.Profile) -> None:
    alone = tuned(bundle, profile, max_accuracy_drop=0.0)
    report = tuned(bundle, profile, link=ee.Link(round_trip_ms=1e6), server=100, max_accuracy_drop=0.0)
    assert (report.chosen, report.split is None) == (alone.chosen, False)
    assert report.split is not None
    assert (report.split.chosen.name, report.split.command) == (HERE, None)


def test_a_guarantee_is_shown_of_the_place_that_was_chosen(bundle: Path, profile: ee.Profile) -> None:
    report = tuned(bundle, profile, link=ee.Link(round_trip_ms=1), server=100, risk=0.1, method="ucb")
    assert report.guarantee is not None
    assert report.split is not None
    assert report.split.chosen.exit == "exit0"
    assert report.split.chosen.thresholds == report.thresholds


def test_a_servers_profile_counts_behind_the_cut(bundle: Path, profile: ee.Profile, tmp_path: Path) -> None:
    keys = msgspec.to_builtins(profile)
    for segment in keys["segments"].values():
        segment["latency"] = {"runs": 9, "mean_ms": 2.0, "p50_ms": 2.0, "p90_ms": 2.0, "p99_ms": 2.0}
    server = msgspec.convert(keys, ee.Profile)
    link = ee.Link(round_trip_ms=1)
    found = [
        tuned(bundle, profile, link=link, server=each, min_accuracy=0.0).split
        for each in (server, server.write(tmp_path / "server.json"), 5)
    ]
    costs = [[place.cost for place in each.places] for each in found if each is not None]
    assert costs[0] == costs[1] == costs[2]
    assert len(costs) == 3


@pytest.mark.parametrize("encoded", [1, 4.5])
def test_heads_of_a_measured_request_are_not_counted_for_every_byte(
    encoded: float, bundle: Path, profile: ee.Profile
) -> None:
    took = {"runs": 9, "mean_ms": 25.0, "p50_ms": 25.0, "p90_ms": 25.0, "p99_ms": 25.0}
    link = {"at": "exit0", "protocol": "rest", "round_trip": took, "request": took, "server": took, "encoded": encoded}
    keys = msgspec.to_builtins(profile) | {"link": link | {"sent_bytes": 483, "received_bytes": 428}}
    report = tuned(bundle, profile, link=msgspec.convert(keys, ee.Profile), server=10, max_accuracy_drop=0.0)
    assert report.split is not None
    assert report.split.link.encoded == encoded


def test_what_a_measured_server_takes_beyond_its_segments_is_the_requests(bundle: Path, profile: ee.Profile) -> None:
    took = {"runs": 9, "mean_ms": 25.0, "p50_ms": 25.0, "p90_ms": 25.0, "p99_ms": 25.0}
    link = {"at": "exit0", "protocol": "grpc", "round_trip": took, "request": took, "server": took}
    keys = msgspec.to_builtins(profile) | {"link": link | {"sent_bytes": 16, "received_bytes": 28}}
    report = tuned(bundle, profile, link=msgspec.convert(keys, ee.Profile), server=10, max_accuracy_drop=0.0)
    assert report.split is not None
    got = report.split.link
    assert (got.round_trip_ms, got.up_mbit_s) == (25, None)
    assert 23 <= got.request_ms <= 24  # one or two segments of 1 ms


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"server": 3}, r"server= .* goes with link="),
    ({"link": {"round_trip_ms": 3}}, r"pass server=FILE"),
    ({"link": {"round_trip_ms": -3}, "server": 3}, r"no link: Expected `float` >= 0"),
    ({"link": {"up": 3}, "server": 3}, r"link is no link: no key 'up'; there are round_trip_ms, up_mbit_s"),
    ({"link": {"round_trip": 3}, "server": 3}, r"no key 'round_trip'; there are .*; did you mean 'round_trip_ms'\?"),
    ({"link": {"round_trip_ms": 3}, "server": 0}, r"--server-speedup 0\): expected a number above 0"),
    ({"link": {"round_trip_ms": 3}, "server": 3, "budget_share": 0.5}, r"pass budget_ms=MS"),
    ({"link": {"round_trip_ms": 3}, "server": 3, "budget_ms": 1}, r"^wherever the network is split: budget_ms=1"),
]


@pytest.mark.parametrize(("given_", "said"), WRONG, ids=[said for _, said in WRONG])
def test_what_is_missing_or_wrong_is_said(given_: dict[str, Any], said: str, bundle: Path, profile: ee.Profile) -> None:
    with pytest.raises(ee.TuneError, match=said):
        tuned(bundle, profile, **given_)


def test_a_profile_without_a_link_and_costs_without_milliseconds_are_refused(bundle: Path, profile: ee.Profile) -> None:
    with pytest.raises(ee.TuneError, match=r"this profile has measured no link; pass one that has"):
        tuned(bundle, profile, link=profile, server=2)
    with pytest.raises(ee.TuneError, match=r"link= \(--link\) needs latencies of this device: pass profile=FILE"):
        ee.tune(bundle, X, LABELS, threads=1, link={"round_trip_ms": 1}, server=2)


def test_a_link_is_of_one_device(bundle: Path, profile: ee.Profile, tmp_path: Path) -> None:
    for name in ("one", "two"):
        profile.write(tmp_path / f"{name}.json")
    with pytest.raises(ee.TuneError, match=r"link= \(--link\) goes with the profile of one device"):
        ee.tune(bundle, X, LABELS, profile=tmp_path, for_="p90-device", link={"round_trip_ms": 1}, server=2)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--link", "l.json"], "--link needs what segments cost on the server: pass --server-profile FILE, a profile"),
        (["--server-speedup", "2"], "--server-speedup goes with --link"),
        (["--link", "l.json", "--server-speedup", "2"], "--link needs latencies of this device: pass --profile FILE"),
    ],
)
def test_a_shell_is_told_options_and_no_arguments(
    more: list[str], said: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("val.npz", x=X, labels=LABELS)
    done = CliRunner().invoke(main, ["tune", str(bundle), "--data", "val.npz", "--threads", "1", *more])
    assert (done.exit_code, done.stderr.count("\n"), said in done.stderr) == (1, 1, True), done.stderr
    assert re.search(r"\b\w+=", done.stderr) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"round_trip": 1}', "l.json is no link: no key 'round_trip'; there are round_trip_ms"),
        ('{"machine": null}', "l.json: profile version None, this eetoolkit reads "),
        ("[1]", "l.json is [1], no link: Expected `object`, got `array`"),
        ("{", "l.json is neither a link nor a profile: "),
    ],
)
def test_a_file_that_is_no_link_is_refused(
    text: str, said: str, profile: ee.Profile, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("l.json").write_text(text)
    with pytest.raises((ee.TuneError, ee.BundleError), match=f"^{re.escape(said)}"):
        tuned(bundle, profile, link="l.json", server=2)


def test_no_annotation_asks_msgspec_for_raw_text_or_nothing() -> None:
    # msgspec 0.23 takes only null for `Raw | None`, and says so of every object when it is too late.
    sources = [path for root in ("eetoolkit", "runtime", "exporters") for path in (ROOT / root).rglob("*.py")]
    assert len(sources) > 100
    assert [path.name for path in sources if re.search(r"Raw \||\| (msgspec\.)?Raw\b", path.read_text("utf-8"))] == []


@pytest.mark.parametrize(
    ("rate", "said"),
    [(0.0123, "0.0123"), (12.345, "12.35"), (3950.4, "3950"), (99999.7, "100,000"), (1e7, "10,000,000")],
)
def test_a_rate_is_written_without_an_exponent(rate: float, said: str) -> None:
    assert f"up {said} Mbit/s" in str(Link(round_trip_ms=1, up_mbit_s=rate))


def test_a_shell_shows_the_places(bundle: Path, profile: ee.Profile, tmp_path: Path) -> None:
    np.savez(tmp_path / "val.npz", x=X, labels=LABELS)
    profile.write(tmp_path / "pi.json")
    (tmp_path / "link.json").write_text(json.dumps({"round_trip_ms": 1, "up_mbit_s": 10, "down_mbit_s": 10}))
    command = [
        "tune", str(bundle), "--data", str(tmp_path / "val.npz"), "--profile", str(tmp_path / "pi.json"), "--threads",
        "1", "--no-calibrate", "--max-accuracy-drop", "0", "--link", str(tmp_path / "link.json"),
    ]  # fmt: skip
    run = CliRunner().invoke(main, [*command, "--server-speedup", "10"], catch_exceptions=False)
    assert run.exit_code == 0, run.output
    assert "best split at exit0" in run.output
    assert [
        line.split("  ")[0] for line in run.output.splitlines() if line.startswith(("on the", "split at", "all on"))
    ]
    told = CliRunner().invoke(main, [*command, "--server-speedup", "10", "--json"], catch_exceptions=False)
    assert json.loads(told.stdout)["split"]["chosen"]["exit"] == "exit0"
    wrong = CliRunner().invoke(main, [*command, "--server-speedup", "2", "--server-profile", "x.json"])
    assert (wrong.exit_code, "not both" in wrong.output) == (2, True)
    missing = CliRunner().invoke(main, command)
    assert missing.exit_code == 1
    assert "--server-profile FILE" in missing.output
