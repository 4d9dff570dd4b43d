"""Layer reordering: a router chooses for every digit which of three blocks run, and in which order.

The blocks are trained in random orders, as in Freiberger et al. 2024, "LayerShuffle", arXiv:2407.04513, section 3; a
router over function blocks is that of Rosenbaum et al. 2018, "Routing Networks", arXiv:1711.01239, section 3.
"""

import itertools
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from eetoolkit.zoo.digits import LABELS
from eetoolkit.zoo.system import System
from eetoolkit.zoo.train import fit

PIXELS: Final = 64
WIDTH: Final = 128
HIDDEN: Final = 264
BLOCKS: Final = 3

PATHS: Final = tuple(path for length in (2, 3) for path in itertools.permutations(range(BLOCKS), length))
"""Every order of two or three of the blocks: twelve."""

BLOCK_EPOCHS: Final = 30
ROUTER_EPOCHS: Final = 25
BLOCK_PRICE: Final = 0.005
"""What the router pays for a block, in nats."""

INFORMATION_WEIGHT: Final = 0.2
"""What the router gains by telling images apart, per nat."""


class Block(nn.Module):
    """A residual block of two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.wide = nn.Linear(WIDTH, HIDDEN)
        self.narrow = nn.Linear(HIDDEN, WIDTH)

    def forward(self, features: Tensor) -> Tensor:
        """Returns features (batch, 128)."""
        layered: Tensor = features + self.narrow(functional.relu(self.wide(self.norm(features))))
        return layered


class LayerReordering(nn.Module):
    """Three blocks, a router that chooses a path through them, and a loop that follows it."""

    orders: Tensor
    lengths: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(PIXELS, WIDTH)
        self.router = nn.Sequential(nn.Linear(PIXELS, 32), nn.ReLU(), nn.Linear(32, len(PATHS)))
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(LABELS)))
        orders = [path + (0,) * (BLOCKS - len(path)) for path in PATHS]
        self.register_buffer("orders", torch.tensor(orders), persistent=False)
        self.register_buffer("lengths", torch.tensor([len(path) for path in PATHS]), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Returns logits, float32 (batch, 10).

        Args:
            image: float32 (batch, 1, 8, 8), in [0, 1]. In evaluation one row, whose path the loop follows; in training
                any number, which take one random path together.
        """
        pixels = image.flatten(1)
        features = self.embed(pixels)
        if self.training:
            return self.along(features, PATHS[int(torch.randint(len(PATHS), ()))])
        path = self.router(pixels).argmax(dim=1)
        order, length = self.orders.index_select(0, path).squeeze(0), self.lengths.index_select(0, path).squeeze(0)
        block0, block1, block2 = self.blocks

        def unfinished(step: Tensor, _: Tensor) -> Tensor:
            return (step < length) & (step < BLOCKS)

        def follow(step: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
            block = order.index_select(0, step.reshape(1)).squeeze(0)

            def not_first(features: Tensor) -> Tensor:
                later: Tensor = torch.cond(block == 1, block1, block2, (features,))
                return later

            return step + 1, torch.cond(block == 0, block0, not_first, (features,))

        start = torch.zeros((), dtype=torch.int64)
        end = torch.while_loop(unfinished, follow, (start, features))  # type: ignore[no-untyped-call]  # torch leaves it untyped
        logits: Tensor = self.head(end[1])
        return logits

    def along(self, features: Tensor, path: Sequence[int]) -> Tensor:
        """Returns the logits (batch, 10) of the features after the blocks of one path."""
        for block in path:
            features = self.blocks[block](features)
        logits: Tensor = self.head(features)
        return logits


def loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Returns the cross-entropy, in nats."""
    return functional.cross_entropy(outputs, labels)


class _AllPaths(nn.Module):
    """What the router learns from: its scores of the paths, and where each path leads."""

    def __init__(self, network: LayerReordering) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Returns scores (batch, 12) and every path's logits (batch, 12, 10)."""
        pixels = image.flatten(1)
        features = self.network.embed(pixels)
        answers = torch.stack([self.network.along(features, path) for path in PATHS], dim=1)
        return self.network.router(pixels), answers


def routing_loss(outputs: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
    """Returns the expected cost of a path: its cross-entropy plus the price of its blocks, in nats.

    Twelve paths can all be tried, so the gradient is exact where a longer network would have to sample. A router left
    to itself sends everything one way (Rosenbaum et al., section 4), so the information that a path gives about the
    image is rewarded: the entropy of the mean policy less the mean entropy of the policies.
    """
    scores, answers = outputs
    policy = scores.softmax(dim=1)
    errors = functional.cross_entropy(answers.transpose(1, 2), labels[:, None].expand(-1, len(PATHS)), reduction="none")
    prices = BLOCK_PRICE * torch.tensor([float(len(path)) for path in PATHS])
    information = _entropy(policy.mean(dim=0)) - _entropy(policy).mean()
    return (policy * (errors + prices)).sum(dim=1).mean() - INFORMATION_WEIGHT * information


def _entropy(policy: Tensor) -> Tensor:
    """Returns the entropy of the last dimension, in nats."""
    return -torch.xlogy(policy, policy.clamp_min(1e-12)).sum(dim=-1)


def fit_blocks_then_router(model: nn.Module) -> nn.Module:
    """Returns the network, in evaluation mode: its blocks trained in random orders, then everything with its router."""
    if not isinstance(model, LayerReordering):
        raise TypeError(f"got a {type(model).__name__}, expected a LayerReordering")
    blocks = [parameter for name, parameter in model.named_parameters() if not name.startswith("router.")]
    fit(model, loss, epochs=BLOCK_EPOCHS, parameters=blocks)
    fit(_AllPaths(model), routing_loss, epochs=ROUTER_EPOCHS)
    return model.eval()


def decisions(model: Any, inputs: Sequence[Tensor]) -> list[int]:
    """Returns a one (a path has two blocks at least), and for each step the block's number and 1 if another follows."""
    (image,) = inputs
    with torch.no_grad():
        path = PATHS[int(model.router(image.flatten(1)).argmax(dim=1))]
    taken = [1]
    for step, block in enumerate(path, start=1):
        taken += [block, int(step < len(path))]
    return taken


SYSTEM: Final = System(
    name="layer_reordering",
    title="Layer reordering by a router",
    source="Freiberger et al. 2024, arXiv:2407.04513, section 3; Rosenbaum et al. 2018, arXiv:1711.01239, section 3",
    build=LayerReordering,
    loss=loss,
    fit=fit_blocks_then_router,
    options={"dynamic_batch": False},  # one row decides which blocks run
    decisions=decisions,
)
