"""Plans as pictures."""

from __future__ import annotations

from msgspec.structs import replace
from plans import chain, gated, joined, looped, switched

from eetoolkit.showing.drawing import mermaid
from eetoolkit_runtime.plan.types import Goto, Switch, Work


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines()]


def test_chain_shows_exits_thresholds_and_the_tensors_that_cross() -> None:
    found = lines(mermaid(chain(0.5, 0.25).plan()))
    assert 's0["segment0<br/>exit0: max_prob #gt;= 0.5"]' in found
    assert 's2["segment2<br/>exit2: always"]' in found
    assert 's0 -.->|"exit0 fires"| answer' in found
    assert 's0 -->|"x: float32[batch, 4]<br/>h0: float32[batch, 4]"| s1' in found
    assert 's2 -->|"exit2"| answer' in found
    assert not any("s2 -.->" in line for line in found), "the last exit does not fire, it answers"


def test_gate_shows_both_ways_and_what_each_carries() -> None:
    found = lines(mermaid(gated().plan()))
    assert 's0 -->|"if open<br/>x: float32[batch, 4]"| s1' in found
    assert 's0 -->|"else<br/>x: float32[batch, 4]<br/>y: float32[batch, 4]"| s2' in found


def test_switch_shows_its_cases_and_merges_equal_ones() -> None:
    draft = switched()
    crossing = "<br/>x: float32[batch, 4]"
    found = lines(mermaid(draft.plan()))
    assert all(f's0 -->|"expert = {k}{crossing}"| s{k + 1}' in found for k in range(3))
    cases = Switch(on="expert", cases=("expert0", "expert1", "expert0"))
    draft.segments["router"] = replace(draft.segments["router"], next=cases)
    assert f's0 -->|"expert = 0, 2{crossing}"| s1' in lines(mermaid(draft.plan()))


def test_loop_shows_its_bound_and_goes_back_to_itself() -> None:
    found = lines(mermaid(looped(leave_at=0.5).plan()))
    assert 's0("begin<br/>only moves")' in found
    assert 's1["step<br/>at most 9 visits<br/>inside: max_prob #gt;= 0.5"]' in found
    assert any(line.startswith('s1 -->|"if more<br/>') and line.endswith("| s1") for line in found)


def test_work_and_disabled_exits_are_told() -> None:
    draft = chain(0.5)
    first = draft.segments["segment0"]
    assert first.exit is not None
    work = Work(nodes=1, parameters=2, multiply_adds=270_480)
    draft.segments["segment0"] = replace(first, exit=replace(first.exit, threshold="never"), work=work)
    found = lines(mermaid(draft.plan()))
    assert 's0["segment0<br/>0.27 M multiply-adds<br/>exit0: never"]' in found
    assert not any("fires" in line for line in found)


def test_many_crossing_tensors_are_counted() -> None:
    draft = chain()
    for k in range(9):
        draft.slot(f"extra{k}")
    first, second = draft.segments["segment0"], draft.segments["segment1"]
    for k in range(9):
        first.writes[f"extra{k}"] = first.writes["h0"]
        second.reads[f"extra{k}"] = f"extra{k}"
    arrow = next(line for line in lines(mermaid(draft.plan())) if line.startswith("s0 -->"))
    assert arrow.count("float32") == 4
    assert "and 7 more" in arrow


def test_names_cannot_break_out_of_the_language() -> None:
    draft = joined()
    wicked = 'end"]; click <b>&x\\'
    draft.segments[wicked] = draft.segments.pop("join")
    for name in ("minus", "plus"):
        draft.segments[name] = replace(draft.segments[name], next=Goto(segment=wicked))
    assert "end#quot;]; click #lt;b#gt;#amp;x\\<br/>only moves" in mermaid(draft.plan())
