"""Makes the cases of `runtime/conformance`, or with `--check` says whether they are what it would make.

It needs drafts of plans and the exporter; who reads the cases needs neither.
"""

from __future__ import annotations

import argparse
import filecmp
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import plans
from conformance_quantised import convolutional, cut_from_quantised, embedded, pictures, quantised, sentences
from msgspec.structs import replace
from plans import Array, Draft, column, exit_in_a_branch, graphs, leave, row

from eetoolkit_exporters.export import export
from eetoolkit_runtime.bundle.bundle import load
from eetoolkit_runtime.errors import RunError
from eetoolkit_runtime.files.tensorfile import write_tensors
from eetoolkit_runtime.plan.types import Criterion, Threshold
from eetoolkit_runtime.running.interpret import interpret, visit_exits

HERE = Path(__file__).parents[1] / "runtime" / "conformance"
CASES, ANSWERS, TENSORS = "cases", "case.json", "tensors.safetensors"
BELOW, ABOVE = (float(np.nextafter(np.float32(0.5), np.float32(end))) for end in (0, 1))
MOST = float(np.finfo(np.float32).max)
NAN, INF = math.nan, math.inf


@dataclass
class Run:
    """One row, the input `x` or inputs by name, and what is asked of the call."""

    x: Array | Mapping[str, Array]
    thresholds: Mapping[str, Threshold] = field(default_factory=dict)
    exit_at: str | None = None


@dataclass
class Case:
    """A bundle and rows for it.

    Attributes:
        about: What it shows.
        build: Writes the bundle to a path.
        runs: The rows.
        tolerance: By how much outputs and confidences may differ; 0: not at all.
    """

    about: str
    build: Callable[[Path], Path]
    runs: Sequence[Run]
    tolerance: float = 0.0


def rows(*values: Sequence[float]) -> list[Run]:
    """Returns runs without anything asked."""
    return [Run(row(*some)) for some in values]


def drafted(draft: Draft, fallback: str = "last") -> Callable[[Path], Path]:
    """Returns what writes a draft."""
    draft.options["fallback"] = fallback
    return draft.save


def every_dtype() -> Draft:
    """One output of each dtype, all casts of x; confidence x[3]."""
    numbers = {"float64": 11, "float16": 10, "int64": 7, "int32": 6, "int16": 5, "int8": 3, "uint64": 13, "uint32": 12,
               "uint16": 4, "uint8": 2, "bool": 9}  # fmt: skip
    draft = Draft()
    draft.slot("sure", shape=plans.PER_ROW)
    for dtype in numbers:
        draft.slot(f"as_{dtype}", dtype)
    casts = "  ".join(f"as_{dtype} = Cast<to = {number}>(x)" for dtype, number in numbers.items())
    outputs = {dtype: f"as_{dtype}" for dtype in numbers}
    draft.segment(
        "only", f"{column('sure', 3)}  {casts}", reads=["x"], writes=["sure", *outputs.values()],
        exit=leave("only", "x", "sure", **outputs),
    )  # fmt: skip
    return draft


def constants_of_each_dtype() -> Draft:
    """No model: an output of each dtype is a constant, with the ends of what the dtype holds."""
    ends: dict[str, Sequence[float]] = {
        "float64": [1e300, -5e-324, 0.1], "float32": [MOST, 0.1, -0.0], "float16": [65504, 0.1, 6e-8],
        "bool": [True, False, True],
    }  # fmt: skip
    for dtype in (f"{sign}int{bits}" for sign in ("", "u") for bits in (64, 32, 16, 8)):
        ends[dtype] = [int(np.iinfo(dtype).min), int(np.iinfo(dtype).max), 1]
    ends["int64"] = [*ends["int64"], 2**53 - 1, 2**53 + 1, -(2**53) - 1]
    draft = plans.only_moves()
    for dtype, values in ends.items():
        draft.constant(f"c.{dtype}", dtype, values)
        draft.slot(f"as-{dtype}", dtype, shape=(len(values),))
    writes = {"sure": plans.fixed("one")} | {f"as-{dtype}": plans.fixed(f"c.{dtype}") for dtype in ends}
    outputs = {dtype: f"as-{dtype}" for dtype in ends}
    draft.segment("only", writes=writes, exit=leave("only", "x", "sure", **outputs))
    draft.options["titles"] = {"only": "the only exit", "x": "input::x"}
    return draft


