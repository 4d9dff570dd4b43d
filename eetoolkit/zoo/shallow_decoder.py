"""Deep encoder, shallow decoder: the encoder runs once, and a classifier stands behind every decoder layer.

Kasai et al. 2021, "Deep Encoder, Shallow Decoder", arXiv:2006.10369, section 3; exits in the decoder as in Schuster et
al. 2022, "Confident Adaptive Language Modeling", arXiv:2207.07061, section 3.
"""

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
WIDTH: Final = 80
HEADS: Final = 4
ENCODER_LAYERS: Final = 5
DECODER_LAYERS: Final = 3
EPOCHS: Final = 35
MAX_LEARNING_RATE: Final = 1e-3


class ShallowDecoder(nn.Module):
    """A transformer that reads the patches of a digit and writes one token: the digit."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(PATCH_PIXELS**2, WIDTH)
        self.places = nn.Parameter(torch.randn(PATCHES, WIDTH))
        self.question = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.encoder = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, HEADS, 3 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(ENCODER_LAYERS)
        )
        self.decoder = nn.ModuleList(
            nn.TransformerDecoderLayer(WIDTH, HEADS, 3 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(DECODER_LAYERS)
        )
        self.heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(LABELS))) for _ in range(DECODER_LAYERS)
        )

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Returns the logits behind every decoder layer, each float32 (batch, 10).

        Args:
            image: float32 (batch, 1, 8, 8), in [0, 1].
        """
        pixels = image.reshape(-1, 4, PATCH_PIXELS, 4, PATCH_PIXELS).transpose(2, 3).flatten(3).flatten(1, 2)
        memory = self.embed(pixels) + self.places
        for layer in self.encoder:
            memory = layer(memory)
        token = self.question.expand(len(image), 1, WIDTH)
        answers = []
        for layer, head in zip(self.decoder, self.heads, strict=True):
            token = layer(token, memory)
            answers.append(head(token[:, 0]))
        return tuple(answers)


def loss(outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Returns the weighted mean of all exits' cross-entropies, in nats; layer i has weight i (CALM, section 3)."""
    losses = torch.stack([functional.cross_entropy(logits, labels) for logits in outputs])
    weights = torch.arange(1, len(losses) + 1, dtype=losses.dtype)
    return (weights * losses).sum() / weights.sum()


def fit_gently(model: nn.Module) -> nn.Module:
    """Returns the network, in evaluation mode, trained at a third of the usual rate: eight layers deep, it needs it."""
    return fit(model, loss, epochs=EPOCHS, max_learning_rate=MAX_LEARNING_RATE)


SYSTEM: Final = System(
    name="shallow_decoder",
    title="Deep encoder, shallow decoder with exits",
    source="Kasai et al. 2021, arXiv:2006.10369, section 3; Schuster et al. 2022, arXiv:2207.07061, section 3",
    build=ShallowDecoder,
    loss=loss,
    fit=fit_gently,
)
