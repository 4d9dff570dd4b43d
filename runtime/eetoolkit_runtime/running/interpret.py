"""What a plan means: the normative interpreter, which `docs/bundle-format.md` quotes. Every runner answers as it does.

It keeps a dict of arrays and is given what runs a graph; it knows nothing of buffers, threads or time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec
import numpy as np

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import RunError, no_such_case, too_many_visits
from eetoolkit_runtime.plan.types import Gate, Goto, Manifest, Segment, Stop, Switch, Threshold
from eetoolkit_runtime.running.answer import Answer, StoppedBy, rank

RunSegment = Callable[[str, dict[str, Array]], Mapping[str, Array]]
"""Takes a segment's name and its graph's inputs by name; returns its graph's outputs by name."""


def interpret(
    plan: Manifest,
    inputs: Mapping[str, Array],
    run: RunSegment,
    thresholds: Mapping[str, Threshold] | None = None,
    exit_at: str | None = None,
) -> Answer:
    """Returns the answer to one row.

    Args:
        plan: The plan.
        inputs: The row, by name.
        run: Runs a segment's graph.
        thresholds: Other thresholds than the plan's, by exit.
        exit_at: The exit that answers, whatever the confidences, where the row meets it.
    """
    limits = {name: exit_.threshold for name, exit_ in plan.exits.items()} | dict(thresholds or {})
    best: Answer | None = None
    for answer in visit_exits(plan, inputs, run):
        limit = limits[answer.exit]
        if answer.exit == exit_at:
            return answer
        if exit_at is None and not isinstance(limit, str) and answer.confidence >= limit:  # NaN is not
            return answer
        may_stand_in = exit_at is not None or limit != "never"
        better = best is None or exit_at is not None or plan.fallback == "last" or rank(answer) >= rank(best)
        if may_stand_in and better:
            best = answer
    if best is None:  # `validate` lets no such plan through
        raise RunError("the plan ended without an exit")
    return msgspec.structs.replace(best, path=answer.path, gates=answer.gates, stopped_by=answer.stopped_by)


def visit_exits(plan: Manifest, inputs: Mapping[str, Array], run: RunSegment) -> Iterator[Answer]:
    """Yields what every exit says that the row meets on its way to the end, none of them firing.

    Raises:
        RunError: A switch has no such case, or a loop exceeds its bound.
    """
    tensors = {name: np.array(c.data, c.dtype).reshape(c.shape) for name, c in plan.constants.items()} | dict(inputs)
    models = sum(segment.model is not None for segment in plan.segments.values())
    path: tuple[str, ...] = ()
    gates: tuple[tuple[str, int], ...] = ()
    visits: Counter[str] = Counter()
    name: str | None = plan.start
    while name is not None:
        segment = plan.segments[name]
        visits[name] += 1
        if segment.max_visits is not None and visits[name] > segment.max_visits:
            raise too_many_visits(name, segment.max_visits)
        made: Mapping[str, Array] = {}
        if segment.model is not None:
            made = run(name, {given: tensors[source] for given, source in segment.reads.items()})
            path += (name,)
        tensors |= {  # all at once: two slots may swap
            slot: made[source.output] if source.output is not None else tensors[source.slot or source.constant or ""]
            for slot, source in segment.writes.items()
        }
        if (exit_ := segment.exit) is not None:
            outputs = {key: tensors[slot] for key, slot in exit_.outputs.items()}
            confidence = float(tensors[exit_.confidence].item())
            stopped_by: StoppedBy = "end" if isinstance(segment.next, Stop) else "exit"
            yield Answer(outputs, exit_.name, confidence, path, models, gates, stopped_by, exit_.scores)
        name, decided = _next(name, segment, tensors)
        gates += decided


def path_of(plan: Manifest, row: Sequence[Array], run: RunSegment) -> tuple[str, ...]:
    """Returns the segments with a model that a row, its inputs in the plan's order, meets on its way to the end."""
    inputs = {spec.name: array for spec, array in zip(plan.inputs, row, strict=True)}
    return list(visit_exits(plan, inputs, run))[-1].path


def _next(name: str, segment: Segment, tensors: Mapping[str, Array]) -> tuple[str | None, tuple[tuple[str, int], ...]]:
    """Returns the segment that runs next, None at the end, and what was decided."""
    match segment.next:
        case Stop():
            return None, ()
        case Goto(segment=following):
            return following, ()
        case Gate(on=on, then=then, otherwise=otherwise):
            opened = bool(tensors[on].item())
            return then if opened else otherwise, ((name, int(opened)),)
        case Switch(on=on, cases=cases):
            case = int(tensors[on].item())
            if not 0 <= case < len(cases):
                raise no_such_case(name, on, case, len(cases))
            return cases[case], ((name, case),)
