"""Figures of README and docs: the one number, the tables of platforms, peers and systems, from the stored results."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS
from benchmarks.zoo import LOCAL, ONE_FILE, WHOLE
from eetoolkit import zoo

ROOT = Path(__file__).parents[1]
PEERS = {
    "whole": "whole network, one session",
    "fixed": "best always-exit, one session",
    "one file": "one file, nested `If`",
    "hand-truncated": "a hand-truncated session",
    "eager": "eager PyTorch",
    "earlyon staged": "earlyon, staged",
}
PEERS_OF_ZOO = {WHOLE: "bundle / whole", LOCAL: "/ local weights", ONE_FILE: "/ one file"}


def number() -> str:
    """Returns the README's one number, with its conditions."""
    stored = json.loads((RESULTS / "real_cases.json").read_text())
    (row,) = (row for row in stored["rows"] if row["name"] == "mnist" and row["threads"] == 1)
    whole, fixed = (1 / row["peers"][name]["bundle_over"] for name in ("whole", "fixed"))
    return (
        f"**{whole:.0f} times faster** than the whole network as one onnxruntime session, and {fixed:.1f} times faster "
        f"than the best network\nthat always leaves at one exit: a residual CNN trained with its four exits, mean over "
        f"{row['rows']:,} held-out MNIST digits,\n{row['accuracy']:.2%} right (whole: {row['whole_accuracy']:.2%}), "
        f"one thread of an {stored['machine']['processor']}, in turns in one process.\nThresholds were chosen on other "
        "digits.\n"
    )


def peers() -> str:
    """Returns the table of the trained cases beside the other ways to run them, one thread; digits are in the zoo's."""
    stored = json.loads((RESULTS / "real_cases.json").read_text())["rows"]
    rows = [row for row in stored if row["threads"] == 1 and row["name"] != "digits"]
    lines = [
        f"| network | right (whole), all test rows | {' | '.join(PEERS.values())} |",
        f"| --- | ---: |{' ---: |' * len(PEERS)}",
    ]
    for row in rows:
        cells = [row["peers"].get(name) for name in PEERS]
        right = f"{row['accuracy']:.2%} ({row['whole_accuracy']:.2%}), {row['test_rows']:,}"
        lines.append(f"| {row['case']} | {right} | {' | '.join(map(_ratio, cells))} |")
    note = (
        "Each figure is the bundle's mean latency over the peer's; below 1 the bundle is faster. The networks were "
        "trained with their exits; held-out rows ran one at a time on one thread.\n"
        "Thresholds lose nothing on validation data; held-out film reviews lose more.\n"
        "A hand-truncated session is cut off after the exit that the row takes.\n"
        "[benchmarks/README.md](benchmarks/README.md) has intervals, p95, p99, all threads and more cases."
    )
    return "\n".join([*lines, "", note]) + "\n"