def scalars() -> Draft:
    """A gate and a confidence without a dimension: x[0] > 0.5 leads to x as it is, else to 2 x; confidence x[1]."""
    draft = Draft()
    draft.slot("open", "bool", ())
    draft.slot("sure", shape=())
    draft.segment(
        "gate",
        f"{plans.over_half('opened', 0)}  open = Squeeze(opened)  {column('second', 1)}  sure = Squeeze(second)",
        reads=["x"], writes=["open", "sure"], next=plans.gate("open", "plain", "double"),
    )  # fmt: skip
    for name, factor in (("plain", 1), ("double", 2)):
        body = f"factor = Constant<value = float {{{factor}}}>()  y = Mul(x, factor)"
        draft.segment(name, body, reads=["x"], writes=["y"], next="end")
    draft.segment("end", writes={}, exit=leave("last", "y", "sure"))
    return draft


def start_in_a_loop() -> Draft:
    """The start bounds its visits: where x[0] > 0.5 it comes back to itself, since nothing has changed."""
    draft = Draft()
    draft.slot("again", "bool", plans.PER_ROW)
    draft.slot("sure", shape=plans.PER_ROW)
    draft.segment(
        "start", plans.over_half("again", 0), reads=["x"], writes=["again"],
        next=plans.gate("again", "start", "head"), max_visits=3,
    )  # fmt: skip
    draft.segment("head", column("sure", 3), reads=["x"], writes=["sure"], exit=leave("last", "x", "sure"))
    return draft


def no_class() -> Draft:
    """A learned confidence that is an output too, a custom one, and an exit without class scores."""
    draft = plans.chain(0.5, 0.5)
    kinds = (
        {"criterion": Criterion(kind="learned", output="sure"), "outputs": {"logits": "h0", "sure": "confidence0"}},
        {"criterion": Criterion(kind="custom", function="sureness")},
        {"scores": None},
    )
    for (name, segment), changes in zip(tuple(draft.segments.items()), kinds, strict=True):
        if segment.exit is not None:
            draft.segments[name] = replace(segment, exit=replace(segment.exit, **changes))
    return draft


def three_exits(path: Path) -> Path:
    """Writes a network of three exits on x[batch, 4]: x = tanh(x W), and a head of three classes each time."""
    draw = np.random.default_rng(0)
    nodes, outputs, weights = [], [], []
    before = "x"
    for k in range(3):
        weights += [
            onnx.numpy_helper.from_array(draw.normal(0, 1, (4, 4)).astype(np.float32), f"w{k}"),
            onnx.numpy_helper.from_array(draw.normal(0, 1.5, (4, 3)).astype(np.float32), f"v{k}"),
        ]
        nodes += [
            onnx.helper.make_node("MatMul", [before, f"w{k}"], [f"m{k}"]),
            onnx.helper.make_node("Tanh", [f"m{k}"], [f"h{k}"]),
            onnx.helper.make_node("MatMul", [f"h{k}", f"v{k}"], [f"exit{k}"]),
        ]
        outputs.append(onnx.helper.make_tensor_value_info(f"exit{k}", onnx.TensorProto.FLOAT, ["batch", 3]))
        before = f"h{k}"
    given = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 4])]
    graph = onnx.helper.make_graph(nodes, "three_exits", given, outputs, weights)
    opset = onnx.helper.make_opsetid("", 20)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    return path


def exported(criterion: Any, **options: Any) -> Callable[[Path], Path]:
    """Returns what exports `three_exits` with a criterion."""

    def build(target: Path) -> Path:
        with tempfile.TemporaryDirectory() as folder:
            model = three_exits(Path(folder) / "three_exits.onnx")
            return export(model, row(0.5, -0.5), target, criterion=criterion, name="three exits", **options).path

    return build


def criteria() -> Iterator[tuple[str, Case]]:
    """Yields a case for each kind of criterion, on rows that are spread over the exits."""
    draw = np.random.default_rng(1)
    some = [Run(draw.normal(0, 1.5, (1, 4)).astype(np.float32)) for _ in range(6)]
    members = (Criterion(kind="max_prob", threshold=0.6), Criterion(kind="margin", threshold=0.3))
    counted = Criterion(kind="patience", threshold=1)
    kinds: dict[str, tuple[Any, Any]] = {
        "max_prob": ("max_prob", 0.7), "entropy": ("entropy", 0.4), "margin": ("margin", 0.5),
        "patience": ("patience", 1.0), "vote": ("vote", 0.9), "mean_ensemble": ("mean_ensemble", 0.6),
        "geometric_ensemble": ("geometric_ensemble", 0.6),
        "all_of": (Criterion(kind="all_of", members=members), None),
        "any_of": (Criterion(kind="any_of", members=members), None),
        "at_least": (Criterion(kind="at_least", n=2, members=(*members, counted)), None),
    }  # fmt: skip
    for name, (criterion, threshold) in kinds.items():
        first = "exit1" if name == "vote" else None  # the first exit always agrees with itself
        build = exported(criterion, threshold=threshold, min_exit=first)
        yield f"criterion_{name}", Case(f"the criterion {name}", build, some, 1e-5)
    yield (
        "min_exit",
        Case("earlier exits never fire", exported("max_prob", threshold=0.4, min_exit="exit1"), some, 1e-5),
    )


