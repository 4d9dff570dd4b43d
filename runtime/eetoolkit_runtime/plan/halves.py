"""A plan in two halves: what a device runs, and what a server goes on with from exactly the slots that are live there.

A plan can be cut before a segment through which every way to what lies behind it leads, once, after an exit whose
answer can stand in. Both halves are plans of the same format: the device's ends with an exit of its own, the handover,
whose outputs are the answer that stands in and the tensors that the server needs; these are the inputs of the server's.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import msgspec

from eetoolkit_runtime.errors import InputError, did_you_mean
from eetoolkit_runtime.plan.flow import (
    closure,
    forward,
    live_before,
    repeats,
    successors,
)
from eetoolkit_runtime.plan.names import is_name, plan_name, titles_of
from eetoolkit_runtime.plan.restricted import restricted
from eetoolkit_runtime.plan.still_true import quantization_of
from eetoolkit_runtime.plan.types import (
    SHARE_OF,
    Exit,
    Goto,
    Manifest,
    Segment,
    ServerExit,
    Slot,
    Source,
    Split,
    Stop,
    TensorSpec,
    Tuning,
)

HANDOVER = "handover"
"""The exit that ends a device's half, and the segment in which it stands."""
_ENTRY = "entry"  # the segment of a server's half that moves inputs to slots which it overwrites
_Where = tuple[str, ...]  # an exit by its name and the slots of its answer


class Halves(NamedTuple):
    """Both halves of a plan, each a valid plan by itself but for golden samples, which neither has."""

    device: Manifest
    server: Manifest


class CutPoint(NamedTuple):
    """A segment before which a plan can be cut, and the exit whose answer stands in there."""

    segment: str
    exit: str


def cut_points(plan: Manifest) -> tuple[CutPoint, ...]:
    """Returns where a plan can be cut, in the plan's order."""
    stand = _standing(plan)
    found = ((name, _stands_in(plan, name, stand[name])) for name in plan.segments)
    return tuple(CutPoint(name, exit_.name) for name, exit_ in found if exit_ is not None)


def cut_point(plan: Manifest, at: str) -> CutPoint:
    """Returns where a plan is cut by a name: behind the exit that is called so, or before the segment.

    Args:
        plan: Of a whole bundle.
        at: The name, the plan's or the network's.

    Raises:
        InputError: There is no such exit or segment, or the plan cannot be cut there; it says where it can.
    """
    check_uncut(plan)
    points = cut_points(plan)
    if not points:
        raise InputError(f"{plan.name!r} cannot be cut: no exit stands before a segment that all later ones follow")
    exits: dict[str, CutPoint] = {}
    for point in points:
        exits.setdefault(point.exit, point)
    found = exits.get(plan_name(at, plan.titles)) or next((point for point in points if point.segment == at), None)
    if found is None:
        known = {*plan.exits, *plan.segments}
        there = at in known or plan_name(at, plan.titles) in known
        what = "cannot be cut at" if there else "has no exit or segment"
        places = ", ".join(
            dict.fromkeys((*(plan.titles.get(name, name) for name in exits), *(p.segment for p in points)))
        )
        meant = "" if there else did_you_mean(at, known)
        raise InputError(f"{plan.name!r} {what} {at!r}; it can be cut at {places}{meant}")
    return found


def check_uncut(plan: Manifest) -> None:
    """Refuses a device's half.

    Raises:
        InputError: It is one.
    """
    if plan.split is not None:
        raise InputError(f"{plan.name!r} is the device's half of a bundle already; split the whole one")


def halves(plan: Manifest, at: CutPoint) -> Halves:
    """Returns both halves of a plan.

    Args:
        plan: Of a whole bundle.
        at: One of its `cut_points`.

    Raises:
        InputError: It is none of them.
    """
    local = _stands_in(plan, at.segment, _standing(plan)[at.segment]) if at.segment in plan.segments else None
    if local is None or local.name != at.exit:
        raise InputError(f"{plan.name!r} cannot be cut before {at.segment!r} behind {at.exit!r}")
    behind = closure((at.segment,), {name: successors(segment) for name, segment in plan.segments.items()})
    live = sorted(live_before(plan)[at.segment])
    server = _server(plan, at.segment, {name: plan.segments[name] for name in plan.segments if name in behind}, live)
    answers = tuple(local.outputs)
    outputs = dict(local.outputs)
    sends: dict[str, str] = {}
    for spec, slot in zip(server.inputs, live, strict=True):
        same = next((name for name, held in local.outputs.items() if held == slot), None)
        sends[spec.name] = same or fresh(slot, outputs)
        outputs[sends[spec.name]] = slot
    name = fresh(HANDOVER, plan.exits.keys() | plan.segments.keys())
    handover = msgspec.structs.replace(local, name=name, outputs=outputs, threshold="always")
    kept = {
        each: _leading_to(segment, at.segment, name) for each, segment in plan.segments.items() if each not in behind
    }
    device = _with_segments(plan, {**kept, name: Segment(exit=handover, next=Stop())})
    split = Split(
        exit=name, local=at.exit, answers=answers, sends=sends, model=server.name, version=0, exits=(), segments=0
    )
    found = agreed(msgspec.structs.replace(device, split=split), server)
    titles = titles_of(msgspec.structs.replace(found.device, titles=plan.titles))  # those of the server's exits too
    tuning = _tuning_of(plan, found)
    return Halves(msgspec.structs.replace(found.device, titles=titles, tuning=tuning), server)


