"""A root of Debian packages for arm64 in a cache folder, whose Python an emulator of user processes runs.

`python tests/arm64_root.py` makes it and prints its Python, a program like any other: it makes virtual environments,
and `QEMU_CPU=cortex-a72` says which processor it has. It takes neither root rights nor a chroot. Packages come from
where this machine's own come from, by its own apt and pip, and are fetched again only when there are newer ones.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from eetoolkit_runtime.files.lock import alone

SUITE = "trixie"
"""Raspberry Pi OS has its Python; the emulator of the suite before dies in onnxruntime above 1.27."""
PYTHON = "3.13"
PACKAGES = ("python3", "python3-venv", "libstdc++6")
EMULATOR, QEMU = "qemu-user", "qemu-aarch64"
DEVICE = ("onnxruntime", "numpy", "msgspec")
"""What the device half needs, the newest; nothing that these ask for themselves."""
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64")
SOURCES = Path("/etc/apt")
MADE_OF = ".made-of"
WRAPPER = """#!/bin/sh
exec "{emulator}" -L "{root}" -0 "$0" "{root}/usr/bin/python{version}" "$@"
"""


class UnavailableError(Exception):
    """The packages cannot be had, for this reason."""


def folder() -> Path:
    """Returns where everything is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eetoolkit" / "arm64"


def sources(texts: Iterable[tuple[str, str]], codename: str) -> Iterator[tuple[str, str]]:
    """Yields those of the files' entries that are of Debian's own suites, with `SUITE` in place of the codename.

    Args:
        texts: Names and texts of apt's source lists, one line an entry (`.list`) or a paragraph (`.sources`).
        codename: The suite of this machine.
    """
    suite = re.compile(rf"(?<![\w/-]){re.escape(codename)}(?=[\s/-])")
    for name, text in texts:
        entries = text.splitlines() if name.endswith(".list") else re.split(r"\n\s*\n", text)
        live = [[line for line in entry.splitlines() if not line.lstrip().startswith("#")] for entry in entries]
        for number, lines in enumerate(live):
            entry = "\n".join(lines) + "\n"
            if suite.search(entry):
                yield f"{number}-{name}", suite.sub(SUITE, entry)


def python() -> Path:
    """Makes the root where it is missing or has older packages, and returns its Python.

    Raises:
        UnavailableError: Neither here nor to be had.
    """
    home = folder()
    home.mkdir(parents=True, exist_ok=True)
    with alone(home / "root"):
        emulator, root = home / "emulator", home / "root"
        _kept([emulator, root], lambda: _make_root(Apt(home / "apt"), emulator, root))
        return root / "usr" / "bin" / "python3"


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


def device_packages() -> Path:
    """Returns a folder with what the device half needs, for the root's Python.

    Raises:
        UnavailableError: Neither here nor to be had.
    """
    home = folder()
    home.mkdir(parents=True, exist_ok=True)
    with alone(home / "packages"):
        _kept([home / "packages"], lambda: _installed(home))
        return home / "packages"


class Apt:
    """This machine's apt with a state of its own, for arm64: nothing is installed, and nothing here is changed.

    Attributes:
        here: This machine's own architecture.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.here = _output("dpkg", "--print-architecture").strip()
        options = {
            "Dir::State": home, "Dir::State::status": home / "status", "Dir::Cache": home,
            "Dir::Etc::sourcelist": "/dev/null", "Dir::Etc::sourceparts": home / "sources",
            "APT::Architecture": "arm64", "APT::Architectures": f"arm64,{self.here}",
            "Acquire::Languages": "none", "Acquire::Retries": 2, "APT::Sandbox::User": "",
        }  # fmt: skip
        given = [part for key, value in options.items() for part in ("--option", f"{key}={value}")]
        self._command = ["apt-get", "-qq", *given]

    def update(self) -> None:
        """Fetches the lists of packages."""
        release = platform.freedesktop_os_release()
        if release.get("ID") != "debian":
            raise UnavailableError(f"packages come from a Debian's own source, this is {release.get('PRETTY_NAME')}")
        shutil.rmtree(self.home / "sources", ignore_errors=True)
        for made in ("sources", "lists/partial", "archives/partial"):
            (self.home / made).mkdir(parents=True, exist_ok=True)
        (self.home / "status").touch()
        paths = [SOURCES / "sources.list", *(SOURCES / "sources.list.d").iterdir()]
        texts = [
            (path.name, path.read_text()) for path in paths if path.suffix in (".list", ".sources") and path.exists()
        ]
        for name, text in sources(texts, release.get("VERSION_CODENAME", SUITE)):
            (self.home / "sources" / name).write_text(text)
        _output(*self._command, "update", "--error-on=any")

    def unpack(self, target: Path, finish: Callable[[Path], None], *command: str) -> None:
        """Unpacks what a command fetches into a folder, to be finished there, unless it was made of just that."""
        files = sorted(line.split()[1] for line in _output(*self._command, "--print-uris", *command).splitlines())
        archives = self.home / "archives"

        def fill(fresh: Path) -> None:
            _output(*self._command, *command, cwd=archives)
            for name in files:
                _output("dpkg-deb", "--extract", str(archives / name), str(fresh))
                (archives / name).unlink()
            finish(fresh)

        _renew(target, files, fill)


def _installed(home: Path) -> None:
    wheels = home / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    options = ["--no-deps", "--only-binary=:all:", "--python-version", PYTHON, "--quiet", "--dest", str(wheels)]
    options += [part for each in PLATFORMS for part in ("--platform", each)]
    _output(sys.executable, "-m", "pip", "download", *options, *DEVICE)
    found = sorted(wheels.iterdir())

    def unzip(target: Path) -> None:
        for wheel in found:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(target)

    _renew(home / "packages", [wheel.name for wheel in found], unzip)
    shutil.rmtree(wheels)


def _renew(target: Path, names: list[str], fill: Callable[[Path], None]) -> None:
    """Fills a folder anew and then puts it in place, unless this file has filled it from just these names already."""
    text = "\n".join([*names, hashlib.sha256(Path(__file__).read_bytes()).hexdigest()]) + "\n"
    stamp = target / MADE_OF
    if stamp.is_file() and stamp.read_text() == text:
        return
    fresh = target.with_name(f"{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    fill(fresh)
    (fresh / stamp.name).write_text(text)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


def _kept(targets: list[Path], make: Callable[[], None]) -> None:
    """Makes folders; where that cannot be done, earlier ones will do, and it says so."""
    try:
        make()
    except (UnavailableError, subprocess.CalledProcessError, OSError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        if not all((target / MADE_OF).is_file() for target in targets):
            raise UnavailableError(reason) from error
        print(f"arm64: not asked for newer packages ({reason}); those of the last time are taken", file=sys.stderr)


def _output(*command: str, cwd: Path | None = None) -> str:
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


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