def smaller() -> Iterator[tuple[str, Case]]:
    """Yields a case for each way to quantise; two round what comes at run time, as a kernel does or does not."""
    ranges, words = pictures(0, 16), sentences(0, 4)
    seen, read = ([Run(row) for row in rows] for rows in (pictures(4, 6), sentences(5, 6)))
    limits = {convolutional: (0.7, 0.9), embedded: (0.7, 0.97)}
    static = quantised(convolutional, ranges, "static", limits[convolutional])
    whole = cut_from_quantised(convolutional, ranges, limits[convolutional])
    yield "int8_static", Case("integers decide; slots are floats, a step apart", static, seen, 1e-5)
    yield "int8_slots", Case("a network that was quantised as a whole; slots are uint8", whole, seen, 1e-5)
    for name, method, tolerance, about in (
        ("int8_blockwise", "blockwise", 0.05, "an embedding and products with a scale for each block of weights"),
        ("int8_dynamic", "dynamic", 0.05, "an embedding and products of integers whose scale is found as they come"),
        ("float16_weights", "float16", 1e-5, "weights stored as float16, computed with as float32"),
    ):
        yield name, Case(about, quantised(embedded, words, method, limits[embedded]), read, tolerance)


def cases() -> dict[str, Case]:
    """Returns all cases by name."""
    chain, looped = plans.chain, plans.looped
    at_edge = rows((0.5,), (BELOW,), (ABOVE,), (0, 0.5), (NAN, 0.5), (NAN, NAN, NAN), (-INF, INF), (0.1, 0.2, 0.3))
    other = {"exit0": "never", "exit1": 0.25}
    asked = [Run(row(0.9, 0.9), exit_at=f"exit{k}") for k in range(3)] + [Run(row(NAN, 0.9), exit_at="exit0")]
    given = [Run(row(0.9, 0.25), other), Run(row(0.9, 0.2), other), Run(row(0.9), {"exit0": MOST})]
    found = {
        "chain": Case("thresholds met, missed by one float32, NaN; exits asked for; other thresholds",
                      drafted(chain(0.5, 0.5)), [*at_edge, *asked, *given]),
        "between_two_float32": Case("0.7 is no float32: the one below does not reach it",
                                    drafted(chain(0.7, float(np.float32(0.7)))),
                                    rows((np.float32(0.7), 0), (0.1, np.float32(0.7)))),
        "never": Case("an exit that never fires, unless the call says otherwise", drafted(chain("never", 0.5)),
                      [*rows((INF, 0.1), (0.9, 0.9)), Run(row(0.9), {"exit0": 0.5})]),
        "most_confident": Case("where none fires the most confident answers; ties, NaN, one that stands in for none",
                               drafted(chain("never", 0.9, 0.9), "most_confident"),
                               [*rows((0.8, 0.5, 0.25), (0.1, 0.5, 0.5), (0.1, 0.25, 0.5, 0.5), (NAN, NAN, NAN, NAN),
                                      (0.1, NAN, 0.2, -1), (0.1, 0.95)),
                                Run(row(0.1, 0.8, 0.5, 0.25), {"exit1": "never"}),
                                Run(row(0.1, 0.8, 0.5, 0.25), exit_at="exit2"),
                                Run(row(0.1, 0.8, 0.5, 0.25), {"exit1": "never"}, "exit0")]),
        "exit_in_a_branch": Case("an exit that some rows do not meet, asked for too", drafted(exit_in_a_branch()),
                                 [*rows((0.9, 0.9), (0.9, 0.1), (0.1, 0.9)), Run(row(0.9, 0.1), exit_at="side"),
                                  Run(row(0.1, 0.9), exit_at="side")]),
        "gate": Case("a block that is skipped, and the slot's default then", drafted(plans.gated()),
                     rows((0.9, 1), (0.1, 1), (0.5, 1))),
        "join": Case("a segment that only moves", drafted(plans.joined()), rows((0.9, -1), (0.1, -1))),
        "switch": Case("three cases, and values that are none", drafted(plans.switched()),
                       rows((0,), (1,), (2,), (3,), (-1,))),
        "switch_int32": Case("a switch on int32", drafted(plans.switched("int32")), rows((2,), (-1,))),
        "scalars": Case("a gate and a confidence of no dimension", drafted(scalars()), rows((0.9, 0.5), (0.1, NAN))),
        "start_in_a_loop": Case("the first segment bounds its visits", drafted(start_in_a_loop()),
                                rows((0.1,), (0.9,))),
        "no_class": Case("confidences that were learned or are the user's own; an answer that says no class",
                         drafted(no_class()), rows((0.9,), (0.1, 0.9), (0.1, 0.1, 0.1))),
        "loop": Case("a loop of x[0] steps, and one beyond its bound", drafted(looped(max_visits=5)),
                     rows((1, 2), (4, 2), (5, 1), (9, 1))),
        "exit_in_a_loop": Case("one exit visited several times", drafted(looped(leave_at=0.35), "most_confident"),
                               rows((2, 1), (3, 1), (9, 1))),
        "swap": Case("moves are parallel", drafted(plans.swapped()), rows((1, 2), (2, 2), (3, 2))),
        "two_slots": Case("one output in two slots", drafted(plans.two_slots()), rows((1, 2, 3, 4))),
        "shape_of_data": Case("a slot whose size depends on data", drafted(plans.picked()),
                              rows((1, 2), (0, 0, 0, 5), (1, 2, 3, 4))),
        "one_exit_in_two_branches": Case("an exit that stands in two segments", drafted(plans.one_name_twice()),
                                         rows((0.9, 0.9), (0.1, 0.9), (0.9, 0.1), (0.1, 0.1))),
        "only_moves": Case("no graph at all", drafted(plans.only_moves()), rows((1, 2))),
        "weights": Case("weights beside the graph", drafted(chain(0.5, 0.5, weights=True)), rows((0.1, 0.1), (0.9,))),
        "constants": Case("constants of each dtype: integers that are strings; titles; names with dots",
                          drafted(constants_of_each_dtype()), rows((1, 2))),
        "every_dtype": Case("an output of each dtype", drafted(every_dtype()), rows((1, 0, 3, 0.5), (100, 7, 1, 0))),
    }  # fmt: skip
    return {**found, **dict(criteria()), **dict(smaller())}


