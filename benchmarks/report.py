"""`benchmarks/README.md`, generated from the stored results."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS
from benchmarks.real_report import sections

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]


def _single(row: Row) -> str:
    if row["single_ratio"] is None:
        return "-"
    return f"{row['single_ratio']:.2f} ({row['single_low']:.2f} to {row['single_high']:.2f})"


_CHAIN: Sequence[Column] = (
    ("network", lambda row: str(row["network"])),
    ("threads", lambda row: str(row["threads"])),
    ("whole, ms", lambda row: f"{row['whole_ms']:.3f}"),
    ("chain / whole", lambda row: f"{row['ratio']:.3f}"),
    ("over processes", lambda row: f"{row['ratio_low']:.3f} to {row['ratio_high']:.3f}"),
    ("us a segment", lambda row: f"{row['us_per_segment']:.2f}"),
    ("target", lambda row: str(row["target"])),
    ("met", lambda row: "yes" if row["met"] else "**no**"),
)
_COLD: Sequence[Column] = (
    ("network", lambda row: str(row["network"])),
    ("parameters", lambda row: f"{row['parameters']:,}"),
    ("first answer, ms: whole, bundle, share", lambda row: _share(row, "ms")),
    ("memory, MiB: whole, bundle, share", lambda row: _share(row, "mib")),
    ("of it private, MiB: whole, bundle, share", lambda row: _share(row, "private_mib")),
)
_LAYOUT: Sequence[Column] = (
    ("network", lambda row: str(row["network"])),
    ("with / without", lambda row: f"{row['ratio']:.3f}"),
    ("over processes", lambda row: f"{row['low']:.3f} to {row['high']:.3f}"),
)
_CONTROL_FLOW: Sequence[Column] = (
    ("network", lambda row: str(row["network"])),
    ("segments run", lambda row: str(row["segments_run"])),
    ("plan, ms", lambda row: f"{row['plan_ms']:.3f}"),
    ("plan / session", lambda row: f"{row['ratio']:.3f}"),
    ("over processes", lambda row: f"{row['ratio_low']:.3f} to {row['ratio_high']:.3f}"),
    ("target", lambda row: _target(row, "target", "met")),
    ("plan / without", lambda row: f"{row['open_ratio']:.3f}" if "open_ratio" in row else "-"),
    ("target of it", lambda row: _target(row, "open_target", "open_met")),
)


def _target(row: Row, target: str, met: str) -> str:
    return "-" if target not in row else f"{row[target]}{'' if row[met] else ' **missed**'}"


_FLOOR: Sequence[Column] = (
    ("branch", lambda row: str(row["branch"])),
    ("multiply-adds", lambda row: f"{row['multiply_adds']:,}"),
    ("KiB of weights", lambda row: f"{row['weight_bytes'] / 1024:,.0f}"),
    ("taken: gate / inside", lambda row: f"{row['taken']:.3f}"),
    ("skipped: gate / inside", lambda row: f"{row['skipped']:.3f}"),
    ("lowered by default", lambda row: "yes" if row["lowered"] else "no"),
)
_CUT: Sequence[Column] = (
    ("nodes", lambda row: f"{row['nodes']:,}"),
    ("exits", lambda row: str(row["exits"])),
    ("judge, s", lambda row: f"{row['judge_s']:.3f}"),
    ("cut, s", lambda row: f"{row['cut_s']:.3f}"),
    ("emit, s", lambda row: f"{row['emit_s']:.3f}"),
)
_ZOO: Sequence[Column] = (
    ("system", lambda row: str(row["system"])),
    ("accuracy", lambda row: f"{row['accuracy']:.1%}"),
    ("of the whole network", lambda row: f"{row['whole_accuracy']:.1%}"),
    ("work done", lambda row: "-" if row["work"] is None else f"{row['work']:.0%}"),
    ("segments run", lambda row: f"{row['segments_run']:.1f} of {row['segments']}"),
    ("mean, ms", lambda row: f"{row['ms']:.3f}"),
    ("/ whole network", lambda row: f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})"),
    ("/ single file", _single),
)
_SECTIONS = (
    (
        "chain",
        "The full path through all segments against the whole network as one session",
        (
            "Both compute every exit and every criterion; the session is run as users do, `session.run(None, feeds)`. "
            "Medians of interleaved rounds, the median over processes; with all threads both use one shared pool. "
            "Target: 1.03 from 0.3 ms up, 2 us a segment below."
        ),
        _CHAIN,
    ),
    (
        "control_flow",
        "Gates and loops: the plan against the same control flow inside one session, and against none",
        (
            "One thread. One session is the network with its criterion as torch exports it: `If`, `Loop`, or every "
            "block computed and blended; `without` is the network without gates and without what they skip."
        ),
        _CONTROL_FLOW,
    ),
    (
        "floor",
        "The cost floor: a branch as a gate, and inside one segment",
        (
            'The same bundle exported with `lower_control_flow="always"` and `False`, one thread, interleaved. A gate '
            "costs some 3 us more than onnxruntime's `If`, which the blocked layout of convolutions outweighs."
        ),
        _FLOOR,
    ),
    (
        "zoo",
        "Every system of the zoo against the whole network, and against its own plan as a single file",
        (
            "Accuracy and the mean share of all multiply-adds on the 450 held-out digits (a loop counts to its bound, "
            "all cases of a switch count); mean latency over 100 of them, one at a time, one thread, of each digit the "
            "median of interleaved rounds. The whole network is one session with the last exit alone and the control "
            "flow as it was written; the single file is the plan with onnxruntime's own `If` and `Loop`."
        ),
        _ZOO,
    ),
    (
        "layout",
        "Convolutions kept in onnxruntime's blocked layout across a cut",
        "The full path of the same network cut with `keep_blocked` and without it, one thread, interleaved.",
        _LAYOUT,
    ),
    (
        "cold_start",
        "The first exit from a cold bundle against loading the whole model",
        (
            "Each in a process of its own, medians. Private memory leaves out mapped files, whose pages a kernel drops "
            "when it needs memory. Target: at most 0.2 of the whole model."
        ),
        _COLD,
    ),
    (
        "cut",
        "The compiler's own time",
        "A chain of small operators; torch's export is not in it. Target: a cut of 10,000 nodes within 2 s, linear.",
        _CUT,
    ),
)
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
    for name, title, method, columns in _SECTIONS:
        if not (RESULTS / f"{name}.json").exists():
            continue  # not measured yet
        stored = json.loads((RESULTS / f"{name}.json").read_text())
        machine = ", ".join(f"{key} {value}" for key, value in stored["machine"].items())
        parts += [f"## {title}", method, _table(stored["rows"], columns), f"Machine: {machine}."]
    parts += sections()
    parts.append(NOTES.read_text().strip())
    (Path(__file__).parent / "README.md").write_text("\n\n".join(parts) + "\n")


def _table(rows: list[Row], columns: Sequence[Column]) -> str:
    lines = ["| " + " | ".join(title for title, _ in columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(spell(row) for _, spell in columns) + " |" for row in rows]
    return "\n".join(lines)


def _share(row: Row, key: str) -> str:
    whole, bundle = row[f"whole_{key}"], row[f"bundle_{key}"]
    return f"{whole:.1f}, {bundle:.1f}, {bundle / whole:.2f}"


if __name__ == "__main__":
    main()
