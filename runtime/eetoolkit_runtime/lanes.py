"""Workspaces that wait for the next call, by the shapes of the inputs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from eetoolkit_runtime.deadline import Watch
from eetoolkit_runtime.layout import Layout
from eetoolkit_runtime.pace import Paces
from eetoolkit_runtime.workspace import Workspace


class Lane:
    """The workspaces of one shape of the inputs; each concurrent call takes its own.

    A workspace is given back only by a call that left no segment unfinished: after an error its tensors may be in any
    state. `kept` are the segments that stay open when a call ends; None: all.
    """

    __slots__ = ("_free", "_kept", "_layout", "_shapes", "paces")

    def __init__(self, layout: Layout, shapes: tuple[tuple[int, ...], ...], kept: frozenset[str] | None = None) -> None:
        self._layout = layout
        self._shapes = shapes
        self._kept = kept
        self._free: deque[Workspace] = deque()
        self.paces = Paces(layout.plan.profile)

    @property
    def size_bytes(self) -> int:
        """What the buffers of the workspaces that wait take."""
        return sum(workspace.size_bytes for workspace in tuple(self._free))

    def take(self) -> Workspace:
        """Returns a workspace that no other call has."""
        try:
            return self._free.pop()
        except IndexError:
            return Workspace(self._layout, self._shapes, self.paces)

    def give_back(self, workspace: Workspace) -> None:
        """Takes a workspace back, without what it holds of segments that are not kept, and closes these."""
        if self._kept is not None:
            workspace.release(self._kept)
            self.give_up()
        self._free.append(workspace)

    @contextmanager
    def lend(self, watch: Watch | None = None) -> Iterator[Workspace]:
        """Gives a workspace for one call, which `watch` may stop."""
        workspace = self.take()
        if watch is not None:
            watch.expect(self.paces)
        workspace.watch = watch
        try:
            yield workspace
        except GeneratorExit:  # a caller of `refine` has had enough, between two segments
            workspace.watch = None
            self.give_back(workspace)
            raise
        except BaseException:
            self.give_up()
            raise
        workspace.watch = None
        if watch is None or not watch.broken:
            self.give_back(workspace)
        else:
            self.give_up()

    def give_up(self) -> None:
        """Closes what is not kept after a call whose workspace is not given back."""
        if self._kept is not None:
            self._layout.sessions.keep(self._kept)
