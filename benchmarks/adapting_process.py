"""One process of `benchmarks.adapting`: adds exits to a trained network, and holds the bundle against other ways."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

import eetoolkit as ee
from benchmarks import peers
from benchmarks.cases.catalogue import load_case
from benchmarks.real_cases import lay_out
from benchmarks.section import Row
from benchmarks.single_exit.case import Case, Rows
from benchmarks.single_exit.train import LOADERS
from benchmarks.turns import Way, compared, timed
from eetoolkit_exporters.attaching.attach import FINAL
from eetoolkit_exporters.capturing.capture import Network, capture
from eetoolkit_exporters.emitting.graphs import whole_model
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.running.sessions import SessionSettings
from eetoolkit_runtime.verify import difference

JOINT = "mnist"
"""The case that has a namesake which was trained with its exits, for the same test rows."""
MASK = "attention_mask"
SECONDS = 20.0
TIMED_ROWS = 500

Given = list[tuple[Array, ...]]
"""Of each row the network's inputs, each with a leading dimension of 1."""


def measure(case: Case, goal: float, seconds: float = SECONDS) -> Row:
    """Returns the figures of a case.

    Args:
        case: The case.
        goal: By how much accuracy may drop, of 1.
        seconds: How long latencies are measured.
    """
    before, clock, started = _digest(case.model), _Clock(), time.perf_counter()
    fit, tune = (case.fit, None) if case.train is None else (case.train, case.fit)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        adapted = ee.add_exits(
            case.model, *fit, validation=tune, max_accuracy_drop=goal, threads=1, folder=folder / "features",
            progress=clock, **case.options,
        )  # fmt: skip
        features_s, fitted_s = clock.last["running the network"], clock.now()
        bundle = None
        try:
            bundle = adapted.bundle(folder / "adapted.ee", labels=case.labels, force=True)
        except ee.TuneError as error:
            print(f"{case.name}: {error}", file=sys.stderr)
        if adapted.report is None:
            raise RuntimeError(f"{case.name}: no report")
        found: Row = {
            "name": case.name, "goal": goal, "threads": 1, "rows": adapted.report.rows,
            "features_s": features_s, "heads_s": fitted_s - features_s, "bundle_s": clock.now() - fitted_s,
            "wall_s": time.perf_counter() - started, "load": os.getloadavg()[0],
            "places": len(adapted.places), "candidates": len(adapted.candidates),
            "pays": adapted.report.pays, "verdict": adapted.report.verdict,
        }  # fmt: skip
        found |= _tested(case, adapted, bundle, found, folder, seconds)
    return found | {"same_state": _digest(case.model) == before}


def _tested(
    case: Case, adapted: ee.Adapted, bundle: ee.Bundle | None, so_far: Row, folder: Path, seconds: float
) -> Row:
    """Returns what the test rows show: accuracies, where rows leave, and latencies in turns."""
    given, labels = rows_of(case.test), case.test[1]
    own = _own(case.model, given)
    whole = float((own.argmax(1) == labels).mean())
    if bundle is None:
        return {"test_rows": len(given), "whole_accuracy": whole}
    with ee.Runner(bundle, threads=1, load="eager") as runner:
        answers = [runner.run(row) for row in given]
        accuracy = float((np.array([answer.prediction for answer in answers]) == labels).mean())
        network, least = capture(adapted.model, adapted.model.exits), min(accuracy, whole - so_far["goal"])
        fixed, fixed_accuracy = _fixed(adapted, network, given, labels, least, folder)
        some = [given[row] for row in np.random.default_rng(0).permutation(len(given))[:TIMED_ROWS]]
        ways = {
            "bundle": Way(some, runner.run),
            "whole": _session(case.model if isinstance(case.model, Path) else _save(network, [FINAL], folder), some),
            "fixed": _session(_save(network, [fixed], folder), some),
        }
        last = None
        if FINAL in bundle.exits:
            last = max(
                difference(runner.run(row, exit_at=FINAL).outputs["logits"], own[n : n + 1])
                for n, row in enumerate(given)
            )
        joint: Row = {}
        if case.name == JOINT:
            joint = {"joint_accuracy": lay_out(load_case(JOINT), folder, None).figures["accuracy"]}
            ways["joint"] = Way(some, ee.Runner(folder / peers.BUNDLE, threads=1, load="eager").run)
        times = np.median(timed(ways, seconds, 0, settle=False), axis=0)
    titles, taken = bundle.manifest.titles, Counter(answer.exit for answer in answers)
    return {
        "test_rows": len(given), "whole_accuracy": whole, "accuracy": accuracy, "drop_points": 100 * (whole - accuracy),
        "exits": [
            {
                "name": (title := titles.get(name, name)),
                "head": adapted.candidates[title][1] if title in adapted.candidates else None,
                "share": taken[name] / len(given),
            }
            for name in bundle.exits
        ],
        "fixed_exit": fixed, "fixed_accuracy": fixed_accuracy, "last_differs": last, **joint,
        "peers": compared({name: row[np.newaxis] for name, row in zip(ways, times, strict=True)}),
    }  # fmt: skip


