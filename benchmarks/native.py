"""The native runner beside Python's, the whole network as one session and the plan as one file: the trained cases.

The native runner is timed from C, in the process of the others and in turns with them, on the same rows and files.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.cases.catalogue import load_case
from benchmarks.native_library import Native, build
from benchmarks.peers import BUNDLE, Peer, exit_name, openings
from benchmarks.real_cases import lay_out
from benchmarks.real_process import Setup, check
from benchmarks.section import Row, Section, met, publish
from benchmarks.turns import Way, ratio, timed
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.bundle import load

CASES = ("mnist", "mobilenet", "reviews")
PROCESSES, SECONDS = 3, 15.0
ROWS = {"mnist": 500, "mobilenet": 500, "reviews": 60}
"""Of the test rows."""
MAX_RATIO = 1.0
OTHERS = ("python", "whole", "one file")
_FULL = ", full path"


def _over(name: str, other: str) -> str:
    return f"{name} / {other}"


def _ratio(key: str) -> tuple[str, Any]:
    def spell(row: Row) -> str:
        found = row["ratios"].get(key)
        return "-" if found is None else "{:.3f} ({:.3f} to {:.3f})".format(*found)

    return key, spell


SECTION = Section(
    "native",
    "The native runner beside Python's",
    (
        "Trained networks on held-out rows, one row at a time, one thread, thresholds as above; all in one process in "
        "turns, each row's median over the rounds, of these the mean. The native runner is called from C, all else "
        "from Python, as it is used there. In brackets 95 % bootstrap intervals over rows and processes. A full path "
        f"is a call in which no exit fires. Target: native / python at most {MAX_RATIO}, of both."
    ),
    (
        ("network", lambda row: str(row["network"])),
        ("native, ms", lambda row: f"{row['mean_ms']['native']:.4f}"),
        *(_ratio(_over("native", other)) for other in OTHERS),
        _ratio(_over("native" + _FULL, "python" + _FULL)),
        ("met", met),
    ),
)


def main(names: tuple[str, ...] = ()) -> None:
    """Measures all cases, or only some, which is not stored."""
    build()
    publish(SECTION, [measure(name) for name in names or CASES], keep=not names)


def measure(name: str, processes: int = PROCESSES, seconds: float = SECONDS) -> Row:
    """Returns the figures of one case."""
    case = load_case(name)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        lay_out(case, folder, ROWS[name])
        for process in range(processes):
            command = [sys.executable, "-m", "benchmarks.native", str(folder), str(process), str(seconds)]
            subprocess.run(command, check=True)
        peers = json.loads((folder / "peers.json").read_text())
        times = [np.load(folder / f"times-{process}.npy") for process in range(processes)]
    rows = {peer: np.stack([np.median(one[:, place], axis=0) for one in times]) for place, peer in enumerate(peers)}
    pairs = [("native", other) for other in OTHERS if other in rows] + [("native" + _FULL, "python" + _FULL)]
    ratios = {_over(a, b): ratio(rows[a], rows[b]) for a, b in pairs}
    limited = [ratios[_over(*pair)][0] for pair in pairs if pair[1].startswith("python")]
    return {
        "network": case.title, "rows": len(rows["native"][0]), "rounds": [len(one) for one in times],
        "mean_ms": {peer: float(found.mean()) for peer, found in rows.items()}, "ratios": ratios,
        "met": max(limited) <= MAX_RATIO, "threads": 1,
    }  # fmt: skip


class NativeWay(Way):
    """The native runner, timed from C."""

    def take_turn(self, rows: list[int], found: Array) -> None:  # type: ignore[override] - turns are lists
        """As `Way.take_turn`."""
        self.run(rows, found)


def child(folder: Path, process: int, seconds: float) -> None:
    """Opens the peers, checks their answers, times them and saves (rounds, peers, rows) in ms."""
    setup = msgspec.json.decode((folder / "setup.json").read_bytes(), type=Setup)
    case = load_case(setup.case)
    rows = [case.test.rows[row] for row in setup.rows]
    opening = openings(setup.policy, setup.fixed, setup.stops, rows, folder, 1)
    plan = load(folder / BUNDLE).manifest
    last = exit_name(setup.exits[-1])
    wanted = [name for name in ("native", "bundle", "whole", "one file") if name in ("native", *opening)]
    opened: dict[str, Any] = {}
    for name in np.random.default_rng(process).permutation(wanted).tolist():  # where memory lies is worth some per cent
        opened[name] = Native(folder / BUNDLE, plan, rows, threads=1) if name == "native" else opening[name]()
    native, bundle = opened["native"], opened["bundle"]
    kept = {exit_name(number): number for number in setup.exits}
    answers = [native.calls(), native.calls(exit_at=last)]
    peers: dict[str, Peer] = {name: opened[name] for name in wanted if name != "native"}
    checked = Peer(list(answers[0]), native.run, lambda found: (found[1]["logits"], kept[found[0]]))
    logits = np.load(folder / "logits.npy")
    for name, peer in {**peers, "native": checked}.items():
        check(name, peer, logits, setup.stops)
    ways: dict[str, Way] = {
        "native": NativeWay(rows, partial(native.time, answers[0])),
        "native" + _FULL: NativeWay(rows, partial(native.time, answers[1])),
        "python": bundle,
        "python" + _FULL: Way(bundle.given, partial(bundle.run, exit_at=last)),
        **{name: peers[name] for name in ("whole", "one file") if name in peers},
    }
    (folder / "peers.json").write_text(json.dumps(list(ways)))
    np.save(folder / f"times-{process}.npy", timed(ways, seconds, process, settle=False))


if __name__ == "__main__":
    if len(sys.argv) == 4 and Path(sys.argv[1]).is_dir():
        child(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
    else:
        main(tuple(sys.argv[1:]))
