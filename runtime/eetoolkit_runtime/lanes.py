"""Workspaces that wait for the next call, by the shapes of the inputs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from eetoolkit_runtime.deadline import Watch
from eetoolkit_runtime.workspace import Layout, Workspace


class Lane:
    """The workspaces of one shape of the inputs; each concurrent call takes its own.

    A workspace is given back only by a call that left no segment unfinished: after an error its tensors may be in any
    state.
    """

    __slots__ = ("_layout", "_shapes", "fastest_ms", "free")

    def __init__(self, layout: Layout, shapes: tuple[tuple[int, ...], ...]) -> None:
        self._layout = layout
        self._shapes = shapes
        self.free: deque[Workspace] = deque()
        self.fastest_ms: dict[str, float] = {}

    def take(self) -> Workspace:
        """Returns a workspace that no other call has."""
        try:
            return self.free.pop()
        except IndexError:
            return Workspace(self._layout, self._shapes)

    def took(self, segment: str, milliseconds: float) -> None:
        """Remembers the least time that a segment has taken."""
        self.fastest_ms[segment] = min(milliseconds, self.fastest_ms.get(segment, milliseconds))

    @contextmanager
    def lend(self, watch: Watch | None = None) -> Iterator[Workspace]:
        """Gives a workspace for one call, which `watch` may stop."""
        workspace = self.take()
        if watch is not None:
            watch.expect(self._layout.plan.profile or self.fastest_ms)
        workspace.watch = watch
        try:
            yield workspace
        except GeneratorExit:  # a caller of `refine` has had enough, between two segments
            self._give_back(workspace)
            raise
        if watch is None or not watch.broken:
            self._give_back(workspace)

    def _give_back(self, workspace: Workspace) -> None:
        workspace.watch = None
        self.free.append(workspace)
