"""Networks with blended gates, with the structure of their authors' public code, small."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

IMAGE = (3, 8, 8)


class Block(nn.Module):
    """A residual block: two convolutions, a shortcut around them, an activation."""

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels // stride, channels, 3, stride, 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.shortcut = nn.Conv2d(channels // stride, channels, 1, stride) if stride > 1 else nn.Identity()

    def branch(self, x: Tensor) -> Tensor:
        return self.conv2(functional.relu(self.conv1(x)))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.branch(x) + self.shortcut(x))


class FeedforwardGate(nn.Module):
    """SkipNet's feed-forward gate: a softmax over (skip, run), straight through."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 2, 1)
        self.linear = nn.Conv2d(channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv(x))
        softmax = functional.softmax(self.linear(x.mean((2, 3), keepdim=True)).flatten(1), 1)
        run = softmax[:, 1].contiguous()
        hard = (run > 0.5).float().detach() - run.detach() + run
        return hard.view(hard.size(0), 1, 1, 1)


class RecurrentGate(nn.Module):
    """SkipNet's recurrent gate: one LSTM, stepped at every block, shared by all."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(channels, channels)
        self.proj = nn.Conv2d(channels, 1, 1)
        self.hidden: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        batch = x.size(0)
        out, self.hidden = self.rnn(x.mean((2, 3)).view(1, batch, -1), self.hidden)
        prob = torch.sigmoid(self.proj(out.view(batch, -1, 1, 1)))
        hard = (prob > 0.5).float().detach() - prob.detach() + prob
        return hard.view(batch, 1, 1, 1)


class SkipNet(nn.Module):
    """SkipNet (Wang et al. 2018): gate i decides block i + 1; a skipped block's down-sampling still runs."""

    GATES = 3

    def __init__(self, *, recurrent: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 1, 1)
        widths = [4, 8, 8]
        self.blocks = nn.ModuleList([Block(4), Block(8, 2), Block(8)])
        self.down = nn.ModuleList([nn.Identity(), nn.Conv2d(4, 8, 1, 2), nn.Identity()])
        shared = RecurrentGate(8)
        self.gates = nn.ModuleList([shared if recurrent else FeedforwardGate(width) for width in [4, *widths[:-1]]])
        self.recurrent = recurrent
        self.head = nn.Linear(8, 5)

    def deciders(self) -> list[nn.Module]:
        return [gate.proj if self.recurrent else gate.linear for gate in self.gates]

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        for gate in self.gates:
            if isinstance(gate, RecurrentGate):
                gate.hidden = None
        for block, gate, down in zip(self.blocks, self.gates, self.down, strict=True):
            mask = gate(functional.pad(x, (0, 0, 0, 0, 0, 8 - x.size(1))) if self.recurrent else x)
            prev = down(x)
            x = block(x)
            x = mask.expand_as(x) * x + (1 - mask).expand_as(prev) * prev
        return self.head(x.mean((2, 3)))


class Aig(nn.Module):
    """ConvNet-AIG (Veit and Belongie 2018): the shortcut always runs, a one-hot's column weighs the branch."""

    GATES = 3

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 1, 1)
        self.blocks = nn.ModuleList([Block(4), Block(8, 2), Block(8)])
        self.gates = nn.ModuleList([nn.Conv2d(width, 2, 1) for width in (4, 4, 8)])
        self.head = nn.Linear(8, 5)

    def deciders(self) -> list[nn.Module]:
        return list(self.gates)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        for block, gate in zip(self.blocks, self.gates, strict=True):
            y = functional.softmax(gate(functional.avg_pool2d(x, x.size(2))), 1)
            index = y.detach().max(1, keepdim=True)[1]
            hard = y.detach().clone().zero_().scatter_(1, index, 1)
            w = hard - y.detach() + y
            x = functional.relu(block.shortcut(x) + block.branch(x) * w[:, 1].unsqueeze(1))
        return self.head(x.mean((2, 3)))


