"""What the runner itself takes: a call against the bare onnxruntime calls that it makes.

The bare calls are the same bindings of the same sessions in the same order, called in a loop that looks at nothing:
what is left is our own, the copy of the input, the comparisons and the answer. Both take turns in one process.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measure import interleaved_ms
from benchmarks.networks import cases
from benchmarks.section import Row, Section, met, publish
from eetoolkit_exporters.export import export
from eetoolkit_runtime.rule import limits_of
from eetoolkit_runtime.runner import Runner

MAX_US = 1.5
ROUNDS = 4000
SECTION = Section(
    "own_time",
    "The runner's own time",
    (
        "The full path against the bare calls of the same onnxruntime bindings in a loop, one thread, in turns; "
        "differences of medians. The share of a whole call, input copy and answer included, and by segment."
    ),
    (
        ("network", lambda row: str(row["network"])),
        ("segments", lambda row: str(row["segments"])),
        ("a call, us", lambda row: f"{row['call_us']:.1f}"),
        ("bare calls, us", lambda row: f"{row['bare_us']:.1f}"),
        ("own, us a segment", lambda row: f"{row['own_us_per_segment']:.2f}"),
        ("target", lambda row: f"{row['target_us']}"),
        ("met", met),
    ),
)


def main() -> None:
    """Measures two small networks."""
    publish(SECTION, [measure(name) for name in ("mlp 64, 6 exits", "residual cnn 32, 3 exits")])


def measure(name: str, rounds: int = ROUNDS) -> Row:
    """Returns the figures of one network."""
    (case,) = cases(name)
    with tempfile.TemporaryDirectory() as folder:
        bundle = export(case.network, case.example, Path(folder) / "case.ee", threshold=2.0)
        image = case.example.numpy()
        with Runner(bundle, threads=1) as runner:
            for _ in range(3):
                runner.run(image)
            (lane,) = runner._lanes.values()
            workspace = lane.take()
            workspace.run((image,), limits_of(bundle.manifest))
            chain, options = workspace.begin((image,)).chain, workspace._options

            def bare() -> None:
                for call, binding, *_ in chain:
                    call(binding, options)

            taken = interleaved_ms({"call": lambda: runner.run(image), "bare": bare}, rounds, warmup=200)
    call_us, bare_us = (1e3 * float(np.median(taken[key])) for key in ("call", "bare"))
    own = (call_us - bare_us) / len(chain)
    return {
        "network": name, "segments": len(chain), "call_us": call_us, "bare_us": bare_us, "own_us_per_segment": own,
        "target_us": MAX_US, "met": own <= MAX_US, "threads": 1,
    }  # fmt: skip


if __name__ == "__main__":
    main()
