"""A plan on open sessions: its workspaces by the shapes of inputs, what its batches share, and its decisions.

A runner has one for the whole plan; one that goes on at a server has others, for the halves, on the same sessions.
"""

from __future__ import annotations

import threading
from functools import cached_property
from typing import TYPE_CHECKING

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import RunError
from eetoolkit_runtime.plan.types import Manifest
from eetoolkit_runtime.running.decision import Decision, Thresholds, decide
from eetoolkit_runtime.running.inputs import Inputs, prepare
from eetoolkit_runtime.running.sessions import Sessions
from eetoolkit_runtime.running.shared_state import SharedState
from eetoolkit_runtime.running.workspaces import Workspaces, WorkspacesByShape

if TYPE_CHECKING:
    from eetoolkit_runtime.running.batch import Rows


class Part:
    """A plan whose segments are a bundle's, or some of them, run by the sessions that the bundle's runner has.

    Args:
        plan: The plan.
        sessions: Of the bundle, for one row; and for several.
        kept: The segments that stay open after a call; None: all.
        most_confident: Whether the most confident exit answers where none fired, else the last.
        segments: How many segments with a model answers are said to have; None: the plan's.

    Attributes:
        plan: As given.
        by_shape: The workspaces, by the shapes of the inputs.
        own: The decision by the plan's thresholds.
    """

    def __init__(
        self,
        plan: Manifest,
        sessions: tuple[Sessions, Sessions],
        kept: frozenset[str] | None,
        *,
        most_confident: bool,
        segments: int | None = None,
    ) -> None:
        self.plan = plan
        self.by_shape = WorkspacesByShape()
        self._exits = plan.exits
        self._most_confident = most_confident
        self.own = decide(self._exits, most_confident=most_confident)
        self._at: dict[str, Decision] = {}
        self._names = dict.fromkeys(plan.titles.get(spec.name, spec.name) for spec in plan.inputs).keys()
        self._kept = kept
        self._segments = segments
        self._sessions, self._sessions_of_rows = sessions
        self._shared = self._state(self._sessions)
        self._lock = threading.Lock()
        self._closed = False

    def admit(self, inputs: Inputs) -> tuple[tuple[Array, ...], Workspaces]:
        """Returns one row of inputs as arrays that fit, and the workspaces of their shapes.

        Raises:
            InputError: Inputs that the plan does not take.
            RunError: It was closed.
        """
        found = self.by_shape.find(inputs, self._names)
        if found is not None:
            return found
        arrays = prepare(self.plan, inputs, one_row=True)
        return arrays, self.workspaces(arrays)

    def workspaces(self, arrays: tuple[Array, ...]) -> Workspaces:
        """Returns the workspaces of the inputs' shapes.

        Raises:
            RunError: It was closed.
        """
        key = tuple([(array.shape, array.dtype) for array in arrays])
        with self._lock:
            self.check_open()
            return self.by_shape.meet(key, self._shared, self._kept)

    @cached_property
    def rows(self) -> Rows | None:
        """What batches share, worked out when the first one comes; None where rows run one by one."""
        from eetoolkit_runtime.running.batch import Rows, rows_go_together

        return Rows(self._state(self._sessions_of_rows)) if rows_go_together(self.plan) else None

    def close_rows(self) -> None:
        """Closes what a batch has opened and is not kept."""
        if self._kept is not None:
            self._sessions_of_rows.keep(self._kept)

    def decision(self, exit_at: str | None, thresholds: Thresholds | None) -> Decision:
        """Returns when exits answer in a call.

        Raises:
            InputError: An exit or threshold that the plan does not take.
        """
        if thresholds is not None:
            return decide(self._exits, thresholds, exit_at, self.plan.titles, most_confident=self._most_confident)
        if exit_at is None:
            return self.own
        found = self._at.get(exit_at) if type(exit_at) is str else None
        if found is None:
            found = decide(self._exits, None, exit_at, self.plan.titles, most_confident=self._most_confident)
            self._at[exit_at] = found
        return found

    def check_open(self) -> None:
        """Raises a `RunError` where it was closed."""
        if self._closed:
            raise RunError("this runner is closed; make a new one")

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def close(self) -> None:
        """Lets go of all buffers, for good."""
        with self._lock:
            self._closed = True
            self.by_shape.clear()

    def renew(self) -> None:
        """Begins anew in a forked process."""
        self._lock = threading.Lock()
        self.by_shape.clear()

    def _state(self, sessions: Sessions) -> SharedState:
        state = SharedState(self.plan, sessions)
        if self._segments is not None:
            state.models = self._segments
        return state
