"""The record: what every exit gave for every row of a data set, so that any thresholds can be replayed.

A row's visits are the exits that it meets on its way to the end of the plan, none firing, in order. Rows with fewer
visits than others are padded. Confidences hang on the bundle's constants (temperatures, weights, members' thresholds)
and not on thresholds, so one record serves every choice of these.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from eetoolkit_runtime.arguments import shortened
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.integrity import open_regular
from eetoolkit_runtime.errors import IntegrityError, TuneError, first_line
from eetoolkit_runtime.files.npy import read_npz
from eetoolkit_runtime.files.outfile import writing
from eetoolkit_runtime.files.paths import absolute, shown
from eetoolkit_runtime.plan.types import Manifest
from eetoolkit_runtime.profiling.profile import digests

Values = Mapping[str, tuple[float, ...]]

VERSION = 1
NO_EXIT = -1
"""The exit of a padded visit."""
NO_CLASS = -1
"""The prediction of an answer that names no class."""
_OUTPUT = "output/"


@dataclass(frozen=True, eq=False)
class Record:
    """N rows with at most V visits; E exits, S segments with a model, W different ways to an exit.

    Attributes:
        bundle: The bundle's name.
        files: Digests of its graphs.
        constants: The values of its constants by name, flat.
        exits: Names, in the manifest's order; `exit` counts by it.
        segments: Names of those with a model, in the manifest's order; `ways` counts by it.
        row: Which row of the data set, int64 (N,), ascending.
        digest: Of the row's inputs and label, uint64 (N,).
        label: What is right, (N,) or (N, ...).
        exit: Which exit each visit met, int16 (N, V); `NO_EXIT` where padded.
        confidence: float32 (N, V); NaN where padded.
        prediction: The class that each visit answers, int64 (N, V); `NO_CLASS` where it names none.
        way: Which of `ways` led to each visit, int32 (N, V).
        ways: How often each segment ran on the way, int32 (W, S).
        outputs: By name (N, V, ...), of those whose shape is the same everywhere; zeros where a visit has none.
    """

    bundle: str
    files: Mapping[str, str]
    constants: Values
    exits: tuple[str, ...]
    segments: tuple[str, ...]
    row: Array
    digest: Array
    label: Array
    exit: Array
    confidence: Array
    prediction: Array
    way: Array
    ways: Array
    outputs: Mapping[str, Array]

    def __len__(self) -> int:
        return len(self.row)

    @cached_property
    def last(self) -> Array:
        """The number of each row's visit at the end of the plan, (N,)."""
        return np.asarray((self.exit != NO_EXIT).sum(axis=1) - 1)

    def take(self, rows: Array) -> Record:
        """Returns the record of some rows, by their places or a mask, (n,)."""
        own = ("row", "digest", "label", "exit", "confidence", "prediction", "way")
        outputs = {name: array[rows] for name, array in self.outputs.items()}
        return replace(self, **{name: getattr(self, name)[rows] for name in own}, outputs=outputs)

    def answered(self, visit: Array) -> dict[str, Array]:
        """Returns the outputs of one visit of each row, by name (N, ...)."""
        rows = np.arange(len(self))
        return {name: array[rows, visit] for name, array in self.outputs.items()}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the record as `.npz` in one step, in the place of what is there.

        Raises:
            EEToolkitError: It cannot be written.
        """
        head = {"version": VERSION, **{name: getattr(self, name) for name in _HEAD}}
        arrays: dict[str, Array] = {name: getattr(self, name) for name in _ARRAYS}
        arrays |= {_OUTPUT + name: array for name, array in self.outputs.items()}
        with writing(path, overwrite=True) as file:
            np.savez(file, head=np.array(json.dumps(head)), **arrays)  # type: ignore[arg-type] # numpy types every keyword as `allow_pickle`


_KINDS = {
    "row": ("int64", "N"),
    "digest": ("uint64", "N"),
    "exit": ("int16", "NV"),
    "confidence": ("float32", "NV"),
    "prediction": ("int64", "NV"),
    "way": ("int32", "NV"),
    "ways": ("int32", "WS"),
}
_ARRAYS = (*_KINDS, "label")
_HEAD = tuple(field.name for field in fields(Record) if field.name not in (*_ARRAYS, "outputs"))


class _Version(msgspec.Struct):
    """The key that says whether the rest can be read at all."""

    version: int


class _Head(_Version, forbid_unknown_fields=True):
    """What a record's file says beside its arrays; see `Record`."""

    bundle: str
    files: dict[str, str]
    constants: dict[str, tuple[float, ...]]
    exits: tuple[str, ...]
    segments: tuple[str, ...]


