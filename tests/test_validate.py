"""A plan is proved before anything runs: each refusal with its text, and acceptance against brute force."""

from __future__ import annotations

import ast
import inspect
import math
import traceback
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from plans import NETWORKS, Draft, chain, fixed, gate, joined, leave, looped, move, switch, switched

from eetoolkit_runtime.errors import ManifestError
from eetoolkit_runtime.plan import names as naming
from eetoolkit_runtime.plan import validate as validation
from eetoolkit_runtime.plan import validate_split as splitting
from eetoolkit_runtime.plan.flow import live_before
from eetoolkit_runtime.plan.halves import cut_point, halves
from eetoolkit_runtime.plan.names import is_name
from eetoolkit_runtime.plan.types import (
    Activations,
    Constant,
    Criterion,
    File,
    Golden,
    Goto,
    Limit,
    Manifest,
    Method,
    Preprocess,
    Quantization,
    SavedProfile,
    Segment,
    ServerExit,
    Slot,
    Source,
    Stop,
    TensorSpec,
)
from eetoolkit_runtime.plan.validate import validate

replace = msgspec.structs.replace
FILE = File(sha256="0" * 64, size=0)
X = TensorSpec(name="x", dtype="float32", shape=("batch", 4))


def with_segment(plan: Manifest, name: str, **changes: Any) -> Manifest:
    """Returns the plan with a segment changed or added."""
    old = plan.segments.get(name, Segment(next=Stop()))
    return replace(plan, segments=plan.segments | {name: replace(old, **changes)})


def with_exit(plan: Manifest, name: str, /, **changes: Any) -> Manifest:
    """Returns the plan with the exit of a segment changed."""
    found = plan.segments[name].exit
    assert found is not None
    return with_segment(plan, name, exit=replace(found, **changes))


def with_write(plan: Manifest, segment: str, slot: str, source: Source) -> Manifest:
    """Returns the plan with one write changed or added."""
    return with_segment(plan, segment, writes=plan.segments[segment].writes | {slot: source})


def with_slot(plan: Manifest, name: str, dtype: str, *shape: int | str | None) -> Manifest:
    """Returns the plan with a slot changed or added."""
    return replace(plan, slots=plan.slots | {name: Slot(dtype=dtype, shape=shape)})


def with_file(plan: Manifest, *names: str) -> Manifest:
    """Returns the plan with more files."""
    return replace(plan, files=plan.files | dict.fromkeys(names, FILE))


def plain(build: Callable[[], Draft] = chain) -> Manifest:
    """Returns a plan that is accepted."""
    return build().plan()


def constant_of(*data: float) -> Manifest:
    """Returns a plan with a constant of shape [2]."""
    return replace(plain(), constants={"k": Constant(dtype="float32", shape=(2,), data=data)})


def detour(*writes: str) -> Manifest:
    """Returns a plan whose left branch writes `inner` and `other`, and whose right branch `writes`."""
    draft = joined()
    draft.segment("minus", "inner = Neg(x)", reads=["x"], writes={"inner": "inner", "other": "inner"}, next="join")
    draft.segment("plus", "inner = Abs(x)", reads=["x"], writes=dict.fromkeys(writes, "inner"), next="join")
    return draft.plan()


def combined(**options: Any) -> Criterion:
    """Returns a criterion with a member that has these options."""
    return Criterion(kind="all_of", members=(Criterion(kind="entropy"), Criterion(kind="max_prob", **options)))


def quantized(
    methods: dict[str, Method], activations: Activations | None = None, draft: Callable[[], Draft] | None = None
) -> Manifest:
    """Returns a plan that says how its segments were quantised."""
    said = Quantization(segments=methods, activations=activations, rows=8, created_with={})
    return replace(plain() if draft is None else plain(draft), quantization=said)


def handing_over(**changes: Any) -> Manifest:
    """Returns the device's half of a chain, with another word on its handover."""
    whole = plain()
    device = halves(whole, cut_point(whole, "exit0")).device
    assert device.split is not None
    return replace(device, split=replace(device.split, **changes))


def endless() -> Manifest:
    """Returns a plan with two segments that only go to each other."""
    plan = with_segment(plain(joined), "plus", next=Goto(segment="round"))
    return with_segment(plan, "round", next=Goto(segment="plus"))


