"""What cutting costs: the full path through all segments against the whole network as one session.

All compute every exit; the session once with every criterion, as the segments have it, and once without any, as a
network comes. It is run as its users run it, `session.run(None, feeds)`. Where weights happen to lie in memory shifts a
session's time by some per cent, so each case is measured in several processes of its own, and the median ratio is the
result. With all threads all use one shared pool, since the spinning workers of two pools would time each other.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from benchmarks.measure import interleaved_ms, median, paired_ratio, summary
from benchmarks.networks import cases
from benchmarks.section import Section, met, publish
from eetoolkit_exporters.capturing.capture import capture
from eetoolkit_exporters.capturing.cascade import open_source
from eetoolkit_exporters.capturing.source import choose_exits
from eetoolkit_exporters.criteria.confidences import add_confidences
from eetoolkit_exporters.criteria.resolve import choose_criteria
from eetoolkit_exporters.emitting.graphs import whole_model
from eetoolkit_exporters.export import export
from eetoolkit_runtime.running.runner import Runner
from eetoolkit_runtime.running.sessions import SessionSettings

PROCESSES = 5
ROUNDS = 1000
SMALL_MS, MAX_RATIO, MAX_US_PER_SEGMENT = 0.2, 1.03, 2.0


SECTION = Section(
    "chain",
    "The full path through all segments against the whole network as one session",
    (
        "All compute every exit; the whole network once with every criterion, as the chain has it, and once without "
        "any, both run as users do, `session.run(None, feeds)`. Medians of interleaved rounds, the median over "
        f"processes; with all threads all use one shared pool. Target: {MAX_RATIO} of the session without criteria "
        f"from {SMALL_MS} ms up, {MAX_US_PER_SEGMENT} us a segment over the one with them below."
    ),
    (
        ("network", lambda row: str(row["network"])),
        ("threads", lambda row: str(row["threads"])),
        ("whole, ms", lambda row: f"{row['whole_ms']:.3f}"),
        ("chain / whole", lambda row: f"{row['ratio']:.3f}"),
        ("over processes", lambda row: f"{row['ratio_low']:.3f} to {row['ratio_high']:.3f}"),
        ("chain / whole without criteria", lambda row: f"{row['bare_ratio']:.3f}"),
        ("over processes", lambda row: f"{row['bare_low']:.3f} to {row['bare_high']:.3f}"),
        ("p95 / p95", lambda row: f"{row['p95_ratio']:.3f}"),
        ("us a segment", lambda row: f"{row['us_per_segment']:.2f}"),
        ("target", lambda row: str(row["target"])),
        ("met", met),
    ),
)


def main() -> None:
    """Measures every case."""
    rows = []
    for threads in (1, None):
        for case in cases():
            found = [_child(case.name, threads) for _ in range(PROCESSES)]
            row = {
                "network": case.name,
                "threads": threads or "all",
                "whole_ms": median([f["whole"]["median_ms"] for f in found]),
                "ratio": median([f["ratio"] for f in found]),
                "ratio_low": min(f["ratio"] for f in found),
                "ratio_high": max(f["ratio"] for f in found),
                "bare_ratio": median([f["bare_ratio"] for f in found]),
                "bare_low": min(f["bare_ratio"] for f in found),
                "bare_high": max(f["bare_ratio"] for f in found),
                "p95_ratio": median([f["chain"]["p95_ms"] / f["whole"]["p95_ms"] for f in found]),
                "us_per_segment": median([f["us_per_segment"] for f in found]),
                "segments": found[0]["segments"],
            }
            small = row["whole_ms"] < SMALL_MS
            row["target"] = f"{MAX_US_PER_SEGMENT} us a segment" if small else f"ratio {MAX_RATIO}"
            row["met"] = row["us_per_segment"] <= MAX_US_PER_SEGMENT if small else row["bare_ratio"] <= MAX_RATIO
            rows.append(row)
    publish(SECTION, rows)


def _child(name: str, threads: int | None) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.chain", name, str(threads or 0)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def measure(name: str, threads: int | None, rounds: int = ROUNDS) -> dict[str, Any]:
    """Returns the figures of one case in this process."""
    (case,) = cases(name)
    settings = SessionSettings(threads=threads, pool="own" if threads == 1 else "shared", one_row=True)
    with tempfile.TemporaryDirectory() as folder:
        bundle = export(case.network, case.example, Path(folder) / "case.ee", threshold=2.0)  # never
        source = open_source(case.network, case.example)
        network = capture(source, choose_exits(source, None))
        add_confidences(network, choose_criteria(network.exits, "max_prob"))
        sessions = []
        for confidences in (True, False):
            path = Path(folder) / f"whole-{confidences}.onnx"
            ir.save(whole_model(network, confidences=confidences), path)
            sessions.append(settings.open(str(path), path.stem))
        session, bare = sessions
        feeds = {key: np.ascontiguousarray(array) for key, array in source.inputs.items()}
        (array,) = feeds.values()
        with Runner(bundle, threads=threads, pool=settings.pool) as runner:
            latencies = interleaved_ms(
                {
                    "chain": lambda: runner.run(array),
                    "whole": lambda: session.run(None, feeds),
                    "bare": lambda: bare.run(None, feeds),
                },
                rounds,
            )
        segments = len(bundle.manifest.segments)
    ratio, low, high = paired_ratio(latencies["chain"], latencies["whole"])
    chain, whole = summary(latencies["chain"]), summary(latencies["whole"])
    return {
        "chain": chain, "whole": whole, "ratio": ratio, "low": low, "high": high, "segments": segments,
        "bare_ratio": paired_ratio(latencies["chain"], latencies["bare"])[0],
        "us_per_segment": (chain["median_ms"] - whole["median_ms"]) * 1e3 / segments,
    }  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]) or None)))
    else:
        main()
