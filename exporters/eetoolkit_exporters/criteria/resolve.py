"""What a user asks for, checked and written out: each exit's criterion, its default threshold, the first exit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from eetoolkit_exporters.capturing.capture import NetworkExit
from eetoolkit_exporters.criteria.custom import name_of
from eetoolkit_runtime.errors import ExportError, did_you_mean
from eetoolkit_runtime.plan.criteria import KINDS, kind_of, needed
from eetoolkit_runtime.plan.types import Constant, Criterion
from eetoolkit_runtime.running.scores import LABEL, LOGITS

Spec = str | Criterion | Callable[..., Any]
CriterionSpec = Spec | Mapping[str, Spec]
"""A kind, a criterion with options, or a torch function from an exit's outputs to one number a row; or one per exit."""

CONFIDENCE = "confidence"
"""The output that `learned` reads where nothing else is said."""

_USUAL = {"kind", "output", "scale", "axis", "temperature", "threshold"}


def choose_criteria(exits: Sequence[NetworkExit], criterion: CriterionSpec) -> dict[str, Criterion]:
    """Returns each exit's criterion, with the output it reads written out where the exit has several.

    Raises:
        ExportError: An unknown criterion, exit or output, or an option that the criterion has not.
    """
    names = [exit_.name for exit_ in exits]
    if isinstance(criterion, Mapping):
        if unknown := set(criterion) - set(names):
            meant = did_you_mean(min(unknown), names)
            raise ExportError(f"criterion names {sorted(unknown)}; the exits are {', '.join(names)}{meant}")
        per_exit: dict[str, Spec] = {name: criterion.get(name, "max_prob") for name in names}
    else:
        per_exit = dict.fromkeys(names, criterion)
    return {exit_.name: _resolve(exit_, per_exit[exit_.name]) for exit_ in exits}


def default_threshold(criterion: Criterion) -> float:
    """Returns the threshold of an exit or a member whose user gave none."""
    default = kind_of(criterion).default
    if default is None:
        default = (needed(criterion) or 1) / max(1, len(criterion.members))
    return stored_threshold(criterion, default)


def stored_threshold(criterion: Criterion, threshold: float) -> float:
    """Returns a threshold as the manifest holds it.

    A share such as 7/10 is a float32 on the device, and 0.7 in float64 is a little more: it would never be reached. So
    the threshold of a share is rounded to float32 as well.
    """
    return float(np.float32(threshold)) if kind_of(criterion).counted else float(threshold)


def exits_before(order: Sequence[str], name: str | None) -> Sequence[str]:
    """Returns the exits before `name`, which `min_exit` keeps from firing; none where it is None.

    Args:
        order: The exits as a row meets them.
        name: The first exit that may fire.

    Raises:
        ExportError: No such exit.
    """
    if name is None:
        return ()
    if name not in order:
        raise ExportError(f"min_exit is {name!r}; the exits are {', '.join(order)}{did_you_mean(name, order)}")
    return order[: order.index(name)]


def bind(criterion: Criterion, constants: Mapping[str, Constant], functions: Mapping[str, Any]) -> Criterion:
    """Returns a bundle's criterion with the values of its constants, and the functions that it names.

    Args:
        criterion: As it stands in a manifest.
        constants: The manifest's.
        functions: The user's functions by their names (`functions_of`).

    Raises:
        ExportError: A custom criterion whose function is not among them.
    """
    scalars = {
        key: constants[value].data[0] if isinstance(value := getattr(criterion, key), str) else value
        for key in ("temperature", "tau", "threshold")
    }
    vectors = {
        key: constants[value].data if isinstance(value := getattr(criterion, key), str) else value
        for key in ("weights", "bias")
    }
    function = criterion.function
    if criterion.kind == "custom":
        if function not in functions:
            raise ExportError(
                f"the bundle has the custom criterion {function}, and the model cannot be judged without it: pass "
                "`criterion` as to the export"
            )
        function = functions[str(function)]
    members = tuple(bind(member, constants, functions) for member in criterion.members)
    return msgspec.structs.replace(criterion, **scalars, **vectors, function=function, members=members)


def functions_of(criterion: CriterionSpec | None) -> dict[str, Callable[..., Any]]:
    """Returns the torch functions in what a user asks for, by the names that a bundle gives them."""
    specs = criterion.values() if isinstance(criterion, Mapping) else [criterion]
    return {name_of(function): function for spec in specs for function in _functions(spec)}


def _functions(spec: Spec | None) -> Iterator[Callable[..., Any]]:
    if isinstance(spec, Criterion):
        if callable(spec.function):
            yield spec.function
        for member in spec.members:
            yield from _functions(member)
    elif callable(spec):
        yield spec


