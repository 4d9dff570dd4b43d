"""Workspaces that wait for the next call, by the shapes of the inputs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, KeysView
from contextlib import contextmanager
from typing import Any

import numpy as np

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.running.answer import Answer
from eetoolkit_runtime.running.deadline import Watch
from eetoolkit_runtime.running.decision import Decision
from eetoolkit_runtime.running.inputs import Inputs
from eetoolkit_runtime.running.pace import Paces
from eetoolkit_runtime.running.shared_state import SharedState
from eetoolkit_runtime.running.workspace import Workspace

_SHAPES_KEPT, _SHAPES_KEPT_BYTES = 128, 64 << 20
Key = tuple[tuple[tuple[int, ...], np.dtype[Any]], ...]


class Workspaces:
    """The workspaces of one shape of the inputs; each concurrent call takes its own.

    A workspace is given back only by a call that left no segment unfinished: after an error its tensors may be in any
    state. `kept` are the segments that stay open when a call ends; None: all.
    """

    __slots__ = ("_free", "_kept", "_shared", "key", "paces")

    def __init__(self, shared: SharedState, key: Key, kept: frozenset[str] | None = None) -> None:
        self.key = key
        self._shared = shared
        self._kept = kept
        self._free: deque[Workspace] = deque()
        self.paces = Paces(shared.expected_ms)

    @property
    def size_bytes(self) -> int:
        """What the buffers of the workspaces that wait take."""
        return sum(workspace.size_bytes for workspace in tuple(self._free))

    def take(self) -> Workspace:
        """Returns a workspace that no other call has."""
        try:
            return self._free.pop()
        except IndexError:
            return Workspace(self._shared, tuple(shape for shape, _ in self.key), self.paces)

    def give_back(self, workspace: Workspace) -> None:
        """Takes a workspace back, without what it holds of segments that are not kept, and closes these."""
        if self._kept is not None:
            workspace.release(self._kept)
            self.give_up()
        self._free.append(workspace)

    def run(self, arrays: tuple[Array, ...], decision: Decision) -> Answer:
        """Returns the answer of the first exit that fires, as `Workspace.run`, with a workspace of this call's own."""
        try:
            workspace = self._free.pop()
        except IndexError:
            workspace = self.take()
        try:
            answer = workspace.run(arrays, decision)
        except BaseException:
            self.give_up()
            raise
        if self._kept is None:
            self._free.append(workspace)
        else:
            self.give_back(workspace)
        return answer

    @contextmanager
    def borrow(self, watch: Watch | None = None) -> Iterator[Workspace]:
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
            self._shared.executors.keep(self._kept)


class WorkspacesByShape(dict[Key, Workspaces]):
    """The workspaces of a runner by the shapes and dtypes of the inputs, in the order of their first meeting.

    So many are kept, and of so many bytes; the one that was first met goes first. A new shape costs about half a
    millisecond, so sentences of a hundred lengths should all find theirs.

    Attributes:
        latest: Those that were met last.
    """

    __slots__ = ("latest",)

    def __init__(self) -> None:
        super().__init__()
        self.latest: Workspaces | None = None

    def clear(self) -> None:
        """Lets go of all."""
        self.latest = None
        super().clear()

    def meet(self, key: Key, shared: SharedState, kept: frozenset[str] | None) -> Workspaces:
        """Returns the workspaces of a key, which are the latest then."""
        workspaces = self.pop(key, None)
        if workspaces is None:
            workspaces = Workspaces(shared, key, kept)
            while self and not self._has_room():
                del self[next(iter(self))]
        self[key] = self.latest = workspaces
        return workspaces

    def find(self, inputs: Inputs, names: KeysView[str]) -> tuple[tuple[Array, ...], Workspaces] | None:
        """Returns the inputs, called `names`, in order and their workspaces; None where they must be looked at first.

        Arrays whose shapes and dtypes were met before fit as they are: the hot path is one look-up.
        """
        arrays: Any = inputs
        if type(inputs) is np.ndarray:
            arrays = (inputs,)
        elif type(inputs) is dict and inputs.keys() == names:
            arrays = tuple([inputs[name] for name in names])
        if type(arrays) is not tuple or not all(type(array) is np.ndarray for array in arrays):
            return None
        workspaces = self.get(tuple([(array.shape, array.dtype) for array in arrays]))
        return None if workspaces is None else (arrays, workspaces)

    def _has_room(self) -> bool:
        size_bytes = sum(workspaces.size_bytes for workspaces in self.values())
        return len(self) < _SHAPES_KEPT and size_bytes < _SHAPES_KEPT_BYTES
