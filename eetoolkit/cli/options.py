"""Options that several verbs share, and the small notations of the command line."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

_QUICK_S = 1.0
Value = TypeVar("Value")
Command = TypeVar("Command", bound=Callable[..., Any])


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what is there.")
threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Threads for each operator; 1: the caller's alone; default: one per physical core.",
)
split_seed_option = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the split of the data."
)
pool_option = click.option(
    "--pool",
    type=click.Choice(["shared", "own"]),
    default="shared",
    show_default=True,
    help="One pool of workers for all segments, or one for each, as in Python by default.",
)


def report_option(what: str) -> Callable[[Command], Command]:
    """Returns what adds `--report`, a page with `what`."""
    path = click.Path(path_type=Path)
    return click.option("--report", "page", metavar="FILE", type=path, help=f"Write a page with {what}.")


def seconds_options(what: str) -> Callable[[Command], Command]:
    """Returns what adds `--seconds`, which bounds `what`, and `--quick`, which stands for few."""
    bound = click.option(
        "--seconds",
        type=click.FloatRange(min=0),
        default=10.0,
        show_default=True,
        help=f"How long {what} may take; 0: no bound, but few runs.",
    )
    few = click.option(
        "--quick", "seconds", flag_value=_QUICK_S, type=float, help=f"A first look: --seconds {_QUICK_S:g}."
    )
    return lambda command: bound(few(command))


def _providers(
    ctx: click.Context, param: click.Parameter, given: tuple[str, ...]
) -> list[tuple[str, dict[str, str]]] | None:
    found = []
    for text in given:
        name, _, settings = text.partition(":")
        pairs = [setting.partition("=") for setting in settings.split(",") if setting]
        if not name or not all(key and sign for key, sign, _ in pairs):
            raise click.BadParameter(f"{text!r}, expected NAME or NAME:KEY=VALUE,KEY=VALUE", ctx, param)
        found.append((name, {key: value for key, _, value in pairs}))
    return found or None


provider_option = click.option(
    "--provider",
    "providers",
    multiple=True,
    callback=_providers,
    metavar="NAME[:KEY=VALUE,...]",
    help="An execution provider of onnxruntime and its options, for all segments. Repeatable; default: the CPU.",
)

PICTURES = ("size", "scale", "mean", "std", "layout")
"""The names of `picture_options`."""


def picture_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds what says how pictures are prepared; the command gets it as one `ImageOptions`, its argument `pictures`."""

    @click.option("--size", callback=_size, metavar="HxW", help="Resize to this.")
    @click.option("--scale", callback=_numbers, metavar="S", help="Multiply pixels, 0 to 255, by this (1/255).")
    @click.option("--mean", callback=_numbers, metavar="A[,B,C]", help="Then subtract this from each channel.")
    @click.option("--std", callback=_numbers, metavar="A[,B,C]", help="Then divide each channel by this.")
    @click.option("--layout", type=click.Choice(["NCHW", "NHWC"]), help="Where the network's channels are.")
    @functools.wraps(command)
    def packed(
        *arguments: Any,
        size: tuple[int, int] | None,
        scale: tuple[float, ...] | None,
        mean: tuple[float, ...] | None,
        std: tuple[float, ...] | None,
        layout: Literal["NCHW", "NHWC"] | None,
        **others: Any,
    ) -> None:
        from eetoolkit.reading.images import ImageOptions

        if scale is not None and len(scale) != 1:
            raise click.BadParameter("expected one number for all channels", param_hint="--scale")
        options = ImageOptions(layout, size, None if scale is None else scale[0], mean, std)
        command(*arguments, pictures=options, **others)

    return packed


def _numbers(_: click.Context, __: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    """Returns numbers with commas between them; each may be a fraction such as 1/255."""
    try:
        return None if text is None else tuple(_number(part) for part in text.split(","))
    except (ValueError, ZeroDivisionError) as error:
        raise click.BadParameter(f"{text!r}: expected numbers such as 0.5, 1/255 or 0.485,0.456,0.406") from error


def _size(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """Returns (height, width)."""
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise click.BadParameter(f"{text!r}: expected height and width in pixels, such as 224x224")
    return int(match[1]), int(match[2])


def _number(text: str) -> float:
    above, slash, below = text.partition("/")
    number = float(above) / float(below) if slash else float(above)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def per_exit(option: str, texts: Sequence[str], convert: Callable[[str], Value]) -> dict[str, Value]:
    """Returns the values of repeated `EXIT=VALUE`.

    Raises:
        BadParameter: Another notation, an exit twice, or a value that `convert` refuses with a `ValueError`.
    """
    values: dict[str, Value] = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        if not equals or not name:
            raise click.BadParameter(f"{text!r}: expected EXIT=VALUE", param_hint=option)
        if name in values:
            raise click.BadParameter(f"the exit {name!r} is given twice", param_hint=option)
        values[name] = _convert(option, value, convert)
    return values


def to_threshold(text: str) -> float | Literal["never"]:
    """Returns a threshold: a number, or `never`."""
    return "never" if text == "never" else float(text)


def one_or_per_exit(
    option: str, texts: Sequence[str], convert: Callable[[str], Value]
) -> Value | dict[str, Value] | None:
    """Returns the one value for all exits, or the values of repeated `EXIT=VALUE`; None where nothing was given."""
    if len(texts) == 1 and "=" not in texts[0]:
        return _convert(option, texts[0], convert)
    return per_exit(option, texts, convert) or None


def split_names(text: str | None) -> list[str] | None:
    """Returns the names in `a,b,c`; None for None."""
    return None if text is None else [name.strip() for name in text.split(",")]


def beside(bundle: str, ending: str) -> Path:
    """Returns a path next to a bundle, folder or .zip, its name followed by `ending` in place of .ee."""
    path = Path(bundle) if Path(bundle).name not in ("", "..") else Path(bundle).resolve()
    return path.with_name(path.name.removesuffix(".zip").removesuffix(".ee") + ending)


def _convert(option: str, text: str, convert: Callable[[str], Value]) -> Value:
    try:
        return convert(text)
    except ValueError as error:
        expected = "a number, or never" if convert is to_threshold else "a number"
        raise click.BadParameter(f"{text!r} is not {expected}", param_hint=option) from error
