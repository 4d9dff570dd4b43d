"""The network that a verb is about, as options name it, and what else they say of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

import eetoolkit as ee

if TYPE_CHECKING:
    import torch

Command = TypeVar("Command", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path)
_model = click.option(
    "--model", metavar="MODULE:FUNCTION", help="A torch network, or a function without arguments that returns one."
)
_weights = click.option(
    "--weights",
    metavar="FILE",
    help="The torch network's weights, .pt or .safetensors. With them the network is put in eval mode. Without them it "
    "must be in eval mode already.",
)
_inputs = click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME:SHAPE[:DTYPE]",
    help="An input, such as image:1x3x224x224:float32. Repeatable.",
)
_dynamic = click.option(
    "--dynamic",
    multiple=True,
    metavar="NAME:AXIS=SYMBOL",
    help="A further dynamic dimension, such as ids:1=length. Repeatable.",
)
labels_option = click.option("--labels", type=_FILE, metavar="FILE", help="The classes' names, one a line.")
preprocess_option = click.option(
    "--preprocess",
    type=_FILE,
    metavar="FILE",
    help='How pictures are prepared, JSON: {"image": {"layout": "NCHW", "resize": [224, 224], ...}}.',
)


def network_options(command: Command) -> Command:
    """Adds what names a torch network and its inputs."""
    return _model(_weights(_inputs(_dynamic(command))))


def check_network(onnx_files: tuple[str, ...], model: str | None, weights: str | None, inputs: tuple[str, ...]) -> None:
    """Refuses options that name no network, or two.

    Raises:
        UsageError: Says which to write.
    """
    if (model is None) == (not onnx_files):
        raise click.UsageError("name the network: either --model MODULE:FUNCTION or one or more MODEL.onnx")
    if model is not None and not inputs:
        raise click.UsageError("a torch network needs an example of every input: --input NAME:SHAPE[:DTYPE]")
    if model is None and weights is not None:
        raise click.UsageError("--weights goes with --model; an .onnx file has its own")
    for file in onnx_files:
        if not file.endswith(".onnx"):
            raise click.UsageError(
                f"{file!r} is not an .onnx file; a torch network is named by --model MODULE:FUNCTION"
            )


def open_network(
    onnx_files: tuple[str, ...], model: str | None, weights: str | None, inputs: tuple[str, ...]
) -> tuple[torch.nn.Module | str | list[str], Any, list[str] | None]:
    """Returns the network, its example inputs and their names, as `export` takes them.

    Raises:
        ExportError: See `open_model`, `parse_input`, `draw_examples`.
    """
    from eetoolkit.reading.modelspec import as_arguments, draw_examples, open_model, parse_input

    examples = draw_examples([parse_input(text) for text in inputs])
    files = onnx_files[0] if len(onnx_files) == 1 else list(onnx_files)
    network = open_model(model, weights) if model is not None else files
    return network, *as_arguments(network, examples)


def dynamic_shapes(texts: tuple[str, ...]) -> dict[str, dict[int, str]] | None:
    """Returns what repeated `NAME:AXIS=SYMBOL` say, as `export` takes it."""
    shapes: dict[str, dict[int, str]] = {}
    for text in texts:
        match = re.fullmatch(r"(.+):(-?\d+)=([A-Za-z_]\w*)", text)
        if match is None:
            raise click.BadParameter(
                f"{text!r}: expected NAME:AXIS=SYMBOL, such as ids:1=length", param_hint="--dynamic"
            )
        shapes.setdefault(match[1], {})[int(match[2])] = match[3]
    return shapes or None


def read_labels(path: Path) -> list[str]:
    """Returns the names of classes, one a line of a text file."""
    try:
        return path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ee.ExportError(f"--labels {path}: not UTF-8 text ({error})") from error


def read_preprocess(path: Path) -> dict[str, dict[str, Any]]:
    """Returns how pictures become inputs, by the inputs' names."""
    import msgspec

    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, Any]])
    except msgspec.DecodeError as error:
        example = '{"image": {"layout": "NCHW", "resize": [224, 224]}}'
        raise ee.ExportError(f"--preprocess {path}: {error}; expected {example}") from error
