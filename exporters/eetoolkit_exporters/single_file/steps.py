"""A plan as steps: exits, bounds and the fallback made explicit, so that only steps and where to go next are left.

An exit becomes a test and a step that keeps the answer; the most confident exit is kept like any other tensor; a
segment whose visits are bounded counts them. What steps pass on stands under keys: the plan's slots, and our own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from eetoolkit_exporters.single_file.graph_builder import GraphLevel
from eetoolkit_exporters.single_file.structure import Label, components, entry_points
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.plan.flow import backward, successors
from eetoolkit_runtime.plan.types import Exit, Gate, Goto, Manifest, Next, Segment, Source, Switch
from eetoolkit_runtime.running.decision import in_float32, limit_of

Key = tuple[str, str]
Values = Mapping[Key, ir.Value]
Compute = Callable[[GraphLevel, Values], dict[Key, ir.Value]]
Inline = Callable[[GraphLevel, str, Mapping[str, ir.Value]], Mapping[str, ir.Value]]
"""Copies a segment's model to a level, given a value for each of its inputs, and returns its outputs by name."""

START: Label = ("start",)
END: Label = ("end",)
"""Where an answer was kept."""
FAILED: Label = ("failed",)
"""Where a segment's visits exceed its bound."""

INDEX: Key = ("answer", "exit")
CONFIDENCE: Key = ("answer", "confidence")
VALID: Key = ("flag", "valid")
"""Whether every switch met one of its cases."""
_RANK: Key = ("best", "rank")

_BOOL, _INT64, _FLOAT = ir.DataType.BOOL, ir.DataType.INT64, ir.DataType.FLOAT


class Spec(NamedTuple):
    """Dtype and number of dimensions of what stands under a key."""

    dtype: ir.DataType
    rank: int


@dataclass(frozen=True)
class Step:
    """Computes what stands under some keys from others, then goes where the key `on` says.

    Attributes:
        reads: The keys it looks at.
        writes: The keys it sets.
        compute: Writes its nodes and returns the values of `writes`.
        targets: Where it may go.
        on: None where there is one target; a bool for (false, true); else an int64, the index of the target.
    """

    reads: frozenset[Key]
    writes: frozenset[Key]
    compute: Compute
    targets: tuple[Label, ...]
    on: Key | None = None


@dataclass(frozen=True)
class Steps:
    """All steps of a plan, from `START` to `END` or `FAILED`.

    Attributes:
        steps: The steps.
        specs: What stands under each key.
        bounds: For a step that is the one entry of an outermost cycle: how often that may turn.
        live: The keys that a step, or what comes after it, may look at.
    """

    steps: Mapping[Label, Step]
    specs: Mapping[Key, Spec]
    bounds: Mapping[Label, int]
    live: Mapping[Label, frozenset[Key]]


def slot_key(name: str) -> Key:
    """Returns the key of a slot, an input or a constant of the plan."""
    return ("slot", name)


def answer_key(output: str) -> Key:
    """Returns the key of an output of the answer."""
    return ("answer output", output)


def plan_steps(plan: Manifest, specs: Mapping[Key, Spec], inline: Inline) -> Steps:
    """Returns the steps of `plan`.

    Args:
        plan: The plan.
        specs: What stands under the keys of slots, inputs, constants and the answer's outputs.
        inline: How a segment's model gets onto a level.
    """
    writer = _Writer(plan, specs, inline)
    for name, segment in plan.segments.items():
        writer.add_segment(name, segment)
    writer.add_start()
    end = frozenset([*writer.kept, *([VALID] if VALID in writer.initial else [])])
    return Steps(writer.steps, writer.specs, writer.bounds, _live(writer.steps, end))


