"""onnxruntime's files for browsers: fetched by npm, checked, kept, and checked again."""

from __future__ import annotations

import gzip
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from serving import DIST, archive

import eetoolkit as ee
from eetoolkit.serve.onnxruntime_web import PACKAGE, Package, assets

ROOT = Path(__file__).parents[1]


@pytest.fixture
def packed(tmp_path: Path) -> tuple[Path, Package]:
    return archive(tmp_path)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def npm(folder: Path, script: str, patch: pytest.MonkeyPatch) -> None:
    """Puts a command of this name in the place of all commands but the shell's own."""
    tools = folder / "bin"
    tools.mkdir()
    (tools / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (tools / "npm").chmod(0o755)
    patch.setenv("PATH", f"{tools}{os.pathsep}/usr/bin{os.pathsep}/bin")


def test_the_pinned_package_is_that_of_the_lock_file() -> None:
    lock = json.loads((ROOT / "runtime/web/package-lock.json").read_text())
    entry = lock["packages"]["node_modules/onnxruntime-web"]
    assert (PACKAGE.version, PACKAGE.integrity) == (entry["version"], entry["integrity"])


def test_the_files_are_those_of_the_package_that_npm_has_installed() -> None:
    dist = ROOT / "runtime/web/node_modules/onnxruntime-web/dist"
    if not dist.is_dir():
        pytest.skip("runtime/web/node_modules is not there; `npm ci` there")
    from eetoolkit_runtime.bundle.integrity import digest

    assert {name: digest(dist / name).sha256 for name in PACKAGE.files} == dict(PACKAGE.files)


def test_npm_fetches_it_once(
    packed: tuple[Path, Package], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, package = packed
    npm(tmp_path, f'echo "$@" >> {tmp_path}/asked; cp {path} .', monkeypatch)
    notes: list[str] = []
    told: list[str] = []
    for _ in range(2):
        found = assets(package=package, cache=cache, note=notes.append, tell=lambda what, _, __: told.append(what))
        assert {name: asset.path.read_bytes() for name, asset in found.items()} == DIST
        assert {name: gzip.decompress(asset.gzipped.read_bytes()) for name, asset in found.items()} == DIST
    asked = (tmp_path / "asked").read_text().splitlines()
    assert [line.split()[:2] for line in asked] == [["pack", "onnxruntime-web@0.0.1"]]
    kept = cache / "onnxruntime-web-0.0.1"
    assert notes == [f"npm fetches onnxruntime-web@0.0.1, once; its 3 files are kept in {kept}"]
    assert told[0] == "fetching onnxruntime-web@0.0.1 with npm, once"
    assert {path.name for path in cache.iterdir()} == {kept.name}
    assert {path.name for path in kept.iterdir()} == {*DIST, *(f"{name}.gz" for name in DIST)}


def test_without_npm_a_line_says_what_to_do(
    packed: tuple[Path, Package], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ee.EEToolkitError) as caught:
        assets(package=packed[1], cache=cache)
    assert str(caught.value) == (
        "this needs onnxruntime-web@0.0.1, which npm fetches, and there is no npm: install it, or fetch "
        "onnxruntime-web@0.0.1 elsewhere (`npm pack onnxruntime-web@0.0.1`) and pass --onnxruntime-web FILE.tgz"
    )
    assert list(cache.iterdir()) == []


def test_an_npm_that_cannot_fetch_says_why(
    packed: tuple[Path, Package], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npm(tmp_path, 'echo "npm error code ENOTFOUND" >&2; echo "npm error more" >&2; exit 1', monkeypatch)
    with pytest.raises(ee.EEToolkitError) as caught:
        assets(package=packed[1], cache=cache)
    assert str(caught.value) == (
        "npm cannot fetch onnxruntime-web@0.0.1 (npm error code ENOTFOUND): connect this computer once, or fetch "
        "onnxruntime-web@0.0.1 elsewhere (`npm pack onnxruntime-web@0.0.1`) and pass --onnxruntime-web FILE.tgz"
    )
    assert list(cache.iterdir()) == []


def test_a_package_that_the_user_has_is_taken_without_npm(
    packed: tuple[Path, Package], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    path, package = packed
    assert set(assets(path, package=package, cache=cache)) == set(DIST)
    folder = tmp_path / "dist"
    folder.mkdir()
    for name, content in DIST.items():
        (folder / name).write_bytes(content)
    assert set(assets(folder, package=package, cache=tmp_path / "another")) == set(DIST)
    assert set(assets(package=package, cache=cache)) == set(DIST)


def another(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def none(path: Path) -> None:
    path.write_text("no archive")


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("spoil", [another, none, empty])
def test_another_file_is_refused_before_anything_of_it_is_read(
    packed: tuple[Path, Package], cache: Path, spoil: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, package = packed
    spoil(path)
    monkeypatch.setattr(tarfile, "open", lambda **_: pytest.fail("it was read"))
    expected = package.integrity.removeprefix("sha512-")[:12]
    with pytest.raises(
        ee.EEToolkitError, match=r"onnxruntime-web-0.0.1.tgz is not onnxruntime-web@0.0.1: its sha512"
    ) as found:
        assets(path, package=package, cache=cache)
    assert f"expected {expected}...; fetch it again, `npm pack onnxruntime-web@0.0.1`" in str(found.value)
    assert list(cache.iterdir()) == []


def test_what_npm_brings_is_checked_as_well(
    packed: tuple[Path, Package], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npm(tmp_path, "echo forged > onnxruntime-web-0.0.1.tgz", monkeypatch)
    with pytest.raises(ee.EEToolkitError, match=r"is not onnxruntime-web@0\.0\.1: its sha512 is"):
        assets(package=packed[1], cache=cache)
    assert list(cache.iterdir()) == []


def test_a_package_without_a_file_is_refused(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "short").mkdir()
    path, package = archive(tmp_path / "short", {"ort.wasm.min.mjs": b"a"})
    wanted = Package(package.name, package.version, package.integrity, {**package.files, "more.wasm": "0" * 64})
    with pytest.raises(ee.EEToolkitError, match=r"is not onnxruntime-web@0\.0\.1: .*more\.wasm"):
        assets(path, package=wanted, cache=cache)


def test_a_folder_with_another_file_is_refused(packed: tuple[Path, Package], cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dist"
    folder.mkdir()
    with pytest.raises(ee.EEToolkitError, match=r"expected the folder `dist` of onnxruntime-web@0\.0\.1, or its \.tgz"):
        assets(folder, package=packed[1], cache=cache)
    for name in DIST:
        (folder / name).write_bytes(b"forged")
    with pytest.raises(ee.EEToolkitError, match=r"ort\.wasm\.min\.mjs is not that of onnxruntime-web@0\.0\.1"):
        assets(folder, package=packed[1], cache=cache)


def test_a_file_that_is_not_there_is_said(packed: tuple[Path, Package], cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ee.EEToolkitError, match=r"--onnxruntime-web: .*gone\.tgz does not exist"):
        assets(tmp_path / "gone.tgz", package=packed[1], cache=cache)
    kept = assets(packed[0], package=packed[1], cache=cache)
    assert assets(packed[0], package=packed[1], cache=cache) == kept
    with pytest.raises(ee.EEToolkitError, match="does not exist"):  # although the cache has all
        assets(tmp_path / "gone.tgz", package=packed[1], cache=cache)


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("content", [b"forged", b"", None])
def test_a_cache_that_was_touched_is_filled_again(
    packed: tuple[Path, Package], cache: Path, ending: str, content: bytes | None
) -> None:
    path, package = packed
    name = "ort-wasm-simd-threaded.wasm"
    assets(path, package=package, cache=cache)
    touched = cache / "onnxruntime-web-0.0.1" / (name + ending)
    if content is None:
        touched.unlink()
    else:
        touched.write_bytes(content)
    found = assets(path, package=package, cache=cache)[name]
    assert found.path.read_bytes() == gzip.decompress(found.gzipped.read_bytes()) == DIST[name]
