"""How cost grows: with exits, with nodes, with bytes. The compiler's own time without torch's export, and the latency.

Nodes: a chain of small operators. Exits: the same chain of 2,400 nodes. Bytes: large matrix products, whose weights are
hashed and written. The slope is that of time against size in logarithms: 1 is linear.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir import tape

from benchmarks.measure import interleaved_ms
from benchmarks.section import Row, Section, publish
from eetoolkit.showing.style import EARLY, FAINT, LATE, MIDDLE, plain, styled
from eetoolkit_exporters.capturing.capture import Network, NetworkExit
from eetoolkit_exporters.criteria.confidences import add_confidences
from eetoolkit_exporters.criteria.resolve import choose_criteria
from eetoolkit_exporters.cutting.cut import sort_exits
from eetoolkit_exporters.emitting.emit import Details, emit
from eetoolkit_exporters.emitting.graphs import whole_model
from eetoolkit_exporters.export import compile_plan
from eetoolkit_runtime.plan.manifest import encode
from eetoolkit_runtime.plan.types import MANIFEST
from eetoolkit_runtime.running.runner import Runner
from eetoolkit_runtime.running.sessions import SessionSettings

PICTURE = Path(__file__).parents[1] / "docs/images/scale.png"
ROUNDS = 30
_WIDTH = 16
_SIZES = {
    "exits": (2, 4, 8, 16, 24, 48),
    "nodes": (100, 500, 1_000, 2_500, 5_000, 10_000, 20_000),
    "MB": (1, 4, 16, 64, 256, 1024, 2048),
}
_PANELS = {"exits": "More exits", "nodes": "More nodes", "MB": "More weights, MB"}
_NODES, _EXITS = 2_400, 4
SECTION = Section(
    "scale",
    "Scale: exits, nodes, bytes",
    (
        "The compiler's own time (torch's export is not in it): criteria, cut, emit. Latency of the full path, one "
        f"thread, and of the same graph as one session. `exits` has {_NODES:,} nodes, `nodes` and `MB` {_EXITS} exits. "
        "Slope: of the time against the size in logarithms, over the larger half; 1 is linear."
    ),
    (
        ("what grows", lambda row: str(row["what"])),
        ("size", lambda row: f"{row['size']:,}"),
        ("criteria, s", lambda row: f"{row['judge_s']:.3f}"),
        ("cut, s", lambda row: f"{row['cut_s']:.3f}"),
        ("emit, s", lambda row: f"{row['emit_s']:.3f}"),
        ("slope of all three", lambda row: f"{row['slope']:.2f}"),
        ("full path, ms", lambda row: f"{row['ms']:.3f}"),
        ("/ one session", lambda row: f"{row['ratio']:.3f}"),
    ),
    "scale.png",
)


def main() -> None:
    """Measures every size, stores it and draws it."""
    rows = [row for what, sizes in _SIZES.items() for row in _with_slope([measure(what, size) for size in sizes])]
    publish(SECTION, rows)
    draw(rows)


def measure(what: str, size: int) -> Row:
    """Returns the figures of one size."""
    exits = size if what == "exits" else _EXITS
    given = products(size, exits) if what == "MB" else chain(size if what == "nodes" else _NODES, exits)
    (entry,) = given.graph.inputs
    width = int(entry.shape[1]) if entry.shape is not None else 0
    times = [time.perf_counter()]
    criteria = add_confidences(given, choose_criteria(given.exits, "max_prob"))
    times.append(time.perf_counter())
    example = {"x": np.ones((1, width), np.float32)}
    whole = whole_model(given)
    times.append(time.perf_counter())
    sort_exits(given)
    segments = compile_plan(given, example).segments
    times.append(time.perf_counter())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        details = Details("scale", {}, criteria, dict.fromkeys(list(criteria)[:-1], 2.0), 1e-4)
        began = time.perf_counter()
        manifest = emit(given, segments, [], example, details, folder)
        emit_s = time.perf_counter() - began
        (folder / MANIFEST).write_bytes(encode(manifest))
        ir.save(whole, folder / "whole.onnx", external_data="whole.bin")
        session = SessionSettings(threads=1).open(str(folder / "whole.onnx"), "whole")
        with Runner(folder, threads=1) as runner:
            taken = interleaved_ms(
                {"chain": lambda: runner.run(example["x"]), "whole": lambda: session.run(None, example)},
                ROUNDS, warmup=5,
            )  # fmt: skip
    judge_s, _, cut_s = np.diff(times)
    chain_ms, whole_ms = (float(np.median(taken[key])) for key in ("chain", "whole"))
    return {
        "what": what, "size": size, "judge_s": float(judge_s), "cut_s": float(cut_s), "emit_s": emit_s,
        "ms": chain_ms, "whole_ms": whole_ms, "ratio": chain_ms / whole_ms, "threads": 1,
    }  # fmt: skip


def chain(nodes: int, exits: int) -> Network:
    """Returns a chain of `nodes` small operators with `exits` exits at equal distances."""
    graph, builder, value = _start(_WIDTH)
    outputs = []
    for i in range(nodes):
        value = builder.op("Relu" if i % 2 else "Neg", [value], version=20, output=_tensor(f"v{i}", _WIDTH))
        if (i + 1) % (nodes // exits) == 0:
            outputs.append(value)
    return _network(graph, outputs[:exits])


def products(megabytes: int, exits: int) -> Network:
    """Returns a chain of matrix products with weights of so many megabytes in all, an exit after each."""
    width = max(16, round((megabytes * 1e6 / 4 / exits) ** 0.5))
    graph, builder, value = _start(width)
    outputs, rng = [], np.random.default_rng(0)
    for i in range(exits):
        weight = ir.Value(name=f"w{i}", const_value=ir.tensor(rng.standard_normal((width, width), np.float32)))
        graph.register_initializer(weight)
        value = builder.op("MatMul", [value, weight], version=20, output=_tensor(f"m{i}", width))
        value = builder.op("Tanh", [value], version=20, output=_tensor(f"v{i}", width))
        outputs.append(value)
    return _network(graph, outputs)


def _start(width: int) -> tuple[ir.Graph, tape.Tape, ir.Value]:
    x = _tensor("x", width)
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="chain")
    return graph, tape.Tape(graph), x


def _tensor(name: str, width: int) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["batch", width]))


def _network(graph: ir.Graph, outputs: list[ir.Value]) -> Network:
    return Network(graph, [NetworkExit(f"exit{i}", {"logits": o}) for i, o in enumerate(outputs)], ordered=False)


def _with_slope(rows: list[Row]) -> list[Row]:
    half = rows[len(rows) // 2 :]
    totals = [row["judge_s"] + row["cut_s"] + row["emit_s"] for row in half]
    slope = float(np.polyfit(np.log([row["size"] for row in half]), np.log(totals), 1)[0])
    return [row | {"slope": slope} for row in rows]


def draw(rows: list[Row]) -> None:
    """Writes the plot of all rows."""
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=(11, 3.9), dpi=150, facecolor="white", layout="constrained")
        panels = figure.subplots(1, 3, sharey=True)
        for axes, (what, title) in zip(panels, _PANELS.items(), strict=True):
            some = [row for row in rows if row["what"] == what]
            sizes = [row["size"] for row in some]
            total = [row["judge_s"] + row["cut_s"] + row["emit_s"] for row in some]
            linear = [total[-1] * size / sizes[-1] for size in sizes]
            axes.loglog(sizes, total, "o-", color=EARLY, markersize=5, label="compiler")
            axes.loglog(sizes, [row["ms"] / 1e3 for row in some], "s-", color=MIDDLE, markersize=7, label="full path")
            axes.loglog(sizes, [row["whole_ms"] / 1e3 for row in some], "x--", color=LATE, label="one session")
            axes.loglog(sizes, linear, ":", color=FAINT, label="linear growth, for comparison")
            plain(axes)
            axes.minorticks_off()
            axes.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=45, fontsize=8)
            axes.set_title(title)
        panels[0].set_ylabel("seconds")
        panels[0].yaxis.set_major_formatter("{x:g}")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=4)
        figure.savefig(PICTURE)


if __name__ == "__main__":
    main()
