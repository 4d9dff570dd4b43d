"""The user's rows in parts: how many each gets, which forms they come in, and rows of another scale."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from plans import Draft, chain, leave, recorded
from torch.utils.data import DataLoader, TensorDataset

import eetoolkit as ee
from eetoolkit.quantizing.rows import Part, Parts, check_scale, read_parts, saturation
from eetoolkit.zoo.digits import digits
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.plan.types import Preprocess

DRAW = np.random.default_rng(0)
X = DRAW.uniform(size=(300, 4)).astype(np.float32)
Y = np.arange(300) % 3


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ee.Bundle:
    """A chain without golden samples."""
    return ee.load(chain(0.5).save(tmp_path_factory.mktemp("rows") / "chain.ee"))


def stacked(part: Part) -> Array:
    return np.concatenate([row[0] for row in part.rows])


def places(parts: Parts, name: str) -> list[int]:
    """Returns the rows of `X` that a part has."""
    part = getattr(parts, name)
    return [int(np.flatnonzero((row == X).all(axis=1))[0]) for row in stacked(part)]


FORMS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "arrays": lambda: (X, Y),
    "a mapping": lambda: ({"x": X, "labels": Y}, None),
    "pairs": lambda: (list(zip(X, Y.tolist(), strict=True)), None),
    "a stream of pairs": lambda: (zip(X, Y, strict=True), None),
    "a DataLoader": lambda: (DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), batch_size=7), None),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_disjoint_parts_with_their_labels(form: str, bundle: ee.Bundle) -> None:
    data, labels = FORMS[form]()
    parts = read_parts(bundle, data, labels, max_disagreement=0.05, tune=True, seed=3)
    right = read_parts(bundle, X, Y, max_disagreement=0.05, tune=True, seed=3)
    every = []
    for name in parts.counts:
        part, same = getattr(parts, name), getattr(right, name)
        np.testing.assert_array_equal(stacked(part), stacked(same))
        assert part.rows[0][0].shape == (1, 4)
        assert part.labels is not None
        np.testing.assert_array_equal(part.labels, Y[places(parts, name)])
        every += places(parts, name)
    assert len(set(every)) == len(every) == 300
    assert parts.counts == {"calibrate": 64, "choose": 130, "report": 53, "tune": 53}


def test_every_part_has_its_share_of_each_label_and_the_seed_says_which_rows(bundle: ee.Bundle) -> None:
    labels = np.repeat([0, 1, 2], [200, 70, 30])
    parts = read_parts(bundle, X, labels, max_disagreement=0.02)
    for part in (parts.calibrate, parts.choose, parts.report):
        assert part.labels is not None
        np.testing.assert_allclose(np.bincount(part.labels), len(part) * np.array([200, 70, 30]) / 300, atol=2.5)
    again = read_parts(bundle, X, labels, max_disagreement=0.02)
    other = read_parts(bundle, X, labels, max_disagreement=0.02, seed=1)
    assert places(parts, "report") == places(again, "report") != places(other, "report")
    assert read_parts(bundle, X, max_disagreement=0.02).report.labels is None


def test_of_many_rows_a_fair_sample_is_kept_and_no_batch_with_it(bundle: ee.Bundle) -> None:
    count = 20_000
    x = np.zeros((count, 4), np.float32)
    x[:, 0] = np.arange(count)
    parts = read_parts(bundle, ((x[s : s + 100], x[s : s + 100, 0].astype(int) % 3) for s in range(0, count, 100)),
                       max_disagreement=0.01)  # fmt: skip
    assert parts.counts == {"calibrate": 200, "choose": 1000, "report": 2000}
    seen = np.concatenate([stacked(part)[:, 0] for part in (parts.calibrate, parts.choose, parts.report)])
    assert len(set(seen.tolist())) == 3200
    assert np.histogram(seen, 4, (0, count))[0] == pytest.approx([800] * 4, abs=110)
    np.testing.assert_array_equal(parts.report.labels, stacked(parts.report)[:, 0] % 3)  # type: ignore[arg-type]
    assert all(row[0].base is None for row in parts.report.rows)
    assert read_parts(bundle, x, max_disagreement=1e-3).counts["choose"] == 1000


TOO_FEW = {
    (
        219,
        0.01,
        False,
    ): "219 rows are too few, expected at least 220: 20 to calibrate, 100 to choose and 100 to "
    "report, by which a disagreement of 0.01 can be seen; pass more, or a larger max_disagreement",
    (94, 0.04, True): "94 rows are too few, .* 95: 20 to calibrate, 25 to choose, 25 to report and 25 to tune, by",
    (29, 1.0, False): "29 rows are too few, expected at least 30: 20 to calibrate, 5 to choose and 5 to report",
}


@pytest.mark.parametrize("case", TOO_FEW)
def test_too_few_rows_are_told(case: tuple[int, float, bool], bundle: ee.Bundle) -> None:
    rows, bound, tune = case
    with pytest.raises(ee.InputError, match=f"^{TOO_FEW[case]}"):
        read_parts(bundle, X[:rows], Y[:rows], max_disagreement=bound, tune=tune)
    enough = read_parts(bundle, X[: rows + 1], Y[: rows + 1], max_disagreement=bound, tune=tune)
    assert sum(enough.counts.values()) == rows + 1


def test_other_bad_rows_are_told(bundle: ee.Bundle, tmp_path: Path) -> None:
    for data, labels, said in (
        (X[:, :3], Y, r"input 'x': got shape \[300, 3\], expected x: float32\[batch, 4\]"),
        (X, Y[:9], r"labels have shape \[9\], expected one for each of 300 rows"),
        ([(X, Y), X], None, "has no label, others have"),
        ([], None, "no rows: the data are empty"),
        (X, np.array(["cat"] * 300), "labels are texts, such as 'cat': pass integers"),
        (tmp_path / "none.npz", None, "none.npz does not exist"),
    ):
        with pytest.raises(ee.InputError, match=said):
            read_parts(bundle, data, labels, max_disagreement=0.1)
    with pytest.raises(ee.InputError, match="the rows have no labels, which tuning takes; pass labels, or leave out"):
        read_parts(bundle, X, max_disagreement=0.1, tune=True)


def test_files_are_read(bundle: ee.Bundle, tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=X, labels=Y)
    parts = read_parts(bundle, tmp_path / "rows.npz", max_disagreement=0.1)
    np.testing.assert_array_equal(parts.choose.labels, Y[places(parts, "choose")])  # type: ignore[arg-type]
    np.save(tmp_path / "rows.npy", X)
    beside = read_parts(bundle, tmp_path / "rows.npy", Y, max_disagreement=0.1)
    np.testing.assert_array_equal(beside.choose.labels, parts.choose.labels)  # type: ignore[arg-type]


def test_rows_of_several_lengths_keep_them(tmp_path: Path) -> None:
    draft = Draft({"ids": ("int64", ("batch", "length"))})
    draft.slot("sure", shape=("batch",))
    draft.slot("logits", shape=("batch", "length"))
    draft.segment(
        "only",
        """
        logits = Cast<to = 1>(ids)
        axis = Constant<value_ints = [1]>()
        sure = ReduceMax<keepdims = 0>(logits, axis)
        """,
        reads=["ids"], writes=["logits", "sure"], exit=leave("last", "logits", "sure"),
    )  # fmt: skip
    bundle = ee.load(draft.save(tmp_path / "ids.ee"))
    batches = [DRAW.integers(0, 9, (10, length)) for length in range(3, 9)]
    told: list[tuple[str, int, int]] = []
    parts = read_parts(bundle, batches, max_disagreement=0.1, progress=lambda *each: told.append(each))
    lengths = {row[0].shape for part in (parts.calibrate, parts.choose, parts.report) for row in part.rows}
    assert lengths == {(1, length) for length in range(3, 9)}
    assert told[-1] == ("reading rows", 60, 0)


def test_labels_that_are_no_classes_are_refused_without_tuning_too(bundle: ee.Bundle) -> None:
    with pytest.raises(ee.TuneError, match=r"^label -1 of row 0 is no class"):
        read_parts(bundle, X, Y - 1, max_disagreement=0.05)
    assert read_parts(bundle, X, Y - 0.5, max_disagreement=0.05).notes == ()


def test_rows_with_nan_are_told(bundle: ee.Bundle) -> None:
    x = X.copy()
    x[[3, 7], 1] = np.nan
    told = "input 'x': 2 of 300 rows hold NaN; look at them, or leave them out"
    assert read_parts(bundle, x, Y, max_disagreement=0.05).notes == (told,)


PLAN = chain(0.5).plan()


def rows_of(values: Any) -> list[tuple[Array, ...]]:
    return [(np.asarray(value, np.float32)[None],) for value in values]


def digit_rows() -> Array:
    return np.asarray(digits("validation").images / 16, np.float32)


def draws(name: str, count: int, seed: int) -> Array:
    draw = np.random.default_rng(seed)
    shape = (count, 64)
    return {
        "normal": lambda: draw.normal(size=shape),
        "heavy tails": lambda: draw.standard_t(2, size=shape),
        "positive and skewed": lambda: draw.lognormal(0, 1.5, shape),
        "of many loudnesses": lambda: draw.normal(size=shape) * draw.lognormal(0, 2, (count, 1)),
        "sparse": lambda: draw.poisson(0.1, shape),
    }[name]()


@pytest.mark.parametrize("golden", [1, 8])
@pytest.mark.parametrize("name", ["normal", "heavy tails", "positive and skewed", "sparse", "of many loudnesses"])
def test_ordinary_rows_pass_beside_golden_ones_of_their_kind(name: str, golden: int) -> None:
    for seed in range(20):
        notes = check_scale(PLAN, rows_of(draws(name, golden, seed)), rows_of(draws(name, 50, 1000 + seed)))
        assert not notes or name == "of many loudnesses"  # of which one may be silent


def test_digits_pass_and_as_pixels_are_refused() -> None:
    x = digit_rows()
    assert x.max() <= 1
    for first in range(8):
        assert check_scale(PLAN, rows_of(x[first : first + 1]), rows_of(x[100:200])) == ()
    said = "^input 'x': values are 0 to 16, the golden samples' 0 to 1; scale them as in training; if they are right, "
    said += "export with real rows as `golden_inputs`$"
    for scale, golden in ((16, 8), (255, 1)):
        with pytest.raises(ee.InputError, match=said.replace("16", str(scale))):
            check_scale(PLAN, rows_of(x[:golden]), rows_of(x[100:200] * scale))
    normalised = (x - 0.5) / 0.25
    with pytest.raises(ee.InputError, match="scale them as in training"):
        check_scale(PLAN, rows_of(normalised[:1]), rows_of(x[100:200] * 255))


def test_milder_differences_are_noted() -> None:
    x = digit_rows()[:60]
    drawn = np.random.default_rng(0).random((1, *x.shape[1:]))  # as an example made up for the export
    (note,) = check_scale(PLAN, rows_of(drawn), rows_of((x - 0.3) / 0.15))
    assert note.startswith("input 'x': values are -2 to 4.667, the golden samples' ")
    assert note.endswith("; scale them as in training if they are of another scale")
    (note,) = check_scale(PLAN, rows_of(x[:8] * 255), rows_of(x))
    assert "values are 0 to 1, the golden samples' 0 to 255" in note


def test_pixels_may_come_as_such_where_the_bundle_scales_them() -> None:
    plan = msgspec.structs.replace(PLAN, preprocess={"x": Preprocess(layout="NHWC", resize=(2, 2))})
    with pytest.raises(ee.InputError, match="scale them as in training, or pass pixels as uint8; if they are right"):
        check_scale(plan, rows_of(X[:1]), rows_of(X[:50] * 255))


def test_what_has_no_scale_is_not_judged() -> None:
    rows = rows_of(np.full((30, 4), 255.0))
    assert check_scale(PLAN, [], rows) == ()
    assert check_scale(PLAN, rows_of(np.ones((1, 4))), rows) == ()  # a constant has no width
    assert check_scale(PLAN, rows_of(np.full((1, 4), np.nan)), rows) == ()
    ids = Draft({"ids": ("int64", ("batch", 4))}).inputs
    plan = chain(0.5)
    plan.inputs = ids
    far = [(np.full((1, 4), 30_000),) for _ in range(30)]
    assert check_scale(plan.plan(), [(np.arange(4)[None],)], far) == ()


def test_the_bundle_is_judged_by_its_own_samples(tmp_path: Path) -> None:
    draft = chain(0.5)
    plain = ee.load(draft.save(tmp_path / "plain.ee"))
    with ee.Runner(plain, threads=1) as runner:
        draft.samples = [recorded(runner, X[:1])]
    own = ee.load(draft.save(tmp_path / "own.ee"))
    assert read_parts(own, X, max_disagreement=0.1).notes == ()
    with pytest.raises(
        ee.InputError, match=r"values are 1[.]575 to 254[.]9, .*scale them as in training; if they are right"
    ):
        read_parts(own, X * 255, max_disagreement=0.1)
    assert len(read_parts(own, X + 1.9, max_disagreement=0.1).notes) == 1


def test_saturation_is_the_share_outside_the_calibrated_range() -> None:
    assert saturation(-1, 2, [-1.5, -1, 0, 2, 2.5, np.nan]) == 0.5
    assert saturation(0, 1, X) == 0
