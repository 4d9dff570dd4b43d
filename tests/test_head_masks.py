"""What heads gather from a sequence does not depend on how far it is padded, nor on which side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import eetoolkit as ee
from eetoolkit_exporters.attaching.features import gather_features
from eetoolkit_exporters.attaching.heads import FeatureLayout, Gather

FEATURES = torch.arange(24, dtype=torch.float32).reshape(2, 4, 3)
MASK = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])


@pytest.mark.parametrize(("part", "steps"), [("first", [0, 1]), ("last", [2, 3])])
def test_the_ends_of_a_sequence_are_those_that_the_mask_keeps(part: str, steps: list[int]) -> None:
    found = Gather(part, FeatureLayout((None, None, 3), 0, 2))(FEATURES, MASK)
    assert torch.equal(found, FEATURES[[0, 1], steps])


@pytest.mark.parametrize(("part", "steps"), [("first", [0, 1]), ("last", [2, 3])])
def test_steps_may_lie_before_rows_and_a_mask_may_say_what_is_left_out(part: str, steps: list[int]) -> None:
    found = Gather(part, FeatureLayout((None, None, 3), 1, 2), keeps=False)(FEATURES.transpose(0, 1), 1 - MASK)
    assert torch.equal(found, FEATURES[[0, 1], steps])


@pytest.mark.parametrize("part", ["first", "last", "mean", "max"])
@pytest.mark.parametrize("rows", [0, 1])
def test_a_row_of_which_a_mask_keeps_nothing_gives_zeros(part: str, rows: int) -> None:
    mask = torch.tensor([[0, 0, 0, 0], [0, 1, 1, 0]])
    features = FEATURES if rows == 0 else FEATURES.transpose(0, 1)
    found = Gather(part, FeatureLayout((None, None, 3), rows, 2))(features, mask)
    assert torch.equal(found[0], torch.zeros(3))
    assert found[1].all()


@pytest.mark.parametrize("part", ["first", "last", "mean", "max"])
def test_so_it_does_in_the_graph(part: str, tmp_path: Path) -> None:
    class Tagged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.more, self.answer = nn.Embedding(9, 3), nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            found = self.more(self.words(ids)) * attention_mask.unsqueeze(-1).float()
            return self.answer(found.sum(1))  # type: ignore[no-any-return]

    given = {"ids": np.arange(8).reshape(2, 4), "attention_mask": np.array([[1, 1, 1, 1], [0, 0, 0, 0]])}
    model = ee.attach_exits(Tagged().eval(), ["words"], {name: array[:1] for name, array in given.items()}, head=part)
    found = gather_features(model, given, tmp_path)
    gathered = found.of(model, "words", np.arange(2))
    assert gathered[0].all()
    assert not gathered[1].any()


@pytest.mark.parametrize("part", ["first", "last", "mean", "max"])
def test_padding_changes_nothing(part: str) -> None:
    gather = Gather(part, FeatureLayout((None, None, 3), 0, 2))
    padded, mask = torch.cat([FEATURES, 100 * torch.ones(2, 2, 3)], 1), torch.tensor([[1, 1, 1, 1, 0, 0]] * 2)
    assert torch.equal(gather(padded, mask), gather(FEATURES, mask[:, :4]))
