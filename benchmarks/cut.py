"""How long the compiler's own part takes on large graphs: judge, cut, emit, without torch's export."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir import tape
from rich.console import Console
from rich.table import Table

from benchmarks.measure import store
from eetoolkit_exporters.capturing.capture import Network, NetworkExit
from eetoolkit_exporters.cutting.cut import sort_exits
from eetoolkit_exporters.emitting.emit import Details, emit
from eetoolkit_exporters.export import compile_plan
from eetoolkit_exporters.judging.judge import choose_criteria, judge

SIZES = ((1_000, 4), (2_500, 4), (5_000, 4), (10_000, 4), (20_000, 4), (10_000, 16), (10_000, 48))
MAX_CUT_S = 2.0


def network(nodes: int, exits: int) -> Network:
    """Returns a chain of `nodes` small operators with `exits` exits at equal distances."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["batch", 16]))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="chain")
    builder, value, outputs = tape.Tape(graph), x, []
    for i in range(nodes):
        made = ir.Value(name=f"v{i}", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["batch", 16]))
        value = builder.op("Relu" if i % 2 else "Neg", [value], version=20, output=made)
        if (i + 1) % (nodes // exits) == 0:
            outputs.append(value)
    named = [NetworkExit(f"exit{i}", {"logits": output}) for i, output in enumerate(outputs[:exits])]
    return Network(graph, named, ordered=False)


def main() -> None:
    """Measures every size, prints the table and stores it."""
    rows = []
    for nodes, exits in SIZES:
        given = network(nodes, exits)
        times = [time.perf_counter()]
        criteria = judge(given, choose_criteria(given.exits, "max_prob"))
        times.append(time.perf_counter())
        example = {"x": np.zeros((1, 16), np.float32)}
        sort_exits(given)
        segments = compile_plan(given, example).segments
        times.append(time.perf_counter())
        with tempfile.TemporaryDirectory() as folder:
            details = Details("chain", {}, criteria, dict.fromkeys(criteria, 0.9), 1e-4)
            emit(given, segments, [], example, details, Path(folder))
        times.append(time.perf_counter())
        judge_s, cut_s, emit_s = np.diff(times)
        rows.append({"nodes": nodes, "exits": exits, "judge_s": judge_s, "cut_s": cut_s, "emit_s": emit_s})
    store("cut", rows)
    table = Table(title=f"The compiler's own time (target: a cut of 10,000 nodes in {MAX_CUT_S:.0f} s)")
    for column in ("nodes", "exits", "judge, s", "cut, s", "emit, s", "us a node"):
        table.add_column(column, justify="right")
    for row in rows:
        total = row["judge_s"] + row["cut_s"] + row["emit_s"]
        table.add_row(
            f"{row['nodes']:,}", str(row["exits"]), f"{row['judge_s']:.3f}", f"{row['cut_s']:.3f}",
            f"{row['emit_s']:.3f}", f"{total / row['nodes'] * 1e6:.0f}",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
