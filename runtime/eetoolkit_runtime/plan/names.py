"""What a plan may call things, so that every language can keep them by name, and what users called them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from eetoolkit_runtime.errors import ManifestError
from eetoolkit_runtime.plan.types import Manifest

_NAME = re.compile("(?!__)[A-Za-z_][A-Za-z0-9_.-]{0,254}")
_OBJECT_PROTOTYPE = {
    "constructor", "hasOwnProperty", "isPrototypeOf", "propertyIsEnumerable", "toLocaleString", "toString", "valueOf",
}  # fmt: skip
"""What every object of JavaScript has beside names of two leading underscores (ECMA-262, Object.prototype)."""


def is_name(name: str) -> bool:
    """Whether a plan may call something so: safe as a key of objects in any language."""
    return _NAME.fullmatch(name) is not None and name not in _OBJECT_PROTOTYPE


def _names(plan: Manifest) -> Iterator[tuple[str, Iterable[str]]]:
    """Yields all names in a plan by what they name."""
    yield "input", (spec.name for spec in plan.inputs)
    yield "output", (spec.name for spec in plan.outputs)
    yield "slot", plan.slots
    yield "constant", plan.constants
    yield "segment", plan.segments
    yield "exit", plan.exits
    for segment in plan.segments.values():
        yield "graph input", segment.reads
        yield "graph output", (source.output for source in segment.writes.values() if source.output is not None)
        if segment.exit is not None:
            yield "output", segment.exit.outputs
    if plan.split is not None:
        yield "server's model", (plan.split.model,)
        yield "server's input", plan.split.sends
        yield "server's exit", (exit_.name for exit_ in plan.split.exits)


def spell_name(name: str, titles: Mapping[str, str]) -> str:
    """Returns a name, and behind it what the network called it where that is another."""
    return f"{name} ({titles[name]!r})" if name in titles else name


def titles_of(plan: Manifest) -> dict[str, str]:
    """Returns the titles of what is in a plan, which may have lost some of it."""
    names = {name for _, names in _names(plan) for name in names}
    return {name: title for name, title in plan.titles.items() if name in names}


def plan_name(name: str, titles: Mapping[str, str]) -> str:
    """Returns what the plan calls what either it or the network calls `name`; the network goes before."""
    return next((ours for ours, theirs in titles.items() if theirs == name), name)


def check_names(plan: Manifest) -> None:
    """Proves that every name follows the rule, and that no two inputs, exits or outputs have one title.

    Raises:
        ManifestError: Says which does not.
    """
    for what, names in _names(plan):
        for name in names:
            if name in _OBJECT_PROTOTYPE:
                raise ManifestError(f"manifest.json: the {what} {name!r} is a key of every JavaScript object")
            if not is_name(name):
                raise ManifestError(
                    f"manifest.json: the {what} {name[:40]!r} is no name: up to 255 of A-Z a-z 0-9 _ . -, first a "
                    "letter or one _"
                )
    users = {*(spec.name for spec in plan.inputs)}.union(plan.exits, *(each.outputs for each in plan.exits.values()))
    if len({plan.titles.get(name, name) for name in users}) != len(users):
        raise ManifestError("manifest.json: titles give two of the inputs, exits and outputs one name")
