"""The plan as a picture in Mermaid, which GitHub draws in a ```` ```mermaid ```` block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from eetoolkit.showing.summary import spell_shape
from eetoolkit_runtime.plan.flow import live_before
from eetoolkit_runtime.plan.types import Gate, Goto, Manifest, Segment, Slot, Stop, Switch
from eetoolkit_runtime.printable import printable
from eetoolkit_runtime.running.decision import spell_threshold

_TENSORS_SHOWN = 5  # on one arrow; a long list would hide the plan
_ESCAPES = {"#": "#35;", "&": "#amp;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "`": "#96;"}


def mermaid(plan: Manifest) -> str:
    """Returns the plan as a Mermaid flowchart: segments, what decides between them, and the tensors that cross."""
    keys = {name: f"s{number}" for number, name in enumerate(plan.segments)}  # names may be words of Mermaid's
    inputs = [f"{spec.name}: {spec.dtype}{spell_shape(spec.shape)}" for spec in plan.inputs]
    lines = ["flowchart TD", f'  inputs[/"{_text(inputs)}"/]']
    for name, segment in plan.segments.items():
        left, right = "()" if segment.model is None else "[]"
        lines.append(f'  {keys[name]}{left}"{_text(_describe(name, segment))}"{right}')
    lines += ['  answer(["answer"])', f"  inputs --> {keys[plan.start]}"]
    live = live_before(plan)
    for name, segment in plan.segments.items():
        exit_ = segment.exit
        if exit_ is not None and not isinstance(exit_.threshold, str):
            lines.append(f'  {keys[name]} -.->|"{_text([f"{exit_.name} fires"])}"| answer')
        for following, condition in _ways(segment):
            if following is None:
                told, target = [exit_.name] if exit_ is not None else [], "answer"
            else:
                told, target = [*condition, *_crossing(plan, live[following])], keys[following]
            label = f'|"{_text(told)}"|' if told else ""
            lines.append(f"  {keys[name]} -->{label} {target}")
    return "\n".join([*lines, ""])


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


def _crossing(plan: Manifest, slots: frozenset[str]) -> list[str]:
    """Returns the tensors that cross to a segment, the last ones counted where they are many."""
    known = {spec.name: Slot(dtype=spec.dtype, shape=spec.shape) for spec in plan.inputs} | plan.slots
    found = [f"{name}: {slot.dtype}{spell_shape(slot.shape)}" for name, slot in known.items() if name in slots]
    if len(found) > _TENSORS_SHOWN:
        found[_TENSORS_SHOWN - 1 :] = [f"and {len(found) - _TENSORS_SHOWN + 1} more"]
    return found


def _text(lines: Iterable[str]) -> str:
    return "<br/>".join("".join(_ESCAPES.get(char, char) for char in printable(line)) for line in lines)
