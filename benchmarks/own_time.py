"""What the runner itself takes: its calls with onnxruntime taken out.

Every segment's call is replaced by a function that does nothing, after a real run has filled the buffers: the copy of
the input, the comparisons, the choice of the next step and the answer remain. A difference of two whole calls would
drown in what a millisecond of convolutions varies by. Cold is the same after a walk through 5 MB of other memory, as an
application leaves the caches of a core that does something else between two calls.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measure import interleaved_ms
from benchmarks.networks import cases
from benchmarks.section import Row, Section, met, publish
from eetoolkit_exporters.export import export
from eetoolkit_runtime.running.runner import Runner

MAX_US = 1.5
ROUNDS, COLD_ROUNDS = 4000, 1000
SETTLED = 16  # runs after which no segment is watched any more, and all are one chain
OTHER_BYTES = 5 << 20
SECTION = Section(
    "own_time",
    "The runner's own time",
    (
        "A full path, one thread, with onnxruntime's calls replaced by a function that does nothing; beside it the "
        "real call, in turns. Input copy and answer are in it. Cold: after 5 MB of other memory before each call."
    ),
    (
        ("network", lambda row: str(row["network"])),
        ("segments", lambda row: str(row["segments"])),
        ("a call, us", lambda row: f"{row['call_us']:.1f}"),
        ("own, us", lambda row: f"{row['own_us']:.2f}"),
        ("own cold, us", lambda row: f"{row['own_cold_us']:.1f}" if "own_cold_us" in row else "-"),
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
            for _ in range(SETTLED):
                runner.run(image)
            (workspaces,) = runner._workspaces.values()
            workspace = workspaces.take()  # the next call makes another, so that both can be had
            head = workspace.begin((image,))
            assert len(head.chain) == len(bundle.manifest.segments)
            head.chain = [(_nothing, *link[1:]) for link in head.chain]
            hollow = Runner(bundle, threads=1)
            hollow.run(image)
            (other,) = hollow._workspaces.values()
            other.take()
            other.give_back(workspace)
            candidates = {"call": lambda: runner.run(image), "own": lambda: hollow.run(image)}
            taken = interleaved_ms(candidates, rounds, warmup=200)
            cold = interleaved_ms(candidates, COLD_ROUNDS, before=np.ones(OTHER_BYTES // 8).sum)
            hollow.close()
    call_us, own_us = (1e3 * float(np.median(taken[key])) for key in ("call", "own"))
    own = own_us / len(head.chain)
    return {
        "network": name, "segments": len(head.chain), "call_us": call_us, "own_us": own_us,
        "own_us_per_segment": own, "own_cold_us": 1e3 * float(np.median(cold["own"])),
        "target_us": MAX_US, "met": own <= MAX_US, "threads": 1,
    }  # fmt: skip


def _nothing(_binding: object, _options: object) -> None:
    """What stands in for onnxruntime."""


if __name__ == "__main__":
    main()
