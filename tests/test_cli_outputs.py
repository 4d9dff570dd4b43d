"""What a verb writes: refused before any work where it cannot be written, told where the work is interrupted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from shell import QUICK, call, laid_out

import eetoolkit as ee
import eetoolkit.demo.exporting
import eetoolkit.zoo.train
from eetoolkit_runtime.bundle.bundle import load

PROFILE = ("profile", "b.ee", *QUICK)
TUNE = ("tune", "b.ee", "--data", "val.npz")
WRITERS: dict[str, tuple[str, ...]] = {
    "profile --output": (*PROFILE, "--output"),
    "profile --trace": (*PROFILE, "--trace"),
    "profile --svg": (*PROFILE, "--svg"),
    "profile --png": (*PROFILE, "--png"),
    "profile --show --output": ("profile", "--show", "p.json", "--output"),
    "tune --report": (*TUNE, "--report"),
    "tune --record": (*TUNE, "--record"),
    "tune --prune": (*TUNE, "--prune"),
    "truncate --output": ("truncate", "b.ee", "--at", "exit0", "--output"),
    "pack --output": ("pack", "b.ee", "--output"),
    "pack --single-file --output": ("pack", "b.ee", "--single-file", "--output"),
    "export --output": ("export", "net.onnx", "--output"),
    "export --model --output": ("export", "--model", "no.such:network", "--input", "x:1x4", "--output"),
    "adapt --output": ("adapt", "net.onnx", "--data", "val.npz", "--output"),
    "adapt --report": ("adapt", "net.onnx", "--data", "val.npz", "--output", "never.ee", "--report"),
    "demo --output": ("demo", "--output"),
    "demo --picture": ("demo", "--output", "never.ee", "--picture"),
    "zoo train --output": ("zoo", "train", "act", "--output"),
}
"""Command lines by what they write; the name of it comes last."""
CHANGERS: dict[str, tuple[str, ...]] = {
    "profile --save": (*PROFILE, "--save"),
    "tune --apply": (*TUNE, "--apply"),
    "tune --undo": ("tune", "b.ee", "--undo"),
    "verify --accept-edit": ("verify", "b.ee", "--accept-edit"),
}
"""Command lines that change the bundle where it is."""


@pytest.fixture(scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with laid_out(tmp_path_factory.mktemp("outputs")) as folder:
        yield folder


@pytest.fixture
def folder(_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the working directory, where no verb may begin to work."""

    def work(*_: Any, **__: Any) -> None:
        raise AssertionError("it works before it knows that it can write")

    for name in (
        "profile",
        "tune",
        "trace",
        "load",
        "truncate",
        "export",
        "add_exits",
        "undo_tuning",
        "accept_edit",
    ):
        monkeypatch.setattr(ee, name, work, raising=False)
    monkeypatch.setattr(eetoolkit.demo.exporting, "export_system", work)
    monkeypatch.setattr(eetoolkit.zoo.train, "fit", work)
    return _folder


def close_folders(patch: pytest.MonkeyPatch) -> None:
    """Has every folder be another user's, for the tests may run as root."""
    access = os.access
    patch.setattr(os, "access", lambda place, mode: mode != os.W_OK and access(place, mode))


def refused(*arguments: str) -> str:
    done = call(*arguments)
    assert (done.exit_code, done.stdout) == (1, ""), done.output
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize("name", WRITERS)
def test_what_cannot_be_written_is_refused_before_any_work(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "mine").mkdir(exist_ok=True)
    (folder / "mine" / "text").write_text("mine")
    for target in ("mine", "mine/text/in a file"):
        if target != "mine" or name != "zoo train --output":  # which writes into a folder
            assert "mine" in refused(*WRITERS[name], target)
    close_folders(monkeypatch)
    assert "cannot be written to" in refused(*WRITERS[name], "fresh")
    assert [path.name for path in (folder / "mine").iterdir()] == ["text"]
    assert not (folder / "fresh").exists()


@pytest.mark.parametrize("name", CHANGERS)
def test_a_bundle_that_cannot_be_changed_is_refused_before_any_work(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = [word.replace("b.ee", "packed.zip") for word in CHANGERS[name]]
    (folder / "packed.zip").touch()
    assert refused(*packed) == f"error: packed.zip is packed; {name.split()[1]} needs the bundle's folder\n"
    close_folders(monkeypatch)
    assert refused(*CHANGERS[name]) == "error: cannot write b.ee: the folder . cannot be written to\n"


@pytest.mark.parametrize("name", [name for name in WRITERS if not name.startswith(("tune --record", "demo"))])
def test_what_is_there_is_kept_and_what_is_read_is_never_written_over(folder: Path, name: str) -> None:
    made = folder / "there"
    if name in ("tune --prune", "truncate --output") or name.startswith(("export", "adapt --output")):
        shutil.copytree(folder / "b.ee", made)
    elif name == "zoo train --output":
        made.mkdir()
        (made / "act.safetensors").write_text("mine")
    else:
        made.write_text("mine")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert "there" in refused(*WRITERS[name], "there")
    if name.startswith(("profile", "tune", "pack", "inspect", "truncate")):
        for read in {"b.ee", "p.json", "val.npz"} & set(WRITERS[name]):
            refused(*WRITERS[name], read, "--overwrite")
        if "b.ee" in WRITERS[name]:
            assert "lies in the bundle b.ee" in refused(*WRITERS[name], "b.ee/x")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    shutil.rmtree(made) if made.is_dir() else made.unlink()


def test_two_files_of_one_name_are_refused(folder: Path) -> None:
    told = refused(*PROFILE, "--svg", "one", "--png", "./one")
    assert told == "error: --svg and --png are both one; name two\n"


@pytest.mark.parametrize(
    ("arguments", "written", "told"),
    [
        ((*PROFILE, "-o", "out.json"), None, "nothing was written"),
        ((*TUNE, "--record", "new.npz"), "new.npz", "new.npz was written; the same command goes on from there"),
        (("truncate", "b.ee", "--at", "exit0", "-o", "s.ee"), None, "nothing was written"),
        (("export", "net.onnx", "-o", "new.ee"), "new.ee", "new.ee was written"),
        (
            ("adapt", "net.onnx", "--data", "val.npz", "-o", "new.ee"),
            None,
            "nothing was written; features and heads are kept; the same command goes on from there",
        ),
        (("inspect", "b.ee"), None, None),
    ],
)
def test_ctrl_c_says_what_was_written(
    folder: Path,
    arguments: tuple[str, ...],
    written: str | None,
    told: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def work(*_: Any, **__: Any) -> None:
        if written is not None:
            (folder / written).write_text("some of it")
        raise KeyboardInterrupt

    for verb in ("load", "tune", "export", "truncate", "add_exits"):
        if verb != "load" or arguments[0] != "tune":
            monkeypatch.setattr(ee, verb, work, raising=False)
        else:
            monkeypatch.setattr(ee, "load", load)
    done = call(*arguments)
    assert (done.exit_code, done.stdout) == (130, "")
    assert done.stderr == ("" if told is None else f"interrupted: {told}\n")
    if written is not None:
        (folder / written).unlink()
