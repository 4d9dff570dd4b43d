"""The web runner beside the whole network as one session: the trained cases, in Node and in headless Chromium.

Both run on the same onnxruntime, in turns in one process or page; `runtime/web/bench` times them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors.numpy import save_file

from benchmarks import peers
from benchmarks.cases.case import Case
from benchmarks.cases.catalogue import load_case
from benchmarks.policy import Policy
from benchmarks.real_cases import lay_out
from benchmarks.section import Row, Section, met, publish
from benchmarks.turns import ratio
from benchmarks.web_page import WEB, Page
from eetoolkit_runtime.bundle.bundle import load

CASES = ("mnist", "mobilenet", "reviews")
PROCESSES, SECONDS = 3, 6.0
ROWS = {"mnist": 100, "mobilenet": 100, "reviews": 25}
"""Of the test rows."""
MAX_RATIO = 1.10
"""Of a full path in Node to the session that computes the same outputs."""
SAME, BARE, LAST = "same outputs", "without criteria", "last exit"
BUNDLE, FULL, BY_HAND = "bundle", "bundle, full path", "by hand"
RATIOS = {
    (FULL, SAME): "full path / same outputs",
    (FULL, BARE): "/ without criteria",
    (BY_HAND, SAME): "by hand / same outputs",
    (FULL, BY_HAND): "full path / by hand",
    (BUNDLE, LAST): "call / last exit",
}
Measure = Callable[[Path, int, float], dict[str, Any]]


def _ratio(heading: str) -> tuple[str, Callable[[Row], str]]:
    return heading, lambda row: "{:.3f} ({:.3f} to {:.3f})".format(*row["ratios"][heading])


SECTION = Section(
    "web",
    "The web runner beside one session of the same onnxruntime",
    (
        "Trained networks on held-out rows, one row at a time, one thread; all in one process, or one isolated page of "
        "headless Chromium, in turns, each row's median over the rounds, of these the mean. In brackets 95 % bootstrap "
        "intervals over rows and processes. A full path is a call in which no exit fires. It is held against one "
        "session that computes the same exits with the same criteria, and one without criteria; by hand: the same "
        "segments run one after the other by onnxruntime's interface alone. A call, with thresholds as above, is held "
        f"against one session to the last exit. Target: full path / same outputs at most {MAX_RATIO} in Node."
    ),
    (
        ("network", lambda row: str(row["network"])),
        ("in", lambda row: str(row["where"])),
        ("full path, ms", lambda row: f"{row['mean_ms'][FULL]:.3f}"),
        ("call, ms", lambda row: f"{row['mean_ms'][BUNDLE]:.3f}"),
        *map(_ratio, RATIOS.values()),
        ("met", met),
    ),
)


def main(names: tuple[str, ...] = ()) -> None:
    """Measures all cases, or only some, which is not stored."""
    build()
    rows = [row for name in names or CASES for row in measure(name)]
    publish(SECTION, rows, keep=not names)


def build() -> None:
    """Bundles the programs that measure."""
    common = ["--bundle", "--format=esm", "--log-level=warning"]
    node = ["--platform=node", "--external:onnxruntime-node", "--outfile=build/chain.node.mjs"]
    browser = ["--external:node:*", "--outfile=build/chain.browser.js"]
    esbuild = str(WEB / "node_modules" / ".bin" / "esbuild")
    for source, options in (("chain.node.ts", node), ("chain.browser.ts", browser)):
        subprocess.run([esbuild, f"bench/{source}", *common, *options], cwd=WEB, check=True)


def measure(name: str, processes: int = PROCESSES, seconds: float = SECONDS) -> list[Row]:
    """Returns the figures of one case in Node and in Chromium."""
    case = load_case(name)
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as opened:
        folder = Path(temporary)
        prepare(case, folder, ROWS[name])
        page = opened.enter_context(Page.over(folder))
        places: dict[str, Measure] = {"Node": in_node, "Chromium": page.measure}
        found: dict[str, list[dict[str, Any]]] = {where: [] for where in places}
        for process in range(processes):
            for where, run in places.items():
                found[where].append(run(folder, process, seconds))
    return [_row(case, where, each) for where, each in found.items()]


def prepare(case: Case, folder: Path, count: int) -> None:
    """Writes the bundle, the whole networks, `rows.safetensors` and `web.json` into a folder."""
    setup = lay_out(case, folder, count, _write).setup
    exits = [peers.exit_name(number) for number in setup.exits]
    plan = load(folder / peers.BUNDLE).manifest
    tensors = {
        f"{place}.{spec.name}": np.ascontiguousarray(array)
        for place, row in enumerate(setup.rows)
        for spec, array in zip(plan.inputs, case.test.rows[row], strict=True)
    }
    logits = np.load(folder / "logits.npy")
    tensors |= {f"logits{place}": np.ascontiguousarray(logits[exit_]) for place, exit_ in enumerate(setup.exits)}
    save_file(tensors, folder / "rows.safetensors")
    told = {
        "exits": exits,
        "stops": [setup.exits.index(stop) for stop in setup.stops],
        "wholes": {name: f"{name}.onnx" for name in (SAME, BARE, LAST)},
        "bundle": ["manifest.json", *plan.files],
    }
    (folder / "web.json").write_bytes(msgspec.json.encode(told))


def _write(case: Case, policy: Policy, _fixed: int, folder: Path) -> None:
    peers.export_bundle(case, policy, folder / peers.BUNDLE)
    network = peers.judged(case)
    exits = [peers.exit_name(number) for number in policy.exits]
    for name, kept in ((SAME, exits), (BARE, exits), (LAST, exits[-1:])):
        peers.save(network, kept, folder / f"{name}.onnx", confidences=name == SAME)


def in_node(folder: Path, seed: int, seconds: float) -> dict[str, Any]:
    """Returns what one process of Node measured."""
    command = ["node", str(WEB / "build" / "chain.node.mjs"), str(folder), str(seed), str(seconds)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found


def _row(case: Case, where: str, found: list[dict[str, Any]]) -> Row:
    names = found[0]["names"]
    times = [np.array(one["times"]) for one in found]
    rows = {name: np.stack([np.median(one[:, place], axis=0) for one in times]) for place, name in enumerate(names)}
    ratios = {heading: ratio(rows[above], rows[below]) for (above, below), heading in RATIOS.items()}
    return {
        "network": case.title, "where": where, "rows": rows[FULL].shape[1], "rounds": [len(one) for one in times],
        "mean_ms": {name: float(each.mean()) for name, each in rows.items()}, "ratios": ratios,
        "met": ratios[RATIOS[FULL, SAME]][0] <= MAX_RATIO if where == "Node" else None,
        "threads": 1, "versions": found[0]["versions"], "isolated": found[0].get("isolated"),
    }  # fmt: skip


if __name__ == "__main__":
    main(tuple(sys.argv[1:]))
