"""The first exit of a large network from a cold bundle: time and memory against loading the whole model.

Each is measured in a process of its own: from before the session (or runner) is made to the first answer, and what the
resident set has grown by then, on the file system of the disk and on tmpfs: a file system decides in what pages a
mapped file is resident (ext4: 2 MiB). Anonymous memory leaves out mapped files, whose pages the kernel drops when it
needs memory. The whole model is one file with its weights inside, as exporters write it.
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

from benchmarks.measure import byte_compiled, median
from benchmarks.networks import Case, large_cases
from benchmarks.section import Row, Section, publish
from eetoolkit_exporters.capturing.capture import capture
from eetoolkit_exporters.capturing.cascade import open_source
from eetoolkit_exporters.capturing.source import choose_exits
from eetoolkit_exporters.criteria.confidences import add_confidences
from eetoolkit_exporters.criteria.resolve import choose_criteria
from eetoolkit_exporters.emitting.graphs import whole_model
from eetoolkit_exporters.export import export

PROCESSES = 7
MAX_SHARE = 0.2
TMPFS = Path("/dev/shm")  # noqa: S108 - a place for files in memory

_START = """
import json, sys, time
import numpy as np
import onnxruntime as ort
from eetoolkit_runtime.running.runner import Runner

def resident(key):
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith(key))

kind, path, example = sys.argv[1:4]
array = np.load(example)
before, anonymous, start = resident("VmRSS"), resident("RssAnon"), time.perf_counter()
if kind == "bundle":
    runner = Runner(path)
    answer = runner.run(array)
    assert answer.exit == "exit0", answer
else:
    options = ort.SessionOptions()
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    answer = session.run(None, {session.get_inputs()[0].name: array})
found = {"ms": (time.perf_counter() - start) * 1e3}
print(json.dumps(found | {"mib": resident("VmRSS") - before, "anonymous_mib": resident("RssAnon") - anonymous}))
"""


def share(row: Row, key: str, digits: int = 2) -> str:
    """Returns a figure of the whole model, that of the bundle, and their ratio."""
    whole, bundle = row[f"whole_{key}"], row[f"bundle_{key}"]
    return f"{whole:.1f}, {bundle:.1f}, {bundle / whole:.{digits}f}"


SECTION = Section(
    "cold_start",
    "The first exit from a cold bundle against loading the whole model",
    (
        "Each in a process of its own, its modules compiled before, files in the page cache, medians. Token ids are "
        "distributed as in text, by Zipf's law. Resident memory counts mapped files, in the pages that their file "
        "system has; anonymous memory leaves them out: a kernel drops their pages when it needs memory. Target: at "
        f"most {MAX_SHARE} of the whole model."
    ),
    (
        ("network", lambda row: str(row["network"])),
        ("parameters", lambda row: f"{row['parameters']:,}"),
        ("file system", lambda row: str(row["file_system"])),
        ("first answer, ms: whole, bundle, share", lambda row: share(row, "ms")),
        ("resident memory, MiB: whole, bundle, share", lambda row: share(row, "mib")),
        ("of it anonymous, MiB: whole, bundle, share", lambda row: share(row, "anonymous_mib")),
    ),
)


def main() -> None:
    """Measures on the disk and on tmpfs."""
    places = [None, TMPFS] if TMPFS.is_dir() else [None]
    if TMPFS not in places:
        print(f"there is no {TMPFS}: nothing is measured on tmpfs", file=sys.stderr)
    publish(SECTION, [_measure(case, place) for case in large_cases() for place in places])


def write_both(case: Case, folder: Path) -> None:
    """Writes `case.ee`, which leaves at its first exit, and `whole.onnx`, which computes every exit."""
    export(case.network, case.example, folder / "case.ee", threshold=0.0)
    source = open_source(case.network, case.example)
    network = capture(source, choose_exits(source, None))
    add_confidences(network, choose_criteria(network.exits, "max_prob"))
    ir.save(whole_model(network), folder / "whole.onnx")


def _measure(case: Case, place: Path | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=place) as name:
        folder = Path(name)
        write_both(case, folder)
        np.save(folder / "example.npy", case.example.numpy())
        commands = {
            kind: [sys.executable, "-c", _START, kind, str(folder / file), str(folder / "example.npy")]
            for kind, file in (("bundle", "case.ee"), ("whole", "whole.onnx"))
        }
        compiled = byte_compiled(folder / "bytecode", *commands.values())
        found: dict[str, list[dict[str, float]]] = {kind: [] for kind in commands}
        for _ in range(PROCESSES):
            for kind, command in commands.items():
                done = subprocess.run(command, check=True, capture_output=True, env=compiled)
                found[kind].append(json.loads(done.stdout))
        kind_of = ["/usr/bin/env", "df", "--output=fstype", name]
        file_system = subprocess.run(kind_of, check=True, capture_output=True, text=True).stdout
    row: dict[str, Any] = {
        "network": case.name,
        "parameters": sum(value.numel() for value in case.network.parameters()),
        "file_system": file_system.split()[-1],
    }
    for kind, runs in found.items():
        row |= {f"{kind}_{key}": median([run[key] for run in runs]) for key in runs[0]}
    return row


if __name__ == "__main__":
    main()
