"""Profiles kept: in files and in bundles."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import msgspec

from eetoolkit_runtime.arguments import checked
from eetoolkit_runtime.bundle import Bundle, load
from eetoolkit_runtime.errors import BundleError, InputError
from eetoolkit_runtime.integrity import read_regular
from eetoolkit_runtime.outfile import writing
from eetoolkit_runtime.paths import absolute, shown
from eetoolkit_runtime.plan import Manifest, SavedProfile
from eetoolkit_runtime.profiling.profile import Profile, decode, digests, encode
from eetoolkit_runtime.rewriting import change_bundle
from eetoolkit_runtime.store import named_by_content

_STEM = "profile"
_LIMIT_BYTES = 16 << 20


@checked(InputError)
def write_profile(found: Profile, target: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Writes a profile as JSON to `target` and returns its path.

    Raises:
        EEToolkitError: Something is there and `overwrite` is not set, or it cannot be written.
    """
    with writing(target, overwrite=overwrite) as file:
        file.write(encode(found))
    return Path(target)


@checked(InputError)
def read_profile(source: str | os.PathLike[str] | Bundle) -> Profile:
    """Returns the profile in a JSON file, or the one that was saved in a bundle.

    Raises:
        BundleError: Nothing is there, it is not a profile, or no profile was saved in the bundle.
    """
    if isinstance(source, Bundle):
        return _saved(source)
    path = absolute(source, BundleError)
    try:
        if path.is_dir() or (path.is_file() and zipfile.is_zipfile(path)):
            return _saved(load(path))
    except OSError as error:
        raise BundleError(f"cannot read {shown(path)}: {error.strerror or error}") from error
    return _read(path)


def saved_profile(bundle: Bundle) -> Profile | None:
    """Returns the profile that was saved in a bundle; None where there is none.

    Raises:
        BundleError: Its file is not a profile.
    """
    saved = bundle.manifest.profile
    return None if saved is None or saved.file is None else _read(bundle.path / saved.file)


@checked(InputError)
def save_profile(bundle: Bundle, found: Profile) -> None:
    """Saves a profile in a bundle in one step, in the place of the one before.

    The whole profile becomes a file of the bundle, and what the segments take (p90) goes into its manifest, so that
    deadlines go by it. What is changed is the manifest on disk, which may have been tuned since `bundle` was opened.

    Raises:
        BundleError: The profile is of another bundle, or the bundle is packed or cannot be written.
    """

    def change(now: Bundle, folder: Path) -> Manifest:
        plan = now.manifest
        if found.files != digests(plan):
            raise BundleError(
                f"this profile is of another bundle, {found.bundle!r}, or of another build of {plan.name!r}"
            )
        taken = {name: cost.latency.p90_ms for name, cost in found.segments.items() if cost.latency is not None}
        path = folder / f"{_STEM}.json"
        path.write_bytes(encode(found))
        name, file = named_by_content(path, _STEM)
        before = plan.profile.file if plan.profile is not None else None
        files = {other: entry for other, entry in plan.files.items() if other != before} | {name: file}
        return msgspec.structs.replace(plan, profile=SavedProfile(file=name, expected_ms=taken), files=files)

    change_bundle(bundle, change)


def _read(path: Path) -> Profile:
    try:
        return decode(read_regular(path, _LIMIT_BYTES), str(shown(path)))
    except FileNotFoundError as error:
        raise BundleError(f"{shown(path)} does not exist") from error
    except OSError as error:
        raise BundleError(f"cannot read {shown(path)}: {error.strerror or error}") from error


def _saved(bundle: Bundle) -> Profile:
    found = saved_profile(bundle)
    if found is None:
        raise BundleError(f"no profile was saved in {bundle.place}; run `eetoolkit profile {bundle.place} --save`")
    return found
