"""Bundles without torch: plans over small graphs that are written as ONNX text.

A `Draft` is a plan in the making. The network's input is `x`, float32 [batch, 4], unless a test says otherwise, and the
networks below take what an exit or a gate must decide straight from columns of `x`, so that a test steers a run by its
input alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
from onnx import parser

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.golden import Sample, Visit, encode_golden
from eetoolkit_runtime.plan.manifest import decode, encode
from eetoolkit_runtime.plan.types import (
    MOST_EXACT,
    VERSION,
    ClassScores,
    Constant,
    Criterion,
    Dim,
    Exit,
    File,
    Gate,
    Golden,
    Goto,
    Manifest,
    Next,
    Segment,
    Slot,
    Source,
    Stop,
    Switch,
    TensorSpec,
    Threshold,
)
from eetoolkit_runtime.running.runner import Runner

Shape = tuple[Dim, ...]
Writes = Mapping[str, str | Source] | Iterable[str]

ROW: Shape = ("batch", 4)
PER_ROW: Shape = ("batch",)

_HEADER = '<ir_version: 9, opset_import: ["" : 18]>'
_ONNX_TYPES = {"float32": "float", "float64": "double", "float16": "float16"}


def move(slot: str) -> Source:
    """Returns the source that takes the tensor of another slot."""
    return Source(slot=slot)


def fixed(constant: str) -> Source:
    """Returns the source that takes a constant of the manifest."""
    return Source(constant=constant)


def leave(name: str, logits: str, confidence: str, threshold: Threshold = "always", **more: str) -> Exit:
    """Returns an exit that answers with the slot `logits` (and the outputs in `more`)."""
    return Exit(
        name=name,
        outputs={"logits": logits} | more,
        scores=ClassScores(output="logits"),
        criterion=Criterion(kind="max_prob", output="logits"),
        confidence=confidence,
        threshold=threshold,
    )


def data_of(array: Array) -> tuple[float | int | bool | str, ...]:
    """Returns a constant's data: what JSON does not keep exactly as strings."""
    values = array.ravel().tolist()
    return tuple(str(each) if isinstance(each, int) and abs(each) > MOST_EXACT else each for each in values)


def gate(on: str, then: str, otherwise: str) -> Gate:
    """Returns a gate."""
    return Gate(on=on, then=then, otherwise=otherwise)


def switch(on: str, *cases: str) -> Switch:
    """Returns a switch."""
    return Switch(on=on, cases=cases)


