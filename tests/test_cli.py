"""The front door: help, errors, exit statuses, and what it must not import."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import plans
import pytest
from click.testing import CliRunner

import eetoolkit as ee
from eetoolkit.cli import main

HEAVY = ("torch", "onnx", "onnx_ir", "eetoolkit_exporters", "sklearn", "matplotlib")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plans.chain().save(tmp_path_factory.mktemp("cli") / "chain.ee")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, np.concatenate([plans.row(0.9), plans.row(0.1, 0.2, 0.3)]))
    return path


def shell(*arguments: str | Path, before: str = "", **options: object) -> subprocess.CompletedProcess[str]:
    """Runs the command line in a process of its own, after some Python code."""
    code = f"import sys; {before}\nfrom eetoolkit.cli import main\nmain(sys.argv[1:], prog_name='eetoolkit')"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)  # type: ignore[call-overload,no-any-return]


def imported(*arguments: str | Path, before: str = "") -> set[str]:
    """Returns which heavy packages a command has imported by its end."""
    note = f"import atexit; {before}\natexit.register(lambda: print(*set(sys.modules) & set({HEAVY!r}), sep=','))"
    done = shell(*arguments, before=note)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split(",")) - {""}


def test_help_lists_every_verb_in_the_order_of_use() -> None:
    text = CliRunner().invoke(main, ["--help"]).stdout
    verbs = [
        "demo",
        "adapt",
        "export",
        "inspect",
        "verify",
        "run",
        "profile",
        "profiles",
        "doctor",
        "quantize",
        "tune",
        "truncate",
        "split",
        "pack",
        "serve",
        "zoo",
    ]
    listed = text.partition("Commands:\n")[2].partition("\n\n")[0]
    assert [line.split()[0] for line in listed.splitlines()] == verbs


def test_every_verb_has_help_without_an_ellipsis_in_the_list() -> None:
    assert "..." not in CliRunner().invoke(main, ["--help"]).stdout.partition("Commands:\n")[2]
    for verb in main.list_commands(click.Context(main)):
        assert f"Usage: main {verb}" in CliRunner().invoke(main, [verb, "--help"]).stdout


def test_version_is_that_of_the_package() -> None:
    assert CliRunner().invoke(main, ["--version"]).stdout == f"eetoolkit, version {ee.__version__}\n"


def test_help_imports_nothing_heavy() -> None:
    assert imported("--help") == set()


def test_run_on_a_device_imports_nothing_heavy(chain: Path, rows: Path) -> None:
    assert imported("run", chain, rows) == set()


def test_the_import_check_can_fail() -> None:
    assert imported("--help", before="import onnx") == {"onnx"}


def test_our_error_is_one_line_on_stderr_and_status_1() -> None:
    done = shell("inspect", "nowhere.ee")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "error: nowhere.ee does not exist\n")


def test_an_error_of_several_lines_becomes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> None:
        raise ee.BundleError("first\n  second\n")

    monkeypatch.setattr(ee, "load", fail, raising=False)
    result = CliRunner().invoke(main, ["inspect", "x"])
    assert (result.exit_code, result.stderr) == (1, "error: first second\n")


def test_what_the_system_refuses_is_an_error_with_the_path(chain: Path, tmp_path: Path) -> None:
    target = tmp_path / "missing" / "plan.json"
    result = CliRunner().invoke(main, ["export", "x.onnx", "-o", "y.ee", "--labels", str(target)])
    assert result.exit_code == 1
    assert result.stderr == f"error: {target}: No such file or directory\n"


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(ee, "load", fail, raising=False)
    result = CliRunner().invoke(main, ["inspect", "x"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_what_needs_more_memory_than_there_is_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for error, told in (
        (MemoryError(), ""),
        (MemoryError("Unable to allocate 5.82 TiB"), ": Unable to allocate 5.82 TiB"),
    ):
        monkeypatch.setattr(ee, "load", lambda _, error=error: (_ for _ in ()).throw(error), raising=False)
        result = CliRunner().invoke(main, ["inspect", "x"])
        assert (result.exit_code, result.stderr) == (1, f"error: there is not enough memory{told}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect"],
        ["inspekt", "x"],
        ["run", "x.ee"],
        ["truncate", "x.ee"],
        ["split", "x.ee", "--at", "exit1"],
        ["tune", "x.ee", "--data", "y.npz", "--seed", "-1"],
        ["zoo", "train", "--seed", "99999999999999999999"],
        ["pack", "x.ee", "-o", "x.onnx"],
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: ")


def test_missing_torch_names_the_extra() -> None:
    done = shell("export", "--model", "a:b", "--input", "x:1", "-o", "x.ee", before="sys.modules['torch'] = None")
    assert done.returncode == 1
    assert done.stderr == "error: this needs torch: install the extra 'export' (README: Install)\n"


def test_missing_onnx_ir_names_the_extra_where_verify_meets_it_first(chain: Path) -> None:
    done = shell("verify", chain, "--model", "x.onnx", before="sys.modules['onnx_ir'] = sys.modules['torch'] = None")
    assert done.returncode == 1
    assert done.stderr in {
        f"error: this needs {name}: install the extra 'export' (README: Install)\n" for name in ("torch", "onnx_ir")
    }


def test_missing_demo_extra_names_everything_that_is_missing() -> None:
    done = shell("demo", before="sys.modules['sklearn'] = sys.modules['matplotlib'] = None")
    assert done.returncode == 1
    assert done.stderr == "error: the demo needs sklearn, matplotlib: install the extra 'demo' (README: Install)\n"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one child")
def test_interrupting_is_status_130_and_quiet(chain: Path) -> None:
    # A shell's background job, as this test run may be, hands its children an ignored SIGINT.
    start = "import signal, eetoolkit.cli as cli; signal.signal(signal.SIGINT, signal.default_int_handler); cli.main()"
    command = [sys.executable, "-c", start, "run", str(chain), "-"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        np.save(process.stdin, plans.row(0.9))
        assert process.stdout.readline().startswith(b"stdin: "), "it is running now, and waits for the next array"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        assert process.stderr.read() == b""


@pytest.mark.skipif(os.name == "nt", reason="a pipe breaks otherwise on Windows")
def test_a_reader_that_leaves_is_no_error(chain: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "many.npy", np.tile(plans.row(0.9), (2000, 1)))
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "eetoolkit", "run", str(chain), str(tmp_path / "many.npy")]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(writer)
    assert done.stderr == b""


def test_output_to_a_pipe_has_no_codes_and_stderr_nothing_at_all(chain: Path, rows: Path) -> None:
    for verb, *paths in (("inspect", chain), ("run", chain, rows)):
        done = shell(str(verb), *paths)
        assert done.returncode == 0
        assert "\x1b" not in done.stdout
        assert done.stderr == ""


@pytest.mark.skipif(sys.platform != "linux", reason="needs util-linux's script")
def test_progress_is_shown_where_only_stderr_is_a_terminal(chain: Path, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    command = f"'{sys.executable}' -m eetoolkit run '{chain}' '{rows}' > '{out}'"
    seen = subprocess.run(["script", "-qec", command, "/dev/null"], capture_output=True, text=True, check=True)
    assert "2 of 2" in seen.stdout
    assert len(out.read_text().splitlines()) == 2
    assert "\x1b" not in out.read_text()


def test_ctrl_c_in_an_import_of_compiled_code_is_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def initialise(*_: object, **__: object) -> None:
        raise ImportError("initialization failed") from KeyboardInterrupt()

    monkeypatch.setattr("eetoolkit_runtime.bundle.bundle.load", initialise)
    monkeypatch.setattr("eetoolkit.load", initialise, raising=False)
    result = CliRunner().invoke(main, ["inspect", "any.ee"])
    assert result.exit_code == 130
    assert "Traceback" not in result.stderr
    assert "ImportError" not in result.stderr


@pytest.mark.parametrize("verb", [("inspect",), ("run",), ("verify",)])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mine.onnx", "is an ONNX file, not a bundle; `eetoolkit export mine.onnx -o mine.ee` makes one of it"),
        ("one.onnx", "is one ONNX file that `eetoolkit pack --single-file` wrote: any ONNX runtime runs it as it is; "),
        (
            "x.pt",
            "holds a network's weights, it is not a bundle; `eetoolkit export --model MODULE:FUNCTION --weights x",
        ),
        ("pi.json", "is a JSON file, not a bundle; `eetoolkit profile --show pi.json` shows a profile"),
    ],
)
def test_what_is_no_bundle_is_named_with_what_to_do_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: tuple[str, ...], name: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(b"graph" + b"eetoolkit.exits" * (name == "one.onnx") + b"opset")
    done = CliRunner().invoke(main, [*verb, name])
    if (verb, name) == (("verify",), "one.onnx"):
        name, said = "one.json", "is missing, which describes one.onnx; copy it again, or pack the bundle again"
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: {name} {said}")
    assert done.stderr.count("\n") == 1


def test_a_damaged_manifest_is_named_by_its_path_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "it.ee").mkdir()
    (tmp_path / "it.ee" / "manifest.json").write_text('{"a":')
    done = CliRunner().invoke(main, ["inspect", str(tmp_path / "it.ee")])
    assert re.match(r"error: .*it\.ee/manifest\.json: damaged \(.*\); copy or export the bundle again", done.stderr)


def test_a_name_that_is_taken_for_a_command_leads_to_the_option() -> None:
    done = CliRunner().invoke(main, ["prune", "it.ee"])
    assert done.exit_code == 2
    assert "no command 'prune'; write `eetoolkit tune BUNDLE --data DATA --prune OUT`" in done.stderr


def test_a_bundle_is_not_packed_into_itself(tmp_path: Path) -> None:
    (tmp_path / "it.ee").mkdir()
    done = CliRunner().invoke(main, ["pack", str(tmp_path / "it.ee"), "-o", str(tmp_path / "it.ee")])
    assert done.stderr == f"error: --output {tmp_path / 'it.ee'} is what is read; choose another name\n"