CASES: dict[str, tuple[Callable[[], Manifest], str]] = {
    "more segments than a plan may have": (
        lambda: replace(plain(), segments={f"s{k}": plain().segments["segment0"] for k in range(4097)}),
        "manifest.json: 4097 segments, a plan has at most 4096",
    ),
    "more slots than a plan may have": (
        lambda: replace(plain(), slots={f"s{k}": Slot(dtype="float32", shape=()) for k in range(16385)}),
        "manifest.json: 16385 slots, a plan has at most 16384",
    ),
    "a name that is none everywhere": (
        lambda: replace(plain(), slots=plain().slots | {"my slot": Slot(dtype="float32", shape=())}),
        "manifest.json: the slot 'my slot' is no name: up to 255 of A-Z a-z 0-9 _ . -, first a letter or one _",
    ),
    "a name that JavaScript keeps": (
        lambda: replace(plain(), slots=plain().slots | {"toString": Slot(dtype="float32", shape=())}),
        "manifest.json: the slot 'toString' is a key of every JavaScript object",
    ),
    "titles that make two names one": (
        lambda: replace(plain(), titles={"exit1": "exit0"}),
        "manifest.json: titles give two of the inputs, exits and outputs one name",
    ),
    "a slot that no memory holds": (
        lambda: replace(plain(), slots=plain().slots | {"h0": Slot(dtype="float32", shape=(1 << 30, 1 << 30))}),
        "manifest.json: 'h0' is float32[1073741824, 1073741824], over 1099511627776 elements",
    ),
    "a file name that no disk holds": (
        lambda: with_file(plain(), "x" * 256),
        "manifest.json: the file name 'xxxxxxxxxxxxxxxxxxxx'… has over 255 bytes",
    ),
    "a file name in two bytes a letter that no disk holds": (
        lambda: with_file(plain(), "ä" * 128),
        "manifest.json: the file name 'ääääääääääääääääääää'… has over 255 bytes",
    ),
    "a file that differs from the manifest in case": (
        lambda: with_file(plain(), "Manifest.JSON"),
        "manifest.json: 'manifest.json' and 'Manifest.JSON' are one file on a case-insensitive disk",
    ),
    "limits of what is no dimension": (
        lambda: replace(plain(), limits={"n": Limit(max=3)}),
        "manifest.json: limits names 'n', which is no dimension of the inputs",
    ),
    "limits between which there is no size": (
        lambda: replace(plain(), limits={"batch": Limit(min=4, max=3)}),
        "manifest.json: limits of 'batch': 4 to 3 is no size",
    ),
    "no inputs": (lambda: replace(plain(), inputs=()), "manifest.json: no inputs"),
    "a profile of no segment": (
        lambda: replace(plain(), profile=SavedProfile(expected_ms={"gone": 1.0})),
        "manifest.json: profile names 'gone', which is not a segment",
    ),
    "a profile in no file": (
        lambda: replace(plain(), profile=SavedProfile(file="gone.json", expected_ms={})),
        "manifest.json: the profile file 'gone.json' is not listed under files",
    ),
    "an endless profile": (
        lambda: replace(plain(), profile=SavedProfile(expected_ms={"segment0": math.inf})),
        "manifest.json: profile says inf ms for 'segment0', which is not finite",
    ),
    "a quantization of no segment": (
        lambda: quantized({"segment0": "static", "gone": "static"}, "uint8"),
        "manifest.json: quantization names 'gone', which is not a segment with a model",
    ),
    "a quantization of moves alone": (
        lambda: quantized({"join": "dynamic"}, draft=joined),
        "manifest.json: quantization names 'join', which is not a segment with a model",
    ),
    "a static segment without activations": (
        lambda: quantized({"segment0": "static"}),
        "manifest.json: quantization: activations None, those of static segments alone",
    ),
    "activations without a static segment": (
        lambda: quantized({"segment0": "dynamic"}, "int8"),
        "manifest.json: quantization: activations 'int8', those of static segments alone",
    ),
    "a handover at an exit that does not end the plan": (
        lambda: handing_over(exit="exit0"),
        "manifest.json: split hands over at 'exit0', which is not an exit that ends the plan",
    ),
    "a handover at no exit": (
        lambda: handing_over(exit="gone"),
        "manifest.json: split hands over at 'gone', which is not an exit that ends the plan",
    ),
    "a handover in whose place no exit stands": (
        lambda: handing_over(local="gone"),
        "manifest.json: split stands in for 'gone', which is not another exit",
    ),
    "a handover in its own place": (
        lambda: handing_over(local="handover"),
        "manifest.json: split stands in for 'handover', which is not another exit",
    ),
    "a handover without an answer": (
        lambda: handing_over(answers=()),
        "manifest.json: split: 'answers' is empty",
    ),
    "a handover of nothing": (lambda: handing_over(sends={}), "manifest.json: split: 'sends' is empty"),
    "a server without exits": (lambda: handing_over(exits=()), "manifest.json: split: 'exits' is empty"),
    "a handover with an answer that it does not have": (
        lambda: handing_over(answers=("logits", "gone")),
        "manifest.json: split takes 'gone', which is not an output of 'handover'",
    ),
    "a handover of what it does not have": (
        lambda: handing_over(sends={"h0": "h0"}),
        "manifest.json: split takes 'h0', which is not an output of 'handover'",
    ),
    "a server with one exit twice": (
        lambda: handing_over(exits=(ServerExit(name="exit1"), ServerExit(name="exit1"))),
        "manifest.json: split: two exits of one name",
    ),
    "a server's model that is no name": (
        lambda: handing_over(model="../m"),
        "manifest.json: the server's model '../m' is no name: up to 255 of A-Z a-z 0-9 _ . -, first a letter or one _",
    ),
    "a server's input that is no name": (
        lambda: handing_over(sends={"h 0": "logits"}),
        "manifest.json: the server's input 'h 0' is no name: up to 255 of A-Z a-z 0-9 _ . -, first a letter or one _",
    ),
    "a server's exit that JavaScript keeps": (
        lambda: handing_over(exits=(ServerExit(name="toString"),)),
        "manifest.json: the server's exit 'toString' is a key of every JavaScript object",
    ),
    "two inputs of one name": (
        lambda: replace(plain(), inputs=(X, X)),
        "manifest.json: two inputs of one name among ['x', 'x']",
    ),
    "a slot called like an input": (
        lambda: with_slot(plain(), "x", "float32", "batch", 4),
        "manifest.json: inputs, slots and constants share the names ['x']",
    ),
    "a constant called like a slot": (
        lambda: replace(plain(), constants={"h0": Constant(dtype="float32", shape=(), data=(1.0,))}),
        "manifest.json: inputs, slots and constants share the names ['h0']",
    ),
    "a constant called like an input": (
        lambda: replace(plain(), constants={"x": Constant(dtype="float32", shape=(), data=(1.0,))}),
        "manifest.json: inputs, slots and constants share the names ['x']",
    ),
    "a constant with too few values": (lambda: constant_of(1.0), "constant 'k': shape [2] needs 2 values, got 1"),
    "a constant with too many values": (
        lambda: constant_of(1.0, 2.0, 3.0),
        "constant 'k': shape [2] needs 2 values, got 3",
    ),
    "a constant that is not of its dtype": (
        lambda: replace(plain(), constants={"k": Constant(dtype="uint8", shape=(2,), data=(1, 300))}),
        "constant 'k': 300 is not a finite uint8",
    ),
    "a constant that is not finite": (
        lambda: constant_of(1.0, math.inf),
        "constant 'k': inf is not a finite float32",
    ),
    "preprocess of no input": (
        lambda: replace(plain(), preprocess={"image": Preprocess(layout="NCHW", resize=(2, 2))}),
        "manifest.json: preprocess names ['image'], the inputs are ['x']",
    ),
    "preprocess of an input that is no image": (
        lambda: replace(plain(), preprocess={"x": Preprocess(layout="NCHW", resize=(2, 2))}),
        "preprocess of 'x': its shape is ['batch', 4], expected four dimensions",
    ),
    "a read of nothing": (
        lambda: with_segment(plain(), "segment0", reads={"x": "pixels"}),
        "segment 'segment0': reads 'x' from 'pixels', which is not defined",
    ),
    "a write to nothing": (
        lambda: with_write(plain(), "segment0", "new", Source(output="h")),
        "segment 'segment0': writes 'new', which is not among the slots",
    ),
    "a write to an input": (
        lambda: with_write(plain(), "segment0", "x", Source(output="h")),
        "segment 'segment0': writes 'x', which is not among the slots",
    ),
    "a move of nothing": (
        lambda: with_write(plain(), "segment0", "h0", move("gone")),
        "segment 'segment0': moves 'gone' to 'h0', which is not defined",
    ),
    "a move of a constant as if it were a slot": (
        lambda: with_write(plain(looped), "begin", "i", move("zero")),
        "segment 'begin': moves 'zero' to 'i', which is not defined",
    ),
    "a constant that is not there": (
        lambda: with_write(plain(looped), "begin", "i", fixed("one")),
        "segment 'begin': moves the constant 'one', which is not defined",
    ),
    "an output without a model": (
        lambda: with_write(plain(joined), "join", "y", Source(output="out")),
        "segment 'join': takes output 'out' but has no model",
    ),
    "reads without a model": (
        lambda: with_segment(plain(joined), "join", reads={"b": "x", "a": "inner"}),
        "segment 'join': reads ['a', 'b'] but has no model",
    ),
    "a model nothing of which is taken": (
        lambda: with_segment(plain(joined), "minus", writes={"inner": move("x")}),
        "segment 'minus': has a model but takes no output of it",
    ),
    "an exit output from nothing": (
        lambda: with_exit(plain(), "segment0", outputs={"logits": "gone"}),
        "segment 'segment0': exit output 'logits' is the slot 'gone', which is not defined",
    ),
    "a confidence from nothing": (
        lambda: with_exit(plain(), "segment0", confidence="gone"),
        "segment 'segment0': confidence is the slot 'gone', which is not defined",
    ),
    "a gate on nothing": (
        lambda: with_segment(plain(joined), "gate", next=gate("gone", "minus", "plus")),
        "segment 'gate': gate is the slot 'gone', which is not defined",
    ),
    "a switch on a constant": (
        lambda: with_segment(
            replace(plain(switched), constants={"k": Constant(dtype="int64", shape=(), data=(0,))}),
            "router",
            next=switch("k", "expert0", "expert1", "expert2"),
        ),
        "segment 'router': switch is the slot 'k', which is not defined",
    ),
    "one exit with two thresholds": (
        lambda: with_exit(NETWORKS["one_name_twice"]().plan(), "plus", threshold=0.6),
        "segment 'plus': exit 'early' stands elsewhere with another threshold or outputs",
    ),
    "one exit enabled here and not there": (
        lambda: with_exit(NETWORKS["one_name_twice"]().plan(), "plus", threshold="never"),
        "segment 'plus': exit 'early' stands elsewhere with another threshold or outputs",
    ),
    "one exit with other outputs": (
        lambda: with_exit(NETWORKS["one_name_twice"]().plan(), "plus", outputs={"scores": "y"}),
        "segment 'plus': exit 'early' stands elsewhere with another threshold or outputs",
    ),
    "two files that differ in case": (
        lambda: with_file(plain(), "A.bin", "a.BIN"),
        "manifest.json: 'A.bin' and 'a.BIN' are one file on a case-insensitive disk",
    ),
    "a model that is no file of the bundle": (
        lambda: with_segment(plain(), "segment1", model="other.onnx"),
        "segment 'segment1': the file 'other.onnx' is not listed under files",
    ),
    "weights that are no file of the bundle": (
        lambda: with_segment(plain(), "segment1", weights=("other.bin",)),
        "segment 'segment1': the file 'other.bin' is not listed under files",
    ),
    "golden samples that are no file of the bundle": (
        lambda: replace(plain(), golden=Golden(file="golden.bin", tolerance=1e-4)),
        "manifest.json: the golden file 'golden.bin' is not listed under files",
    ),
    "an endless tolerance": (
        lambda: replace(with_file(plain(), "golden.bin"), golden=Golden(file="golden.bin", tolerance=math.inf)),
        "manifest.json: the golden tolerance is inf, not finite",
    ),
    "a start that is no segment": (
        lambda: replace(plain(), start="begin"),
        "manifest.json: start is 'begin', which is not a segment",
    ),
    "no segments": (
        lambda: replace(plain(), segments={}),
        "manifest.json: start is 'segment0', which is not a segment",
    ),
    "a switch without cases": (
        lambda: with_segment(plain(switched), "router", next=switch("expert")),
        "segment 'router': a switch without cases",
    ),
    "a goto to nothing": (
        lambda: with_segment(plain(), "segment0", next=Goto(segment="gone")),
        "segment 'segment0': goes to 'gone', which is not a segment",
    ),
    "a gate to nothing": (
        lambda: with_segment(plain(joined), "gate", next=gate("open", "minus", "gone")),
        "segment 'gate': goes to 'gone', which is not a segment",
    ),
    "a case to nothing": (
        lambda: with_segment(plain(switched), "router", next=switch("expert", "expert0", "gone")),
        "segment 'router': goes to 'gone', which is not a segment",
    ),
    "a stop without an exit": (
        lambda: with_segment(plain(), "segment2", exit=None),
        "segment 'segment2': stops without an exit",
    ),
    "a last exit with a threshold": (
        lambda: with_exit(plain(), "segment2", threshold=0.5),
        """segment 'segment2': exit 'exit2' ends the plan: "threshold" is 0.5, expected "always\"""",
    ),
    "a last exit that is disabled": (
        lambda: with_exit(plain(), "segment2", threshold="never"),
        """segment 'segment2': exit 'exit2' ends the plan: "threshold" is 'never', expected "always\"""",
    ),
    "an exit that accepts everything in the middle": (
        lambda: with_exit(plain(), "segment0", threshold="always"),
        "segment 'segment0': exit 'exit0' has the threshold \"always\" but does not stop",
    ),
    "segments that nothing leads to": (
        lambda: with_segment(plain(), "segment0", next=Goto(segment="segment2")),
        "segments ['segment1'] cannot be reached from 'segment0'",
    ),
    "segments that lead nowhere": (
        endless,
        "segments ['plus', 'round'] cannot reach a stop: the plan would loop for ever",
    ),
    "a loop without a bound": (
        lambda: with_segment(plain(looped), "step", max_visits=None),
        "segments ['step'] lie on a cycle without a bound: give one with a model `max_visits`",
    ),
    "a loop whose bound is on moves alone": (
        lambda: with_segment(with_segment(plain(NETWORKS["swapped"]), "step", max_visits=None), "swap", max_visits=9),
        "segments ['step', 'swap'] lie on a cycle without a bound: give one with a model `max_visits`",
    ),
    "a read that a branch leaves unwritten": (
        lambda: with_segment(detour("inner"), "head", reads={"x": "x", "y": "other"}),
        "segment 'head': reads 'other', which some path to it leaves unwritten",
    ),
    "a read of what only a later visit has": (
        lambda: with_segment(plain(looped), "begin", writes={"y": move("x")}),
        "segment 'step': reads 'i', which some path to it leaves unwritten",
    ),
    "a read of what the segment itself writes": (
        lambda: with_segment(plain(), "segment0", reads={"x": "h0"}),
        "segment 'segment0': reads 'h0', which some path to it leaves unwritten",
    ),
    "a move that a branch leaves unwritten": (
        lambda: detour("other"),
        "segment 'join': moves 'inner', which some path to it leaves unwritten",
    ),
    "a move of what the segment itself writes": (
        lambda: with_write(with_slot(plain(), "copy", "float32", "batch", 4), "segment0", "copy", move("h0")),
        "segment 'segment0': moves 'h0', which some path to it leaves unwritten",
    ),
    "an exit output that is unwritten": (
        lambda: with_exit(plain(), "segment0", outputs={"logits": "h1"}),
        "segment 'segment0': exit output 'logits' 'h1' is left unwritten by some path",
    ),
    "a confidence that is unwritten": (
        lambda: with_exit(plain(), "segment0", confidence="confidence1"),
        "segment 'segment0': confidence 'confidence1' is left unwritten by some path",
    ),
    "a gate that is unwritten": (
        lambda: with_segment(
            with_slot(plain(joined), "later", "bool", "batch"), "gate", next=gate("later", "minus", "plus")
        ),
        "segment 'gate': gate 'later' is left unwritten by some path",
    ),
    "a move to another dtype": (
        lambda: with_slot(plain(joined), "y", "float64", "batch", 4),
        "segment 'join': 'y' takes float32[batch, 4], it is float64[batch, 4]",
    ),
    "a move to another rank": (
        lambda: with_slot(plain(joined), "y", "float32", "batch"),
        "segment 'join': 'y' takes float32[batch, 4], it is float32[batch]",
    ),
    "a move to another size": (
        lambda: with_slot(plain(joined), "y", "float32", None, 5),
        "segment 'join': 'y' takes float32[batch, 4], it is float32[?, 5]",
    ),
    "a constant of another dtype": (
        lambda: with_slot(plain(looped), "i", "int32", "batch"),
        "segment 'begin': 'i' takes int64[1], it is int32[batch]",
    ),
    "a move from a size that depends on data to one that is fixed": (
        lambda: with_slot(plain(joined), "inner", "float32", None, 4),
        "segment 'join': 'y' takes float32[?, 4], it is float32[batch, 4]",
    ),
    "one output for two slots of other dtypes": (
        lambda: with_write(with_slot(plain(), "copy", "int64", "batch", 4), "segment0", "copy", Source(output="h")),
        "segment 'segment0': output 'h' feeds 'h0', float32[batch, 4], and 'copy', int64[batch, 4]",
    ),
    "one output for a slot whose shape is known and one whose is not": (
        lambda: with_write(with_slot(plain(), "copy", "float32", None, 4), "segment0", "copy", Source(output="h")),
        "segment 'segment0': output 'h' feeds 'h0', float32[batch, 4], and 'copy', float32[?, 4]",
    ),
    "a gate that is not boolean": (
        lambda: with_slot(plain(joined), "open", "int64", "batch"),
        "segment 'gate': 'open' is int64[batch], expected one bool per row",
    ),
    "a gate of two dimensions": (
        lambda: with_slot(plain(joined), "open", "bool", "batch", 1),
        "segment 'gate': 'open' is bool[batch, 1], expected one bool per row",
    ),
    "a gate whose size depends on data": (
        lambda: with_slot(plain(joined), "open", "bool", None),
        "segment 'gate': 'open' is bool[?], expected one bool per row",
    ),
    "a switch that is boolean": (
        lambda: with_slot(plain(switched), "expert", "bool", "batch"),
        "segment 'router': 'expert' is bool[batch], expected one int64 or int32 per row",
    ),
    "a confidence that is not float32": (
        lambda: with_slot(plain(), "confidence1", "float64", "batch"),
        "segment 'segment1': confidence 'confidence1' is float64[batch], expected one float32 per row",
    ),
    "a confidence of many values": (
        lambda: with_exit(plain(), "segment0", confidence="h0"),
        "segment 'segment0': confidence 'h0' is float32[batch, 4], expected one float32 per row",
    ),
    "an exit without outputs": (
        lambda: with_exit(plain(), "segment0", outputs={}),
        "segment 'segment0': exit 'exit0' has no outputs",
    ),
    "a temperature that is no constant": (
        lambda: with_exit(plain(), "segment0", criterion=replace(plain().exits["exit0"].criterion, temperature="warm")),
        "segment 'segment0': the temperature 'warm' is not among the constants",
    ),
    "a member's threshold that is no constant": (
        lambda: with_exit(plain(), "segment0", criterion=combined(threshold="high")),
        "segment 'segment0': the threshold 'high' is not among the constants",
    ),
    "weights of an ensemble that are no constant": (
        lambda: with_exit(plain(), "segment0", criterion=Criterion(kind="geometric_ensemble", weights="w", bias="b")),
        "segment 'segment0': the weights 'w' is not among the constants",
    ),
    "a threshold that is not a number": (
        lambda: with_exit(plain(), "segment0", threshold=math.nan),
        "segment 'segment0': the threshold is nan, not finite; 'never' disables it",
    ),
} | {
    f"the file name {name!r}": (
        lambda name=name: with_file(plain(), name),
        f"manifest.json: {name!r} is not a plain file name inside the bundle",
    )
    for name in ("", ".", "..", "manifest.json", "../a", "a/b", "/a", "..\\a", "C:a", "a\0", " a", "a ", "a\n")
}


