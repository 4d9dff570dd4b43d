"""A root of Debian packages for arm64 in a cache folder, whose Python an emulator of user processes runs.

`python tests/arm64_root.py` makes it and prints its Python, a program like any other: it makes virtual environments,
and `QEMU_CPU=cortex-a72` says which processor it has. It takes neither root rights nor a chroot.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from debian import Apt, UnavailableError, kept, output, renew

from eetoolkit_runtime.files.lock import alone

SUITE = "trixie"
"""Raspberry Pi OS has its Python; the emulator of the suite before dies in onnxruntime above 1.27."""
PYTHON = "3.13"
PACKAGES = ("python3", "python3-venv", "libstdc++6")
COMPILER = "g++-aarch64-linux-gnu"
EMULATOR, QEMU = "qemu-user", "qemu-aarch64"
DEVICE = ("onnxruntime", "numpy", "msgspec")
"""What the device half needs, the newest; nothing that these ask for themselves."""
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64")
WRAPPER = """#!/bin/sh
exec "{emulator}" -L "{root}" -0 "$0" "{root}/usr/bin/python{version}" "$@"
"""
TOOL = """#!/bin/sh
LD_LIBRARY_PATH="{root}/{libraries}" exec "{root}/usr/bin/{name}" "$@"
"""


def folder() -> Path:
    """Returns where everything is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eetoolkit" / "arm64"


def emulated(program: Path) -> tuple[str, ...]:
    """Returns what runs an arm64 program, beside the libraries of the root."""
    return (str(folder() / "emulator" / "usr" / "bin" / QEMU), "-L", str(folder() / "root"), str(program))


def python() -> Path:
    """Makes the root where it is missing or has older packages, and returns its Python.

    Raises:
        UnavailableError: Neither here nor to be had.
    """
    home = folder()
    emulator, root = home / "emulator", home / "root"
    made = _made([root, emulator], lambda: _make_root(Apt(home / "apt", "arm64", SUITE), emulator, root))
    return made / "usr" / "bin" / "python3"


def _made(places: list[Path], make: Callable[[], object]) -> Path:
    """Returns the first of some folders, made by one process at a time where they are missing or older."""
    folder().mkdir(parents=True, exist_ok=True)
    with alone(places[0]):
        kept(places, make)
        return places[0]


def _make_root(apt: Apt, emulator: Path, root: Path) -> None:
    apt.update()
    apt.unpack(emulator, _keep_one_emulator, "download", f"{EMULATOR}:{apt.here}")
    wanted = ("install", "--yes", "--download-only", "--no-install-recommends", *PACKAGES)
    program = emulator / "usr" / "bin" / QEMU
    apt.unpack(root, functools.partial(_make_startable, root=root, emulator=program), *wanted)


def _keep_one_emulator(folder: Path) -> None:
    for program in (folder / "usr" / "bin").iterdir():  # other processors' take 450 MB
        if program.name != QEMU:
            program.unlink()


def _make_startable(folder: Path, root: Path, emulator: Path) -> None:
    """Makes the Python of a folder that will be `root` a program that this machine can start."""
    (folder / "lib").symlink_to("usr/lib")  # as Debian's own installer makes it
    wheels = "/usr/share/python-wheels/"  # where `venv` looks in ways that the emulator does not lead to the root
    for settings in (folder / "usr" / "lib" / f"python{PYTHON}").glob("_sysconfigdata__*.py"):
        settings.write_text(settings.read_text().replace(f"'{wheels}'", f"'{root}{wheels}'"))
    wrapper = folder / "usr" / "bin" / "python3"
    wrapper.unlink()
    wrapper.write_text(WRAPPER.format(emulator=emulator, root=root, version=PYTHON))
    wrapper.chmod(0o755)


def compiler() -> Path:
    """Returns a system root for arm64, whose `bin` has this machine's compiler for it, `aarch64-linux-gnu-g++`.

    Raises:
        UnavailableError: Neither here nor to be had.
    """
    target = folder() / "compiler"
    return _made([target], lambda: _make_compiler(Apt(folder() / "apt-here"), target))


def _make_compiler(apt: Apt, target: Path) -> None:
    apt.update()
    wanted = ("install", "--yes", "--download-only", "--no-install-recommends", COMPILER)
    apt.unpack(target, functools.partial(_make_runnable, target=target), *wanted)


def _make_runnable(folder: Path, target: Path) -> None:
    """Puts programs into `bin` of a folder that will be `target`, which find their libraries there."""
    (library,) = folder.glob("usr/lib/*/libbfd-*.so")
    libraries = library.parent.relative_to(folder)
    (folder / "bin").mkdir()
    for program in (folder / "usr" / "bin").iterdir():
        started = folder / "bin" / program.name
        started.write_text(TOOL.format(root=target, libraries=libraries, name=program.name))
        started.chmod(0o755)


def device_packages() -> Path:
    """Returns a folder with what the device half needs, for the root's Python.

    Raises:
        UnavailableError: Neither here nor to be had.
    """
    return _made([folder() / "packages"], lambda: _installed(folder()))


def _installed(home: Path) -> None:
    wheels = home / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    options = ["--no-deps", "--only-binary=:all:", "--python-version", PYTHON, "--quiet", "--dest", str(wheels)]
    options += [part for each in PLATFORMS for part in ("--platform", each)]
    output(sys.executable, "-m", "pip", "download", *options, *DEVICE)
    found = sorted(wheels.iterdir())

    def unzip(target: Path) -> None:
        for wheel in found:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(target)

    renew(home / "packages", [wheel.name for wheel in found], unzip)
    shutil.rmtree(wheels)


def main() -> int:
    """Prints where the root's Python is."""
    try:
        print(python())
    except UnavailableError as error:
        print(f"arm64: SKIPPED, its packages cannot be had: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
