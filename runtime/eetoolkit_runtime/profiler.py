"""Measuring what each segment and each exit of a bundle costs on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from eetoolkit_runtime.bundle import Bundle
from eetoolkit_runtime.errors import BundleError, InputError
from eetoolkit_runtime.golden import read_golden
from eetoolkit_runtime.inputs import Array, Inputs, prepare, split_rows
from eetoolkit_runtime.machine import condition, peak_bytes, resident_bytes, this_machine
from eetoolkit_runtime.plan import Manifest, Work
from eetoolkit_runtime.profile import ExitCost, Latency, Memory, Profile, SegmentCost, summarise
from eetoolkit_runtime.runner import Runner
from eetoolkit_runtime.sessions import Pool, Spin
from eetoolkit_runtime.store import commit, staging

Row = tuple[Array, ...]

_WARMUP_ROUNDS = 3, 30  # at least, at most
_STEADY = 0.05  # a round is steady that takes at most so much longer or shorter than the one before
_ROUNDS = 5  # at least, however long they take


def profile(  # noqa: PLR0913 - what a measurement depends on
    bundle: str | Path | Bundle,
    inputs: Inputs | None = None,
    labels: npt.ArrayLike | None = None,
    *,
    threads: int | None = None,
    spin: Spin = "brief",
    pool: Pool = "own",
    seconds: float = 5.0,
    max_rows: int = 256,
    progress: Callable[[str, int, int], object] | None = None,
) -> Profile:
    """Runs a bundle on this machine and returns what its segments and exits cost.

    Rounds over all inputs alternate between full paths, whose segments are timed one by one, and calls as they are made
    in use, which stop at the first confident exit. All rounds count after the warm-up, outliers too.

    Args:
        bundle: A `Bundle`, or the path of one.
        inputs: Any number of rows, best real ones: shares and expected latency are theirs. None: the golden samples.
        labels: The right class of every row, for accuracies.
        threads: As the `Runner`'s, like `spin` and `pool`.
        spin: See `threads`.
        pool: See `threads`.
        seconds: How long to measure after the warm-up, about.
        max_rows: More rows than this are answered once, for shares and accuracies, and not timed again and again.
        progress: Is told (what, done, total) from time to time.

    Raises:
        BundleError: The bundle cannot be opened.
        InputError: Inputs that it does not take, or none at all; labels of another number.
        RunError: onnxruntime failed.
    """
    before, began, resident = condition(), datetime.now(UTC), resident_bytes()
    tell = progress or (lambda _what, _done, _total: None)
    with Runner(bundle, threads=threads, spin=spin, pool=pool) as runner:
        plan = runner.bundle.manifest
        rows = _rows(runner.bundle, inputs)
        right = _labels(labels, len(rows))
        load_ms = _open_all(runner)
        opened = resident_bytes()
        answers = [runner.run(row) for row in rows]
        timed = rows[:max_rows]
        warmup, steady = _warm_up(runner, timed, tell)
        found = _Found()
        until = time.perf_counter() + seconds
        while found.rounds < _ROUNDS or time.perf_counter() < until:
            for row in timed:
                found.full_path(runner, row)
            for row in timed:
                found.call(runner, row)
            found.rounds += 1
            tell("measuring", int(1e3 * max(0.0, seconds - max(0.0, until - time.perf_counter()))), int(1e3 * seconds))
        after = condition()
        hits = None if right is None else np.array([a.prediction == r for a, r in zip(answers, right, strict=True)])
        segments = {
            name: SegmentCost(
                **msgspec.structs.asdict(segment.work or Work(nodes=0, parameters=0)),
                size_bytes=sum(plan.files[file].size for file in (segment.model, *segment.weights) if file is not None),
                load_ms=load_ms[name],
                latency=_summary(found.segments.get(name)),
                visits=sum(answer.path.count(name) for answer in answers) / len(answers),
            )
            for name, segment in plan.segments.items()
            if segment.model is not None
        }
        exits = {}
        for name in plan.exits:
            here = np.array([answer.exit == name for answer in answers])
            exits[name] = ExitCost(
                latency=_summary(found.exits.get(name)),
                share=float(here.mean()),
                accuracy=None if hits is None or not here.any() else float(hits[here].mean()),
                accuracy_if_always=None if right is None else _always(runner, rows, right, name),
            )
        return Profile(
            bundle=plan.name,
            files=digests(plan),
            measured=began.isoformat(timespec="seconds"),
            machine=this_machine(),
            before=before,
            after=after,
            threads=threads,
            spin=spin,
            pool=pool,
            rows=len(rows),
            rounds=found.rounds,
            warmup_rounds=warmup,
            steady=steady,
            segments=segments,
            exits=exits,
            expected=summarise(found.calls),
            full_path=_summary(found.exits.get(list(plan.exits)[-1])),
            overhead_us=1e3 * float(np.median(found.overheads)),
            accuracy=None if hits is None else float(hits.mean()),
            memory=Memory(before=resident, opened=opened, peak=peak_bytes()),
        )


def save_profile(bundle: Bundle, found: Profile) -> None:
    """Writes what the segments take (p90) into a bundle's manifest in one step, so that deadlines go by it.

    Raises:
        BundleError: The profile is of another bundle, or the manifest cannot be written.
    """
    plan = bundle.manifest
    if found.files != digests(plan):
        raise BundleError(f"this profile is of another bundle, {found.bundle!r}, or of another build of {plan.name!r}")
    taken = {name: cost.latency.p90_ms for name, cost in found.segments.items() if cost.latency is not None}
    with staging(bundle.path) as folder:
        commit(folder, msgspec.structs.replace(plan, profile=taken), bundle.path)


def digests(plan: Manifest) -> dict[str, str]:
    """Returns the digest of every graph, by which two profiles of one bundle know each other."""
    return {name: file.sha256 for name, file in plan.files.items() if name.endswith(".onnx")}


@dataclass
class _Found:
    """Latencies in milliseconds, as they come."""

    segments: dict[str, list[float]] = field(default_factory=dict)
    exits: dict[str, list[float]] = field(default_factory=dict)
    calls: list[float] = field(default_factory=list)
    overheads: list[float] = field(default_factory=list)
    rounds: int = 0

    def full_path(self, runner: Runner, row: Row) -> None:
        """Runs one input to the end of the plan."""
        taken: list[tuple[str, float]] = []
        met = runner.trace(row, lambda segment, milliseconds: taken.append((segment, milliseconds)))
        for name, milliseconds in taken:
            self.segments.setdefault(name, []).append(milliseconds)
        for name, after_ms in met:
            self.exits.setdefault(name, []).append(after_ms)
        self.overheads.append((met[-1][1] - sum(milliseconds for _, milliseconds in taken)) / len(taken))

    def call(self, runner: Runner, row: Row) -> None:
        """Runs one input as a user does."""
        started = time.perf_counter_ns()
        runner.run(row)
        self.calls.append((time.perf_counter_ns() - started) / 1e6)


def _warm_up(runner: Runner, rows: Sequence[Row], tell: Callable[[str, int, int], object]) -> tuple[int, bool]:
    """Runs rounds until one takes as long as the one before; returns how many, and whether it came to that."""
    last, least, most = np.inf, *_WARMUP_ROUNDS
    for done in range(1, most + 1):
        started = time.perf_counter()
        for row in rows:
            runner.run_all_exits(row)
            runner.run(row)
        took = time.perf_counter() - started
        tell("warming up", done, most)
        if done >= least and abs(took - last) <= _STEADY * last:
            return done, True
        last = took
    return most, False


def _open_all(runner: Runner) -> dict[str, float]:
    """Opens every segment; returns how long each took, in milliseconds."""
    found = {}
    for name, segment in runner.bundle.manifest.segments.items():
        if segment.model is not None:
            started = time.perf_counter()
            runner.open(name)
            found[name] = (time.perf_counter() - started) * 1e3
    return found


def _always(runner: Runner, rows: Sequence[Row], right: npt.NDArray[Any], exit_: str) -> float | None:
    answers = [runner.run(row, exit_at=exit_) for row in rows]
    came = [answer.prediction == label for answer, label in zip(answers, right, strict=True) if answer.exit == exit_]
    return float(np.mean(came)) if came else None


def _rows(bundle: Bundle, inputs: Inputs | None) -> list[Row]:
    plan = bundle.manifest
    if inputs is not None:
        return split_rows(plan, prepare(plan, inputs, one_row=False))
    rows = [prepare(plan, sample.inputs, one_row=True) for sample in read_golden(bundle)]
    if not rows:
        raise InputError("profile: the bundle has no golden samples; pass inputs")
    return rows


def _labels(labels: npt.ArrayLike | None, rows: int) -> npt.NDArray[Any] | None:
    if labels is None:
        return None
    found = np.asarray(labels)
    if found.shape != (rows,) or found.dtype.kind not in "iu":
        raise InputError(f"labels are {found.dtype}{list(found.shape)}, expected integers, one for each of {rows} rows")
    return found


def _summary(latencies_ms: Sequence[float] | None) -> Latency | None:
    return summarise(latencies_ms) if latencies_ms else None
