"""`benchmarks/README.md`, generated from the stored results."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import (
    adapting,
    chain,
    cluster,
    cold_start,
    control_flow,
    floor,
    frontiers,
    memory,
    memory_limit,
    monitor,
    native,
    native_cold_start,
    native_own_time,
    own_time,
    predicted,
    pruning,
    quantizing,
    rows,
    scale,
    splitting,
    start_up,
    threads,
    tuning,
    web,
    zoo,
)
from benchmarks.measure import RESULTS
from benchmarks.real_report import sections
from benchmarks.section import markdown

BENCHMARKS = (
    adapting, quantizing, native, web, chain, own_time, native_own_time, threads, rows, memory, memory_limit,
    cold_start, native_cold_start, start_up, control_flow, floor, zoo, scale, tuning, frontiers, predicted, pruning,
    monitor, cluster, splitting,
)  # fmt: skip
NOTES = Path(__file__).parent / "notes.md"


def main() -> None:
    """Writes the page."""
    parts = [
        "# Benchmarks",
        (
            "`make bench` measures all of this and writes this page; the raw figures are in `results/`. Ratios count, "
            "absolute times are of one noisy machine."
        ),
    ]
    parts += sections()
    for section in (benchmark.SECTION for benchmark in BENCHMARKS):
        if not (RESULTS / f"{section.name}.json").exists():
            continue  # not measured yet
        stored = json.loads((RESULTS / f"{section.name}.json").read_text())
        machine = ", ".join(f"{key} {value}" for key, value in stored["machine"].items())
        titles = [title for title, _ in section.columns]
        table = markdown(titles, ([spell(row) for _, spell in section.columns] for row in stored["rows"]))
        parts += [f"## {section.title}", section.method, table]
        if section.picture is not None:
            parts.append(f"![{section.title}](../docs/images/{section.picture})")
        parts.append(f"Machine: {machine}.")
    parts.append(NOTES.read_text().strip())
    (Path(__file__).parent / "README.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
