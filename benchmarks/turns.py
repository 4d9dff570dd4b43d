"""Several ways to run the same rows, timed in turns, and what their differences are worth."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eetoolkit_runtime.arrays import Array

BLOCK = 25
"""Rows that one way runs in a turn: enough that its caches are as warm as in use, few enough that what else the machine
does hits all ways alike."""
_SETTLE_MS = 20.0  # after torch with several workers, which spin for a while: they would time the next peer


@dataclass(frozen=True)
class Way:
    """One way to run the rows.

    Attributes:
        given: What `run` takes, for each row.
        run: What is timed.
        torch: Whether torch's own workers run it.
    """

    given: Sequence[Any]
    run: Callable[[Any], Any]
    torch: bool = field(default=False, kw_only=True)

    def take_turn(self, rows: Sequence[int], found: Array) -> None:
        """Writes the latency of each of some rows, in ms, to its place in `found`; a call before does not count."""
        run, given, clock = self.run, self.given, time.perf_counter_ns
        run(given[rows[0]])
        for row in rows:
            item = given[row]
            start = clock()
            run(item)
            found[row] = (clock() - start) / 1e6


def timed(peers: Mapping[str, Way], seconds: float, seed: int, *, settle: bool, least_rounds: int = 2) -> Array:
    """Returns latencies in ms, (rounds, peers, rows), of as many rounds as fit into the time.

    A round is all rows in a new order; in every block of rows the peers take turns in a new order, each with one more
    call before, untimed, on the block's first row.

    Args:
        peers: All of the same rows.
        seconds: How long, roughly.
        seed: Of the orders.
        settle: Whether to wait after torch's turns.
        least_rounds: Whatever the time.
    """
    rng = np.random.default_rng(seed)
    names = list(peers)
    count = len(peers[names[0]].given)
    rounds: list[Array] = []
    ends = time.perf_counter() + seconds
    gc.collect()
    gc.disable()
    try:
        while len(rounds) < least_rounds or time.perf_counter() < ends:
            found = np.empty((len(names), count))
            order = rng.permutation(count)
            for start in range(0, count, BLOCK):
                block = order[start : start + BLOCK].tolist()
                for place in rng.permutation(len(names)).tolist():
                    peer = peers[names[place]]
                    peer.take_turn(block, found[place])
                    if settle and peer.torch:
                        _wait(_SETTLE_MS)
            rounds.append(found)
    finally:
        gc.enable()
    return np.stack(rounds)


def _wait(milliseconds: float) -> None:
    ends = time.perf_counter() + milliseconds / 1e3
    while time.perf_counter() < ends:
        pass


def compared(rows: Mapping[str, Array]) -> dict[str, dict[str, float]]:
    """Returns of each peer its latencies in ms, and the bundle's over them: of the means with their interval, of p95.

    Args:
        rows: Of each peer, `bundle` among them, each row's median over the rounds, ms, (processes, rows).
    """
    found = {}
    for name, times in rows.items():
        over, low, high = ratio(rows["bundle"], times)
        p50, p95, p99 = (float(value) for value in np.quantile(times.mean(axis=0), (0.5, 0.95, 0.99)))
        found[name] = {
            "mean_ms": float(times.mean()), "p50_ms": p50, "p95_ms": p95, "p99_ms": p99,
            "bundle_over": over, "low": low, "high": high,
        }  # fmt: skip
    for peer in found.values():
        peer["bundle_over_p95"] = found["bundle"]["p95_ms"] / peer["p95_ms"]
    return found


def ratio(above: Array, below: Array, draws: int = 1000) -> tuple[float, float, float]:
    """Returns the ratio of the mean latencies of two peers with its 95 % bootstrap interval.

    Paired: a draw takes some of the processes and some of the rows, the same of both peers.

    Args:
        above: Each row's median over the rounds, ms, (processes, rows).
        below: The same of the other peer.
        draws: Of the bootstrap.
    """
    rng = np.random.default_rng(0)
    processes, rows = above.shape
    found = np.empty(draws)
    for draw in range(draws):
        some = np.ix_(rng.integers(0, processes, processes), rng.integers(0, rows, rows))
        found[draw] = above[some].mean() / below[some].mean()
    low, high = np.quantile(found, (0.025, 0.975))
    return float(above.mean() / below.mean()), float(low), float(high)
