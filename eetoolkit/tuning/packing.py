"""Packing: the answers of rows at all their exits, as a record of these rows.

What is packed together does not change what is merged later: an output that no row met yet is held open.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eetoolkit.reading.samples import as_labels
from eetoolkit.tuning.record import NO_CLASS, NO_EXIT, Record, unmet, values_of
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.plan.types import Manifest
from eetoolkit_runtime.profiling.profile import digests
from eetoolkit_runtime.running.answer import Answer


@dataclass(frozen=True, eq=False)
class Row:
    """A row's number, digest and label, and the answers of all exits that it meets."""

    number: int
    digest: int
    label: Any
    answers: list[Answer]


def digest_of(arrays: tuple[Array, ...], label: Any) -> int:
    """Returns what tells a row's inputs and label from others, 64 bits."""
    sha = hashlib.blake2b(str(np.asarray(label).tolist()).encode(), digest_size=8)
    for array in arrays:
        sha.update(str((array.dtype, array.shape)).encode())
        sha.update(np.ascontiguousarray(array).data)
    return int.from_bytes(sha.digest(), "little")


def pack(plan: Manifest, rows: Sequence[Row]) -> Record:
    """Returns the record of some rows."""
    exits = tuple(plan.exits)
    segments = tuple(name for name, segment in plan.segments.items() if segment.model is not None)
    numbers = {name: number for number, name in enumerate(exits)}
    shape = len(rows), max(len(row.answers) for row in rows)
    exit_, confidence = np.full(shape, NO_EXIT, np.int16), np.full(shape, np.nan, np.float32)
    prediction, way = np.full(shape, NO_CLASS, np.int64), np.zeros(shape, np.int32)
    ways: dict[tuple[str, ...], int] = {}
    for n, row in enumerate(rows):
        for v, answer in enumerate(row.answers):
            exit_[n, v], confidence[n, v] = numbers[answer.exit], answer.confidence
            prediction[n, v] = NO_CLASS if answer.prediction is None else answer.prediction
            way[n, v] = ways.setdefault(answer.path, len(ways))
    counts = np.zeros((len(ways), len(segments)), np.int32)
    for path, place in ways.items():
        for name, times in Counter(path).items():
            counts[place, segments.index(name)] = times
    return Record(
        bundle=plan.name,
        files=digests(plan),
        constants=values_of(plan),
        exits=exits,
        segments=segments,
        row=np.array([row.number for row in rows], np.int64),
        digest=np.array([row.digest for row in rows], np.uint64),
        label=as_labels([row.label for row in rows]),
        exit=exit_,
        confidence=confidence,
        prediction=prediction,
        way=way,
        ways=counts,
        outputs=_outputs(plan, [row.answers for row in rows], shape),
    )


def _outputs(plan: Manifest, all_answers: Sequence[list[Answer]], shape: tuple[int, int]) -> dict[str, Array]:
    """Returns the outputs by name, (N, V, ...), of those that have one shape and dtype for all rows and exits.

    An output that none of the rows met is there as `unmet`; one of several shapes is not there.
    """
    kinds: dict[str, set[tuple[tuple[int | None, ...], str]]] = {}
    for answers in all_answers:
        for answer in answers:
            for name, array in answer.outputs.items():
                tail = array.shape[1:] if array.ndim and array.shape[0] == 1 else (None,)
                kinds.setdefault(name, set()).add((tail, array.dtype.str))
    found = {}
    for name in dict.fromkeys(name for exit_ in plan.exits.values() for name in exit_.outputs):
        if name not in kinds:
            found[name] = unmet(shape)
            continue
        (tail, dtype), *others = kinds[name]
        sizes = [size for size in tail if size is not None]
        if others or len(sizes) < len(tail):
            continue
        found[name] = np.zeros((*shape, *sizes), dtype)
        for n, answers in enumerate(all_answers):
            for v, answer in enumerate(answers):
                if name in answer.outputs:
                    found[name][n, v] = answer.outputs[name][0]
    return found
