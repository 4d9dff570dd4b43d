"""Rows of a dataset of Ray, on a real cluster of this machine: the same bits as in one process, whatever happens."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import ROOT, masked, run
from plans import looped
from ray_cluster import kill_one, local_cluster
from test_tuning_tune import Easy, data

import eetoolkit as ee
from eetoolkit.tuning.collect import collect
from eetoolkit.tuning.dataset import RowSource, gather
from eetoolkit.tuning.record import Record

pytest.importorskip("ray.data", reason="needs the extra `ray`")
import pandas as pd
import ray.data

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # Ray warns of itself

ROWS = 2600  # three shards


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    with local_cluster() as folder:
        yield folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ee.Bundle:
    """A loop, which rows leave after different numbers of turns."""
    return ee.load(looped(leave_at=0.4).save(tmp_path_factory.mktemp("loop") / "it.ee"))


def drawn(rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    x = draw.uniform(0, 1, (rows, 4)).astype(np.float32)
    x[:, 0] = draw.integers(1, 8, rows)
    return x, draw.integers(0, 4, rows)


def dataset(x: np.ndarray, labels: np.ndarray, parts: int = 3) -> ray.data.Dataset:
    """Returns rows in blocks of different sizes, with labels."""
    cuts = np.sort(np.random.default_rng(1).integers(1, len(x), parts - 1))
    pieces = zip(np.split(x, cuts), np.split(labels, cuts), strict=True)
    return ray.data.from_pandas([pd.DataFrame({"x": list(piece), "labels": own}) for piece, own in pieces])


def assert_same_bits(one: Record, other: Record) -> None:
    for field in dataclasses.fields(Record):
        first, second = getattr(one, field.name), getattr(other, field.name)
        arrays = {field.name: (first, second)} if isinstance(first, np.ndarray) else {}
        if field.name == "outputs":
            assert list(first) == list(second)
            arrays = {name: (first[name], second[name]) for name in first}
        for name, (a, b) in arrays.items():
            assert (a.dtype, a.shape) == (b.dtype, b.shape), name
            assert a.tobytes() == b.tobytes(), name
        if not arrays:
            assert first == second, field.name


def test_workers_give_the_bits_of_one_process_though_one_is_killed(cluster: Path, bundle: ee.Bundle) -> None:
    x, labels = drawn(5000)
    rows = dataset(x, labels)
    assert not rows.context.execution_options.preserve_order
    killed: list[int] = []
    told: list[tuple[str, int, int]] = []

    def tell(*now: Any) -> None:
        told.append(now)
        if not killed:
            killed.append(kill_one(cluster))

    found = collect(bundle, rows, progress=tell)
    assert killed
    assert_same_bits(collect(bundle, x, labels, threads=1), found)
    assert found.exit.shape[1] > 1
    assert told[-1] == ("collecting", 5000, 5000)
    assert len(told) > 3
    assert not rows.context.execution_options.preserve_order


def test_collecting_goes_on_where_it_was(cluster: Path, bundle: ee.Bundle, tmp_path: Path) -> None:
    x, labels = drawn()
    x[2000:2010], labels[2000:2010] = x[:10], labels[:10]  # of these a worker knows no number
    collect(bundle, x, labels, rows=np.arange(1500), file=tmp_path / "some.npz", threads=1)
    found = collect(bundle, dataset(x, labels), file=tmp_path / "some.npz")
    whole = collect(bundle, x, labels, file=tmp_path / "whole.npz", threads=1)
    assert_same_bits(whole, found)
    assert (tmp_path / "some.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_rows_are_run_again_with_temperatures_as_in_one_process(cluster: Path, tmp_path: Path) -> None:
    x, labels = data()
    bundle = ee.export(Easy().eval(), x[:1], tmp_path / "easy.ee", input_names=["x"])
    for name, rows, own in (("here", x, labels), ("there", dataset(x, labels), None)):
        source = RowSource(bundle, rows, own, tmp_path / f"{name}.npz", 1, ("CPUExecutionProvider",), lambda *_: None)
        found = gather(source, classes=True, calibrate=True, guarantee=False, seed=0)
        assert found.record.constants != found.first.constants
    for end in ("npz", "calibrated.npz"):
        assert (tmp_path / f"there.{end}").read_bytes() == (tmp_path / f"here.{end}").read_bytes()


def test_a_worker_without_the_bundle_gets_it(cluster: Path, bundle: ee.Bundle) -> None:
    from eetoolkit.cluster.shipping import open_shipped, ship
    from eetoolkit.tuning.manifest import with_constants

    name, values = next(iter({n: tuple(c.data) for n, c in bundle.manifest.constants.items()}.items()))
    changed = with_constants(bundle, {name: tuple(value + 1 for value in values)})
    shipped = ship(changed)
    assert open_shipped(shipped) == changed
    found = open_shipped(dataclasses.replace(shipped, path="/nowhere"))
    assert found.manifest == changed.manifest
    assert found.path.parent == cluster / "cache"


def test_what_is_wrong_is_one_line(cluster: Path, bundle: ee.Bundle) -> None:
    x, labels = drawn(20)

    def broken(batch: dict[str, Any]) -> dict[str, Any]:
        raise ValueError("the disk is gone")

    with pytest.raises(ee.InputError, match=r"^among rows \d+ to \d+: no column `labels` or `label`: there are x$"):
        collect(bundle, dataset(x, labels).drop_columns(["labels"]))
    with pytest.raises(ee.RunError, match=r"^Ray failed: ValueError: the disk is gone$"):
        collect(bundle, dataset(x, labels).map_batches(broken))
    with pytest.raises(ee.InputError, match="labels of a Ray dataset are a column of it"):
        collect(bundle, dataset(x, labels), labels)


def test_rows_are_read_and_an_example_drawn(cluster: Path, bundle: ee.Bundle) -> None:
    from eetoolkit.adapting.example import draw_example
    from eetoolkit.adapting.rows import read_rows
    from eetoolkit_exporters.attaching.part import NetworkInputs

    x, labels = drawn(50)
    rows = dataset(x, labels)
    read = read_rows(NetworkInputs(bundle.manifest.inputs), rows)
    np.testing.assert_array_equal(read.inputs["x"], x)
    np.testing.assert_array_equal(read.labels, labels)
    np.testing.assert_array_equal(draw_example(rows)[0], x[:1])


def test_what_heads_gather_is_the_same_bits(cluster: Path, tmp_path: Path) -> None:
    from test_features import X, attached

    from eetoolkit.cluster.mapping import map_blocks
    from eetoolkit_exporters.attaching.features import gather_features

    model = attached(tmp_path)
    here = gather_features(model, {"x": X}, tmp_path / "here", threads=1)
    there = gather_features(model, {"x": X}, tmp_path / "there", threads=1, mapper=map_blocks)
    assert there.parts.keys() == here.parts.keys()
    for one, other in [(here.final, there.final), *((here.parts[key], there.parts[key]) for key in here.parts)]:
        assert one.dtype == other.dtype
        assert one.tobytes() == other.tobytes()


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page takes for granted: a bundle, and labelled rows in files."""
    from eetoolkit.zoo import branchynet
    from eetoolkit.zoo import digits as data

    folder = tmp_path_factory.mktemp("digits")
    test = data.digits("test")
    images = test.images / 16
    ee.export(branchynet.load(), images[:1], folder / "digits.ee", labels=data.LABELS)
    (folder / "rows").mkdir()
    for place in range(0, 450, 150):
        part = slice(place, place + 150)
        np.savez(folder / "rows" / f"{place:03}.npz", image=images[part], labels=test.labels[part])
    np.savez(folder / "all.npz", image=images, labels=test.labels)
    return folder


