"""The first exit of a large network from a cold bundle, without Python, against loading the whole model.

Each is measured in a process of its own, a program in C, from before the bundle or the session is opened to the first
answer. onnxruntime's library is loaded and its environment made before, as Python's `import` does it in
`benchmarks.cold_start`; beside it stands the same with the environment.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from benchmarks.cold_start import share, write_both
from benchmarks.measure import median
from benchmarks.native_library import FOLDER, ONNXRUNTIME, build
from benchmarks.networks import Case, large_cases
from benchmarks.section import Row, Section, met, publish

PROCESSES = 15
MAX_SHARE = 0.11


SECTION = Section(
    "native_cold_start",
    "The first exit from a cold bundle, without Python",
    (
        "Each in a process of its own, a program in C with the native runner or with onnxruntime's C interface, in "
        "turns; files in the page cache, medians. The start of the program and of onnxruntime's library is not in it, "
        "and its environment, which every program makes once, only where that is said. Target for the encoder: at most "
        f"{MAX_SHARE} of the whole model."
    ),
    (
        ("network", lambda row: str(row["network"])),
        ("parameters", lambda row: f"{row['parameters']:,}"),
        ("first answer, ms: whole, bundle, share", lambda row: share(row, "ms", 3)),
        ("with the environment", lambda row: share(row, "with_environment_ms", 3)),
        ("met", met),
    ),
)


def main() -> None:
    """Measures the large networks."""
    build()
    publish(SECTION, [measure(case) for case in large_cases()])


def measure(case: Case) -> Row:
    """Returns the figures of one network."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_both(case, folder)
        example = case.example.numpy()
        (folder / "row").write_bytes(example.tobytes())
        commands = {
            kind: [
                str(FOLDER / "build" / "cold_start"), kind, str(ONNXRUNTIME), str(folder / file),
                example.dtype.name, str(folder / "row"), *map(str, example.shape),
            ]
            for kind, file in (("bundle", "case.ee"), ("whole", "whole.onnx"))
        }  # fmt: skip
        found: dict[str, list[list[float]]] = {kind: [] for kind in commands}
        for number in range(PROCESSES + 1):
            for kind, command in commands.items():
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                if number > 0:  # the first brings the files into the page cache
                    found[kind].append([float(part) for part in done.stdout.split()])
    row: Row = {
        "network": case.name,
        "parameters": sum(value.numel() for value in case.network.parameters()),
    }
    for kind, runs in found.items():
        row[f"{kind}_with_environment_ms"], row[f"{kind}_ms"] = (median(list(each)) for each in zip(*runs, strict=True))
    is_limited = case.name.startswith("encoder")
    return row | {"met": row["bundle_ms"] <= MAX_SHARE * row["whole_ms"] if is_limited else None}


if __name__ == "__main__":
    main()
