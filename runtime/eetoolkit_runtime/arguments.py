"""Arguments of the wrong type, refused at the door by what the function's own annotations say."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeGuard, TypeVar, Union, get_args, get_origin

from eetoolkit_runtime.errors import EEToolkitError
from eetoolkit_runtime.printable import cut

P = ParamSpec("P")
R = TypeVar("R")

_Check = Callable[[Any], bool]


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a number that a float can hold; NaN and infinity are, `bool` is not."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number; `bool` is not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


_KINDS: dict[Any, tuple[str, _Check]] = {
    Mapping: ("a mapping", lambda value: isinstance(value, Mapping)),
    dict: ("a dict", lambda value: isinstance(value, dict)),
    Callable: ("a function", callable),
    Iterable: ("several", lambda value: isinstance(value, Iterable) and not isinstance(value, str | bytes)),
    Collection: ("a list", lambda value: isinstance(value, Collection) and not isinstance(value, str | bytes)),
    Sequence: ("a list", lambda value: isinstance(value, Sequence) and not isinstance(value, str | bytes)),
    os.PathLike: ("a path", lambda value: isinstance(value, os.PathLike)),
    NoneType: ("None", lambda value: value is None),
    bool: ("True or False", lambda value: isinstance(value, bool)),
    int: ("a whole number", is_whole),
    float: ("a number", is_number),
    str: ("a text", lambda value: isinstance(value, str)),
}


def checked(error: type[EEToolkitError], *, but: Sequence[str] = ()) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Returns a decorator that refuses arguments of another type than annotated, before the function begins.

    Looked at are numbers, texts, choices, None, containers as such, and the package's own classes; `bool` is no number.
    What an annotation leaves open (`Any`, arrays) is the function's own to check.

    Args:
        error: What to raise: the argument, what it is, and what is expected.
        but: Arguments that the function checks itself, since it has a better word for them.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        names = function.__code__.co_varnames[: function.__code__.co_argcount]

        @functools.cache  # when the first call comes: annotations name what is imported by then
        def checks() -> dict[str, tuple[str, _Check]]:
            return {name: check for name, check in _checks(function) if name not in but}

        @functools.wraps(function)
        def refusing(*arguments: P.args, **named: P.kwargs) -> R:
            given = dict(zip(names, arguments, strict=False)) | named
            for name, (expected, fits) in checks().items():
                if name in given and not fits(given[name]):
                    raise error(f"{name} is {shortened(given[name])}, expected {expected}")
            return function(*arguments, **named)

        return refusing

    return decorate


def _checks(function: Callable[..., Any]) -> Iterable[tuple[str, tuple[str, _Check]]]:
    known = vars(sys.modules[function.__module__])
    for name, annotation in function.__annotations__.items():
        try:
            hint = eval(annotation, known) if isinstance(annotation, str) else annotation  # noqa: S307 - our own text
        except NameError:  # a name for type checkers alone
            continue
        check = _check(hint)
        if check is not None and name != "return":
            yield name, check


def _check(hint: Any) -> tuple[str, _Check] | None:  # noqa: PLR0911 - one kind of annotation each
    """Returns what an annotation asks for, in words, and whether a value is that; None where it leaves it open."""
    origin = get_origin(hint)
    kind = NoneType if hint is None else origin or hint
    if kind in (Sequence, Collection) and (each := _check(get_args(hint)[0])) is not None:
        return f"a list, each {each[0]}", lambda value: _KINDS[kind][1](value) and all(map(each[1], value))
    if kind in _KINDS:
        return _KINDS[kind]
    if origin is Literal:
        choices = get_args(hint)
        return " or ".join(map(repr, choices)), lambda value: any(
            type(value) is type(o) and value == o for o in choices
        )
    if origin in (Union, UnionType):
        parts = [_check(part) for part in get_args(hint)]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        words = list(dict.fromkeys(words for words, _ in known))
        return " or ".join(words), lambda value: any(fits(value) for _, fits in known)
    if isinstance(hint, type) and hint.__module__.startswith("eetoolkit"):
        article = "an" if hint.__name__[0] in "AEIOU" else "a"
        return f"{article} {hint.__name__}", lambda value: isinstance(value, hint)
    return None


def check_range(error: type[EEToolkitError], name: str, value: float, low: float, high: float) -> None:
    """Refuses a number outside of [low, high], and NaN."""
    if not low <= value <= high:
        raise error(f"{name} is {shortened(value)}, expected {low:g} to {high:g}")


def shortened(value: object) -> str:
    """Returns what was given for people, at most 80 characters of it."""
    return cut(repr(value), 80)
