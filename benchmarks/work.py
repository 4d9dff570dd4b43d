"""How much of a plan's work runs have done."""

from __future__ import annotations

from collections.abc import Sequence

from eetoolkit_runtime.plan.flow import targets
from eetoolkit_runtime.plan.types import Manifest
from eetoolkit_runtime.running.answer import Answer


def possible_visits(plan: Manifest) -> dict[str, int]:
    """Returns how often each segment may be run: once, and in a loop as often as the loop's bound, `max_visits`, says.

    A segment of a loop that has no bound of its own takes that of the loop's segment which has one.
    """
    behind = {name: _behind(plan, name) for name in plan.segments}
    visits = {}
    for name, segment in plan.segments.items():
        loop = [other for other in behind[name] if name in behind[other]]
        bounds = [bound for other in loop if (bound := plan.segments[other].max_visits) is not None]
        visits[name] = segment.max_visits or max(bounds, default=1)
    return visits


def share_of_work(plan: Manifest, answers: Sequence[Answer]) -> float | None:
    """Returns the mean share of the plan's work that runs did; None where a segment's work is not known.

    A run's work is the multiply-adds of the segments on its path, counted at every visit. The plan's is that of all
    its segments, each counted as often as it may be run (`possible_visits`): all branches and all cases of a switch,
    and loops to their bound. What tail duplication has copied counts once for each copy.
    """
    costs: dict[str, int] = {}
    for name, segment in plan.segments.items():
        if segment.model is not None:
            if segment.work is None or segment.work.multiply_adds is None:
                return None
            costs[name] = segment.work.multiply_adds
    visits = possible_visits(plan)
    total = sum(cost * visits[name] for name, cost in costs.items())
    done = sum(costs[name] for answer in answers for name in answer.path)
    return done / (total * len(answers)) if total and answers else None


def segments_run(answers: Sequence[Answer]) -> float:
    """Returns the mean number of different segments that were run."""
    return sum(len(set(answer.path)) for answer in answers) / len(answers)


def _behind(plan: Manifest, name: str) -> set[str]:
    """Returns every segment that a run may reach after that one."""
    found: set[str] = set()
    waiting = list(targets(plan.segments[name]))
    while waiting:
        other = waiting.pop()
        if other not in found:
            found.add(other)
            waiting += targets(plan.segments[other])
    return found