def test_files_are_read_as_in_one_process(cluster: Path, digits: Path, tmp_path: Path) -> None:
    from PIL import Image

    from eetoolkit.cluster.reading import read_dataset
    from eetoolkit.reading.images import ImageOptions
    from eetoolkit.reading.labelled import read_labelled

    bundle = ee.load(digits / "digits.ee")
    stored = np.load(digits / "all.npz")
    flat = pd.DataFrame({"image": [row.ravel() for row in stored["image"]], "label": stored["labels"]})
    (tmp_path / "tables").mkdir()
    flat.to_parquet(tmp_path / "tables" / "rows.parquet")
    for number, (row, label) in enumerate(zip(stored["image"][:20], stored["labels"], strict=False)):
        place = tmp_path / "pictures" / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((row[0] * 255).astype(np.uint8)).save(place / f"{number:02}.png")

    options = ImageOptions(scale=1 / 255, mean=(0,), std=(1,))
    whole = collect(bundle, stored["image"], stored["labels"], threads=1)
    pictures = collect(bundle, *read_labelled(bundle.manifest, str(tmp_path / "pictures"), options), threads=1)
    for path, given, expected in (
        ((tmp_path / "tables").as_uri(), ImageOptions(), whole),
        (f"local://{tmp_path / 'pictures'}", options, pictures),  # a scheme of fsspec's, not of pyarrow's
    ):
        assert_same_bits(collect(bundle, read_dataset(bundle.manifest, path, given)), expected)
    (tmp_path / "notes.txt").touch()
    for name, said in {"notes.txt": r"\.txt; expected \.parquet, ", "gone": "does not exist"}.items():
        with pytest.raises(ee.InputError, match=said):
            read_dataset(bundle.manifest, str(tmp_path / name), ImageOptions())


def test_the_example_runs(cluster: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from test_examples import opened

    opened("ray_rows").main(tmp_path)
    assert capsys.readouterr().out.endswith("% right, 450 rows\n")


def test_the_page_shows_what_its_blocks_print(
    cluster: Path, digits: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    shutil.copytree(digits, tmp_path, dirs_exist_ok=True)
    outputs = run(ROOT / "docs" / "clusters.md", tmp_path)
    assert outputs
    for shown, printed in outputs:
        assert masked(printed) == masked(shown)
