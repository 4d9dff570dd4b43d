"""The function that goes to workers: what it takes, gives and refuses, and that it answers as the runner does."""

from __future__ import annotations

import dataclasses
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plans import chain

import eetoolkit as ee
from eetoolkit.cluster import answerer as module
from eetoolkit.cluster.columns import dense, rows_of
from eetoolkit_runtime.plan.types import TensorSpec

pd = pytest.importorskip("pandas", reason="needs the extra `ray`")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ee.Bundle:
    return ee.load(chain(0.5, 0.5, 0.5).save(tmp_path_factory.mktemp("chain") / "it.ee"))


def drawn(rows: int = 40) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 1, (rows, 4)).astype(np.float32)


def test_a_dict_a_frame_and_an_iterator_of_frames_are_answered_as_by_the_runner(bundle: ee.Bundle) -> None:
    x = drawn()
    answer = pickle.loads(pickle.dumps(ee.answerer(bundle)))  # noqa: S301 - our own
    found = answer({"id": np.arange(40), "x": x})
    frame = pd.DataFrame({"id": np.arange(40), "x": [row.tolist() for row in x]}, index=np.arange(40)[::-1])
    frames = [answer(frame), pd.concat(answer(iter([frame[:15], frame[15:]])))]
    with ee.Runner(bundle, threads=1) as runner:
        expected = [runner.run(row[None]) for row in x]
    assert list(found) == ["id", "exit", "confidence", "prediction", "logits"]
    assert found["exit"].tolist() == [each.exit for each in expected]
    assert len(set(found["exit"])) > 1
    assert found["confidence"].tobytes() == np.array([each.confidence for each in expected], np.float32).tobytes()
    assert found["logits"].tobytes() == np.concatenate([each.outputs["logits"] for each in expected]).tobytes()
    assert found["prediction"].tolist() == [each.prediction for each in expected]
    for each in frames:
        assert each.index.equals(frame.index)
        assert list(each) == list(found)
        assert np.stack(each["logits"]).tobytes() == found["logits"].tobytes()
        assert all(each[name].tolist() == found[name].tolist() for name in ("id", "exit", "confidence", "prediction"))
        assert answer(frame[:0]).dtypes.equals(each.dtypes)


def test_settings_are_the_runners(bundle: ee.Bundle) -> None:
    x = drawn()
    last = tuple(bundle.exits)[-1]
    assert set(ee.answerer(bundle, exit_at=last)({"x": x})["exit"]) == {last}
    never = ee.answerer(bundle, thresholds=dict.fromkeys(tuple(bundle.exits)[:-1], "never"), outputs=())
    assert list(never({"x": x})) == ["exit", "confidence", "prediction"]
    assert set(never({"x": x})["exit"]) == {last}
    together = ee.answerer(bundle, together=True, keep_inputs=True)({"x": x})
    assert together["exit"].tolist() == ee.answerer(bundle)({"x": x})["exit"].tolist()
    assert together["x"] is x
    named = ee.answerer(bundle, columns={"x": "pixels"})({"pixels": x, "more": x})
    assert "pixels" not in named
    assert "more" in named


