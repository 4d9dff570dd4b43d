"""The runner: follows a bundle's plan and stops at the first confident exit."""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from numbers import Real
from types import TracebackType
from typing import Any, Literal, Self

import msgspec
import numpy as np

from eetoolkit_runtime.answer import Answer
from eetoolkit_runtime.bundle import Bundle, Check
from eetoolkit_runtime.bundle import load as load_bundle
from eetoolkit_runtime.errors import BundleError, InputError, RunError
from eetoolkit_runtime.golden import read_golden
from eetoolkit_runtime.inputs import Array, Inputs, prepare, split_rows
from eetoolkit_runtime.plan import Exit, Fallback
from eetoolkit_runtime.sessions import Pool, Provider, Sessions, SessionSettings, Spin
from eetoolkit_runtime.workspace import Layout, Workspace

Load = Literal["lazy", "background", "eager"]
Thresholds = Mapping[str, float | None]

_SHAPES_KEPT = 16  # input shapes whose buffers are kept; the one met longest ago goes first


class Runner:
    """Runs a bundle on this machine. A context manager; safe under concurrent calls.

    Args:
        bundle: A `Bundle`, or the path of one.
        threads: Workers for each operator; None: one per physical core.
        spin: What idle workers do: `always` spin, spin `brief`ly (20 us), `never` spin.
        pool: `own`: a pool of workers per segment; `shared`: one per process, the fastest, after which onnxruntime
            refuses sessions with default options elsewhere in this process.
        load: When segments are opened: when first reached (`lazy`), the first now and the rest on a thread
            (`background`), or all now (`eager`).
        check: How the bundle's files are checked when `bundle` is a path: `quick` or `full`.
        providers: onnxruntime's execution providers, passed on and never silently replaced; None: CPU.
        fallback: Which exit answers when none fired: `last` or `most_confident` (SDN); None: as the bundle says.

    Raises:
        BundleError: The bundle cannot be opened.
        RunError: A setting that this onnxruntime does not have.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | Bundle,
        threads: int | None = None,
        spin: Spin = "brief",
        pool: Pool = "own",
        load: Load = "lazy",
        check: Check = "quick",
        providers: Sequence[Provider] | None = None,
        fallback: Fallback | None = None,
    ) -> None:
        self.bundle = load_bundle(bundle, check=check)
        plan = self.bundle.manifest
        if load not in ("lazy", "background", "eager"):
            raise RunError(f"load is {load!r}, expected 'lazy', 'background' or 'eager'")
        if fallback not in (None, "last", "most_confident"):
            raise RunError(f"fallback is {fallback!r}, expected 'last' or 'most_confident'")
        self._plan = plan
        self._fallback: Fallback = plan.fallback if fallback is None else fallback
        given = (providers,) if isinstance(providers, str) else providers
        chosen = ("CPUExecutionProvider",) if given is None else tuple(given)
        settings = SessionSettings(threads, spin, pool, chosen)
        self._sessions = Sessions(self.bundle, settings)
        self._layout = Layout(plan, self._sessions)
        self._thresholds = self._limits({})
        self._lanes: dict[tuple[tuple[tuple[int, ...], np.dtype[Any]], ...], _Lane] = {}
        self._lock = threading.Lock()
        self._closed = False
        if load == "eager":
            self._sessions.open_all()
        elif load == "background":
            if plan.segments[plan.start].model is not None:
                _ = self._sessions[plan.start]
            threading.Thread(target=self._open_rest, name="eetoolkit-load", daemon=True).start()

    def run(self, inputs: Inputs, *, exit_at: str | None = None, thresholds: Thresholds | None = None) -> Answer:
        """Returns the answer of the first exit that fires, for one row.

        Args:
            inputs: One array, a tuple in the bundle's order, or a mapping by name; leading dimension 1.
            exit_at: Always answer at this exit, whatever the confidences; where the row's path does not meet it,
                the last exit answers.
            thresholds: Other thresholds than the bundle's for this call, by exit; None keeps an exit from firing.

        Raises:
            InputError: An input, exit or threshold that the bundle does not take.
            RunError: onnxruntime failed, a switch has no such case, or a loop exceeds its bound.
        """
        arrays, lane = self._admit(inputs)
        limits = self._thresholds if thresholds is None else self._limits(thresholds)
        workspace = lane.take()
        if exit_at is None and self._fallback == "last":
            answer = workspace.run(arrays, limits)
        else:
            answer = self._run_observed(workspace, arrays, limits, exit_at)
        lane.free.append(workspace)
        return answer

    def run_batch(
        self, inputs: Inputs, *, exit_at: str | None = None, thresholds: Thresholds | None = None
    ) -> list[Answer]:
        """Returns the answer of each row, in order; arguments and errors as `run`'s, with any number of rows."""
        rows = split_rows(self._plan, prepare(self._plan, inputs, one_row=False))
        return [self.run(row, exit_at=exit_at, thresholds=thresholds) for row in rows]

    def run_all_exits(self, inputs: Inputs) -> list[Answer]:
        """Returns the answers of all exits that one row meets on its way to the end, in order, none of them firing.

        Raises:
            InputError: An input that the bundle does not take.
            RunError: onnxruntime failed, a switch has no such case, or a loop exceeds its bound.
        """
        arrays, lane = self._admit(inputs)
        workspace = lane.take()
        answers = list(workspace.visit(arrays))
        lane.free.append(workspace)
        return answers

    def warmup(self, inputs: Inputs | None = None, runs: int = 3) -> None:
        """Opens the segments on the way of `inputs` (None: the golden samples) and runs them `runs` times.

        Raises:
            InputError: No inputs, and the bundle has no golden samples.
        """
        if inputs is not None:
            rows = split_rows(self._plan, prepare(self._plan, inputs, one_row=False))
        else:
            rows = [prepare(self._plan, sample.inputs, one_row=True) for sample in read_golden(self.bundle)]
        if not rows:
            raise InputError("warmup: the bundle has no golden samples; pass inputs")
        for _ in range(runs):
            for row in rows:
                self.run_all_exits(row)

    @property
    def opened(self) -> tuple[str, ...]:
        """The segments that have been loaded so far, in the order of loading."""
        return self._sessions.opened

    def close(self) -> None:
        """Lets go of all sessions and buffers; a later run is a `RunError`."""
        with self._lock:
            self._closed = True
            self._lanes.clear()
        self._sessions.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run_observed(
        self, workspace: Workspace, arrays: tuple[Array, ...], limits: list[float], exit_at: str | None
    ) -> Answer:
        """Runs with every exit looked at: to answer at one of them, or to fall back on the most confident (SDN)."""
        if exit_at is not None:
            self._exit(exit_at)
        best: Answer | None = None
        path: tuple[str, ...] = ()
        order = self._layout.exits
        exits = self._plan.exits
        for answer in workspace.visit(arrays):
            path = answer.path
            fires = answer.confidence >= limits[order[answer.exit]] if exit_at is None else answer.exit == exit_at
            if fires:
                return answer
            better = best is None or _rank(answer) >= _rank(best)
            if exit_at is not None or (better and exits[answer.exit].enabled):
                best = answer
        if best is None:
            raise RunError("the plan ended without an exit")
        return msgspec.structs.replace(best, path=path)

    def _limits(self, thresholds: Thresholds) -> list[float]:
        """Returns what each exit's confidence must reach, in the order of the layout's exits."""
        exits = self._plan.exits
        for name, value in thresholds.items():
            if self._exit(name).threshold is None:
                raise InputError(f"thresholds: {name!r} ends the plan and accepts everything; it has no threshold")
            if value is not None and (not isinstance(value, Real) or math.isnan(value)):
                raise InputError(f"thresholds: {name!r} is {value!r}, expected a number; None keeps it from firing")
        limits = []
        for name, exit_ in exits.items():
            own = exit_.threshold if exit_.enabled else None
            limit = thresholds.get(name, own)
            limits.append(math.nan if limit is None else float(limit))  # nothing is >= NaN
        limits.append(math.nan)  # for steps without an exit
        return limits

    def _exit(self, name: str) -> Exit:
        exits = self._plan.exits
        if name not in exits:
            raise InputError(f"no exit {name!r}; the exits are {', '.join(exits)}")
        return exits[name]

    def _admit(self, inputs: Inputs) -> tuple[tuple[Array, ...], _Lane]:
        """Returns one row of inputs as arrays that fit, and the lane of their shapes.

        Arrays whose shapes and dtypes were met before fit as they are: the hot path is one look-up.
        """
        if type(inputs) is np.ndarray:
            lane = self._lanes.get(((inputs.shape, inputs.dtype),))
            if lane is not None:
                return (inputs,), lane
        elif type(inputs) is tuple and all(type(array) is np.ndarray for array in inputs):
            lane = self._lanes.get(tuple([(array.shape, array.dtype) for array in inputs]))
            if lane is not None:
                return inputs, lane
        arrays = prepare(self._plan, inputs, one_row=True)
        key = tuple([(array.shape, array.dtype) for array in arrays])
        with self._lock:
            if self._closed:
                raise RunError("this runner is closed; make a new one")
            lane = self._lanes.pop(key, None)
            if lane is None:
                lane = _Lane(self._layout, tuple(array.shape for array in arrays))
                if len(self._lanes) >= _SHAPES_KEPT:
                    del self._lanes[next(iter(self._lanes))]
            self._lanes[key] = lane
        return arrays, lane

    def _open_rest(self) -> None:
        try:
            self._sessions.open_all()
        except (BundleError, RunError):
            return  # the run that reaches this segment opens it again and raises to its caller


class _Lane:
    """The workspaces of one shape of the inputs; each concurrent call takes its own.

    A workspace is given back only by a call that succeeded: after an error its tensors may be in any state.
    """

    __slots__ = ("_layout", "_shapes", "free")

    def __init__(self, layout: Layout, shapes: tuple[tuple[int, ...], ...]) -> None:
        self._layout = layout
        self._shapes = shapes
        self.free: deque[Workspace] = deque()

    def take(self) -> Workspace:
        """Returns a workspace that no other call has."""
        try:
            return self.free.pop()
        except IndexError:
            return Workspace(self._layout, self._shapes)


def _rank(answer: Answer) -> float:
    """Orders answers by confidence; NaN ranks lowest."""
    return -math.inf if math.isnan(answer.confidence) else answer.confidence
