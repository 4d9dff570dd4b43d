"""`eetoolkit adapt`: from a network with one output to a tuned bundle, or a word why not."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from adapt_reports import small
from click.testing import Result
from onnx import parser
from plans import chain
from shell import call
from single_exit import digits_network

import eetoolkit as ee
from eetoolkit.adapting.report import AdaptReport
from eetoolkit.adapting.rows import NetworkInputs, read_rows
from eetoolkit.tuning.placing import Tried
from eetoolkit_runtime.plan.types import Preprocess, TensorSpec

NETWORK = """
import torch

print("what the network's own code prints")


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = torch.nn.Linear(4, 6), torch.nn.Linear(6, 3)

    def forward(self, features):
        return self.head(self.body(features).relu())
"""
ONNX = '<ir_version: 9, opset_import: ["" : 18]> network (float[N, 4] x) => (float[N, 4] y) { y = Sin(x) }'
TORCH = ("adapt", "--model", "adapt_net:Net", "--weights", "net.pt", "--input", "x:1x4")
FILE = ("adapt", "net.onnx", "--data", "data.npz", "-o", "phone.ee")


@dataclass
class Asked:
    """What the verb asked of the library, and what it answers."""

    folder: Path
    pays: bool = True
    found: AdaptReport | None = None
    network: Any = None
    data: Any = None
    settings: dict[str, Any] = field(default_factory=dict)
    bundled: dict[str, Any] = field(default_factory=dict)
    first: AdaptReport = field(default_factory=small)
    rows: Any = field(default_factory=lambda: SimpleNamespace(inputs={}))

    @property
    def report(self) -> AdaptReport:
        return self.found or self.first

    def add_exits(self, network: Any, data: Any, **settings: Any) -> Asked:
        print("what the network prints when it runs")
        self.network, self.data, self.settings = network, data, settings
        settings["progress"]("fitting heads", 1, 2)
        return self

    def bundle(self, output: str, **settings: Any) -> ee.Bundle:
        self.bundled, self.found = settings, small(self.pays)
        if not self.pays:
            raise ee.TuneError("no bundle was written: no place is early enough")
        return ee.load(chain(0.5).save(self.folder / output))


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Returns what stands for the library, in a working directory with a network, its weights and rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "adapt_net", raising=False)
    (tmp_path / "adapt_net.py").write_text(NETWORK)
    weights = {"body.weight": torch.ones(6, 4), "body.bias": torch.ones(6)}
    torch.save(weights | {"head.weight": torch.ones(3, 6), "head.bias": torch.zeros(3)}, "net.pt")
    onnx.save(parser.parse_model(ONNX), "net.onnx")
    np.savez("data.npz", x=np.ones((6, 4), np.float32), labels=np.arange(6) % 3)
    made = Asked(tmp_path)
    monkeypatch.setattr(ee, "add_exits", made.add_exits, raising=False)
    return made


def refused(*arguments: str, status: int = 1) -> str:
    done = call(*arguments)
    assert (done.exit_code, done.stdout) == (status, "")
    return done.stderr


def test_a_torch_network_is_opened_and_its_bundle_told_of(asked: Asked) -> None:
    done = call(*TORCH, "--data", "data.npz", "-o", "phone.ee")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("early exits pay: as a test wants it; goal: at most 1 point lost\n")
    assert "phone.ee" in done.stdout
    assert "what the network" in done.stderr
    assert "what the network" not in done.stdout
    assert not asked.network.training
    assert asked.network.body.weight.sum().item() == 24
    (example,) = asked.settings["example_inputs"]  # forward calls it otherwise, so that it goes by place
    assert example.shape == (1, 4)
    assert asked.settings["input_names"] == ["x"]


def test_options_reach_the_library(asked: Asked) -> None:
    Path("labels.txt").write_text("cat\ndog\nbee\n", "utf-8")
    Path("p.json").write_text("{}")
    np.savez("val.npz", x=np.ones((2, 4), np.float32), labels=np.arange(2))
    done = call(
        *FILE, "--validation", "val.npz", "--max-accuracy-drop", "0.005", "--max-exits", "2", "--places", "a, b",
        "--finetune", "3", "--seed", "7", "--threads", "1", "--profile", "p.json", "--labels", "labels.txt",
        "--dynamic", "x:0=n", "--name", "animals", "--overwrite",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert asked.network == "net.onnx"
    given = {"max_accuracy_drop": 0.005, "max_exits": 2, "places": ["a", "b"], "finetune": 3, "seed": 7, "threads": 1}
    given |= {"dynamic_shapes": {"x": {0: "n"}}, "input_names": None, "example_inputs": None}
    assert {name: asked.settings[name] for name in given} == given
    assert (asked.data.path, asked.settings["validation"].path) == ("data.npz", "val.npz")
    assert asked.data.labels == asked.settings["validation"].labels == asked.bundled["labels"] == ["cat", "dog", "bee"]
    told = {"profile": "p.json", "name": "animals", "overwrite": True, "preprocess": None, "force": False}
    assert {name: asked.bundled[name] for name in told} == told
    assert call(*FILE, "--by", "multiply-adds", "--overwrite").exit_code == 0
    assert asked.bundled["profile"] == "multiply-adds"


def test_the_rows_that_the_library_gets_are_those_of_the_files(asked: Asked) -> None:
    plan = NetworkInputs((TensorSpec(name="x", dtype="float32", shape=("batch", 4)),))
    assert call(*FILE).exit_code == 0
    rows = read_rows(plan, asked.data)
    assert rows.labels is not None
    assert rows.labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_options_for_pictures_hold_for_class_folders(asked: Asked) -> None:
    image = pytest.importorskip("PIL.Image")
    for name in ("cat", "bee"):
        (asked.folder / "data" / name).mkdir(parents=True)
        image.fromarray(np.full((9, 9), 255, np.uint8)).save(asked.folder / "data" / name / "0.png")
    Path("p.json").write_text(json.dumps({"x": {"layout": "NCHW", "resize": [2, 3], "scale": 1.0}}))
    done = call("adapt", "net.onnx", "--data", "data", "-o", "p.ee", "--preprocess", "p.json", "--scale", "1/255")
    assert done.exit_code == 0, done.output
    plan = NetworkInputs((TensorSpec(name="x", dtype="float32", shape=("batch", 1, 2, 3)),))
    rows = read_rows(plan, asked.data)
    np.testing.assert_allclose(rows.inputs["x"], np.ones((2, 1, 2, 3)), atol=1e-6)
    assert rows.preprocess == {"x": Preprocess(layout="NCHW", resize=(2, 3), scale=1 / 255)}


def test_places_and_placements_are_tables(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = (Tried(("body",), 0.875, 0.5), Tried(("body", "body.relu first"), 0.9, 0.375))
    report = msgspec.structs.replace(small(pays=True), tried=tried, fixed=Tried(("body.relu",), 0.9, 0.75))
    monkeypatch.setattr(Asked, "report", report)
    lines = [" ".join(line.split()) for line in call(*FILE).stdout.splitlines()]
    assert lines[1:6] == [
        "network Net",
        "one exit the best fixed exit, always body.relu, has 75.0% of the network's cost",
        "rows 80 fitted heads, 20 chose kinds of heads, 100 chose places and thresholds",
        "note a note",
        "",
    ]
    assert lines[6:] == [
        "places of work accuracy best head chosen",
        "body 25.0% 87.5% mean mean",
        "body.relu 75.0% 87.5% mean",
        "whole network 100% 90.0% its own always",
        "",
        "on the tuning rows of cost accuracy where",
        "at most 1 exit 50.0% 87.5% body",
        "at most 2 exits 37.5% 90.0% body, body.relu first",
        "best fixed exit 75.0% 90.0% always body.relu",
        "",
        *lines[16:],
    ]
    assert "phone.ee" in lines[16]


@pytest.mark.parametrize("columns", ["80", "30"])
def test_no_line_is_wider_than_the_terminal(asked: Asked, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("NO_COLOR", "1"), ("COLUMNS", columns)):
        monkeypatch.setenv(name, value)
    lines = call(*FILE).stdout.splitlines()
    assert max(map(len, lines)) <= int(columns)
    assert any(line.startswith("body.relu") for line in lines)


def test_where_it_does_not_pay_nothing_is_written_and_the_status_says_so(asked: Asked) -> None:
    asked.pays = False
    done = call(*FILE)
    assert done.exit_code == 1
    assert done.stdout.startswith("early exits do not pay: as a test wants it; goal: at most 1 point lost\n")
    assert done.stderr.endswith("error: no bundle was written: no place is early enough\n")
    assert not Path("phone.ee").exists()


@pytest.mark.parametrize("pays", [True, False])
def test_json_and_the_page_are_written_whatever_the_verdict(
    asked: Asked, pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[Any] = []
    monkeypatch.setattr(ee, "write_report", lambda report, page, **_: pages.append((report, page)) or page)
    asked.pays = pays
    done = call(*FILE, "--json", "--report", "page.html")
    assert done.exit_code == 1 - pays
    told = json.loads(done.stdout)
    assert msgspec.convert(told["report"], AdaptReport) == small(pays)
    assert (told["bundle"] is not None) == pays
    assert pages == [(small(pays), Path("page.html"))]


def test_an_error_before_the_verdict_is_one_line(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ee.TuneError("a profile of another bundle; profile=None (--profile) measures")

    monkeypatch.setattr(asked, "bundle", fail)
    told = refused(*FILE)
    assert told.splitlines()[-1] == "error: a profile of another bundle; --profile measures"


USAGE: dict[str, tuple[tuple[str, ...], str]] = {
    "no network": (("adapt", "--data", "data.npz", "-o", "p.ee"), "name the network"),
    "two networks": ((*FILE, "--model", "a:b", "--input", "x:1x4"), "name the network"),
    "no rows": (("adapt", "net.onnx", "-o", "p.ee"), "pass --data, rows with labels"),
    "no output": (("adapt", "net.onnx", "--data", "data.npz"), "name the bundle to write: -o OUT.ee"),
    "no input": (("adapt", "--model", "a:b", "--data", "data.npz", "-o", "p.ee"), "needs an example of every input"),
    "two costs": ((*FILE, "--profile", "p.json", "--by", "multiply-adds"), "--profile does not go with --by"),
    "a list with rows": ((*FILE, "--list"), "--data does not go with --list"),
    "a list with a page": (("adapt", "net.onnx", "--list", "--report", "r.html"), "--report does not go with --list"),
    "a drop above 1": ((*FILE, "--max-accuracy-drop", "5"), "--max-accuracy-drop"),
    "no exits": ((*FILE, "--max-exits", "0"), "--max-exits"),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_is_told(asked: Asked, case: str) -> None:
    arguments, said = USAGE[case]
    assert said in refused(*arguments, status=2)
    assert asked.network is None


def test_what_is_read_is_never_written_over(asked: Asked) -> None:
    assert "is what is read" in refused(*FILE, "--report", "data.npz", "--overwrite")
    assert asked.network is None


@dataclass(frozen=True)
class Somewhere:
    """A place, as `find_exits` gives it."""

    name: str
    share: float
    shape: tuple[int | str, ...]


def test_places_are_listed(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def find(*given: Any, **settings: Any) -> tuple[Somewhere, ...]:
        seen.append((given, settings))
        return Somewhere("body", 0.571, ("batch", 6)), Somewhere("layer:3", 0.9, ("batch", 6))

    monkeypatch.setattr(ee, "find_exits", find, raising=False)
    done = call(*TORCH, "--list")
    assert done.exit_code == 0, done.output
    assert [line.split() for line in done.stdout.splitlines()[1:]] == [
        ["body", "57.1%", "batch", "x", "6"],
        ["layer:3", "90.0%", "batch", "x", "6"],
    ]
    assert seen[0][1] == {"dynamic_shapes": None, "input_names": ["x"]}
    assert json.loads(call(*TORCH, "--list", "--json").stdout)[0] == {
        "name": "body", "share": 0.571, "shape": ["batch", 6],
    }  # fmt: skip
    assert asked.network is None


# With the library itself


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Returns the folder in which the digits were adapted, by work so that no clock is in it, and what that printed."""
    folder = tmp_path_factory.mktemp("adapted")
    net, (x, y) = digits_network()
    torch.save(net.state_dict(), folder / "digits.pt")
    np.savez(folder / "data.npz", image=x[:240], labels=y[:240])
    np.savez(folder / "more.npz", image=x[240:], labels=y[240:])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("EETOOLKIT_CACHE", str(folder / "cache"))
        done = call(*_digits("data.npz", "--validation", "more.npz"), "-o", "digits.ee", "--report", "page.html")
    return folder, done


