"""Several ways to run the same rows, timed in turns, and what their differences are worth."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import Peer

Array = NDArray[Any]

BLOCK = 25
"""Rows that one peer runs in a row: enough that its caches are as warm as in use, few enough that what else the machine
does hits all peers alike."""

_SETTLE_MS = 20.0  # after torch with several workers, which spin for a while: they would time the next peer


def timed(peers: Mapping[str, Peer], seconds: float, seed: int, *, settle: bool, least_rounds: int = 2) -> Array:
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
                    _turn(peers[names[place]], block, found[place])
                    if settle and peers[names[place]].torch:
                        _wait(_SETTLE_MS)
            rounds.append(found)
    finally:
        gc.enable()
    return np.stack(rounds)


def _turn(peer: Peer, block: list[int], found: Array) -> None:
    run, given, clock = peer.run, peer.given, time.perf_counter_ns
    run(given[block[0]])
    for row in block:
        item = given[row]
        start = clock()
        run(item)
        found[row] = (clock() - start) / 1e6


def _wait(milliseconds: float) -> None:
    ends = time.perf_counter() + milliseconds / 1e3
    while time.perf_counter() < ends:
        pass


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