class _Writer:
    """Writes the steps of one plan."""

    def __init__(self, plan: Manifest, specs: Mapping[Key, Spec], inline: Inline) -> None:
        self.plan = plan
        self.inline = inline
        self.steps: dict[Label, Step] = {}
        self.order = {name: index for index, name in enumerate(plan.exits)}
        self.kept = [*(key for key in specs if key == answer_key(key[1])), INDEX, CONFIDENCE]
        self.specs: dict[Key, Spec] = {**specs, INDEX: Spec(_INT64, 0), CONFIDENCE: Spec(_FLOAT, 0)}
        self.initial: dict[Key, Array | None] = {}  # None: an empty tensor, which nothing looks at
        self.bounds, self.counted = _bounds(plan)
        self.keeps_best = plan.fallback == "most_confident"
        if self.keeps_best:
            self._declare(_RANK, _FLOAT, np.array(-np.inf, np.float32))
            self.specs.update({_best(key): self.specs[key] for key in self.kept})
            self.initial.update(dict.fromkeys(map(_best, self.kept)))

    def add_start(self) -> None:
        """Adds the step that gives our own keys their first values."""

        def compute(level: GraphLevel, _: Values) -> dict[Key, ir.Value]:
            shared = level.shared
            return {
                key: shared.empty(*self.specs[key]) if first is None else shared.constant(first, f"first_{key[1]}")
                for key, first in self.initial.items()
            }

        self._add(START, (), self.initial, compute, (_enter(self.plan.start),))

    def add_segment(self, name: str, segment: Segment) -> None:
        """Adds the steps of a segment, the last of them first."""
        following = self._onward(name, segment.next)
        if segment.exit is not None and segment.exit.enabled:
            following = self._leave(name, segment.exit, following)
        run = ("run", name) if name in self.counted else _enter(name)
        self._run(run, name, segment, following)
        if name in self.counted:
            self._count(name, self.counted[name], run)

    def _onward(self, name: str, following: Next) -> Label:
        """Returns where a segment goes on to, after adding a step there if that is not a segment's."""
        label: Label = ("onward", name)
        if isinstance(following, Goto):
            return _enter(following.segment)
        if isinstance(following, Gate):
            targets = (_enter(following.otherwise), _enter(following.then))
            self._add(label, (), (), _nothing, targets, slot_key(following.on))
        if isinstance(following, Switch):
            self._case(label, name, following)
        return label

    def _case(self, label: Label, name: str, switch: Switch) -> None:
        """An index that is no case goes to the nearest one and spoils the answer."""
        on, case = slot_key(switch.on), ("case", name)
        self._declare(case, _INT64)
        self._declare(VALID, _BOOL, np.array(True))

        def compute(level: GraphLevel, values: Values) -> dict[Key, ir.Value]:
            index = level.scalar(values[on], f"{name}/switch")
            if index.dtype != _INT64:
                index = level.compute("Cast", f"{name}/index", _INT64, index, to=_INT64)
            limits = (level.shared.integer(0), level.shared.integer(len(switch.cases) - 1))
            nearest = level.compute("Clip", f"{name}/case", _INT64, index, *limits)
            same = level.compute("Equal", f"{name}/is_case", _BOOL, index, nearest)
            return {case: nearest, VALID: level.compute("And", f"{name}/valid", _BOOL, values[VALID], same)}

        self._add(label, (on, VALID), (case, VALID), compute, tuple(map(_enter, switch.cases)), case)

    def _leave(self, name: str, exit_: Exit, onward: Label) -> Label:
        """Adds the test of an exit and what follows it; returns the test's label."""
        keep: Label = ("keep", name)
        self._keep(keep, name, exit_)
        if exit_.ends:
            onward = ("keep best", name)
            if not self.keeps_best:
                return keep
            moves = {key: _best(key) for key in self.kept}
            self._add(onward, moves.values(), moves, _moving(moves), (END,))
            return self._compare(name, exit_, (onward, keep))
        if self.keeps_best:
            better: Label = ("better", name)
            self._keep(better, name, exit_, onward)
            onward = self._compare(name, exit_, (onward, better))
        limit, fires, sure = in_float32(limit_of(exit_.threshold)), ("fires", name), slot_key(exit_.confidence)
        self._declare(fires, _BOOL)

        def compute(level: GraphLevel, values: Values) -> dict[Key, ir.Value]:
            threshold = level.shared.constant(limit, f"{exit_.name}_threshold", ("threshold", exit_.name))
            if values[sure].const_value is not None:
                level.shared.fixed.add(exit_.name)
            return {fires: level.compute("GreaterOrEqual", f"{name}/fires", _BOOL, values[sure], threshold)}

        label: Label = ("leave", name)
        self._add(label, (sure,), (fires,), compute, (onward, keep), fires)
        return label

    def _keep(self, label: Label, name: str, exit_: Exit, onward: Label | None = None) -> None:
        """Adds the step that keeps an exit's answer, as the best so far where it goes on, else for good."""
        sure = slot_key(exit_.confidence)
        place = (lambda key: key) if onward is None else _best
        moves = {place(answer_key(output)): slot_key(source) for output, source in exit_.outputs.items()}
        ranked = {} if onward is None else {_RANK: ("rank", name)}

        def compute(level: GraphLevel, values: Values) -> dict[Key, ir.Value]:
            found = _moving(moves | ranked)(level, values)
            found[place(INDEX)] = level.shared.integer(self.order[exit_.name])
            found[place(CONFIDENCE)] = level.scalar(values[sure], f"{name}/confidence")
            return found

        reads = (*moves.values(), *ranked.values(), sure)
        writes = (*moves, *ranked, place(INDEX), place(CONFIDENCE))
        self._add(label, reads, writes, compute, (END if onward is None else onward,))

    def _compare(self, name: str, exit_: Exit, targets: tuple[Label, Label]) -> Label:
        """Adds the step that asks whether an exit is at least as confident as the best so far; NaN ranks lowest."""
        label: Label = ("compare", name)
        rank, better, sure = ("rank", name), ("is better", name), slot_key(exit_.confidence)
        self._declare(rank, _FLOAT)
        self._declare(better, _BOOL)

        def compute(level: GraphLevel, values: Values) -> dict[Key, ir.Value]:
            confidence = level.scalar(values[sure], f"{name}/confidence")
            lowest = level.shared.constant(np.array(-np.inf, np.float32), "lowest")
            unknown = level.compute("IsNaN", f"{name}/unknown", _BOOL, confidence)
            ranked = level.compute("Where", f"{name}/rank", _FLOAT, unknown, lowest, confidence)
            return {
                rank: ranked,
                better: level.compute("GreaterOrEqual", f"{name}/better", _BOOL, ranked, values[_RANK]),
            }

        self._add(label, (sure, _RANK), (rank, better), compute, targets, better)
        return label

    def _run(self, label: Label, name: str, segment: Segment, following: Label) -> None:
        """Adds the step that runs the model and then does the writes, all of them from what was there before."""
        feeds = {graph_input: slot_key(source) for graph_input, source in segment.reads.items()}
        moves = {slot_key(slot): slot_key(origin) for slot, s in segment.writes.items() if (origin := _moved(s))}

        def compute(level: GraphLevel, values: Values) -> dict[Key, ir.Value]:
            found = _moving(moves)(level, values)
            if segment.model is not None:
                outputs = self.inline(level, name, {given: values[key] for given, key in feeds.items()})
                given = {slot: source.output for slot, source in segment.writes.items() if source.output is not None}
                found |= {slot_key(slot): outputs[output] for slot, output in given.items()}
            return found

        self._add(label, (*feeds.values(), *moves.values()), map(slot_key, segment.writes), compute, (following,))

    def _count(self, name: str, bound: int, run: Label) -> None:
        visits, over = ("visits", name), ("over", name)
        self._declare(visits, _INT64, np.array(0, np.int64))
        self._declare(over, _BOOL)

        def compute(level: GraphLevel, values: Values) -> dict[Key, ir.Value]:
            count = level.compute("Add", f"{name}/visits", _INT64, values[visits], level.shared.integer(1))
            most = level.shared.integer(bound)
            return {visits: count, over: level.compute("Greater", f"{name}/over", _BOOL, count, most)}

        self._add(_enter(name), (visits,), (visits, over), compute, (run, FAILED), over)

    def _declare(self, key: Key, dtype: ir.DataType, first: Array | None = None) -> None:
        self.specs[key] = Spec(dtype, 0)
        if first is not None:
            self.initial[key] = first

    def _add(
        self,
        label: Label,
        reads: Iterable[Key],
        writes: Iterable[Key],
        compute: Compute,
        targets: tuple[Label, ...],
        on: Key | None = None,
    ) -> None:
        self.steps[label] = Step(frozenset(reads), frozenset(writes), compute, targets, on)


