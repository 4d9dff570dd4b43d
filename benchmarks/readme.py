"""The README's table of systems, made from the stored results of `benchmarks.zoo`."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.measure import RESULTS
from eetoolkit import zoo

README = Path(__file__).parents[1] / "README.md"
START, END = "<!-- zoo: made by `python -m benchmarks.readme` -->\n", "<!-- /zoo -->\n"


def table() -> str:
    """Returns the table, a row for each system."""
    stored = json.loads((RESULTS / "zoo.json").read_text())
    lines = [
        "| system | shown by `eetoolkit/zoo/` | right (whole) | work done | latency / whole | / one file |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in stored["rows"]:
        system = zoo.find(row["system"])
        work = "-" if row["work"] is None else f"{row['work']:.0%}"
        single = "-" if row["single_ratio"] is None else f"{row['single_ratio']:.2f}"
        lines.append(
            f"| {system.title} | `{system.name}.py` | {row['accuracy']:.1%} ({row['whole_accuracy']:.1%}) | {work} | "
            f"{row['ratio']:.2f} | {single} |"
        )
    machine = stored["machine"]
    where = f"one thread of {machine['processor']}, onnxruntime {machine['onnxruntime']}"
    note = (
        f"On held-out digits, one at a time, {where}; `make bench` measures it again. Right: the bundle's answers, in "
        "brackets those of the whole network's last exit. Work done: multiply-adds of the segments that ran. Whole: "
        "the network as one session, with its control flow as written. One file: the same plan in one session, with "
        "onnxruntime's own `If` and `Loop`. Networks this small are where a segment's own cost weighs most."
    )
    lines += ["", note]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Writes the table into the README."""
    text = README.read_text()
    before, rest = text.split(START)
    _, after = rest.split(END)
    README.write_text(before + START + table() + END + after)


if __name__ == "__main__":
    main()