@pytest.mark.parametrize("case", CASES)
def test_a_plan_is_refused_for(case: str) -> None:
    build, text = CASES[case]
    with pytest.raises(ManifestError) as caught:
        validate(build())
    assert str(caught.value) == text


def test_every_refusal_of_validate_is_among_the_cases() -> None:
    raises = {
        (module.__file__, node.lineno)
        for module in (validation, naming, splitting)
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Raise)
    }
    met = set()
    for build, _ in CASES.values():
        with pytest.raises(ManifestError) as caught:
            validate(build())
        last = traceback.extract_tb(caught.value.__traceback__)[-1]
        met.add((last.filename, last.lineno))
    assert met >= raises, f"without a case: {sorted(raises - met)}"


@pytest.mark.parametrize(
    "name", ["", "0", ".a", "-a", "a b", "a/b", "a::b", "é", "a\n", "__proto__", "toString", "a" * 256]
)
def test_these_are_no_names(name: str) -> None:
    assert not is_name(name)


@pytest.mark.parametrize("name", ["a", "_", "_a", "A.b-c_0", "a__b", "tostring", "a" * 255])
def test_these_are_names(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("input", lambda plan: replace(plan, inputs=(replace(X, name="__proto__"),))),
        ("output", lambda plan: replace(plan, outputs=(replace(X, name="__proto__"),))),
        ("constant", lambda plan: replace(plan, constants={"__proto__": Constant(dtype="bool", shape=(0,), data=())})),
        ("segment", lambda plan: with_segment(plan, "__proto__")),
        ("exit", lambda plan: with_exit(plan, "segment0", name="__proto__")),
        ("output", lambda plan: with_exit(plan, "segment0", outputs={"__proto__": "x"})),
        ("graph input", lambda plan: with_segment(plan, "segment0", reads={"__proto__": "x"})),
        ("graph output", lambda plan: with_write(plan, "segment0", "confidence0", Source(output="__proto__"))),
    ],
)  # fmt: skip
def test_every_kind_of_name_follows_the_rule(kind: str, changed: Callable[[Manifest], Manifest]) -> None:
    with pytest.raises(ManifestError, match=f"the {kind} '__proto__' is no name"):
        validate(changed(plain()))


