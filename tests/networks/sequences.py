"""Networks over tokens of any number: encoders with a mask, BERT, a recurrent one, tied embeddings."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from networks.case import Case, Draw, Inputs, Real, pixels, seeded

VOCABULARY = 64


class Block(nn.Module):
    """A transformer block, normalised after each part."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.parts = heads
        self.mix = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.wide = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.parts, -1)).transpose(1, 2) for part in self.mix(x).chunk(3, dim=-1))
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        x = self.norms[0](x + self.out(seen.transpose(1, 2).flatten(2)))
        return self.norms[1](x + self.narrow(functional.gelu(self.wide(x))))


class Encoder(nn.Module):
    """A transformer encoder with a padding mask and a head after every block."""

    def __init__(self, width: int = 16, blocks: int = 3) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, width)
        self.places = nn.Embedding(32, width)
        self.blocks = nn.ModuleList([Block(width, 2) for _ in range(blocks)])
        self.heads = nn.ModuleList([nn.Linear(width, 5) for _ in range(blocks)])

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        weights = mask.to(x.dtype).unsqueeze(-1)
        exits = []
        for block, head in zip(self.blocks, self.heads, strict=True):
            x = block(x, mask)
            exits.append(head((x * weights).sum(1) / weights.sum(1)))
        return tuple(exits)


class LayeredEncoder(nn.Module):
    """PyTorch's own encoder layer, which has a fast path of its own in evaluation, with a head after each."""

    def __init__(self, width: int = 16, blocks: int = 2) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.ModuleList([nn.TransformerEncoderLayer(width, 2, 32, batch_first=True) for _ in range(blocks)])
        self.heads = nn.ModuleList([nn.Linear(width, 5) for _ in range(blocks)])

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        x = self.words(tokens)
        exits = []
        for block, head in zip(self.blocks, self.heads, strict=True):
            x = block(x, src_key_padding_mask=~mask)
            exits.append(head(x[:, 0]))
        return tuple(exits)


class Bert(nn.Module):
    """Hugging Face's BertModel, unmodified, with a head on every hidden state."""

    def __init__(self) -> None:
        from transformers import BertConfig, BertModel  # 3 s to import

        super().__init__()
        config = BertConfig(
            vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=32, initializer_range=0.3,
        )  # fmt: skip
        self.bert = BertModel(config, add_pooling_layer=False)
        self.heads = nn.ModuleList([nn.Linear(16, 5) for _ in range(3)])

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        states = self.bert(input_ids, attention_mask=attention_mask, output_hidden_states=True).hidden_states
        return tuple(head(state[:, 0]) for head, state in zip(self.heads, states[1:], strict=True))


class Recurrent(nn.Module):
    """Two stacked recurrent layers, an exit on each."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, 8)
        self.layers = nn.ModuleList([nn.GRU(8, 12, batch_first=True), nn.LSTM(12, 12, batch_first=True)])
        self.heads = nn.ModuleList([nn.Linear(12, 5), nn.Linear(12, 5)])

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        first, _ = self.layers[0](self.words(tokens))
        second, _ = self.layers[1](first)
        return self.heads[0](first[:, -1]), self.heads[1](second[:, -1])


class Tied(nn.Module):
    """A language model whose embedding is its output projection as well."""

    WIDTH = 32

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, self.WIDTH)
        nn.init.normal_(self.words.weight, 0, 0.4)
        self.block = Block(self.WIDTH, 2)
        self.head = nn.Linear(self.WIDTH, 5)
        self.project = nn.Linear(self.WIDTH, VOCABULARY, bias=False)
        self.project.weight = self.words.weight

    def forward(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        x = self.words(tokens)
        return {"kind": self.head(x.mean(1)), "word": self.project(self.block(x, mask)[:, 0])}


def _tokens(
    names: tuple[str, ...] = ("tokens", "mask"), dtype: type[np.generic] = np.bool_, usual: int = 12
) -> tuple[Draw, Real]:
    """Returns the inputs of a network that reads tokens and, where `names` has a second, a padding mask."""

    def with_mask(tokens: np.ndarray, kept: np.ndarray) -> Inputs:
        mask = np.arange(tokens.shape[1]) < np.maximum(kept, 1)[:, None]
        return dict(zip(names, (tokens, mask.astype(dtype)), strict=False))

    def draw(rng: np.random.Generator, rows: int, length: int | None) -> Inputs:
        size = length or usual
        return with_mask(rng.integers(0, VOCABULARY, (rows, size)), rng.integers(1, size, rows, endpoint=True))

    def real(rows: int, length: int | None) -> Inputs:
        tokens = pixels(rows, length or usual)
        return with_mask(tokens, (tokens > 0).sum(1))

    return draw, real


def _dynamic(*names: str) -> dict[str, object]:
    return {"dynamic_shapes": {name: {1: "length"} for name in names}}


CASES = (
    Case(
        "encoder", seeded(Encoder), *_tokens(), exits=("exit0", "exit1", "exit2"),
        options=_dynamic("tokens", "mask"), lengths=(2, 7, 31),
    ),
    Case(
        "layered_encoder", seeded(LayeredEncoder), *_tokens(), exits=("exit0", "exit1"),
        options=_dynamic("tokens", "mask"), lengths=(2, 7, 31),
    ),
    Case(
        "bert", seeded(Bert), *_tokens(("input_ids", "attention_mask"), np.int64), exits=("exit0", "exit1", "exit2"),
        options=_dynamic("input_ids", "attention_mask"), lengths=(2, 7, 31),
    ),
    Case(
        "recurrent", seeded(Recurrent), *_tokens(("tokens",), usual=5), exits=("exit0", "exit1"),
        options=_dynamic("tokens"), lengths=(2, 7, 31),
    ),
    Case(
        "tied", seeded(Tied), *_tokens(), exits=("kind", "word"),
        options=_dynamic("tokens", "mask"), lengths=(2, 31),
    ),
)  # fmt: skip
