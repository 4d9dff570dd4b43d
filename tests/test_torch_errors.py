"""What PyTorch cannot trace is said with what to write instead, and the user's own line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import eetoolkit as ee


def returns_early(x: Tensor) -> Any:
    early = x * 2
    if early.softmax(1).max() > 0.9:
        return early
    return x * 3


def returns_late(x: Tensor) -> Any:
    if x.amax() < 0.5:
        x = x + 1
    else:
        return x * 2
    return x * 3


def breaks(x: Tensor) -> Any:
    for _ in range(3):
        x = torch.tanh(x)
        if not (x > 0).any().item():
            break
    return x


def chooses(x: Tensor) -> Any:
    return x * 2 if x.sum() > 0 else x * 3


def repeats(x: Tensor) -> Any:
    while x.sum() < 3:
        x = x + 1
    return x


EARLY = "a Python `if` on a tensor's values returns early; delete it and return every exit, `return early, late`"
ROUND = "a Python `if` on a tensor's values leaves a loop early; delete it and return what every round gives as an exit"
OTHER = "a Python `if`, loop or size depends on a tensor's values; write it with torch.cond, torch.where or torch.while"


@pytest.mark.parametrize(
    ("function", "words", "code"),
    [
        (returns_early, EARLY, "if early.softmax(1).max() > 0.9:"),
        (returns_late, EARLY, "if x.amax() < 0.5:"),
        (breaks, ROUND, "if not (x > 0).any().item():"),
        (chooses, OTHER, "return x * 2 if x.sum() > 0 else x * 3"),
        (repeats, OTHER, "while x.sum() < 3:"),
    ],
)
def test_a_branch_on_values_is_refused_with_what_to_write(
    function: Callable[[Tensor], Any], words: str, code: str, tmp_path: Path
) -> None:
    text = refused(function, tmp_path)
    assert text.startswith(f"torch cannot export the network: {words}")
    assert place(text) == code


def test_data_is_refused_with_detach_and_its_line(tmp_path: Path) -> None:
    class Hard(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            soft = x.softmax(1)
            hard = soft.data.clone()
            return soft * (hard - soft + 1)

    with pytest.raises(ee.ExportError) as caught:
        ee.export(Hard().eval(), torch.rand(1, 3), tmp_path / "n.ee")
    text = str(caught.value)
    assert text.startswith("torch cannot export the network: what `.data` gives cannot be followed; write .detach() (")
    assert place(text) == "hard = soft.data.clone()"


def refused(function: Callable[[Tensor], Any], folder: Path) -> str:
    """Returns what is said of a network of this `forward`."""

    class Network(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return function(x)

    with pytest.raises(ee.ExportError) as caught:
        ee.export(Network().eval(), torch.rand(1, 3), folder / "n.ee")
    assert not (folder / "n.ee").exists()
    return str(caught.value)


def place(text: str) -> str:
    """Returns the line of this file that a message names, by its number."""
    match = re.search(r"test_torch_errors\.py:(\d+): (.+)\)$", text)
    assert match is not None, text
    code = Path(__file__).read_text("utf-8").splitlines()[int(match[1]) - 1].strip()
    assert match[2] == code
    return code
