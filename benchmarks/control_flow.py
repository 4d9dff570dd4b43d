"""What gates cost and save: the plan against the same control flow inside one onnxruntime session, and against none.

One thread, each case in several processes of its own, all in turns; only ratios are believed. "One session" is the
network as torch exports it: `If` and `Loop` for `torch.cond` and `torch.while_loop`, every block computed and blended
for SkipNet. Beside it the same with every weight in the branch that reads it, and the plan as one file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch

from benchmarks.gated_networks import BLOCKS, OpenBlocks, SkipNet, convolutional_branch, linear_branch, repeated_block
from benchmarks.measure import median
from benchmarks.section import Row, Section, over, publish
from benchmarks.turns import BLOCK, Way, timed
from eetoolkit_exporters.capturing.capture import capture
from eetoolkit_exporters.capturing.cascade import open_source
from eetoolkit_exporters.capturing.source import choose_exits
from eetoolkit_exporters.criteria.confidences import add_confidences
from eetoolkit_exporters.criteria.resolve import choose_criteria
from eetoolkit_exporters.emitting.graphs import whole_model
from eetoolkit_exporters.emitting.scoping import localize
from eetoolkit_exporters.export import export
from eetoolkit_exporters.graph import subgraphs
from eetoolkit_exporters.single_file.single_file import write_single_file
from eetoolkit_runtime.running.runner import Runner
from eetoolkit_runtime.running.sessions import SessionSettings

PROCESSES, ROUNDS = 3, 300
GATES = 3 * BLOCKS - 1
WHOLE, LOCAL, ONE_FILE, OPEN = "session", "session, local weights", "one file", "without"


@dataclass(frozen=True)
class Case:
    """A gated network, an input that decides its gates, and what its plan is held against.

    Attributes:
        target: What the plan's latency over one session's, its weights local where it has branches, must stay below.
        open_target: The same over the network without gates and skipped blocks, where there is one.
    """

    name: str
    network: Callable[[], torch.nn.Module]
    example: torch.Tensor
    target: float
    without: Callable[[torch.nn.Module], torch.nn.Module] | None = None
    open_target: float | None = None


def cases() -> tuple[Case, ...]:
    """Returns the cases."""
    return (
        *(_linear(width, taken=taken) for width in (256, 512, 1024) for taken in (True, False)),
        *(_convolutions(taken=taken) for taken in (True, False)),
        Case("residual block of 64 channels at 32x32, 5 rounds", lambda: repeated_block(64), _image(5.0), 1.0),
        _skipnet(8, 0.75, 1.3),
        _skipnet(14, 1.0, 1.3),
    )


def _image(first: float) -> torch.Tensor:
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    image[0, 0, 0, 0] = first
    return image


def _linear(width: int, *, taken: bool) -> Case:
    x = torch.randn(1, width, generator=torch.Generator().manual_seed(0))
    x[0, 0] = 1.0 if taken else -1.0
    return Case(f"branch of 4 linear layers of {width}, {_spell(taken)}", lambda: linear_branch(width), x, 1.05)


def _convolutions(*, taken: bool) -> Case:
    name = f"branch of 4 convolutions of 64 channels at 32x32, {_spell(taken)}"
    return Case(name, lambda: convolutional_branch(64), _image(1.0 if taken else -1.0), 1.0 if taken else 1.05)


def _spell(taken: bool) -> str:
    return "taken" if taken else "skipped"


def _skipnet(count: int, target: float, open_target: float) -> Case:
    opened = [i * count // GATES != (i + 1) * count // GATES for i in range(GATES)] + [True]
    return Case(
        f"SkipNet-38, {count} of {GATES} blocks open",
        lambda: SkipNet(opened),
        _image(0.5),
        target,
        lambda network: OpenBlocks(network, opened),  # type: ignore[arg-type]
        open_target,
    )


def _target(row: Row, target: str, met: str) -> str:
    return "-" if target not in row else f"{row[target]}{'' if row[met] else ' **missed**'}"


SECTION = Section(
    "control_flow",
    "Gates and loops: the plan against the same control flow inside one session, and against none",
    (
        "One thread; plan / peer, medians over processes, in brackets their range. One session is the network with its "
        "criterion as torch exports it: `If`, `Loop`, or every block computed and blended; with local weights: the "
        "same, every weight in the branch or loop body that reads it; one file: the plan with onnxruntime's own `If` "
        "and `Loop`; `without` is the network without gates and without what they skip. The target is of the session "
        "with local weights, where it has any."
    ),
    (
        ("network", lambda row: str(row["network"])),
        ("segments run", lambda row: str(row["segments_run"])),
        ("plan, ms", lambda row: f"{row['plan_ms']:.3f}"),
        ("/ session", lambda row: over(row["peers"][WHOLE])),
        ("/ session with local weights", lambda row: over(row["peers"].get(LOCAL))),
        ("target", lambda row: _target(row, "target", "met")),
        ("/ one file", lambda row: over(row["peers"].get(ONE_FILE))),
        ("/ without", lambda row: over(row["peers"].get(OPEN))),
        ("target of it", lambda row: _target(row, "open_target", "open_met")),
    ),
)


def main() -> None:
    """Measures every case."""
    rows = []
    for case in cases():
        found = [_child(case.name) for _ in range(PROCESSES)]
        ratios = {name: [f["over"][name] for f in found] for name in found[0]["over"]}
        peers = {
            name: {"bundle_over": median(some), "low": min(some), "high": max(some)} for name, some in ratios.items()
        }
        row: dict[str, Any] = {
            "network": case.name,
            "segments_run": found[0]["segments_run"],
            "plan_ms": median([f["plan_ms"] for f in found]),
            "peers": peers,
            "target": case.target,
            "met": peers.get(LOCAL, peers[WHOLE])["bundle_over"] <= case.target,
        }
        if case.open_target is not None:
            row["open_target"], row["open_met"] = case.open_target, peers[OPEN]["bundle_over"] <= case.open_target
        rows.append(row)
    publish(SECTION, rows)


def _child(name: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.control_flow", name]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def measure(name: str) -> dict[str, Any]:
    """Returns the figures of one case in this process."""
    case = next(case for case in cases() if case.name == name)
    torch.manual_seed(0)
    network = case.network().eval()
    x = case.example.numpy()
    with tempfile.TemporaryDirectory() as folder:
        bundle = export(network, case.example, Path(folder) / "case.ee", dynamic_batch=False)
        model = _whole(network, case.example)
        sessions = {WHOLE: _session(model, folder)}
        if any(subgraphs(node) for node in model.graph):
            localize(model)
            sessions[LOCAL] = _session(model, folder)
        if case.without is not None:
            sessions[OPEN] = _session(_whole(case.without(network).eval(), case.example), folder)
        sessions[ONE_FILE] = _open(write_single_file(bundle, Path(folder) / "one_file.onnx"))
        with Runner(bundle, threads=1) as runner:
            answer = runner.run(x)
            ways = {"plan": Way([x] * BLOCK, runner.run)}
            for peer, session in sessions.items():
                feed = {session.get_inputs()[0].name: x}
                if peer != OPEN:
                    np.testing.assert_allclose(answer.outputs["logits"], session.run(None, feed)[0], atol=1e-4)
                ways[peer] = Way([feed] * BLOCK, partial(session.run, None))
            taken = timed(ways, 0.0, 0, settle=False, least_rounds=ROUNDS // BLOCK)
    plan_ms, *others = np.median(taken, axis=(0, 2)).tolist()
    ratios = {peer: plan_ms / other for peer, other in zip(sessions, others, strict=True)}
    return {"segments_run": len(answer.path), "plan_ms": plan_ms, "over": ratios}


def _whole(network: torch.nn.Module, example: torch.Tensor) -> ir.Model:
    """Returns the network as one graph, with the criterion of its exit, as the plan's segments have it."""
    source = open_source(network, example)
    captured = capture(source, choose_exits(source, None), dynamic_batch=False)
    add_confidences(captured, choose_criteria(captured.exits, "max_prob"))
    return whole_model(captured)


def _session(model: ir.Model, folder: str) -> ort.InferenceSession:
    path = Path(folder) / "session.onnx"
    ir.save(model, path)
    return _open(path)


def _open(path: Path) -> ort.InferenceSession:
    return SessionSettings(threads=1).open(str(path), path.stem)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print(json.dumps(measure(sys.argv[1])))
    else:
        main()