@pytest.mark.parametrize("network", NETWORKS)
def test_a_plan_of_each_kind_is_accepted(network: str) -> None:
    validate(NETWORKS[network]().plan())


def test_a_bound_on_any_segment_of_a_cycle_is_enough() -> None:
    plan = with_segment(plain(looped), "step", max_visits=None, next=Goto(segment="again"))
    again = replace(plain(looped).segments["step"], max_visits=2, next=gate("more", "step", "head"))
    validate(replace(plan, segments=plan.segments | {"again": again}))


def test_two_cycles_need_a_bound_each() -> None:
    plan = with_segment(plain(looped), "head", exit=None, next=gate("more", "head", "end"))
    plan = with_segment(plan, "end", exit=plain(looped).segments["head"].exit)
    with pytest.raises(ManifestError, match=r"'head'.* lie on a cycle without a bound"):
        validate(plan)


def test_only_the_segments_of_the_cycle_are_named_not_those_behind_it() -> None:
    with pytest.raises(ManifestError) as caught:
        validate(with_segment(plain(looped), "step", max_visits=None))
    assert "'head'" not in str(caught.value)


def test_the_fields_of_a_tensor_may_move_between_a_symbol_and_a_number() -> None:
    validate(with_slot(plain(joined), "y", "float32", 1, "n"))


