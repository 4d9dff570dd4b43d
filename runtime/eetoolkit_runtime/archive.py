"""A bundle as one .zip, for transport: packed and unpacked with every hash checked, never run from inside the zip."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
import zlib
from pathlib import Path

from eetoolkit_runtime.errors import BundleError, IntegrityError
from eetoolkit_runtime.integrity import check_full, check_quick, digest
from eetoolkit_runtime.outfile import writing
from eetoolkit_runtime.plan import MANIFEST, Manifest, decode
from eetoolkit_runtime.store import commit, staging
from eetoolkit_runtime.validate import validate

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest time a zip can hold: the same bundle gives the same bytes
_MANIFEST_LIMIT_BYTES = 64 << 20


def pack(folder: Path, manifest: Manifest, target: Path, *, overwrite: bool = False) -> Path:
    """Writes the bundle in `folder` to the .zip at `target`, after checking every hash, and returns `target`.

    Raises:
        IntegrityError: A file is missing or changed.
        EEToolkitError: `target` exists and `overwrite` is not set, or cannot be written.
    """
    check_full(folder, manifest)
    with writing(target, overwrite=overwrite) as file, zipfile.ZipFile(file, "w") as archive:
        for name in (MANIFEST, *sorted(manifest.files)):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            with (folder / name).open("rb") as source, archive.open(info, "w", force_zip64=True) as entry:
                shutil.copyfileobj(source, entry, 1 << 20)
    return target


def unpack(archive: Path, cache: Path | None = None) -> Path:
    """Returns the folder that `archive` was unpacked to, inside `cache`; a folder that is there already is used again.

    Only what the manifest lists is unpacked, and each file is checked against its size and hash while it is written.

    Args:
        archive: The .zip.
        cache: Where to unpack; None: `$EETOOLKIT_CACHE`, else `$XDG_CACHE_HOME/eetoolkit`, else `~/.cache/eetoolkit`.

    Raises:
        IntegrityError: Not a zip, or a member that is missing, too long or changed.
        ManifestError: Its manifest is not a valid plan.
    """
    cache = cache if cache is not None else default_cache()
    target = cache / f"{archive.stem}-{digest(archive).sha256[:16]}"
    if _intact(target):
        return target
    try:
        with zipfile.ZipFile(archive) as source:
            if MANIFEST not in source.namelist():
                raise IntegrityError(f"{archive}: no {MANIFEST} inside; is it a bundle?")
            if source.getinfo(MANIFEST).file_size > _MANIFEST_LIMIT_BYTES:
                raise IntegrityError(f"{archive}: {MANIFEST} is over {_MANIFEST_LIMIT_BYTES >> 20} MiB")
            manifest = decode(source.read(MANIFEST))
            validate(manifest)
            with staging(target) as folder:
                for name in manifest.files:
                    _extract(source, name, manifest, folder, archive)
                commit(folder, manifest, target)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise IntegrityError(f"{archive}: not a readable .zip ({error})") from error
    except BundleError as error:
        if isinstance(error.__cause__, OSError) and _intact(target):  # another process was faster
            return target
        raise
    except OSError as error:
        raise BundleError(f"cannot read {archive}: {error.strerror or error}") from error
    return target


def _intact(folder: Path) -> bool:
    """Whether a bundle was unpacked to `folder` and nobody has touched it since, as far as sizes and graphs tell."""
    try:
        check_quick(folder, decode((folder / MANIFEST).read_bytes()))
    except (OSError, BundleError):
        return False
    return True


def default_cache() -> Path:
    """Returns the folder that archives are unpacked to when the caller names none."""
    if path := os.environ.get("EETOOLKIT_CACHE"):
        return Path(path)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eetoolkit"


def _extract(source: zipfile.ZipFile, name: str, manifest: Manifest, folder: Path, archive: Path) -> None:
    entry, sha, left = manifest.files[name], hashlib.sha256(), manifest.files[name].size
    if name not in source.namelist():
        raise IntegrityError(f"{archive}: {name} is missing")
    with source.open(name) as reader, (folder / name).open("wb") as writer:
        while chunk := reader.read(min(1 << 20, left + 1)):
            left -= len(chunk)
            if left < 0:
                break
            sha.update(chunk)
            writer.write(chunk)
    if left != 0 or sha.hexdigest() != entry.sha256:
        raise IntegrityError(f"{archive}: {name} is not what its manifest says; pack or copy it again")
