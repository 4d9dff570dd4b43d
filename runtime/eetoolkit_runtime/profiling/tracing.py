"""The timeline of a bundle's segments and their nodes, for chrome://tracing and Perfetto."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from eetoolkit_runtime.arguments import check_range, checked
from eetoolkit_runtime.bundle.bundle import Bundle, load
from eetoolkit_runtime.errors import InputError
from eetoolkit_runtime.files.outfile import check_file, writing
from eetoolkit_runtime.profiling.budget import LONGEST_S
from eetoolkit_runtime.profiling.operators import TRACED_ROWS, Traced, trace_operators
from eetoolkit_runtime.profiling.rounds import rows_of
from eetoolkit_runtime.running.inputs import Inputs
from eetoolkit_runtime.running.sessions import Pool, SessionSettings, Spin


@checked(InputError)
def trace(
    bundle: str | Path | Bundle,
    target: str | os.PathLike[str],
    inputs: Inputs | Iterator[Inputs] | None = None,
    *,
    threads: int | None = None,
    spin: Spin = "brief",
    pool: Pool = "own",
    seconds: float = 0.0,
    overwrite: bool = False,
) -> Path:
    """Writes the timeline of one round over some inputs, which chrome://tracing and Perfetto show; returns its path.

    Rows, segments and nodes are nested; no exit fires. Tracing makes each node some microseconds slower.

    Args:
        bundle: A `Bundle`, or the path of one.
        target: A JSON file to write.
        inputs: As `profile`'s; the first 16 are run.
        threads: As the `Runner`'s, like `spin` and `pool`.
        spin: See `threads`.
        pool: See `threads`.
        seconds: How long it may take; fewer inputs are run where they do not fit, one whatever it takes. 0: no bound.
        overwrite: Whether to replace what is there.

    Raises:
        BundleError: The bundle cannot be opened.
        EEToolkitError: `target` exists and `overwrite` is not set, or cannot be written.
        InputError: Inputs that it does not take, or none at all.
        RunError: onnxruntime failed.
    """
    check_range(InputError, "seconds", seconds, 0, LONGEST_S)
    path = check_file(target, overwrite=overwrite)
    opened = load(bundle)
    rows = rows_of(opened, inputs)[:TRACED_ROWS]
    traced = trace_operators(opened, rows, SessionSettings(threads, spin, pool, one_row=True), seconds)
    with writing(path, overwrite=overwrite) as file:
        file.write(chrome_trace(traced, opened.manifest.name))
    return path


def chrome_trace(traced: Traced, name: str) -> bytes:
    """Returns a trace as JSON that chrome://tracing and Perfetto show: rows, in them segments, in them nodes.

    The format is the JSON object of Google's "Trace Event Format", times in microseconds.
    """
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": 1, "tid": 1, "name": "process_name", "args": {"name": name}},
        {"ph": "M", "pid": 1, "tid": 1, "name": "thread_name", "args": {"name": "plan"}},
    ]

    def add(kind: str, label: str, start_us: float, taken_us: float, **arguments: object) -> None:
        events.append({
            "ph": "X", "pid": 1, "tid": 1, "cat": kind, "name": label, "ts": start_us, "dur": taken_us,
            "args": arguments,
        })  # fmt: skip

    for number, row in enumerate(traced.rows):
        if row:
            end_us = max(run.start_us + run.taken_us for run in row)
            add("row", f"row {number}", row[0].start_us, end_us - row[0].start_us, path=[run.segment for run in row])
        for run in row:
            add("segment", run.segment, run.start_us, run.taken_us)
            for node in run.nodes:
                add("node", node.operator, node.start_us, node.taken_us, node=node.node)
    return msgspec.json.encode({"traceEvents": events, "displayTimeUnit": "ms"}) + b"\n"
