"""The tensors of one call: buffers, bindings, and the plan unrolled into steps.

A step is a visit of one segment with every live slot pointing at a known buffer. Where the slots point decides all that
a step needs (its binding, where its outputs go), so a step is made once per such state and then only followed: the hot
path is `run, compare, next step`. A move costs nothing, because it is only another state. Buffers come from a pool per
dtype and shape; an output takes the first one that no live slot points at, which serves ordinary chains, skipped
blocks, and loops (whose segments so get a spare one) by the same rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from eetoolkit_runtime.answer import Answer
from eetoolkit_runtime.errors import EEToolkitError, RunError
from eetoolkit_runtime.liveness import live_after, live_before
from eetoolkit_runtime.plan import Exit, Gate, Goto, Manifest, Segment, Stop, Switch
from eetoolkit_runtime.sessions import Sessions, fast_run

Array = npt.NDArray[Any]

_MAX_STEPS = 4096  # states of a plan with many gates; beyond it the steps are made anew


class Cell:
    """A place for a tensor; `fixed` ones keep their buffer, others hold what onnxruntime allocated last."""

    __slots__ = ("array", "fixed", "value")

    def __init__(self, value: ort.OrtValue | None, *, fixed: bool) -> None:
        self.fixed = fixed
        self.set(value)

    def set(self, value: ort.OrtValue | None) -> None:
        """Points at another tensor."""
        self.value = value
        self.array: Array = np.empty(0) if value is None else value.numpy()


class Layout:
    """What all workspaces of a runner share: the plan, its sessions, its liveness, and the constants' tensors."""

    def __init__(self, plan: Manifest, sessions: Sessions) -> None:
        self.plan = plan
        self.sessions = sessions
        self.live = live_before(plan)
        self.exits = {name: index for index, name in enumerate(plan.exits)}
        self.models = sum(segment.model is not None for segment in plan.segments.values())
        self.constants: dict[str, Cell] = {}
        for name, constant in plan.constants.items():
            cell = Cell(
                ort.OrtValue.ortvalue_from_shape_and_type(list(constant.shape), np.dtype(constant.dtype)), fixed=True
            )
            cell.array[...] = np.array(constant.data, constant.dtype).reshape(constant.shape)
            self.constants[name] = cell


class Step:
    """One visit of one segment with its tensors in known places."""

    __slots__ = (
        "after", "before", "binding", "confidence", "exit", "exit_index", "following", "goto", "live", "name",
        "outputs", "run", "segment",
    )  # fmt: skip

    def __init__(self, name: str, segment: Segment, before: dict[str, Cell], live: frozenset[str]) -> None:
        self.name = name
        self.segment = segment
        self.before = before
        self.after: dict[str, Cell] = {}
        self.live = live
        self.exit: Exit | None = segment.exit
        self.exit_index = -1
        self.confidence: Callable[[], float] = float
        self.outputs: tuple[tuple[str, Cell], ...] = ()
        self.binding: Any = None
        self.run: Callable[[Any, Any], None] | None = None
        self.goto: Step | None = None
        self.following: dict[str, Step] = {}


class Visited(NamedTuple):
    """An exit that was reached, its tensors not yet copied."""

    step: Step
    confidence: float