def test_a_tensor_of_a_known_size_may_move_to_a_slot_whose_shape_depends_on_data() -> None:
    validate(with_slot(plain(joined), "y", "float32", None, None))


@pytest.mark.parametrize("network", [joined, switched])
def test_a_gate_of_four_values_is_not_one_per_row(network: Callable[[], Draft]) -> None:
    plan = plain(network)
    on = "open" if network is joined else "expert"
    with pytest.raises(ManifestError, match="per row"):
        validate(with_slot(plan, on, plan.slots[on].dtype, 4))


def test_a_confidence_of_four_values_is_not_one_per_row() -> None:
    with pytest.raises(ManifestError, match="expected one float32 per row"):
        validate(with_slot(plain(), "confidence0", "float32", 4))


@pytest.mark.parametrize("shape", [(), (1,), ("batch",)])
def test_one_value_per_row_may_be_written_in_three_ways(shape: tuple[int | str, ...]) -> None:
    validate(with_slot(plain(), "confidence0", "float32", *shape))


@pytest.mark.parametrize("threshold", [math.inf, -math.inf])
def test_an_infinite_threshold_is_refused_since_json_cannot_hold_it(threshold: float) -> None:
    with pytest.raises(ManifestError, match="segment 'segment0': the threshold is"):
        validate(with_exit(plain(), "segment0", threshold=threshold))


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("uint8", 300), ("uint8", -1), ("int64", 1.5), ("int64", 3.0), ("bool", 7), ("float16", 1e9), ("int64", 2**53),
        ("uint64", 2**53), ("float64", 10**400), ("int64", "1"), ("int64", "9007199254740991"), ("int64", str(2**63)),
        ("uint64", str(2**64)), ("uint64", str(-(2**60))), ("int64", "+9007199254740993"), ("int64", "1e20"),
        ("float64", "9007199254740993"), ("int32", "9007199254740993"), ("bool", "9007199254740993"),
        ("int64", "09007199254740993"), ("int64", "9" * 5000), ("int64", ""),
    ],
)  # fmt: skip
def test_a_constant_that_its_dtype_cannot_hold_is_refused(dtype: str, value: float | str) -> None:
    with pytest.raises(ManifestError, match="constant 'k'"):
        validate(replace(plain(), constants={"k": Constant(dtype=dtype, shape=(), data=(value,))}))


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("int64", 2**53 - 1), ("int64", 1 - 2**53), ("int64", str(2**53)), ("int64", str(-(2**63))),
        ("uint64", str(2**64 - 1)), ("float32", 3), ("float64", 1e300),
    ],
)  # fmt: skip
def test_a_constant_that_its_dtype_holds_is_accepted(dtype: str, value: float | str) -> None:
    plan = replace(plain(), constants={"k": Constant(dtype=dtype, shape=(), data=(value,))})
    validate(plan)
    assert np.array(plan.constants["k"].data, dtype)[0] == (int(value) if isinstance(value, str) else value)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"mean": (0.0, 0.0, 0.0)}, "mean has 3 values, expected 1 or 2"),
        ({"std": (1.0, 1.0, 1.0)}, "std has 3 values, expected 1 or 2"),
        ({"mean": ()}, "mean has 0 values, expected 1 or 2"),
        ({"std": (0.0,)}, "std is 0"),
        ({"std": (math.nan,)}, "scale, mean and std must be finite"),
        ({"mean": (0.0, math.inf)}, "scale, mean and std must be finite"),
        ({"scale": math.inf}, "scale, mean and std must be finite"),
    ],
)
def test_preprocess_that_does_not_fit_its_input_is_refused(changes: dict[str, Any], text: str) -> None:
    image = TensorSpec(name="x", dtype="float32", shape=("batch", 2, 8, 8))
    preprocess = Preprocess(layout="NCHW", resize=(8, 8), **changes)
    with pytest.raises(ManifestError) as caught:
        validate(replace(plain(), inputs=(image,), preprocess={"x": preprocess}))
    assert str(caught.value) == f"preprocess of 'x': {text}"


