"""`eetoolkit profile`: what is measured is kept, shown, compared and drawn; what does not fit is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import parser
from plans import chain

import eetoolkit as ee
from eetoolkit.cli import main
from eetoolkit.cli.profile_tables import speed_up
from eetoolkit_runtime.profiling.costs import WholeCost
from eetoolkit_runtime.profiling.latency import summarise

QUICK = ("--threads", "1", "--pool", "own", "--seconds", "0")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["profile", *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `chain.ee`, inputs `x.npy`, and what two runs of the command wrote: `a.json` and `b.json`."""
    folder = tmp_path_factory.mktemp("profile")
    chain(0.5, 0.5).save(folder / "chain.ee")
    np.save(folder / "x.npy", np.random.default_rng(0).uniform(0, 1, (4, 4)).astype(np.float32))
    for name in ("a.json", "b.json"):
        done = run(folder / "chain.ee", "--inputs", folder / "x.npy", *QUICK, "-o", folder / name)
        assert done.exit_code == 0, done.output
    return folder


def test_what_was_written_is_shown_as_it_was_when_it_was_measured(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "p.json"
    measured = run(folder / "chain.ee", "--inputs", folder / "x.npy", *QUICK, "--operators", "-o", target)
    assert measured.exit_code == 0, measured.output
    shown = run("--show", target)
    assert shown.stdout == measured.stdout
    for part in ("operators, by what they take", "1 Gather", "decision", "answers there", "█"):
        assert part in shown.stdout
    assert json.loads(run("--show", target, "--json").stdout) == json.loads(target.read_bytes())


def test_a_profile_saved_in_a_bundle_is_shown_by_its_name(tmp_path: Path, folder: Path) -> None:
    bundle = chain(0.5, 0.5).save(tmp_path / "chain.ee")
    done = run(bundle, "--inputs", folder / "x.npy", *QUICK, "--save", "--json")
    assert json.loads(run("--show", bundle, "--json").stdout) == json.loads(done.stdout)


def test_profiles_are_compared(folder: Path, tmp_path: Path) -> None:
    a, more = folder / "a.json", tmp_path / "more.json"
    np.save(tmp_path / "y.npy", np.random.default_rng(1).uniform(0, 1, (8, 4)).astype(np.float32))
    assert run(folder / "chain.ee", "--inputs", tmp_path / "y.npy", *QUICK, "-o", more).exit_code == 0
    compared = run("--compare", a, more)
    assert ["inputs", "4", "8"] in [line.split() for line in compared.stdout.splitlines()]
    assert "segment segment2" in compared.stdout
    assert json.loads(run("--compare", a, a, "--json").stdout)["expected"]["ratio"] == 1
    assert "the same bundle, machine and settings" in run("--compare", a, a).stdout


def test_it_is_drawn_and_traced_into_files(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    targets = {name: tmp_path / name for name in ("svg", "png", "trace")}
    options = [part for name, path in targets.items() for part in (f"--{name}", path)]
    done = run(folder / "chain.ee", "--inputs", folder / "x.npy", *QUICK, *options)
    assert done.exit_code == 0, done.output
    assert "</svg>" in targets["svg"].read_text()
    assert targets["png"].read_bytes().startswith(b"\x89PNG")
    rows = [event for event in json.loads(targets["trace"].read_bytes())["traceEvents"] if event.get("cat") == "row"]
    assert len(rows) == 4


@pytest.mark.parametrize("option", ["--output", "--trace", "--svg", "--png"])
def test_nothing_is_overwritten_unasked_and_nothing_is_measured_before_that_is_said(
    folder: Path, tmp_path: Path, option: str
) -> None:
    target = tmp_path / "there"
    target.write_text("mine")
    done = run("no such bundle", option, target)
    assert done.exit_code == 1
    assert done.stderr == f"error: {target} exists; pass --overwrite to replace it\n"
    assert target.read_text() == "mine"
    if option == "--output":
        assert run("--show", folder / "a.json", option, target, "--overwrite").exit_code == 0
        assert ee.Profile.read(target) == ee.Profile.read(folder / "a.json")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a", "b"], "got 2 arguments, expected one BUNDLE"),
        (["--show", "a", "b"], "--show: got 2 arguments, expected one PROFILE"),
        (["--compare", "a"], "--compare: got 1 arguments, expected two PROFILEs"),
        (["--show", "a", "--save"], "--save does not go with --show"),
        (["--show", "a", "--operators"], "--operators does not go with --show"),
        (["--show", "a", "--on", "pi"], "--on does not go with --show"),
        (["--show", "a", "--whole", "w"], "--whole does not go with --show"),
        (["--compare", "a", "b", "--png", "p"], "--png does not go with --compare"),
        ([], "Missing argument"),
    ],
)
def test_what_does_not_go_together_is_wrong_usage(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert said in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--show", "none.json"], "none.json does not exist"),
        (["--show", "chain.ee"], "no profile was saved in chain.ee; run `eetoolkit profile chain.ee --save`"),
        (["--show", "x.npy"], "x.npy is not a profile: "),
        (["a.json"], "a.json is not a bundle; --show shows a profile"),
        (["chain.ee", "--inputs", "x.npy", "--whole", "w.onnx"], "whole: w.onnx does not exist"),
    ],
)
def test_a_mistake_is_one_line(folder: Path, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    done = run(*arguments, *(["--pool", "own"] if "chain.ee" in arguments else []))
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: {said}")
    assert done.stderr.count("\n") == 1


def test_a_whole_network_that_fails_is_one_line(folder: Path, tmp_path: Path) -> None:
    wrong = parser.parse_model("""<ir_version: 9, opset_import: ["" : 18]>
        g (float[batch, 5] x) => (float[batch, 5] y) { y = Neg(x) }""")
    onnx.save(wrong, tmp_path / "wrong.onnx")
    done = run(folder / "chain.ee", "--inputs", folder / "x.npy", *QUICK, "--whole", tmp_path / "wrong.onnx")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: the whole network wrong.onnx: [ONNXRuntimeError] : 2 : INVALID_ARGUMENT : ")
    assert done.stderr.count("\n") == 1
    (tmp_path / "none.onnx").write_bytes(b"not a model")
    done = run(folder / "chain.ee", "--inputs", folder / "x.npy", *QUICK, "--whole", tmp_path / "none.onnx")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: the whole network: ")
    assert done.stderr.count("\n") == 1


def test_a_picture_without_matplotlib_names_the_extra_before_it_measures() -> None:
    script = (
        "import sys; sys.modules['matplotlib'] = None; import eetoolkit.cli as cli; "
        "cli.main(['profile', 'no such bundle', '--svg', 'never.svg'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: this needs matplotlib: install the extra 'report' (README: Install)\n"


def test_labels_in_the_inputs_give_accuracies_and_rows_may_differ_in_number_of_files(
    folder: Path, tmp_path: Path
) -> None:
    x = np.load(folder / "x.npy")
    classes = [int(np.argmax(row)) for row in x]
    np.savez(tmp_path / "a.npz", x=x[:1], labels=classes[:1])
    np.savez(tmp_path / "b.npz", image=x[1:], labels=classes[1:])
    np.save(tmp_path / "labels.npy", classes)
    files = ("--inputs", tmp_path / "a.npz", "--inputs", tmp_path / "b.npz")
    held = json.loads(run(folder / "chain.ee", *files, *QUICK, "--json").stdout)
    options = ("--inputs", folder / "x.npy", "--labels", tmp_path / "labels.npy")
    apart = json.loads(run(folder / "chain.ee", *options, *QUICK, "--json").stdout)
    assert held["accuracy"] == apart["accuracy"] is not None
    mixed = run(folder / "chain.ee", *files, "--inputs", folder / "x.npy", *QUICK, "--json")
    assert json.loads(mixed.stdout)["accuracy"] is None  # not all of them have labels
    bad = np.where(np.arange(4)[:, None] == 2, np.nan, x).astype(np.float32)
    np.save(tmp_path / "bad.npy", bad)
    warned = run(folder / "chain.ee", "--inputs", tmp_path / "bad.npy", *QUICK)
    assert warned.exit_code == 0
    told = f"warning: NaN in 1 of the inputs, first {tmp_path / 'bad.npy'}[2]: where they leave means nothing, unless"
    assert warned.stderr.startswith(told)
    np.savez(tmp_path / "masks.npz", x=x, labels=np.zeros((4, 2, 2)))
    masks = run(folder / "chain.ee", "--inputs", tmp_path / "masks.npz", *QUICK, "--json")
    assert masks.stderr == (
        "warning: the labels in the inputs are not one integer for each row, so there are no accuracies\n"
    )
    assert json.loads(masks.stdout)["accuracy"] is None


@pytest.mark.parametrize("difference", [None, 0.5, float("nan"), 1e-6])
def test_of_another_network_no_speed_up_is_given(difference: float | None) -> None:
    latency = summarise([1.0, 1.0])
    whole = WholeCost(file="w.onnx", latency=latency, ratio=0.5, full_path_ratio=1.1, difference=difference)
    named, said = speed_up(whole)
    assert named == "speed-up"
    assert (said == "2.00 times in the mean, full path / whole 1.10") is (difference == 1e-6)
    assert ("none: w.onnx is another network" in said) is (difference != 1e-6)
