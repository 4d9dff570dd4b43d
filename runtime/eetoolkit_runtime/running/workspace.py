"""The tensors of one call: buffers, bindings, and the plan unrolled into steps.

A step is a visit of one segment with every live slot pointing at a known buffer. Where the slots point decides all that
a step needs (its binding, where its outputs go), so a step is made once per such state and then only followed: the hot
path is `run, compare, next step`. A move costs nothing, because it is only another state. Buffers come from a pool per
dtype and shape; an output takes the first one that no live slot points at, which serves ordinary chains, skipped
blocks, and loops (whose segments so get a spare one) by the same rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import onnxruntime as ort

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import RunError, failure, is_foreign, no_such_case, running, too_many_visits
from eetoolkit_runtime.plan.flow import decider, live_after, targets
from eetoolkit_runtime.plan.types import Segment, Slot, Stop
from eetoolkit_runtime.running.answer import Answer, StoppedBy
from eetoolkit_runtime.running.deadline import Watch, watched_by
from eetoolkit_runtime.running.decision import Decision
from eetoolkit_runtime.running.executor import Bound, Executor
from eetoolkit_runtime.running.pace import Pace, Paces, watched
from eetoolkit_runtime.running.shared_state import SharedState
from eetoolkit_runtime.running.tensors import Cell, allocate

_MAX_STEPS = 4096  # states of a plan with many gates; beyond it the steps are made anew


class Step:
    """One visit of one segment with its tensors in known places.

    `chain` is this step and those that always follow it, as the hot path wants them: what to call, with which binding,
    where the confidence will be, which threshold it meets, and the step with the names of the segments run so far.
    """

    __slots__ = ("after", "before", "chain", "confidence", "decisions", "exit", "exit_index", "following", "live",
                 "name", "on", "outputs", "scores", "segment", "stopped_by", "targets")  # fmt: skip

    def __init__(self, name: str, segment: Segment, before: dict[str, Cell], live: frozenset[str]) -> None:
        self.name = name
        self.segment = segment
        self.before = before
        self.live = live
        self.after: dict[str, Cell] = {}
        self.exit = "" if segment.exit is None else segment.exit.name
        self.scores = None if segment.exit is None else segment.exit.scores
        self.exit_index = NO_EXIT
        self.stopped_by: StoppedBy = "end" if isinstance(segment.next, Stop) else "exit"
        self.confidence: Sequence[float] = _NEVER
        self.outputs: tuple[tuple[str, Cell], ...] = ()
        self.targets = targets(segment)
        self.on: Cell | None = None
        self.decisions = tuple((name, case) for case in range(len(self.targets)))
        self.following: dict[int, Step] = {}
        self.chain: list[_Link] = []


NO_EXIT = -1
"""The index of the last limit, which is NaN, for steps without an exit."""
_NEVER = (math.nan,)
_Link = tuple[Callable[[Any, Any], None], Any, Sequence[float], int, tuple[Step, tuple[str, ...]]]


class Workspace:
    """Buffers and steps for one shape of the inputs; used by one call at a time.

    Steps point at each other and at their sessions; when nobody has the workspace any more it lets go of all of them,
    since a garbage collection may be long in coming.

    Args:
        shared: The plan and what runs its segments.
        shapes: Of the inputs, in order.
        paces: How long segments take with inputs of these shapes.

    Attributes:
        watch: What may stop this call; None: nothing.
        paces: As given.
        options: What segments are run with where nothing watches.
    """

    def __init__(self, shared: SharedState, shapes: tuple[tuple[int, ...], ...], paces: Paces) -> None:
        self._steps: dict[tuple[object, ...], Step] = {}
        self._bound: dict[tuple[object, ...], Bound] = {}
        self._start: Step | None = None
        self._fresh: Step | None = None  # the first step, where a call finds nothing of the one before
        self._models = shared.models
        self.options = ort.RunOptions()
        self._gates: list[tuple[str, int]] = []
        self.watch: Watch | None = None
        self.paces = paces
        self._settling: list[Pace] = []  # of the segments that are watched until they are known
        self._shared = shared
        self._pool: dict[tuple[str, tuple[int, ...]], list[Cell]] = {}
        self._loose: list[Cell] = []
        self._shapes: dict[tuple[str, str], tuple[int, ...]] = {}
        start = shared.plan.start
        self._first_visit = {start: 1} if shared.plan.segments[start].max_visits is not None else {}
        self._visits: dict[str, int] = {}
        self._inputs = {
            spec.name: allocate(f"input {spec.name!r}", spec.dtype, shape)
            for spec, shape in zip(shared.plan.inputs, shapes, strict=True)
        }
        self._feeds = tuple(cell.array for cell in self._inputs.values())
        self._symbols = {
            dim: size
            for spec, shape in zip(shared.plan.inputs, shapes, strict=True)
            for dim, size in zip(spec.shape, shape, strict=True)
            if isinstance(dim, str)
        }

    def __del__(self) -> None:
        """Lets go of the steps, which would hold their sessions."""
        if hasattr(self, "_start"):  # else a signal handler raised before there were any
            self.forget()

    def run(self, arrays: tuple[Array, ...], decision: Decision) -> Answer:
        """Returns the answer of the first exit that fires, else of the last.

        Args:
            arrays: The inputs, in order, of this workspace's shapes.
            decision: Of this plan's exits.
        """
        limits, at = decision.limits, decision.at
        head, options = self.begin(arrays), self.options
        done: list[str] = []
        try:
            while True:
                end: tuple[Step, tuple[str, ...]] = (head, ())
                for call, binding, confidence, index, end in head.chain:
                    call(binding, options)
                    if confidence[0] >= limits[index] or index == at:  # `Decision.fires`
                        step, names = end
                        return self.answer(step, (*done, *names) if done else names)
                step, names = end
                done += names
                following = self.follow(step, head)
                if following is None:
                    return self.answer(step, tuple(done))
                head = following
        except Exception as error:
            if not is_foreign(error):
                raise
            raise failure(end[0].name, error) from error

    def answer(self, step: Step, path: tuple[str, ...]) -> Answer:
        """Returns the answer of the exit that `step` reached, its tensors copied."""
        outputs = {}
        for name, cell in step.outputs:
            outputs[name] = cell.array.copy()
        gates = tuple(self._gates) if self._gates else ()
        return Answer(outputs, step.exit, step.confidence[0], path, self._models, gates, step.stopped_by, step.scores)

    @property
    def size_bytes(self) -> int:
        """What its buffers take."""
        pools = [tuple(pool) for pool in tuple(self._pool.values())]  # copies: a call may be adding to them
        all_ = (tuple(self._inputs.values()), tuple(self._loose), *pools)
        return sum(cell.array.nbytes for pool in all_ for cell in pool)

    @property
    def gates(self) -> tuple[tuple[str, int], ...]:
        """The decisions of this call so far, as an answer has them."""
        return tuple(self._gates)

    def begin(self, arrays: tuple[Array, ...]) -> Step:
        """Takes over the inputs and returns the first step."""
        for place, array in enumerate(arrays):
            self._feeds[place][...] = array
        return self._renew() if self._fresh is None else self._fresh

    # The rest is off the hot path: it runs when a state is met for the first time, or at a gate.

    def _renew(self) -> Step:
        """Leaves nothing of the call before, and returns the first step."""
        if self._visits or self._first_visit:
            self._visits = dict(self._first_visit)
        if self._gates:
            self._gates = []
        if self._settling:
            self._settle()
        if self._start is None:
            self._start = self._step(self._shared.plan.start, self._inputs)
        if not self._first_visit and not self._settling:
            self._fresh = self._start
        return self._start

    def follow(self, step: Step, head: Step) -> Step | None:
        """Returns the step after `step`, which ends the chain of `head` and has been run; None at a stop."""
        on, case = step.on, 0
        if not step.targets:
            return None
        if on is not None:
            case = on.array.item()
            if not 0 <= case < len(step.targets):
                raise no_such_case(step.name, decider(step.segment), case, len(step.targets))
            self._fresh = None
            self._gates.append(step.decisions[case])
        following = step.following.get(case)
        if following is None:
            following = step.following[case] = self._step(step.targets[case], step.after)
        limit = following.segment.max_visits
        if limit is not None:
            self._fresh = None
            visits = self._visits.get(following.name, 0) + 1
            self._visits[following.name] = visits
            if visits > limit:
                raise too_many_visits(following.name, limit)
        elif on is None:
            before = head.chain[-1][-1][1] if head.chain else ()
            head.chain = [*head.chain, *((*link, (last, before + names)) for *link, (last, names) in following.chain)]
        return following

    def _step(self, name: str, pointers: dict[str, Cell]) -> Step:
        """Returns the step of the segment `name` with its live slots where `pointers` say."""
        shared = self._shared
        before = {slot: pointers[slot] for slot in sorted(shared.live[name])}
        key = (name, *before.values())
        step = self._steps.get(key)
        if step is None:
            if len(self._steps) >= _MAX_STEPS:
                self.forget()
            segment = shared.plan.segments[name]
            if self.watch is not None and segment.model is not None:
                self.watch.require(name)  # before its session is opened
            step = Step(name, segment, before, live_after(segment, shared.live))
            if segment.model is not None:
                with running(f"segment {name!r}"):
                    self._bind(step)
            else:
                self._point(step, {})
                if segment.exit is not None:
                    step.chain = [(_nothing, None, step.confidence, step.exit_index, (step, ()))]
            self._steps[key] = step
        return step

    def forget(self) -> None:
        """Lets go of all steps, of a call that runs but for the one that runs now."""
        for step in self._steps.values():
            step.chain, step.following = [], {}
        self._steps.clear()
        self._bound.clear()
        self._start = self._fresh = None

    def _settle(self) -> None:
        """Makes the steps anew once one of their segments need not be watched any more."""
        settling = [pace for pace in self._settling if not pace.settled]
        if len(settling) < len(self._settling):
            self.forget()
            settling.clear()  # a step that is still watched comes back when it is made
        self._settling = settling

    def release(self, kept: Collection[str]) -> None:
        """Lets go of the sessions of all segments but these, between two calls."""
        if {step.name for step in self._steps.values()} <= set(kept):
            return
        self.forget()

    def _point(self, step: Step, outputs: dict[str, Cell]) -> None:
        """Does the segment's writes, all at once, and looks up what its exit needs."""
        shared, after = self._shared, dict(step.before)
        for slot, source in step.segment.writes.items():
            if source.output is not None:
                after[slot] = outputs[source.output]
            elif source.slot is not None:
                after[slot] = step.before[source.slot]
            else:
                after[slot] = shared.constants[source.constant or ""]
        step.after = {slot: after[slot] for slot in step.live}
        on = decider(step.segment)
        if on is not None:
            step.on = step.after[on]
        exit_ = step.segment.exit
        if exit_ is not None:
            step.exit_index = shared.exits[exit_.name]
            confidence = step.after[exit_.confidence].array
            if confidence.size != 1:
                raise RunError(
                    f"segment {step.name!r}: the confidence {exit_.confidence!r} has {confidence.size} values, "
                    "expected one"
                )
            step.confidence = memoryview(confidence.reshape(-1).data)
            step.outputs = tuple((name, step.after[slot]) for name, slot in exit_.outputs.items())

    def _bind(self, step: Step) -> None:
        """Finds places for the step's outputs and binds them."""
        executor, pace = self._shared.executors[step.name], self.paces[step.name]
        pace.may_loop = executor.may_loop
        outputs = self._outputs(step.segment)
        self._learn_shapes(step, executor, outputs)
        cells = self._place(step, outputs)
        self._point(step, cells)
        sources = self._sources(step)
        key = (step.name, *sources.values(), *cells.values())
        bound = self._bound.get(key)
        if bound is None:
            bound = self._bound[key] = executor.bind(sources, cells)
        call = bound.call
        if not pace.settled:
            call = watched(call, pace, self.options)
            self._settling += [] if pace.may_loop else [pace]
            self._fresh = None
        step.chain = [(call, bound.argument, step.confidence, step.exit_index, (step, (step.name,)))]

    def _learn_shapes(self, step: Step, executor: Executor, outputs: dict[str, Slot]) -> None:
        """Finds the outputs' shapes: from the inputs' symbols, else by a run that allocates its outputs."""
        unknown: dict[str, Cell] = {}
        for name, slot in outputs.items():
            shape = tuple(self._symbols.get(dim) if isinstance(dim, str) else dim for dim in slot.shape)
            if None in slot.shape or (step.name, name) in self._shapes:
                continue
            if None in shape:
                unknown[name] = Cell(None, fixed=False)
            else:
                self._shapes[step.name, name] = tuple(dim for dim in shape if dim is not None)
        if not unknown:
            return
        bound = executor.bind(self._sources(step), unknown)
        pace, options = self.paces[step.name], self.options if self.watch is None else self.watch.options
        run = partial(watched(bound.call, pace, self.options), bound.argument, options)
        watched_by(self.watch, pace, run)
        for name, cell in unknown.items():
            self._shapes[step.name, name] = cell.array.shape

    def _outputs(self, segment: Segment) -> dict[str, Slot]:
        """Returns the graph outputs that the segment writes, each with its slot, a loose one if two slots share it."""
        slots = self._shared.plan.slots
        outputs: dict[str, Slot] = {}
        for slot, source in segment.writes.items():
            if source.output is not None and (source.output not in outputs or None in slots[slot].shape):
                outputs[source.output] = slots[slot]
        return outputs

    def _sources(self, step: Step) -> dict[str, Cell]:
        constants = self._shared.constants
        return {
            name: constants[source] if source in constants else step.before[source]
            for name, source in step.segment.reads.items()
        }

    def _place(self, step: Step, outputs: dict[str, Slot]) -> dict[str, Cell]:
        """Chooses a cell for every output: one that no slot points at which this step or a later one looks at."""
        taken = set(step.before.values())
        cells: dict[str, Cell] = {}
        for name, slot in outputs.items():
            fixed = None not in slot.shape
            shape = self._shapes[step.name, name] if fixed else ()
            pool = self._pool.setdefault((slot.dtype, shape), []) if fixed else self._loose
            cell = next((cell for cell in pool if cell not in taken), None)
            if cell is None:
                what = f"segment {step.name!r}: its output {name!r}"
                cell = allocate(what, slot.dtype, shape) if fixed else Cell(None, fixed=False)
                pool.append(cell)
            cells[name] = cell
            taken.add(cell)
        return cells


def _nothing(_binding: Any, _options: Any) -> None:
    """What a segment without a model runs."""