def _enter(segment: str) -> Label:
    return ("segment", segment)


def _best(key: Key) -> Key:
    return ("best " + key[0], key[1])


def _moved(source: Source) -> str | None:
    return source.slot if source.slot is not None else source.constant


def _moving(moves: Mapping[Key, Key]) -> Compute:
    return lambda _, values: {target: values[source] for target, source in moves.items()}


def _nothing(_level: GraphLevel, _values: Values) -> dict[Key, ir.Value]:
    return {}


def _bounds(plan: Manifest) -> tuple[dict[Label, int], dict[str, int]]:
    """Returns the bounds that a loop's trip count keeps, and those of segments that must count their visits.

    An outermost cycle is entered once, so where its one entry is bounded, its turns are that segment's visits.
    """
    edges = {name: successors(segment) for name, segment in plan.segments.items()}
    turns: dict[Label, int] = {}
    counted: dict[str, int] = {}
    for component in components(edges):
        cyclic = any(target in component for name in component for target in edges[name])
        entries = entry_points(component, edges, (plan.start,))
        for name in component if cyclic else ():
            bound = plan.segments[name].max_visits
            if bound is not None and entries == (name,):
                turns[_enter(name)] = bound
            elif bound is not None:
                counted[name] = bound
    return turns, counted


def _live(steps: Mapping[Label, Step], end: frozenset[Key]) -> dict[Label, frozenset[Key]]:
    """Returns the keys that matter at each label."""

    def before(label: Label, after: frozenset[Key]) -> frozenset[Key]:
        if label in (END, FAILED):
            return end if label == END else after
        step = steps[label]
        return step.reads | (after.union([] if step.on is None else [step.on]) - step.writes)

    targets = {label: step.targets for label, step in steps.items()} | dict.fromkeys((END, FAILED), ())
    return backward(targets, before, frozenset())