def split_in(device: Manifest) -> Split:
    """Returns where a device's half hands over.

    Raises:
        ValueError: It is none.
    """
    if device.split is None:
        raise ValueError("it hands over to no server")
    return device.split


def agreed(device: Manifest, server: Manifest) -> Halves:
    """Returns both halves once the device's says of the server's what is so.

    Raises:
        ValueError: The device's is none.
    """
    models = (s.model for half in (device, server) for s in half.segments.values())
    split = msgspec.structs.replace(
        split_in(device),
        version=version_of(server),
        exits=tuple(_server_exits(server)),
        segments=sum(model is not None for model in models),
    )
    return Halves(msgspec.structs.replace(device, split=split), server)


def version_of(server: Manifest) -> int:
    """Returns the number that tells a server's half from any other: the first 48 bits of a SHA-256.

    It is of all that decides an answer: graphs and weights by their digests, plan, thresholds and constants. A model
    server of the Open Inference Protocol calls it the model's version, so that every request names it, and a server
    that holds another half has no such version.
    """
    said = msgspec.structs.replace(
        server, created_with={}, onnxruntime=None, golden=None, notes=(), profile=None, tuning=None, quantization=None,
        files={name: file for name, file in sorted(server.files.items()) if name in _files(server)},
    )  # fmt: skip
    return int(hashlib.sha256(msgspec.json.encode(said)).hexdigest()[:12], 16)


def _stands_in(plan: Manifest, name: str, stand: Collection[_Where]) -> Exit | None:
    """Returns the exit whose answer stands in where the plan is cut before a segment; None: it cannot be.

    Every way there has met it, and has not written its slots since: they would hold another answer. An exit of one name
    may stand in several branches; where each has slots of its own, none of them is on every way.
    """
    edges = {each: successors(segment) for each, segment in plan.segments.items()}
    behind = closure((name,), edges)
    ways_in = {to for each, following in edges.items() if each not in behind for to in following if to in behind}
    if name == plan.start or ways_in != {name} or repeats(plan, name):
        return None
    found: dict[bool, Exit] = {}
    for each, segment in plan.segments.items():
        if each not in behind and segment.exit is not None and _where(segment.exit) in stand:
            found[segment.exit.enabled] = segment.exit
    return found.get(True, found.get(False))


def _where(exit_: Exit) -> _Where:
    """Returns an exit's name and the slots of its answer."""
    return exit_.name, exit_.confidence, *(part for output in exit_.outputs.items() for part in output)


def _standing(plan: Manifest) -> dict[str, set[_Where]]:
    """Returns the answers that still stand before each segment, whatever path led there."""
    exits = {_where(each.exit): each.exit for each in plan.segments.values() if each.exit is not None}
    bits = {where: 1 << place for place, where in enumerate(exits)}
    held: dict[str, int] = {}
    for where, exit_ in exits.items():
        for slot in {exit_.confidence, *exit_.outputs.values()}:
            held[slot] = held.get(slot, 0) | bits[where]

    def behind(name: str, before: int) -> int:
        segment = plan.segments[name]
        for slot in segment.writes:
            before &= ~held.get(slot, 0)
        return before if segment.exit is None else before | bits[_where(segment.exit)]

    before = forward(plan, 0, (1 << len(bits)) - 1, behind)
    return {name: {where for where, bit in bits.items() if mask & bit} for name, mask in before.items()}


