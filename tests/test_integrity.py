"""A file that is missing, changed or not a file is found: graphs always, weights where every hash is asked for."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from plans import chain, edit, row

from eetoolkit_runtime.bundle.bundle import load
from eetoolkit_runtime.bundle.golden import Sample, Visit
from eetoolkit_runtime.bundle.integrity import digest
from eetoolkit_runtime.errors import BundleError, IntegrityError, ManifestError
from eetoolkit_runtime.running.runner import Runner
from eetoolkit_runtime.verify import verify


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle with graphs, weights and golden samples."""
    draft = chain(weights=True)
    visits = (Visit(f"exit{k}", {"logits": row(0.25) * 2 ** (k + 1)}, 0.25 if k == 0 else 0.0) for k in range(3))
    draft.samples = [Sample({"x": row(0.25)}, tuple(visits))]
    return draft.save(tmp_path / "whole")


def one(folder: Path, pattern: str) -> Path:
    return next(iter(sorted(folder.glob(pattern))))


def change(path: Path, at: int = 0) -> None:
    """Changes one bit, and neither the size nor anything else."""
    text = bytearray(path.read_bytes())
    text[at] ^= 1
    path.write_bytes(text)


FILES = ["segment1-*.onnx", "segment1-*.bin", "golden-*.safetensors"]


def test_a_whole_bundle_passes_every_check(folder: Path) -> None:
    assert load(folder, check="quick").manifest == load(folder, check="full").manifest
    assert verify(folder).passed


@pytest.mark.parametrize("place", [0, 7, -1])
def test_the_quick_check_finds_any_changed_byte_of_a_graph(folder: Path, place: int) -> None:
    path = one(folder, "segment1-*.onnx")
    change(path, place)
    with pytest.raises(IntegrityError) as caught:
        load(folder)
    message = str(caught.value)
    assert message.startswith(f"{path}: sha256 ")
    assert message.endswith("…: the file was changed; export the bundle again")


def test_a_changed_graph_is_named_by_what_it_is_and_what_it_should_be(folder: Path) -> None:
    expected = load(folder).manifest.files[one(folder, "segment1-*.onnx").name].sha256
    change(one(folder, "segment1-*.onnx"))
    with pytest.raises(IntegrityError, match=f"sha256 [0-9a-f]{{12}}…, expected {expected[:12]}…"):
        load(folder)


@pytest.mark.parametrize("pattern", FILES[1:])
def test_the_quick_check_does_not_read_weights_or_golden_samples(folder: Path, pattern: str) -> None:
    change(one(folder, pattern))
    load(folder, check="quick")


@pytest.mark.parametrize("pattern", FILES)
@pytest.mark.parametrize(
    "check",
    [
        lambda folder: load(folder, check="full"),
        lambda folder: Runner(folder, check="full"),
        verify,
        lambda folder: load(folder).pack(folder.parent / "packed.zip"),
    ],
    ids=["load", "Runner", "verify", "pack"],
)
def test_every_full_check_finds_a_changed_byte_of_any_file(
    folder: Path, pattern: str, check: Callable[[Path], object]
) -> None:
    path = one(folder, pattern)
    change(path, -1)
    with pytest.raises(IntegrityError) as caught:
        check(folder)
    assert str(caught.value).startswith(f"{path}: sha256 ")


def test_verify_checks_the_files_of_a_bundle_that_is_open_already(folder: Path) -> None:
    bundle = load(folder)
    change(one(folder, "segment1-*.bin"))
    with pytest.raises(IntegrityError):
        verify(bundle)


@pytest.mark.parametrize("pattern", FILES)
@pytest.mark.parametrize("check", ["quick", "full"])
def test_a_missing_file_is_found(folder: Path, pattern: str, check: str) -> None:
    path = one(folder, pattern)
    path.unlink()
    with pytest.raises(IntegrityError) as caught:
        load(folder, check=check)  # type: ignore[arg-type]
    assert str(caught.value) == f"{path} is missing or not a regular file; copy or export the bundle again"


