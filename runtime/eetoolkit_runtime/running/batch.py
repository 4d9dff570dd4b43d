"""Many rows at once: they run together, part where their exits, gates or switches differ, and meet again.

A group is rows that wait at one segment, with the tensors that are still needed. The segment that comes first in the
plan's order goes first, so that a join waits for its slower branch and its rows go on as one group.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import partial

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import RunError, no_such_case, running, too_many_visits
from eetoolkit_runtime.plan.flow import decider, targets
from eetoolkit_runtime.plan.types import Dim, Exit, Manifest, Segment, Source, Stop, spell
from eetoolkit_runtime.running.answer import Answer, stand_in
from eetoolkit_runtime.running.decision import Decision
from eetoolkit_runtime.running.inputs import BATCH, ROWS_AT_ONCE, most_rows, row_axes, rows_between
from eetoolkit_runtime.running.pace import Paces, watched
from eetoolkit_runtime.running.shared_state import SharedState

Places = npt.NDArray[np.intp]


def rows_go_together(plan: Manifest) -> bool:
    """Whether `Rows` may take the plan.

    Every tensor that a graph passes on must have exactly one dimension `batch` and no other that hangs on the rows. One
    without it may depend on how many rows there were (the target of a Reshape) or on what all of them held (what
    NonZero finds), and would be wrong for the rows that are left when some have gone.
    """
    if plan.batch is not None or not any(BATCH in spec.shape for spec in plan.inputs):
        return False
    axes = _axes(plan)
    if any(axes[spec.name] == _UNCLEAR for spec in plan.inputs):
        return False
    writes = [item for segment in plan.segments.values() for item in segment.writes.items()]
    return all(axes[slot] != _UNCLEAR and _keeps_rows(plan, axes, slot, source) for slot, source in writes)


def _keeps_rows(plan: Manifest, axes: dict[str, int | None], slot: str, source: Source) -> bool:
    axis = axes[slot]
    if source.output is not None:
        return axis is not None
    if source.slot is not None:
        return axes[source.slot] == axis
    return axis is None or plan.constants[source.constant or ""].shape[axis] == 1


_UNCLEAR = -1


def _axes(plan: Manifest) -> dict[str, int | None]:
    """Returns the dimension that counts rows of every input and slot; None where nothing hangs on them."""
    axes = {spec.name: _axis(tuple(dim or 0 for dim in spec.shape)) for spec in plan.inputs}  # any size is the caller's
    return axes | {name: _axis(slot.shape) for name, slot in plan.slots.items()}


def _axis(shape: tuple[Dim, ...]) -> int | None:
    hang = [k for k, dim in enumerate(shape) if dim is None or re.search(rf"\b{BATCH}\b", str(dim))]
    if not hang:
        return None
    return hang[0] if len(hang) == 1 and shape[hang[0]] == BATCH else _UNCLEAR


class Rows:
    """What all batches of a runner share: its plan, and what is worked out of it once."""

    def __init__(self, state: SharedState) -> None:
        plan = state.plan
        self.state = state
        self.axes = _axes(plan)
        self.input_axes = row_axes(plan)
        self.at_once = min(ROWS_AT_ONCE, most_rows(plan) or ROWS_AT_ONCE)
        self.paces = Paces()
        self.order = {name: number for number, name in enumerate(plan.segments)}
        self.outputs = {
            name: list({source.output for source in segment.writes.values() if source.output is not None})
            for name, segment in plan.segments.items()
        }

    def count(self, arrays: tuple[Array, ...]) -> int:
        """Returns how many rows the inputs hold."""
        return next(
            int(array.shape[axis]) for array, axis in zip(arrays, self.input_axes, strict=True) if axis is not None
        )

    def run(self, arrays: tuple[Array, ...], decision: Decision) -> list[Answer]:
        """Returns the answer of each row of `arrays`, in order, as runs of one row would give them.

        Raises:
            RunError: onnxruntime failed, a switch has no such case, or a loop exceeds its bound, for any of the rows.
        """
        specs, count = self.state.plan.inputs, self.count(arrays)
        answers: list[Answer] = []
        for start in range(0, count, self.at_once):
            part = {
                spec.name: np.asarray(
                    array if axis is None else rows_between(array, axis, start, start + self.at_once), order="C"
                )
                for spec, array, axis in zip(specs, arrays, self.input_axes, strict=True)
            }
            answers += _Batch(self, decision, min(self.at_once, count - start)).run(part)
        return answers


class _Group(msgspec.Struct, frozen=True):
    rows: Places
    tensors: dict[str, Array]


class _Batch:
    """What became of every row so far, and the groups that wait, by segment."""

    def __init__(self, shared: Rows, decision: Decision, count: int) -> None:
        self._shared = shared
        self._state = shared.state
        self._decision = decision
        self._axes = shared.axes
        self._waiting: dict[str, list[_Group]] = {}
        self._answers: list[Answer | None] = [None] * count
        self._best: list[Answer | None] = [None] * count
        self._paths: list[list[str]] = [[] for _ in range(count)]
        self._gates: list[list[tuple[str, int]]] = [[] for _ in range(count)]
        self._options = ort.RunOptions()
        self._visits: Counter[tuple[int, str]] = Counter()

    def run(self, inputs: dict[str, Array]) -> list[Answer]:
        """Runs all rows to their answers."""
        self._enter(self._state.plan.start, _Group(np.arange(len(self._answers)), inputs))
        while self._waiting:
            name = min(self._waiting, key=self._shared.order.__getitem__)
            for group in self._met(self._waiting.pop(name)):
                self._visit(name, group)
        return [answer for answer in self._answers if answer is not None]

    def _enter(self, name: str, group: _Group) -> None:
        """Lets a group wait at a segment with what is still needed from there on."""
        limit = self._state.plan.segments[name].max_visits
        if limit is not None:
            for row in group.rows.tolist():
                self._visits[row, name] += 1
                if self._visits[row, name] > limit:
                    raise too_many_visits(name, limit)
        live = {slot: group.tensors[slot] for slot in self._state.live[name]}
        self._waiting.setdefault(name, []).append(_Group(group.rows, live))

    def _met(self, groups: list[_Group]) -> list[_Group]:
        """Returns the groups with those as one that differ in nothing but their rows."""
        if len(groups) == 1:
            return groups
        met: dict[tuple[object, ...], list[_Group]] = {}
        for group in groups:
            key = [
                id(array) if (axis := self._axes[slot]) is None else (array.shape[:axis], array.shape[axis + 1 :])
                for slot, array in group.tensors.items()
            ]
            met.setdefault(tuple(key), []).append(group)
        return [self._merged(same) if len(same) > 1 else same[0] for same in met.values()]

    def _merged(self, groups: list[_Group]) -> _Group:
        tensors = {}
        for slot, array in groups[0].tensors.items():
            axis = self._axes[slot]
            parts = [group.tensors[slot] for group in groups]
            tensors[slot] = array if axis is None else np.concatenate(parts, axis)
        return _Group(np.concatenate([group.rows for group in groups]), tensors)

    def _take(self, group: _Group, places: Places) -> _Group:
        """Returns the rows of a group at `places`."""
        if len(places) == len(group.rows):
            return group
        tensors = {
            slot: array if (axis := self._axes[slot]) is None else array.take(places, axis)
            for slot, array in group.tensors.items()
        }
        return _Group(group.rows[places], tensors)

    def _visit(self, name: str, group: _Group) -> None:
        """Runs one segment for a group, answers the rows that leave, and sends the others on."""
        segment = self._state.plan.segments[name]
        outputs = self._run_model(name, segment, group)
        if segment.model is not None:
            for row in group.rows.tolist():
                self._paths[row].append(name)
        after = dict(group.tensors)
        for slot, source in segment.writes.items():
            if source.output is not None:
                array = outputs[source.output]
            elif source.slot is not None:
                array = group.tensors[source.slot]
            else:
                array = self._state.constants[source.constant or ""].array
            after[slot] = self._spread(name, slot, array, len(group.rows))
        group = _Group(group.rows, after)
        if segment.exit is not None:
            group = self._leave(segment, segment.exit, group)
        if len(group.rows):
            self._part(name, segment, group)

    def _run_model(self, name: str, segment: Segment, group: _Group) -> dict[str, Array]:
        if segment.model is None:
            return {}
        constants = self._state.constants
        names = self._shared.outputs[name]
        feeds = {
            graph_input: constants[source].array if source in constants else group.tensors[source]
            for graph_input, source in segment.reads.items()
        }
        executor, pace = self._state.executors[name], self._shared.paces[name]
        pace.may_loop = executor.may_loop
        run = watched(partial(executor.run, names), pace, self._options)
        with running(f"segment {name!r}"):
            return dict(zip(names, run(feeds, self._options), strict=True))

    def _spread(self, name: str, slot: str, array: Array, count: int) -> Array:
        """Returns the tensor with one value for each row where it has one for all, as a constant has.

        Raises:
            RunError: The graph gave another shape or dtype than the slot has.
        """
        axis, expected = self._axes[slot], self._state.plan.slots[slot]
        alike = array.ndim == len(expected.shape) and array.dtype.name == expected.dtype
        if not alike or any(isinstance(d, int) and d != k for d, k in zip(expected.shape, array.shape, strict=True)):
            raise RunError(
                f"segment {name!r}: {slot!r} is {array.dtype}{list(array.shape)}, expected {spell(expected)}"
            )
        if axis is None or array.shape[axis] == count:
            return array
        if array.shape[axis] != 1:
            raise RunError(f"segment {name!r}: {slot!r} has {array.shape[axis]} rows, expected {count}")
        return np.repeat(array, count, axis)

    def _leave(self, segment: Segment, exit_: Exit, group: _Group) -> _Group:
        """Answers the rows for which the exit fires, all at a stop; returns the others."""
        decision, ends = self._decision, isinstance(segment.next, Stop)
        confidences = _per_row(group.tensors[exit_.confidence], len(group.rows)).astype(np.float64)
        fires = decision.fires(self._state.exits[exit_.name], confidences)
        compared = decision.most_confident and decision.at is None and exit_.name in decision.stand_ins
        for place, row in enumerate(group.rows.tolist()):
            if not (fires[place] or ends or compared):
                continue
            answer = self._answer(exit_, group, place, float(confidences[place]), ends=ends)
            if compared and not fires[place]:
                best = self._best[row]
                self._best[row] = best = answer if best is None or decision.better(answer, best) else best
                if ends:
                    self._answers[row] = stand_in(best, answer)
            else:
                self._answers[row] = answer
        return self._take(group, np.flatnonzero(~fires & (not ends)))

    def _answer(self, exit_: Exit, group: _Group, place: int, confidence: float, *, ends: bool) -> Answer:
        row = group.rows[place]
        outputs = {}
        for name, slot in exit_.outputs.items():
            array, axis = group.tensors[slot], self._axes[slot]
            only = ... if axis is None else (*(slice(None),) * axis, slice(place, place + 1))
            outputs[name] = array[only].copy()
        return Answer(
            outputs, exit_.name, confidence, tuple(self._paths[row]), self._state.models, tuple(self._gates[row]),
            "end" if ends else "exit", exit_.scores,
        )  # fmt: skip

    def _part(self, name: str, segment: Segment, group: _Group) -> None:
        """Sends every row to its next segment."""
        cases, on = targets(segment), decider(segment)
        if on is None:
            for following in cases:
                self._enter(following, group)
            return
        decisions = _per_row(group.tensors[on], len(group.rows)).astype(np.int64)
        for decision in np.unique(decisions).tolist():
            if not 0 <= decision < len(cases):
                raise no_such_case(name, on, decision, len(cases))
            some = self._take(group, np.flatnonzero(decisions == decision))
            for row in some.rows.tolist():
                self._gates[row].append((name, decision))
            self._enter(cases[decision], some)


def _per_row(array: Array, count: int) -> Array:
    """Returns one value per row of what has one per row, or one for all."""
    return np.broadcast_to(array.reshape(-1), count)
