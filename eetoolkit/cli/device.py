"""Verbs on another machine: the options that name it, and the same command line run there."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

import eetoolkit as ee
from eetoolkit.cli import terminal
from eetoolkit.cli.verb import written

Command = TypeVar("Command", bound=Any)
DEVICE = ("on", "python", "clean")
"""The names of `device_options`."""
_PROGRESS = re.compile(r"(.*), \d+ s")  # as `terminal.progress` writes it where stderr is no terminal


def device_options(does: str = "Run") -> Callable[[Command], Command]:
    """Returns what adds `--on`, `--python` and `--clean`; `does`: what is done there."""
    on = click.option("--on", metavar="USER@HOST", help=f"{does} there by ssh; ssh://USER@HOST:PORT for another port.")
    python = click.option("--python", default="python3", show_default=True, metavar="PATH", help="The device's Python.")
    clean = click.option(
        "--clean", is_flag=True, help="Afterwards remove what is kept on the device for the next time."
    )
    return lambda command: on(python(clean(command)))


@dataclass(frozen=True)
class There:
    """What becomes of a command line on another machine.

    Attributes:
        ctx: The verb's.
        files: Parameters that name files, which are sent.
        here: Parameters that have no meaning there.
        refused: Parameters that do not go with another machine.
    """

    ctx: click.Context
    files: Collection[str] = ()
    here: Collection[str] = ()
    refused: Collection[str] = ()

    def check(self) -> None:
        """Refuses what does not go with another machine."""
        given = written(self.ctx)
        for name in self.refused:
            if name in given:
                raise click.UsageError(f"{_option(self.ctx, name).opts[-1]} does not go with --on")

    def paths(self) -> dict[str, list[str]]:
        """Returns the files that are named, by parameter."""
        given = written(self.ctx)
        found = {name: given[name] for name in self.files if name in given}
        return {name: list(value) if isinstance(value, list | tuple) else [value] for name, value in found.items()}

    def arguments(self, names: Mapping[str, str]) -> Iterator[str]:
        """Yields the command line as it is there; `names`: what files are called there."""
        left_out, last = {*DEVICE, *self.here}, []
        for name, value in written(self.ctx).items():
            if name in left_out:
                continue
            values = list(value) if isinstance(value, list | tuple) else [value]
            values = [names[each] for each in values] if name in self.files else values
            parameter = next(each for each in self.ctx.command.params if each.name == name)
            if isinstance(parameter, click.Argument):
                last += values
                continue
            option = _option(self.ctx, name)
            yield from (option.opts[-1] if each is True else f"{option.opts[-1]}={each}" for each in values)
        if last:
            yield from ("--", *last)


def run_there(
    there: There,
    bundle: str | None,
    *,
    on: str,
    python: str,
    clean: bool,
    extra: tuple[str, ...] = (),
    results: tuple[str, ...] = (),
    shown: bool = True,
) -> tuple[int, dict[str, bytes]]:
    """Runs the verb on another machine; returns its exit status, and the files that it wrote.

    Args:
        there: What was written here.
        bundle: Its bundle.
        on: The machine, as ssh takes it.
        python: The interpreter there.
        clean: Whether to remove what is kept there.
        extra: Further arguments there.
        results: Files that it writes there.
        shown: Whether what it prints is printed here.

    Raises:
        DeviceError: The machine cannot be used, or what the verb says there.
    """
    from eetoolkit.remote.job import Job, named_on_device, run_job
    from eetoolkit.remote.ssh import Ssh

    there.check()
    opened = None if bundle is None else ee.load(bundle)
    paths = {each: Path(each) for named in there.paths().values() for each in named}
    missing = [each for each, path in paths.items() if not path.exists()]
    if missing:
        raise ee.InputError(f"{missing[0]} does not exist; what runs on {on} is sent there from files and folders here")
    files = named_on_device(list(dict.fromkeys(paths.values())))
    names = {path: name for name, path in files.items()}
    arguments = (*extra, *there.arguments({each: names[path] for each, path in paths.items()}))
    verb = str(there.ctx.info_name)
    job = Job(verb, opened, arguments, files, results, python, clean)
    with terminal.progress(beside_results=verb == "run") as show:
        told = Told(show)
        out = terminal.say_as_it_is if shown else _drop
        code, found = run_job(Ssh(on), job, tell=told.begin, out=out, err=told.line)
    told.check(code, on)
    return code, found


@contextlib.contextmanager
def profiling_there(
    rows: Mapping[str, Path], settings: Collection[str], *, on: str, python: str, clean: bool, show: terminal.Tell
) -> Iterator[Callable[[ee.Bundle], ee.Profile]]:
    """Gives what profiles bundles on another machine; what is kept there is removed in the end, if at all.

    Args:
        rows: What is run, files of `profile --inputs` by their names there.
        settings: Further options of `profile`.
        on: The machine, as ssh takes it.
        python: The interpreter there.
        clean: Whether to remove what is kept there.
        show: Shows progress.

    Raises:
        DeviceError: The machine cannot be used, or what `profile` says there.
    """
    from eetoolkit.remote.job import Job, clean_up, run_job
    from eetoolkit.remote.ssh import Ssh

    arguments = ("--output=profile.json", *(f"--inputs={name}" for name in rows), *settings)

    def profile(bundle: ee.Bundle) -> ee.Profile:
        told = Told(show)
        job = Job("profile", bundle, arguments, rows, ("profile.json",), python)
        code, found = run_job(Ssh(on), job, tell=told.begin, out=_drop, err=told.line)
        told.check(code, on)
        return read_profile(found.get("profile.json"), code, on)

    try:
        yield profile
    finally:
        if clean:
            clean_up(Ssh(on))


def read_profile(text: bytes | None, code: int, device: str) -> ee.Profile:
    """Returns the profile that a machine has written.

    Raises:
        DeviceError: It has written none.
    """
    from eetoolkit_runtime.profiling.profile import decode

    if text is None:
        raise ee.DeviceError(f"on {device}: the profile ended with exit status {code}")
    return decode(text, f"the profile of {device}")


def profile_by_adb(
    ctx: click.Context, bundle: ee.Bundle, serial: str, native: str | None, *, clean: bool
) -> tuple[int, bytes | None]:
    """Returns the exit status of `ee-profile` on a phone, and the profile's JSON where there is one.

    Raises:
        DeviceError: The phone cannot be used, or what `ee-profile` says.
        UsageError: An option that `ee-profile` does not have.
    """
    from eetoolkit.remote.adb import Adb, native_folder, profile_natively

    given = written(ctx)
    taken = {"seconds", "threads", "spin"}
    here = {"what", "output", "save", "svg", "png", "overwrite", "as_json", "adb", "native", "clean"}
    refused = [name for name in given if name not in taken | here]
    if refused:
        raise click.UsageError(f"{_option(ctx, refused[0]).opts[-1]} does not go with --adb")
    arguments = [f"--{name}={value}" for name, value in given.items() if name in taken]
    folder = native_folder(native)
    with terminal.progress() as show:
        told = Told(show)
        code, text = profile_natively(
            Adb(serial), bundle, folder, arguments, clean=clean, tell=told.begin, err=told.line
        )
    told.check(code, serial or "the phone")
    return code, text or None


class Told:
    """What a verb writes on stderr elsewhere: its progress is shown, its error kept, the rest printed here.

    Args:
        show: Shows progress.
    """

    def __init__(self, show: terminal.Tell) -> None:
        self._show = show
        self._error: str | None = None

    def begin(self, what: str) -> None:
        """Shows what goes on before the verb runs."""
        self._show(what, 0, 0)

    def line(self, line: str) -> None:
        """Takes a line."""
        kind, _, text = line.partition(": ")
        if (progress := _PROGRESS.fullmatch(line)) is not None:
            self._show(progress[1], 0, 0)
        elif kind == "error":
            self._error = text
        elif line:
            terminal.complain(f"{kind}:" if text else "", "yellow", text or line)

    def check(self, code: int, device: str) -> None:
        """Raises the error of a verb that failed.

        Raises:
            DeviceError: It has said one.
        """
        if code != 0 and self._error is not None:
            raise ee.DeviceError(f"on {device}: {self._error}")


def _drop(_: str) -> None:
    """Takes a line that nobody needs."""


def _option(ctx: click.Context, name: str) -> click.Option:
    """Returns the option of a name that takes a value where one does: `--quick` is the value of `--seconds`."""
    options = [each for each in ctx.command.params if each.name == name and isinstance(each, click.Option)]
    return next((each for each in options if not each.is_flag), options[0])
