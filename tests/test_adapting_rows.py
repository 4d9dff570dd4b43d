"""The user's rows: every form gives the same arrays, and what cannot be rows is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import eetoolkit as ee
from eetoolkit.adapting.example import draw_example
from eetoolkit.adapting.rows import NetworkInputs, read_rows
from eetoolkit.reading.images import ImageOptions
from eetoolkit.reading.labelled import LabelledPath, class_names
from eetoolkit.reading.samples import read_samples
from eetoolkit_exporters.attaching.part import inputs_of
from eetoolkit_exporters.capturing.capture import capture
from eetoolkit_exporters.capturing.torch_source import TorchSource
from eetoolkit_runtime.plan.types import Preprocess, TensorSpec

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(7, 3, 4)).astype(np.float32)
Y = np.arange(7) % 3
IDS = DRAW.integers(0, 9, (7, 5))
MASK = np.ones((7, 5), np.int64)
ONE = NetworkInputs((TensorSpec(name="x", dtype="float32", shape=("batch", 3, 4)),))
TWO = NetworkInputs(
    tuple(TensorSpec(name=name, dtype="int64", shape=("batch", "length")) for name in ("ids", "mask")),
)


def tensors(*arrays: Any) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(array) for array in arrays)


def loader(*arrays: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*tensors(*arrays)), batch_size=3)


def by_name(batch_size: int) -> list[dict[str, Any]]:
    starts = range(0, 7, batch_size)
    return [
        dict(zip(("ids", "mask", "labels"), tensors(*(a[s : s + batch_size] for a in (IDS, MASK, Y))), strict=True))
        for s in starts
    ]


ONE_INPUT: dict[str, Callable[[], tuple[Any, Any]]] = {
    "arrays": lambda: (X, Y),
    "tensors": lambda: tensors(X, Y),
    "a mapping": lambda: ({"x": X}, Y),
    "a mapping with labels": lambda: ({"x": X, "labels": Y}, None),
    "a mapping under another name": lambda: ({"image": X, "labels": Y}, None),
    "a tuple": lambda: ((X,), list(Y)),
    "pairs with rows": lambda: ([(x[None], y) for x, y in zip(X, Y, strict=True)], None),
    "pairs without rows": lambda: ([(x, int(y)) for x, y in zip(X, Y, strict=True)], None),
    "an iterator of pairs": lambda: (((x[None], y) for x, y in zip(X, Y, strict=True)), None),
    "a data set of torch": lambda: (TensorDataset(*tensors(X, Y)), None),
    "a DataLoader": lambda: (loader(X, Y), None),
}


@pytest.mark.parametrize("form", ONE_INPUT)
def test_every_form_of_one_input_gives_the_same_rows(form: str) -> None:
    rows = read_rows(ONE, *ONE_INPUT[form]())
    assert len(rows) == 7
    np.testing.assert_array_equal(rows.inputs["x"], X)
    np.testing.assert_array_equal(rows.labels, Y)  # type: ignore[arg-type]


TWO_INPUTS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "a tuple": lambda: ((IDS, MASK), Y),
    "a mapping": lambda: ({"mask": MASK, "ids": IDS}, Y),
    "pairs of a tuple": lambda: ([((i[None], m[None]), y) for i, m, y in zip(IDS, MASK, Y, strict=True)], None),
    "pairs of a mapping": lambda: ([({"ids": i, "mask": m}, y) for i, m, y in zip(IDS, MASK, Y, strict=True)], None),
    "a DataLoader": lambda: (loader(IDS, MASK, Y), None),
    "batches by name": lambda: (by_name(3), None),
    "batches by name, the last of one row": lambda: (by_name(2), None),
}


@pytest.mark.parametrize("form", TWO_INPUTS)
def test_every_form_of_two_inputs_gives_the_same_rows(form: str) -> None:
    rows = read_rows(TWO, *TWO_INPUTS[form]())
    np.testing.assert_array_equal(rows.inputs["ids"], IDS)
    np.testing.assert_array_equal(rows.inputs["mask"], MASK)
    np.testing.assert_array_equal(rows.labels, Y)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data", [X, (X,), {"x": X}, [X[:4], X[4:]], loader(X), [x[None] for x in X]], ids=lambda data: type(data).__name__
)
def test_rows_may_come_without_labels(data: Any) -> None:
    rows = read_rows(ONE, data)
    assert rows.labels is None
    np.testing.assert_array_equal(rows.inputs["x"], X)


def test_two_inputs_may_come_without_labels() -> None:
    assert read_rows(TWO, (IDS, MASK)).labels is None
    assert read_rows(TWO, loader(IDS, MASK)).labels is None


LABELS: dict[str, tuple[Any, Any]] = {
    "several of a row": ((np.arange(21) % 2).reshape(7, 3), None),
    "one for every pixel": (np.arange(84).reshape(7, 3, 4), None),
    "values": (np.linspace(0, 1, 7), None),
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("batch", [1, 3])
def test_labels_of_any_shape_are_one_for_each_row(kind: str, batch: int) -> None:
    right = LABELS[kind][0]
    parts = [(X[s : s + batch], right[s : s + batch]) for s in range(0, 7, batch)]
    np.testing.assert_array_equal(read_rows(ONE, parts).labels, right)  # type: ignore[arg-type]
    np.testing.assert_array_equal(read_rows(ONE, X, right).labels, right)  # type: ignore[arg-type]


def test_names_of_classes_become_their_numbers() -> None:
    plan = NetworkInputs(ONE.inputs, labels=("cat", "dog", "bee"))
    texts = np.array(plan.labels)[Y]
    np.testing.assert_array_equal(read_rows(plan, X, texts).labels, Y)  # type: ignore[arg-type]
    np.testing.assert_array_equal(read_rows(plan, list(zip(X, texts, strict=True))).labels, Y)  # type: ignore[arg-type]
    with pytest.raises(ee.InputError, match="label 'dogs' is no class; these are cat, dog, bee; did you mean 'dog'"):
        read_rows(plan, X[:1], ["dogs"])
    with pytest.raises(ee.InputError, match="labels are texts, such as 'cat': pass integers, or the classes' names"):
        read_rows(ONE, X, texts)


@pytest.mark.parametrize("axis", [0, 1])
def test_many_rows_lie_on_disk_and_leave_nothing_behind(tmp_path: Path, axis: int) -> None:
    shape = ("batch", 3, 4) if axis == 0 else (3, "batch", 4)
    plan = NetworkInputs((TensorSpec(name="x", dtype="float32", shape=shape),))
    parts = [np.moveaxis(X[s : s + 2], 0, axis) for s in range(0, 7, 2)]
    rows = read_rows(plan, iter(parts), folder=tmp_path / "new", in_memory=100)
    assert isinstance(rows.inputs["x"].base, np.memmap)
    np.testing.assert_array_equal(rows.inputs["x"], np.moveaxis(X, 0, axis))
    np.testing.assert_array_equal(rows.take([5, 0]).inputs["x"], np.moveaxis(X[[5, 0]], 0, axis))
    assert list((tmp_path / "new").iterdir()) == []
    assert not isinstance(read_rows(plan, iter(parts), folder=tmp_path).inputs["x"].base, np.memmap)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ee.InputError, match=r"too many for memory, and cannot be kept in .*file: File exists"):
        read_rows(ONE, [X[:3], X[3:]], folder=tmp_path / "file", in_memory=0)


def test_some_rows_are_taken_with_their_labels() -> None:
    rows = read_rows(ONE, X, Y)
    some = rows.take([4, 1])
    np.testing.assert_array_equal(some.inputs["x"], X[[4, 1]])
    np.testing.assert_array_equal(some.labels, Y[[4, 1]])  # type: ignore[arg-type]
    assert len(rows.take(slice(2, 5))) == 3


def test_class_folders_and_files_are_read_for_a_network_that_is_no_bundle_yet(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    own = {"x": Preprocess(layout="NHWC", resize=(2, 2), scale=0.5)}
    plan = NetworkInputs((TensorSpec(name="x", dtype="float32", shape=("batch", 2, 2, 1)),), preprocess=own)
    for name, value in (("cat", 10), ("bee", 4)):
        (tmp_path / "data" / name).mkdir(parents=True)
        image.fromarray(np.full((2, 2), value, np.uint8)).save(tmp_path / "data" / name / "0.png")
    rows = read_rows(plan, tmp_path / "data")
    assert rows.inputs["x"].max(axis=(1, 2, 3)).tolist() == [2, 5]  # in order of names: bee, cat
    assert rows.labels is not None
    assert rows.labels.tolist() == [0, 1]
    np.savez(tmp_path / "data.npz", x=X, labels=Y)
    np.testing.assert_array_equal(read_rows(ONE, tmp_path / "data.npz").inputs["x"], X)


def test_what_is_said_beside_a_path_holds_for_it_and_for_the_bundle(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    plan = NetworkInputs((TensorSpec(name="x", dtype="float32", shape=("batch", 2, 2, 1)),))
    for name, value in (("cat", 10), ("bee", 4)):
        (tmp_path / name).mkdir()
        image.fromarray(np.full((2, 2), value, np.uint8)).save(tmp_path / name / "0.png")
    said = {"x": {"layout": "NHWC", "resize": [2, 2], "scale": 0.5}}
    rows = read_rows(plan, LabelledPath(str(tmp_path), ImageOptions(scale=1.0), said, ["cat", "bee"]))
    assert rows.inputs["x"].max(axis=(1, 2, 3)).tolist() == [4, 10]  # in order of folders
    assert rows.labels is not None
    assert rows.labels.tolist() == [1, 0]
    assert rows.take([0]).preprocess == {"x": Preprocess(layout="NHWC", resize=(2, 2), scale=1.0)}
    assert read_rows(ONE, X, Y).preprocess == {}
    with pytest.raises(ee.InputError, match=r"^preprocess: .*resize"):
        read_rows(plan, LabelledPath(str(tmp_path), ImageOptions(), {"x": {"layout": "NHWC"}}))


def test_a_folder_that_lacks_classes_is_numbered_by_the_names_of_another(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for folder, names in {"train": ("cat", "ant", "bee"), "test": ("cat", "bee")}.items():
        for name in names:
            (tmp_path / folder / name).mkdir(parents=True)
            image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / folder / name / "0.png")
    (tmp_path / "train" / "notes.txt").write_text("no class")
    assert class_names(tmp_path / "train") == ("ant", "bee", "cat")
    assert class_names(tmp_path / "train" / "notes.txt") is None
    way = {"x": Preprocess(layout="NHWC", resize=(2, 2))}
    plan = NetworkInputs((TensorSpec(name="x", dtype="float32", shape=("batch", 2, 2, 1)),), preprocess=way)
    rows = read_rows(plan, LabelledPath(str(tmp_path / "test"), labels=class_names(tmp_path / "train")))
    assert rows.labels is not None
    assert rows.labels.tolist() == [1, 2]
    with pytest.raises(ee.InputError, match="'ant' is no class; these are bee, cat"):
        read_rows(plan, LabelledPath(str(tmp_path / "train"), labels=class_names(tmp_path / "test")))


def test_files_may_have_no_labels(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "x.npz", image=X)
    for name in ("x.npy", "x.npz"):
        rows = read_rows(ONE, tmp_path / name)
        assert rows.labels is None
        np.testing.assert_array_equal(rows.inputs["x"], X)


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "nothing": (lambda: read_rows(ONE, []), "no rows: the data are empty"),
    "a number": (lambda: read_rows(ONE, 5), "the data are 5, expected inputs beside labels, or pairs of both"),
    "another shape": (lambda: read_rows(ONE, X[:, :2], Y), r"input 'x': got shape \[7, 2, 4\], expected x: float32"),
    "pixels": (lambda: read_rows(ONE, X.astype(np.uint8), Y), "got dtype uint8, .* scale it as in training"),
    "a shape that changes": (
        lambda: read_rows(TWO, [((IDS, MASK), Y), ((IDS[:, :3], MASK[:, :3]), Y)]),
        r"input 'ids': row 7 has shape \[3\], those before it \[5\]; give all rows one shape: pad or resize them",
    ),
    "labels too few": (lambda: read_rows(ONE, X, Y[:5]), r"labels have shape \[5\], expected one for each of 7 rows"),
    "labels of a batch": (
        lambda: read_rows(ONE, [(X, Y), (X, Y[:5])]),
        r"sample 1: labels have shape \[5\], expected one for each of 7 rows",
    ),
    "labels for some": (lambda: read_rows(ONE, [(X, Y), X]), "sample 1 has no label, others have"),
    "labels of two shapes": (
        lambda: read_rows(ONE, [(X, Y), (X, X)]),
        r"labels have shapes \[\] and \[3, 4\] for a row; expected one shape",
    ),
    "no path": (lambda: read_rows(ONE, "nowhere.npz"), "nowhere.npz does not exist"),
    "no rows counted": (
        lambda: read_rows(NetworkInputs((TensorSpec(name="x", dtype="float32", shape=(3, 4)),)), X[0]),
        r"input 'x' has shape \[3, 4\] and counts no rows",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_rows_is_told(case: str) -> None:
    call, said = BAD[case]
    with pytest.raises(ee.InputError, match=said):
        call()


def test_progress_counts_rows() -> None:
    told: list[tuple[str, int, int]] = []
    read_rows(ONE, loader(X, Y), progress=lambda *each: told.append(each))
    assert told == [("reading rows", 3, 7), ("reading rows", 6, 7), ("reading rows", 7, 7)]
    told.clear()
    read_rows(ONE, [(X, Y)], progress=lambda *each: told.append(each))  # a list of one batch has no number of rows
    assert told == [("reading rows", 7, 0)]


def test_the_names_of_a_captured_network_are_those_that_rows_have() -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)).eval()
    network = capture(TorchSource(net, X[:1], ["x"]), {"output": {"logits": "output"}})
    assert inputs_of(network).inputs == ONE.inputs


FIRST: dict[str, tuple[Any, Any, Any]] = {
    "an array": (X, None, X[:1]),
    "a tuple": ((IDS, MASK), None, (IDS[:1], MASK[:1])),
    "a mapping": ({"ids": IDS, "labels": Y}, None, {"ids": IDS[:1]}),
    "a DataLoader": (loader(X, Y), None, X[:1]),
    "a DataLoader of two inputs": (loader(IDS, MASK, Y), None, (IDS[:1], MASK[:1])),
    "a DataLoader without labels": (loader(X), None, X[:1]),
    "pairs with rows": ([(X[0, 0][None], 2)], None, X[0, 0][None]),
    "pairs without rows": ([(X[0], 2)], None, X[:1]),
    "a data set of torch": (TensorDataset(*tensors(X, Y)), None, X[:1]),
    "pairs of mappings": ([({"ids": IDS[0]}, 2)], None, {"ids": IDS[:1]}),
}


@pytest.mark.parametrize("form", FIRST)
def test_the_first_row_is_an_example(form: str) -> None:
    data, labels, expected = FIRST[form]
    found, _ = draw_example(data, labels)
    torch.testing.assert_close(_plain(found), _plain(expected))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: np.asarray(each) for name, each in value.items()}
    return tuple(map(np.asarray, value)) if isinstance(value, tuple) else np.asarray(value)


def test_an_iterator_loses_nothing_by_it() -> None:
    example, data = draw_example((x[None, None], y) for x, y in zip(X, Y, strict=True))
    assert example.shape == (1, 1, 3, 4)
    plan = NetworkInputs((TensorSpec(name="x", dtype="float32", shape=("batch", 1, 3, 4)),))
    assert len(read_rows(plan, data)) == 7


def test_a_grey_picture_that_may_be_a_row_asks_for_an_example() -> None:
    with pytest.raises(ee.InputError, match=r"shape \[1, 8, 8\] and one label, and its 1 may count rows or channels"):
        draw_example([(np.zeros((1, 8, 8)), 3)])
    with pytest.raises(ee.InputError, match="the data are a str, which does not show a row: pass example_inputs"):
        draw_example("train/")
    with pytest.raises(ee.InputError, match="no rows"):
        draw_example([])


def test_tuning_takes_the_same_forms(tmp_path: Path) -> None:
    from plans import chain

    from eetoolkit.tuning.collect import collect

    bundle = ee.load(chain(0.5).save(tmp_path / "it.ee"))
    x, y = DRAW.uniform(size=(7, 4)).astype(np.float32), np.arange(7) % 4
    whole = collect(bundle, x, y, threads=1)
    for data in (loader(x, y), list(zip(x, y, strict=True)), {"x": x, "labels": y}):
        found = collect(bundle, data, threads=1)
        np.testing.assert_array_equal(found.digest, whole.digest)
        np.testing.assert_array_equal(found.confidence, whole.confidence)
    assert read_samples(bundle.manifest, loader(x, y))[0] == 7
