"""What to write so that an input fits: expressions that are right as they stand, and words where there is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from numbers import Number
from typing import Any

import numpy as np

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.plan.types import Dim
from eetoolkit_runtime.printable import cut

_PICTURE = 3  # axes of a picture: height, width and channels, in whatever order


def reshape(name: str, value: Any, shape: Sequence[int], dims: Sequence[Dim], single: Sequence[Dim]) -> str:
    """Returns the expression after which an input has the shape that it must have; empty where there is none.

    New axes are put in, for rows and channels alone, and a picture's channels are moved to where they are expected.

    Args:
        name: What the input is called.
        value: What was given.
        shape: Its shape as an array.
        dims: The shape that it must have: a symbol is one size wherever it stands, None is any size.
        single: The dimensions that a new axis may stand for.
    """
    places = [place for place, dim in enumerate(dims) if dim in single]
    for order in _orders(len(shape), len(dims)):
        ordered = [shape[axis] for axis in order]
        for new in combinations(places, max(0, len(dims) - len(shape))):
            if (new or order != sorted(order)) and _fits(_with_axes(ordered, new), dims):
                moved = "" if order == sorted(order) else f".transpose({', '.join(map(str, order))})"
                return _array(name, value) + moved + _index(new)
    return ""


def read(name: str, value: Any) -> str:
    """Returns the expression that makes of a tensor of PyTorch what numpy reads; empty where there is none."""
    if not type(value).__module__.startswith("torch") or value.device.type == "meta":
        return ""
    steps = {
        ".detach()": value.requires_grad,
        ".cpu()": value.device.type != "cpu",
        ".to_dense()": str(value.layout) != "torch.strided",
        ".dequantize()": value.is_quantized,
        ".float()": str(value.dtype) == "torch.bfloat16",
        ".resolve_conj()": value.is_conj(),
        ".resolve_neg()": value.is_neg(),
    }
    needed = "".join(step for step, needed in steps.items() if needed)
    return f"{_variable(name)}{needed}" if needed else ""


def convert(name: str, value: Any, array: Array, dtype: str) -> str:
    """Returns how an array of another dtype becomes one of `dtype`: an expression, or what is in the way."""
    own = _array(name, value)
    if array.dtype.kind == "c":
        return f"take a part of its complex numbers: {own}.real.astype({dtype!r})"
    if array.dtype.kind in "Mm":
        return "it holds dates or times; make numbers of them as in training"
    if array.dtype.kind == "O" and (other := [item for item in array.flat if not isinstance(item, Number)]):
        return f"it holds {type(other[0]).__name__}, which is no number"
    try:
        array.astype(dtype)
    except (TypeError, ValueError, OverflowError):
        return (
            f"it holds what is no number, such as {cut(repr(array.flat[0]), 40)}"
            if array.size
            else "it holds no numbers"
        )
    return f"convert it: {own}.astype({dtype!r})"


def _orders(ndim: int, expected: int) -> Iterator[list[int]]:
    """Yields orders of the axes: as they are, then a picture's channels moved to its front, then to its end."""
    axes = list(range(ndim))
    yield axes
    if expected == _PICTURE + 1 and _PICTURE <= ndim <= expected:
        front, picture = axes[:-_PICTURE], axes[-_PICTURE:]
        yield [*front, picture[-1], *picture[:-1]]
        yield [*front, *picture[1:], picture[0]]


def _with_axes(shape: Sequence[int], new: Sequence[int]) -> list[int]:
    found = list(shape)
    for place in new:
        found.insert(place, 1)
    return found


def _fits(shape: Sequence[int], dims: Sequence[Dim]) -> bool:
    sizes: dict[Dim, int] = {}
    return len(shape) == len(dims) and all(
        dim is None or size == (dim if isinstance(dim, int) else sizes.setdefault(dim, size))
        for size, dim in zip(shape, dims, strict=True)
    )


def _index(new: Sequence[int]) -> str:
    """Returns the index that puts new axes in at some places, as `[:, None]`."""
    if not new:
        return ""
    return f"[{', '.join('None' if place in new else ':' for place in range(new[-1] + 1))}]"


def _variable(name: str) -> str:
    return name if name.isidentifier() else "x"


def _array(name: str, value: Any) -> str:
    """Returns how to write what was given as an array."""
    return _variable(name) if isinstance(value, np.ndarray) else f"np.asarray({_variable(name)})"
