"""One process of `benchmarks.real_cases`: opens every peer of a case, checks its answers, and times all in turns."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from benchmarks.cases.catalogue import load_case
from benchmarks.peers import Peer, open_peers
from benchmarks.policy import Policy
from benchmarks.turns import timed
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.verify import difference

_SAME = 1e-4


class Setup(msgspec.Struct, frozen=True):
    """What the parent has decided and its children measure.

    Attributes:
        rows: Numbers of the test rows that are timed.
        stops: The exit of each of them.
        fixed: Where the static network ends.
    """

    case: str
    exits: tuple[int, ...]
    thresholds: tuple[float, ...]
    fixed: int
    rows: tuple[int, ...]
    stops: tuple[int, ...]

    @property
    def policy(self) -> Policy:
        """The exits that are kept, and their thresholds."""
        return Policy(self.exits, self.thresholds)


def run(folder: Path, threads: int | None, process: int, seconds: float) -> dict[str, Any]:
    """Opens the peers, checks them against the eager network, times them and saves (rounds, peers, rows) in ms."""
    warnings.filterwarnings("ignore")  # torch's exporter and earlyon's estimate of multiply-adds, which is not used
    setup = msgspec.json.decode((folder / "setup.json").read_bytes(), type=Setup)
    if threads is not None:
        torch.set_num_threads(threads)  # else one per core, torch's own default
    case = load_case(setup.case)
    rows = [case.test.rows[row] for row in setup.rows]
    peers, refused = open_peers(case, setup.policy, setup.fixed, setup.stops, rows, folder, threads, process)
    wanted = np.load(folder / "logits.npy")
    for name, peer in peers.items():
        check(name, peer, wanted, setup.stops)
    times = folder / f"times-{threads or 0}-{process}.npy"
    np.save(times, timed(peers, seconds, process, settle=threads != 1))
    return {"times": str(times), "peers": list(peers), "refused": refused}


def check(name: str, peer: Peer, wanted: Array, stopped: tuple[int, ...]) -> None:
    """Refuses to time what answers otherwise than the eager network, or stops elsewhere.

    Args:
        name: The peer's.
        peer: It.
        wanted: The eager network's logits, (exits, rows, classes).
        stopped: The exit of each row; `whole` and `fixed` have their own.
    """
    for row, item in enumerate(peer.given):
        found, exit_ = peer.answer(peer.run(item))
        if name not in ("whole", "fixed") and exit_ != stopped[row]:
            raise RuntimeError(f"{name} stops at exit {exit_} on row {row}, the network at {stopped[row]}")
        if difference(found[0], wanted[exit_, row]) > _SAME:
            raise RuntimeError(f"{name} answers otherwise than the eager network on row {row}")


if __name__ == "__main__":
    told, workers, number, budget = sys.argv[1:]
    print(json.dumps(run(Path(told), int(workers) or None, int(number), float(budget))))