class Workspace:
    """Buffers and steps for one shape of the inputs; used by one call at a time."""

    def __init__(self, layout: Layout, shapes: tuple[tuple[int, ...], ...]) -> None:
        self._layout = layout
        self._options = ort.RunOptions()
        self._pool: dict[tuple[str, tuple[int, ...]], list[Cell]] = {}
        self._loose: list[Cell] = []
        self._shapes: dict[tuple[str, str], tuple[int, ...]] = {}
        self._bindings: dict[tuple[object, ...], ort.IOBinding] = {}
        start = layout.plan.start
        self._first_visit = {start: 1} if layout.plan.segments[start].max_visits is not None else {}
        self._visits = dict(self._first_visit)
        self._steps: dict[tuple[object, ...], Step] = {}
        self._inputs = {
            spec.name: Cell(ort.OrtValue.ortvalue_from_shape_and_type(list(shape), np.dtype(spec.dtype)), fixed=True)
            for spec, shape in zip(layout.plan.inputs, shapes, strict=True)
        }
        self._feeds = tuple(cell.array for cell in self._inputs.values())
        self._start = self._step(start, self._inputs)

    def run(self, arrays: tuple[Array, ...], thresholds: list[float]) -> Answer:
        """Returns the answer of the first exit whose confidence reaches its threshold, else of the last.

        Args:
            arrays: The inputs, in order, of this workspace's shapes.
            thresholds: One per exit, in the order of `Layout.exits`; infinity for an exit that must not fire.
        """
        for feed, array in zip(self._feeds, arrays, strict=True):
            feed[...] = array
        options, step, path = self._options, self._start, []
        if self._visits:
            self._visits = dict(self._first_visit)
        confidence = math.nan
        try:
            while True:
                if step.run is not None:
                    step.run(step.binding, options)
                    path.append(step.name)
                if step.exit is not None:
                    confidence = step.confidence()
                    if confidence >= thresholds[step.exit_index]:
                        return self.answer(step, confidence, path)
                following = step.goto or self._follow(step)
                if following is None:
                    return self.answer(step, confidence, path)
                step = following
        except EEToolkitError:
            raise
        except Exception as error:
            raise _failure(step, error) from error

    def visit(self, arrays: tuple[Array, ...], path: list[str]) -> Iterator[Visited]:
        """Runs the plan to its end, yielding at every exit; names of the segments run are appended to `path`."""
        for feed, array in zip(self._feeds, arrays, strict=True):
            feed[...] = array
        self._visits = dict(self._first_visit)
        step: Step | None = self._start
        while step is not None:
            if step.run is not None:
                try:
                    step.run(step.binding, self._options)
                except EEToolkitError:
                    raise
                except Exception as error:
                    raise _failure(step, error) from error
                path.append(step.name)
            if step.exit is not None:
                yield Visited(step, step.confidence())
            step = step.goto or self._follow(step)

    def answer(self, step: Step, confidence: float, path: list[str]) -> Answer:
        """Returns the answer of the exit that `step` reached, its tensors copied."""
        outputs = {name: cell.array.copy() for name, cell in step.outputs}
        name = step.exit.name if step.exit is not None else ""
        return Answer(outputs, name, confidence, tuple(path), self._layout.models)

    # The rest is off the hot path: it runs when a state is met for the first time, or at a gate.

    def _follow(self, step: Step) -> Step | None:
        """Returns the step after `step`, which has been run; None at a stop."""
        segment = step.segment
        match segment.next:
            case Stop():
                return None
            case Goto(segment=name):
                pass
            case Gate(on=on, then=then, otherwise=otherwise):
                name = then if step.after[on].array.item() else otherwise
            case Switch(on=on, cases=cases):
                case = step.after[on].array.item()
                if not 0 <= case < len(cases):
                    raise RunError(
                        f"segment {step.name!r}: the switch {on!r} is {case}, expected 0 to {len(cases) - 1}"
                    )
                name = cases[case]
        following = step.following.get(name)
        if following is None:
            following = step.following[name] = self._step(name, step.after)
        limit = following.segment.max_visits
        if limit is not None:
            visits = self._visits.get(name, 0) + 1
            self._visits[name] = visits
            if visits > limit:
                raise RunError(f"segment {name!r}: more than max_visits {limit} visits; is the loop endless?")
        elif isinstance(segment.next, Goto):
            step.goto = following
        return following

    def _step(self, name: str, pointers: dict[str, Cell]) -> Step:
        """Returns the step of the segment `name` with its live slots where `pointers` say."""
        layout = self._layout
        before = {slot: pointers[slot] for slot in sorted(layout.live[name])}
        key = (name, *before.values())
        step = self._steps.get(key)
        if step is None:
            if len(self._steps) >= _MAX_STEPS:
                self._forget()
            segment = layout.plan.segments[name]
            step = Step(name, segment, before, live_after(segment, layout.live))
            if segment.exit is not None:
                step.exit_index = layout.exits[segment.exit.name]
            if segment.model is None:
                self._point(step, {})
            else:
                step.run = self._first_run(step)
            self._steps[key] = step
        return step

    def _forget(self) -> None:
        """Lets go of all steps but the first and the one that runs now."""
        self._steps.clear()
        self._bindings.clear()
        self._start.goto = None
        self._start.following.clear()

    def _point(self, step: Step, outputs: dict[str, Cell]) -> None:
        """Does the segment's writes, all at once, and looks up what its exit needs."""
        layout, after = self._layout, dict(step.before)
        for slot, source in step.segment.writes.items():
            if source.output is not None:
                after[slot] = outputs[source.output]
            elif source.slot is not None:
                after[slot] = step.before[source.slot]
            else:
                after[slot] = layout.constants[source.constant or ""]
        step.after = {slot: after[slot] for slot in step.live}
        if step.exit is not None:
            step.confidence = step.after[step.exit.confidence].array.item
            step.outputs = tuple((name, step.after[slot]) for name, slot in step.exit.outputs.items())

    def _first_run(self, step: Step) -> Callable[[Any, Any], None]:
        """Returns what runs the step for the first time, and by then knows the shapes of its outputs."""

        def run(_: None, options: ort.RunOptions) -> None:
            session = self._layout.sessions[step.name]
            outputs = self._outputs(step.segment)
            fixed = [name for name, dynamic in outputs.items() if not dynamic]
            values: dict[str, ort.OrtValue] = {}
            if any((step.name, name) not in self._shapes for name in fixed):
                values = self._probe(step, session, outputs, options)
            cells = self._place(step, outputs)
            binding = self._bind(step, session, cells)
            step.run, step.binding = fast_run(session, binding)
            self._point(step, cells)
            loose_in = [(name, cell) for name, cell in self._sources(step).items() if not cell.fixed]
            loose_out = [(name, cells[name]) for name, dynamic in outputs.items() if dynamic]
            if loose_in or loose_out:
                step.run = _run_loose(session, list(outputs), loose_in, loose_out)
                step.binding = binding
            if values:
                for name, value in values.items():
                    if cells[name].fixed:
                        cells[name].array[...] = value.numpy()
                    else:
                        cells[name].set(value)
            else:
                step.run(step.binding, options)

        return run

    def _probe(
        self, step: Step, session: ort.InferenceSession, outputs: dict[str, bool], options: ort.RunOptions
    ) -> dict[str, ort.OrtValue]:
        """Runs with outputs that onnxruntime allocates, and learns their shapes, which hold for these input shapes."""
        binding = session.io_binding()
        for name, cell in self._sources(step).items():
            binding.bind_ortvalue_input(name, cell.value)
        for name in outputs:
            binding.bind_output(name)
        session.run_with_iobinding(binding, options)
        values = dict(zip(outputs, binding.get_outputs(), strict=True))
        for name, value in values.items():
            self._shapes[step.name, name] = tuple(value.shape())
        return values

    def _outputs(self, segment: Segment) -> dict[str, bool]:
        """Returns the graph outputs that the segment writes to slots, each with whether its shape depends on data."""
        slots = self._layout.plan.slots
        outputs: dict[str, bool] = {}
        for slot, source in segment.writes.items():
            if source.output is not None:
                outputs[source.output] = outputs.get(source.output, False) or None in slots[slot].shape
        return outputs

    def _sources(self, step: Step) -> dict[str, Cell]:
        constants = self._layout.constants
        return {
            name: constants[source] if source in constants else step.before[source]
            for name, source in step.segment.reads.items()
        }

    def _place(self, step: Step, outputs: dict[str, bool]) -> dict[str, Cell]:
        """Chooses a cell for every output: one that no slot points at which this step or a later one looks at."""
        taken = set(step.before.values())
        dtypes = {
            source.output: self._layout.plan.slots[slot].dtype
            for slot, source in step.segment.writes.items()
            if source.output is not None
        }
        cells: dict[str, Cell] = {}
        for name, dynamic in outputs.items():
            key = (dtypes[name], () if dynamic else self._shapes[step.name, name])
            pool = self._loose if dynamic else self._pool.setdefault(key, [])
            cell = next((cell for cell in pool if cell not in taken), None)
            if cell is None:
                shape = None if dynamic else list(key[1])
                value = None if shape is None else ort.OrtValue.ortvalue_from_shape_and_type(shape, np.dtype(key[0]))
                cell = Cell(value, fixed=not dynamic)
                pool.append(cell)
            cells[name] = cell
            taken.add(cell)
        return cells

    def _bind(self, step: Step, session: ort.InferenceSession, cells: dict[str, Cell]) -> ort.IOBinding:
        sources = self._sources(step)
        key = (step.name, *sources.values(), *cells.values())
        binding = self._bindings.get(key)
        if binding is None:
            binding = self._bindings[key] = session.io_binding()
            for name, cell in sources.items():
                if cell.fixed:
                    binding.bind_ortvalue_input(name, cell.value)
            for name, cell in cells.items():
                if cell.fixed:
                    binding.bind_ortvalue_output(name, cell.value)
                else:
                    binding.bind_output(name)
        return binding


def _failure(step: Step, error: Exception) -> RunError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return RunError(f"segment {step.name!r}: {lines[0] if lines else type(error).__name__}")


def _run_loose(
    session: ort.InferenceSession,
    outputs: list[str],
    loose_in: list[tuple[str, Cell]],
    loose_out: list[tuple[str, Cell]],
) -> Callable[[Any, Any], None]:
    """Returns what runs a step some of whose tensors change their shape: these are bound afresh each time."""

    def rebind(binding: ort.IOBinding, options: ort.RunOptions) -> None:
        for name, cell in loose_in:
            binding.bind_ortvalue_input(name, cell.value)
        for name, _ in loose_out:
            binding.bind_output(name)
        session.run_with_iobinding(binding, options)
        if loose_out:
            values = dict(zip(outputs, binding.get_outputs(), strict=True))
            for name, cell in loose_out:
                cell.set(values[name])

    return rebind
