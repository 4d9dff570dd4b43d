"""Arguments of the wrong type are refused at the door, by what annotations say, with one typed error."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import eetoolkit as ee
from eetoolkit_runtime.arguments import checked
from eetoolkit_runtime.errors import InputError


@checked(InputError)
def door(
    path: str | os.PathLike[str],
    count: int | None = None,
    *,
    share: float = 0.5,
    flag: bool = False,
    kind: Literal["a", "b", 1] = "a",
    names: Sequence[str] | None = None,
    limits: Mapping[str, float] | None = None,
    tell: Callable[[int], object] | None = None,
    rows: Iterable[Any] = (),
    bundle: ee.Bundle | None = None,
    profiles: Sequence[ee.Profile] = (),
    anything: Any = None,
) -> str:
    """Returns that it was let in."""
    return "in"


GOOD: list[dict[str, Any]] = [
    {},
    {"path": Path("x"), "count": 3},
    {"count": np.int64(3), "share": np.float32(0.5)},
    {"share": 1, "flag": True, "kind": 1},
    {"names": ["a"], "limits": {"a": 1.0}, "tell": print, "rows": iter([1])},
    {"names": (), "rows": np.zeros(3), "anything": object()},
]
BAD: list[tuple[dict[str, Any], str]] = [
    ({"path": 5}, "path is 5, expected a text or a path"),
    ({"path": b"x"}, "path is b'x', expected a text or a path"),
    ({"count": 2.0}, "count is 2.0, expected a whole number or None"),
    ({"count": True}, "count is True, expected a whole number or None"),
    ({"count": "3"}, "count is '3', expected a whole number or None"),
    ({"share": True}, "share is True, expected a number"),
    ({"share": None}, "share is None, expected a number"),
    ({"flag": 1}, "flag is 1, expected True or False"),
    ({"kind": "c"}, "kind is 'c', expected 'a' or 'b' or 1"),
    ({"kind": True}, "kind is True, expected 'a' or 'b' or 1"),
    ({"names": "a"}, "names is 'a', expected a list, each a text or None"),
    ({"names": [1]}, "names is [1], expected a list, each a text or None"),
    ({"limits": [1]}, "limits is [1], expected a mapping or None"),
    ({"tell": 5}, "tell is 5, expected a function or None"),
    ({"rows": 5}, "rows is 5, expected several"),
    ({"bundle": "x.ee"}, "bundle is 'x.ee', expected a Bundle or None"),
    ({"profiles": [5]}, "profiles is [5], expected a list, each a Profile"),
    ({"names": ["a" * 200, 1]}, f"names is ['{'a' * 77}…, expected a list, each a text or None"),
]


@pytest.mark.parametrize("given", GOOD, ids=[", ".join(given) for given in GOOD])
def test_what_fits_is_let_in(given: dict[str, Any]) -> None:
    assert door(**{"path": "x"} | given) == "in"


@pytest.mark.parametrize(("given", "text"), BAD, ids=[text for _, text in BAD])
def test_what_does_not_fit_is_refused(given: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError) as caught:
        door(**{"path": "x"} | given)
    assert str(caught.value) == text


def test_arguments_by_place_are_looked_at_too() -> None:
    with pytest.raises(InputError, match="count is 'x', expected a whole number or None"):
        door("x", "x")  # type: ignore[arg-type]


def test_a_call_that_no_function_takes_stays_pythons_error() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        door("x", nonsense=1)  # type: ignore[call-arg]


def test_the_decorated_function_looks_as_it_did() -> None:
    assert door.__doc__ == "Returns that it was let in."
    assert list(inspect.signature(door).parameters)[:2] == ["path", "count"]
