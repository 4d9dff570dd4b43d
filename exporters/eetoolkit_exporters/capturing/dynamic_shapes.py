"""Which dimensions vary, in any form that `torch.export` takes, as one: for every input its axes, and what varies."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch.export import Dim, ShapesCollection

from eetoolkit_exporters.capturing.row_axes import Axes, prove_rows
from eetoolkit_exporters.capturing.symbols import safe
from eetoolkit_exporters.capturing.torch_source import TorchSource
from eetoolkit_exporters.graph import fresh
from eetoolkit_runtime.errors import ExportError, did_you_mean
from eetoolkit_runtime.running.inputs import BATCH

DynamicShapes = Any
"""`{input: {axis: symbol}}`, or any other form that `torch.export` takes."""


@dataclass(frozen=True)
class Axis:
    """What is said of one dimension of an input.

    Attributes:
        symbol: Its name; None: it has none.
        min: The least size that is wanted; None: any.
        max: The largest.
        kind: `dynamic`, `static`, or `auto` where torch may find that it does not vary.
    """

    symbol: str | None = None
    min: int | None = None
    max: int | None = None
    kind: str = "dynamic"

    def hint(self) -> Any:
        """Returns it as torch's exporter wants it."""
        return None if self.kind == "static" else getattr(Dim, self.kind.upper())(min=self.min, max=self.max)


Dynamic = dict[str, dict[int, Axis]]


def normalise(given: DynamicShapes, source: TorchSource) -> Dynamic:
    """Returns what `dynamic_shapes` says of each input's axes, counted from 0.

    Raises:
        ExportError: An input or an axis that is not there, or what is no dimension.
    """
    if isinstance(given, ShapesCollection):
        given = given.dynamic_shapes(source.module, *source.arguments())  # type: ignore[no-untyped-call]
    specs = _by_input(given, source)
    return {name: dict(_axes(name, specs.get(name), array.shape)) for name, array in source.inputs.items()}


def choose_rows(source: TorchSource, dynamic: Dynamic, *, dynamic_batch: bool) -> tuple[Dynamic, Axes | None]:
    """Returns the dimensions with those called `batch` that count the rows, and where these were seen to lie.

    What a user calls the rows (`Dim("N")`) is renamed. Where sizes leave it open the network is asked.

    Args:
        source: The network.
        dynamic: What `normalise` returned.
        dynamic_batch: Whether rows may vary without being named.
    """
    if not dynamic_batch:
        return dynamic, None
    choices = _choices(source, dynamic)
    axes: Axes = next(choices, {})
    proven = prove_rows(source, itertools.chain([axes], choices if _open(source, axes) else ()))
    axes = axes if proven is None else proven
    names = {_named(dynamic, name, axis) for name, axis in axes.items() if axis is not None} - {None}
    found: Dynamic = {}
    for name, each in dynamic.items():
        found[name] = {
            axis: replace(said, symbol=BATCH, min=None) if said.symbol in names and said.kind != "static" else said
            for axis, said in each.items()
        }
        if (rows := axes.get(name)) is not None:
            found[name][rows] = replace(
                each.get(rows, Axis()), symbol=BATCH, min=None, kind="dynamic"
            )  # one row is run
    return found, proven


def settle(source: TorchSource, dynamic: Dynamic) -> Dynamic:
    """Returns the dimensions that vary with safe names, all of them different; one without is called by its place.

    Raises:
        ExportError: The example has a size that the user excludes.
    """
    symbols = sorted({said.symbol for each in dynamic.values() for said in each.values() if said.symbol} - {BATCH})
    used = {BATCH}
    names: dict[str | None, str] = {BATCH: BATCH, **{symbol: fresh(safe(symbol), used) for symbol in symbols}}
    found: Dynamic = {name: {} for name in dynamic}
    for name, each in dynamic.items():
        for axis, said in each.items():
            size = source.inputs[name].shape[axis]
            if said.kind == "static":
                continue
            if not (said.min or 0) <= size <= (size if said.max is None else said.max):
                wanted = f"{said.min or 0} to {'any' if said.max is None else said.max}"
                raise ExportError(f"dynamic_shapes of {name!r}: axis {axis} takes {wanted}, but the example has {size}")
            symbol = names[said.symbol] if said.symbol else fresh(safe(f"{name}_{axis}"), used)
            found[name][axis] = replace(said, symbol=symbol)
    return found


