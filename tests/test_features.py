"""One pass over the rows: what it keeps on disk, and what it does not run again."""

from __future__ import annotations

from collections import Counter, namedtuple
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import eetoolkit as ee
from eetoolkit_exporters.attaching import features as module
from eetoolkit_exporters.attaching import fit
from eetoolkit_exporters.attaching.attach import MultiExit
from eetoolkit_exporters.attaching.features import Features, gather_features
from eetoolkit_exporters.attaching.part import Part

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


def check(found: Features, model: MultiExit, expected: Mapping[str, Array], tolerance: float = 1e-5) -> None:
    every = np.arange(ROWS)
    np.testing.assert_allclose(found.final, expected["final"], atol=1e-5)
    for name in model.heads:
        gathered = found.of(model, name, every)
        assert gathered.dtype == np.float32
        np.testing.assert_allclose(gathered, expected[name], atol=tolerance)


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


def test_where_memory_is_short_they_are_float16(
    model: MultiExit, expected: dict[str, Array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "memory_bytes", lambda _which: 1000)
    found = gather_features(model, {"x": X}, tmp_path)
    assert {array.dtype for array in found.parts.values()} == {np.dtype(np.float16)}
    assert found.final.dtype == np.float32  # what heads are to answer
    check(found, model, expected, 1e-2)


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
