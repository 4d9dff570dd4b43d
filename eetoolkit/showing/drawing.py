"""The plan as a picture: in Mermaid, which GitHub draws, or in DOT, of which Graphviz makes any picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from eetoolkit.showing.summary import spell_shape
from eetoolkit_runtime.plan.flow import live_before
from eetoolkit_runtime.plan.types import Gate, Goto, Manifest, Segment, Slot, Stop, Switch
from eetoolkit_runtime.printable import printable
from eetoolkit_runtime.running.decision import spell_threshold

_TENSORS_SHOWN = 5  # on one arrow; a long list would hide the plan
_ESCAPES_MERMAID = {"#": "#35;", "&": "#amp;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "`": "#96;"}


@dataclass(frozen=True)
class _Node:
    key: str
    kind: Literal["input", "segment", "moves", "answer"]
    lines: tuple[str, ...]


@dataclass(frozen=True)
class _Edge:
    source: str
    target: str
    kind: Literal["goes", "answers"]
    lines: tuple[str, ...]


def dot(plan: Manifest) -> str:
    """Returns the plan in Graphviz's DOT language: segments, what decides between them, and the tensors that cross."""
    style = {
        "input": 'shape=plaintext, style="", fontcolor="#475569"',
        "segment": 'fillcolor="#e0ecff", color="#3b6fb6"',
        "moves": 'fillcolor="#f1f5f9", color="#94a3b8", style="rounded,filled,dashed"',
        "answer": 'shape=oval, fillcolor="#dcf5e3", color="#2e8b57"',
    }
    lines = [
        f"digraph {_quote(plan.name)} {{",
        '  graph [rankdir=TB, fontname="Helvetica"];',
        '  node [shape=box, style="rounded,filled", fontname="Helvetica", fontsize=11, margin="0.15,0.08"];',
        '  edge [fontname="Helvetica", fontsize=9, color="#64748b", fontcolor="#334155"];',
    ]
    lines += [f"  {node.key} [label={_quote(*node.lines)}, {style[node.kind]}];" for node in _nodes(plan)]
    for edge in _edges(plan):
        # What goes on stands in one column, what answers leaves it to the right.
        drawn = 'tailport=e, style=dashed, color="#2e8b57"' if edge.kind == "answers" else "weight=9"
        padded = (f"  {line}  " for line in edge.lines)  # Graphviz sets them flush with the arrow
        lines.append(f"  {edge.source} -> {edge.target} [label={_quote(*padded)}, {drawn}];")
    return "\n".join([*lines, "}", ""])


def mermaid(plan: Manifest) -> str:
    """Returns the plan as a Mermaid flowchart, which GitHub draws in a ```` ```mermaid ```` block."""
    frame = {"input": ("[/", "/]"), "segment": ("[", "]"), "moves": ("(", ")"), "answer": ("([", "])")}
    lines = ["flowchart TD"]
    for node in _nodes(plan):
        left, right = frame[node.kind]
        lines.append(f'  {node.key}{left}"{_entities(node.lines)}"{right}')
    for edge in _edges(plan):
        arrow = "-.->" if edge.kind == "answers" else "-->"
        label = f'|"{_entities(edge.lines)}"|' if edge.lines else ""
        lines.append(f"  {edge.source} {arrow}{label} {edge.target}")
    return "\n".join([*lines, ""])


def _nodes(plan: Manifest) -> Iterator[_Node]:
    yield _Node("inputs", "input", tuple(f"{s.name}: {s.dtype}{spell_shape(s.shape)}" for s in plan.inputs))
    for key, (name, segment) in zip(_keys(plan).values(), plan.segments.items(), strict=True):
        yield _Node(key, "segment" if segment.model is not None else "moves", tuple(_describe(name, segment)))
    yield _Node("answer", "answer", ("answer",))


def _describe(name: str, segment: Segment) -> Iterator[str]:
    yield name
    if segment.model is None:
        yield "only moves"
    if segment.work is not None and segment.work.multiply_adds:
        yield f"{segment.work.multiply_adds / 1e6:.3g} M multiply-adds"
    if segment.max_visits is not None:
        yield f"at most {segment.max_visits} visits"
    exit_ = segment.exit
    if exit_ is not None:
        kind = "" if isinstance(exit_.threshold, str) else f"{exit_.criterion.kind} "
        yield f"{exit_.name}: {kind}{spell_threshold(exit_.threshold)}"


def _edges(plan: Manifest) -> Iterator[_Edge]:
    keys, live = _keys(plan), live_before(plan)
    yield _Edge("inputs", keys[plan.start], "goes", ())
    for name, segment in plan.segments.items():
        exit_ = segment.exit
        if exit_ is not None and not isinstance(exit_.threshold, str):
            yield _Edge(keys[name], "answer", "answers", (f"{exit_.name} fires",))
        for following, condition in _ways(segment):
            if following is None:
                yield _Edge(keys[name], "answer", "goes", (exit_.name,) if exit_ is not None else ())
                continue
            crossing = [_spell_tensor(plan, slot) for slot in _in_order(plan, live[following])]
            if len(crossing) > _TENSORS_SHOWN:
                crossing[_TENSORS_SHOWN - 1 :] = [f"and {len(crossing) - _TENSORS_SHOWN + 1} more"]
            yield _Edge(keys[name], keys[following], "goes", (*condition, *crossing))


def _ways(segment: Segment) -> Iterator[tuple[str | None, tuple[str, ...]]]:
    """Yields each segment that may be next, with what must hold; None: the end."""
    match segment.next:
        case Goto(segment=name):
            yield name, ()
        case Gate(on=on, then=then, otherwise=otherwise):
            yield then, (f"if {on}",)
            yield otherwise, ("else",)
        case Switch(on=on, cases=cases):
            for name in dict.fromkeys(cases):
                numbers = ", ".join(str(number) for number, case in enumerate(cases) if case == name)
                yield name, (f"{on} = {numbers}",)
        case Stop():
            yield None, ()


def _in_order(plan: Manifest, slots: frozenset[str]) -> list[str]:
    return [name for name in (*(spec.name for spec in plan.inputs), *plan.slots) if name in slots]


def _spell_tensor(plan: Manifest, name: str) -> str:
    known = {s.name: Slot(dtype=s.dtype, shape=s.shape) for s in plan.inputs} | plan.slots
    return f"{name}: {known[name].dtype}{spell_shape(known[name].shape)}"


def _keys(plan: Manifest) -> dict[str, str]:
    """Returns an identifier for each segment: their own names may be words that the languages keep for themselves."""
    return {name: f"s{number}" for number, name in enumerate(plan.segments)}


def _quote(*lines: str) -> str:
    escaped = (printable(line).replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join(escaped) + '"'


def _entities(lines: tuple[str, ...]) -> str:
    return "<br/>".join("".join(_ESCAPES_MERMAID.get(char, char) for char in printable(line)) for line in lines)
