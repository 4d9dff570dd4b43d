"""One process of `benchmarks.quantizing`: a case as float bundle, all in int8, and as chosen, on its test rows."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

import eetoolkit as ee
from benchmarks.cases.case import Case, Part
from benchmarks.cases.catalogue import load_case
from benchmarks.section import Row
from benchmarks.turns import Way, ratio, timed
from eetoolkit_runtime.arrays import Array

FORMS = ("float", "all", "chosen")
SECONDS = 30.0
TIMED_ROWS = 500


def measure(case: Case, goal: float, seconds: float = SECONDS) -> list[Row]:
    """Returns a row of figures for each form of a case's bundle.

    Args:
        case: The case.
        goal: By how much accuracy may drop when thresholds are tuned, of 1.
        seconds: How long latencies are measured.
    """
    pairs, labels = list(zip(case.validation.rows, case.validation.labels, strict=True)), case.test.labels
    given = case.test.rows
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        bundles = {"float": ee.export(case.network, case.example, folder / "float.ee", **case.options)}
        for form, segments in (("all", "all"), ("chosen", None)):
            report = ee.quantize(bundles["float"], pairs, folder / f"{form}.ee", segments=segments, threads=1)
            print(f"{case.name}, {form}: {report.verdict}", file=sys.stderr)
            bundles[form] = bundles["float"] if report.path is None else ee.load(report.path)
        said = {form: _answers(bundle, case.test) for form, bundle in bundles.items()}
        tuned = {form: _tuned(bundle, pairs, goal, folder / f"tuned-{form}.ee") for form, bundle in bundles.items()}
        runners = {form: stack.enter_context(ee.Runner(each, threads=1, load="eager")) for form, each in tuned.items()}
        right = {
            form: float(np.mean([runner.run(row).prediction for row in given] == labels))
            for form, runner in runners.items()
        }
        some = [given[row] for row in np.random.default_rng(0).permutation(len(given))[:TIMED_ROWS]]
        ways = {form: Way(some, runner.run) for form, runner in runners.items()}
        times = dict(zip(ways, np.median(timed(ways, seconds, 0, settle=False), axis=0), strict=True))
        names = [name for name, segment in bundles["float"].manifest.segments.items() if segment.model is not None]
        found = []
        for form, bundle in bundles.items():
            quantized = bundle.manifest.quantization
            methods = {} if quantized is None else quantized.segments
            ratios = ratio(times[form][np.newaxis], times["float"][np.newaxis])
            found.append(
                {
                    "name": case.name, "form": form, "threads": 1, "load": os.getloadavg()[0], "test_rows": len(given),
                    "methods": [methods.get(name, "float") for name in names],
                    "bytes": bundle.size_bytes, "bytes_over": bundle.size_bytes / bundles["float"].size_bytes,
                    "mean_ms": float(times[form].mean()),
                    "over": dict(zip(("bundle_over", "low", "high"), ratios, strict=True)),
                    "exits_right": (said[form] == labels[:, np.newaxis]).mean(axis=0).tolist(),
                    "agreement": (said[form] == said["float"]).mean(axis=0).tolist(),
                    "accuracy": right[form], "points": round(100 * (right["float"] - right[form]), 6),
                }
            )  # fmt: skip
    return found


def _answers(bundle: ee.Bundle, part: Part) -> Array:
    """Returns the class that every exit says, (rows, exits)."""
    with ee.Runner(bundle, threads=1) as runner:
        return np.array([[answer.prediction for answer in runner.run_all_exits(row)] for row in part.rows])


def _tuned(bundle: ee.Bundle, pairs: object, goal: float, folder: Path) -> ee.Bundle:
    """Returns a copy of a bundle with thresholds of its own."""
    return ee.tune(shutil.copytree(bundle.path, folder), pairs, max_accuracy_drop=goal, threads=1).apply(force=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    name, goal = sys.argv[1:]
    print(json.dumps(measure(load_case(name), float(goal))))
