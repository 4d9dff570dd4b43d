"""Every system of the zoo: its bundle against the whole network, and against its own plan as one file.

All are sessions of the bundle's own settings, one thread. The whole network has the last exit only and the control flow
as it was written (blended gates compute both sides): once as `torch.onnx.export` writes it, with the weights of every
branch and loop body in the outermost graph, and, where it has any, once with each weight in the branch that reads it
(`exporters/eetoolkit_exporters/emitting/scoping.py`). One file is the plan with its exits and gates as `If` and `Loop`.
The bundle that is timed is what `ee.export` makes by default; what was decided and left out is counted in one that has
all control flow in its plan.
"""

from __future__ import annotations

import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from benchmarks.section import Row, Section, over, publish
from benchmarks.turns import Way, compared, timed
from benchmarks.work import segments_run, share_of_work
from eetoolkit import zoo
from eetoolkit.demo.exporting import export_system, load_system, whole_network
from eetoolkit_exporters.emitting.scoping import localize
from eetoolkit_exporters.graph import subgraphs
from eetoolkit_exporters.single_file.single_file import write_single_file
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.archive import EXITS
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.profiling.rounds import Row as Inputs
from eetoolkit_runtime.profiling.whole import Whole, open_whole
from eetoolkit_runtime.running.answer import Answer
from eetoolkit_runtime.running.runner import Runner
from eetoolkit_runtime.running.sessions import SessionSettings
from eetoolkit_runtime.verify import difference

ROUNDS = 5
WHOLE, LOCAL, ONE_FILE = "whole", "whole, local weights", "one file"


def _p95(row: Row, name: str) -> str:
    return "-" if row["peers"].get(name) is None else f"{row['peers'][name]['bundle_over_p95']:.3f}"


SECTION = Section(
    "zoo",
    "Every system of the zoo against the whole network, and against its own plan as one file",
    (
        "The 450 held-out digits, one at a time, one thread, thresholds as each system is shipped. Work done: the mean "
        "share of all multiply-adds (a loop counts to its bound, all cases of a switch count), and segments run, both "
        "with all control flow in the plan. Segments: of the bundle that is timed, as `ee.export` makes it by default. "
        f"Latency: of each digit the median over {ROUNDS} rounds in turns, of these the mean; ratios are bundle / "
        "peer, with 95 % bootstrap intervals over digits. Whole: one session with the last exit alone and the control "
        "flow as it was written, as `torch.onnx.export` writes it; local weights: the same with every weight in the "
        "branch or loop body that reads it, where it has any. One file: the plan with onnxruntime's own `If` and "
        "`Loop`, its weights local."
    ),
    (
        ("system", lambda row: str(row["system"])),
        ("accuracy", lambda row: f"{row['accuracy']:.1%}"),
        ("of the whole network", lambda row: f"{row['whole_accuracy']:.1%}"),
        ("work done", lambda row: "-" if row["work"] is None else f"{row['work']:.0%}"),
        ("segments run", lambda row: f"{row['segments_run']:.1f} of {row['segments_always']}"),
        ("segments", lambda row: str(row["segments"])),
        ("mean, ms", lambda row: f"{row['peers']['bundle']['mean_ms']:.3f}"),
        ("/ whole", lambda row: over(row["peers"][WHOLE])),
        ("/ whole with local weights", lambda row: over(row["peers"].get(LOCAL))),
        ("/ one file", lambda row: over(row["peers"].get(ONE_FILE))),
        ("p95 / p95 of whole", lambda row: _p95(row, LOCAL if LOCAL in row["peers"] else WHOLE)),
        ("p95 / p95 of one file", lambda row: _p95(row, ONE_FILE)),
    ),
)


def main(names: tuple[str, ...] = ()) -> None:
    """Measures every system, or those named, and prints the table; only all of them are stored."""
    rows = [measure(name) for name in names or zoo.names()]
    publish(SECTION, rows, keep=not names)