def test_a_process_opens_one_runner(bundle: ee.Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RUNNERS", type(module._RUNNERS)())
    x = drawn(2)
    for answer in (
        ee.answerer(bundle),
        ee.answerer(bundle, outputs=()),
        pickle.loads(pickle.dumps(ee.answerer(bundle))),  # noqa: S301 - our own
    ):
        answer({"x": x})
    assert len(module._RUNNERS) == 1
    for threads in range(2, 8):
        ee.answerer(bundle, threads=threads)({"x": x})
    assert len(module._RUNNERS) == 4


def test_a_worker_that_finds_none_or_another_bundle_says_so(tmp_path: Path) -> None:
    path = chain(0.5).save(tmp_path / "it.ee")
    answer = ee.answerer(path)
    chain(0.7).save(tmp_path / "other.ee")
    shutil.rmtree(path)
    with pytest.raises(
        ee.BundleError, match=r"no bundle for this worker: .*it\.ee does not exist; put it there on every"
    ):
        answer({"x": drawn(1)})
    shutil.copytree(tmp_path / "other.ee", path)
    with pytest.raises(
        ee.BundleError, match=r"holds another bundle than the one that was sent here, .*; copy the same one"
    ):
        answer({"x": drawn(1)})


def test_a_worker_loads_what_a_device_does(bundle: ee.Bundle, tmp_path: Path) -> None:
    (tmp_path / "sent").write_bytes(pickle.dumps(ee.answerer(bundle)))
    watched = (
        "import pickle, sys, numpy; answer = pickle.load(open('sent', 'rb'));"
        "answer({'x': numpy.zeros((1, 4), 'float32')});"
        "print(sorted({'torch', 'onnx', 'onnx_ir', 'ray', 'pandas', 'click', 'rich'} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", watched], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_what_does_not_fit_is_one_line(bundle: ee.Bundle) -> None:
    x, answer = drawn(2), ee.answerer(bundle)
    refused: dict[str, Any] = {
        r"no column 'x' for the input 'x': there are a, b; rename": {"a": x, "b": x},
        r"the batch has a column 'exit' already": {"x": x, "exit": [0, 1]},
        r"column 'x' is empty in row 1 of a batch": {"x": np.array([x[0], None], object)},
        r"input 'x': got shape \[2, 3\]": {"x": x[:, :3]},
        r"a batch is 7, expected a dict of arrays": 7,
    }
    for said, batch in refused.items():
        with pytest.raises(ee.InputError, match=said):
            answer(batch)
    asked: dict[str, dict[str, Any]] = {
        "outputs names 'probs'; the exits' outputs are logits": {"outputs": ["probs"]},
        "columns names 'y', which is no input; there are x": {"columns": {"y": "x"}},
        "no exit 'gone'": {"exit_at": "gone"},
    }
    for said, settings in asked.items():
        with pytest.raises(ee.InputError, match=said):
            ee.answerer(bundle, **settings)


def test_cells_of_any_kind_are_rows() -> None:
    x = np.arange(48, dtype=np.float32).reshape(2, 2, 3, 4)
    cells = {
        "array": x,
        "arrays": np.array([None, None], object),
        "lists": np.array([None, None], object),
        "arrays in arrays": np.array([None, None], object),
        "flat": x.reshape(2, -1),
    }
    for place in range(2):
        cells["arrays"][place], cells["lists"][place] = x[place], x[place].tolist()
        rows = np.empty(2, object)
        rows[:] = [[list(line) for line in part] for part in x[place]]
        cells["arrays in arrays"][place] = rows
    plan = _Plan((TensorSpec(name="x", dtype="float32", shape=("batch", 2, 3, 4)),))
    for kind, column in cells.items():
        found = rows_of(plan, {"x": column}, {"x": "x"})
        assert np.concatenate([row[0] for row in found]).tobytes() == x.tobytes(), kind
    assert dense("label", np.array(["cat", "dog"], object)).dtype.kind == "U"


def test_rows_of_different_lengths_and_inputs_that_count_no_rows_go_one_by_one() -> None:
    plan = _Plan(
        (
            TensorSpec(name="ids", dtype="int64", shape=("batch", "length")),
            TensorSpec(name="state", dtype="float32", shape=(2, "batch", 3)),
            TensorSpec(name="table", dtype="float32", shape=(5,)),
        )
    )
    ids = np.empty(2, object)
    ids[0], ids[1] = np.arange(3), np.arange(7)
    batch = {"ids": ids, "state": np.ones((2, 2, 3), np.float32), "table": np.ones((2, 5), np.float32)}
    rows = rows_of(plan, batch, {name: name for name in batch})
    assert [[array.shape for array in row] for row in rows] == [[(1, 3), (2, 1, 3), (5,)], [(1, 7), (2, 1, 3), (5,)]]


def test_outputs_of_several_shapes_or_of_some_answers_are_one_for_each_row() -> None:
    whole, ragged = np.ones((2, 3), np.float32), [np.ones(2), None, np.ones((2, 2))]
    assert module._stacked(list(whole)).tobytes() == whole.tobytes()
    column = module._stacked(ragged)
    assert [None if cell is None else cell.shape for cell in column] == [(2,), None, (2, 2)]
    cells = module._cells(column, range(3)).tolist()
    assert cells[1] is None
    assert cells[2] == [[1, 1], [1, 1]]


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What is known of a network's inputs."""

    inputs: tuple[TensorSpec, ...]
    limits: dict[str, Any] = dataclasses.field(default_factory=dict)
    preprocess: dict[str, Any] = dataclasses.field(default_factory=dict)
    titles: dict[str, str] = dataclasses.field(default_factory=dict)
    labels: None = None


@pytest.mark.filterwarnings("ignore::FutureWarning:pyspark", "ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("engine", ["dask", "spark"])
def test_the_examples_run(engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from test_examples import opened

    if engine == "dask":
        pytest.importorskip("dask.dataframe", reason="needs dask")
    else:
        pytest.importorskip("pyspark", reason="needs pyspark")
        if shutil.which("java") is None:
            pytest.skip("Spark needs Java")
    opened(f"{engine}_rows").main(tmp_path)
    assert capsys.readouterr().out.endswith("% right, 450 rows\n")