def _by_input(given: Any, source: TorchSource) -> dict[str, Any]:
    names = list(source.inputs)
    if given is None:
        return {}
    if isinstance(given, tuple | list):
        if len(given) != len(names):
            raise ExportError(f"dynamic_shapes is {given!r}, expected one for each of the inputs {', '.join(names)}")
        return dict(zip(names, given, strict=True))
    if not isinstance(given, Mapping):
        raise ExportError(f"dynamic_shapes is {given!r}, expected {{input: {{axis: symbol}}}}")
    own = dict(zip(source.parameters, names, strict=False))
    specs: dict[str, Any] = {}
    for name, spec in given.items():
        if name in source.inputs:
            specs[name] = spec
        elif name in own:
            specs[own[name]] = spec
        elif name == source.rest and isinstance(spec, tuple | list):  # forward(*name)
            specs.update(zip(names[len(source.parameters) :], spec, strict=False))
        elif name == source.others and isinstance(spec, Mapping):  # forward(**name)
            specs.update(spec)
        else:
            meant = did_you_mean(str(name), names)
            raise ExportError(f"dynamic_shapes names {name!r}; the inputs are {', '.join(names)}{meant}")
    return specs


def _axes(name: str, spec: Any, shape: tuple[int, ...]) -> Iterator[tuple[int, Axis]]:
    rank = len(shape)
    if spec is None:
        return
    if isinstance(spec, type(Dim.AUTO)):  # for all of them
        spec = [spec] * rank
    if isinstance(spec, tuple | list) and len(spec) == rank:
        spec = dict(enumerate(spec))
    if not isinstance(spec, Mapping) or not all(
        isinstance(axis, int) and not isinstance(axis, bool) and -rank <= axis < rank for axis in spec
    ):
        raise ExportError(f"dynamic_shapes of {name!r} is {spec!r}, expected {{axis below {rank}: symbol}}")
    for axis, dim in spec.items():
        if dim is not None:
            yield axis % rank, _axis(name, axis, dim, shape[axis])


def _axis(name: str, axis: int, dim: Any, size: int) -> Axis:
    what = f"dynamic_shapes of {name!r}: axis {axis} is {dim!r}"
    if isinstance(dim, str) and dim.strip():
        return Axis(dim)
    if isinstance(dim, int) and not isinstance(dim, bool):
        if dim != size:
            raise ExportError(f"{what}, the example has {size} there")
        return Axis(kind="static")
    if isinstance(dim, type(Dim.AUTO)):
        said = Axis(None, dim.min, dim.max, str(dim.type.name).lower())
    elif isinstance(dim, Dim):
        low, high = (end if isinstance(end, int) else None for end in (dim.min, dim.max))
        said = Axis(str(dim.__name__), low, high)
    else:
        raise ExportError(f"{what}, expected a symbol, a torch.export.Dim or None")
    return said


def _named(dynamic: Dynamic, name: str, axis: int) -> str | None:
    said = dynamic[name].get(axis)
    return None if said is None or said.kind == "static" else said.symbol


def _choices(source: TorchSource, dynamic: Dynamic) -> Iterator[Axes]:
    """Yields where rows may lie: at the first dimension of each input, else at another one of that size."""
    first = next(iter(source.inputs), "")
    called = {said.symbol for each in dynamic.values() for said in each.values()}
    rows = BATCH if BATCH in called else _named(dynamic, first, 0)
    leading = [array.shape[0] for array in source.inputs.values() if array.ndim]
    for size in dict.fromkeys([*leading, 1]):
        groups: dict[Any, list[str]] = {}  # inputs of one form have their rows at one place
        for name, array in source.inputs.items():
            names = tuple(_named(dynamic, name, axis) for axis in range(array.ndim))
            static = tuple(axis for axis, said in dynamic[name].items() if said.kind == "static")
            groups.setdefault((array.shape, names, static), []).append(name)
        options = [_places(shape, names, static, size, rows) for shape, names, static in groups]
        for axes in itertools.product(*options):
            if any(axis is not None for axis in axes):
                yield {name: axis for axis, group in zip(axes, groups.values(), strict=True) for name in group}


def _places(
    shape: tuple[int, ...], names: tuple[str | None, ...], static: tuple[int, ...], size: int, rows: str | None
) -> list[int | None]:
    named: list[int | None] = [names.index(rows)] if rows is not None and rows in names else []
    if named and rows == BATCH:
        return named
    free = [axis for axis in range(len(shape)) if shape[axis] == size and axis not in static and names[axis] is None]
    return [*named, *free, None]


def _open(source: TorchSource, axes: Axes) -> bool:
    """Whether sizes leave open where rows lie, or these lie in an unusual place."""
    shapes = {name: array.shape for name, array in source.inputs.items() if array.ndim}
    if any(axes.get(name) != 0 for name in shapes):
        return bool(axes)
    (rows,) = {shape[0] for shape in shapes.values()}
    others = {size for shape in shapes.values() for size in shape[1:]}
    return 1 in others and rows != 1 if len(shapes) == 1 else bool(others & {1, rows})
