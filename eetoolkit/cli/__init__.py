"""The command line: a module a verb, each imported when it is used.

Results go to stdout, progress and errors to stderr. The exit status is 0, 1 for an error that says what to do (one
line, no traceback), 2 for wrong usage, 130 after Ctrl-C.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import IO, Any

import click

from eetoolkit.cli.terminal import colour, for_shell

# From first look to device.
_VERBS = ("demo", "export", "inspect", "verify", "run", "profile", "doctor", "tune", "truncate", "pack", "zoo")
_INTERRUPTED = 130  # 128 + SIGINT, as shells count
EXTRAS: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(("torch", "onnx", "onnx_ir", "onnxscript", "safetensors"), "export")
    | {"PIL": "images", "sklearn": "demo", "matplotlib": "report", "jinja2": "report", "scipy": "tune"}
)


class _Failure(click.ClickException):
    """An error of ours, as one line on stderr."""

    def show(self, file: IO[Any] | None = None) -> None:
        line = f"{click.style('error:', fg='red', bold=True)} {self.message}"
        click.echo(line, file=file, err=file is None, color=colour())


class _Verbs(click.Group):
    """The verbs, found by name: the module `eetoolkit.cli.{verb}` has a command of the verb's name."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in _VERBS:
            return None
        command: click.Command = getattr(importlib.import_module(f"eetoolkit.cli.{cmd_name}"), cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.exceptions.Exit(_INTERRUPTED) from None
        except Exception as error:
            line = _explain(error)
            if line is None:
                raise
            raise _Failure(for_shell(" ".join(line.split()))) from error


def _explain(error: Exception) -> str | None:
    """Returns what a user can do something about; None for a mistake of ours, which keeps its traceback."""
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        package = error.name.partition(".")[0]
        return f"this needs {package}: pip install 'eetoolkit[{EXTRAS[package]}]'" if package in EXTRAS else None
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        return f"{error.filename}: {error.strerror}" if error.filename is not None else str(error)
    from eetoolkit_runtime.errors import EEToolkitError

    return str(error) if isinstance(error, EEToolkitError) else None


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="eetoolkit", prog_name="eetoolkit")
def main() -> None:
    """Turns trained early-exit networks into bundles, and runs them up to the first confident exit."""