def rows_of(rows: Rows) -> Given:
    """Returns rows one by one; of a sequence only the steps that its mask keeps."""
    inputs = rows[0]
    columns = list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]
    given = [tuple(column[row : row + 1] for column in columns) for row in range(len(columns[0]))]
    if not isinstance(inputs, Mapping) or MASK not in inputs:
        return given
    lengths = inputs[MASK].sum(axis=1)
    return [tuple(array[:, :length] for array in row) for row, length in zip(given, lengths, strict=True)]


def _own(model: nn.Module | Path, given: Given) -> Array:
    """Returns the network's own answers, (rows, classes)."""
    if isinstance(model, Path):
        way = _session(model, given)
        return np.concatenate([way.run(feed)[0] for feed in way.given])
    with torch.inference_mode():
        return np.concatenate([model(*map(torch.from_numpy, row)).numpy() for row in given])


def _fixed(
    adapted: ee.Adapted, network: Network, given: Given, labels: Array, least: float, folder: Path
) -> tuple[str, float | None]:
    """Returns the cheapest candidate that has the least accuracy if all rows leave there, and its accuracy.

    Where none has, it is the network's own answer.
    """
    early = [exit_.name for exit_ in network.exits if exit_.name != FINAL]
    way = _session(_save(network, early, folder), given)
    said = np.array([[logits.argmax() for logits in way.run(feed)] for feed in way.given])
    accuracies = dict(zip(early, (said == labels[:, np.newaxis]).mean(axis=0).tolist(), strict=True))
    shares = {place.name: place.share for place in adapted.places}

    def cost(name: str) -> tuple[float, int]:
        head = adapted.model.heads[name]
        return shares[adapted.candidates[name][0]], sum(weights.numel() for weights in head.parameters())

    good = sorted((name for name in early if accuracies[name] >= least), key=cost)
    return (good[0], accuracies[good[0]]) if good else (FINAL, None)


def _save(network: Network, exits: Sequence[str], folder: Path) -> Path:
    """Returns the file of the network up to some exits."""
    path = folder / f"{len(list(folder.iterdir()))}.onnx"
    ir.save(whole_model(network, exits, confidences=False), path)
    return path


def _session(path: Path, given: Given) -> Way:
    """Returns how an ONNX file is run as one session."""
    session = SessionSettings(threads=1, one_row=True).open(str(path), path.name)
    names = [value.name for value in session.get_inputs()]
    return Way([dict(zip(names, row, strict=True)) for row in given], partial(session.run, None))


def _digest(model: nn.Module | Path) -> str:
    """Returns what tells a network's weights and statistics from others, bit by bit."""
    if isinstance(model, Path):
        return hashlib.sha256(model.read_bytes()).hexdigest()
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


class _Clock:
    """Progress that remembers when each thing was last told of, in seconds of the processor from the start."""

    def __init__(self) -> None:
        self._started = time.process_time()
        self.last: dict[str, float] = {}

    def __call__(self, what: str, done: int, total: int) -> None:  # noqa: ARG002
        """Remembers."""
        self.last[what] = self.now()

    def now(self) -> float:
        """Returns the processor's seconds since the start."""
        return time.process_time() - self._started


if __name__ == "__main__":
    torch.set_num_threads(1)
    name, goal = sys.argv[1:]
    print(json.dumps(measure(LOADERS[name](), float(goal))))