class Draft:
    """A plan in the making, and the graphs of its segments."""

    def __init__(self, inputs: Mapping[str, tuple[str, Shape]] | None = None) -> None:
        given = {"x": ("float32", ROW)} if inputs is None else inputs
        self.inputs = tuple(TensorSpec(name=name, dtype=dtype, shape=shape) for name, (dtype, shape) in given.items())
        self.slots: dict[str, Slot] = {}
        self.constants: dict[str, Constant] = {}
        self.segments: dict[str, Segment] = {}
        self.graphs: dict[str, onnx.ModelProto] = {}
        self.samples: list[Sample] = []
        self.options: dict[str, Any] = {}

    def slot(self, name: str, dtype: str = "float32", shape: Shape = ROW) -> None:
        """Declares a slot; slots that a segment writes are declared by themselves as float32 [batch, 4]."""
        self.slots[name] = Slot(dtype=dtype, shape=shape)

    def constant(self, name: str, dtype: str, value: Any) -> None:
        """Declares a constant."""
        array = np.asarray(value, dtype)
        self.constants[name] = Constant(dtype=dtype, shape=array.shape, data=data_of(array))

    def segment(
        self,
        name: str,
        body: str | None = None,
        *,
        reads: Mapping[str, str] | Iterable[str] = (),
        writes: Writes = (),
        exit: Exit | None = None,  # noqa: A002 - the manifest's word
        next: str | Next | None = None,  # noqa: A002 - the manifest's word
        max_visits: int | None = None,
        weights: Mapping[str, Array] | None = None,
    ) -> None:
        """Adds a segment.

        Args:
            body: The graph's nodes as ONNX text, which uses the names of `reads` and `writes`; None: only moves.
            reads: Graph input to slot or constant, or only names where both are the same.
            writes: Slot to source, where a string is the name of a graph output, or only names where both are the same.
            next: The name of the next segment; None: stop.
            weights: Initialisers by name, kept as external data beside the graph.
        """
        froms = dict(reads) if isinstance(reads, Mapping) else {slot: slot for slot in reads}
        given: Mapping[str, str | Source] = writes if isinstance(writes, Mapping) else {slot: slot for slot in writes}
        sources = {slot: Source(output=s) if isinstance(s, str) else s for slot, s in given.items()}
        for slot in sources:
            self.slots.setdefault(slot, Slot(dtype="float32", shape=ROW))
        self.segments[name] = Segment(
            model=None if body is None else f"{name}.onnx",
            weights=(f"{name}.bin",) if weights else (),
            reads=froms,
            writes=sources,
            exit=exit,
            next=Stop() if next is None else Goto(segment=next) if isinstance(next, str) else next,
            max_visits=max_visits,
        )
        if body is not None:
            self.graphs[name] = self._graph(body, froms, sources, weights or {})

    def _graph(
        self, body: str, reads: Mapping[str, str], writes: Mapping[str, Source], weights: Mapping[str, Array]
    ) -> onnx.ModelProto:
        known: dict[str, Slot | Constant | TensorSpec] = {spec.name: spec for spec in self.inputs}
        known |= self.slots | self.constants
        takes = [f"{_type(known[source])} {name}" for name, source in reads.items()]
        gives = {s.output: f"{_type(self.slots[slot])} {s.output}" for slot, s in writes.items() if s.output}
        model = parser.parse_model(f"{_HEADER} graph ({', '.join(takes)}) => ({', '.join(gives.values())}) {{{body}}}")
        model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
        return model

    def plan(self) -> Manifest:
        """Returns the manifest with files that are named but not written."""
        files = {
            name: File(sha256="0" * 64, size=0)
            for segment in self.segments.values()
            for name in (segment.model, *segment.weights)
            if name is not None
        }
        return self._manifest(self.segments, files, None)

    def save(self, folder: Path) -> Path:
        """Writes the bundle to `folder`, file by file and as plainly as can be, and returns it."""
        folder.mkdir(parents=True, exist_ok=True)
        files: dict[str, File] = {}
        segments: dict[str, Segment] = {}
        for name, segment in self.segments.items():
            model = self.graphs.get(name)
            weights: tuple[str, ...] = ()
            if model is not None and segment.weights:
                file = _add(folder, name, ".bin", b"".join(t.raw_data for t in model.graph.initializer), files)
                model, weights = _externalised(model, file), (file,)
            graph = None if model is None else _add(folder, name, ".onnx", model.SerializeToString(), files)
            segments[name] = msgspec.structs.replace(segment, model=graph, weights=weights)
        golden = None
        if self.samples:
            name = _add(folder, "golden", ".safetensors", encode_golden(self.samples), files)
            golden = Golden(file=name, tolerance=1e-4)
        (folder / "manifest.json").write_bytes(encode(self._manifest(segments, files, golden)))
        return folder

    def _manifest(self, segments: Mapping[str, Segment], files: Mapping[str, File], golden: Golden | None) -> Manifest:
        manifest = Manifest(
            format="eetoolkit-bundle",
            version=VERSION,
            name="drafted",
            created_with={"tests": "1", "opset": 18},
            inputs=self.inputs,
            outputs=(TensorSpec(name="logits", dtype="float32", shape=ROW),),
            slots=dict(self.slots),
            constants=dict(self.constants),
            start=next(iter(segments)),
            segments=dict(segments),
            files=dict(files),
            golden=golden,
        )
        return msgspec.structs.replace(manifest, **self.options)


def edit(folder: Path, **changes: Any) -> Path:
    """Replaces keys of the manifest at `folder` and returns `folder`."""
    path = folder / "manifest.json"
    manifest = decode(path.read_bytes())
    path.write_bytes(encode(msgspec.structs.replace(manifest, **changes)))
    return folder


def recorded(runner: Runner, x: Array) -> Sample:
    """Returns what a runner gives for `x` at every visit of an exit, as a golden sample."""
    answers = runner.run_all_exits(x)
    return Sample({"x": x}, tuple(Visit(answer.exit, answer.outputs, answer.confidence) for answer in answers))


Open = Callable[..., Runner]


def opening(folder: Path) -> Iterator[Open]:
    """Gives a function that saves a draft inside `folder` and opens a runner on it with one thread; closes them all."""
    runners: list[Runner] = []

    def run(draft: Draft, **settings: Any) -> Runner:
        runners.append(Runner(draft.save(folder / f"bundle{len(runners)}"), **{"threads": 1, **settings}))
        return runners[-1]

    yield run
    for runner in runners:
        runner.close()


