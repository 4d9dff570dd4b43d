"""Blocks of rows through one part of a network, by Ray's workers, for what exits are fitted to."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from eetoolkit.cluster.dataset import told
from eetoolkit.cluster.workers import count_and_share
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import EEToolkitError

if TYPE_CHECKING:
    from eetoolkit_exporters.attaching.part_session import PartSession

_AHEAD = 2  # blocks for each worker


def map_blocks(part: PartSession, blocks: Iterator[dict[str, Array]]) -> Iterator[dict[str, Array]]:
    """Yields what a part computes of each block, in their order; the cluster's workers run them, a few at a time.

    A worker that dies is replaced, and its blocks are run again.

    Raises:
        ExportError: A worker's onnxruntime fails on a block.
        RunError: Ray failed.
    """
    import ray

    count, share = count_and_share(part.threads or 1)
    waiting: deque[Any] = deque()
    with told():
        sent = ray.put(part)
        settings = {"num_cpus": share, "max_restarts": -1, "max_task_retries": -1}
        workers: list[Any] = [ray.remote(_Worker).options(**settings).remote(sent) for _ in range(count)]
        for number, block in enumerate(blocks):
            waiting.append(workers[number % count].run.remote(block))
            if len(waiting) == _AHEAD * count:
                yield _given(ray.get(waiting.popleft()))
        while waiting:
            yield _given(ray.get(waiting.popleft()))


class _Worker:
    """An actor with the session of a part."""

    def __init__(self, part: PartSession) -> None:
        self._part = part

    def run(self, block: Mapping[str, Array]) -> dict[str, Array] | EEToolkitError:
        """Returns the values, or what was wrong as a value: as an error, Ray would try again."""
        try:
            return self._part.run(block)
        except EEToolkitError as error:
            return error


def _given(found: dict[str, Array] | EEToolkitError) -> dict[str, Array]:
    if isinstance(found, EEToolkitError):
        raise found
    return found