def read_record(path: str | os.PathLike[str]) -> Record:
    """Returns a saved record.

    Raises:
        TuneError: Not there, or not a whole record of this version.
    """
    place = absolute(path, TuneError)
    what = str(shown(place))
    try:
        with open_regular(place) as file:
            stored = read_npz(file, what, TuneError, stored=True)
        if missing := [name for name in ("head", *_ARRAYS) if name not in stored]:
            raise TuneError(f"{what} is not a record of `tune`: it holds no {missing[0]!r}; collect again")
        text = str(stored["head"])
        if msgspec.json.decode(text, type=_Version).version != VERSION:
            raise TuneError(f"{what}: a record of another version; collect again")
        head = msgspec.json.decode(text, type=_Head)
    except (OSError, IntegrityError) as error:
        told = error.strerror if isinstance(error, OSError) else None
        raise TuneError(f"cannot read the record {what}: {told or error}") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise TuneError(f"{what} is not a record of `tune` ({first_line(error)}); collect again") from error
    outputs = {key.removeprefix(_OUTPUT): array for key, array in stored.items() if key.startswith(_OUTPUT)}
    values: dict[str, Any] = {name: getattr(head, name) for name in _HEAD} | {name: stored[name] for name in _ARRAYS}
    found = Record(**values, outputs=outputs)
    check_whole(found, what)
    return found


def check_whole(record: Record, what: str) -> None:
    """Refuses a record that is not as `Record` says, whoever made it; takes time and memory linear in its size.

    Args:
        record: Of which nothing is known but that its arrays are arrays.
        what: Names it in errors.

    Raises:
        TuneError: Says what is wrong, and what is expected.
    """
    for fault in _faults(record):
        raise TuneError(f"{what} is not a record of `tune`: {fault}; collect again")


def _faults(record: Record) -> Iterator[str]:
    """Yields what is wrong, the first of which may make nonsense of the others."""
    yield from _misshapen(record)
    met, exits = record.exit != NO_EXIT, len(record.exits)
    if record.row[0] < 0 or (record.row[1:] <= record.row[:-1]).any():
        yield "its rows do not ascend"
    if record.exit.min() < NO_EXIT or record.exit.max() >= exits:
        yield f"its exits are numbered {record.exit.min()} to {record.exit.max()}, expected {NO_EXIT} to {exits - 1}"
    if not met[:, 0].all() or (met[:, 1:] & ~met[:, :-1]).any():
        yield "a row has no visit, or one behind its last"
    if not np.isnan(record.confidence[~met]).all():
        yield "there are confidences without a visit"
    if record.prediction.min() < NO_CLASS:
        yield f"it names class {record.prediction.min()}, expected {NO_CLASS} or more"
    if record.way.min() < 0 or record.way.max() >= len(record.ways) or record.ways.min() < 0:
        yield "there are visits without a way to them, or ways that run a segment less than never"


def _misshapen(record: Record) -> Iterator[str]:
    """Yields names that are not told apart, and arrays of another shape or dtype."""
    for what, names in (("exits", record.exits), ("segments", record.segments)):
        if not names or len(set(names)) < len(names):
            yield f"its {what} are {shortened(list(names))}, expected names that differ"
    sizes = {"S": len(record.segments)}
    for name, (dtype, axes) in _KINDS.items():
        array = getattr(record, name)
        same = array.ndim == len(axes) and all(map(_is_size, array.shape, axes, [sizes] * len(axes)))
        if not same or array.dtype != dtype or not array.size:
            yield _told(name, array, f"{dtype}[{', '.join(str(sizes.get(axis) or axis) for axis in axes)}]")
    visits = record.exit.shape
    if record.label.shape[:1] != visits[:1]:
        yield _told("label", record.label, f"one for each of {len(record)} rows")
    for name, array in record.outputs.items():
        if array.shape[:2] != visits or array.dtype.kind not in "biuf":
            yield _told(f"the output {name!r}", array, f"numbers of shape [{visits[0]}, {visits[1]}, ...]")


def _is_size(size: int, axis: str, sizes: dict[str, int]) -> bool:
    """Whether an axis is as long as it was where it was seen first, which may be here."""
    return sizes.setdefault(axis, size) == size


def _told(name: str, array: Array, expected: str) -> str:
    return f"{name} is {array.dtype}{list(array.shape)}, expected {expected}"


def calibrated_path(record: str | os.PathLike[str]) -> Path:
    """Returns where what the fitted temperatures give is kept beside a record."""
    return Path(record).with_suffix(".calibrated.npz")