@pytest.mark.parametrize("pattern", FILES)
@pytest.mark.parametrize("check", ["quick", "full"])
@pytest.mark.parametrize("more", [-1, 1])
def test_a_file_of_another_size_is_found(folder: Path, pattern: str, check: str, more: int) -> None:
    path = one(folder, pattern)
    text = path.read_bytes()
    path.write_bytes(text[:-1] if more < 0 else text + b"\0")
    with pytest.raises(IntegrityError) as caught:
        load(folder, check=check)  # type: ignore[arg-type]
    assert str(caught.value) == (
        f"{path}: {len(text) + more} bytes, expected {len(text)}; copy or export the bundle again"
    )


@pytest.mark.parametrize("pattern", FILES)
def test_a_symlink_is_refused_even_to_the_right_bytes(folder: Path, pattern: str) -> None:
    path = one(folder, pattern)
    path.rename(folder.parent / "elsewhere")
    path.symlink_to(folder.parent / "elsewhere")
    with pytest.raises(IntegrityError, match="is missing or not a regular file"):
        load(folder)


def test_a_folder_in_the_place_of_a_file_is_refused(folder: Path) -> None:
    path = one(folder, "segment1-*.bin")
    path.unlink()
    path.mkdir()
    with pytest.raises(IntegrityError, match="is missing or not a regular file"):
        load(folder)