def _server(plan: Manifest, start: str, segments: Mapping[str, Segment], live: list[str]) -> Manifest:
    """Returns the half that begins at a segment, with the slots that are live there as inputs."""
    given: dict[str, Slot] = {spec.name: Slot(dtype=spec.dtype, shape=spec.shape) for spec in plan.inputs} | plan.slots
    written = {slot for segment in segments.values() for slot in segment.writes}
    moved = {slot: fresh(f"{slot}_in", given.keys() | plan.constants.keys()) for slot in live if slot in written}
    inputs = tuple(
        TensorSpec(name=moved.get(slot, slot), dtype=given[slot].dtype, shape=given[slot].shape) for slot in live
    )
    kept = dict(segments)
    if moved:
        first = fresh(_ENTRY, plan.segments.keys())
        moves = {slot: Source(slot=name) for slot, name in moved.items()}
        kept = {first: Segment(writes=moves, next=Goto(segment=start)), **kept}
        start = first
    symbols = {dim for spec in inputs for dim in spec.shape if isinstance(dim, str)}
    names = {spec.name for spec in inputs}
    half = msgspec.structs.replace(
        plan,
        name=_model_name(plan.name),
        inputs=inputs,
        limits={symbol: limit for symbol, limit in plan.limits.items() if symbol in symbols},
        preprocess={name: how for name, how in plan.preprocess.items() if name in names},
        start=start,
    )
    found = _with_segments(half, kept)
    return msgspec.structs.replace(found, slots={name: s for name, s in found.slots.items() if name not in names})


def _with_segments(plan: Manifest, segments: Mapping[str, Segment]) -> Manifest:
    """Returns a half with these segments alone, the files that they name, and what is still true of it."""
    short = restricted(plan, segments)
    quantization = quantization_of(short, plan.quantization, {name: (name,) for name in segments})
    short = msgspec.structs.replace(short, golden=None, quantization=quantization)
    used = _files(short)
    return msgspec.structs.replace(short, files={name: file for name, file in plan.files.items() if name in used})


def _files(plan: Manifest) -> set[str]:
    """Returns the graphs and weights that segments name."""
    named = (file for segment in plan.segments.values() for file in (segment.model, *segment.weights))
    return {file for file in named if file is not None}


def _tuning_of(plan: Manifest, found: Halves) -> Tuning | None:
    """Returns what is still true of a tuning in the device's half: its exits' thresholds, and the shares they answer.

    Scores and promises are of the whole bundle. Where the most confident exit may answer for a later one, or a name is
    that of exits in both halves, a share is of more than the half.
    """
    said, exits = plan.tuning, found.device.exits
    if said is None or plan.fallback != "last" or exits.keys() & found.server.exits.keys():
        return None
    figures = {SHARE_OF + name: said.figures[SHARE_OF + name] for name in exits if SHARE_OF + name in said.figures}
    return msgspec.structs.replace(
        said,
        figures=figures,
        guarantee=None,
        thresholds={name: value for name, value in said.thresholds.items() if name in exits},
        exits_before={name: value for name, value in said.exits_before.items() if name in exits},
        constants_before={n: value for n, value in said.constants_before.items() if n in found.device.constants},
    )


def _leading_to(segment: Segment, old: str, new: str) -> Segment:
    """Returns a segment that goes to `new` where it went to `old`."""
    following = msgspec.to_builtins(segment.next)
    for key, value in following.items():
        if key in ("segment", "then", "else") and value == old:
            following[key] = new
        elif key == "cases":
            following[key] = [new if case == old else case for case in value]
    return msgspec.convert({**msgspec.to_builtins(segment), "next": following}, Segment)


def _server_exits(server: Manifest) -> Iterator[ServerExit]:
    """Yields the exits of a server's half, each with the way to it where there is but one."""
    stands = Counter(segment.exit.name for segment in server.segments.values() if segment.exit is not None)
    given = {spec.name: Slot(dtype=spec.dtype, shape=spec.shape) for spec in server.inputs} | server.slots
    ways: dict[str, tuple[str, ...]] = {}
    name: str | None = server.start
    path: list[str] = []
    while name is not None:
        segment = server.segments[name]
        path += [] if segment.model is None else [name]
        if segment.exit is not None and stands[segment.exit.name] == 1 and not repeats(server, name):
            ways[segment.exit.name] = tuple(path)
        following = successors(segment)
        name = following[0] if len(following) == 1 else None
    for exit_name, exit_ in server.exits.items():
        yield ServerExit(
            name=exit_name,
            outputs={output: given[slot] for output, slot in exit_.outputs.items()},
            threshold=exit_.threshold,
            scores=exit_.scores,
            path=ways.get(exit_name),
        )


def _model_name(name: str) -> str:
    """Returns what a model server calls the server's half of a plan: a name that a folder and an address may have."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:200]
    return f"{plain}-tail" if is_name(plain) else f"model_{plain}-tail"


def fresh(name: str, taken: Collection[str]) -> str:
    """Returns a name that is not taken: this one, or with a number behind it."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}{number}"
    return found
