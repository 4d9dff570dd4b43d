"""How many of Ray's workers there may be, and what each takes of its machine."""

from __future__ import annotations

from typing import Any

import numpy as np

from eetoolkit_runtime.running.inputs import InputPlan

_BLOCK_BYTES = 16 << 20
_MOST_ROWS = 1024
_UNKNOWN_SIZE = 256  # of a dimension that a row decides


def pool(threads: int) -> dict[str, Any]:
    """Returns the arguments of `map_batches` for a pool of actors, of as many as the cluster's processors allow."""
    import ray.data

    count, share = count_and_share(threads)
    return {"compute": ray.data.ActorPoolStrategy(min_size=1, max_size=count), "num_cpus": share}


def count_and_share(threads: int) -> tuple[int, float]:
    """Returns how many actors of so many threads the cluster's processors allow, and how many each asks for.

    An actor asks for a little less than its threads, so that a processor is left on each machine for what reads rows:
    otherwise actors and readers would wait for each other on a small cluster.
    """
    import ray

    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call] # Ray types it nowhere
    machines = [int(node["Resources"].get("CPU", 0)) for node in found if node["Alive"]]
    counts = [(cpus, cpus // threads) for cpus in machines if cpus >= threads]
    share = min(float(threads), *((cpus - 1) / count for cpus, count in counts)) if counts else 0.0
    return sum(count for _, count in counts) or 1, share if share < 1 else int(share)  # Ray takes no 1.5


def rows_at_once(plan: InputPlan) -> int:
    """Returns how many rows go to a worker together: as many as some 16 MiB hold, and 1,024 at most."""
    row = sum(
        np.dtype(spec.dtype).itemsize
        * int(np.prod([d if isinstance(d, int) else _UNKNOWN_SIZE for d in spec.shape[1:]]))
        for spec in plan.inputs
    )
    return int(np.clip(_BLOCK_BYTES // max(row, 1), 1, _MOST_ROWS))
