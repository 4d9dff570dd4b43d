"""A multi-exit transformer encoder: a classifier behind every block, with an attention mask and positions.

Xin et al. 2020, "DeeBERT: Dynamic Early Exiting for Accelerating BERT Inference", arXiv:2004.12993, section 2.
"""

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from eetoolkit.zoo.digits import LABELS
from eetoolkit.zoo.system import System
from eetoolkit.zoo.train import fit

PATCHES: Final = 16
PATCH_PIXELS: Final = 2
WIDTH: Final = 96
HEADS: Final = 4
BLOCKS: Final = 6
EPOCHS: Final = 30
MAX_LEARNING_RATE: Final = 2e-3

INK: Final = 0.15
"""A patch with a pixel above this is attended to: two sixteenths, and five times the noise of the augmentation."""


class Block(nn.Module):
    """Self-attention and a feed-forward network, each normalised before (Xiong et al. 2020, arXiv:2002.04745)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.project = nn.Linear(WIDTH, 3 * WIDTH)
        self.attended = nn.Linear(WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.wide = nn.Linear(WIDTH, 4 * WIDTH)
        self.narrow = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:
        """Returns states (batch, tokens, 96).

        Args:
            states: (batch, tokens, 96).
            bias: (batch, 1, 1, tokens), added to the attention scores.
        """
        heads = self.project(self.norm1(states)).unflatten(2, (3, HEADS, WIDTH // HEADS))
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind()
        scores = query @ key.transpose(-1, -2) / math.sqrt(WIDTH / HEADS) + bias
        states = states + self.attended((scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2))
        layered: Tensor = states + self.narrow(functional.gelu(self.wide(self.norm2(states))))
        return layered


class Head(nn.Module):
    """A classifier that reads the mean of the tokens that the mask lets through."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.linear = nn.Linear(WIDTH, len(LABELS))

    def forward(self, states: Tensor, seen: Tensor) -> Tensor:
        """Returns logits (batch, 10) from states (batch, tokens, 96) and a mask (batch, tokens, 1) of 0 and 1."""
        mean = (self.norm(states) * seen).sum(dim=1) / seen.sum(dim=1).clamp_min(1.0)
        logits: Tensor = self.linear(mean)
        return logits


class MultiExitTransformer(nn.Module):
    """An encoder over the patches of a digit, with an exit behind every block."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(PATCH_PIXELS**2, WIDTH)
        self.places = nn.Embedding(PATCHES, WIDTH)
        nn.init.normal_(self.places.weight, std=0.2)  # at torch's 1.0 the places drown the pixels
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.heads = nn.ModuleList(Head() for _ in range(BLOCKS))

    def forward(self, patches: Tensor, mask: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        """Returns every exit's logits, each float32 (batch, 10).

        Args:
            patches: float32 (batch, patches, 4), pixels in [0, 1].
            mask: int64 (batch, patches), 1 where a patch is to be attended to, 0 where not.
            positions: int64 (batch, patches), the place of each patch in the image, 0 to 15.
        """
        states = self.embed(patches) + self.places(positions)
        seen = mask.to(states.dtype)
        bias = (1.0 - seen[:, None, None, :]) * -1e4
        answers = []
        for block, head in zip(self.blocks, self.heads, strict=True):
            states = block(states, bias)
            answers.append(head(states, seen[:, :, None]))
        return tuple(answers)


def patches(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the patches of images (n, 1, 8, 8), the mask of those with ink, and their positions."""
    pixels = functional.unfold(images, PATCH_PIXELS, stride=PATCH_PIXELS).transpose(1, 2).contiguous()
    mask = (pixels.amax(dim=2) > INK).to(torch.int64)
    positions = torch.arange(PATCHES).expand(len(images), PATCHES).contiguous()
    return pixels, mask, positions


def loss(outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Returns the sum of all exits' cross-entropies, in nats, trained jointly and not in DeeBERT's two stages."""
    return torch.stack([functional.cross_entropy(logits, labels) for logits in outputs]).sum()


def fit_gently(model: nn.Module) -> nn.Module:
    """Returns the network, in evaluation mode, trained at two thirds of the usual rate: attention needs it."""
    return fit(model, loss, epochs=EPOCHS, inputs=patches, max_learning_rate=MAX_LEARNING_RATE)


SYSTEM: Final = System(
    name="multi_exit_transformer",
    title="Multi-exit transformer encoder",
    source="Xin et al. 2020, arXiv:2004.12993, section 2",
    build=MultiExitTransformer,
    loss=loss,
    fit=fit_gently,
    inputs=patches,
)
