"""What an exit costs in its segment: the segment as it is beside the same graph without what only the exit needs.

onnxruntime's trace is no way to see it: on nodes as small as a criterion's it mostly measures itself.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime as ort

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.errors import IntegrityError, ProviderError, running
from eetoolkit_runtime.files.wire import without_outputs
from eetoolkit_runtime.plan.flow import decider, live_before, live_beyond
from eetoolkit_runtime.plan.types import Segment, Stop
from eetoolkit_runtime.profiling.budget import Budget
from eetoolkit_runtime.profiling.costs import Added, mean_added
from eetoolkit_runtime.running.executor import fast_run
from eetoolkit_runtime.running.interpret import path_of
from eetoolkit_runtime.running.sessions import SessionSettings

_WARMUP = 5
_ROUNDS = 20, 2000  # at least, at most
_RUNS = 3 * (_WARMUP + _ROUNDS[0])  # of a segment: as it is, without its decision, without its exit
_WALK = 10  # how many rows' time must be left for another one to look for exits that none has met


@dataclass(frozen=True)
class ExitsOwn:
    """What an exit adds to its segment; None where it cannot be taken out.

    Attributes:
        decision: The nodes that only the confidence needs.
        passing: The nodes that only the exit needs, its head and its criterion.
    """

    decision: Added | None
    passing: Added | None


@dataclass
class _Variant:
    """A segment's graph, with or without some outputs, bound to the inputs of one row."""

    session: ort.InferenceSession
    feeds: dict[str, Array]
    taken_us: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        binding = self.session.io_binding()
        for value in self.session.get_inputs():
            binding.bind_cpu_input(value.name, self.feeds[value.name])
        for value in self.session.get_outputs():
            binding.bind_output(value.name)
        self._call, self._binding = fast_run(self.session, binding)
        self._bound, self._options = binding, ort.RunOptions()  # held on to: the inner binding borrows it

    def run(self) -> None:
        """Runs it once."""
        started = time.perf_counter_ns()
        self._call(self._binding, self._options)
        self.taken_us.append((time.perf_counter_ns() - started) / 1e3)


def exits_own(
    bundle: Bundle, rows: Sequence[Sequence[Array]], settings: SessionSettings, budget: Budget
) -> dict[str, ExitsOwn]:
    """Returns what each exit that these rows meet adds to its segment; of an exit in several segments, the mean.

    Args:
        bundle: The bundle.
        rows: Each the inputs of one row, in the plan's order; of each segment the first that comes there counts.
        settings: How sessions are made.
        budget: The time for it, each exit its part; exits for which there is none are left out.

    Raises:
        RunError: onnxruntime failed.
    """
    plan = bundle.manifest
    given: dict[str, dict[str, Array]] = {}
    taken_s: dict[str, float] = {}
    sessions = {
        name: settings.open_segment(bundle, name)
        for name, segment in plan.segments.items()
        if segment.model is not None
    }

    def run(name: str, feeds: dict[str, Array]) -> dict[str, Array]:
        session = sessions[name]
        given.setdefault(name, {key: np.asarray(array, order="C") for key, array in feeds.items()})
        started = time.perf_counter()
        with running(f"segment {name!r}"):
            outputs = session.run(None, feeds)
        taken_s[name] = time.perf_counter() - started
        return dict(zip((value.name for value in session.get_outputs()), outputs, strict=True))

    for row in rows:
        if not given or budget.allows(_WALK * sum(taken_s.values())):
            path_of(plan, row, run)
    places = {name: feeds for name, feeds in given.items() if plan.segments[name].exit is not None}
    live = live_before(plan)
    found: dict[str, list[ExitsOwn]] = {}
    for done, (name, feeds) in enumerate(places.items()):
        segment, part_s = plan.segments[name], budget.left() / (len(places) - done)
        if part_s < _RUNS * taken_s[name]:
            budget.lack("passing")
            continue
        variants = _variants(bundle, name, segment, live_beyond(segment, live), settings)
        with running(f"segment {name!r}"):
            alone = {key: _Variant(session, feeds) for key, session in variants.items()}
            alone["as it is"] = _Variant(sessions[name], feeds)
            _interleave(list(alone.values()), part_s if budget.bounded else 0.0)
        added = {key: _difference(alone["as it is"], variant) for key, variant in alone.items()}
        found.setdefault(segment.exit.name if segment.exit is not None else "", []).append(
            ExitsOwn(added.get("decision"), added.get("passing"))
        )
    return {
        exit_: ExitsOwn(mean_added([one.decision for one in all_]), mean_added([one.passing for one in all_]))
        for exit_, all_ in found.items()
    }


def _variants(
    bundle: Bundle, name: str, segment: Segment, beyond: frozenset[str], settings: SessionSettings
) -> dict[str, ort.InferenceSession]:
    """Returns sessions over the segment's graph without what the confidence needs, and without what the exit needs."""
    if segment.exit is None or segment.model is None:
        return {}
    feeding: dict[str, set[str]] = {}
    for slot, source in segment.writes.items():
        if source.output is not None:
            feeding.setdefault(source.output, set()).add(slot)
    kept = beyond | {decider(segment)}
    taken_out = {
        "decision": {o for o, slots in feeding.items() if segment.exit.confidence in slots and slots.isdisjoint(kept)},
        "passing": {o for o, slots in feeding.items() if slots.isdisjoint(kept)},
    }
    if isinstance(segment.next, Stop):
        del taken_out["passing"]  # nothing goes on
    text = bundle.graph(segment)
    found: dict[str, Any] = {}
    for key, outputs in taken_out.items():
        if not outputs or len(outputs) == len(feeding):
            continue  # the segment is nothing but the exit
        try:
            graph, nodes = without_outputs(text, outputs)
            if nodes:
                found[key] = settings.open(
                    graph, f"segment {name!r} without its {key}", folder=bundle.path, segment=name
                )
        except (ValueError, IntegrityError, ProviderError):  # a graph that onnxruntime does not take without them
            continue
    return found


def _interleave(variants: Sequence[_Variant], seconds: float) -> None:
    """Runs each in turns, in a new order each round."""
    order = np.random.default_rng(0)
    least, most = _ROUNDS
    until = time.perf_counter() + seconds
    for number in range(_WARMUP + most):
        for which in order.permutation(len(variants)):
            variants[which].run()
        if number >= _WARMUP + least and time.perf_counter() > until:
            return


def _difference(whole: _Variant, less: _Variant) -> Added:
    """Returns the median of the differences, pair by pair; its interval as McGill, Tukey and Larsen 1978 notch it."""
    pairs = np.array(whole.taken_us[_WARMUP:]) - np.array(less.taken_us[_WARMUP:])
    p25, p50, p75 = (float(q) for q in np.quantile(pairs, (0.25, 0.5, 0.75)))
    return Added(added_us=p50, error_us=1.57 * (p75 - p25) / len(pairs) ** 0.5)
