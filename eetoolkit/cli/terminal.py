"""What goes through the three streams: the one place that prints.

Everything on stdout and stderr passes here: what a stranger may have written into a bundle is escaped, what the stream
cannot encode is spelled otherwise, and a stream that is closed or full is no mistake of ours.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from eetoolkit_runtime.printable import flat, printable

if TYPE_CHECKING:
    from rich.console import Console

    import eetoolkit as ee

Tell = Callable[[str, int, int], None]
"""Takes what goes on, how much of it is done, and of how much; 0 of 0 where nobody knows."""

_IN_PYTHON = re.compile(r"\b\w+=(?:'[^']*'|[^\s()]*) \((--[^()]*)\)")
_IN_ASCII = {
    "█": "#", "░": ".", "▏": "|", "┤": "|", "│": "|", "└": "+", "─": "-",
    "•": ".", "○": "o", "■": "#", "◇": "+", "◆": "*", "±": "+-",
}  # fmt: skip
"""What the charts' own characters become where the stream has none of them."""
_EVERY_S = 10.0
_HUNG = "  "


class Failure(click.ClickException):
    """An error as one line on stderr, with exit status 1."""

    def show(self, file: Any = None) -> None:  # noqa: ARG002 - click's signature
        """Prints it."""
        complain("error:", "red", self.message)


def open_streams() -> None:
    """Makes printing safe: closed streams lead nowhere, and no character that a stream cannot encode raises.

    A closed stream must not stay so: the next file that is opened would take its number, and get what C prints.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - as long as the process lives
        stream = getattr(sys, name)
        if mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def settle_streams() -> None:
    """Gives up what a stream still holds and cannot write, so that Python does not complain of it at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _give_up(stream)


def legible(text: str, stream: TextIO | None = None) -> str:
    """Returns one line of text as a stream, stdout, can show it, without anything that a terminal would obey."""
    clean, encoding = printable(text), getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    if _encodes(clean, encoding):
        return clean
    return "".join(
        one if _encodes(one, encoding) else _IN_ASCII.get(one) or one.encode("ascii", "backslashreplace").decode()
        for one in clean
    )


def say(*lines: object) -> None:
    """Prints lines of prose on stdout, each made legible and folded where the terminal is narrower."""
    width = columns()
    write(part for line in lines for part in hang(legible(str(line)), width))


def say_as_it_is(text: str) -> None:
    """Prints a text for other programs to read, whose lines are made legible and never folded."""
    write(map(legible, text.removesuffix("\n").split("\n")))


def write(lines: Iterable[str]) -> None:
    """Prints lines on stdout that are legible already.

    Raises:
        Failure: The disk is full, or whatever else became of stdout; a reader that left raises a `BrokenPipeError`.
    """
    for line in lines:
        try:
            click.echo(line, color=False if "NO_COLOR" in os.environ else None)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise lost(error) from error


def lost(error: OSError) -> Failure:
    """Returns what is raised where stdout takes no more; what it still holds is given up."""
    _give_up(sys.stdout)
    return Failure(f"cannot write to stdout: {error.strerror or error}")


def complain(kind: str, colour: str, text: str) -> None:
    """Prints a line on stderr; where that cannot be written, nobody wants to know."""
    try:
        click.echo(
            f"{click.style(legible(kind, sys.stderr), fg=colour, bold=True)} {legible(flat(text), sys.stderr)}",
            err=True,
            color=False if "NO_COLOR" in os.environ else None,
        )
    except OSError:
        _give_up(sys.stderr)


def warn(text: str) -> None:
    """Prints on stderr what the user should know and may go on with."""
    complain("warning:", "yellow", text)


def for_shell(text: str) -> str:
    """Returns a message with the option alone where it names argument and option: `overwrite=True (--overwrite)`."""
    return _IN_PYTHON.sub(r"\1", text)


def print_json(value: Any, *, indent: int = 2) -> None:
    """Prints a value as one JSON document, on one line where `indent` is -1; NaN and infinity become null.

    What a terminal would obey, and what the stream cannot encode, is escaped as JSON does.
    """
    import msgspec

    try:
        text = msgspec.json.encode(value).decode()
    except UnicodeEncodeError:  # a file's name that is no text
        text = msgspec.json.encode(_as_text(msgspec.to_builtins(value))).decode()
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    if not (text.isprintable() and _encodes(text, encoding)):
        text = "".join(one if one.isprintable() and _encodes(one, encoding) else _in_json(one) for one in text)
    write([msgspec.json.format(text, indent=indent) if indent >= 0 else text])


