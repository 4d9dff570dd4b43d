"""The process of `benchmarks.splitting`: a bundle in two halves, the server's under MLServer behind slow links."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

import eetoolkit as ee
from benchmarks.cases.case import Case
from benchmarks.cases.catalogue import load_case
from benchmarks.section import Row
from benchmarks.slow_link import slow_link
from eetoolkit.tuning.collect import collect
from eetoolkit.tuning.costs import choose_costs
from eetoolkit.tuning.record import Record
from eetoolkit.tuning.replay import own_thresholds, stops
from eetoolkit.tuning.splitting import Cut, SplitCosts, split_costs
from eetoolkit.tuning.where import WhereToSplit
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.plan.types import Manifest
from eetoolkit_runtime.profiling.link import LinkCost
from eetoolkit_runtime.profiling.probe import measure_link
from eetoolkit_runtime.running.runner import Runner

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from inference_servers import MLServer, mlserver  # the server that the tests start

LINKS = tuple((ms, mbit) for ms in (2.0, 20.0, 200.0) for mbit in (1.0, 10.0, 100.0))
GOAL = 0.01
CUTS = ("exit0", "exit1", "exit2")
FIRST = CUTS[0]
NEVER = {FIRST: "never"}
PROVIDERS = ("CPUExecutionProvider",)


@dataclass(frozen=True)
class Budget:
    """How long what is measured may take.

    Attributes:
        profile_s: Of a profile.
        probe_s: Of a link.
        way_s: Of one way to run the rows over one link.
        rows: How many rows are checked.
        links: Which are measured.
    """

    profile_s: float
    probe_s: float
    way_s: float
    rows: int
    links: Sequence[tuple[float, float]]


FULL = Budget(8.0, 3.0, 4.0, 2000, LINKS)
QUICK = Budget(1.0, 0.5, 0.5, 100, LINKS[4:5])


@dataclass(frozen=True)
class Way:
    """A way to answer: a tuned bundle, the exit behind which it is cut (None: nowhere), and thresholds of its calls."""

    bundle: ee.Bundle
    at: str | None
    thresholds: Mapping[str, Any] | None = None


class Bench:
    """The case with all that is made of it once."""

    def __init__(self, case: Case, folder: Path, budget: Budget) -> None:
        self.case, self.folder, self.budget = case, folder, budget
        self.pairs = list(zip(case.validation.rows, case.validation.labels, strict=True))
        self.rows, self.labels = case.test.rows[: budget.rows], case.test.labels[: budget.rows]
        self.whole = ee.export(case.network, case.example, folder / "whole.ee", **case.options)
        some = np.concatenate([row[0] for row in case.validation.rows[:64]])
        self.profile = ee.profile(self.whole, some, threads=1, seconds=budget.profile_s)
        self.record = folder / "record.npz"
        self.repository = folder / "repository"
        report = self.tuned(self.profile)
        self.local = self.applied(report, "local")
        self.serve(self.local, FIRST)

    def tuned(self, profile: ee.Profile, **more: Any) -> ee.TuningReport:
        """Returns what is tuned for a device of this profile, by rows that are not the test's."""
        return ee.tune(
            self.whole, self.pairs, max_accuracy_drop=GOAL, profile=profile, record=self.record, threads=1, **more
        )

    def applied(self, report: ee.TuningReport, name: str) -> ee.Bundle:
        """Returns a copy of the bundle with what was tuned."""
        copy = shutil.copytree(self.whole.path, self.folder / f"{name}.ee")
        return msgspec.structs.replace(report, path=str(copy)).apply(force=True)

    def serve(self, bundle: ee.Bundle, at: str) -> None:
        """Adds the half behind an exit to what the server runs, with one thread."""
        device = self.folder / f"device-{bundle.path.stem}-{at}.ee"
        if device.exists():
            return
        ee.split(bundle, at, device, self.repository, servers=("mlserver",), overwrite=True)
        for path in self.repository.rglob("model-settings.json"):
            settings = json.loads(path.read_text())
            settings["parameters"]["extra"] = {"threads": 1}
            path.write_text(json.dumps(settings))

    def remote(self, server: MLServer, port: int | None, at: str, protocol: str = "grpc") -> dict[str, Any]:
        """Returns how a runner asks the server, through a proxy's port if there is one."""
        own = server.grpc if protocol == "grpc" else server.rest.removeprefix("http://")
        place = own if port is None else f"127.0.0.1:{port}"
        scheme = "grpc" if protocol == "grpc" else "http"
        url = f"{scheme}://{place}/v2/models/{self.whole.manifest.name}-tail"
        return {"url": url, "from": at, "timeout_ms": 60_000.0, "retries": 0}


