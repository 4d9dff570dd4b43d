"""The plan followed in plain numpy: slow, and so simple that something else may stand in for each segment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from eetoolkit_runtime.errors import no_such_case, too_many_visits
from eetoolkit_runtime.inputs import Array
from eetoolkit_runtime.plan import Gate, Goto, Manifest, Segment, Stop, Switch

RunSegment = Callable[[str, dict[str, Array]], dict[str, Array]]
"""Takes a segment's name and its graph's inputs by name; returns its graph's outputs by name."""


def walk(plan: Manifest, row: Sequence[Array], run: RunSegment) -> list[str]:
    """Follows the plan to its end, no exit firing, and returns the segments with a model in the order run.

    Args:
        plan: The plan.
        row: One row's inputs, in the plan's order.
        run: Runs a segment.

    Raises:
        RunError: A switch has no such case, or a loop exceeds its bound.
    """
    tensors = dict(zip((spec.name for spec in plan.inputs), row, strict=True))
    for constant_name, constant in plan.constants.items():
        tensors[constant_name] = np.array(constant.data, constant.dtype).reshape(constant.shape)
    visits: Counter[str] = Counter()
    path: list[str] = []
    name: str | None = plan.start
    while name is not None:
        segment = plan.segments[name]
        visits[name] += 1
        if segment.max_visits is not None and visits[name] > segment.max_visits:
            raise too_many_visits(name, segment.max_visits)
        given: dict[str, Array] = {}
        if segment.model is not None:
            path.append(name)
            given = run(name, {value: tensors[source] for value, source in segment.reads.items()})
        tensors |= {
            slot: given[source.output] if source.output is not None else tensors[source.slot or source.constant or ""]
            for slot, source in segment.writes.items()
        }
        name = _next(name, segment, tensors)
    return path


def _next(name: str, segment: Segment, tensors: dict[str, Array]) -> str | None:
    match segment.next:
        case Goto(segment=following):
            return following
        case Gate(on=on, then=then, otherwise=otherwise):
            return then if tensors[on].item() else otherwise
        case Switch(on=on, cases=cases):
            case = int(tensors[on].item())
            if not 0 <= case < len(cases):
                raise no_such_case(name, on, case, len(cases))
            return cases[case]
        case Stop():
            return None