def systems() -> str:
    """Returns the table, a row for each system."""
    stored = json.loads((RESULTS / "zoo.json").read_text())
    columns = ("system", "shown by `eetoolkit/zoo/`", "right (whole)", "work done", *PEERS_OF_ZOO.values())
    lines = [
        f"| {' | '.join(columns)} |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in stored["rows"]:
        system = zoo.find(row["system"])
        work = "-" if row["work"] is None else f"{row['work']:.0%}"
        ratios = " | ".join(_ratio(row["peers"].get(name)) for name in PEERS_OF_ZOO)
        lines.append(
            f"| {system.title} | `{system.name}.py` | {row['accuracy']:.1%} ({row['whole_accuracy']:.1%}) | {work} | "
            f"{ratios} |"
        )
    machine = stored["machine"]
    where = f"one thread of {machine['processor']}, onnxruntime {machine['onnxruntime']}"
    note = (
        f"Latency is the mean over the demo's {stored['rows'][0]['digits']} held-out digits, one at a time, with the "
        f"thresholds of `eetoolkit demo --model NAME`, {where}. Below 1 the bundle is faster.\n\n"
        "- Right: the bundle's answers; in brackets those of the whole network's last exit.\n"
        "- Work done: multiply-adds of the segments that ran, with all control flow in the plan "
        '(`lower_control_flow="always"`, as `eetoolkit demo` exports it). The latency is that of the default export.\n'
        "- Whole: the network as one session, with its control flow as `torch.onnx.export` writes it.\n"
        "- Local weights: the same with every weight in the branch that reads it, where there are branches.\n"
        "- One file: the same plan in one session, with onnxruntime's own `If` and `Loop`.\n\n"
        "In networks this small a segment's own cost weighs most."
    )
    return "\n".join([*lines, "", note]) + "\n"


def runners() -> str:
    """Returns the short table of where the cases were run: a row for each runner, the least over all processors."""
    stored = json.loads((RESULTS / "platforms.json").read_text())
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, found in stored.items():
        rows.setdefault(name.split(", ")[0], []).append(found)
    lines = ["| runner | cases | zoo | zoo, int8 |", "| --- | ---: | ---: | ---: |"]
    for name, found in rows.items():
        cells = [_least(found, which) for which in ("conformance", "zoo", "zoo_int8")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines.append("| React Native | typed | not | run |")
    note = "Rows with the right exit, path, decisions and outputs; Python and native also on emulated ARM64."
    return "\n".join([*lines, "", note]) + "\n"


def platforms() -> str:
    """Returns the long one, a row for each processor."""
    stored = json.loads((RESULTS / "platforms.json").read_text())
    sizes = {name: len(answered["cases"]) for name, answered in next(iter(stored.values())).items()}
    cases, systems = f"cases, {sizes['conformance']} bundles", f"zoo, {sizes['zoo']} systems"
    columns = ("runner", "with", cases, systems, "outputs within", "zoo, int8", "outputs within")
    lines = [f"| {' | '.join(columns)} |", "| --- | --- | ---: | ---: | ---: | ---: | ---: |"]
    for name, found in stored.items():
        by = ", ".join(f"{what} {version}" for what, version in found["zoo"]["by"].items())
        cases, systems, small = (_least([found], which) for which in ("conformance", "zoo", "zoo_int8"))
        near = [_furthest(found, int8=int8) for int8 in (False, True)]
        lines.append(f"| {name} | {by} | {cases} | {systems} | {near[0]} | {small} | {near[1]} |")
    note = (
        "Rows with the exit, path, decisions and outputs that the normative interpreter gives on x86-64 with VNNI, of "
        "all. Outputs are within a share of the largest, or of 1; int8: of its cases too. The native runner says only "
        "that they are within the tolerance."
    )
    return "\n".join([*lines, "", note]) + "\n"


def _least(everywhere: list[dict[str, Any]], which: str) -> str:
    """Spells how many rows of some cases were right where the fewest were."""
    right = []
    for found in everywhere:
        cases = found[which]["cases"]
        runs = sum(each["runs"] for each in cases.values())
        wrong = {(case, text.split(":")[0]) for case, each in cases.items() for text in each["failures"]}
        right.append((runs - len(wrong), runs))
    return "{:,}/{:,}".format(*min(right))


def _furthest(found: dict[str, Any], *, int8: bool) -> str:
    """Spells by how much outputs differ at most; of int8 where the runner says how much."""
    if int8 and found["zoo"]["by"].keys() == {"onnxruntime"}:  # the native one
        return "-"
    differences = [
        float(each["difference"])
        for which, answered in found.items()
        for name, each in answered["cases"].items()
        if (which == "zoo_int8" or name.startswith("int8_")) == int8
    ]
    return f"{max(differences):.0e}"


def _ratio(peer: dict[str, float] | None) -> str:
    return "-" if peer is None else f"{peer['bundle_over']:.2f}"


BLOCKS = {
    "README.md": {"number": number, "runners": runners, "peers": peers},
    "docs/raspberry-pi.md": {"platforms": platforms},
    "docs/zoo.md": {"zoo": systems},
}
"""By page: what makes the text between the marks of each name."""


def fill(text: str, blocks: Mapping[str, Callable[[], str]]) -> str:
    """Returns a page with its blocks made anew."""
    for name, make in blocks.items():
        start, end = f"<!-- {name}: made by `python -m benchmarks.readme` -->\n", f"<!-- /{name} -->\n"
        before, rest = text.split(start)
        _, after = rest.split(end)
        text = before + start + make() + end + after
    return text


def main() -> None:
    """Writes the figures into their pages."""
    for page, blocks in BLOCKS.items():
        path = ROOT / page
        path.write_text(fill(path.read_text(), blocks))


if __name__ == "__main__":
    main()
