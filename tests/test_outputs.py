"""Whatever `forward` nests its tensors in, they come out as exits and outputs with names."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import eetoolkit as ee
from eetoolkit_exporters.capturing.outputs import other_outputs, walk_outputs

A, B, C = (torch.full((1, 3), float(number)) for number in range(3))


class Named(NamedTuple):
    """As torchvision's networks with auxiliary classifiers return."""

    logits: Tensor
    aux: Tensor | None


@dataclass
class Held:
    """As networks of dataclasses return."""

    logits: Tensor
    hidden_states: tuple[Tensor, ...]


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        (A, ["exit0"]),
        ((A, [B, C]), ["exit0", "exit1_0", "exit1_1"]),
        ([A, (B, (C,))], ["exit0", "exit1_0", "exit1_1_0"]),
        ((A, None, [None, B]), ["exit0", "exit2_1"]),
        ({"logits": A, "hidden_states": (B, C)}, ["logits", "hidden_states_0", "hidden_states_1"]),
        (OrderedDict(logits=A, loss=None), ["logits"]),
        ((A, {"logits": B, "boxes": [C, A]}), ["exit0", "exit1.logits", "exit1.boxes_0", "exit1.boxes_1"]),
        ([{"logits": A}, {"logits": B}], ["exit0.logits", "exit1.logits"]),
        ({"early": [{"logits": A}, {"logits": B}], "late": C}, ["early_0.logits", "early_1.logits", "late"]),
        ({"late": {"deep": {"er": A}}}, ["late.deep_er"]),
        (Named(A, B), ["logits", "aux"]),
        (Named(A, None), ["logits"]),
        (Held(A, (B, C)), ["logits", "hidden_states_0", "hidden_states_1"]),
        ((Named(A, B),), ["exit0.logits", "exit0.aux"]),
    ],
    ids=str,
)  # fmt: skip
def test_names_can_be_read(outputs: Any, expected: list[str]) -> None:
    found = [(exit_ if output is None else f"{exit_}.{output}") for exit_, output, _ in walk_outputs(outputs)]
    assert found == expected


def test_the_order_is_that_of_the_network() -> None:
    found = [float(tensor[0, 0]) for _, _, tensor in walk_outputs((A, [B, {"x": C}]))]
    assert found == [0, 1, 2]


def test_what_is_no_tensor_is_named() -> None:
    assert other_outputs((A, 3.0, {"logits": B, "kind": "sure"})) == {"exit1": "float", "exit2.kind": "str"}


class Nested(nn.Module):
    """Returns (logits, [early, middle]), and what no bundle can hold."""

    def forward(self, x: Tensor) -> Any:
        """Returns exits of several depths."""
        return x * 3, [x, x * 2], {"steps": 2}


def test_exits_are_chosen_of_what_is_nested(tmp_path: Path) -> None:
    x = np.array([[0.2, 1.0, -1.0]], np.float32)
    exits = {"early": "exit1_0", "middle": "exit1_1", "late": "exit0"}
    bundle = ee.export(Nested().eval(), x, tmp_path / "n.ee", exits=exits)
    with ee.Runner(bundle) as runner:
        answers = {name: runner.run(x, exit_at=name).outputs["logits"] for name in bundle.exits}
    for name, times in {"early": 1, "middle": 2, "late": 3}.items():
        np.testing.assert_allclose(answers[name], times * x, rtol=1e-6)


def test_what_cannot_be_exported_is_refused_with_the_exits_that_can(tmp_path: Path) -> None:
    with pytest.raises(ee.ExportError) as caught:
        ee.export(Nested().eval(), np.ones((1, 3), np.float32), tmp_path / "n.ee")
    assert str(caught.value) == (
        "exit 'exit2.steps' is int, expected a tensor or a dict of tensors: it is not a function of the input that can "
        "be exported; do not return it, or name the exits, exits=['exit0', 'exit1_0', 'exit1_1']"
    )
