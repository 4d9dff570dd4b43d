"""Profiles of an Android phone by adb, which is a script here, as is the native program: the way there and back."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from plans import chain

import eetoolkit as ee
from eetoolkit.cli import main
from eetoolkit.remote.adb import LIBRARY, NATIVE, PROGRAM

_ADB = r"""
serial=phone
if [ "$1" = -s ]; then serial="$2"; shift 2; fi
echo "$serial $*" >>"$STATE/log"
[ -e "$STATE/fails" ] && { cat "$STATE/fails" >&2; exit 1; }
root() { sed "s#/data/local/tmp#$STATE/phone#g"; }
case "$1" in
shell|exec-out) exec sh -c "$(printf %s "$2" | root)";;
push) to=$(printf %s "$3" | root); mkdir -p "$(dirname "$to")"; cp -rP "$2" "$to";;  # links stay links
esac
"""
_PROFILER = """
[ -e libonnxruntime.so ] && [ "$LD_LIBRARY_PATH" = . ] || exit 3
[ -e "$1/manifest.json" ] || { echo "error: $1 is no bundle" >&2; exit 1; }
echo "measuring, 1 of 5, 10 s" >&2
echo "$@" >"$STATE/asked"
[ "$2" = --output ] && cp "$STATE/profile.json" "$3"
"""


def stand_in(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}")
    path.chmod(0o755)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return chain(0.5, 0.5).save(tmp_path / "chain.ee")


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: Path) -> Path:
    """Returns the folder that stands for the phone's /data/local/tmp, beside what adb was asked."""
    state = tmp_path / "state"
    stand_in(tmp_path / "bin/adb", _ADB)
    stand_in(tmp_path / "native" / PROGRAM, _PROFILER)
    (tmp_path / "native" / LIBRARY).write_bytes(b"onnxruntime")
    (state / "phone").mkdir(parents=True)
    x = np.random.default_rng(0).uniform(0, 1, (8, 4)).astype(np.float32)
    ee.profile(bundle, x, threads=1, seconds=0).write(state / "profile.json")
    monkeypatch.setenv("STATE", str(state))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv(NATIVE, str(tmp_path / "native"))
    return state / "phone"


def profiled(bundle: Path, *arguments: object) -> Result:
    return CliRunner().invoke(main, ["profile", str(bundle), *map(str, arguments)])


def test_a_phones_profile_is_saved_here_and_tuning_takes_it(phone: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "phone.json"
    done = profiled(bundle, "--threads", "2", "--quick", "--output", out, "--save", "--adb")
    assert done.exit_code == 0, done.output
    assert ee.Profile.read(out) == ee.Profile.read(phone.parent / "profile.json") == ee.Profile.read(bundle)
    asked = (phone.parent / "asked").read_text().split()
    assert asked[1:3] == ["--output", "profile.json"]
    assert set(asked[3:]) == {"--threads=2", "--seconds=1.0"}
    x = np.random.default_rng(1).uniform(0, 1, (40, 4)).astype(np.float32)
    assert ee.tune(bundle, x, np.arange(40) % 2, profile=out, max_accuracy_drop=0.5, calibrate=False).unit == "ms"


def test_nothing_is_left_but_the_bundle_and_with_clean_nothing(phone: Path, bundle: Path) -> None:
    assert profiled(bundle, "--adb").exit_code == 0
    left = {path.relative_to(phone).parts[1] for path in phone.rglob("*") if path.is_file()}
    assert left == {"bundles"}
    assert profiled(bundle, "--clean", "--adb", "serial7").exit_code == 0
    assert list(phone.iterdir()) == []
    assert (phone.parent / "log").read_text().splitlines()[-1].startswith("serial7 shell")


def refusal(result: Result) -> str:
    assert result.exit_code == 1, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    return line.removeprefix("error: ")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("adb: no devices/emulators found", "the phone: no phone is connected; switch on USB debugging"),
        ("adb: device unauthorized.", "the phone: it asks whether it may be debugged by this machine"),
        ("adb: more than one device/emulator", "the phone: several phones are connected; name one: --adb SERIAL"),
        ("error: device offline", "the phone: it is offline; unplug it"),
        ("adb: device 'x' not found", "the phone: no such phone is connected; look at `adb devices`"),
        ("adb: error: failed to copy: No space left on device", "the phone: adb: its disk is full"),
    ],
)
def test_a_phone_that_cannot_be_used_says_why(phone: Path, bundle: Path, said: str, expected: str) -> None:
    (phone.parent / "fails").write_text(said + "\n")
    assert refusal(profiled(bundle, "--adb")).startswith(expected)


def test_what_the_program_fails_of_is_the_error(phone: Path, bundle: Path, tmp_path: Path) -> None:
    stand_in(tmp_path / "native" / PROGRAM, "echo 'error: segment0: no such operator' >&2; exit 1\n")
    out = tmp_path / "phone.json"
    assert refusal(profiled(bundle, "--output", out, "--adb")) == "on the phone: segment0: no such operator"
    stand_in(tmp_path / "native" / PROGRAM, "exit 139\n")
    assert refusal(profiled(bundle, "--output", out, "--adb")) == "on the phone: the profile ended with exit status 139"
    assert not out.exists()


def test_the_native_programs_must_be_named_and_whole(
    phone: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "native" / LIBRARY).unlink()
    assert refusal(profiled(bundle, "--adb")).endswith(f"native has no {LIBRARY}; expected those for arm64 Android")
    monkeypatch.delenv(NATIVE)
    assert refusal(profiled(bundle, "--adb")).startswith(f"--native FOLDER or {NATIVE} must name the folder")
    for option, value in (("--whole", "w.onnx"), ("--inputs", "x.npy"), ("--pool", "own"), ("--on", "pi")):
        done = profiled(bundle, option, value, "--adb")
        assert done.exit_code == 2
        assert "--adb" in done.output
