"""The plan followed with every exit looked at, under a watch that may stop it; `Workspace.run` is the fast way."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial

from eetoolkit_runtime.answer import Answer
from eetoolkit_runtime.deadline import Stopped, watched_by
from eetoolkit_runtime.errors import RunError, failure, is_foreign
from eetoolkit_runtime.inputs import Array
from eetoolkit_runtime.workspace import Workspace


def visit_exits(
    workspace: Workspace, arrays: tuple[Array, ...], took: Callable[[str, float], object] | None = None
) -> Generator[Answer, None, None]:
    """Runs the plan to its end, or until the workspace's watch stops it, yielding the answer of every exit met.

    Args:
        workspace: Where to run; at every answer it is between two segments.
        arrays: The inputs, in order, of the workspace's shapes.
        took: Is told of every segment that has run, with its milliseconds.
    """
    watch = workspace.watch
    options = workspace.options if watch is None else watch.options
    done: list[str] = []
    names: tuple[str, ...]
    step = None
    try:
        step = workspace.begin(arrays)
        while True:
            head, names = step, ()
            for call, binding, _, _, (step, names) in head.chain:
                if step.segment.model is not None:
                    if watch is not None:
                        watch.require(step.name)
                    took_ms = watched_by(watch, workspace.paces[step.name], partial(call, binding, options))
                    if took is not None:
                        took(step.name, took_ms)
                    if watch is not None:
                        watch.path.append(step.name)
                if step.segment.exit is not None:
                    yield workspace.answer(step, (*done, *names))
            following = workspace.follow(step, head)
            done += names
            if following is None:
                return
            step = following
    except Stopped:
        return
    except Exception as error:
        broken = is_foreign(error) or (isinstance(error, RunError) and is_foreign(error.__cause__))
        if watch is not None and watch.stopped_by is not None and broken:
            watch.cut = watch.broken = True
            return
        if not is_foreign(error) or step is None:
            raise
        raise failure(step.name, error) from error