def test_the_folder_itself_may_be_a_symlink(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link.ee").symlink_to(folder)
    with Runner(tmp_path / "link.ee", threads=1) as runner:
        assert runner.run(row(0.9)).exit == "exit0"


def test_files_that_the_manifest_does_not_name_are_ignored(folder: Path) -> None:
    (folder / "README.txt").write_text("mine")
    (folder / "more").mkdir()
    load(folder, check="full")


def test_a_folder_without_a_manifest_is_no_bundle(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    with pytest.raises(BundleError) as caught:
        load(folder)
    assert str(caught.value) == f"{folder} is not a bundle: it has no manifest.json"


def test_a_path_where_nothing_is_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError) as caught:
        load(tmp_path / "none.ee")
    assert str(caught.value) == f"{tmp_path / 'none.ee'} does not exist"


def test_a_manifest_that_is_a_folder_is_a_bundle_error(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()
    with pytest.raises(IntegrityError) as caught:
        load(folder)
    assert str(caught.value) == f"{folder / 'manifest.json'} is no regular file"


def test_a_truncated_manifest_is_a_manifest_error(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ManifestError, match=r"manifest\.json: damaged \(Input data was truncated\)"):
        load(folder)


def test_an_invalid_plan_is_refused_before_any_file_is_looked_at(folder: Path) -> None:
    one(folder, "segment1-*.onnx").unlink()
    with pytest.raises(ManifestError, match="start is 'nowhere'"):
        load(edit(folder, start="nowhere"))


def test_an_unknown_check_is_refused(folder: Path) -> None:
    with pytest.raises(BundleError) as caught:
        load(folder, check="some")  # type: ignore[arg-type]
    assert str(caught.value) == "check is 'some', expected 'quick' or 'full'"


def test_a_bundle_says_what_it_is(folder: Path) -> None:
    bundle = load(folder)
    size = sum(path.stat().st_size for path in folder.iterdir() if path.name != "manifest.json")
    assert bundle.size_bytes == size
    assert str(bundle) == f"drafted: 3 segments, exits exit0, exit1, exit2, {size / 1e3:.1f} kB in {folder}"


# What a graph maps, and what it is run from


def with_graph(folder: Path, change_graph: Callable[[onnx.ModelProto], object]) -> Path:
    """Changes a graph of a bundle and enters its new hash into the manifest."""
    manifest = load(folder).manifest
    name = str(manifest.segments["segment1"].model)
    model = onnx.load(folder / name, load_external_data=False)
    change_graph(model)
    (folder / name).write_bytes(model.SerializeToString())
    return edit(folder, files=manifest.files | {name: digest(folder / name)})


def map_another(model: onnx.ModelProto) -> None:
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "other.bin"


@pytest.mark.parametrize("check", ["quick", "full"])
def test_a_graph_that_maps_a_file_which_is_not_listed_is_refused(folder: Path, check: str) -> None:
    (folder / "other.bin").write_bytes(one(folder, "segment1-*.bin").read_bytes())
    graph = one(folder, "segment1-*.onnx")
    with_graph(folder, map_another)
    with pytest.raises(IntegrityError) as caught:
        load(folder, check=check)  # type: ignore[arg-type]
    assert str(caught.value) == (
        f"{graph} maps 'other.bin', which is not among the segment's weights; export the bundle again"
    )


def test_a_graph_is_run_from_the_bytes_that_were_hashed(folder: Path) -> None:
    runner = Runner(folder, threads=1)
    graph = one(folder, "segment1-*.onnx")
    model = onnx.load(graph, load_external_data=False)
    model.graph.doc_string = "changed since the bundle was opened"
    graph.write_bytes(model.SerializeToString())
    assert runner.run(row(0.9)).exit == "exit0"
    with pytest.raises(IntegrityError, match=r"^segment 'segment1': .*segment1-.*\.onnx"):
        runner.run(row(0.1))


def test_a_hard_link_is_a_regular_file(folder: Path, tmp_path: Path) -> None:
    with Runner(folder, threads=1) as runner:
        expected = runner.run(row(0.1))
    for path in folder.iterdir():
        if path.suffix in {".bin", ".onnx", ".npz"}:
            path.rename(tmp_path / path.name)
            path.hardlink_to(tmp_path / path.name)
    assert verify(folder).passed
    with Runner(folder, threads=1, check="full") as runner:
        found = runner.run(row(0.1))
    assert found.exit == expected.exit
    np.testing.assert_array_equal(found.outputs["logits"], expected.outputs["logits"])


# What is no file


@pytest.mark.parametrize("name", ["manifest.json", "segment1-*.onnx", "segment1-*.bin", "golden-*.safetensors"])
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_and_not_waited_for(folder: Path, name: str) -> None:
    path = one(folder, name)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(IntegrityError, match="regular file"):
        load(folder)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no devices here")
def test_a_device_without_end_is_no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").symlink_to("/dev/zero")
    with pytest.raises(IntegrityError, match=r"manifest\.json is no regular file"):
        load(folder)


def test_a_manifest_of_gigabytes_is_not_read(folder: Path) -> None:
    with (folder / "manifest.json").open("wb") as file:
        file.truncate(8 << 30)
    with pytest.raises(IntegrityError, match=r"manifest\.json is over 8 MiB, more than such a file has"):
        load(folder)


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "", 5, None, b"digits.ee", ["digits.ee"]])
def test_what_is_no_path_is_a_bundle_error(path: Any) -> None:
    with pytest.raises(BundleError):
        load(path)
    with pytest.raises(BundleError):
        Runner(path)


def test_a_closed_folder_is_a_bundle_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(path: object, *arguments: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", closed)
    with pytest.raises(BundleError, match=r"^cannot read .*manifest\.json: Permission denied$"):
        load(folder)


def test_a_bundle_opened_by_a_relative_path_is_found_from_another_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    bundle = load(folder.name)
    runner = Runner(folder.name, threads=1)
    assert str(bundle).endswith(f" in {folder.name}")
    (folder.parent / "elsewhere").mkdir()
    monkeypatch.chdir(folder.parent / "elsewhere")
    assert runner.run(row(0.1)).exit == "exit2"
    assert verify(bundle).passed
    assert bundle.pack(folder.parent / "packed.zip").exists()
    assert str(bundle).endswith(f" in {folder}")
