"""Verbs on another machine by ssh: what they say here, profiles that tuning takes, one line for what fails."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sshd
from click.testing import CliRunner, Result
from plans import chain, recorded, row

import eetoolkit as ee
from eetoolkit.cli import main
from eetoolkit.cli.device import profiling_there
from eetoolkit.remote.job import PICTURES, named_on_device
from eetoolkit.remote.ssh import Ssh
from eetoolkit.remote.wheel import requirements

X = np.random.default_rng(0).uniform(0, 1, (40, 4)).astype(np.float32)
LABELS = np.arange(40) % 2
QUICK = ("--threads", "1", "--pool", "own", "--seconds", "0")


def serve(folder: Path, environment: dict[str, str]) -> Iterator[sshd.Device]:
    try:
        with sshd.running(folder, environment) as device:
            yield device
    except sshd.UnavailableError as error:
        print(f"\nNOT TESTED: verbs over ssh: {error}", file=sys.__stderr__)
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Device]:
    """A device whose Python is this one, with this code."""
    here = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path and "site-packages" not in path)}
    yield from serve(tmp_path_factory.mktemp("device") / "s", here)


@pytest.fixture(autouse=True)
def ssh(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has `ssh` read the test's configuration, as it reads the user's."""
    if "device" in request.fixturenames:
        configure(request.getfixturevalue("device"), tmp_path, monkeypatch)


