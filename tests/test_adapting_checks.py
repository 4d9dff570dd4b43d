"""Bad rows are told in one line that says what to do; good ones pass without a word."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from single_exit import answers, digits_network

import eetoolkit as ee
from eetoolkit.adapting.checks import check_rows, check_task, enough_for, in_another_order, recognise
from eetoolkit.adapting.rows import Rows

DRAW = np.random.default_rng(0)
LOGITS = DRAW.normal(size=(600, 4)).astype(np.float32)
OF_CLASSES = LOGITS.argmax(1)


def rows(x: Any, y: Any = None) -> Rows:
    return Rows({"image": np.asarray(x, np.float32)}, None if y is None else np.asarray(y), {"image": 0})


def digits(change: Callable[[Any, Any], tuple[Any, Any]] = lambda x, y: (x, y)) -> tuple[str, ...]:
    """Returns what is remarked on of the digits, changed."""
    _, (x, y) = digits_network()
    x, y = change(x, y)
    return check_rows(rows(x, y), answers(x), lambda inputs: answers(inputs["image"]))


def test_the_network_of_these_tests_is_trained_and_not_perfect() -> None:
    _, (x, y) = digits_network()
    assert 0.95 < (answers(x).argmax(1) == y).mean() < 0.999


def test_good_rows_pass_without_a_word() -> None:
    assert digits() == ()
    assert digits(lambda x, _: (x, None)) == ()


TASKS: dict[str, tuple[Any, Any, str]] = {
    "logits": (LOGITS, None, "classes"),
    "logits and classes": (LOGITS, OF_CLASSES, "classes"),
    "probabilities": (np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True), None, "classes"),
    "one column for each class": (LOGITS, np.eye(4)[OF_CLASSES], "classes"),
    "sigmoids": (1 / (1 + np.exp(-LOGITS)), None, "several classes"),
    "several labels": (LOGITS, (LOGITS > 0).astype(int), "several classes"),
    "one score": (LOGITS[:, :1], OF_CLASSES % 2, "score"),
    "one score without a dimension": (LOGITS[:, 0], None, "score"),
    "a value": (LOGITS[:, :1], LOGITS[:, 1], "values"),
    "counts": (LOGITS[:, :1], OF_CLASSES, "values"),
    "several values": (LOGITS, LOGITS + 1, "values"),
    "pixels": (LOGITS.reshape(6, 4, 10, 10), None, "dense"),
    "tokens": (LOGITS.reshape(100, 6, 4), OF_CLASSES.reshape(100, 6), "dense"),
}


@pytest.mark.parametrize("task", TASKS)
def test_the_task_is_seen_from_output_and_labels(task: str) -> None:
    outputs, labels, expected = TASKS[task]
    assert recognise(outputs, labels) == expected


@pytest.mark.parametrize("task", [name for name, (_, _, kind) in TASKS.items() if kind != "classes"])
def test_another_task_than_classes_is_refused_with_what_to_do(task: str) -> None:
    outputs, labels, _ = TASKS[task]
    with pytest.raises(ee.ExportError, match=r"the network's output, float32\[|float64\[") as found:
        check_task(outputs, labels)
    assert "return two logits" in str(found.value) or "ee.attach_exits" in str(found.value)


def few(count: int) -> Callable[[], Any]:
    return lambda: digits(lambda x, y: (x[:count], y[:count]))


def pixels(x: Any, y: Any) -> tuple[Any, Any]:
    return np.round(255 * x), y


REFUSED: dict[str, tuple[Callable[[], Any], type[ee.EEToolkitError], str]] = {
    "too few rows": (few(99), ee.InputError, "^99 rows are too few: .*; 500 would do$"),
    "one class": (
        lambda: digits(lambda x, y: (x, np.zeros_like(y))),
        ee.TuneError,
        "all 720 labels are 0: figures of one class say nothing",
    ),
    "no such class": (
        lambda: digits(lambda x, y: (x, np.where(y == 9, 12, y))),
        ee.TuneError,
        r"^label 12 of row \d+ is no class; expected 0 to 9$",
    ),
    "classes from one": (
        lambda: digits(lambda x, y: (x, y + 1)),
        ee.TuneError,
        "^label 10 of row .* expected 0 to 9; they seem to be counted from 1: labels - 1",
    ),
    "one column for each class": (
        lambda: digits(lambda x, y: (x, np.eye(10)[y])),
        ee.TuneError,
        r"one column for each class; convert them: labels.argmax\(1\)",
    ),
    "a column": (lambda: digits(lambda x, y: (x, y[:, None])), ee.TuneError, r"convert them: labels.reshape\(-1\)"),
    "floats": (lambda: digits(lambda x, y: (x, y * 1.0)), ee.TuneError, r"convert them: labels.astype\('int64'\)"),
    "labels of other rows": (
        lambda: digits(lambda x, y: (x, DRAW.permutation(y))),
        ee.TuneError,
        "^the network is right for .* of 720 rows, no more than by guessing among 10 classes: do they belong to these",
    ),
    "labels in another order": (
        lambda: digits(lambda x, y: (x, (y + 3) % 10)),
        ee.TuneError,
        "guessing among 10 classes: are the labels in the network's order. label 0 is mostly its class 7.* and 7 more;",
    ),
    "unscaled pixels": (
        lambda: digits(pixels),
        ee.InputError,
        "^input 'image' is not scaled as in training: .* of 256 rows, and for 2[45]. divided by 255; scale all rows so",
    ),
    "NaN": (
        lambda: digits(lambda x, y: (np.where(np.arange(720)[:, None, None, None] == 5, np.nan, x), y)),
        ee.InputError,
        "^the network answers NaN or infinity for 1 rows, first row 5, whose input 'image' holds NaN or infinity",
    ),
    "NaN of the network itself": (
        lambda: check_rows(rows(np.zeros((600, 2))), np.full((600, 4), np.nan)),
        ee.InputError,
        "for 600 rows, first row 0, whose inputs are finite; look at the network",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_rows_are_refused_in_one_line(case: str) -> None:
    call, kind, said = REFUSED[case]
    with pytest.raises(kind, match=said):
        call()


def test_pixels_between_0_and_1_are_told_where_the_network_takes_255() -> None:
    _, (x, y) = digits_network()
    small = lambda images: answers(images / 255)  # noqa: E731 - a network trained on pixels of 0 to 255
    with pytest.raises(ee.InputError, match=r"for 2[45]. times 255; scale all rows so"):
        check_rows(rows(x / x.max(), y), small(x), lambda inputs: small(inputs["image"]))
    assert check_rows(rows(255 * x, y), small(255 * x), lambda inputs: small(inputs["image"])) == ()


def test_pixels_are_not_blamed_where_others_bring_nothing() -> None:
    _, (x, y) = digits_network()
    noisy = np.where(np.arange(720) % 3 > 0, y, (y + 1) % 10)
    assert check_rows(rows(x, noisy), answers(x), lambda inputs: answers(inputs["image"])) == ()


def test_two_classes_that_are_exchanged_are_remarked_on() -> None:
    (found,) = digits(lambda x, y: (x, np.where(y == 3, 5, np.where(y == 5, 3, y))))
    assert found.startswith("are the labels in the network's order? label 3 is mostly its class 5, label 5 is mostly")


def test_no_order_is_blamed_for_labels_of_few_rows_or_for_a_weak_network() -> None:
    y = np.arange(40) % 4
    assert list(in_another_order((y + 1) % 4, y, 4)) == []  # 80 rows would tell
    weak = np.where(DRAW.uniform(size=800) < 0.4, np.arange(800) % 4, DRAW.integers(0, 4, 800))
    assert list(in_another_order(weak, np.arange(800) % 4, 4)) == []


def test_rows_that_the_network_may_have_been_trained_on_are_remarked_on() -> None:
    (found,) = check_rows(rows(np.zeros((600, 2)), OF_CLASSES), LOGITS)
    assert found.startswith("the network is right for all 600 rows: if it was trained on them, the figures flatter it")


def test_few_rows_are_remarked_on() -> None:
    found = digits(lambda x, y: (x[:200], y[:200]))
    assert found[0] == "200 rows are few for 10 classes: 500 would fit better heads"
    assert enough_for(100) == 2000


def test_missing_values_that_the_network_takes_are_remarked_on() -> None:
    x = np.where(np.arange(1200).reshape(600, 2) == 3, np.nan, 0)
    found = check_rows(rows(x), LOGITS)
    assert found == (
        "input 'image' holds NaN or infinity, and the network answers: heads are fitted on these rows too",
    )
