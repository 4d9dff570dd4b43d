"""A part of a runner's plan, run on the runner's own sessions."""

from __future__ import annotations

import threading
from functools import cached_property

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.plan.types import Manifest
from eetoolkit_runtime.running.batch import Rows, rows_go_together
from eetoolkit_runtime.running.sessions import Sessions
from eetoolkit_runtime.running.shared_state import SharedState
from eetoolkit_runtime.running.workspaces import Workspaces, WorkspacesByShape


class Part:
    """A plan whose segments are some of a bundle's, run by the sessions that the bundle's runner has.

    Args:
        plan: The part.
        sessions: Of the bundle, for one row; and for several.
        kept: The segments that stay open after a call; None: all.
        segments: How many segments with a model answers are said to have.
    """

    def __init__(
        self, plan: Manifest, sessions: tuple[Sessions, Sessions], kept: frozenset[str] | None, segments: int
    ) -> None:
        self.plan = plan
        self._kept = kept
        self._segments = segments
        self._sessions, self._sessions_of_rows = sessions
        self._shared = self._state(self._sessions)
        self._by_shape = WorkspacesByShape()
        self._lock = threading.Lock()

    def workspaces(self, arrays: tuple[Array, ...]) -> Workspaces:
        """Returns the workspaces of the inputs' shapes."""
        key = tuple([(array.shape, array.dtype) for array in arrays])
        with self._lock:
            return self._by_shape.meet(key, self._shared, self._kept)

    @cached_property
    def rows(self) -> Rows | None:
        """What batches share; None where rows run one by one."""
        return Rows(self._state(self._sessions_of_rows)) if rows_go_together(self.plan) else None

    def close_rows(self) -> None:
        """Closes what a batch has opened and is not kept."""
        if self._kept is not None:
            self._sessions_of_rows.keep(self._kept)

    def renew(self) -> None:
        """Begins anew in a forked process, or lets go of all."""
        self._lock = threading.Lock()
        self._by_shape.clear()

    def _state(self, sessions: Sessions) -> SharedState:
        state = SharedState(self.plan, sessions)
        state.models = self._segments
        return state
