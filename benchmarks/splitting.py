"""A device, and a server that goes on behind an exit: local, remote, and where `ee.tune` splits, over slow links."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

from benchmarks.section import Row, Section, publish

SLOWER = 100.0
"""How many times slower the device is that is predicted, not measured."""


def _ms(way: str) -> Callable[[Row], str]:
    def spell(row: Row) -> str:
        found = row["ways"].get(way)
        if found is None:
            return "-"
        if found["measured_ms"] is None:
            return f"({found['predicted_ms']:.3g})"
        predicted = "" if found["predicted_ms"] is None else f" ({found['predicted_ms']:.3g})"
        return f"{found['measured_ms']:.3g}{predicted}"

    return spell


def _each(key: str) -> Callable[[Row], str]:
    return lambda row: " ".join(f"{100 * way[key]:.1f}" for way in row["ways"].values())


def _alike(row: Row) -> str:
    alike = row["alike"]
    if alike is None:
        return "-"
    return f"{alike['equal']} of {alike['rows']}, to {alike['difference']:.1g}"


SECTION = Section(
    "splitting",
    "Device and server: where to split",
    (
        "MNIST's residual CNN with four exits. The server is MLServer on loopback, asked by gRPC unless a row says "
        "REST, behind a proxy that adds a round trip and paces bytes; TCP's slow start is not played. Device and "
        "server share this machine's cores, one thread each, so the server is no faster than the device. Local: "
        "thresholds that `ee.tune` chooses for a drop of 1 point. At exit0: the same thresholds, rows that exit0 does "
        "not answer go on at the server. All remote: all rows do, from there. Tuned: cut and thresholds that "
        "`ee.tune(link=, server=)` chooses by 1,500 other rows and this link as it was measured. Milliseconds are "
        "means over the 2,000 test rows: of rows that stay and of rows that go on some were timed (`timed`: how many "
        "in all, the fewest and the most of these ways), and their means are weighted by their shares of all 2,000; in "
        "brackets what the cost model predicts. "
        f"{SLOWER:.0f} times slower: every latency of the device's profile times that, the server's as it is: "
        "predicted, not measured. Sent and right, in percent, are of local, at exit0, all remote, tuned. Alike: test "
        "rows that split halves answer as the whole bundle does (exit, path, outputs to 1e-5), at all three cuts and "
        "with every row sent, and the largest difference of an output."
    ),
    (
        ("link", lambda row: str(row["link"])),
        ("device", lambda row: str(row["device"])),
        ("a request, ms", lambda row: f"{row['request_ms']:.3g}"),
        ("local, ms", _ms("local")),
        ("at exit0, ms", _ms("first")),
        ("all remote, ms", _ms("all")),
        ("tuned, ms", _ms("tuned")),
        ("tuned splits", lambda row: str(row["place"])),
        ("sent, %", _each("sent")),
        ("right, %", _each("accuracy")),
        ("timed", lambda row: str(row["timed"] or "-")),
        ("alike", _alike),
    ),
)


def main(quick: str = "") -> None:
    """Measures all links and prints the table; `quick` is a smoke test whose figures are not stored."""
    command = [sys.executable, "-m", "benchmarks.splitting_process", str(SLOWER), *([quick] if quick else [])]
    rows: list[Row] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    publish(SECTION, rows, keep=not quick)


if __name__ == "__main__":
    main(*sys.argv[1:])
