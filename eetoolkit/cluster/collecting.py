"""Collecting on Ray: each worker runs blocks of rows through all exits, and sends them back packed, in order."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from eetoolkit.cluster.columns import dense, input_columns, label_column, rows_of
from eetoolkit.cluster.dataset import in_order, told
from eetoolkit.cluster.shipping import Shipped, open_shipped, ship
from eetoolkit.cluster.workers import pool, rows_at_once
from eetoolkit.reading.samples import as_labels
from eetoolkit.tuning.packing import Row, digest_of, pack
from eetoolkit.tuning.record import Record
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.errors import EEToolkitError, InputError
from eetoolkit_runtime.running.providers import Chosen
from eetoolkit_runtime.running.runner import Runner

if TYPE_CHECKING:
    from ray.data import Dataset

_SHARD = "shard"


@dataclass(frozen=True, eq=False)
class Shard:
    """Some rows that follow each other, as a worker ran them.

    Attributes:
        digests: Of all of them, uint64 (rows,).
        record: Of those that were run, each numbered by its place in the shard; None: of none.
        error: What was wrong with a row; then there is nothing else.
    """

    digests: Array
    record: Record | None
    error: EEToolkitError | None = None


def run_shards(
    bundle: Bundle, dataset: Dataset, known: Array, threads: int | None, providers: Chosen
) -> Iterator[Shard]:
    """Has Ray's workers run the rows of a dataset, and yields them as they come, in the dataset's order.

    Args:
        bundle: The bundle; its manifest's constants count.
        dataset: The rows, with a column for each input and one for labels.
        known: Digests of rows that need not be run, uint64.
        threads: Of each worker's runner; None: 1.
        providers: Of each worker's runner.

    Raises:
        BundleError: A file of the bundle is missing or changed.
        RunError: Ray failed.
    """
    workers = 1 if threads is None else threads
    with in_order(dataset), told():
        settings = _Settings(ship(bundle), np.unique(known), workers, providers)
        shards = dataset.repartition(target_num_rows_per_block=rows_at_once(bundle.manifest)).map_batches(
            Collector, fn_constructor_args=[settings], batch_size=None, batch_format="numpy", **pool(workers)
        )
        for row in shards.iter_rows():
            yield pickle.loads(row[_SHARD])  # noqa: S301 - what our own worker has sent


@dataclass(frozen=True, eq=False)
class _Settings:
    """What a worker is started with; see `run_shards`."""

    bundle: Shipped
    known: Array
    threads: int
    providers: Chosen


class Collector:
    """A worker: one runner for all blocks that come to it. Called with a block of columns, it gives one shard."""

    def __init__(self, settings: _Settings) -> None:
        self._bundle = open_shipped(settings.bundle)
        self._known = settings.known
        self._runner = Runner(self._bundle, threads=settings.threads, providers=settings.providers)

    def __call__(self, batch: dict[str, Array]) -> dict[str, Array]:
        """Returns a block's shard, pickled, in a column of one row."""
        try:
            shard = self._run(batch)
        except EEToolkitError as error:  # a value: as an error, Ray would print its traceback and try again
            count = len(next(iter(batch.values())))
            shard = Shard(np.zeros(count, np.uint64), None, type(error)(str(error)))
        cell: Array = np.empty(1, object)
        cell[0] = pickle.dumps(shard)
        return {_SHARD: cell}

    def _run(self, batch: dict[str, Array]) -> Shard:
        plan = self._bundle.manifest
        named = label_column(plan, batch.keys())
        if named is None:
            raise InputError(f"no column `labels` or `label`: there are {', '.join(batch)}")
        labels = as_labels(dense(named, batch[named]))
        rows = rows_of(plan, batch, input_columns(plan, batch.keys()))
        digests = np.array([digest_of(*pair) for pair in zip(rows, labels, strict=True)], np.uint64)
        missing = np.flatnonzero(~np.isin(digests, self._known))
        run = [Row(n, int(digests[n]), labels[n], self._runner.run_all_exits(rows[n])) for n in missing.tolist()]
        return Shard(digests, pack(plan, run) if run else None)