def measure(name: str, slower: float, budget: Budget) -> list[Row]:
    """Returns a row of figures for each link and device."""
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        bench = Bench(load_case(name), Path(temporary), budget)
        for at in CUTS[1:]:
            bench.serve(bench.local, at)
        server = stack.enter_context(mlserver(bench.repository))
        alike = _alike(bench, server)
        _say(f"checked: {alike}")
        found = [_loopback(bench, server, protocol, alike) for protocol in ("grpc", "rest")]
        probes = {link: _probed(bench, server, link) for link in budget.links}
        _say("links measured")
        slow = _slowed(bench.profile, slower)
        reports = {link: bench.tuned(bench.profile, link=_with(bench.profile, cost), server=bench.profile)
                   for link, cost in probes.items()}  # fmt: skip
        slow_reports = {link: bench.tuned(slow, link=_with(bench.profile, cost), server=bench.profile)
                        for link, cost in probes.items()}  # fmt: skip
        ways = {}
        for link, report in reports.items():
            bundle = bench.applied(report, "tuned-{}-{}".format(*link))
            ways[link] = Way(bundle, _where(report).chosen.at)
            if ways[link].at is not None:
                bench.serve(bundle, str(ways[link].at))
        _say("tuned")
        server.restart(bench.repository)
        for link, tuned in ways.items():
            found.append(_row(bench, server, link, probes[link], _where(reports[link]), tuned))
            _say(f"{link}: {found[-1]}")
        plain = bench.applied(bench.tuned(slow), "slow-local")
        for link, report in slow_reports.items():
            found.append(_predicted(bench, link, probes[link], report, plain, slow, slower))
        return found


def _alike(bench: Bench, server: MLServer) -> dict[str, Any]:
    """Returns how many test rows are answered by halves as by the whole: at every cut, and with all rows sent."""
    equal, largest = np.ones(len(bench.rows), bool), 0.0
    with ee.Runner(bench.local, threads=1) as whole:
        for at, thresholds in ((cut, each) for cut in CUTS for each in (None, _silent(cut))):
            with ee.Runner(bench.local, threads=1, remote=bench.remote(server, None, at)) as halves:
                sent = 0
                for number, row in enumerate(bench.rows):
                    one, other = whole.run(row, thresholds=thresholds), halves.run(row, thresholds=thresholds)
                    same = (one.exit, one.path, one.stopped_by) == (other.exit, other.path, other.stopped_by)
                    gaps = [float(np.abs(one.outputs[key] - other.outputs[key]).max()) for key in one.outputs]
                    equal[number] &= same and max(gaps) <= 1e-5
                    largest = max(largest, *gaps)
                    sent += other.remote
                _say(f"cut at {at}, {thresholds}: {sent} rows sent")
                if thresholds is not None and sent != len(bench.rows):
                    raise RuntimeError(f"{sent} of {len(bench.rows)} rows were sent: {halves.remote.last_failure}")
    return {"rows": len(bench.rows), "equal": int(equal.sum()), "difference": largest}


def _silent(at: str) -> dict[str, Any]:
    """Returns thresholds with which every row goes on behind a cut."""
    return dict.fromkeys(CUTS[: CUTS.index(at) + 1], "never")


def _probed(bench: Bench, server: MLServer, link: tuple[float, float]) -> LinkCost:
    with slow_link(int(server.grpc.rpartition(":")[2]), *link) as port:
        remote = bench.remote(server, port, FIRST)
        return _link(bench, remote)


def _link(bench: Bench, remote: dict[str, Any]) -> LinkCost:
    """Returns what it costs to go on at a server."""
    with Runner(bench.local, threads=1, remote=remote) as runner:
        return measure_link(runner, bench.rows[0], seconds=bench.budget.probe_s)


