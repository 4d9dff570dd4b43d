"""What a caller hands over, checked and put into the network's order, dtypes and shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import InputError
from eetoolkit_runtime.plan.types import Dim, Limit, Preprocess, TensorSpec, spell

if TYPE_CHECKING:
    from typing import Protocol

    import numpy.typing as npt

    from eetoolkit_runtime.bundle.bundle import Bundle

    Inputs = npt.ArrayLike | Sequence[npt.ArrayLike] | Mapping[str, npt.ArrayLike]

    class InputPlan(Protocol):
        """What says which inputs a network takes: a manifest, or what is known before there is one."""

        @property
        def inputs(self) -> tuple[TensorSpec, ...]:
            """Names, dtypes and shapes."""

        @property
        def limits(self) -> Mapping[str, Limit]:
            """The sizes that symbols of the shapes may take."""

        @property
        def preprocess(self) -> Mapping[str, Preprocess]:
            """How pictures become inputs."""

        @property
        def titles(self) -> Mapping[str, str]:
            """What the user calls inputs whose own names are others."""

        @property
        def labels(self) -> tuple[str, ...] | None:
            """The classes' names."""
else:
    Inputs = InputPlan = Any

BATCH = "batch"
"""The symbol of the dimension that counts rows."""
ROWS_AT_ONCE = 64
"""How many rows of a batch start together: more gain next to nothing, and hold memory."""


def prepare(plan: InputPlan, inputs: Inputs, *, one_row: bool) -> tuple[Array, ...]:
    """Returns the inputs in the plan's order, each of its dtype and a shape that fits.

    Args:
        plan: The plan.
        inputs: An array where the network has one input; a tuple or list in the plan's order; or a mapping by name, the
            plan's or the user's own.
        one_row: Whether each input's batch dimension must be 1.

    Raises:
        InputError: A name, number, dtype or shape that does not fit.
    """
    sizes: dict[str, int] = {}
    arrays = tuple(
        _fit(spec, spec.shape if one_row else _dims(spec, axis), value, plan.preprocess.get(spec.name), sizes)
        for spec, axis, value in zip(plan.inputs, row_axes(plan), _in_order(plan, inputs), strict=True)
    )
    _check_limits(plan, sizes)
    rows = sizes.get(BATCH, 1)
    if one_row and rows != 1:
        raise InputError(f"got {rows} rows, `run` takes one; pass them to `run_batch`")
    return arrays


def row_axes(plan: InputPlan) -> list[int | None]:
    """Returns along which dimension the rows of a batch lie in each input; None: the input goes to every row."""
    return axes_of_rows([spec.shape for spec in plan.inputs])


def axes_of_rows(shapes: Sequence[tuple[Dim, ...]]) -> list[int | None]:
    """Returns where these shapes count rows: at `batch`; where none has a `batch`, at the first dimension that is 1."""
    if any(BATCH in shape for shape in shapes):
        return [shape.index(BATCH) if BATCH in shape else None for shape in shapes]
    return [0 if shape[:1] == (1,) else None for shape in shapes]


def most_rows(plan: InputPlan) -> int | None:
    """Returns how many rows the plan's graphs take at once; None: any number."""
    limit = plan.limits.get(BATCH)
    return None if limit is None else limit.max


def rows_between(array: Array, axis: int, start: int, stop: int) -> Array:
    """Returns the rows of an array from `start` up to `stop`, which lie along `axis`."""
    return array[(slice(None),) * axis + (slice(start, stop),)]


def _dims(spec: TensorSpec, axis: int | None) -> tuple[Dim, ...]:
    """Returns the shape that an input must have in a batch: rows stand where a plan of one row says 1."""
    return spec.shape if axis is None else (*spec.shape[:axis], BATCH, *spec.shape[axis + 1 :])


