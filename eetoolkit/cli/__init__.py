"""The command line: a module a verb, each imported when it is used.

Results go to stdout, progress and errors to stderr. The exit status is 0, 1 for an error that says what to do (one
line, no traceback), 2 for wrong usage, 130 after Ctrl-C.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import click

from eetoolkit.cli import terminal
from eetoolkit.cli.outputs import what_was_written
from eetoolkit.cli.verb import Verbs
from eetoolkit.extras import install
from eetoolkit_runtime.running.telemetry import switch_off

# From first look to device.
_VERBS = (
    "demo", "adapt", "export", "inspect", "verify", "run", "profile", "profiles", "doctor", "quantize", "tune",
    "truncate", "split", "pack", "serve", "zoo",
)  # fmt: skip
_NARROWEST_HELP = 52
_INTERRUPTED = 130  # 128 + SIGINT, as shells count
EXTRAS: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(("torch", "onnx", "onnx_ir", "onnxscript", "safetensors"), "export")
    | {"PIL": "images", "sklearn": "demo", "matplotlib": "report", "jinja2": "report", "scipy": "tune"}
    | dict.fromkeys(("starlette", "uvicorn", "segno", "cryptography"), "serve")
)


class _Main(Verbs):
    """The verbs, found by name: the module `eetoolkit.cli.{verb}` has a command of the verb's name."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in _VERBS:
            return None
        command: click.Command = getattr(importlib.import_module(f"eetoolkit.cli.{cmd_name}"), cmd_name)
        return command

    def main(self, *arguments: Any, **settings: Any) -> Any:
        terminal.open_streams()
        switch_off()
        try:
            columns = terminal.columns()
            if columns is not None and columns < _NARROWEST_HELP:  # click itself would write as wide as that
                settings["terminal_width"] = columns
            return super().main(*arguments, **settings)
        except OSError as error:  # what click prints by itself, such as help, to a full disk
            terminal.lost(error).show()
            sys.exit(1)
        finally:
            terminal.settle_streams()

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _interrupted(ctx) from None
        except Exception as error:
            if _is_interrupt(error):
                raise _interrupted(ctx) from None
            line = _explain(error)
            if line is None:
                raise
            raise terminal.Failure(terminal.for_shell(line)) from error


def _interrupted(ctx: click.Context) -> click.exceptions.Exit:
    """Says what was written, and returns what ends the command."""
    if told := what_was_written(ctx):
        terminal.complain("interrupted:", "yellow", told)
    return click.exceptions.Exit(_INTERRUPTED)


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: a compiled module that is being imported makes an ImportError of it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _explain(error: Exception) -> str | None:
    """Returns what a user can do something about; None for a mistake of ours, which keeps its traceback."""
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        package = error.name.partition(".")[0]
        return f"this needs {package}: {install(EXTRAS[package])}" if package in EXTRAS else None
    if isinstance(error, MemoryError):
        return ": ".join(filter(None, ("there is not enough memory", str(error))))
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        return f"{error.filename}: {error.strerror}" if error.filename is not None else str(error)
    from eetoolkit_runtime.errors import EEToolkitError

    return str(error) if isinstance(error, EEToolkitError) else None


@click.group(
    cls=_Main,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    examples=("eetoolkit demo", "eetoolkit run --help"),
    instead={
        "prune": "eetoolkit tune BUNDLE --data DATA --prune OUT",
        "undo": "eetoolkit tune BUNDLE --undo",
        "report": "eetoolkit tune BUNDLE --data DATA --report FILE",
    },
)
@click.version_option(package_name="eetoolkit", prog_name="eetoolkit")
def main() -> None:
    """Turns trained early-exit networks into bundles, and runs them up to the first confident exit."""
