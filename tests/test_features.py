"""One pass over the rows: what it keeps on disk, and what it does not run again."""

from __future__ import annotations

import os
import time
from collections import Counter, namedtuple
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import eetoolkit as ee
from eetoolkit_exporters.attaching import features as module
from eetoolkit_exporters.attaching import fit
from eetoolkit_exporters.attaching.attach import MultiExit
from eetoolkit_exporters.attaching.features import Features, forget_old, gather_features, remove_features
from eetoolkit_exporters.attaching.part import Part
from eetoolkit_runtime.files import lock

Array = np.ndarray[tuple[Any, ...], np.dtype[Any]]

PLACE, KIND = "h", "mean+max"
ROWS = 200  # four blocks
X = np.random.default_rng(0).normal(size=(ROWS, 6, 4)).astype(np.float32)


def attached(folder: Path, *, scale: float = 1.0) -> MultiExit:
    """Returns a network with a head behind the first of two layers over steps, and one behind the other."""
    text = f"""<ir_version: 10, opset_import: ["" : 18]>
    net (float[batch,6,4] x) => (float[batch,3] y)
    <float[4,5] a, float[5,5] b, float[5,3] c, float s = {{ {scale} }}, int64[1] steps = {{ 1 }}>
    {{
        m = MatMul (x, a)  h = Relu (m)  n = MatMul (h, b)  k = Tanh (n)  z = MatMul (k, c)  w = Mul (z, s)
        y = ReduceMean <keepdims = 0> (w, steps)
    }}"""
    model = onnx.parser.parse_model(text)
    draw = np.random.default_rng(0)
    for name, shape in {"a": (4, 5), "b": (5, 5), "c": (5, 3)}.items():
        weight = onnx.numpy_helper.from_array(draw.normal(size=shape).astype(np.float32), name)
        model.graph.initializer.append(weight)
    onnx.save(model, folder / f"net{scale}.onnx")
    return ee.attach_exits(folder / f"net{scale}.onnx", {"h": KIND, "k": "last"}, X[:1])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MultiExit:
    return attached(tmp_path_factory.mktemp("net"))