def _in_order(plan: InputPlan, inputs: Inputs) -> list[Any]:
    names = [spec.name for spec in plan.inputs]
    if isinstance(inputs, Mapping):
        titles = [plan.titles.get(name, name) for name in names]
        theirs = dict(zip(titles, names, strict=True))
        given = {theirs.get(name, name): value for name, value in inputs.items()}
        if set(given) != set(names) or len(given) != len(inputs):
            raise InputError(f"got inputs {sorted(map(str, inputs))}, expected {titles}")
        return [given[name] for name in names]
    values: list[Any] = list(inputs) if isinstance(inputs, tuple | list) else [inputs]
    if len(names) == 1 and isinstance(inputs, list) and not getattr(inputs[0] if inputs else None, "ndim", 0):
        values = [inputs]  # nested lists are one array
    if len(values) != len(names):
        raise InputError(f"got {len(values)} inputs, expected {len(names)}: {', '.join(map(_spell, plan.inputs))}")
    return values


def _fit(
    spec: TensorSpec, dims: tuple[Dim, ...], value: Any, preprocess: Preprocess | None, sizes: dict[str, int]
) -> Array:
    array = _read(spec, value)
    if array.dtype.kind in "USMm":  # text and dates have no shape that could be right
        raise _refused(spec, value, array)
    _check_shape(spec, dims, value, array, sizes)
    if array.dtype == np.uint8 and spec.dtype != "uint8" and preprocess is not None:
        return normalize(array, preprocess).astype(spec.dtype, copy=False)
    return _cast(spec, value, array)


def _read(spec: TensorSpec, value: Any) -> Array:
    if masked := sum(map(_masked, value if isinstance(value, list | tuple) else [value])):
        raise InputError(
            f"input {spec.name!r}: got a masked array with {masked} masked, behind which a network would see what "
            f"stands there; expected {_spell(spec)}; fill it as in training: {spec.name}.filled(0)"
        )
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        from eetoolkit_runtime.running import remedies

        fix = remedies.read(spec.name, value)
        what = f"input {spec.name!r}: not an array ({error}); expected {_spell(spec)}"
        raise InputError(f"{what}; make it one: {fix}" if fix else what) from error


def _masked(value: Any) -> int:
    """Returns how many numbers of a masked array are masked."""
    if not isinstance(value, np.ndarray) or type(value) is np.ndarray:
        return 0  # numpy reads `np.ma` when it is first asked for it, in some 20 ms
    return int(np.sum(value.mask)) if isinstance(value, np.ma.MaskedArray) else 0


def _check_shape(spec: TensorSpec, dims: tuple[Dim, ...], value: Any, array: Array, sizes: dict[str, int]) -> None:
    what = f"input {spec.name!r}: got shape {list(array.shape)}, expected {_spell(spec)}"
    told = tuple(sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in dims)
    if array.ndim != len(spec.shape):
        if array.dtype.kind == "O" and array.ndim == 0:
            raise InputError(f"{what}; a {type(value).__name__} is no array")
        raise InputError(f"{what}{_reshaped(spec, told, value, array)}")
    for size, dim in zip(array.shape, dims, strict=True):
        known = dim if isinstance(dim, int) else size if dim is None else sizes.setdefault(dim, size)
        if size != known:
            where = "" if isinstance(dim, int) else f" ({dim} is {known} elsewhere)"
            raise InputError(f"{what}{where}{_reshaped(spec, told, value, array)}")
    if any(size == 0 and dim is not None for size, dim in zip(array.shape, dims, strict=True)):  # None: by the data
        raise InputError(f"input {spec.name!r}: got the empty shape {list(array.shape)}, expected {_spell(spec)}")


def _check_limits(plan: InputPlan, sizes: Mapping[str, int]) -> None:
    """Refuses a size that the graphs do not take; any number of rows may come, since rows can be parted."""
    for symbol, limit in plan.limits.items():
        size = sizes.get(symbol)
        if symbol == BATCH or size is None or (limit.min <= size and (limit.max is None or size <= limit.max)):
            continue
        spec = next(spec for spec in plan.inputs if symbol in spec.shape)
        wanted = f"at least {limit.min}" if limit.max is None else f"{limit.min} to {limit.max}"
        raise InputError(f"input {spec.name!r}: {symbol} is {size}, expected {wanted}: {_spell(spec)}")