def print_bundle(bundle: ee.Bundle, *, as_json: bool) -> None:
    """Prints the bundle that a verb has made."""
    if not as_json:
        say(bundle)
        return
    plan = bundle.manifest
    print_json(
        {
            "path": str(bundle.place),
            "name": plan.name,
            "exits": list(bundle.exits),
            "segments": list(plan.segments),
            "size_bytes": bundle.size_bytes,
        }
    )


def columns() -> int | None:
    """Returns the width of the terminal; None where stdout is a pipe or a file, whose lines may be of any length."""
    shown = sys.stdout.isatty() or os.environ.get("FORCE_COLOR")
    return shutil.get_terminal_size().columns if shown else None


def cells(text: str) -> int:
    """Returns how many columns of a terminal a text takes: some characters take two, some none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def fold(text: str, width: int) -> list[str]:
    """Returns a text in lines of at most so many columns, each broken between words alone."""
    if cells(text) <= width:
        return [text]
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and cells(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def hang(text: str, width: int | None) -> Iterator[str]:
    """Yields a text folded, its lines but the first indented, so that none of them looks like a new one."""
    if width is None or cells(text) <= width:
        yield text
        return
    first, *others = fold(text, width - len(_HUNG))
    yield first
    yield from (_HUNG + other for other in others)


def _console(**settings: Any) -> Console:
    """Returns a console that prints names as they are: `[batch, 1]` is no markup and `:0:` no emoji."""
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False, **settings)


@contextmanager
def progress(*, beside_results: bool = False) -> Iterator[Tell]:
    """Gives what shows progress on stderr until the end: call it with (what goes on, done, total).

    Where stderr is no terminal, it is a line now and then. If `beside_results`, nothing is shown there, nor where
    stdout is a terminal as well, since results printed meanwhile are progress enough.
    """
    if beside_results and (sys.stdout.isatty() or not sys.stderr.isatty()):
        yield lambda _what, _done, _total: None
    elif not sys.stderr.isatty():
        with _lines(sys.stderr) as tell:
            yield tell
    else:
        with _bar() as tell:
            yield tell


@contextmanager
def _bar() -> Iterator[Tell]:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    # The console holds stderr itself: the exporter redirects `sys.stderr` while torch speaks. Nothing is redirected by
    # rich, which would send results from stdout to stderr.
    bar = Progress(
        SpinnerColumn("dots" if _encodes("⠋", sys.stderr.encoding or "ascii") else "line"),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[count]}"),
        console=_console(file=sys.stderr),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )

    def show(what: str, done: int, total: int) -> None:
        bar.update(task, description=printable(what), completed=done, total=total or None, count=_count(done, total))

    with bar:
        task = bar.add_task("", total=None, count="")
        yield show


@contextmanager
def _lines(stream: TextIO) -> Iterator[Tell]:
    """Gives what shows progress as a line on a stream every ten seconds, so that a log shows life; sooner nothing."""
    began, ended, told = time.monotonic(), threading.Event(), ""

    def tell(what: str, done: int, total: int) -> None:
        nonlocal told
        told = ", ".join(filter(None, (printable(what), _count(done, total))))

    def show() -> None:
        while not ended.wait(_EVERY_S):
            with contextlib.suppress(OSError, ValueError):
                if told:
                    stream.write(f"{told}, {time.monotonic() - began:.0f} s\n")
                    stream.flush()

    thread = threading.Thread(target=show, name="eetoolkit-progress", daemon=True)
    thread.start()
    try:
        yield tell
    finally:
        ended.set()
        thread.join()


def _count(done: int, total: int) -> str:
    return f"{done} of {total}" if total else ""


def _encodes(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _in_json(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[place : place + 2].hex()}" for place in range(0, len(units), 2))


def _as_text(value: Any) -> Any:
    """Returns a value with every lone surrogate in its texts escaped."""
    if isinstance(value, dict):
        return {_as_text(key): _as_text(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_as_text(each) for each in value]
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _give_up(stream: TextIO) -> None:
    """Lets a stream that cannot be written lead nowhere, with what it still holds."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
