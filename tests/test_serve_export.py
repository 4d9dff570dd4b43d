"""The page as static files: the same as is served, whole or not at all, and never in the place of something else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from serving import DIST, PAGE, archive, bundle, static

import eetoolkit as ee
from eetoolkit.serve.export import export_site
from eetoolkit.serve.headers import HEADERS
from eetoolkit.serve.onnxruntime_web import assets
from eetoolkit.serve.site import Shelf, Site, site_of


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("exported")
    packed, package = archive(folder)
    files = assets(packed, package=package, cache=folder / "cache")
    return site_of([Shelf(bundle(folder))], files, "static", static=static(folder))


def test_the_files_are_those_that_are_served(site: Site, tmp_path: Path) -> None:
    place = export_site(site, tmp_path / "page")
    found = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    assert found == {*site.files(), "README.md", "_headers"}
    own = site.shelves[0].bundle.path
    assert {f"bundles/0/{path.name}" for path in own.iterdir()} <= found
    for path in own.iterdir():
        assert (place / "bundles/0" / path.name).read_bytes() == path.read_bytes()
    assert all((place / "ort" / name).read_bytes() == content for name, content in DIST.items())
    assert (place / "index.html").read_text() == PAGE["index.html"]
    assert list(tmp_path.iterdir()) == [place]


def test_the_bundle_in_it_can_be_opened(site: Site, tmp_path: Path) -> None:
    place = export_site(site, tmp_path / "page")
    assert ee.load(place / "bundles/0", check="full").manifest == site.shelves[0].bundle.manifest


def test_the_description_says_that_nothing_is_sent_back(site: Site, tmp_path: Path) -> None:
    about = json.loads((export_site(site, tmp_path / "page") / "serve.json").read_text())
    assert (about["mode"], about["upload"], about["bundles"][0]["command"]) == ("static", False, None)


def test_every_header_is_told_for_every_server(site: Site, tmp_path: Path) -> None:
    place = export_site(site, tmp_path / "page")
    readme, own = (place / "README.md").read_text(), (place / "_headers").read_text().splitlines()
    for name, value in HEADERS.items():
        titled = "-".join(part.capitalize() for part in name.split("-"))
        assert f"\n{titled}: {value}\n" in readme
        assert f'add_header {titled} "{value}" always;' in readme
        assert f'header {titled} "{value}"' in readme
        assert f"  {titled}: {value}" in own
    assert own[0] == "/*"
    assert own[-2:] == ["/*.wasm", "  Content-Type: application/wasm"]


def test_an_export_is_replaced_only_if_asked(site: Site, tmp_path: Path) -> None:
    place = export_site(site, tmp_path / "page")
    (place / "old.txt").write_text("of the one before")
    with pytest.raises(ee.EEToolkitError, match=r"page exists; pass overwrite=True \(--overwrite\) to replace it"):
        export_site(site, place)
    assert (place / "old.txt").exists()
    export_site(site, place, overwrite=True)
    assert not (place / "old.txt").exists()
    assert list(tmp_path.iterdir()) == [place]


def test_a_folder_that_is_no_export_is_never_replaced(site: Site, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    for name in ("mine", "file", "link"):
        with pytest.raises(ee.EEToolkitError, match="exists and is no export of eetoolkit; choose another name"):
            export_site(site, tmp_path / name, overwrite=True)
    assert (tmp_path / "mine/thesis.txt").read_text() == "mine"


def test_an_empty_folder_is_filled(site: Site, tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    assert (export_site(site, tmp_path / "page") / "serve.json").is_file()


@pytest.mark.parametrize("there", [False, True])
def test_a_full_disk_leaves_what_was_there(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    if there:
        export_site(site, tmp_path / "page")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ee.EEToolkitError, match=r"cannot write .*page: No space left on device"):
        export_site(site, tmp_path / "page", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == (["page"] if there else [])


def test_an_export_whose_place_cannot_be_taken_stays(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = export_site(site, tmp_path / "page")
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name.startswith("page.partial-") and "old" not in path.name and target == place:
            raise PermissionError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(ee.EEToolkitError, match="Permission denied"):
        export_site(site, place, overwrite=True)
    assert (place / "serve.json").is_file()
    assert list(tmp_path.iterdir()) == [place]