def _digits(data: str = "data.npz", *more: str) -> tuple[str, ...]:
    network = ("--model", "single_exit:DigitsNetwork", "--weights", "digits.pt", "--input", "image:1x1x8x8")
    how = ("--by", "multiply-adds", "--threads", "1", "--max-accuracy-drop", "0.03", "--max-exits", "2")
    return ("adapt", *network, "--data", data, *more, *how)


def test_a_trained_network_becomes_a_bundle_that_answers_as_it(adapted: tuple[Path, Result]) -> None:
    folder, done = adapted
    assert done.exit_code == 0, done.output
    bundle = ee.load(folder / "digits.ee")
    assert 2 <= len(bundle.exits) <= 3
    net, (x, _) = digits_network()
    with ee.Runner(bundle, threads=1) as runner, torch.no_grad():
        for row in x[:20]:
            last = runner.run_all_exits(row[None])[-1]
            expected = net(torch.from_numpy(row[None])).numpy()
            np.testing.assert_allclose(last.outputs["logits"], expected, atol=1e-5)
    assert (folder / "page.html").read_text("utf-8").startswith("<!")


def test_the_places_of_a_trained_network_are_listed(
    adapted: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(adapted[0])
    network = _digits()[:7]
    found = json.loads(call(*network, "--list", "--json").stdout)
    shares = [place["share"] for place in found]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] < 1


def test_bad_rows_are_one_line(adapted: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(adapted[0])
    _, (x, y) = digits_network()
    np.savez("few.npz", image=x[:50], labels=y[:50])
    np.savez("wrong.npz", image=x, labels=(y + 3) % 10)
    for name, said in (("few.npz", "50 rows are too few"), ("wrong.npz", "are the labels in the network's order?")):
        told = refused(*_digits(name), "-o", "bad.ee").splitlines()[-1]
        assert told.startswith("error: ")
        assert said in told
        assert not Path("bad.ee").exists()