def graphs(folder: Path) -> Callable[[str, dict[str, Array]], dict[str, Array]]:
    """Returns what runs the graphs of the bundle at `folder` for an interpreter, each in a session of its own."""
    plan = decode((folder / "manifest.json").read_bytes())
    sessions: dict[str, ort.InferenceSession] = {}

    def run(name: str, feeds: dict[str, Array]) -> dict[str, Array]:
        if name not in sessions:
            options = ort.SessionOptions()
            options.intra_op_num_threads = 1
            sessions[name] = ort.InferenceSession(str(folder / str(plan.segments[name].model)), options)
        names = [value.name for value in sessions[name].get_outputs()]
        return dict(zip(names, sessions[name].run(names, feeds), strict=True))

    return run


def row(*values: float) -> Array:
    """Returns one row of `x`, filled up with zeros."""
    return np.array([[*values, *[0.0] * (4 - len(values))]], np.float32)


def _type(spec: Slot | Constant | TensorSpec) -> str:
    # ONNX's text knows numbers, names and `?`; an expression like `2*n` is left open in the graph
    dims = [str(dim) if isinstance(dim, int) or str(dim).isidentifier() else "?" for dim in spec.shape]
    dims = ["?" if dim is None else text for dim, text in zip(spec.shape, dims, strict=True)]
    return _ONNX_TYPES.get(spec.dtype, spec.dtype) + (f"[{','.join(dims)}]" if dims else "")


def _add(folder: Path, stem: str, suffix: str, text: bytes, files: dict[str, File]) -> str:
    sha = hashlib.sha256(text).hexdigest()
    name = f"{stem}-{sha[:8]}{suffix}"
    (folder / name).write_bytes(text)
    files[name] = File(sha256=sha, size=len(text))
    return name


def _externalised(model: onnx.ModelProto, file: str) -> onnx.ModelProto:
    """Returns the model with its initialisers, in order, in `file`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    offset = 0
    for tensor in copy.graph.initializer:
        length = len(tensor.raw_data)
        onnx.external_data_helper.set_external_data(tensor, file, offset, length)
        tensor.ClearField("raw_data")
        offset += length
    return copy


# The networks. Each names the columns of `x` that steer it.


def chain(*thresholds: Threshold, weights: bool = False) -> Draft:
    """A straight chain: `exit{k}` answers `x * 2**(k+1)` with confidence x[k]; the last exit accepts everything."""
    limits: tuple[Threshold, ...] = (*(thresholds or (0.5, 0.5)), "always")
    draft = Draft()
    for k, limit in enumerate(limits):
        before, last = "x" if k == 0 else f"h{k - 1}", k == len(limits) - 1
        two = "" if weights else "two = Constant<value = float {2}>()"
        draft.slot(f"confidence{k}", shape=PER_ROW)
        draft.segment(
            f"segment{k}",
            f"""
            {two}
            k = Constant<value_int = {k}>()
            confidence = Gather<axis = 1>(x, k)
            h = Mul({"x" if k == 0 else "before"}, two)
            """,
            reads={"x": "x"} if k == 0 else {"x": "x", "before": before},
            writes={f"h{k}": "h", f"confidence{k}": "confidence"},
            exit=leave(f"exit{k}", f"h{k}", f"confidence{k}", limit),
            next=None if last else f"segment{k + 1}",
            weights={"two": np.array(2, np.float32)} if weights else None,
        )
    return draft


def column(name: str, k: int) -> str:
    """Returns the nodes that give column `k` of x as `name`."""
    return f"at{k} = Constant<value_int = {k}>()  {name} = Gather<axis = 1>(x, at{k})"


def over_half(name: str, k: int) -> str:
    """Returns the nodes that give `x[k] > 0.5` as `name`."""
    return (
        f"{column(name + '_score', k)}  half = Constant<value = float {{0.5}}>()  {name} = Greater({name}_score, half)"
    )


def add_head(draft: Draft, slot: str, name: str = "head") -> None:
    """Adds the segment that ends a plan: it answers with `slot` and confidence x[3]."""
    draft.slot("sure", shape=PER_ROW)
    draft.segment(
        name,
        f"{column('sure', 3)}  logits = Identity(y)",
        reads={"x": "x", "y": slot},
        writes=["sure", "logits"],
        exit=leave("last", "logits", "sure"),
    )


def gated() -> Draft:
    """A block that is skipped unless x[0] > 0.5: y = -x where it runs, else y = x by the gate's default."""
    draft = Draft()
    draft.slot("open", "bool", PER_ROW)
    draft.segment(
        "gate", over_half("open", 0), reads=["x"], writes={"open": "open", "y": move("x")},
        next=gate("open", "block", "head"),
    )  # fmt: skip
    draft.segment("block", "y = Neg(x)", reads=["x"], writes=["y"], next="head")
    add_head(draft, "y")
    return draft


