"""Which operators cost most in each segment, by onnxruntime's own trace, in sessions that nothing else uses."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.errors import RunError, running
from eetoolkit_runtime.profiling.costs import OperatorCost
from eetoolkit_runtime.running.interpret import path_of
from eetoolkit_runtime.running.sessions import SessionSettings

TRACED_ROWS = 16
_WARMUP_ROUNDS = 3
TRACED_ROUNDS = _WARMUP_ROUNDS + 1
"""At least."""
_ROUNDS = 20  # at most; a session stops tracing after a million nodes
_TICK_S = 1e-6
_ENDING = "_kernel_time"


class _Event(msgspec.Struct):
    """What is read of an event of onnxruntime's trace; times in microseconds since its session was made."""

    name: str
    cat: str
    ts: float
    dur: float = 0
    args: dict[str, Any] = {}


@dataclass(frozen=True)
class NodeRun:
    """A node that ran; `own_us` is without the nodes of its branches or its body, which are listed too."""

    node: str
    operator: str
    start_us: float
    taken_us: float
    own_us: float


@dataclass(frozen=True)
class SegmentRun:
    """A segment that ran; `start_us` is on one clock for all segments."""

    segment: str
    start_us: float
    taken_us: float
    nodes: tuple[NodeRun, ...]


@dataclass(frozen=True)
class Traced:
    """What was traced after the warm-up: for every row that was run, the segments in the order run."""

    rows: tuple[tuple[SegmentRun, ...], ...]

    def operators(self) -> dict[str, tuple[OperatorCost, ...]]:
        """Returns what the nodes of each segment cost, the costliest first."""
        taken: dict[str, dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
        for run in self._runs():
            for node in run.nodes:
                taken[run.segment][node.node, node.operator].append(node.own_us)
        found = {}
        for segment, nodes in taken.items():
            whole = sum(float(np.median(all_)) * len(all_) for all_ in nodes.values()) or 1.0
            costs = [
                OperatorCost(
                    node=node,
                    operator=operator,
                    runs=len(all_),
                    p50_us=float(np.median(all_)),
                    share=float(np.median(all_)) * len(all_) / whole,
                )
                for (node, operator), all_ in nodes.items()
            ]
            found[segment] = tuple(sorted(costs, key=lambda cost: -cost.share))
        return found

    def segment_ms(self) -> dict[str, float]:
        """Returns what running each segment takes while it is traced, the median."""
        taken: dict[str, list[float]] = defaultdict(list)
        for run in self._runs():
            taken[run.segment].append(run.taken_us / 1e3)
        return {segment: float(np.median(all_)) for segment, all_ in taken.items()}

    def _runs(self) -> Iterator[SegmentRun]:
        for row in self.rows:
            yield from row


def trace_operators(
    bundle: Bundle, rows: Sequence[Sequence[Array]], settings: SessionSettings, seconds: float
) -> Traced:
    """Runs rows to the end of the plan, round after round, and returns what onnxruntime traced meanwhile.

    Args:
        bundle: The bundle.
        rows: Each the inputs of one row, in the plan's order.
        settings: How sessions are made.
        seconds: How long all of it may take; fewer rows are run where they do not fit, and one whatever it takes. 0:
            without a bound, one round after the warm-up.

    Raises:
        RunError: onnxruntime failed.
    """
    plan = bundle.manifest
    sessions: dict[str, ort.InferenceSession] = {}
    paths: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory(prefix="eetoolkit-") as folder:

        def run(name: str, feeds: dict[str, Array]) -> dict[str, Array]:
            if name not in sessions:
                sessions[name] = _open(bundle, name, settings, Path(folder))
            names = [value.name for value in sessions[name].get_outputs()]
            with running(f"segment {name!r}"):
                return dict(zip(names, map(np.asarray, sessions[name].run(names, feeds)), strict=True))

        until = time.perf_counter() + seconds
        paths.append(path_of(plan, rows[0], run))
        if seconds > 0:
            started = time.perf_counter()
            paths.append(path_of(plan, rows[0], run))
            row_s = max(time.perf_counter() - started, _TICK_S)
            rows = rows[: max(1, int((until - time.perf_counter()) / row_s / TRACED_ROUNDS))]
        untimed = len(paths)
        for number in range(_WARMUP_ROUNDS + _ROUNDS):
            started = time.perf_counter()
            paths += [path_of(plan, row, run) for row in rows]
            now = time.perf_counter()
            if number >= _WARMUP_ROUNDS and now + (now - started) > until:
                break
        starts = {name: session.get_profiling_start_time_ns() / 1e3 for name, session in sessions.items()}
        first = min(starts.values(), default=0.0)
        runs = {
            name: iter(_read(name, Path(session.end_profiling()), starts[name] - first))
            for name, session in sessions.items()
        }
    try:
        found = [tuple(next(runs[name]) for name in path) for path in paths]
    except StopIteration as error:
        raise RunError("onnxruntime's trace holds fewer runs than were made; trace fewer inputs") from error
    return Traced(tuple(found[untimed + _WARMUP_ROUNDS * len(rows) :]))


def _open(bundle: Bundle, name: str, settings: SessionSettings, folder: Path) -> ort.InferenceSession:
    prefix = str(folder / f"segment{len(list(folder.iterdir()))}")

    def traced(options: ort.SessionOptions) -> None:
        options.enable_profiling = True
        options.profile_file_prefix = prefix

    return settings.open_segment(bundle, name, traced)


def _read(segment: str, file: Path, later_us: float) -> list[SegmentRun]:
    """Returns the runs in one session's trace; `later_us` is what its clock is behind the others'."""
    with running(f"segment {segment!r}: onnxruntime's trace"):
        events = msgspec.json.decode(file.read_bytes(), type=list[_Event])
    nodes = sorted((e for e in events if e.cat == "Node" and e.name.endswith(_ENDING)), key=lambda e: (e.ts, -e.dur))
    runs = sorted((event for event in events if event.name == "model_run"), key=lambda event: event.ts)
    found, at = [], 0
    for run in runs:
        inside = []
        while at < len(nodes) and nodes[at].ts < run.ts + run.dur:
            inside.append(nodes[at])
            at += 1
        found.append(SegmentRun(segment, run.ts + later_us, run.dur, tuple(_own(inside, later_us))))
    return found


def _own(nodes: Sequence[_Event], later_us: float) -> Iterator[NodeRun]:
    """Yields nodes that are sorted by their start, each with what is left of it without those inside it."""
    inner = [0.0] * len(nodes)
    open_: list[int] = []
    for place, node in enumerate(nodes):
        while open_ and nodes[open_[-1]].ts + nodes[open_[-1]].dur <= node.ts:
            open_.pop()
        if open_:
            inner[open_[-1]] += node.dur
        open_.append(place)
    for node, inside in zip(nodes, inner, strict=True):
        name = node.name.removesuffix(_ENDING)
        operator = str(node.args.get("op_name", name))
        yield NodeRun(name, operator, node.ts + later_us, node.dur, max(0.0, node.dur - inside))
