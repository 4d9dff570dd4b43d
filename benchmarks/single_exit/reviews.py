"""Film reviews: a BERT of six layers, all-MiniLM-L6-v2, fine-tuned on their mood with one head at its end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.cases import reviews
from benchmarks.single_exit.case import Case

SEEDS: Final = (0, 1, 2)
LABELS: Final = ("negative", "positive")
MOST_TOKENS: Final = 48
"""Of a row that exits are fitted to; 4 of 100 are longer."""

RECIPE: Final = replace(reviews.RECIPE, epochs=2, exit_weights=(1.0,))


class ReviewBert(nn.Module):
    """Hugging Face's `BertModel`, unmodified, with a head on its last layer."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.bert = encoder
        self.head = reviews.Head(cast("Any", encoder).config.hidden_size)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns logits (batch, 2), of int64 (batch, tokens) tokens and mask of 0 and 1."""
        states = self.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        logits: Tensor = self.head(states, attention_mask.unsqueeze(-1).to(states.dtype))
        return logits


def load(seed: int = 0) -> Case:
    """Returns the case, trained with one of `SEEDS`; the rows are split as for the network with six exits."""
    recipe = replace(RECIPE, seed=seed)
    network, tokens, labels, parts = reviews.load("single_exit_reviews", ReviewBert, recipe)

    ids, mask = reviews.pad(tokens)
    inputs = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}

    def part(rows: NDArray[np.int64], most: int | None = MOST_TOKENS) -> tuple[dict[str, Any], NDArray[np.int64]]:
        return {name: array[rows, :most] for name, array in inputs.items()}, labels[rows]

    fit, test, train = part(parts.validation), part(parts.test, None), part(parts.train)
    options = {"dynamic_shapes": {name: {1: "length"} for name in inputs}}
    return Case(f"reviews-{seed}", network, fit, test, LABELS, train, options)
