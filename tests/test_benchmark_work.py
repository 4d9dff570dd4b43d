"""The benchmark's share of work: what is counted, and how often."""

from __future__ import annotations

import plans

from benchmarks import work
from eetoolkit_runtime.plan.types import VERSION, Goto, Manifest, Next, Segment, Stop, Work
from eetoolkit_runtime.running.answer import Answer


def path(*names: str) -> Answer:
    return Answer({}, "exit0", 1.0, names, 4)


def plan(**segments: tuple[Next, int | None, int | None]) -> Manifest:
    """Returns a plan of segments with what follows, multiply-adds and `max_visits`, whose graphs nobody opens."""
    made = {
        name: Segment(
            model=f"{name}.onnx", next=following, max_visits=bound,
            work=Work(nodes=1, parameters=0, multiply_adds=multiply_adds),
        )
        for name, (following, multiply_adds, bound) in segments.items()
    }  # fmt: skip
    start = next(iter(made))
    return Manifest(
        format="eetoolkit-bundle", version=VERSION, name="plan", created_with={}, inputs=(), outputs=(), slots={},
        start=start, segments=made,
    )  # fmt: skip


def loop(step_work: int | None) -> Manifest:
    return plan(
        first=(Goto(segment="body"), 10, None),
        body=(Goto(segment="step"), 20, None),
        step=(plans.gate("more", "body", "last"), step_work, 4),
        last=(Stop(), 30, None),
    )


def test_work_is_counted_at_every_visit_against_all_that_may_be_visited() -> None:
    assert work.possible_visits(loop(5)) == {"first": 1, "body": 4, "step": 4, "last": 1}
    done = [path("first", "body", "step", "last"), path("first", "body", "step", "body", "step", "last")]
    assert work.share_of_work(loop(5), done) == (65 + 90) / (2 * (10 + 4 * 20 + 4 * 5 + 30))
    assert work.share_of_work(loop(None), done) is None
    assert work.segments_run(done) == 4


def test_what_stands_in_no_loop_is_visited_once() -> None:
    branches = plan(
        first=(plans.gate("run", "left", "last"), 1, None),
        left=(plans.switch("case", "last", "last", "last"), 1, None),
        last=(Stop(), 1, None),
    )
    assert work.possible_visits(branches) == {"first": 1, "left": 1, "last": 1}
