"""Collecting: every exit's answer for every row of a labelled data set, through the runner."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from eetoolkit.cluster.dataset import count_cheaply, is_dataset
from eetoolkit.reading.samples import Data, Samples, read_samples
from eetoolkit.tuning.packing import Row, digest_of, pack
from eetoolkit.tuning.record import (
    Record,
    check_bundle,
    merge,
    read_record,
    trimmed,
    values_of,
    without_unmet,
)
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.errors import InputError, TuneError
from eetoolkit_runtime.files.outfile import check_file
from eetoolkit_runtime.plan.types import Manifest
from eetoolkit_runtime.running.inputs import row_axes, split_rows
from eetoolkit_runtime.running.providers import Chosen, Providers, choose_providers
from eetoolkit_runtime.running.runner import Runner

if TYPE_CHECKING:
    from eetoolkit.cluster.collecting import Shard

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

    Rows of a Ray Data dataset are run by Ray's workers, each with a runner of its own, and give the same record: bit
    for bit where the workers' processors are alike. A worker that dies is replaced, and its rows are run again.

    Args:
        bundle: The bundle; its manifest's constants count.
        data: The inputs; without `labels`, pairs of the inputs and label(s) of a row or a batch. See `Data`. Or a
            `ray.data.Dataset` with a column for each input, by name, and a column `labels` or `label`.
        labels: One for each row.
        rows: Numbers of the rows to run; None: all.
        file: Where the record is saved, now and then too: a later call with the same file goes on where it was.
        threads: As the `Runner`'s; None: on Ray's workers 1.
        providers: As the `Runner`'s.
        progress: Is told (what, done, total) for every row, of a dataset of Ray for every block of rows; total is 0
            where it is not known.

    Raises:
        InputError: Inputs that the bundle does not take, no rows, or another number of labels.
        TuneError: The file is a record of something else.
        RunError: Ray failed.
        EEToolkitError: The file cannot be written.
    """
    plan = bundle.manifest
    if file is not None:
        check_file(file, overwrite=True)
    wanted = None if rows is None else frozenset(np.asarray(rows).tolist())
    tell = progress or (lambda _what, _done, _total: None)
    chosen, kept, seen = choose_providers(providers), _Kept(plan, file), 0
    if is_dataset(data):
        total, parts = count_cheaply(data), _by_workers(bundle, data, labels, kept, wanted, (threads, chosen))
    else:
        total, samples = read_samples(plan, data, labels)
        parts = _here(bundle, samples, kept, wanted, (threads, chosen))
    if wanted is not None:
        total = len(wanted)
    places = []
    try:
        for part in parts:
            places.append(part)
            seen += len(part)
            tell("collecting", seen, total if seen <= total else 0)
    finally:  # an interrupt loses nothing
        kept.save()
    if not seen:
        raise InputError("no rows to collect")
    found = kept.record
    return without_unmet(found.take(np.isin(found.row, np.concatenate(places))))


def _here(
    bundle: Bundle,
    samples: Iterator[Samples],
    kept: _Kept,
    wanted: frozenset[int] | None,
    settings: tuple[int | None, Chosen],
) -> Iterator[Array]:
    """Runs rows in this process, and yields the number of each when it is kept."""
    threads, providers = settings
    with Runner(bundle, threads=threads, providers=providers) as runner:
        for place, (inputs, label) in enumerate(_rows(bundle.manifest, samples)):
            if wanted is not None and place not in wanted:
                continue
            digest = digest_of(inputs, label)
            if not kept.has(place, digest):
                kept.add(Row(place, digest, label, runner.run_all_exits(inputs)))
            yield np.array([place])


def _by_workers(
    bundle: Bundle,
    data: Any,
    labels: npt.ArrayLike | None,
    kept: _Kept,
    wanted: frozenset[int] | None,
    settings: tuple[int | None, Chosen],
) -> Iterator[Array]:
    """Has Ray's workers run rows, and yields the numbers of those of each shard when they are kept."""
    from eetoolkit.cluster.collecting import run_shards

    if labels is not None:
        raise InputError("labels of a Ray dataset are a column of it, `labels` or `label`; pass no others")
    start = 0
    for shard in run_shards(bundle, data, kept.digests, *settings):
        places = np.arange(start, start + len(shard.digests))
        if shard.error is not None:
            raise type(shard.error)(f"among rows {start} to {places[-1]}: {shard.error}") from shard.error
        chosen = np.array([wanted is None or place in wanted for place in places.tolist()])
        kept.add_shard(start, shard, chosen)
        if chosen.any():
            yield places[chosen]
        start += len(places)


class _Kept:
    """The rows of a record that grows: packed block by block, and saved now and then where there is a file."""

    def __init__(self, plan: Manifest, file: str | os.PathLike[str] | None) -> None:
        self._plan, self._file = plan, file
        self._parts = _resume(file, plan)
        self._held = self._parts[0] if self._parts else None
        self._waiting: list[Row] = []
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

    @property
    def digests(self) -> Array:
        """Of the rows that the file held."""
        return np.array([], np.uint64) if self._held is None else self._held.digest

    def has(self, number: int, digest: int) -> bool:
        """Whether the file held this row.

        Raises:
            TuneError: It held another one of this number.
        """
        known = self._known.get(number)
        if known not in (None, digest):
            raise TuneError(f"{self._file} is a record of other data: row {number} differs; choose another file")
        return known is not None

    def add(self, row: Row) -> None:
        """Adds a row that was run."""
        self._waiting.append(row)
        if len(self._waiting) == _BLOCK:
            self._pack()
            self._save_in_time()

    def add_shard(self, start: int, shard: Shard, chosen: Array) -> None:
        """Adds rows that a worker ran, or passed over since the file held them.

        Args:
            start: The number of its first row.
            shard: The rows.
            chosen: Which of them are wanted, bool (rows,).

        Raises:
            TuneError: The file held another row of this number.
        """
        numbered = enumerate(shard.digests.tolist(), start)
        new = np.array([not self.has(*row) for row in numbered]) & chosen if self._known else chosen
        run = np.zeros(len(new), bool)
        if shard.record is not None:
            run[shard.record.row] = True
            if (mask := new[shard.record.row]).any():
                part = shard.record if mask.all() else trimmed(shard.record.take(mask), self._plan)
                self._parts.append(replace(part, row=part.row + start))
        if self._held is not None and (twins := np.flatnonzero(new & ~run)).size:
            self._add_twins(self._held, twins + start, shard.digests[twins])
        self._save_in_time()

    def _add_twins(self, held: Record, numbers: Array, digests: Array) -> None:
        """Adds rows whose inputs and label are those of rows of other numbers that the file held."""
        order = np.argsort(held.digest, kind="stable")
        found = order[np.searchsorted(held.digest, digests, sorter=order)]
        self._parts.append(replace(trimmed(held.take(found), self._plan), row=numbers))

    def save(self) -> None:
        """Packs what waits, and writes the file if there is one."""
        self._pack()
        if self._file is not None and self._parts:
            self._parts = [merge(self._parts)]
            self._parts[0].save(self._file)
            self._saved_s = time.monotonic()

    def _save_in_time(self) -> None:
        if time.monotonic() - self._saved_s > _SAVE_EVERY_S:
            self.save()

    def _pack(self) -> None:
        if self._waiting:
            self._parts.append(pack(self._plan, self._waiting))
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
