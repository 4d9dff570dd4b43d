"""What the native runner itself takes: its calls with onnxruntime's runs taken out.

The library is handed an onnxruntime whose `RunWithBinding` does nothing once all buffers have been filled by real runs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.native_library import Native, build
from benchmarks.networks import cases
from benchmarks.own_time import COLD_ROUNDS, OTHER_BYTES, ROUNDS, SETTLED
from benchmarks.section import Row, Section, met, publish
from eetoolkit_exporters.export import export

MAX_US = 0.5
SECTION = Section(
    "native_own_time",
    "The native runner's own time",
    (
        "A full path, one thread, with onnxruntime's runs replaced by a function that does nothing; beside it the real "
        "call, in turns. Input copy, answer and one reading of the clock are in it. Cold: after 5 MB of other memory "
        "before each call."
    ),
    (
        ("network", lambda row: str(row["network"])),
        ("segments", lambda row: str(row["segments"])),
        ("a call, us", lambda row: f"{row['call_us']:.1f}"),
        ("own, us", lambda row: f"{row['own_us']:.2f}"),
        ("own cold, us", lambda row: f"{row['own_cold_us']:.1f}"),
        ("own, us a segment", lambda row: f"{row['own_us_per_segment']:.2f}"),
        ("target", lambda row: f"{row['target_us']}"),
        ("met", met),
    ),
)


def main() -> None:
    """Measures two small networks."""
    build()
    publish(SECTION, [measure(name) for name in ("mlp 64, 6 exits", "residual cnn 32, 3 exits")])


def measure(name: str) -> Row:
    """Returns the figures of one network."""
    (case,) = cases(name)
    took = {key: np.empty(1) for key in ("call", "own", "cold")}
    found: dict[str, list[float]] = {key: [] for key in took}
    with tempfile.TemporaryDirectory() as folder:
        bundle = export(case.network, case.example, Path(folder) / "case.ee", threshold=2.0)
        native = Native(bundle.path, bundle.manifest, [(case.example.numpy(),)], threads=1, hollow=True)
        calls = native.calls()
        for _ in range(SETTLED):
            native.time(calls, [0], took["call"])
        other = np.ones(OTHER_BYTES // 8)
        for number in range(ROUNDS):
            for key, is_hollow in (("call", False), ("own", True), ("cold", True)):
                if key == "cold" and number >= COLD_ROUNDS:
                    continue
                native.set_hollow(hollow=is_hollow)
                if key == "cold":
                    other.sum()
                native.time(calls, [0], took[key], warm=key != "cold")
                found[key].append(float(took[key][0]))
        assert native.run(calls[0])[0] == list(bundle.exits)[-1]  # hollow: all comparisons were made
    call_us, own_us, cold_us = (1e3 * float(np.median(found[key])) for key in ("call", "own", "cold"))
    segments = len(bundle.manifest.segments)
    return {
        "network": name, "segments": segments, "call_us": call_us, "own_us": own_us, "own_cold_us": cold_us,
        "own_us_per_segment": own_us / segments, "target_us": MAX_US, "met": own_us / segments <= MAX_US, "threads": 1,
    }  # fmt: skip


if __name__ == "__main__":
    main()