def joined() -> Draft:
    """Two branches, then a join without a model that moves whichever ran: y = -x where x[0] > 0.5, else |x|."""
    draft = Draft()
    draft.slot("open", "bool", PER_ROW)
    draft.segment("gate", over_half("open", 0), reads=["x"], writes=["open"], next=gate("open", "minus", "plus"))
    draft.segment("minus", "inner = Neg(x)", reads=["x"], writes=["inner"], next="join")
    draft.segment("plus", "inner = Abs(x)", reads=["x"], writes=["inner"], next="join")
    draft.segment("join", writes={"y": move("inner")}, next="head")
    add_head(draft, "y")
    return draft


def switched(dtype: str = "int64") -> Draft:
    """A switch on x[0] as an integer over three experts: y = x + 10, x + 20 or x + 30."""
    draft = Draft()
    draft.slot("expert", dtype, PER_ROW)
    number = {"int64": 7, "int32": 6}[dtype]
    draft.segment(
        "router", f"{column('score', 0)}  expert = Cast<to = {number}>(score)", reads=["x"], writes=["expert"],
        next=switch("expert", "expert0", "expert1", "expert2"),
    )  # fmt: skip
    for k in range(3):
        body = f"ten = Constant<value = float {{{(k + 1) * 10}}}>()  y = Add(x, ten)"
        draft.segment(f"expert{k}", body, reads=["x"], writes=["y"], next="head")
    add_head(draft, "y")
    return draft


def looped(*, max_visits: int = 9, leave_at: float | None = None) -> Draft:
    """A loop of x[0] steps (at least one), each y = y + x; `leave_at` puts an exit into it, confidence step / 10."""
    draft = Draft()
    draft.constant("zero", "int64", [0])
    draft.slot("i", "int64", PER_ROW)
    draft.slot("more", "bool", PER_ROW)
    draft.slot("progress", shape=PER_ROW)
    draft.segment("begin", writes={"y": move("x"), "i": fixed("zero")}, next="step")
    draft.segment(
        "step",
        f"""
        one = Constant<value = int64 {{1}}>()  ten = Constant<value = float {{10}}>()
        j = Add(i, one)
        count = Cast<to = 1>(j)
        progress = Div(count, ten)
        {column("limit", 0)}
        more = Less(count, limit)
        z = Add(y, x)
        """,
        reads=["x", "y", "i"],
        writes={"y": "z", "i": "j", "more": "more", "progress": "progress"},
        exit=None if leave_at is None else leave("inside", "y", "progress", leave_at),
        next=gate("more", "step", "head"),
        max_visits=max_visits,
    )
    add_head(draft, "y")
    return draft


def swapped() -> Draft:
    """A loop of x[0] steps that swaps a and b by parallel moves after a = a + 1: a, b start as x and -x."""
    draft = Draft()
    draft.constant("zero", "int64", [0])
    draft.slot("i", "int64", PER_ROW)
    draft.slot("more", "bool", PER_ROW)
    draft.segment(
        "begin", "b = Neg(x)", reads=["x"], writes={"b": "b", "a": move("x"), "i": fixed("zero")}, next="step"
    )
    draft.segment(
        "step",
        f"""
        one = Constant<value = int64 {{1}}>()  unit = Constant<value = float {{1}}>()
        j = Add(i, one)
        count = Cast<to = 1>(j)
        {column("limit", 0)}
        more = Less(count, limit)
        c = Add(a, unit)
        """,
        reads=["x", "a", "i"],
        writes={"c": "c", "i": "j", "more": "more"},
        next="swap",
        max_visits=20,
    )
    draft.segment("swap", writes={"a": move("b"), "b": move("c")}, next=gate("more", "step", "last"))
    draft.slot("sure", shape=PER_ROW)
    draft.segment(
        "last", f"{column('sure', 3)}  logits = Identity(a)", reads=["x", "a"], writes=["sure", "logits"],
        exit=leave("last", "logits", "sure", other="b"),
    )  # fmt: skip
    return draft