def _loopback(bench: Bench, server: MLServer, protocol: str, alike: dict[str, Any]) -> Row:
    """Returns what local and remote take without a slow link."""
    remote = bench.remote(server, None, FIRST, protocol)
    cost = _link(bench, remote)
    every = {"local": Way(bench.local, None), "first": Way(bench.local, FIRST), "all": Way(bench.local, FIRST, NEVER)}
    ways, timed = {}, []
    for name, way in every.items():
        ways[name], count = _timed(bench, way, remote)
        timed.append(count)
    return {
        "link": "loopback" if protocol == "grpc" else "loopback, REST", "device": "this machine",
        "request_ms": cost.request.p50_ms, "ways": ways, "place": "-", "timed": _range(timed),
        "alike": alike if protocol == "grpc" else None, "load": os.getloadavg()[0],
    }  # fmt: skip


def _row(
    bench: Bench, server: MLServer, link: tuple[float, float], cost: LinkCost, where: WhereToSplit, tuned: Way
) -> Row:
    """Returns what all ways take over a link, measured and predicted."""
    every = {
        "local": Way(bench.local, None),
        "first": Way(bench.local, FIRST),
        "all": Way(bench.local, FIRST, NEVER),
        "tuned": tuned,
    }
    ways, timed = {}, []
    with slow_link(int(server.grpc.rpartition(":")[2]), *link) as port:
        for name, way in every.items():
            remote = None if way.at is None else bench.remote(server, port, way.at)
            ways[name], count = _timed(bench, way, remote)
            ways[name]["predicted_ms"] = _predict(bench, way, where, bench.profile)["predicted_ms"]
            timed.append(count)
    return _told(link, "this machine", cost, where) | {"ways": ways, "timed": _range(timed)}


def _predicted(
    bench: Bench,
    link: tuple[float, float],
    cost: LinkCost,
    report: ee.TuningReport,
    plain: ee.Bundle,
    slow: ee.Profile,
    slower: float,
) -> Row:
    """Returns what all ways would take on a slower device; `plain` is tuned for it without a link."""
    where, tuned = _where(report), bench.applied(report, "slow-{}-{}".format(*link))
    every = {
        "local": Way(plain, None), "first": Way(plain, FIRST), "all": Way(plain, FIRST, NEVER),
        "tuned": Way(tuned, where.chosen.at),
    }  # fmt: skip
    ways = {key: _predict(bench, way, where, slow) for key, way in every.items()}
    return _told(link, f"{slower:.0f} times slower, predicted", cost, where) | {"ways": ways, "timed": None}


def _told(link: tuple[float, float], device: str, cost: LinkCost, where: WhereToSplit) -> Row:
    return {
        "link": "{:.0f} ms, {:.0f} Mbit/s".format(*link), "device": device, "request_ms": cost.request.p50_ms,
        "place": where.chosen.at or "nowhere", "alike": None, "load": os.getloadavg()[0],
        "measured": {"round_trip_ms": cost.round_trip_ms, "up_mbit_s": cost.up_mbit_s, "down_mbit_s": cost.down_mbit_s},
    }  # fmt: skip


def _timed(bench: Bench, way: Way, remote: dict[str, Any] | None) -> tuple[dict[str, Any], int]:
    """Returns a way's figures, and how many rows were timed: rows that stay and rows that go on, by their shares."""
    with ee.Runner(way.bundle, threads=1) as whole:
        answers = [whole.run(row, thresholds=way.thresholds) for row in bench.rows]
    accuracy = float(np.mean([answer.prediction for answer in answers] == bench.labels))
    gone = np.zeros(len(answers), bool)
    if way.at is not None:
        gone = _crossing(way.bundle.manifest, way.at, [answer.path for answer in answers])
    total, count = 0.0, 0
    asked = None if way.at is None else remote
    with ee.Runner(way.bundle, threads=1, remote=asked, load="eager") as runner:
        for group in (np.flatnonzero(gone), np.flatnonzero(~gone)):
            if len(group):
                took = list(_took(runner, way, [bench.rows[n] for n in _mixed(group)], bench.budget.way_s / 2))
                if group[0] in np.flatnonzero(gone) and runner.remote and runner.remote.last_failure:
                    raise RuntimeError(f"the server failed: {runner.remote.last_failure}")
                total += float(np.mean(took)) * len(group)
                count += len(took)
    ms = total / len(answers)
    return {"measured_ms": ms, "predicted_ms": None, "accuracy": accuracy, "sent": float(gone.mean())}, count


