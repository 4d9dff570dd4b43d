"""Float, all in int8, and as `ee.quantize` chooses: bytes, latency with real exits, accuracy and agreement."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence

from benchmarks.quantizing_process import FORMS
from benchmarks.section import Row, Section, met, over, publish

CASES = ("digits", "mnist", "reviews")
GOAL = 0.01
"""By how much accuracy may drop when thresholds are tuned, of 1."""
SHARE = {"digits": 1.0, "mnist": 0.7, "reviews": 0.7}
"""The most of the float bundle's mean latency that the chosen one may take."""
BYTES = {"digits": 1.0, "mnist": 0.32, "reviews": 0.45}
"""The most of the float bundle's bytes that the chosen one may have."""
AGREEMENT, POINTS = 0.99, 0.3
"""The least agreement of every exit with the float one, and the most points that tuned answers may lose."""
_CORE = "1"


def _percents(key: str) -> Callable[[Row], str]:
    return lambda row: " ".join(f"{100 * value:.2f}" for value in row[key])


SECTION = Section(
    "quantizing",
    "int8: `ee.quantize`",
    (
        "Trained networks, each in a process of its own on one core. Ranges are calibrated and segments chosen on "
        f"validation rows, thresholds tuned on them for {GOAL:.0%} of accuracy, each bundle for itself; all figures "
        "are of test rows. `all`: every segment that can be is int8, by its most accurate method. Latency: mean over "
        "rows of each row's median, in turns in one process, one thread, thresholds tuned, rows leave where they are "
        "sure; with a 95 % interval over rows. Agreement: the share of rows that an exit answers as the float one "
        "does, whether they leave there or not. Targets of what is chosen: no slower than float, at most "
        f"{SHARE['mnist']} of it on MNIST and film reviews; {AGREEMENT:.0%} agreement at every exit; at most {POINTS} "
        f"points lost after tuning; at most {BYTES['mnist']} of the bytes on MNIST, {BYTES['reviews']} on film reviews."
    ),
    (
        ("network", lambda row: str(row["name"])),
        ("bundle", lambda row: str(row["form"])),
        ("segments", lambda row: ", ".join(row["methods"])),
        ("bytes / float", lambda row: f"{row['bytes_over']:.3f}"),
        ("mean, ms", lambda row: f"{row['mean_ms']:.3f}"),
        ("/ float", lambda row: over(row["over"])),
        ("exits right, %", _percents("exits_right")),
        ("agreement, %", _percents("agreement")),
        ("tuned right, %", lambda row: f"{100 * row['accuracy']:.2f}"),
        ("points lost", lambda row: f"{row['points']:.2f}"),
        ("targets met", met),
    ),
)


def main(names: Sequence[str] = ()) -> None:
    """Measures every case, or those named, and prints the table; only all of them are stored."""
    publish(SECTION, [row for name in names or CASES for row in _measure(name)], keep=not names)


def _measure(name: str) -> list[Row]:
    command = ["taskset", "-c", _CORE, sys.executable, "-m", "benchmarks.quantizing_process", name, str(GOAL)]
    rows: list[Row] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return [row | {"met": meets(row) if row["form"] == FORMS[-1] else None} for row in rows]


def meets(row: Row) -> bool:
    """Whether the chosen bundle of a case reaches all that is asked of it."""
    name = row["name"]
    return (
        row["over"]["bundle_over"] <= SHARE[name]
        and row["bytes_over"] <= BYTES[name]
        and min(row["agreement"]) >= AGREEMENT
        and row["points"] <= POINTS
    )


if __name__ == "__main__":
    main(sys.argv[1:])
