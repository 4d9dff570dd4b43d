"""A bundle travels as one .zip, and nothing that is not the bundle gets out of one."""

from __future__ import annotations

import json
import os
import random
import shutil
import zipfile
from pathlib import Path

import pytest
from plans import chain, edit, recorded, row

from eetoolkit_runtime.bundle.archive import default_cache, unpack
from eetoolkit_runtime.bundle.bundle import Bundle, load
from eetoolkit_runtime.errors import BundleError, EEToolkitError, IntegrityError, ManifestError
from eetoolkit_runtime.plan.seal import seal
from eetoolkit_runtime.running.runner import Runner
from eetoolkit_runtime.verify import verify


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of this test."""
    monkeypatch.setenv("EETOOLKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bundle(tmp_path: Path, cache: Path) -> Bundle:
    return load(chain(weights=True).save(tmp_path / "whole.ee"))


@pytest.fixture
def packed(bundle: Bundle, tmp_path: Path) -> Path:
    return bundle.pack(tmp_path / "whole.zip")


def members(archive: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as source:
        return {name: source.read(name) for name in source.namelist()}


def rezip(archive: Path, contents: dict[str, bytes]) -> Path:
    """Writes an archive of these members and returns it."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for name, text in contents.items():
            target.writestr(name, text)
    return archive


def refusal(archive: Path) -> str:
    """Returns the text of the error."""
    with pytest.raises(IntegrityError) as caught:
        load(archive)
    return str(caught.value)


# Packing


def test_what_is_packed_is_unpacked_as_it_was(bundle: Bundle, packed: Path, cache: Path) -> None:
    again = load(packed)
    assert again.manifest == bundle.manifest
    assert again.path.parent == cache
    assert {p.name: p.read_bytes() for p in again.path.iterdir()} == {
        p.name: p.read_bytes() for p in bundle.path.iterdir()
    }


def test_a_zip_runs_as_the_folder_does(bundle: Bundle, packed: Path) -> None:
    with Runner(packed, threads=1) as runner, Runner(bundle, threads=1) as other:
        for x in (row(0.9), row(0.1, 0.9), row()):
            assert runner.run(x).outputs["logits"].tobytes() == other.run(x).outputs["logits"].tobytes()


def test_the_same_bundle_gives_the_same_bytes(bundle: Bundle, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle.path, tmp_path / "copy.ee")  # of other times, and listed in another order
    first, second = bundle.pack(tmp_path / "a.zip"), load(copy).pack(tmp_path / "b.zip")
    assert first.read_bytes() == second.read_bytes()


def test_only_what_the_manifest_names_is_packed(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.path / "notes.txt").write_text("mine")
    with zipfile.ZipFile(bundle.pack(tmp_path / "a.zip")) as archive:
        assert archive.namelist() == ["manifest.json", *sorted(bundle.manifest.files)]


def test_an_archive_is_not_overwritten_unasked(bundle: Bundle, packed: Path) -> None:
    with pytest.raises(EEToolkitError) as caught:
        bundle.pack(packed)
    assert str(caught.value) == f"{packed} exists; pass overwrite=True (--overwrite) to replace it"
    assert bundle.pack(packed, overwrite=True) == packed


def test_a_changed_file_is_not_packed(bundle: Bundle, tmp_path: Path) -> None:
    weights = next(bundle.path.glob("*.bin"))
    weights.write_bytes(b"\0" * weights.stat().st_size)
    with pytest.raises(IntegrityError, match=weights.name):
        bundle.pack(tmp_path / "a.zip")
    assert not list(tmp_path.glob("a.zip*"))


