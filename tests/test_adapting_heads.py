"""Which heads are tried at a place, and how strongly their weights are held back."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from eetoolkit_exporters.attaching.attach import MultiExit, open_base
from eetoolkit_exporters.attaching.fit import Fit, Target, fit_head
from eetoolkit_exporters.attaching.heads import Head, classifier
from eetoolkit_exporters.attaching.places import find_places

ROWS = np.arange(400)


def fitted(noise: int) -> Fit:
    """Returns the fit of a linear head to two classes, by one feature that tells them beside others that do not."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, 400)
    told = (2 * labels - 1)[:, None] + draw.normal(size=(400, 1))
    features = np.concatenate([told, draw.normal(size=(400, noise))], 1).astype(np.float32)
    head = Head("mean", [], classifier(1 + noise, 2, hidden=False))
    return fit_head(head, features.__getitem__, Target(torch.from_numpy(labels), None, 0.0), ROWS[:320], ROWS[320:])


def test_features_that_tell_nothing_do_not_make_a_head_sure() -> None:
    few, many = fitted(1), fitted(300)
    assert few.decay < many.decay
    assert few.loss < 0.38
    assert many.loss < 0.6  # with a weight decay of 0.1 it is 2.0, worse than a guess


def test_a_masked_sequence_has_no_head_of_its_last_step() -> None:
    class Tagged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.classifier = nn.Embedding(20, 4), nn.Linear(4, 2)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            weights = attention_mask.unsqueeze(-1).float()
            return self.classifier((self.words(input_ids).tanh() * weights).sum(1))  # type: ignore[no-any-return]

    given = {"input_ids": np.arange(8)[None], "attention_mask": np.ones((1, 8), np.int64)}
    base = open_base(Tagged().eval(), given)
    places = [place for place in find_places(base.network, base.source.inputs) if len(place.shape) == 3]
    model = MultiExit(base, {place.name: place for place in places}, {})
    assert [model.kinds_at(place.name) for place in places[:1]] == [("first", "mean", "mean+max")]


def test_a_hidden_layer_tells_what_a_linear_head_cannot() -> None:
    features = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
    target = Target(torch.from_numpy((features.prod(1) > 0).astype(np.int64)), None, 0.0)
    losses = {}
    for kind, hidden in (("mean", False), ("mean+mlp", True)):
        head = Head(kind, [], classifier(2, 2, hidden=hidden))
        losses[kind] = fit_head(head, features.__getitem__, target, ROWS[:320], ROWS[320:]).loss
    assert losses["mean"] > 0.65
    assert losses["mean+mlp"] < 0.2
