"""Collecting: every exit's answer for every row of a labelled data set, through the runner."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eetoolkit.reading.samples import Data, Samples, as_labels, read_samples
from eetoolkit.tuning.record import NO_CLASS, NO_EXIT, Record, check_bundle, merge, read_record, values_of
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.errors import InputError, TuneError
from eetoolkit_runtime.files.outfile import check_file
from eetoolkit_runtime.plan.types import Manifest
from eetoolkit_runtime.profiling.profile import digests
from eetoolkit_runtime.running.answer import Answer
from eetoolkit_runtime.running.inputs import row_axes, split_rows
from eetoolkit_runtime.running.providers import Providers, choose_providers
from eetoolkit_runtime.running.runner import Runner

Progress = Callable[[str, int, int], object]
_BLOCK = 1024  # rows that are kept as answers before they are packed
_SAVE_EVERY_S = 60.0


def collect(
    bundle: Bundle,
    data: Data,
    labels: npt.ArrayLike | None = None,
    *,
    rows: Array | None = None,
    file: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    providers: Providers | None = None,
    progress: Progress | None = None,
) -> Record:
    """Runs rows through all their exits and returns what these gave.

    Args:
        bundle: The bundle; its manifest's constants count.
        data: The inputs; without `labels`, pairs of the inputs and label(s) of a row or a batch. See `Data`.
        labels: One for each row.
        rows: Numbers of the rows to run; None: all.
        file: Where the record is saved, now and then too: a later call with the same file goes on where it was.
        threads: As the `Runner`'s.
        providers: As the `Runner`'s.
        progress: Is told (what, done, total) for every row; total is 0 where it is not known.

    Raises:
        InputError: Inputs that the bundle does not take, no rows, or another number of labels.
        TuneError: The file is a record of something else.
        EEToolkitError: The file cannot be written.
    """
    plan = bundle.manifest
    if file is not None:
        check_file(file, overwrite=True)
    total, samples = read_samples(plan, data, labels)
    wanted = None if rows is None else frozenset(np.asarray(rows).tolist())
    if wanted is not None:
        total = len(wanted)
    tell = progress or (lambda _what, _done, _total: None)
    kept, seen = _Kept(plan, file), []
    try:
        with Runner(bundle, threads=threads, providers=choose_providers(providers)) as runner:
            for place, (inputs, label) in enumerate(_rows(plan, samples)):
                if wanted is not None and place not in wanted:
                    continue
                digest = _digest(inputs, label)
                if not kept.has(place, digest):
                    kept.add(_Row(place, digest, label, runner.run_all_exits(inputs)))
                seen.append(place)
                tell("collecting", len(seen), total if len(seen) <= total else 0)
    finally:  # an interrupt loses nothing
        kept.save()
    if not seen:
        raise InputError("no rows to collect")
    found = kept.record
    return found.take(np.isin(found.row, seen))


@dataclass(frozen=True, eq=False)
class _Row:
    """A row's number, digest and label, and the answers of all exits that it meets."""

    number: int
    digest: int
    label: Any
    answers: list[Answer]


class _Kept:
    """The rows of a record that grows: packed block by block, and saved now and then where there is a file."""

    def __init__(self, plan: Manifest, file: str | os.PathLike[str] | None) -> None:
        self._plan, self._file = plan, file
        self._parts = _resume(file, plan)
        self._waiting: list[_Row] = []
        self._saved_s = time.monotonic()
        self._known = {
            row: digest
            for part in self._parts
            for row, digest in zip(part.row.tolist(), part.digest.tolist(), strict=True)
        }

    @property
    def record(self) -> Record:
        """All rows that were packed."""
        return merge(self._parts)

    def has(self, number: int, digest: int) -> bool:
        """Whether the file held this row.

        Raises:
            TuneError: It held another one of this number.
        """
        known = self._known.get(number)
        if known not in (None, digest):
            raise TuneError(f"{self._file} is a record of other data: row {number} differs; choose another file")
        return known is not None

    def add(self, row: _Row) -> None:
        """Adds a row that was run."""
        self._waiting.append(row)
        if len(self._waiting) == _BLOCK:
            self._pack()
            if time.monotonic() - self._saved_s > _SAVE_EVERY_S:
                self.save()

    def save(self) -> None:
        """Packs what waits, and writes the file if there is one."""
        self._pack()
        if self._file is not None and self._parts:
            self._parts = [merge(self._parts)]
            self._parts[0].save(self._file)
            self._saved_s = time.monotonic()

    def _pack(self) -> None:
        if self._waiting:
            self._parts.append(_pack(self._plan, self._waiting))
            self._waiting = []


def _resume(file: str | os.PathLike[str] | None, plan: Manifest) -> list[Record]:
    if file is None or not Path(file).exists():
        return []
    found = read_record(file)
    check_bundle(found, plan)
    if found.constants != values_of(plan):
        raise TuneError(f"{file} was collected with other temperatures or weights; choose another file")
    return [found]


def _rows(plan: Manifest, samples: Iterator[Samples]) -> Iterator[tuple[tuple[Array, ...], Any]]:
    """Yields each row's inputs and its label."""
    alone = all(axis is None for axis in row_axes(plan))
    for place, sample in enumerate(samples):
        if sample.labels is None:
            raise InputError(f"sample {place} is no pair of inputs and label; pass labels, or pairs")
        rows = [sample.inputs] if alone else split_rows(plan, sample.inputs)
        yield from zip(rows, sample.labels, strict=True)


def _digest(arrays: tuple[Array, ...], label: Any) -> int:
    sha = hashlib.blake2b(str(np.asarray(label).tolist()).encode(), digest_size=8)
    for array in arrays:
        sha.update(str((array.dtype, array.shape)).encode())
        sha.update(np.ascontiguousarray(array).data)
    return int.from_bytes(sha.digest(), "little")


def _pack(plan: Manifest, rows: Sequence[_Row]) -> Record:
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
        outputs=_outputs([row.answers for row in rows], shape),
    )


def _outputs(all_answers: Sequence[list[Answer]], shape: tuple[int, int]) -> dict[str, Array]:
    """Returns the outputs by name, (N, V, ...), of those that have one shape and dtype for all rows and exits."""
    kinds: dict[str, set[tuple[tuple[int, ...], str]]] = {}
    for answers in all_answers:
        for answer in answers:
            for name, array in answer.outputs.items():
                tail = array.shape[1:] if array.ndim and array.shape[0] == 1 else (None,)
                kinds.setdefault(name, set()).add((tail, array.dtype.str))
    found = {}
    for name, kind in kinds.items():
        (tail, dtype), *others = kind
        if others or None in tail:
            continue
        found[name] = np.zeros((*shape, *tail), dtype)
        for n, answers in enumerate(all_answers):
            for v, answer in enumerate(answers):
                if name in answer.outputs:
                    found[name][n, v] = answer.outputs[name][0]
    return found