def configure(device: sshd.Device, folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    own = shutil.which("ssh", path=os.environ["PATH"].removeprefix(f"{folder / 'own'}:"))
    stand_in(folder / "own", "ssh", f'exec {own} -F {device.folder}/ssh_config {" ".join(options)} "$@"')
    if not os.environ["PATH"].startswith(str(folder / "own")):
        monkeypatch.setenv("PATH", f"{folder / 'own'}:{os.environ['PATH']}")


def stand_in(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    with ee.Runner(chain(0.5, 0.5).save(tmp_path / "source"), threads=1) as runner:
        samples = [recorded(runner, row(k, 1, 0, 0)) for k in (0, 1)]
    draft = chain(0.5, 0.5)
    draft.samples = samples
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "data.npz", x=X, labels=LABELS)
    return draft.save(tmp_path / "chain.ee")


def there(verb: str, *arguments: object, python: str = sys.executable, on: str = "device") -> Result:
    return CliRunner().invoke(main, [verb, *map(str, arguments), "--on", on, "--python", python])


def refusal(result: Result) -> str:
    """Returns the one line that a failed verb says."""
    assert result.exit_code == 1, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    return line


def kept(device: sshd.Device) -> list[str]:
    base = device.cache / "eetoolkit-device"
    return sorted(str(path.relative_to(base)) for path in base.glob("*/*")) if base.exists() else []


def test_a_profile_of_another_machine_is_saved_here_and_tuning_takes_it(
    device: sshd.Device, bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "pi.json"
    asked = ("--inputs", tmp_path / "data.npz", "--output", out, "--save", "--svg", tmp_path / "pi.svg")
    done = there("profile", bundle, *asked, *QUICK)
    assert done.exit_code == 0, done.output
    found = ee.Profile.read(out)
    assert found == ee.Profile.read(bundle)  # --save
    assert (found.rows, found.threads, found.pool) == (40, 1, "own")
    assert found.accuracy is not None
    assert "segment0" in done.stdout
    assert (tmp_path / "pi.svg").stat().st_size > 0
    report = ee.tune(bundle, X, LABELS, profile=out, max_accuracy_drop=0.5, calibrate=False, threads=1)
    assert report.unit == "ms"
    tuned = CliRunner().invoke(
        main, ["tune", str(bundle), "--data", str(tmp_path / "data.npz"), "--profile", str(out), "--json",
               "--max-accuracy-drop", "0.5", "--threads", "1"]
    )  # fmt: skip
    assert tuned.exit_code == 0, tuned.output


def test_a_bundle_is_profiled_by_given_rows_and_clean_leaves_nothing_in_the_end(
    device: sshd.Device, bundle: Path, tmp_path: Path
) -> None:
    opened = ee.load(bundle)
    np.savez(tmp_path / "row0.npz", x=X[:5])
    there = profiling_there(
        {"row0.npz": tmp_path / "row0.npz"}, QUICK, on="device", python=sys.executable, clean=True,
        show=lambda *_: None,
    )  # fmt: skip
    with there as profile:
        found = profile(opened)
        assert kept(device)  # for the next bundle
    assert (found.rows, found.threads) == (5, 1)
    assert list(found.segments) == list(opened.manifest.segments)
    assert kept(device) == []


def test_the_bundle_is_sent_once_and_clean_leaves_nothing(device: sshd.Device, bundle: Path) -> None:
    assert there("verify", bundle, "--clean").exit_code == 0
    assert not (device.cache / "eetoolkit-device").exists()
    assert there("verify", bundle).exit_code == 0
    (folder,) = kept(device)  # no job is left
    assert folder.startswith("bundles/")
    manifest = device.cache / "eetoolkit-device" / folder / "chain.ee/manifest.json"
    before = manifest.stat()
    assert there("verify", bundle).exit_code == 0
    assert manifest.stat().st_ino == before.st_ino
    assert there("verify", bundle, "--clean").exit_code == 0
    assert not (device.cache / "eetoolkit-device").exists()


def test_run_verify_and_doctor_say_there_what_they_say_here(device: sshd.Device, bundle: Path, tmp_path: Path) -> None:
    x = tmp_path / "x.npy"
    for verb, arguments in {
        "run": (bundle, x, "--threads", "1", "--pool", "own", "--threshold", "exit0=0.7"),
        "verify": (bundle,),
    }.items():
        here = CliRunner().invoke(main, [verb, *map(str, arguments)])
        done = there(verb, *arguments)
        assert done.exit_code == here.exit_code == 0, done.output
        expected = here.stdout.replace(str(x), "x.npy").splitlines()
        told = done.stdout.splitlines()
        assert [line.split(" in ")[0] for line in told] == [line.split(" in ")[0] for line in expected]
    doctor = there("doctor", bundle, "--seconds", "0", "--json")
    assert {finding["name"] for finding in json.loads(doctor.stdout)} >= {"machine", "bundle", "verify"}
    alone = there("doctor", "--json")
    assert "bundle" not in {finding["name"] for finding in json.loads(alone.stdout)}


def test_what_a_verb_fails_of_there_is_its_error_here(device: sshd.Device, bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "wide.npy", np.zeros((1, 5), np.float32))
    assert "error: on device: " in refusal(there("run", bundle, tmp_path / "wide.npy"))
    (bundle / "manifest.json").write_text("{}")
    assert "on device" not in refusal(there("verify", bundle))  # seen before it is sent


def test_what_has_no_meaning_there_is_refused(device: sshd.Device, bundle: Path, tmp_path: Path) -> None:
    for verb, *arguments in (
        ("profile", bundle, "--trace", tmp_path / "t.json"),
        ("verify", bundle, "--model", "a.onnx"),
        ("verify", bundle, "--accept-edit"),
    ):
        done = there(str(verb), *arguments)
        assert done.exit_code == 2
        assert "does not go with --on" in done.output
    assert "- does not exist; what runs on device is sent there" in refusal(there("run", bundle, "-"))


# What may be wrong


def fails(bundle: Path, on: str = "device", python: str = sys.executable) -> str:
    return refusal(there("verify", bundle, on=on, python=python)).removeprefix(f"error: {on}: ")


def test_a_device_without_a_python_that_will_do_says_which_is_needed(
    device: sshd.Device, bundle: Path, tmp_path: Path
) -> None:
    assert fails(bundle, python="python9").startswith("there is no python9; install it (sudo apt install python3")
    told = '{"python": [3, %s], "bits": %s, "venv": %s, "eetoolkit": null}'
    for minor, bits, venv, expected in (
        (9, 64, "true", "is Python 3.9, 3.11 or newer is needed; name another with --python"),
        (13, 32, "true", "its system has 32 bits, for which there is no onnxruntime; install a 64-bit one"),
        (13, 64, "false", "Raspberry Pi OS: sudo apt install python3-venv"),
    ):
        python = stand_in(tmp_path, "python", f"echo '{told % (minor, bits, venv)}'")
        assert fails(bundle, python=str(python)).endswith(expected)


def python_whose_pip(folder: Path, says: str) -> str:
    """Returns a Python that makes environments in which pip fails."""
    pip = f"echo '{says}' >&2; exit 1"
    stand_in(folder, "broken", pip)
    told = '{"python": [3, 13], "bits": 64, "venv": true, "eetoolkit": null}'
    script = f'case "$2" in venv) mkdir -p "$3/bin"; cp {folder}/broken "$3/bin/python";; *) echo \'{told}\';; esac'
    return str(stand_in(folder, "python", script))


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        ("WARNING: Retrying after NewConnectionError: Temporary failure in name resolution", "it has no network"),
        ("OSError: [Errno 28] No space left on device", "its disk is full; make room there"),
        ("ERROR: No matching distribution found for onnxruntime>=1.21", "installing: ERROR: No matching distribution"),
    ],
)
def test_libraries_that_cannot_be_had_leave_no_half_environment(
    device: sshd.Device, bundle: Path, tmp_path: Path, says: str, expected: str
) -> None:
    python = python_whose_pip(tmp_path, says)
    for _ in range(2):  # the second time, it does not take what is there for ready
        assert expected in fails(bundle, python=python)
    assert not [folder for folder in kept(device) if not folder.startswith("bundles/")]


