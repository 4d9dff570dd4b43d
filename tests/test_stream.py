"""A stream is answered row by row as `run` does, in order, from few rows at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from plans import Array, Draft, Open, chain, gated, looped, opening, row

from eetoolkit_runtime.errors import InputError


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    yield from opening(tmp_path)


def values(count: int) -> list[Array]:
    return [row(float(value)) for value in np.random.default_rng(0).random(count)]


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_answers_come_in_order_and_equal_run(opened: Open, rows: int) -> None:
    runner, inputs = opened(chain()), values(20)
    found = list(runner.stream(iter(inputs), rows=rows))
    expected = [runner.run(x) for x in inputs]
    assert [(a.exit, a.path) for a in found] == [(a.exit, a.path) for a in expected]
    np.testing.assert_allclose([a.confidence for a in found], [a.confidence for a in expected], rtol=1e-6)


@pytest.mark.parametrize("draft", [gated(), looped()])
def test_gates_and_loops_stream_as_they_run(opened: Open, draft: Draft) -> None:
    runner = opened(draft)
    size = runner.bundle.manifest.inputs[0].shape[1]
    inputs = [np.random.default_rng(k).random((1, size)).astype(np.float32) for k in range(9)]
    assert [a.path for a in runner.stream(inputs)] == [runner.run(x).path for x in inputs]


def test_an_endless_input_is_read_no_further_than_needed(opened: Open) -> None:
    read = itertools.count()
    endless = ((next(read), row(0.5))[1] for _ in itertools.count())
    answers = opened(chain()).stream(endless, rows=4)
    for _ in range(4):
        next(answers)
    assert next(read) == 4


def test_a_buffer_that_is_used_again_does_not_change_rows_that_wait(opened: Open) -> None:
    buffer = row(0.0)

    def camera() -> Iterator[Array]:
        for value in (0.1, 0.9, 0.4):
            buffer[...] = value
            yield buffer

    runner = opened(chain())
    assert [a.exit for a in runner.stream(camera())] == [runner.run(row(v)).exit for v in (0.1, 0.9, 0.4)]


def test_progress_is_told_after_every_batch(opened: Open) -> None:
    told: list[int] = []
    assert len(list(opened(chain()).stream(values(10), rows=4, progress=told.append))) == 10
    assert told == [4, 8, 10]


def test_an_empty_input_gives_no_answers(opened: Open) -> None:
    assert list(opened(chain()).stream([])) == []


def test_no_rows_at_a_time_is_refused(opened: Open) -> None:
    with pytest.raises(InputError, match=r"^rows is 0, expected 1 or more$"):
        list(opened(chain()).stream(values(2), rows=0))


def test_a_wrong_row_is_refused_after_those_before_it_are_answered(opened: Open) -> None:
    answers = opened(chain()).stream([row(0.9), row(0.9), np.zeros((1, 7), np.float32)], rows=64)
    assert [next(answers).exit, next(answers).exit] == ["exit0", "exit0"]
    with pytest.raises(InputError, match="got shape"):
        next(answers)
