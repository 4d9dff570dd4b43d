"""`eetoolkit zoo`: the small networks that ship with the toolkit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from eetoolkit import zoo as systems
from eetoolkit.cli import terminal
from eetoolkit.cli.options import json_option, overwrite_option
from eetoolkit_runtime.errors import EEToolkitError

if TYPE_CHECKING:
    from eetoolkit.zoo.train import Trained


@click.group(short_help="List the small networks that ship, or train them again.")
def zoo() -> None:
    """The small networks that ship with the toolkit, one for every system, trained on 8x8 digits."""


@zoo.command(name="list", short_help="List them.")
@json_option
def list_(as_json: bool) -> None:
    """List the networks: the name, the title, the paper, and the accuracy of the last exit on held-out digits."""
    found = [systems.find(name) for name in systems.names()]
    rows = [(system.name, system.title, _accuracy(system.checkpoint), system.source) for system in found]
    if as_json:
        terminal.print_json([dict(zip(("name", "title", "accuracy", "source"), row, strict=True)) for row in rows])
        return
    whole = "whole network right"
    table = terminal.new_table("name", "title", whole, "source", right=(whole,), fold=("title", "source"))
    for name, title, accuracy, source in rows:
        table.add_row(name, title, "-" if accuracy is None else f"{accuracy:.1%}", source)
    terminal.print_table(table)


def _accuracy(checkpoint: Path) -> float | None:
    """Returns what the checkpoint says of its last exit on the test part; None where there is no checkpoint."""
    from safetensors import safe_open

    if not checkpoint.is_file():
        return None
    with safe_open(checkpoint, framework="numpy") as file:
        metadata = file.metadata()
    if "exits" in metadata:
        return float(metadata[f"test_accuracy_{metadata['exits'].split(',')[-1]}"])
    # BranchyNet's checkpoint is older than that key; its exits are in order.
    return float(metadata[max(key for key in metadata if key.startswith("test_accuracy_"))])


@zoo.command(short_help="Train them again.")
@click.argument("names", metavar="[NAME ...]", nargs=-1)
@click.option("--seed", default=0, show_default=True, help="Of weights, batches and augmentation.")
@click.option(
    "-o",
    "--output",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to write NAME.safetensors; default: where the shipped weights are.",
)
@overwrite_option
@json_option
def train(names: tuple[str, ...], seed: int, output: Path | None, overwrite: bool, as_json: bool) -> None:
    """Train the networks NAME, or all, and write their checkpoints. Each takes less than two minutes on two cores."""
    chosen = [systems.find(name) for name in names or systems.names()]
    paths = [system.checkpoint if output is None else output / system.checkpoint.name for system in chosen]
    for path in paths:
        if path.exists() and not overwrite:
            raise EEToolkitError(f"{path} exists: pass --overwrite to replace it, or another --output")
    from eetoolkit.zoo.train import train as train_system

    done: list[Trained] = []
    with terminal.progress(beside_results=not as_json) as tell:
        for number, (system, path) in enumerate(zip(chosen, paths, strict=True)):
            tell(f"training {system.name}", number, len(chosen))
            done.append(train_system(system, seed, path))
            if not as_json:
                _print(done[-1])
    if as_json:
        terminal.print_json(done)


def _print(trained: Trained) -> None:
    click.echo(f"{trained.checkpoint}: {trained.size_bytes / 1e6:.2f} MB, trained in {trained.seconds:.0f} s")
    for part, accuracy in trained.accuracy.items():
        click.echo(f"  {part:<10}  {'  '.join(f'{exit_} {value:.2%}' for exit_, value in accuracy.items())}")
    if trained.decisions is not None:
        click.echo(f"  mean decision  {trained.decisions:.3f}")
