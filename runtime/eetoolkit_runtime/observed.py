"""Calls that look at every exit they meet: to answer at one of them, in time, or better and better."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from functools import partial

import msgspec

from eetoolkit_runtime.answer import Answer, stand_in
from eetoolkit_runtime.deadline import Watch
from eetoolkit_runtime.errors import RunError
from eetoolkit_runtime.inputs import Array
from eetoolkit_runtime.interrupt import Interrupt, apart
from eetoolkit_runtime.lanes import Lane
from eetoolkit_runtime.rule import Rule
from eetoolkit_runtime.visits import visit_exits


def answer_by(lane: Lane, arrays: tuple[Array, ...], rule: Rule, watch: Watch | None = None) -> Answer:
    """Returns the answer at the exit that the rule asks for, or the best where none fired in time.

    Raises:
        DeadlineError: The watch stopped the call before there was an answer.
        RunError: The plan ended without an exit.
    """
    best: Answer | None = None
    last: Answer | None = None
    limits = dict(zip(rule.exits, rule.limits, strict=False))
    with lane.lend(watch) as workspace, closing(visit_exits(workspace, arrays)) as answers:
        for answer in answers:
            last = answer
            fires = answer.confidence >= limits[answer.exit] if rule.exit_at is None else answer.exit == rule.exit_at
            if fires:
                return answer
            if rule.exit_at is not None or rule.better(answer, best):
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
    lane: Lane, arrays: tuple[Array, ...], rule: Rule, watch: Watch, interrupt: Interrupt | None
) -> Answer:
    """Returns `answer_by` under a watch; with a token so that signal handlers, which may set it, run meanwhile."""
    with watch:
        if interrupt is None:
            return answer_by(lane, arrays, rule, watch)
        return apart(lambda: answer_by(lane, arrays, rule, watch), watch.interrupt)


def better_and_better(
    lane: Lane, arrays: tuple[Array, ...], rule: Rule, watch: Watch, interrupt: Interrupt | None
) -> Generator[Answer, None, None]:
    """Yields the answers of all exits met that are at least as good as those before.

    Raises:
        DeadlineError: The watch stopped the call before there was an answer.
    """
    best: Answer | None = None
    with (
        watch,
        lane.lend(watch) as workspace,
        closing(visit_exits(workspace, arrays)) as answers,
    ):
        following = partial(next, answers, None)
        while (answer := following() if interrupt is None else apart(following, watch.interrupt)) is not None:
            if rule.better(answer, best):
                best = answer
                yield answer
    if best is None:
        raise watch.error()
