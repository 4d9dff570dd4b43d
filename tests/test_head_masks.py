"""What heads gather from a sequence does not depend on how far it is padded, nor on which side."""

from __future__ import annotations

import pytest
import torch

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
def test_padding_changes_nothing(part: str) -> None:
    gather = Gather(part, FeatureLayout((None, None, 3), 0, 2))
    padded, mask = torch.cat([FEATURES, 100 * torch.ones(2, 2, 3)], 1), torch.tensor([[1, 1, 1, 1, 0, 0]] * 2)
    assert torch.equal(gather(padded, mask), gather(FEATURES, mask[:, :4]))
