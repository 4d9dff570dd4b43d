"""Training of a network with one exit or more, done once: weights are kept under a hash of how they were made."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.cases.archives import cache

Batch = tuple[tuple[Tensor, ...], Tensor]
"""The network's inputs, and int64 labels (n,)."""


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights, the network's shapes and the data beside it.

    Attributes:
        learning_rate: The largest, after a tenth of the steps; it then falls as a cosine to zero.
        exit_weights: Of each exit's cross-entropy in the loss, first exit first.
        distillation: Weight of the divergence of each earlier exit from the last one's answer (Phuong and Lampert
            2019, "Distillation-based Training for Multi-exit Architectures", section 3); 0: none.
        smoothing: Share of the label that is spread over all classes.
        average: Decay of the running mean of the weights, which is what is kept; 0: the last weights.
        data: What was learned from: hashes and sizes of the split.
        head_learning_rate: Of parameters under `head` or `heads` where only they are new; None: as the rest.
    """

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    exit_weights: tuple[float, ...]
    distillation: float
    smoothing: float
    average: float
    data: str
    head_learning_rate: float | None = None
    seed: int = 0
    version: int = 1


def trained(
    name: str,
    build: Callable[[], nn.Module],
    recipe: Recipe,
    batches: Callable[[torch.Generator], Iterable[Batch]],
    steps: int,
) -> nn.Module:
    """Returns the network in evaluation mode, from the cache or trained now on one thread.

    Args:
        name: Of the case; names the file.
        build: Makes the untrained network; torch's seed decides its random weights.
        recipe: How it is trained.
        batches: One epoch's, their order and augmentation drawn from the generator.
        steps: Batches in an epoch.
    """
    from safetensors.torch import load_file, save_file

    torch.manual_seed(recipe.seed)
    network = build()
    shapes = {key: list(tensor.shape) for key, tensor in network.state_dict().items()}
    text = json.dumps([asdict(recipe), shapes], sort_keys=True)
    path = cache() / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"
    if path.exists():
        network.load_state_dict(load_file(path))
        return network.eval()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the order of sums, and so the result, depends on it
    try:
        network = fit(network, recipe, batches, steps, tell=lambda line: print(f"{name}: {line}", flush=True))
    finally:
        torch.set_num_threads(threads)
    partial = path.with_suffix(".partial")
    save_file({key: tensor.contiguous() for key, tensor in network.state_dict().items()}, partial)
    partial.replace(path)
    again = build()
    again.load_state_dict(load_file(path))  # what every later run has, memory layout included
    return again.eval()


def fit(
    network: nn.Module,
    recipe: Recipe,
    batches: Callable[[torch.Generator], Iterable[Batch]],
    steps: int,
    tell: Callable[[str], Any],
) -> nn.Module:
    """Returns the network trained by the recipe, in evaluation mode."""
    generator = torch.Generator().manual_seed(recipe.seed)
    network = network.to(memory_format=torch.channels_last)  # a fifth faster
    optimizer = torch.optim.AdamW(_groups(network, recipe), lr=recipe.learning_rate)
    total = steps * recipe.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, total))
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.average), use_buffers=True)
    started = time.perf_counter()
    for epoch in range(recipe.epochs):
        network.train()
        losses = []
        for inputs, labels in batches(generator):
            optimizer.zero_grad()
            exits = network(*inputs)
            loss = joint_loss((exits,) if isinstance(exits, Tensor) else exits, labels, recipe)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            average.update_parameters(network)
            losses.append(loss.item())
        seconds = time.perf_counter() - started
        tell(f"epoch {epoch + 1} of {recipe.epochs}, loss {sum(losses) / len(losses):.4f}, {seconds:.0f} s")
    kept = average.module if recipe.average else network
    return kept.eval()


def warm_cosine(step: int, total: int) -> float:
    """Returns the share of the largest learning rate at a step: up in a line over a tenth, down as a cosine."""
    warm = max(total // 10, 1)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * min((step - warm) / max(total - warm, 1), 1.0)))


def joint_loss(exits: Sequence[Tensor], labels: Tensor, recipe: Recipe) -> Tensor:
    """Returns the weighted sum of the exits' cross-entropies, and of what parts them from the last one, in nats."""
    loss = torch.zeros(())
    teacher = exits[-1].detach().softmax(dim=1)
    for place, (weight, logits) in enumerate(zip(recipe.exit_weights, exits, strict=True)):
        loss = loss + weight * functional.cross_entropy(logits, labels, label_smoothing=recipe.smoothing)
        if recipe.distillation and place < len(exits) - 1:
            parted = functional.kl_div(logits.log_softmax(dim=1), teacher, reduction="batchmean")
            loss = loss + weight * recipe.distillation * parted
    return loss


def _groups(network: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Returns what is trained; biases and the weights of norms, which have one dimension, do not decay."""
    groups = []
    for heads in (False, True):
        named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        chosen = [p for name, p in named if name.startswith(("head.", "heads.")) is heads]
        rate = recipe.head_learning_rate if heads and recipe.head_learning_rate else recipe.learning_rate
        for decays in (False, True):
            members = [p for p in chosen if (p.ndim > 1) is decays]
            groups.append({"params": members, "lr": rate, "weight_decay": recipe.weight_decay if decays else 0.0})
    return groups
