"""Calls that look at every exit they meet: to answer at one of them, in time, or better and better.

`Workspace.run` is the fast way of those that stop at the first exit that fires.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial

import msgspec

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import RunError, failure, is_foreign
from eetoolkit_runtime.running.answer import Answer, stand_in
from eetoolkit_runtime.running.deadline import Stopped, Watch, watched_by
from eetoolkit_runtime.running.decision import Decision
from eetoolkit_runtime.running.interrupt import Interrupt, apart
from eetoolkit_runtime.running.workspace import Workspace
from eetoolkit_runtime.running.workspaces import Workspaces


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


def answer_by(
    workspaces: Workspaces, arrays: tuple[Array, ...], decision: Decision, watch: Watch | None = None
) -> Answer:
    """Returns the answer at the exit that the decision asks for, or the best where none fired in time.

    Raises:
        DeadlineError: The watch stopped the call before there was an answer.
        RunError: The plan ended without an exit.
    """
    best: Answer | None = None
    last: Answer | None = None
    with workspaces.borrow(watch) as workspace, closing(visit_exits(workspace, arrays)) as answers:
        for answer in answers:
            last = answer
            if decision.fires(decision.exits.index(answer.exit), answer.confidence):
                return answer
            if decision.better(answer, best):
                best = answer
        gates = workspace.gates
    if watch is not None and watch.cut:
        if best is None:
            raise watch.error()
        return msgspec.structs.replace(best, path=tuple(watch.path), gates=gates, stopped_by=watch.stopped_by)
    if best is None or last is None:
        raise RunError("the plan ended without an exit")
    return stand_in(best, last)


def answer_in_time(
    workspaces: Workspaces, arrays: tuple[Array, ...], decision: Decision, watch: Watch, interrupt: Interrupt | None
) -> Answer:
    """Returns `answer_by` under a watch; with a token so that signal handlers, which may set it, run meanwhile."""
    with watch:
        if interrupt is None:
            return answer_by(workspaces, arrays, decision, watch)
        return apart(lambda: answer_by(workspaces, arrays, decision, watch), watch.interrupt)


def better_and_better(
    workspaces: Workspaces, arrays: tuple[Array, ...], decision: Decision, watch: Watch, interrupt: Interrupt | None
) -> Generator[Answer, None, None]:
    """Yields the answers of all exits met that are at least as good as those before.

    Raises:
        DeadlineError: The watch stopped the call before there was an answer.
    """
    best: Answer | None = None
    with (
        watch,
        workspaces.borrow(watch) as workspace,
        closing(visit_exits(workspace, arrays)) as answers,
    ):
        following = partial(next, answers, None)
        while (answer := following() if interrupt is None else apart(following, watch.interrupt)) is not None:
            if decision.better(answer, best):
                best = answer
                yield answer
    if best is None:
        raise watch.error()