@pytest.fixture(scope="module")
def expected(model: MultiExit) -> dict[str, Array]:
    """Returns what the heads gather, by numpy from what the places hold, and the answers."""
    taps = model.taps({"x": X})
    return {
        "h": np.concatenate([taps["h"].mean(1), taps["h"].max(1)], 1),
        "k": taps["k"][:, -1],
        "final": model.source.run({"x": X})["y"],
    }


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Returns the count of rows that were run."""
    counts: Counter[str] = Counter()
    run = Part.run

    def counted(self: Part, inputs: Mapping[str, Array]) -> dict[str, Array]:
        counts["rows"] += len(inputs["x"])
        return run(self, inputs)

    monkeypatch.setattr(Part, "run", counted)
    return counts


def check(found: Features, model: MultiExit, expected: Mapping[str, Array]) -> None:
    every = np.arange(ROWS)
    np.testing.assert_allclose(found.final, expected["final"], atol=1e-5)
    for name in model.heads:
        gathered = found.of(model, name, every)
        assert gathered.dtype == np.float32
        np.testing.assert_allclose(gathered, expected[name], atol=1e-5)


def stop_at(rows: int) -> Callable[[str, int, int], None]:
    def progress(_what: str, done: int, _total: int) -> None:
        if done >= rows:
            raise KeyboardInterrupt

    return progress


def test_features_are_those_of_a_direct_run(
    model: MultiExit, expected: dict[str, Array], tmp_path: Path, ran: Counter[str]
) -> None:
    told = []
    found = gather_features(model, {"x": X}, tmp_path, progress=lambda *each: told.append(each))
    check(found, model, expected)
    assert ran["rows"] == ROWS
    assert told == [("running the network", done, ROWS) for done in (64, 128, 192, 200)]


def test_an_interrupted_pass_goes_on_where_it_was(
    model: MultiExit, expected: dict[str, Array], tmp_path: Path, ran: Counter[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        gather_features(model, {"x": X}, tmp_path, progress=stop_at(128))
    assert ran["rows"] == 128
    check(gather_features(model, {"x": X}, tmp_path), model, expected)
    assert ran["rows"] == ROWS
    check(gather_features(model, {"x": X}, tmp_path), model, expected)
    assert ran["rows"] == ROWS  # all of it is there


def test_other_rows_and_other_weights_have_a_folder_of_their_own(model: MultiExit, tmp_path: Path) -> None:
    first = gather_features(model, {"x": X}, tmp_path)
    changed = X.copy()
    changed[7, 0, 0] += 1
    others = gather_features(model, {"x": changed}, tmp_path)
    again = gather_features(attached(tmp_path, scale=2.0), {"x": X}, tmp_path)
    assert len({first.folder, others.folder, again.folder}) == 3
    np.testing.assert_allclose(again.final, 2 * first.final, rtol=1e-5)
    assert (others.final != first.final).any(1).nonzero()[0].tolist() == [7]


def test_large_features_are_kept_as_they_are(tmp_path: Path) -> None:
    model, rows = attached(tmp_path), {"x": 1e5 * X}
    found, taps = gather_features(model, rows, tmp_path), model.taps(rows)
    assert {array.dtype for array in found.parts.values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(found.parts["h", "max"], taps["h"].max(1), rtol=1e-5)


def test_two_runs_do_not_gather_to_one_folder(
    model: MultiExit, expected: dict[str, Array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_WAIT_S", 0.1)

    def second() -> None:
        with pytest.raises(ee.ExportError, match=r"features cannot be kept: .* is being written .*another `folder`"):
            gather_features(model, {"x": X}, tmp_path)

    with ThreadPoolExecutor(1) as other:
        told = lambda *_: other.submit(second).result()  # noqa: E731 - while the first has not finished
        check(gather_features(model, {"x": X}, tmp_path, progress=told), model, expected)
        assert not list(tmp_path.glob(".*"))


def lose(folder: Path) -> None:
    (folder / "part-001.npy").unlink()


def reshape(folder: Path) -> None:
    np.save(folder / "part-001.npy", np.zeros((ROWS // 2, 10), np.float32))


def cut(folder: Path) -> None:
    file = folder / "part-001.npy"
    file.write_bytes(file.read_bytes()[:-8])


@pytest.mark.parametrize("harm", [lose, reshape, cut])
@pytest.mark.parametrize("rows", [128, ROWS])
def test_a_folder_whose_arrays_are_not_as_they_were_saved_is_gathered_anew(
    harm: Callable[[Path], None], rows: int, model: MultiExit, expected: dict[str, Array], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        gather_features(model, {"x": X}, tmp_path, progress=stop_at(rows))
    (folder,) = tmp_path.iterdir()
    harm(folder)
    check(gather_features(model, {"x": X}, tmp_path), model, expected)


def test_arrays_that_are_made_anew_do_not_count_as_the_old_ones(
    model: MultiExit, expected: dict[str, Array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(gather_features(model, {"x": X}, tmp_path).folder)
    with monkeypatch.context() as patch:
        patch.setattr(module._Kept, "_save", lambda _self: None)  # as when the process is killed
        with pytest.raises(KeyboardInterrupt):
            gather_features(model, {"x": X}, tmp_path, progress=stop_at(64))
    check(gather_features(model, {"x": X}, tmp_path), model, expected)


def test_another_version_gathers_anew(model: MultiExit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = gather_features(model, {"x": X}, tmp_path)
    monkeypatch.setattr(module, "version", lambda _name: "99.0")
    assert gather_features(model, {"x": X}, tmp_path).folder != first.folder


def test_removed_features_are_gathered_anew(
    model: MultiExit, expected: dict[str, Array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = gather_features(model, {"x": X}, tmp_path).folder
    remove_features(folder)
    assert not list(tmp_path.iterdir())
    remove_features(folder)  # there is none
    gather_features(model, {"x": X}, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "rmtree", lambda *_, **__: None)  # a removal that is cut short
        remove_features(folder)
    np.save(folder / "part-001.npy", np.zeros((ROWS, 5), np.float32))
    check(gather_features(model, {"x": X}, tmp_path), model, expected)


def test_features_that_were_not_used_for_long_are_forgotten(model: MultiExit, tmp_path: Path) -> None:
    found = [gather_features(model, {"x": number * X}, tmp_path).folder for number in (1, 2, 3, 4)]
    (tmp_path / "mine").mkdir()
    long_ago = time.time() - 40 * 86400
    for folder in (*found, tmp_path / "mine"):
        if (folder / "rows-done.txt").exists():
            os.utime(folder / "rows-done.txt", (long_ago, long_ago))
        os.utime(folder, (long_ago, long_ago))
    (found[3] / "rows-done.txt").unlink()
    os.utime(found[3], (long_ago, long_ago))
    gather_features(model, {"x": 2 * X}, tmp_path)  # used again, although nothing is run
    forget_old(found[0], days=50)
    assert all(folder.exists() for folder in found)
    forget_old(found[0])
    assert {folder for folder in tmp_path.iterdir() if folder.is_dir()} == {*found[:2], tmp_path / "mine"}


def test_a_disk_without_space_is_named_before_anything_is_run_out_of(
    model: MultiExit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")  # noqa: PYI024 - as shutil's
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _folder: usage(100))
    with pytest.raises(ee.ExportError, match=r"features of 200 rows take up to 0.0 GB, .* has 0.0: pass a `folder`"):
        gather_features(model, {"x": X}, tmp_path)


def test_a_folder_that_cannot_be_made_is_named(model: MultiExit, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ee.ExportError, match=r"features cannot be kept in .*file.*: (Not a directory|File exists)"):
        gather_features(model, {"x": X}, tmp_path / "file")


def test_features_that_another_run_has_removed_are_fitted_to_all_the_same(model: MultiExit, tmp_path: Path) -> None:
    found = gather_features(model, {"x": X}, tmp_path)
    remove_features(found.folder)
    target = fit.target_of(found, None, 1.0)
    assert fit.fit_all(model, found, target, np.arange(100), np.arange(100, ROWS)).keys() == model.heads.keys()
    assert not found.folder.exists()


def test_fitted_heads_are_kept_beside_the_features(
    model: MultiExit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()
    fit_head = fit.fit_head

    def counted(*arguments: Any) -> fit.Fit:
        calls["heads"] += 1
        return fit_head(*arguments)

    monkeypatch.setattr(fit, "fit_head", counted)
    labels = (X.mean((1, 2)) > 0).astype(int)
    first = ee.fit_exits(model, X, labels, folder=tmp_path)
    weights = {name: head.classify.weight.detach().clone() for name, head in model.heads.items()}
    assert calls["heads"] == 2
    for head in model.heads.values():
        head.classify.reset_parameters()
    assert ee.fit_exits(model, X, labels, folder=tmp_path) == first
    assert calls["heads"] == 2
    assert all(head.classify.weight.equal(weights[name]) for name, head in model.heads.items())
    ee.fit_exits(model, X, 1 - labels, folder=tmp_path)
    assert calls["heads"] == 4
    ee.fit_exits(model, X, labels, folder=tmp_path, distill=0.1)
    assert calls["heads"] == 6