class BlockDrop(nn.Module):
    """BlockDrop (Wu et al. 2018): a policy for all blocks, binarized in place as its test code does."""

    GATES = 3

    def __init__(self) -> None:
        super().__init__()
        self.policy = nn.Linear(3 * 8 * 8, 3)
        self.stem = nn.Conv2d(3, 4, 3, 1, 1)
        self.blocks = nn.ModuleList([Block(4), Block(8, 2), Block(8)])
        self.head = nn.Linear(8, 5)

    def deciders(self) -> list[nn.Module]:
        return [self.policy]

    def forward(self, x: Tensor) -> Tensor:
        policy = torch.sigmoid(self.policy(x.flatten(1)))
        policy[policy < 0.5] = 0.0
        policy[policy >= 0.5] = 1.0
        x = functional.relu(self.stem(x))
        for t, block in enumerate(self.blocks):
            mask = policy[:, t].contiguous().float().view(-1, 1, 1, 1)
            residual = block.shortcut(x)
            fx = functional.relu(residual + block.branch(x))
            x = fx * mask + residual * (1 - mask)
        return self.head(x.mean((2, 3)))


class Forms(nn.Module):
    """Every way to write a gate that torch code shows; the outputs are the gates themselves, hard ones and others."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        z = self.linear(x)
        p = torch.sigmoid(z)
        hard = (p > 0.5).float()
        y = functional.softmax(z, -1)
        index = y.argmax(-1, keepdim=True)
        scattered = torch.zeros_like(y).scatter_(-1, index, 1.0)
        assigned = p.clone()
        assigned[assigned < 0.5] = 0.0
        assigned[assigned >= 0.5] = 1.0
        half = p.clone()
        half[half < 0.4] = 0.0
        half[half >= 0.5] = 1.0
        return {
            "hard_greater": hard,
            "hard_at_least": torch.ge(p, 0.5).to(x.dtype),
            "hard_round": p.round(),
            "hard_where": torch.where(p > 0.5, 1.0, 0.0),
            "hard_where_turned": torch.where(p > 0.5, 0.0, 1.0),
            "hard_through": (hard - p.detach()) + p,
            "hard_through_turned": p + (hard - p).detach(),
            "hard_through_late": hard + p - p.detach(),
            "hard_through_zero": hard + (p - p.detach()),
            "hard_one_minus": 1 - ((hard - p.detach()) + p),
            "hard_product": hard * p.round(),
            "hard_largest": torch.maximum(hard, p.round()),
            "hard_clamp": torch.ceil(z).clamp(0, 1),
            "hard_one_hot": functional.one_hot(y.argmax(1), 2).float(),
            "hard_scatter": scattered,
            "hard_scatter_through": scattered - y.detach() + y,
            "hard_is_one": (y.argmax(1) == 1).float(),
            "hard_index": y.argmax(1).float(),
            "hard_column": functional.one_hot(y.argmax(1), 2).float()[:, 1].view(-1, 1, 1),
            "hard_assigned": assigned,
            "hard_logic": ((p > 0.5) & ~(p > 0.9) | torch.isnan(p)).type_as(x).expand(-1, 2),
            "hard_stacked": torch.cat([hard, p.round()], 1).unsqueeze(1).transpose(0, 1),
            "soft_sigmoid": p * 1.0,
            "soft_softmax": y * 1.0,
            "soft_logits_round": z.round(),
            "soft_sign": (torch.sign(z) + 1) / 2,
            "soft_gap": half,
            "soft_sum": hard + p.round(),
            "soft_through_logits": (hard - z.detach()) + z,
            "soft_index_of_more": torch.cat([z, p], 1).argmax(1).float(),
        }


NETWORKS = {
    "skipnet": SkipNet,
    "skipnet_recurrent": lambda: SkipNet(recurrent=True),
    "aig": Aig,
    "blockdrop": BlockDrop,
}
