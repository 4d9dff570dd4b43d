"""The README's figures: its one number, the peers and the table of systems, made from the stored results."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.measure import RESULTS
from eetoolkit import zoo

README = Path(__file__).parents[1] / "README.md"
PEERS = {
    "whole": "whole network, one session",
    "fixed": "best always-exit, one session",
    "single file": "one file, nested `If`",
    "eager": "eager PyTorch",
    "earlyon staged": "earlyon, staged",
    "limit": "the limit",
}


def number() -> str:
    """Returns the README's one number, with its conditions."""
    stored = json.loads((RESULTS / "real_cases.json").read_text())
    (row,) = (row for row in stored["rows"] if row["name"] == "mnist" and row["threads"] == 1)
    whole, fixed = (row["peers"][name]["times_bundle"] for name in ("whole", "fixed"))
    processor = stored["machine"]["processor"]
    return (
        f"**{whole:.0f} times faster** than the whole network as one onnxruntime session, and "
        f"{fixed:.1f} times faster than the best network\nthat always leaves at one exit: mean "
        f"over {row['rows']:,} held-out MNIST digits, {row['accuracy']:.2%} right (whole: "
        f"{row['whole_accuracy']:.2%}), one thread of\nan {processor}, all in one interleaved loop.\nThresholds come "
        "from other digits. `make demo` shows it on your machine.\n"
    )


def peers() -> str:
    """Returns the table of the three trained cases beside the other ways to run them, one thread."""
    rows = [row for row in json.loads((RESULTS / "real_cases.json").read_text())["rows"] if row["threads"] == 1]
    lines = [
        f"| times the bundle's mean latency | {' | '.join(PEERS.values())} |",
        f"| --- |{' ---: |' * len(PEERS)}",
    ]
    for row in rows:
        cells = [row["peers"].get(name) for name in PEERS]
        spelt = ["-" if peer is None else f"{peer['times_bundle']:.2f}" for peer in cells]
        lines.append(f"| {row['case']} | {' | '.join(spelt)} |")
    note = (
        "Held-out rows one at a time, thresholds from validation data, one thread; intervals, p95, p99, accuracies and "
        "all\nthreads are in [benchmarks/README.md](benchmarks/README.md). The limit is one session over the network "
        "cut off where the row leaves."
    )
    return "\n".join([*lines, "", note]) + "\n"


def systems() -> str:
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
    """Writes the figures into the README."""
    text = README.read_text()
    for name, made in (("number", number()), ("peers", peers()), ("zoo", systems())):
        start, end = f"<!-- {name}: made by `python -m benchmarks.readme` -->\n", f"<!-- /{name} -->\n"
        before, rest = text.split(start)
        _, after = rest.split(end)
        text = before + start + made + end + after
    README.write_text(text)


if __name__ == "__main__":
    main()
