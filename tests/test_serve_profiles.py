"""Profiles that come back: their names, never one in the place of another, whole or not at all."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from serving import bundle, profile

import eetoolkit as ee
from eetoolkit.serve.profiles import keep


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> ee.Bundle:
    return ee.load(bundle(tmp_path_factory.mktemp("profiles")))


NAMES: dict[str, tuple[dict[str, Any], str]] = {
    "a phone": ({}, "pixel-8.json"),
    "another backend": ({"providers": ["webgpu"]}, "pixel-8-webgpu.json"),
    "as onnxruntime says it": ({"providers": ["CPUExecutionProvider"]}, "pixel-8.json"),
    "no providers": ({"providers": []}, "pixel-8.json"),
    "no name": ({"machine": {"processor": "", "cores": 1}}, "device.json"),
    "signs alone": ({"machine": {"processor": "../../..", "cores": 1}}, "device.json"),
    "a path": ({"machine": {"processor": "../../etc/passwd\0", "cores": 1}}, "etc-passwd.json"),
    "what a shell obeys": ({"machine": {"processor": "$(rm -rf ~); -x", "cores": 1}}, "rm-rf-x.json"),
    "other letters": ({"machine": {"processor": "小米 14 Ultra", "cores": 8}}, "14-ultra.json"),
    "long": ({"machine": {"processor": "a" * 39 + " " + "b" * 999, "cores": 1}}, "a" * 39 + ".json"),
}


@pytest.mark.parametrize("what", NAMES)
def test_a_file_is_called_as_the_device_and_nothing_else(opened: ee.Bundle, tmp_path: Path, what: str) -> None:
    changes, name = NAMES[what]
    saved = keep(profile(opened, **changes), opened, tmp_path / "profiles")
    assert [path.name for path in (tmp_path / "profiles").iterdir()] == [name]
    assert saved.path == str(tmp_path / "profiles" / name)
    assert f"--profile {saved.path} " in saved.next


def test_devices_that_send_at_once_never_replace_each_other(opened: ee.Bundle, tmp_path: Path) -> None:
    sent = [profile(opened, rounds=number) for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        saved = list(pool.map(lambda text: keep(text, opened, tmp_path), sent))
    assert {Path(each.path).name for each in saved} == {
        "pixel-8.json", *(f"pixel-8-{number}.json" for number in range(2, 25))
    }  # fmt: skip
    assert [ee.Profile.read(each.path).rounds for each in saved] == list(range(24))
    assert len(list(tmp_path.iterdir())) == 24


def test_without_links_nothing_is_replaced_either(
    opened: ee.Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    saved = [keep(profile(opened, rounds=number), opened, tmp_path) for number in range(3)]
    assert [ee.Profile.read(each.path).rounds for each in saved] == [0, 1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pixel-8-2.json", "pixel-8-3.json", "pixel-8.json"]


def test_a_full_disk_leaves_nothing(opened: ee.Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ee.EEToolkitError, match=r"cannot write into .*: No space left on device"):
        keep(profile(opened), opened, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_profile_is_of_its_users_files_as_any_other(opened: ee.Bundle, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        saved = keep(profile(opened), opened, tmp_path)
    finally:
        os.umask(before)
    assert Path(saved.path).stat().st_mode & 0o777 == 0o640