def test_a_full_disk_leaves_no_half_bundle(device: sshd.Device, bundle: Path) -> None:
    there("verify", bundle, "--clean")
    tar = stand_in(device.folder / "bin", "tar", "cat >/dev/null; echo 'tar: No space left on device' >&2; exit 2")
    where = subprocess.run(["ssh", "device", "command -v tar"], capture_output=True, text=True, check=True).stdout
    assert where.strip() == str(tar)
    try:
        assert "sending files: its disk is full; make room there, or pass --clean once" in fails(bundle)
    finally:
        tar.unlink()
    assert kept(device) == []


def test_a_device_that_cannot_be_reached_says_why(
    device: sshd.Device, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = next(line.split()[1] for line in (device.folder / "ssh_config").read_text().splitlines() if "Port" in line)
    assert fails(bundle, on="ssh://127.0.0.1:9").startswith("nothing listens there; is ssh enabled")
    assert fails(bundle, on="no-such-host.invalid").startswith("there is no such host; expected USER@HOST")
    assert fails(bundle, on=f"ssh://nobody@127.0.0.1:{port}").startswith("it refuses the login; try ssh ssh://nobody@")
    assert "'-oProxyCommand=x' is no device" in refusal(there("verify", bundle, on="-oProxyCommand=x"))
    (tmp_path / "none").touch()
    configure(device, tmp_path, monkeypatch, f"-o UserKnownHostsFile={tmp_path}/none")
    assert fails(bundle) == "its host key is not known; log in once to accept it: ssh device"
    known = (device.folder / "known_hosts").read_text().split()
    other = (device.folder / "key.pub").read_text().split()
    (tmp_path / "none").write_text(f"{known[0]} {other[0]} {other[1]}\n")
    assert fails(bundle).startswith("its host key has changed; if that is right: ssh-keygen -R device")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert fails(bundle) == "error: cannot start ssh: No such file or directory; is it installed here?"


def endless(folder: Path) -> tuple[str, Path]:
    """Returns a Python that works until it is ended, and where its number is then."""
    number = folder / "number"
    told = json.dumps({"python": [3, 13], "bits": 64, "venv": True, "eetoolkit": ee.__version__})
    script = f"case \"$1\" in -m) echo $$ >{number}; exec sleep 600;; *) echo '{told}';; esac"
    return str(stand_in(folder, "python", script)), number


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{process}/stat").read_text().split()[2]


def wait_for(condition: object) -> None:
    until = time.monotonic() + 30
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until
        time.sleep(0.05)


@contextlib.contextmanager
def started(bundle: Path, folder: Path, *more: object) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Gives a verb that runs on the device, and the number of its process there."""
    python, number = endless(folder)
    # A shell's background job, as this test run may be, hands its children an ignored SIGINT.
    start = "import signal, eetoolkit.cli as cli; signal.signal(signal.SIGINT, signal.default_int_handler); cli.main()"
    command = [sys.executable, "-c", start, "profile", str(bundle), "--on", "device", "--python", python]
    process = subprocess.Popen(
        [*command, *map(str, more)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        wait_for(lambda: number.exists() and number.read_text().strip())
        yield process, int(number.read_text())
    finally:
        process.kill()
        process.communicate()


def test_ctrl_c_ends_the_work_there_too(device: sshd.Device, bundle: Path, tmp_path: Path) -> None:
    with started(bundle, tmp_path, "--output", tmp_path / "pi.json") as (process, number):
        assert alive(number)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "nothing was written" in said
        wait_for(lambda: not alive(number))
    assert not (tmp_path / "pi.json").exists()
    assert not [folder for folder in kept(device) if folder.startswith("jobs/")]


def test_a_lost_connection_is_said_and_ends_the_work_there(device: sshd.Device, bundle: Path, tmp_path: Path) -> None:
    with started(bundle, tmp_path, "--output", tmp_path / "pi.json") as (process, number):
        children = Path(f"/proc/{device.process.pid}/task/{device.process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 1
        assert said.strip().endswith("error: device: the connection was lost; nothing was saved here, run it again")
        wait_for(lambda: not alive(number))
    assert not (tmp_path / "pi.json").exists()


def test_what_links_lead_to_is_sent(device: sshd.Device, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "link.npy").symlink_to(tmp_path / "x.npy")
    done = there("run", bundle, tmp_path / "link.npy", "--threads", "1")
    assert done.exit_code == 0, done.output
    assert len(done.stdout.splitlines()) == len(X)


def test_a_copy_of_a_bundle_takes_nothing_from_who_runs_it(device: sshd.Device, bundle: Path, tmp_path: Path) -> None:
    assert there("verify", bundle).exit_code == 0
    (sent,) = device.cache.glob("eetoolkit-device/bundles/*/chain.ee/manifest.json")
    before = sent.stat().st_ino
    assert there("verify", shutil.copytree(bundle, tmp_path / "copy.ee")).exit_code == 0
    assert sent.stat().st_ino == before


def test_a_file_that_cannot_be_read_is_said(device: sshd.Device, tmp_path: Path) -> None:
    with contextlib.closing(Ssh("device")) as reached, pytest.raises(ee.DeviceError, match=r"cannot send: .*gone"):
        reached.put({"first": b"", "second": tmp_path / "gone"}, str(device.cache / "sent"))


def test_two_files_of_one_name_are_told_apart(device: sshd.Device, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    np.save(tmp_path / "one.npy", X[:1])
    np.save(tmp_path / "more/one.npy", X[1:2])
    done = there("run", bundle, tmp_path / "one.npy", tmp_path / "more/one.npy", "--threads", "1")
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["one.npy", "1/one.npy"]
    assert list(named_on_device([tmp_path / "more" / ".."])) == [tmp_path.name]


# The device's own environment


def test_an_environment_is_made_once_of_what_is_installed_here(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = getattr(sys, "_base_executable", sys.executable)
    for device in serve(tmp_path / "s", {"PIP_NO_COMPILE": "0"}):  # pip reads it as --no-compile
        configure(device, tmp_path, monkeypatch)
        out = tmp_path / "pi.json"
        done = there("profile", bundle, "--output", out, "--quick", python=python)
        if "it has no network" in done.output:
            print("\nNOT TESTED: a device's environment: its libraries cannot be had", file=sys.__stderr__)
            pytest.skip("the libraries of a device cannot be had")
        assert done.exit_code == 0, done.output
        assert ee.Profile.read(out).rows == 2
        (environment,) = (device.cache / "eetoolkit-device").glob("python-*")
        (library,) = environment.glob("lib/python*/site-packages")
        assert (library / "eetoolkit_runtime/errors.py").exists()
        assert not (library / "eetoolkit_exporters").exists()
        assert not (library / "torch").exists()
        made = (environment / "pyvenv.cfg").stat().st_ino
        assert there("run", bundle, tmp_path / "x.npy", python=python).exit_code == 0
        assert (environment / "pyvenv.cfg").stat().st_ino == made
        assert {folder.split("/")[0] for folder in kept(device)} == {"bundles", environment.name}  # no job is left


def test_what_a_device_needs_is_the_base_install() -> None:
    assert {needed.split(">")[0] for needed in requirements()} == {"numpy", "onnxruntime", "msgspec", "click", "rich"}
    assert all(needed.startswith("pillow") for needed in PICTURES)


def test_no_connection_is_left_open(device: sshd.Device) -> None:
    one = Ssh("device")
    assert one.run("exec echo here").stdout == b"here\n"
    socket = Path(one._folder) / "s"
    assert socket.exists()
    one.close()
    assert not socket.parent.exists()