def measure(name: str) -> dict[str, Any]:
    """Returns the figures of one system on all held-out digits."""
    trained = load_system(zoo.find(name))
    settings = SessionSettings(threads=1, one_row=True)
    with tempfile.TemporaryDirectory() as folder:
        plan = export_system(trained, Path(folder) / "always.ee")
        bundle = export_system(trained, Path(folder) / f"{name}.ee", lower_control_flow=True)
        last = list(bundle.exits)[-1]
        model = whole_network(trained, last)

        def opened() -> Whole:
            ir.save(model, Path(folder) / "whole.onnx")
            return open_whole(Path(folder) / "whole.onnx", bundle.manifest, settings)

        wholes = {WHOLE: opened()}
        if any(subgraphs(node) for node in model.graph):
            localize(model)
            wholes[LOCAL] = opened()
        inputs = [spec.name for spec in bundle.manifest.inputs]
        feeds = [dict(zip(inputs, row, strict=True)) for row in trained.rows]
        given = [_given(row) for row in trained.rows]
        refusal = None
        with Runner(plan, threads=1) as runner:
            decided = [runner.run(row) for row in given]
        with Runner(bundle, threads=1, load="eager") as runner:
            answers = [runner.run(row) for row in given]
            if [answer.exit for answer in answers] != [answer.exit for answer in decided]:
                raise RuntimeError(f"{name}: the plans of two exports stop at different exits")
            every_exit = [runner.run_all_exits(row) for row in given]
            ways = {"bundle": Way(given, runner.run)}
            for key, whole in wholes.items():
                needed = [whole.feeds(row) for row in trained.rows]
                outputs = [value.name.removeprefix(f"{last}_") for value in whole.session.get_outputs()]
                said = [dict(zip(outputs, whole.session.run(None, feed), strict=True)) for feed in needed]
                _check_same_network(name, every_exit, said)
                ways[key] = Way(needed, partial(whole.session.run, None))
            try:
                path = write_single_file(bundle, Path(folder) / "one_file.onnx")
            except ExportError as error:
                refusal = str(error)
            else:
                one_file = settings.open(str(path), ONE_FILE)
                _check_same_answers(one_file, bundle, feeds, answers)
                ways[ONE_FILE] = Way(feeds, partial(one_file.run, None))
            taken = np.median(timed(ways, 0.0, 0, settle=False, least_rounds=ROUNDS), axis=0)
    return {
        "system": name,
        "accuracy": float(np.mean([a.prediction == label for a, label in zip(answers, trained.labels, strict=True)])),
        "whole_accuracy": float(np.mean([*map(_class, said)] == trained.labels)),
        "work": share_of_work(plan.manifest, decided),
        "segments": answers[0].segments,
        "segments_always": decided[0].segments,
        "segments_run": segments_run(decided),
        "peers": compared({key: times[np.newaxis] for key, times in zip(ways, taken, strict=True)}),
        "one_file_refused": refusal,
        "rounds": ROUNDS, "digits": len(answers), "threads": 1,
    }  # fmt: skip


def _given(row: Inputs) -> Any:
    return row[0] if len(row) == 1 else row


def _class(outputs: dict[str, Array]) -> int:
    """Returns what the whole network says for a row: by `logits`, or by its only output."""
    return int(outputs.get("logits", next(iter(outputs.values()))).argmax())


def _check_same_network(name: str, every_exit: list[list[Answer]], said: list[dict[str, Array]]) -> None:
    """Refuses to compare the times of two things that do not compute the same."""
    for met, outputs in zip(every_exit, said, strict=True):
        if any(not difference(met[-1].outputs[key], array) <= 1e-4 for key, array in outputs.items()):
            raise RuntimeError(f"{name}: the bundle's last exit and the whole network differ")


def _check_same_answers(one_file: Any, bundle: Bundle, feeds: list[dict[str, Array]], answers: list[Answer]) -> None:
    """Refuses to compare the times of a file that answers otherwise than the bundle."""
    exits = json.loads(one_file.get_modelmeta().custom_metadata_map[EXITS])
    names = [value.name for value in one_file.get_outputs()]
    for feed, answer in zip(feeds, answers, strict=True):
        found = dict(zip(names, one_file.run(None, feed), strict=True))
        same = exits[int(found["exit"])] == answer.exit
        if not same or any(difference(found[name], array) > 1e-4 for name, array in answer.outputs.items()):
            raise RuntimeError(f"{bundle.manifest.name}: the one file answers otherwise than the bundle")


if __name__ == "__main__":
    main(tuple(sys.argv[1:]))
