"""A bundle as one .zip, for transport: packed and unpacked with every hash checked, never run from inside the zip."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from pathlib import Path

from eetoolkit_runtime.bundle.integrity import Check, check_full, check_quick, digest, read_manifest
from eetoolkit_runtime.bundle.store import commit, staging
from eetoolkit_runtime.errors import BundleError, IntegrityError
from eetoolkit_runtime.files.outfile import remove_partial, writing
from eetoolkit_runtime.files.paths import absolute, shown
from eetoolkit_runtime.files.zips import open_zip
from eetoolkit_runtime.plan.manifest import decode_sealed, encode
from eetoolkit_runtime.plan.types import MANIFEST, MANIFEST_LIMIT_BYTES, Manifest
from eetoolkit_runtime.plan.validate import validate

EXITS = "eetoolkit.exits"
"""The metadata key of the exits' names, a JSON list, in a plan that is one ONNX file: by it such a file is known."""
_METADATA_BYTES = 1 << 20  # of an ONNX file's end, where its metadata is
_WEIGHTS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest time a zip can hold: the same bundle gives the same bytes
_DIGITS = 16  # of an archive's hash, in the name of the folder that it is unpacked to


def pack(folder: Path, manifest: Manifest, target: Path, *, overwrite: bool = False) -> Path:
    """Writes the bundle in `folder` to the .zip at `target`, after checking every hash, and returns `target`.

    Raises:
        IntegrityError: A file is missing or changed.
        EEToolkitError: `target` exists and `overwrite` is not set, or cannot be written.
    """
    check_full(folder, manifest)
    with writing(target, overwrite=overwrite) as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr(_member(MANIFEST), encode(manifest))
        for name in sorted(manifest.files):
            with (folder / name).open("rb") as source, archive.open(_member(name), "w", force_zip64=True) as entry:
                shutil.copyfileobj(source, entry, 1 << 20)
    return target


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    return info


def unpack(archive: Path, cache: Path | None = None, *, check: Check = "quick") -> Path:
    """Returns the folder that `archive` was unpacked to, inside `cache`; a folder that is there already is used again.

    Only what the manifest lists is unpacked, and each file is checked against its size and hash while it is written. A
    folder that does not pass the check is unpacked again.

    Args:
        archive: The .zip.
        cache: Where to unpack; None: `$EETOOLKIT_CACHE`, else `$XDG_CACHE_HOME/eetoolkit`, else `~/.cache/eetoolkit`.
        check: What a folder that is there must pass: `quick` or `full`.

    Raises:
        IntegrityError: Not a zip, or a member that is missing, too long or changed.
        ManifestError: Its manifest is not a valid plan.
    """
    cache = cache if cache is not None else default_cache()
    try:
        _check_kind(archive)
        target = cache / f"{archive.stem}-{digest(archive).sha256[:_DIGITS]}"
        remove_partial(cache, f"*-{'[0-9a-f]' * _DIGITS}")
        if _intact(target, check):
            return target
        with archive.open("rb") as file, open_zip(file, str(shown(archive)), IntegrityError) as source:
            manifest = _manifest(source, archive)
            with staging(target) as folder:
                for name in manifest.files:
                    _extract(source, name, manifest, folder, archive)
                commit(folder, manifest, target)
    except BundleError as error:
        if isinstance(error.__cause__, OSError) and _intact(target, check):  # another process was faster
            return target
        raise
    except OSError as error:
        raise BundleError(f"cannot read {shown(archive)}: {error.strerror or error}") from error
    return target


def is_single_file(path: Path) -> bool:
    """Whether an ONNX file is a bundle's plan that `pack --single-file` wrote.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _METADATA_BYTES))
        return EXITS.encode() in file.read()


def _check_kind(path: Path) -> None:
    """Refuses files that others than a bundle are taken for, with what to do with them."""
    name, kind = shown(path), path.suffix.lower()
    if kind == ".onnx" and is_single_file(path):
        raise BundleError(
            f"{name} is one ONNX file that `eetoolkit pack --single-file` wrote: any ONNX runtime runs it as it is; "
            f"`eetoolkit verify {name}` checks it, all else takes the bundle that it was made of"
        )
    if kind == ".onnx":
        raise BundleError(
            f"{name} is an ONNX file, not a bundle; `eetoolkit export {name} -o {path.stem}.ee` makes one of it"
        )
    if kind in _WEIGHTS:
        raise BundleError(
            f"{name} holds a network's weights, it is not a bundle; `eetoolkit export --model MODULE:FUNCTION "
            f"--weights {name} --input NAME:SHAPE -o {path.stem}.ee` makes one"
        )
    if kind == ".json":
        raise BundleError(f"{name} is a JSON file, not a bundle; `eetoolkit profile --show {name}` shows a profile")
    if not zipfile.is_zipfile(path):
        raise IntegrityError(f"{name} is neither a bundle's folder nor a readable .zip of one; copy or export it again")


def _manifest(source: zipfile.ZipFile, archive: Path) -> Manifest:
    """Returns the plan of an archive, proved."""
    if MANIFEST not in source.namelist():
        raise IntegrityError(f"{shown(archive)}: no {MANIFEST} inside; is it a bundle?")
    with source.open(MANIFEST) as member:
        text = member.read(MANIFEST_LIMIT_BYTES + 1)
    if len(text) > MANIFEST_LIMIT_BYTES:
        raise IntegrityError(f"{shown(archive)}: {MANIFEST} is over {MANIFEST_LIMIT_BYTES >> 20} MiB")
    manifest = decode_sealed(text, f"{shown(archive)}: {MANIFEST}", "pack the bundle again")
    validate(manifest)
    return manifest


def _intact(folder: Path, check: Check) -> bool:
    """Whether a bundle was unpacked to `folder` and nobody has touched it since, as far as the check tells."""
    try:
        (check_full if check == "full" else check_quick)(folder, read_manifest(folder))
    except (OSError, BundleError):
        return False
    return True


def default_cache() -> Path:
    """Returns the folder that archives are unpacked to when the caller names none.

    Raises:
        BundleError: This user has no home folder.
    """
    if path := os.environ.get("EETOOLKIT_CACHE"):
        return absolute(path, BundleError)
    try:
        return absolute(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", BundleError) / "eetoolkit"
    except RuntimeError as error:
        raise BundleError("no home folder to unpack to; set EETOOLKIT_CACHE to a folder") from error


def _extract(source: zipfile.ZipFile, name: str, manifest: Manifest, folder: Path, archive: Path) -> None:
    entry, sha, left = manifest.files[name], hashlib.sha256(), manifest.files[name].size
    if name not in source.namelist():
        raise IntegrityError(f"{shown(archive)}: {name} is missing")
    with source.open(name) as reader, (folder / name).open("wb") as writer:
        while chunk := reader.read(min(1 << 20, left + 1)):
            left -= len(chunk)
            if left < 0:
                break
            sha.update(chunk)
            writer.write(chunk)
    if left != 0 or sha.hexdigest() != entry.sha256:
        raise IntegrityError(f"{shown(archive)}: {name} is not what its manifest says; pack or copy it again")