def two_slots() -> Draft:
    """One graph output feeds two slots; one of them is overwritten later, the other must keep its value."""
    draft = Draft()
    draft.segment("first", "y = Neg(x)", reads=["x"], writes={"kept": "y", "worked": "y"}, next="second")
    draft.segment("second", "y = Mul(worked, worked)", reads=["worked"], writes={"worked": "y"}, next="third")
    draft.segment("third", "y = Add(kept, worked)", reads=["kept", "worked"], writes=["y"], next="head")
    add_head(draft, "y")
    return draft


def picked() -> Draft:
    """Slots whose shape depends on data: the non-zero values of x, doubled; y is their sum in every column."""
    draft = Draft()
    draft.slot("where", "int64", (2, None))
    draft.slot("picked", shape=(None,))
    draft.slot("doubled", shape=(None,))
    draft.segment("find", "where = NonZero(x)", reads=["x"], writes=["where"], next="pick")
    draft.segment(
        "pick", "pairs = Transpose(where)  picked = GatherND(x, pairs)", reads=["x", "where"], writes=["picked"],
        next="double",
    )  # fmt: skip
    draft.segment("double", "doubled = Add(picked, picked)", reads=["picked"], writes=["doubled"], next="sum")
    draft.segment(
        "sum",
        "total = ReduceSum<keepdims = 0>(doubled)  none = Sub(x, x)  y = Add(none, total)",
        reads=["x", "doubled"],
        writes=["y"],
        next="head",
    )
    add_head(draft, "y")
    return draft


def one_name_twice() -> Draft:
    """An exit of one name in two branches, confidence x[1]: y = -x where x[0] > 0.5, else |x|."""
    draft = Draft()
    draft.slot("open", "bool", PER_ROW)
    draft.slot("middle", shape=PER_ROW)
    draft.segment("gate", over_half("open", 0), reads=["x"], writes=["open"], next=gate("open", "minus", "plus"))
    for name, operator in (("minus", "Neg"), ("plus", "Abs")):
        draft.segment(
            name, f"y = {operator}(x)  {column('middle', 1)}", reads=["x"], writes=["y", "middle"],
            exit=leave("early", "y", "middle", 0.5), next="head",
        )  # fmt: skip
    add_head(draft, "y")
    return draft


def endless(*, first: bool = True) -> Draft:
    """A segment that never ends where x[2] > 0.5, else gives y = x; before it the exit `early`, unless not `first`.

    `early` answers x with confidence x[0]; behind the loop `last` answers y.
    """
    draft = Draft()
    if first:
        draft.slot("first", shape=PER_ROW)
        draft.segment(
            "first", f"{column('first', 0)}  seen = Identity(x)", reads=["x"], writes=["first", "seen"],
            exit=leave("early", "seen", "first", 0.5), next="forever",
        )  # fmt: skip
    draft.segment(
        "forever",
        f"""
        {over_half("each", 2)}
        numbers = Cast<to = 1>(each)
        largest = ReduceMax<keepdims = 0>(numbers)
        go = Cast<to = 9>(largest)
        most = Constant<value = int64 {{9223372036854775807}}>()
        y = Loop(most, go, x) <body = turn (int64 i, bool again, float[batch,4] before)
            => (bool more, float[batch,4] after) {{ more = Identity(again)  after = Neg(before) }}>
        """,
        reads=["x"],
        writes=["y"],
        next="head",
    )
    add_head(draft, "y")
    return draft


def exit_in_a_branch() -> Draft:
    """The exit `side` in a branch that rows with x[0] > 0.5 take: it answers -x with confidence x[1]."""
    draft = Draft()
    draft.slot("open", "bool", PER_ROW)
    draft.slot("side_sure", shape=PER_ROW)
    draft.segment("gate", over_half("open", 0), reads=["x"], writes=["open"], next=gate("open", "side", "head"))
    draft.segment(
        "side", f"{column('side_sure', 1)}  y = Neg(x)", reads=["x"], writes=["side_sure", "y"],
        exit=leave("side", "y", "side_sure", 0.5), next="head",
    )  # fmt: skip
    add_head(draft, "x")
    return draft


def only_moves() -> Draft:
    """No model at all: it answers with its input and a constant confidence."""
    draft = Draft()
    draft.constant("one", "float32", [1])
    draft.slot("sure", shape=PER_ROW)
    draft.segment("only", writes={"sure": fixed("one")}, exit=leave("only", "x", "sure"))
    return draft


NETWORKS = {
    build.__name__: build
    for build in (chain, gated, joined, switched, looped, swapped, two_slots, picked, one_name_twice)
}
"""One bundle of each kind."""
