"""Arguments of the wrong type are refused at the door, by what annotations say, with one typed error."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
import torch

import eetoolkit as ee
from eetoolkit_exporters.export import _OWN_WORDS
from eetoolkit_runtime.arguments import _checks, checked, shortened
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
    ({"share": 10**400}, f"share is 1{'0' * 78}…, expected a number"),
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


WRONG = [
    5,
    -(2**70),
    -1,
    0.5,
    float("nan"),
    True,
    "",
    "x",
    b"x",
    [],
    [5],
    [None],
    {},
    {"x": 5},
    {5: "x"},
    object(),
    None,
]
"""Values of other types than most arguments have."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Returns for each function of the host what it takes."""
    folder = tmp_path_factory.mktemp("small")
    text = """net (float[batch,4] x) => (float[batch,4] a, float[batch,4] b) { a = Sin (x)  b = Cos (a) }"""
    onnx.save(onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> {text}'), folder / "m.onnx")
    x = np.array([[0.1, 0.2, 0.3, 0.9]], np.float32)
    export = {"model": folder / "m.onnx", "example_inputs": x, "output": folder / "out.ee", "overwrite": True}
    bundle = ee.export(**export | {"output": folder / "m.ee"})
    weights = "<float[4,3] v = {1,2,3,4,5,6,7,8,9,1,2,3}, float[3,2] w = {1,2,3,4,5,6}>"
    text = (
        f"net (float[batch,4] x) => (float[batch,2] y) {weights} {{ m = MatMul (x, v) h = Relu (m) y = MatMul (h, w) }}"
    )
    onnx.save(onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> {text}'), folder / "one.onnx")
    backbone = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)).eval()
    attached = ee.attach_exits(folder / "one.onnx", ["h"], x)
    return {
        "export": export,
        "find_exits": {"model": copy.deepcopy(backbone).eval(), "example_inputs": x},
        "prune": {"bundle": bundle, "exits": ["a"], "output": folder / "p.ee", "overwrite": True},
        "attach_exits": {"model": folder / "one.onnx", "heads": ["h"], "example_inputs": x},
        "fit_exits": {"model": attached, "inputs": x, "labels": np.array([1])},
    }


@pytest.mark.parametrize("name", ["export", "find_exits", "prune", "attach_exits", "fit_exits"])
def test_any_argument_of_any_type_is_taken_or_refused(
    name: str, small: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # "x" is a path as well
    function = getattr(ee, name)
    function(**small[name])
    refused = 0
    for argument in inspect.signature(function).parameters:
        for wrong in WRONG:
            try:
                function(**{**small[name], argument: wrong})
            except ee.EEToolkitError as error:
                assert str(error), argument
                refused += 1
    assert refused > 40


PUBLIC = [name for name in ee.__all__ if inspect.isfunction(getattr(ee, name)) and name != "exit"]
"""`exit` marks a place in a torch network while it is traced, and has arguments of torch's alone."""


OWN_WORDS = {"attach_exits": {"heads"}, "fit_exits": {"model"}, "export": _OWN_WORDS}
"""What functions check themselves, with a better word."""


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_function_refuses_what_its_annotations_do_not_say(name: str) -> None:
    function = getattr(ee, name)
    checks = dict(_checks(function.__wrapped__))
    assert checks
    for parameter, (expected, fits) in checks.items():
        if parameter in OWN_WORDS.get(name, ()):
            continue
        wrong = next(value for value in (object(), True, 1, "x", None, [], {}) if not fits(value))
        with pytest.raises(ee.EEToolkitError) as caught:
            function(**{parameter: wrong})
        assert str(caught.value) == f"{parameter} is {shortened(wrong)}, expected {expected}"
