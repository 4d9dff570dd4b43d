"""A file is written whole or not at all."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from eetoolkit_runtime.errors import EEToolkitError
from eetoolkit_runtime.files.outfile import check_file, writing, writing_together


def write(target: Path, text: bytes, *, overwrite: bool = False) -> None:
    with writing(target, overwrite=overwrite) as file:
        file.write(text)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_has_the_mode_that_the_user_gives_new_files(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write(tmp_path / "a", b"new")
    finally:
        os.umask(before)
    assert (tmp_path / "a").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_what_fails_on_the_way_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "a", b"old")

    def fail() -> None:
        with writing(tmp_path / "a", overwrite=True) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]


def test_who_reads_the_old_file_meanwhile_reads_all_of_it(tmp_path: Path) -> None:
    write(tmp_path / "a", b"the old text, the longer one")
    with (tmp_path / "a").open("rb", buffering=0) as old:
        half = old.read(7)
        with writing(tmp_path / "a", overwrite=True) as file:
            file.write(b"new")
            made = os.fstat(file.fileno()).st_ino
        assert half + old.read() == b"the old text, the longer one"
    assert (tmp_path / "a").stat().st_ino == made, "what was written is what is there, not a copy of it"


KILLED = """
import os, signal, sys
from eetoolkit_runtime.files.outfile import writing

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(lambda event, arguments: kill() if event == "os.rename" else None)
with writing(sys.argv[1], overwrite=True) as file:
    file.write(b"new")
"""


def test_a_kill_before_the_last_step_leaves_the_old_file(tmp_path: Path) -> None:
    write(tmp_path / "a", b"old")
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "a"], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "a").read_bytes() == b"old"
    (partial,) = (path for path in tmp_path.iterdir() if path.name != "a")
    assert partial.read_bytes() == b"new", "all of it is written before the step"


def test_all_bytes_are_on_the_disk_before_the_file_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[str, int, int]] = []
    sync, replace = os.fsync, Path.replace

    def record_sync(handle: int) -> None:
        steps.append(("fsync", os.fstat(handle).st_ino, os.fstat(handle).st_size))
        sync(handle)

    def record_replace(source: Path, target: Path) -> Path:
        steps.append(("replace", source.stat().st_ino, source.stat().st_size))
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(Path, "replace", record_replace)
    write(tmp_path / "a", b"all of it")
    inode = (tmp_path / "a").stat().st_ino
    assert steps == [("fsync", inode, 9), ("replace", inode, 9)]


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    def fill() -> None:
        with writing(tmp_path / "a", overwrite=False):
            raise OSError(28, "No space left on device")

    with pytest.raises(EEToolkitError, match=r"^cannot write .*a: No space left on device$"):
        fill()
    assert not list(tmp_path.iterdir())


def test_files_that_belong_together_take_their_places_when_all_are_written(tmp_path: Path) -> None:
    places = [tmp_path / name for name in "ab"]

    def write_both(text: bytes, meanwhile: bytes | None = None) -> None:
        with writing_together(places, overwrite=meanwhile is None) as files:
            for file in files:
                file.write(text)
            if meanwhile is not None:
                places[1].write_bytes(meanwhile)

    with pytest.raises(EEToolkitError, match="b exists; pass overwrite=True"):
        write_both(b"mine", b"theirs")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("b", b"theirs")]
    write_both(b"mine")
    assert [path.read_bytes() for path in places] == [b"mine", b"mine"]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_that_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    def race() -> None:
        with writing(tmp_path / "a", overwrite=False) as file:
            file.write(b"mine")
            (tmp_path / "a").write_bytes(b"theirs")

    with pytest.raises(EEToolkitError, match="exists; pass overwrite=True"):
        race()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"theirs")]


def test_what_a_link_leads_to_is_written_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    write(tmp_path / "there" / "a", b"old")
    (tmp_path / "link").symlink_to(tmp_path / "there" / "a")
    write(tmp_path / "link", b"new", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "a").read_bytes() == b"new"


def test_what_cannot_be_written_is_said_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a", b"")
    os.mkfifo(tmp_path / "pipe")
    for place, overwrite, said in (
        (tmp_path / "a", False, r"a exists; pass overwrite=True \(--overwrite\) to replace it$"),
        (tmp_path, True, "is a folder; name a file, such as .*NAME$"),
        (tmp_path / "pipe", True, "pipe is no file; choose another name$"),
        (tmp_path / "none" / "a", False, "the folder .*none does not exist$"),
    ):
        with pytest.raises(EEToolkitError, match=said):
            check_file(place, overwrite=overwrite)
    assert check_file(str(tmp_path / "a"), overwrite=True) == tmp_path / "a"
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)  # root may write everywhere
    with pytest.raises(EEToolkitError, match=r"the folder .* cannot be written to$"):
        check_file(tmp_path / "b", overwrite=False)


def test_an_old_file_keeps_its_mode_and_what_a_killed_writer_left_goes(tmp_path: Path) -> None:
    write(tmp_path / "a", b"old")
    (tmp_path / "a").chmod(0o600)
    stale, fresh, other = (tmp_path / name for name in ("a.partial-1", "a.partial-2", "ab.partial-1"))
    for path in (stale, fresh, other):
        path.write_bytes(b"half")
    for path in (stale, other):
        os.utime(path, (0, 0))
    write(tmp_path / "a", b"new", overwrite=True)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"a", fresh.name, other.name}


def test_a_path_that_no_system_takes_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(EEToolkitError, match=r"^cannot write .*File name too long$"):
        check_file(tmp_path / ("a" * 300), overwrite=False)