def _resolve(exit_: NetworkExit, spec: Spec) -> Criterion:
    kinds = ", ".join(KINDS)
    if isinstance(spec, str) and spec in KINDS:
        spec = {"kind": spec}  # type: ignore[assignment]
    elif not isinstance(spec, Criterion) and callable(spec):
        spec = Criterion(kind="custom", function=spec)
    elif not isinstance(spec, Criterion):
        meant = did_you_mean(spec, KINDS) if isinstance(spec, str) else ""
        raise ExportError(
            f"exit {exit_.name!r}: criterion is {spec!r}, expected one of {kinds}, an ee.Criterion, or a torch function"
            f"{meant}"
        )
    try:
        found = msgspec.convert(msgspec.to_builtins(spec, enc_hook=_plain), Criterion)
    except (msgspec.ValidationError, TypeError) as error:
        allowed = f"kinds: {kinds}; scales: logits, log_probs, probs"
        raise ExportError(f"exit {exit_.name!r}: criterion: {spec}: {error} ({allowed})") from error
    if isinstance(spec, Criterion):
        found = _with_functions(found, spec)
    return _complete(exit_, found, member=False)


def _plain(value: Any) -> Any:
    """Turns what JSON does not know into what it does: arrays into lists, functions into their names."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if callable(value):
        return name_of(value)
    raise TypeError(f"{value!r} is neither a number nor a function")


def _with_functions(found: Criterion, spec: Criterion) -> Criterion:
    members = tuple(map(_with_functions, found.members, spec.members))
    return msgspec.structs.replace(found, function=spec.function, members=members)


def _complete(exit_: NetworkExit, criterion: Criterion, *, member: bool) -> Criterion:
    """Returns a criterion with its output written out, its members and their thresholds too, all of it checked."""
    kind = criterion.kind
    _check_options(exit_, criterion, member=member)
    _check_numbers(exit_, criterion)
    if kind_of(criterion).combined:
        members = tuple(_complete(exit_, part, member=True) for part in criterion.members)
        wanted = needed(criterion)
        if wanted is None or not 1 <= wanted <= len(members):
            raise ExportError(
                f"exit {exit_.name!r}: criterion: {kind} has {len(members)} members and n={criterion.n}; expected one "
                "member or more, and for at_least n from 1 to their number"
            )
        criterion = msgspec.structs.replace(criterion, members=members)
    elif kind == "custom" and not callable(criterion.function):
        raise ExportError(f"exit {exit_.name!r}: criterion: function is {criterion.function!r}, not a torch function")
    elif kind == "learned" and criterion.output is None:
        criterion = msgspec.structs.replace(criterion, output=CONFIDENCE)
    elif kind != "custom" and criterion.output is None:
        criterion = msgspec.structs.replace(criterion, output=_scores(exit_))
    if kind == "vote" and not member and LABEL in exit_.outputs:
        raise ExportError(f"exit {exit_.name!r}: vote adds the output {LABEL!r}, and the exit has one of that name")
    if criterion.output is not None and criterion.output not in exit_.outputs:
        raise ExportError(
            f"exit {exit_.name!r}: the criterion reads {criterion.output!r}; its outputs are {', '.join(exit_.outputs)}"
        )
    if member and criterion.threshold is None:
        criterion = msgspec.structs.replace(criterion, threshold=default_threshold(criterion))
    return criterion


def _scores(exit_: NetworkExit) -> str:
    if len(exit_.outputs) > 1 and LOGITS not in exit_.outputs:
        raise ExportError(
            f"exit {exit_.name!r} has the outputs {', '.join(exit_.outputs)} and none called {LOGITS!r}: say which "
            "one decides, Criterion(kind=..., output=...)"
        )
    return LOGITS if LOGITS in exit_.outputs else next(iter(exit_.outputs))


def _check_options(exit_: NetworkExit, criterion: Criterion, *, member: bool) -> None:
    """Refuses an option that the kind does not read: it would change nothing."""
    allowed = _USUAL | kind_of(criterion).options
    for field in msgspec.structs.fields(criterion):
        if field.name not in allowed and getattr(criterion, field.name) != field.default:
            raise ExportError(f"exit {exit_.name!r}: criterion: {criterion.kind} has no option {field.name}")
    if criterion.threshold is not None and not member:
        combined = ", ".join(sorted(name for name, kind in KINDS.items() if kind.combined))
        raise ExportError(
            f"exit {exit_.name!r}: criterion: threshold is for the members of {combined}; an exit's "
            "own goes to export(threshold=...)"
        )


def _check_numbers(exit_: NetworkExit, criterion: Criterion) -> None:
    for name in ("temperature", "tau", "threshold", "weights", "bias"):
        value = getattr(criterion, name)
        if isinstance(value, str):
            raise ExportError(f"exit {exit_.name!r}: criterion: {name} is named by the export; leave it out")
        numbers = () if value is None else value if isinstance(value, tuple) else (value,)
        if not all(map(math.isfinite, numbers)) or (name in ("temperature", "tau") and not all(n > 0 for n in numbers)):
            wanted = "a positive number" if name in ("temperature", "tau") else "finite numbers"
            raise ExportError(f"exit {exit_.name!r}: criterion: {name} is {value!r}, expected {wanted}")
