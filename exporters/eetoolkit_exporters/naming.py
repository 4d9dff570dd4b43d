"""What a plan calls things whose names are the user's or a graph's, which may hold anything."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from msgspec import structs

from eetoolkit_exporters.graph import fresh
from eetoolkit_runtime.bundle.golden import Sample, Visit
from eetoolkit_runtime.plan.names import is_name
from eetoolkit_runtime.plan.types import Criterion

_STEM_CHARACTERS = 200  # what is appended to tell names apart fits behind it
_NAMELESS = "unnamed"


def plain(name: str) -> str:
    """Returns a name of the plan that is like `name`; others may get the same."""
    if is_name(name) and len(name) <= _STEM_CHARACTERS:
        return name
    stem = re.sub(r"[^A-Za-z0-9_.-]", "_", name).strip("_")[:_STEM_CHARACTERS] or _NAMELESS
    return stem if is_name(stem) else f"_{stem}"


def plain_names(theirs: Iterable[str], taken: Iterable[str]) -> dict[str, str]:
    """Returns for each of the user's names one of the plan, each another; those that are one stay.

    Args:
        theirs: Names of inputs, exits and outputs.
        taken: Names of the plan that stand for something else.
    """
    names = list(dict.fromkeys(theirs))
    found = {name: name for name in names if is_name(name)}
    used = {*taken, *found}
    return {name: found.get(name) or fresh(plain(name), used) for name in names}


def renamed_criterion(criterion: Criterion, names: Mapping[str, str]) -> Criterion:
    """Returns a criterion whose outputs are called as `names` says, if it says anything."""
    return structs.replace(
        criterion,
        output=names.get(criterion.output or "", criterion.output),
        members=tuple(renamed_criterion(member, names) for member in criterion.members),
    )


def renamed_sample(sample: Sample, names: Mapping[str, str]) -> Sample:
    """Returns a sample whose inputs, exits and outputs are called as `names` says, if it says anything."""
    return Sample(
        {names.get(name, name): array for name, array in sample.inputs.items()},
        tuple(
            Visit(
                names.get(visit.exit, visit.exit),
                {names.get(name, name): array for name, array in visit.outputs.items()},
                visit.confidence,
            )
            for visit in sample.visits
        ),
    )