def _took(runner: ee.Runner, way: Way, rows: list[tuple[Array, ...]], seconds: float) -> Iterator[float]:
    """Yields the latencies of some rows in ms, one after the other, until the time is up; a first one is not told."""
    runner.run(rows[0], thresholds=way.thresholds)
    end = time.perf_counter() + seconds
    for row in rows:
        started = time.perf_counter()
        runner.run(row, thresholds=way.thresholds)
        done = time.perf_counter()
        yield (done - started) * 1e3
        if done > end:
            return


def _mixed(group: Array) -> Array:
    return np.random.default_rng(0).permutation(group)


def _crossing(plan: Manifest, at: str, paths: list[tuple[str, ...]]) -> Array:
    """Returns which paths go on behind an exit."""
    names = list(plan.segments)
    last = next(
        names.index(name) for name, segment in plan.segments.items() if segment.exit and segment.exit.name == at
    )
    return np.array([any(names.index(name) > last for name in path) for path in paths])


def _predict(bench: Bench, way: Way, where: WhereToSplit, device: ee.Profile) -> dict[str, Any]:
    """Returns what the cost model says of the test rows."""
    plan = way.bundle.manifest
    record = _record(bench, way.bundle)
    here = choose_costs(plan, record, device, PROVIDERS)
    costs = here
    if way.at is not None:
        place = next(each for each in where.places if each.at == way.at)
        cut = Cut(
            segment=place.segment, exit=place.exit, at=way.at, sent_bytes=place.sent_bytes,
            received_bytes=place.received_bytes,
        )  # fmt: skip
        there = choose_costs(plan, record, bench.profile, PROVIDERS)
        costs = split_costs(plan, cut, here, there, record, place.link_ms)
    limits = own_thresholds(plan)
    if way.thresholds is not None:
        limits[[list(plan.exits).index(name) for name in way.thresholds]] = np.nan
    rows, ended = np.arange(len(record)), stops(record, limits)[:, 0]
    sent = costs.crossed(record)[rows, ended].mean() if isinstance(costs, SplitCosts) else 0.0
    right = record.prediction[rows, ended] == record.label
    return {
        "measured_ms": None, "predicted_ms": float(costs.of_visits(record)[rows, ended].mean()),
        "accuracy": float(right.mean()), "sent": float(sent),
    }  # fmt: skip


_RECORDS: dict[str, Record] = {}


def _record(bench: Bench, bundle: ee.Bundle) -> Record:
    """Returns every exit's answers to the test rows, once for each set of temperatures."""
    key = str(bundle.manifest.constants)
    if key not in _RECORDS:
        _RECORDS[key] = collect(bundle, list(zip(bench.rows, bench.labels, strict=True)), threads=1)
    return _RECORDS[key]


def _where(report: ee.TuningReport) -> WhereToSplit:
    if report.split is None:
        raise ValueError("tuned without a link")
    return report.split


def _with(profile: ee.Profile, cost: LinkCost) -> ee.Profile:
    return msgspec.structs.replace(profile, link=cost)


def _slowed(profile: ee.Profile, times: float) -> ee.Profile:
    """Returns a profile in which all latencies of segments and exits are so many times as long."""

    def longer(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: longer(each, name) for name, each in value.items()}
        timed = key.endswith(("_ms", "_us"))
        if isinstance(value, list | tuple):
            return [longer(each, key) for each in value]
        return value * times if timed and value is not None else value

    keys = msgspec.to_builtins(profile)
    keys |= {name: longer(keys[name], name) for name in ("segments", "exits", "overhead_us")}
    return msgspec.convert(keys, ee.Profile)


def _range(counts: Sequence[int]) -> str:
    return f"{min(counts)} to {max(counts)}"


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(measure("mnist", float(sys.argv[1]), QUICK if len(sys.argv) > 2 else FULL)))
