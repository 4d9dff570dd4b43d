"""Hierarchical exit: a coarse classifier picks a group of digits, whose own branch may answer if it is sure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from eetoolkit.zoo.residual import CLASSES, ResidualBlock, head, stem
from eetoolkit.zoo.system import System

GROUPS: Final = ((0, 6), (1, 4, 7), (2, 3, 5, 8, 9))
"""Digits that look alike."""

CHANNELS: Final = 32
OUTSIDE: Final = -30.0
"""The logit of a class outside the group: its probability is below 1e-9 of any inside."""


class HierarchicalExit(nn.Module):
    """A gate over groups, an exit inside the group, and the rest: HD-CNN's categories with a hard choice and exits.

    The criterion is applied to the group's exit; an image of which its group is not sure goes on to blocks and a head
    for all classes, which can also mend a wrong group.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(stem(CHANNELS), ResidualBlock(CHANNELS, CHANNELS))
        self.coarse = head(CHANNELS, 8, len(GROUPS))
        self.fine = nn.ModuleList(
            nn.Sequential(ResidualBlock(CHANNELS, CHANNELS), head(CHANNELS, 8, len(group))) for group in GROUPS
        )
        self.rest = nn.Sequential(
            ResidualBlock(CHANNELS, CHANNELS), ResidualBlock(CHANNELS, 64, 2), ResidualBlock(64, 64), head(64, 4)
        )
        for number, group in enumerate(GROUPS):  # class c of the group goes to column group[c]
            place = functional.one_hot(torch.tensor(group), CLASSES).float()
            self.register_buffer(f"place{number}", place, persistent=False)

    def within(self, number: int, features: Tensor) -> Tensor:
        """Returns logits (n, 10) of one group's branch: `OUTSIDE` for all classes that are not in it."""
        place = cast("Tensor", getattr(self, f"place{number}"))
        logits: Tensor = self.fine[number](features) @ place + OUTSIDE * (1 - place.sum(dim=0))
        return logits

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Returns the logits (1, 10) of the exits `group` and `all` for one image; in training what `loss` takes."""
        features = self.trunk(image)
        coarse = self.coarse(features)
        if self.training:
            fine = {f"fine{number}": self.within(number, features) for number in range(len(GROUPS))}
            return {"coarse": coarse, **fine, "all": self.rest(features)}
        group = coarse.argmax(dim=1)[0]

        def other(features: Tensor) -> Tensor:
            logits: Tensor = torch.cond(
                group == 1, lambda f: self.within(1, f), lambda f: self.within(2, f), (features,)
            )
            return logits

        within = torch.cond(group == 0, lambda f: self.within(0, f), other, (features,))
        return {"group": within, "all": self.rest(features)}


def loss(outputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Returns the cross-entropies of the groups, of each branch on the digits of its group, and of the last exit.

    Yan et al. 2015 (arXiv:1410.0736) train coarse and fine classifiers so, then all together.
    """
    total = functional.cross_entropy(outputs["all"], labels)
    groups = torch.empty_like(labels)
    for number, members in enumerate(GROUPS):
        inside = torch.isin(labels, torch.tensor(members))
        groups[inside] = number
        total = total + functional.cross_entropy(outputs[f"fine{number}"][inside], labels[inside])
    return total + functional.cross_entropy(outputs["coarse"], groups)


def decisions(model: nn.Module, inputs: Sequence[Tensor]) -> list[int]:
    """Returns the number of the group that one row is taken for."""
    network = cast("HierarchicalExit", model)
    return [int(network.coarse(network.trunk(*inputs)).argmax(dim=1))]


SYSTEM: Final = System(
    name="hierarchical_exit",
    title="Hierarchical exit: a group, then an exit inside it",
    source="Yan et al. 2015, arXiv:1410.0736, with a hard choice of the group",
    build=HierarchicalExit,
    loss=loss,
    epochs=16,
    options={"dynamic_batch": False},
    decisions=decisions,
)