def merge(records: Sequence[Record]) -> Record:
    """Returns the record of all rows of several records of one bundle, in the data set's order; a row counts once.

    Their order, and which rows are in which of them, do not change the result.

    Raises:
        TuneError: None, or records of different bundles, constants or data.
    """
    if not records:
        raise TuneError("no record to merge")
    first = records[0]
    for other in records[1:]:
        if not same_source(first, other):
            raise TuneError(f"records of different bundles, or with other constants: {first.bundle}, {other.bundle}")
        if other.label.shape[1:] != first.label.shape[1:]:
            raise TuneError(f"labels of different shapes: {first.label.shape[1:]}, {other.label.shape[1:]}")
    ways, numbers = np.unique(np.concatenate([record.ways for record in records]), axis=0, return_inverse=True)
    starts = np.cumsum([0, *(len(record.ways) for record in records)])
    wide = max(record.exit.shape[1] for record in records)
    mapped = [
        replace(record, way=numbers.reshape(-1)[record.way + start].astype(np.int32))
        for record, start in zip(records, starts, strict=False)
    ]
    row = np.concatenate([record.row for record in records])
    digest = np.concatenate([record.digest for record in records])
    _, once, place = np.unique(row, return_index=True, return_inverse=True)
    if (digest != digest[once][place.reshape(-1)]).any():
        raise TuneError("records of different data: a row has other inputs in one than in another")
    exit_ = np.concatenate([_widen(r.exit, wide, NO_EXIT) for r in records])[once]
    way = np.concatenate([_widen(r.way, wide, 0) for r in mapped])[once]
    return replace(
        first,
        row=row[once],
        digest=digest[once],
        label=np.concatenate([record.label for record in records])[once],
        exit=exit_,
        confidence=np.concatenate([_widen(r.confidence, wide, np.nan) for r in records])[once],
        prediction=np.concatenate([_widen(r.prediction, wide, NO_CLASS) for r in records])[once],
        way=np.where(exit_ == NO_EXIT, np.int32(0), way),
        ways=ways.astype(np.int32),
        outputs={name: array[once] for name, array in _merged_outputs(records, wide).items()},
    )


def _merged_outputs(records: Sequence[Record], wide: int) -> dict[str, Array]:
    """Returns the outputs that have one shape and dtype wherever rows met them, sorted by name."""
    found = {}
    for name in sorted(set.intersection(*(set(record.outputs) for record in records))):
        arrays = [record.outputs[name] for record in records]
        kinds = {(array.shape[2:], array.dtype) for array in arrays if not is_unmet(array)}
        if len(kinds) > 1:
            continue
        tail, dtype = next(iter(kinds), ((0,), np.dtype(bool)))
        filled = [np.zeros((*a.shape[:2], *tail), dtype) if is_unmet(a) else a for a in arrays]
        found[name] = np.concatenate([_widen(array, wide, 0) for array in filled])
    return found


def unmet(shape: tuple[int, int]) -> Array:
    """Returns what holds the place of an output that no row has met so far: it has no numbers yet, and no shape."""
    return np.zeros((*shape, 0), bool)


def is_unmet(array: Array) -> bool:
    """Whether an output is held open by `unmet`."""
    return array.dtype == bool and array.shape[2:] == (0,)


def trimmed(record: Record, plan: Manifest) -> Record:
    """Returns a record of some rows of another one as if only they had been collected: without what only others met."""
    held = [record.exits[e] for e in np.unique(record.exit[record.exit != NO_EXIT])]
    own_outputs = {name for exit_ in held for name in plan.exits[exit_].outputs}
    met = record.exit != NO_EXIT
    visits = int(met.sum(axis=1).max())
    used, numbers = np.unique(record.way[met], return_inverse=True)
    way = np.zeros_like(record.way)
    way[met] = numbers.reshape(-1)
    own = {name: getattr(record, name)[:, :visits] for name in ("exit", "confidence", "prediction")}
    shape = len(record), visits
    outputs = {
        name: array[:, :visits] if name in own_outputs else unmet(shape) for name, array in record.outputs.items()
    }
    return replace(record, **own, way=way[:, :visits], ways=record.ways[used], outputs=outputs)


def without_unmet(record: Record) -> Record:
    """Returns a record without outputs that no row met."""
    return replace(record, outputs={name: array for name, array in record.outputs.items() if not is_unmet(array)})


def same_source(one: Record, other: Record) -> bool:
    """Whether two records tell of the same graphs with the same constants."""
    return (one.files, one.constants, one.exits, one.segments) == (
        other.files, other.constants, other.exits, other.segments
    )  # fmt: skip


def values_of(plan: Manifest) -> dict[str, tuple[float, ...]]:
    """Returns the values of the plan's constants by name, flat."""
    return {name: tuple(map(float, constant.data)) for name, constant in plan.constants.items()}


def criterion_values(plan: Manifest, values: Values) -> dict[str, tuple[float, ...]]:
    """Returns those of the constants' values that criteria read: temperatures, weights, members' thresholds."""
    named = [name for exit_ in plan.exits.values() for _, name in exit_.criterion.named_constants()]
    return {name: values[name] for name in named}


def check_bundle(record: Record, plan: Manifest) -> None:
    """Refuses a record of another bundle.

    Raises:
        TuneError: Says so.
    """
    segments = tuple(name for name, segment in plan.segments.items() if segment.model is not None)
    own = (digests(plan), tuple(plan.exits), segments, _counts(values_of(plan)))
    if (record.files, record.exits, record.segments, _counts(record.constants)) != own:
        raise TuneError(f"this record is of another bundle, {record.bundle!r}, or of another build of {plan.name!r}")


def _counts(values: Values) -> dict[str, int]:
    """Returns how many values each constant has."""
    return {name: len(each) for name, each in values.items()}


def _widen(array: Array, visits: int, fill: float) -> Array:
    """Returns (N, V, ...) padded to (N, visits, ...)."""
    missing = visits - array.shape[1]
    if not missing:
        return array
    return np.concatenate([array, np.full((len(array), missing, *array.shape[2:]), fill, array.dtype)], axis=1)
