"""`eetoolkit export` and `eetoolkit verify` with a source network."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from onnx import parser

import eetoolkit as ee
from eetoolkit.cli import main

NETWORK = """
import torch

print("what the network's own code prints")


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.early, self.late = torch.nn.Linear(4, 6), torch.nn.Linear(6, 3), torch.nn.Linear(6, 3)

    def forward(self, features):
        hidden = self.body(features).relu()
        return self.early(hidden), self.late(hidden.sin())
"""
ONNX = """<ir_version: 9, opset_import: ["" : 18]>
network (float[N, 4] x) => (float[N, 4] early, float[N, 4] late) {
    early = Sin(x)
    squares = Mul(x, x)
    late = Neg(squares)
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with the module `cli_net`, its weights, and an .onnx file."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "cli_net.py").write_text(NETWORK)
    shapes = {"body": (6, 4), "early": (3, 6), "late": (3, 6)}
    weights = {f"{layer}.weight": torch.linspace(-1, 2, 24)[: o * i].reshape(o, i) for layer, (o, i) in shapes.items()}
    weights |= {f"{layer}.bias": torch.linspace(-0.5, 1, o) for layer, (o, _) in shapes.items()}
    torch.save({"state_dict": weights, "epoch": 3}, folder / "weights.pt")
    onnx.save(parser.parse_model(ONNX), folder / "net.onnx")
    return folder


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return folder


@pytest.fixture(scope="module")
def bundle(folder: Path) -> tuple[Path, Result]:
    """Returns what a whole export of a torch network gave."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])
        np.save("golden.npy", np.random.default_rng(1).normal(size=(3, 4)))
        Path("labels.txt").write_text("cat\ndog\nbee\n", "utf-8")
        result = call(
            "export", "--model", "cli_net:Net", "--weights", "weights.pt", "--input", "x:1x4", "-o", "net.ee",
            "--criterion", "exit1=entropy", "--threshold", "0.25", "--labels", "labels.txt", "--golden", "golden.npy",
            "--name", "animals", "--json",
        )  # fmt: skip
    return folder / "net.ee", result


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def refusal(*arguments: str) -> str:
    result = call(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stderr.splitlines()[-1].startswith("error: ")
    return result.stderr.splitlines()[-1].removeprefix("error: ")


def test_a_torch_network_becomes_a_bundle_with_every_option(bundle: tuple[Path, Result]) -> None:
    path, result = bundle
    assert result.exit_code == 0, result.stderr
    plan = ee.load(path).manifest
    assert json.loads(result.stdout) == {
        "path": "net.ee", "name": "animals", "exits": ["exit0", "exit1"], "segments": ["segment0", "segment1"],
        "size_bytes": ee.load(path).size_bytes,
    }  # fmt: skip
    assert [spec.name for spec in plan.inputs] == ["x"], "forward calls it features"
    assert [(exit_.criterion.kind, exit_.threshold) for exit_ in plan.exits.values()] == [
        ("max_prob", 0.25), ("entropy", "always")
    ]  # fmt: skip
    assert plan.labels == ("cat", "dog", "bee")
    assert plan.golden is not None


def test_what_the_network_prints_is_kept_from_stdout(bundle: tuple[Path, Result]) -> None:
    assert "what the network's own code prints" in bundle[1].stderr
    assert "what the network's own code prints" not in bundle[1].stdout


def test_a_torch_network_without_weights_is_warned_of(bundle: tuple[Path, Result], here: Path) -> None:
    (here / "ready_net.py").write_text("from cli_net import Net\n\n\ndef load():\n    return Net().eval()\n")
    said = "warning: without --weights the bundle has those that ready_net:load gives: random ones if it loads none"
    plain = call("export", "--model", "ready_net:load", "--input", "x:1x4", "-o", "random.ee")
    assert plain.exit_code == 0, plain.output
    assert plain.stderr.splitlines()[-1] == said
    assert "without --weights" not in bundle[1].stderr
    assert "without --weights" not in call("export", "net.onnx", "-o", "without.ee").stderr


def test_export_does_not_overwrite_silently(bundle: tuple[Path, Result], here: Path) -> None:
    assert refusal("export", "net.onnx", "-o", "net.ee") == ("net.ee exists; pass --overwrite to replace it")
    assert refusal("export", "net.onnx", "-o", "cli_net.py") == (
        "cli_net.py exists and is not a bundle; it is left as it is: choose another name"
    )


def test_an_onnx_file_becomes_a_bundle_without_inputs(here: Path) -> None:
    result = call("export", "net.onnx", "-o", "onnx.ee", "--exits", "late, early", "--overwrite")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("onnx: 2 segments, exits ")
    assert set(ee.load("onnx.ee").exits) == {"early", "late"}


def test_several_onnx_files_are_a_cascade(here: Path) -> None:
    result = call("export", "net.onnx", "net.onnx", "-o", "cascade.ee", "--overwrite", "--input", "x:1x4", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["exits"] == ["exit0", "exit1", "exit2", "exit3"]
    assert call("verify", "cascade.ee", "--model", "net.onnx", "--model", "net.onnx").exit_code == 0


def test_verify_compares_with_the_source_network(bundle: tuple[Path, Result], here: Path) -> None:
    plain = call("verify", "net.ee")
    assert plain.exit_code == 0
    assert plain.stdout.splitlines()[-1] == "verify passed, tolerance 1e-04"
    assert plain.stdout.startswith("exit0: 3 samples, ")
    against = call("verify", "net.ee", "--model", "cli_net:Net", "--weights", "weights.pt", "--json")
    assert against.exit_code == 0, against.stderr
    found = json.loads(against.stdout)
    assert (found["passed"], found["samples"], found["failures"]) == (True, 3 + 8, [])


def test_verify_of_another_network_fails_with_status_1(here: Path) -> None:
    call("export", "net.onnx", "-o", "onnx.ee", "--overwrite")
    onnx.save(parser.parse_model(ONNX.replace("Sin", "Cos")), "other.onnx")
    result = call("verify", "onnx.ee", "--model", "other.onnx", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["passed"] is False
    assert "early: outputs off by" in json.loads(result.stdout)["failures"][0]
    assert call("verify", "onnx.ee", "--model", "other.onnx", "--tolerance", "10").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name the network: either --model MODULE:FUNCTION or one or more MODEL.onnx"),
        (["net.onnx", "--model", "a:b"], "name the network: either"),
        (["--model", "a:b"], "a torch network needs an example of every input: --input NAME:SHAPE[:DTYPE]"),
        (["net.onnx", "--weights", "w.pt"], "--weights goes with --model; an .onnx file has its own"),
        (["cli_net:Net"], "'cli_net:Net' is not an .onnx file; a torch network is named by --model MODULE:FUNCTION"),
        (["net.onnx", "--dynamic", "x:1"], "'x:1': expected NAME:AXIS=SYMBOL, such as ids:1=length"),
        (["net.onnx", "--threshold", "sure"], "'sure' is not a number, or never"),
        (["net.onnx", "--criterion", "entropy", "--criterion", "a=margin"], "'entropy': expected EXIT=VALUE"),
        (["net.onnx", "--criterion", '{"kind": "luck"}'], "Invalid enum value 'luck' - at `$.kind`; expected {"),
        (["net.onnx", "--criterion", 'early={"kind": '], "--criterion"),
    ],
)
def test_wrong_usage_says_what_is_right(here: Path, arguments: list[str], message: str) -> None:
    result = call("export", "-o", "x.ee", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_criterion_with_options_is_written_as_json(here: Path) -> None:
    members = [{"kind": "margin", "threshold": 0.25}, {"kind": "patience"}]
    chosen = json.dumps({"kind": "at_least", "n": 1, "members": members})
    result = call("export", "net.onnx", "-o", "combined.ee", "--criterion", f"late={chosen}")
    assert result.exit_code == 0, result.output
    exits = ee.load("combined.ee").exits
    assert exits["early"].criterion.kind == "max_prob"
    late = exits["late"].criterion
    assert (late.kind, late.n, [member.kind for member in late.members]) == ("at_least", 1, ["margin", "patience"])
    constants = ee.load("combined.ee").manifest.constants
    assert [constants[str(member.threshold)].data for member in late.members] == [(0.25,), (2.0,)]


def test_the_first_exit_that_may_answer_is_an_option(here: Path) -> None:
    result = call("export", "net.onnx", "-o", "later.ee", "--min-exit", "late")
    assert result.exit_code == 0, result.output
    assert [exit_.enabled for exit_ in ee.load("later.ee").exits.values()] == [False, True]
    assert refusal("export", "net.onnx", "-o", "x.ee", "--min-exit", "last") == (
        "min_exit is 'last'; the exits are early, late; did you mean 'late'?"
    )


def test_verify_weights_without_a_model_are_wrong_usage(here: Path) -> None:
    result = call("verify", "net.ee", "--weights", "weights.pt")
    assert result.exit_code == 2
    assert "--weights and --exits go with --model" in result.stderr


def test_files_that_are_not_what_they_should_be_are_named(here: Path) -> None:
    (here / "latin.txt").write_bytes(b"caf\xe9")
    (here / "list.json").write_text("[1]")
    export = ("export", "net.onnx", "-o", "x.ee")
    assert refusal(*export, "--labels", "latin.txt").startswith("--labels latin.txt: not UTF-8 text (")
    assert refusal(*export, "--preprocess", "list.json") == (
        "--preprocess list.json: Expected `object`, got `array`; expected "
        '{"image": {"layout": "NCHW", "resize": [224, 224]}}'
    )
    assert refusal(*export, "--golden", "list.json") == "list.json: not a .npy or .npz file"
    assert refusal("export", "missing.onnx", "-o", "x.ee") == (
        "missing.onnx does not exist or is not a file; expected an .onnx file"
    )
    assert not (here / "x.ee").exists()


def test_the_tolerance_may_be_given_and_a_failed_proof_names_the_option(here: Path, tmp_path: Path) -> None:
    result = call("export", "net.onnx", "-o", str(tmp_path / "x.ee"), "--tolerance", "0.05")
    assert result.exit_code == 0, result.stderr
    golden = ee.load(tmp_path / "x.ee").manifest.golden
    assert golden is not None
    assert golden.tolerance == 0.05
    result = call("export", "net.onnx", "-o", str(tmp_path / "y.ee"), "--tolerance", "1e-12")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "nothing was written; if that is rounding, allow it with --tolerance " in result.stderr
    result = call("export", "net.onnx", "-o", str(tmp_path / "y.ee"), "--tolerance", "-1")
    assert result.exit_code == 1
    assert "tolerance is -1.0, expected a finite number above 0" in result.stderr


def test_what_may_be_a_mistake_is_a_warning_in_the_words_of_the_shell(here: Path, tmp_path: Path) -> None:
    text = ONNX.replace("early = Sin(x)", "early = Softmax<axis = 1>(x)")
    onnx.save(parser.parse_model(text), tmp_path / "probs.onnx")
    result = call("export", str(tmp_path / "probs.onnx"), "-o", str(tmp_path / "x.ee"), "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["exits"] == ["early", "late"]
    assert result.stderr.splitlines() == [
        (
            "warning: exit 'early': scores that look like probabilities are read as logits (every row sums to 1); if "
            """that is what they are, say --criterion '{"kind": "max_prob", "scale": "probs"}'"""
        ),
        "warning: exit 'early' never fires: its threshold is 0.9, and max_prob is at most 0.475367",
    ]
    option = result.stderr.splitlines()[0].split("--criterion ")[1].strip("'")
    said = call(
        "export", str(tmp_path / "probs.onnx"), "-o", str(tmp_path / "y.ee"), "--criterion", f"early={option}",
        "--control-flow", "always",
    )  # fmt: skip
    assert (said.exit_code, said.stderr) == (0, "")


def test_dynamic_axes_may_be_counted_from_the_end() -> None:
    from eetoolkit.cli.network import dynamic_shapes

    assert dynamic_shapes(("ids:-1=length", "ids:0=n")) == {"ids": {-1: "length", 0: "n"}}
