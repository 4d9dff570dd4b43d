"""Every system of the zoo: its bundle against the whole network, and against its own plan as a single file.

Both others are one onnxruntime session with one thread, the first with the control flow as it was written (blended
gates compute both sides) and the last exit only, the second with the plan's exits and gates as `If` and `Loop`. The
held-out digits run one at a time; a round is one pass over them, in which the candidates take turns at every digit.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import interleaved_ms
from benchmarks.section import Row, Section, publish
from eetoolkit import zoo
from eetoolkit.demo.exporting import export_system, load_system, open_session, open_whole
from eetoolkit.demo.pipeline import check_same_network
from eetoolkit.demo.report import whole_predictions
from eetoolkit.demo.timing import Row as Inputs
from eetoolkit.demo.timing import Runs
from eetoolkit.demo.work import segments_run, share_of_work
from eetoolkit_exporters.single_file.single_file import EXITS, write_single_file
from eetoolkit_runtime.answer import Answer
from eetoolkit_runtime.bundle import Bundle
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.inputs import Array
from eetoolkit_runtime.runner import Runner
from eetoolkit_runtime.verify import difference

THREADS = 1
DIGITS = 100
ROUNDS = 20


def _single(row: Row) -> str:
    if row["single_ratio"] is None:
        return "-"
    return f"{row['single_ratio']:.2f} ({row['single_low']:.2f} to {row['single_high']:.2f})"


SECTION = Section(
    "zoo",
    "Every system of the zoo against the whole network, and against its own plan as a single file",
    (
        "Accuracy and the mean share of all multiply-adds on the 450 held-out digits (a loop counts to its bound, "
        "all cases of a switch count); mean latency over 100 of them, one at a time, one thread, of each digit the "
        "median of interleaved rounds. The whole network is one session with the last exit alone and the control "
        "flow as it was written; the single file is the plan with onnxruntime's own `If` and `Loop`."
    ),
    (
        ("system", lambda row: str(row["system"])),
        ("accuracy", lambda row: f"{row['accuracy']:.1%}"),
        ("of the whole network", lambda row: f"{row['whole_accuracy']:.1%}"),
        ("work done", lambda row: "-" if row["work"] is None else f"{row['work']:.0%}"),
        ("segments run", lambda row: f"{row['segments_run']:.1f} of {row['segments']}"),
        ("mean, ms", lambda row: f"{row['ms']:.3f}"),
        ("/ whole network", lambda row: f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})"),
        ("/ single file", _single),
    ),
)


def main(names: tuple[str, ...] = ()) -> None:
    """Measures every system, or those named, and prints the table; only all of them are stored."""
    rows = [measure(name) for name in names or zoo.names()]
    publish(SECTION, rows, keep=not names)


def measure(name: str) -> dict[str, Any]:
    """Returns the figures of one system: accuracies and work on all held-out digits, latencies on some of them."""
    trained = load_system(zoo.find(name))
    with tempfile.TemporaryDirectory() as folder:
        bundle = export_system(trained, Path(folder) / f"{name}.ee")
        whole = open_whole(trained, list(bundle.exits)[-1], THREADS)
        path = Path(folder) / "single.onnx"
        try:
            single = open_session(write_single_file(bundle, path), THREADS)
            refusal = None
        except ExportError as error:
            single, refusal = None, str(error)
        inputs = [spec.name for spec in bundle.manifest.inputs]
        feeds = [dict(zip(inputs, row, strict=True)) for row in trained.rows]
        given = [_given(row) for row in trained.rows]
        needed = [{key: feed[key] for key in whole.inputs} for feed in feeds]
        with Runner(bundle, threads=THREADS, load="eager") as runner:
            answers = [runner.run(row) for row in given]
            every_exit = [runner.run_all_exits(row) for row in given]
            said = [dict(zip(whole.outputs, whole.session.run(None, feed), strict=True)) for feed in needed]
            check_same_network(Runs(answers, every_exit, said, np.empty(0), np.empty(0)))
            candidates: dict[str, Callable[[], object]] = {
                "bundle": _each(runner.run, given),
                "whole": _each(lambda feed: whole.session.run(None, feed), needed),
            }
            if single is not None:
                _check_same_answers(single, bundle, feeds, answers)
                candidates["single"] = _each(lambda feed: single.run(None, feed), feeds)
            latencies = interleaved_ms(candidates, ROUNDS * DIGITS)
    passes = {key: found.reshape(ROUNDS, DIGITS) for key, found in latencies.items()}
    ratio, low, high = ratio_of_means(passes["bundle"], passes["whole"])
    against_single = ratio_of_means(passes["bundle"], passes["single"]) if "single" in passes else (None, None, None)
    return {
        "system": name,
        "accuracy": float(np.mean([a.prediction == label for a, label in zip(answers, trained.labels, strict=True)])),
        "whole_accuracy": float((whole_predictions(said) == trained.labels).mean()),
        "work": share_of_work(bundle.manifest, answers),
        "segments": answers[0].segments,
        "segments_run": segments_run(answers),
        "ms": mean_ms(passes["bundle"]),
        "whole_ms": mean_ms(passes["whole"]),
        "single_ms": mean_ms(passes["single"]) if "single" in passes else None,
        "ratio": ratio, "low": low, "high": high,
        "single_ratio": against_single[0], "single_low": against_single[1], "single_high": against_single[2],
        "single_refused": refusal,
        "rounds": ROUNDS, "digits": DIGITS, "threads": THREADS,
    }  # fmt: skip


def mean_ms(passes: Array) -> float:
    """Returns the mean over the digits of each one's median over the rounds, of latencies (rounds, digits)."""
    return float(np.median(passes, axis=0).mean())


def ratio_of_means(a: Array, b: Array, draws: int = 500) -> tuple[float, float, float]:
    """Returns the ratio of the means of two candidates with its 95 % bootstrap interval over rounds."""
    rng = np.random.default_rng(0)
    picks = [rng.integers(0, len(a), len(a)) for _ in range(draws)]
    low, high = np.quantile([mean_ms(a[pick]) / mean_ms(b[pick]) for pick in picks], (0.025, 0.975))
    return mean_ms(a) / mean_ms(b), float(low), float(high)


def _given(row: Inputs) -> Any:
    return row[0] if len(row) == 1 else row


def _each(run: Callable[[Any], object], rows: list[Any]) -> Callable[[], object]:
    """Returns what runs the next of the first `DIGITS` rows at each call, from the first again after the last."""
    following = itertools.cycle(rows[:DIGITS])
    return lambda: run(next(following))


def _check_same_answers(single: Any, bundle: Bundle, feeds: list[dict[str, Array]], answers: list[Answer]) -> None:
    """Refuses to compare the times of a file that answers otherwise than the bundle."""
    exits = json.loads(single.get_modelmeta().custom_metadata_map[EXITS])
    names = [value.name for value in single.get_outputs()]
    for feed, answer in zip(feeds, answers, strict=True):
        found = dict(zip(names, single.run(None, feed), strict=True))
        same = exits[int(found["exit"])] == answer.exit
        if not same or any(difference(found[name], array) > 1e-4 for name, array in answer.outputs.items()):
            raise RuntimeError(f"{bundle.manifest.name}: the single file answers otherwise than the bundle")


if __name__ == "__main__":
    main(tuple(sys.argv[1:]))