def test_packing_where_nothing_can_be_written_is_said(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(EEToolkitError, match=r"a\.zip: the folder .*nowhere does not exist$"):
        bundle.pack(tmp_path / "nowhere" / "a.zip")


def test_packing_leaves_nothing_but_the_archive(packed: Path) -> None:
    assert [path.name for path in packed.parent.glob("whole.zip*")] == ["whole.zip"]


# The cache


def test_an_archive_is_unpacked_once(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(packed)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("unpacked again"))
    assert load(packed).path == first.path


def test_archives_of_one_name_and_other_contents_do_not_meet(packed: Path, tmp_path: Path) -> None:
    other = load(chain(0.25).save(tmp_path / "other.ee")).pack(packed.parent / "more.zip")
    first = load(packed)
    other.replace(packed)
    assert load(packed).path != first.path
    assert load(packed).exits["exit0"].threshold == 0.25


def test_the_caller_may_name_the_cache(packed: Path, cache: Path, tmp_path: Path) -> None:
    assert load(packed, cache=tmp_path / "mine").path.parent == tmp_path / "mine"
    assert not cache.exists()


def test_the_cache_is_in_the_users_cache_folder_where_nobody_names_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EETOOLKIT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "eetoolkit"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert default_cache() == tmp_path / "home" / ".cache" / "eetoolkit"


def test_unpacking_leaves_nothing_but_the_bundle(packed: Path, cache: Path) -> None:
    found = load(packed).path
    assert list(cache.iterdir()) == [found]


@pytest.mark.parametrize("damage", ["changed graph", "missing file", "no manifest"])
def test_a_damaged_cache_is_unpacked_again_since_the_archive_is_whole(packed: Path, damage: str) -> None:
    folder = load(packed).path
    graph = next(folder.glob("*.onnx"))
    if damage == "changed graph":
        graph.write_bytes(b"x" * graph.stat().st_size)
    elif damage == "missing file":
        graph.unlink()
    else:
        (folder / "manifest.json").unlink()
    with Runner(packed, threads=1) as runner:
        assert runner.run(row(0.9)).exit == "exit0"


def test_a_damaged_cache_never_answers(packed: Path) -> None:
    weights = next(load(packed).path.glob("*.bin"))
    whole = weights.read_bytes()
    opened = load(packed)
    with Runner(opened, threads=1) as runner:
        samples = [recorded(runner, row(0.1))]
    for check in (lambda: load(packed, check="full"), lambda: verify(opened, samples), lambda: verify(packed, samples)):
        weights.write_bytes(b"\0" * len(whole))
        check()
        assert weights.read_bytes() == whole


def test_what_killed_unpackers_have_left_goes_whether_or_not_there_is_something_to_unpack(
    packed: Path, cache: Path
) -> None:
    folder = load(packed).path
    others = cache / f"other-{'0' * 16}.partial-abc"
    own, mine = cache / f"{folder.name}.partial-abc", cache / "mine.partial-abc"
    for stale in (own, others, mine):
        stale.mkdir()
        os.utime(stale, (0, 0))
    load(packed)
    assert {path.name for path in cache.iterdir()} == {folder.name, mine.name}


def test_a_user_without_a_home_is_told_what_to_set(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("EETOOLKIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(BundleError, match="set EETOOLKIT_CACHE to a folder"):
        load(packed)


# Archives that are not what they should be


@pytest.mark.parametrize("text", [b"", b"not a zip", b"PK\x03\x04" + b"\0" * 100])
def test_a_file_that_is_no_zip_is_an_integrity_error(tmp_path: Path, cache: Path, text: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(text)
    said = "neither a bundle's folder nor a readable .zip of one; copy or export it again"
    assert refusal(tmp_path / "a.zip") == f"{tmp_path / 'a.zip'} is {said}"


def test_a_zip_without_a_manifest_is_no_bundle(tmp_path: Path, cache: Path) -> None:
    archive = rezip(tmp_path / "a.zip", {"holiday.jpg": b""})
    assert refusal(archive) == f"{archive}: no manifest.json inside; is it a bundle?"


def test_a_zip_whose_manifest_is_in_a_folder_is_no_bundle(packed: Path) -> None:
    inside = {f"whole.ee/{name}": text for name, text in members(packed).items()}
    assert refusal(rezip(packed, inside)) == f"{packed}: no manifest.json inside; is it a bundle?"


def test_a_missing_member_is_found(packed: Path, bundle: Bundle) -> None:
    name = next(iter(bundle.manifest.files))
    contents = members(packed)
    del contents[name]
    assert refusal(rezip(packed, contents)) == f"{packed}: {name} is missing"


@pytest.mark.parametrize("suffix", [".onnx", ".bin"])
@pytest.mark.parametrize("damage", ["changed", "longer", "shorter", "empty"])
def test_a_member_that_is_not_what_the_manifest_says_is_found(
    packed: Path, bundle: Bundle, cache: Path, suffix: str, damage: str
) -> None:
    name = next(name for name in bundle.manifest.files if name.endswith(suffix))
    contents = members(packed)
    text = contents[name]
    contents[name] = {
        "changed": bytes([text[0] ^ 1]) + text[1:],
        "longer": text + b"\0",
        "shorter": text[:-1],
        "empty": b"",
    }[damage]
    assert refusal(rezip(packed, contents)) == (
        f"{packed}: {name} is not what its manifest says; pack or copy it again"
    )
    assert not list(cache.iterdir())


def test_a_member_that_unpacks_to_gigabytes_is_stopped_at_the_size_in_the_manifest(
    packed: Path, bundle: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = next(name for name in bundle.manifest.files if name.endswith(".bin"))
    contents = members(packed) | {name: b"\0" * (64 << 20)}
    rezip(packed, contents)
    assert packed.stat().st_size < 1 << 20
    read = 0
    original = zipfile.ZipExtFile.read

    def counted(self: zipfile.ZipExtFile, n: int | None = -1) -> bytes:
        nonlocal read
        text = original(self, n)
        read += len(text)
        return text

    monkeypatch.setattr(zipfile.ZipExtFile, "read", counted)
    assert "is not what its manifest says" in refusal(packed)
    assert read < 1 << 20


def test_a_manifest_that_unpacks_to_gigabytes_is_refused_unread(packed: Path) -> None:
    contents = members(packed) | {"manifest.json": b" " * ((64 << 20) + 1)}
    assert refusal(rezip(packed, contents)) == f"{packed}: manifest.json is over 8 MiB"


@pytest.mark.parametrize("name", ["../evil.onnx", "/tmp/evil.onnx", "a/../../evil.onnx", "..\\evil.onnx", "C:evil"])  # noqa: S108
def test_a_manifest_that_names_a_file_outside_the_bundle_is_refused(packed: Path, cache: Path, name: str) -> None:
    contents = members(packed)
    manifest = json.loads(contents["manifest.json"])
    manifest["files"][name] = {"sha256": "0" * 64, "size": 4}
    del manifest["digest"]
    rezip(packed, contents | {"manifest.json": seal(json.dumps(manifest).encode()), name: b"evil"})
    with pytest.raises(ManifestError, match="is not a plain file name inside the bundle"):
        load(packed)
    assert not list(packed.parent.rglob("*evil*"))


def test_members_that_the_manifest_does_not_name_stay_inside(packed: Path, tmp_path: Path) -> None:
    rezip(packed, members(packed) | {"../evil.txt": b"", "more.txt": b""})
    folder = load(packed).path
    assert {path.name for path in folder.iterdir()} == {"manifest.json", *load(packed).manifest.files}
    assert not list(tmp_path.rglob("evil.txt"))


def test_an_invalid_plan_is_not_unpacked(packed: Path, bundle: Bundle, cache: Path) -> None:
    edit(bundle.path, start="nowhere")
    rezip(packed, members(packed) | {"manifest.json": (bundle.path / "manifest.json").read_bytes()})
    with pytest.raises(ManifestError, match="start is 'nowhere'"):
        load(packed)
    assert not cache.exists() or not list(cache.iterdir())


def test_an_archive_damaged_anywhere_is_a_typed_error_or_still_whole(packed: Path, bundle: Bundle, cache: Path) -> None:
    rng = random.Random(0)  # noqa: S311 - a seeded generator of tests, not a secret
    whole = packed.read_bytes()
    found: dict[str, str] = {}
    for _ in range(400):
        text = bytearray(whole)
        kind = rng.randrange(3)
        if kind == 0:
            text[rng.randrange(len(text))] ^= 1 << rng.randrange(8)
        elif kind == 1:
            text = text[: rng.randrange(len(text))]
        else:
            for _ in range(4):
                text[rng.randrange(len(text))] = rng.randrange(256)
        packed.write_bytes(text)
        try:
            assert load(packed).manifest.files == bundle.manifest.files
        except EEToolkitError:
            pass
        except Exception as error:  # noqa: BLE001 - what must not happen is collected
            found[type(error).__name__] = str(error)
        shutil.rmtree(cache, ignore_errors=True)
    assert not found


def test_a_damaged_stream_of_a_member_is_an_integrity_error(packed: Path, bundle: Bundle) -> None:
    with zipfile.ZipFile(packed) as archive:
        info = archive.getinfo(next(name for name in bundle.manifest.files if name.endswith(".onnx")))
        start = info.header_offset + 30 + len(info.filename) + 20
    text = bytearray(packed.read_bytes())
    text[start : start + 40] = b"\xff" * 40
    packed.write_bytes(text)
    assert refusal(packed).startswith(str(packed))


def test_unpacking_where_nothing_can_be_written_is_a_bundle_error(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BundleError, match=r"^cannot write "):
        unpack(packed, tmp_path / "file" / "cache")


def test_a_disk_that_fills_up_while_unpacking_is_a_bundle_error(
    packed: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Path.open

    def full(self: Path, mode: str = "r", *args: object) -> object:
        if "w" in mode:
            raise OSError(28, "No space left on device")
        return original(self, mode, *args)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(BundleError, match="No space left on device"):
        unpack(packed)
    assert not list(cache.iterdir())
