"""Networks, weights and inputs that are named by words."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from eetoolkit.reading.modelspec import as_arguments, draw_examples, open_model, parse_input
from eetoolkit_runtime.errors import ExportError

MODULE = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Linear(2, 3)
        self.b = torch.nn.Linear(3, 2)
        self.tied = torch.nn.Linear(2, 3)
        self.tied.weight = self.a.weight

    def forward(self, left, right):
        return self.b(self.a(left + right))


def make():
    return Net()


def fail():
    raise ValueError("no\\nway")


ready = Net().eval()
number = 3


class settings:
    make = Net
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("spec_net", "bad_net", "spec_needs"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "spec_net.py").write_text(MODULE)
    (tmp_path / "bad_net.py").write_text("def f(:\n")
    (tmp_path / "spec_needs.py").write_text("import not_there\n")
    return tmp_path


def refusal(spec: str, weights: str | None = None) -> str:
    with pytest.raises(ExportError) as caught:
        open_model(spec, weights)
    return str(caught.value)


@pytest.mark.parametrize("name", ["make", "Net", "settings.make"])
def test_a_function_or_class_is_called_and_left_in_its_mode(here: Path, name: str) -> None:
    model = open_model(f"spec_net:{name}")
    assert isinstance(model, torch.nn.Module)
    assert model.training


def test_a_network_is_taken_as_it_is_and_an_onnx_path_given_back(here: Path) -> None:
    assert open_model("spec_net:ready") is sys.modules["spec_net"].ready
    assert open_model("folder/net.onnx") == "folder/net.onnx"
    assert refusal("net.onnx", "w.pt") == "net.onnx has its own weights; leave out --weights w.pt"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("spec_net", "--model 'spec_net': expected PACKAGE.MODULE:FUNCTION, such as my_network:load"),
        ("spec_net:", "--model 'spec_net:': expected PACKAGE.MODULE:FUNCTION, such as my_network:load"),
        ("./sub/net.py:make", "--model './sub/net.py:make': expected a module's name, not a file; try sub.net:make"),
        ("spec_net:nope", "--model 'spec_net:nope': 'spec_net' has no 'nope'"),
        ("spec_net:mkae", "--model 'spec_net:mkae': 'spec_net' has no 'mkae'; did you mean 'make'?"),
        ("spec_net:settings.nope", "--model 'spec_net:settings.nope': 'settings' has no 'nope'"),
        ("spec_net:fail", "spec_net:fail fails: ValueError: no way"),
        ("spec_net:number", "spec_net:number is int, expected a torch.nn.Module or a function that returns one"),
        ("spec_needs:f", "--model 'spec_needs:f': importing spec_needs fails: No module named 'not_there'"),
        ("bad_net:f", "--model 'bad_net:f': importing bad_net fails: SyntaxError: invalid syntax (bad_net.py, line 1)"),
    ],
)
def test_each_mistake_in_the_name_has_its_message(here: Path, spec: str, message: str) -> None:
    assert refusal(spec) == message


def test_a_module_that_is_not_there_is_looked_for_here(here: Path) -> None:
    assert refusal("nowhere.at.all:f") == (
        f"--model 'nowhere.at.all:f': no module 'nowhere' in {here} or on PYTHONPATH"
    )


def test_the_module_that_was_meant_is_offered_from_here_or_from_its_package(here: Path) -> None:
    (here / "spec_package").mkdir()
    (here / "spec_package" / "networks.py").write_text(MODULE)
    assert refusal("spec_nte:make").endswith(" or on PYTHONPATH; did you mean 'spec_net'?")
    assert refusal("spec_package.netwrks:make").endswith("; did you mean 'networks'?")
    assert refusal("eetoolkit.zoo.branchnet:load").endswith("; did you mean 'branchynet'?")
    for unlike in ("spec_net.deeper:make", "eetoolkit.zoo.nothing_alike:load"):
        assert refusal(unlike).endswith(" or on PYTHONPATH")


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "model"])
def test_weights_are_loaded_and_the_network_put_in_eval_mode(here: Path, wrapper: str | None) -> None:
    wanted = {key: torch.full_like(value, 0.5) for key, value in _network().state_dict().items()}
    torch.save(wanted if wrapper is None else {wrapper: wanted, "epoch": 3}, "w.pt")
    model = open_model("spec_net:make", "w.pt")
    assert isinstance(model, torch.nn.Module)
    assert not model.training
    assert all(bool((value == 0.5).all()) for value in model.state_dict().values())


def test_safetensors_may_hold_tied_weights_once(here: Path) -> None:
    wanted = {key: torch.full_like(value, 0.5) for key, value in _network().state_dict().items()}
    del wanted["tied.weight"]
    save_file(wanted, "w.safetensors")
    model = open_model("spec_net:make", "w.safetensors")
    assert isinstance(model, torch.nn.Module)
    assert bool((model.state_dict()["tied.weight"] == 0.5).all())


def test_weights_that_do_not_fit_list_what_is_wrong(here: Path) -> None:
    wanted = _network().state_dict()
    for key in ("b.weight", "b.bias"):
        del wanted[key]
    wanted |= {f"extra{k}": torch.zeros(1) for k in range(5)} | {"a.bias": torch.zeros(7)}
    torch.save(wanted, "w.pt")
    assert refusal("spec_net:make", "w.pt") == (
        "w.pt does not fit spec_net:make: missing: b.weight, b.bias; unexpected: extra0, extra1, extra2 and 2 more; "
        "of another shape: a.bias [7] (expected [3])"
    )


def test_code_in_a_file_of_weights_is_never_run(here: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(tmp_path / "sprung"),)  # type: ignore[return-value]

    torch.save({"state_dict": Trap()}, "w.pt")
    assert refusal("spec_net:make", "w.pt") == (
        "w.pt: holds more than weights, or is damaged; code in it is never run: save model.state_dict() instead"
    )
    assert not (tmp_path / "sprung").exists()


def test_files_that_are_no_weights_are_named(here: Path) -> None:
    torch.save({"state_dict": _network().state_dict()}, "w.pt")
    (here / "cut.pt").write_bytes((here / "w.pt").read_bytes()[:100])
    (here / "cut.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{")
    torch.save([1, 2], "list.pt")
    torch.save({"epoch": 3}, "epoch.pt")
    assert refusal("spec_net:make", "none.pt") == "--weights none.pt: no such file"
    assert refusal("spec_net:make", "cut.pt").startswith("cut.pt: not a readable file of weights (PytorchStreamReader")
    assert refusal("spec_net:make", "cut.safetensors").startswith("cut.safetensors: not a readable .safetensors file (")
    for name in ("list.pt", "epoch.pt"):
        assert refusal("spec_net:make", name) == (
            f"{name}: expected a state_dict, or one under 'state_dict' or 'model_state_dict' or 'model'"
        )


def test_inputs_are_drawn_the_same_every_time() -> None:
    specs = [parse_input(text) for text in ("image:2x3x4", "ids:1x5:int64", "in:0:2:float16")]
    first, second = draw_examples(specs), draw_examples(specs)
    assert {name: (array.shape, str(array.dtype)) for name, array in first.items()} == {
        "image": ((2, 3, 4), "float32"), "ids": ((1, 5), "int64"), "in:0": ((2,), "float16")
    }  # fmt: skip
    assert first["image"].std() > 0.5
    assert not first["ids"].any()
    assert all((first[name] == second[name]).all() for name in first)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image", "--input 'image': expected NAME:SHAPE or NAME:SHAPE:DTYPE, such as image:1x3x224x224:float32"),
        ("image:1x3xN", "--input 'image:1x3xN': expected NAME:SHAPE or"),
        ("image:1x3:float31", "--input 'image:1x3:float31': no dtype 'float31'; expected one of float32, float64, "),
        ("image:1x0", "--input 'image:1x0': a dimension is 0, an example needs at least 1"),
    ],
)
def test_inputs_in_another_notation_are_refused(text: str, message: str) -> None:
    with pytest.raises(ExportError) as caught:
        parse_input(text)
    assert str(caught.value).startswith(message)


def test_two_inputs_of_one_name_are_refused() -> None:
    with pytest.raises(ExportError, match=r"^--input: two inputs are called 'x'$"):
        draw_examples([parse_input("x:1"), parse_input("x:2")])


def test_inputs_go_by_name_where_forward_has_the_names_else_in_order(here: Path) -> None:
    left, right = np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32)
    assert as_arguments(_network(), {"right": right, "left": left}) == ({"right": right, "left": left}, None)
    assert as_arguments(_network(), {"p": left, "q": right}) == ((left, right), ["p", "q"])
    assert as_arguments("net.onnx", {"p": left}) == ({"p": left}, None)
    assert as_arguments("net.onnx", {}) == (None, None)


def _network() -> torch.nn.Module:
    model = open_model("spec_net:make")
    assert isinstance(model, torch.nn.Module)
    return model