def _reshaped(spec: TensorSpec, dims: tuple[Dim, ...], value: Any, array: Array) -> str:
    """Returns what to write so that the shape fits; empty where nothing does."""
    from eetoolkit_runtime.running import remedies

    fix = remedies.reshape(spec.name, value, array.shape, dims, (BATCH, 1))
    if not fix:
        return ""
    only_row = fix.endswith("[None]") and array.ndim == len(spec.shape) - 1 and ".transpose" not in fix
    return f"; {'add the batch dimension' if only_row else 'give it that shape'}: {fix}"


def _cast(spec: TensorSpec, value: Any, array: Array) -> Array:
    """Only what loses no meaning: floats to the network's floats, integers to its integers, where they fit."""
    expected = np.dtype(spec.dtype)
    if array.dtype == expected:
        return array
    if array.dtype.kind == "f" and expected.kind == "f":
        return _rounded(spec, array, expected)
    if array.dtype.kind in "iu" and expected.kind in "iu":
        limits = np.iinfo(expected)
        if limits.min <= array.min() and array.max() <= limits.max:
            return array.astype(expected)
    raise _refused(spec, value, array)


def _rounded(spec: TensorSpec, array: Array, expected: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore"):
        found = array.astype(expected)
    beyond = np.isinf(found) & np.isfinite(array)
    if beyond.any():
        most = f"{float(np.finfo(expected).max):.3g}".replace("e+", "e")
        raise InputError(
            f"input {spec.name!r}: {array[beyond][0]:.6g} is beyond what {expected} holds, {most}; "
            f"expected {_spell(spec)}; scale it as in training"
        )
    return found


def _refused(spec: TensorSpec, value: Any, array: Array) -> InputError:
    from eetoolkit_runtime.running import remedies

    fix = remedies.convert(spec.name, value, array, spec.dtype)
    if array.dtype == np.uint8 and np.dtype(spec.dtype).kind == "f":
        fix = "scale it as in training, or give the bundle `preprocess` at export"
    return InputError(f"input {spec.name!r}: got dtype {array.dtype}, expected {_spell(spec)}; {fix}")


def normalize(pixels: Array, preprocess: Preprocess) -> Array:
    """Returns float32 `(pixels * scale - mean) / std` per channel of `pixels` of the preprocess's layout."""
    shape = (1, -1, 1, 1) if preprocess.layout == "NCHW" else (1, 1, 1, -1)
    mean, std = (np.asarray(v, np.float32).reshape(shape) for v in (preprocess.mean, preprocess.std))
    return (pixels.astype(np.float32) * np.float32(preprocess.scale) - mean) / std


def _spell(spec: TensorSpec) -> str:
    return f"{spec.name}: {spell(spec)}"


def split_rows(plan: InputPlan, arrays: tuple[Array, ...]) -> list[tuple[Array, ...]]:
    """Returns one tuple of inputs per row; inputs without rows go to every row.

    Raises:
        InputError: No input has a batch dimension, so there are no rows to split.
    """
    axes = row_axes(plan)
    rows = {array.shape[axis] for array, axis in zip(arrays, axes, strict=True) if axis is not None}
    if not rows:
        raise InputError(f"no input has a batch dimension: {', '.join(map(_spell, plan.inputs))}; use `run`")
    return [
        tuple(
            array if axis is None else rows_between(array, axis, row, row + 1)
            for array, axis in zip(arrays, axes, strict=True)
        )
        for row in range(rows.pop())
    ]


def golden_rows(bundle: Bundle) -> list[tuple[Array, ...]]:
    """Returns the inputs of a bundle's golden samples, each as a runner takes them; none where it has no samples."""
    from eetoolkit_runtime.bundle.golden import read_golden

    return [prepare(bundle.manifest, sample.inputs, one_row=True) for sample in read_golden(bundle)]