def write(case: Case, folder: Path) -> None:
    """Writes a case's bundle, tensors and answers into a folder."""
    case.build(folder / "bundle")
    bundle = load(folder / "bundle")
    run_graph = graphs(bundle.path)
    tensors: dict[str, Array] = {}

    def add(array: Array) -> str:
        name = str(len(tensors))
        tensors[name] = np.asarray(array)
        return name

    def said(answer: Any) -> dict[str, object]:
        return {
            "exit": answer.exit,
            "path": list(answer.path),
            "gates": [[segment, case] for segment, case in answer.gates],
            "stopped_by": answer.stopped_by,
            "prediction": answer.prediction,
            "outputs": {name: add(array) for name, array in answer.outputs.items()},
            "confidence": add(np.float32(answer.confidence).reshape(1)),
        }

    def told(run: Run) -> dict[str, object]:
        inputs = run.x if isinstance(run.x, Mapping) else {"x": run.x}
        names = {name: add(array) for name, array in inputs.items()}
        asked = {"inputs": names, "thresholds": dict(run.thresholds), "exit_at": run.exit_at}
        try:
            answer = interpret(bundle.manifest, inputs, run_graph, run.thresholds, run.exit_at)
            met = [said(each) for each in visit_exits(bundle.manifest, inputs, run_graph)]
        except RunError as error:
            return asked | {"error": str(error)}
        return asked | {"answer": said(answer), "visits": met}

    text = {"about": case.about, "tolerance": case.tolerance, "runs": [told(run) for run in case.runs]}
    (folder / ANSWERS).write_bytes(msgspec.json.format(msgspec.json.encode(text), indent=1) + b"\n")
    (folder / TENSORS).write_bytes(write_tensors(tensors, {}))


def differences(made: Path, kept: Path) -> Iterator[str]:
    """Yields the files in which two folders of cases differ; versions of tools do not count."""
    for root in (made, kept):
        other = kept if root is made else made
        for path in sorted(root.rglob("*")):
            twin = other / path.relative_to(root)
            if path.is_dir() or (root is kept and twin.exists()):
                continue
            if not twin.exists() or not _alike(path, twin):
                yield str(path.relative_to(root))


def _alike(one: Path, other: Path) -> bool:
    if one.name != "manifest.json":
        return filecmp.cmp(one, other, shallow=False)
    return _without_versions(one) == _without_versions(other)


def _without_versions(manifest: Path) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(manifest.read_bytes())
    (found.get("quantization") or {}).pop("created_with", None)
    return {key: value for key, value in found.items() if key not in ("created_with", "digest")}


def main() -> int:
    """Makes the cases, or compares; returns how many files differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say what differs")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary) / CASES
        for name, case in cases().items():
            (made / name).mkdir(parents=True)
            write(case, made / name)
        if check:
            differ = list(differences(made, HERE / CASES))
            print("\n".join(differ) or f"{len(cases())} cases are up to date")
            return len(differ)
        shutil.rmtree(HERE / CASES, ignore_errors=True)
        shutil.move(made, HERE / CASES)
    print(f"{len(cases())} cases made")
    return 0


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
