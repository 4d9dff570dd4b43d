"""Where lowering a branch begins to pay: the same bundle with the `If` as a gate, and inside one segment.

One thread, rounds interleaved in one process a case. The floor in `cutting.control_flow` is read off here: below it
a branch's gate costs more than a few per cent over onnxruntime's own `If`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gated_networks import Branch, convolutional_branch, linear_branch
from benchmarks.measure import interleaved_ms, paired_ratio, summary
from benchmarks.section import Section, publish
from eetoolkit_exporters.export import export
from eetoolkit_runtime.running.runner import Runner

ROUNDS = 400
WIDTHS, CHANNELS = (64, 128, 256, 512, 1024, 2048), (8, 16, 32, 64, 128)


SECTION = Section(
    "floor",
    "The cost floor: a branch as a gate, and inside one segment",
    (
        'The same bundle exported with `lower_control_flow="always"` and `False`, one thread, interleaved. A single '
        "branch is as fast either way from some size on; where they follow each other (SkipNet-38 in the table of "
        "gates and loops) every cut costs a change of layout and a fusion."
    ),
    (
        ("branch", lambda row: str(row["branch"])),
        ("multiply-adds", lambda row: f"{row['multiply_adds']:,}"),
        ("KiB of weights", lambda row: f"{row['weight_bytes'] / 1024:,.0f}"),
        ("taken: gate / inside", lambda row: f"{row['taken']:.3f}"),
        ("skipped: gate / inside", lambda row: f"{row['skipped']:.3f}"),
        ("lowered by default", lambda row: "yes" if row["lowered"] else "no"),
    ),
)


def main() -> None:
    """Measures every size."""
    torch.manual_seed(0)
    rows = [_row(f"4 linear layers of {width}", lambda w=width: linear_branch(w), (1, width)) for width in WIDTHS]
    rows += [
        _row(f"4 convolutions of {count} channels at 16x16", lambda c=count: convolutional_branch(c), (1, 3, 16, 16))
        for count in CHANNELS
    ]
    publish(SECTION, rows)


def _row(name: str, make: Callable[[], Branch], shape: tuple[int, ...]) -> dict[str, Any]:
    network = make().eval()
    example = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    row: dict[str, Any] = {"branch": name}
    with tempfile.TemporaryDirectory() as folder:
        gate = export(network, example, Path(folder) / "gate.ee", dynamic_batch=False, lower_control_flow="always")
        inside = export(network, example, Path(folder) / "inside.ee", dynamic_batch=False, lower_control_flow=False)
        default = export(network, example, Path(folder) / "default.ee", dynamic_batch=False)
        row["lowered"] = len(default.manifest.segments) > 1
        layers = [module for module in network.layers.modules() if list(module.parameters(recurse=False))]
        row["weight_bytes"] = sum(p.nelement() * p.element_size() for layer in layers for p in layer.parameters())
        positions = shape[-1] * shape[-2] if len(shape) == 4 else 1
        row["multiply_adds"] = sum(layer.weight.nelement() * positions for layer in layers)
        latencies = {}
        with Runner(gate, threads=1) as lowered, Runner(inside, threads=1) as whole:
            for way, first in (("taken", 1.0), ("skipped", -1.0)):
                x = example.clone()
                x.view(-1)[0] = first
                given = x.numpy()
                found = interleaved_ms(
                    {"gate": lambda g=given: lowered.run(g), "inside": lambda g=given: whole.run(g)}, ROUNDS
                )
                row[way] = paired_ratio(found["gate"], found["inside"])[0]
                latencies[way] = summary(found["gate"])["median_ms"]
    row["branch_us"] = 1e3 * (latencies["taken"] - latencies["skipped"])
    return row


if __name__ == "__main__":
    main()