def test_preprocess_of_an_input_that_is_no_image_is_refused() -> None:
    with pytest.raises(ManifestError, match="preprocess"):
        validate(replace(plain(), preprocess={"x": Preprocess(layout="NCHW", resize=(8, 8))}))


def test_two_slots_fed_by_one_output_must_be_alike() -> None:
    for dtype, shape in (("int64", ("batch", 4)), ("float32", ("batch",)), ("float32", ("batch", None))):
        plan = with_write(with_slot(plain(), "copy", dtype, *shape), "segment0", "copy", Source(output="h"))
        with pytest.raises(ManifestError, match="'copy'"):
            validate(plan)


def test_two_slots_fed_by_one_output_may_name_its_dimensions_otherwise() -> None:
    validate(with_write(with_slot(plain(), "copy", "float32", "n", 4), "segment0", "copy", Source(output="h")))


def test_a_model_none_of_whose_outputs_is_taken_is_refused() -> None:
    plan = with_segment(plain(), "segment0", next=Goto(segment="idle"))
    plan = with_segment(plan, "idle", model="segment0.onnx", reads={"x": "x"}, next=Goto(segment="segment1"))
    with pytest.raises(ManifestError, match=r"segment 'idle': .*output"):  # onnxruntime runs nothing for nothing
        validate(plan)


def test_a_plan_as_long_as_it_may_be_is_proved_in_little_memory() -> None:
    count = 4095
    draft = Draft()
    draft.constant("k", "float32", np.zeros((1,), np.float32))
    draft.slot("sure", shape=(1,))
    for number in range(count):
        draft.slot(f"z{number}", shape=(1,))
        draft.segment(f"s{number}", writes={f"z{number}": fixed("k")}, next=f"s{number + 1}")
    # Every slot is read at the end, so that all are alive all the way: sets of names would take gigabytes.
    draft.segment(
        f"s{count}",
        writes={"sure": fixed("k")},
        exit=leave("last", "x", "sure", **{f"o{number}": f"z{number}" for number in range(count)}),
    )
    plan = draft.plan()
    tracemalloc.start()
    try:
        validate(plan)
        live = live_before(plan)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20
    assert live["s0"] == {"x"}
    assert live[f"s{count}"] == {"x", *(f"z{number}" for number in range(count))}
