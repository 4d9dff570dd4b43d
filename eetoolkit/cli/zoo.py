"""`eetoolkit zoo`: the small networks that ship with the toolkit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from eetoolkit import zoo as systems
from eetoolkit.cli import terminal
from eetoolkit.cli.options import json_option, overwrite_option
from eetoolkit.cli.outputs import Outputs
from eetoolkit.cli.table import Table
from eetoolkit.cli.verb import Verb, Verbs
from eetoolkit_runtime.errors import EEToolkitError
from eetoolkit_runtime.files.outfile import check_file

if TYPE_CHECKING:
    from eetoolkit.zoo.train import Trained


@click.group(
    cls=Verbs,
    short_help="List the small networks that ship, or train them again.",
    examples=("eetoolkit zoo list", "eetoolkit zoo train skipnet -o mine"),
)
def zoo() -> None:
    """The small networks that ship with the toolkit, one for every system, trained on 8x8 digits."""


@zoo.command(name="list", cls=Verb, short_help="List them.", examples=("eetoolkit zoo list",))
@json_option
def list_(as_json: bool) -> None:
    """List the networks: the name, the title, the paper, and the accuracy of the last exit on held-out digits."""
    found = [systems.find(name) for name in systems.names()]
    rows = [(system.name, system.title, _accuracy(system.checkpoint), system.source) for system in found]
    if as_json:
        terminal.print_json([dict(zip(("name", "title", "accuracy", "source"), row, strict=True)) for row in rows])
        return
    whole = "whole network right"
    table = Table("name", "title", whole, "source", right=(whole,), prose=("title", "source"))
    for name, title, accuracy, source in rows:
        table.add(name, title, "-" if accuracy is None else f"{accuracy:.1%}", source)
    table.print()
    if not systems.COMPLETE:
        terminal.say("a clone of the repository has all systems, and their weights")


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


@zoo.command(
    cls=Verb,
    short_help="Train them again.",
    examples=("eetoolkit zoo train skipnet -o mine", "eetoolkit zoo train --seed 1 -o mine"),
)
@click.argument("names", metavar="[NAME ...]", nargs=-1)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Of weights, batches and augmentation.",
)
@click.option(
    "-o",
    "--output",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to write NAME.safetensors; default: in the repository, or in the cache of an installed package.",
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
        check_file(path if path.parent.exists() else path.parent, overwrite=True)
    from eetoolkit.zoo.train import train as train_system

    done: list[Trained] = []
    Outputs(files={system.name: path for system, path in zip(chosen, paths, strict=True)}).watch()
    with terminal.progress() as tell:
        for number, (system, path) in enumerate(zip(chosen, paths, strict=True)):
            tell(f"training {system.name}", number, len(chosen))
            done.append(train_system(system, seed, path))
    if as_json:
        terminal.print_json(done)
        return
    for trained in done:
        _print(trained)


def _print(trained: Trained) -> None:
    terminal.say(f"{trained.checkpoint}: {trained.size_bytes / 1e6:.2f} MB, trained in {trained.seconds:.0f} s")
    for part, accuracy in trained.accuracy.items():
        terminal.say(f"  {part:<10}  {'  '.join(f'{exit_} {value:.2%}' for exit_, value in accuracy.items())}")
    if trained.decisions is not None:
        terminal.say(f"  mean decision  {trained.decisions:.3f}")
