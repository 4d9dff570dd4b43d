"""Profiles that come back from a browser: checked against their bundle and kept as files, none of them replaced."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from eetoolkit.serve.site import tune_command
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.errors import BundleError, EEToolkitError
from eetoolkit_runtime.files.outfile import PARTIAL, umask
from eetoolkit_runtime.files.paths import shown
from eetoolkit_runtime.profiling.profile import Profile, decode, digests, encode

LIMIT_BYTES = 1 << 20
_LONGEST_NAME = 40
_USUAL = ("", "wasm", "cpu")
"""Providers that a file's name does not mention."""


@dataclass(frozen=True)
class Saved:
    """A profile that was kept.

    Attributes:
        bundle: Its bundle's name.
        path: The file, as the user would name it.
        next: The command that tunes the bundle by it.
    """

    bundle: str
    path: str
    next: str


class WrongBundleError(BundleError):
    """A profile of another bundle than the one it was sent for."""


def keep(text: bytes, bundle: Bundle, folder: Path) -> Saved:
    """Writes what a browser has sent as `DEVICE.json` into a folder, whole or not at all, beside those that are there.

    Raises:
        WrongBundleError: It is of another bundle.
        BundleError: It is no profile of this version.
        EEToolkitError: It cannot be written.
    """
    found = decode(text, "what was sent")
    plan = bundle.manifest
    if found.files != digests(plan):
        raise WrongBundleError(
            f"this profile is of another bundle, {found.bundle!r}, or of another build of {plan.name!r}; open the page "
            "again, and profile again"
        )
    path = _write(encode(found), folder, _stem(found))
    return Saved(plan.name, str(shown(path)), tune_command(bundle, str(shown(path))))


def _stem(found: Profile) -> str:
    """Returns a safe name for a device: its letters and digits, then what ran the graphs where that is unusual."""
    device = _plain(found.machine.processor)[:_LONGEST_NAME].strip("-")
    first = found.providers[0] if found.providers else ""
    ran_by = _plain(first.removesuffix("ExecutionProvider"))[:_LONGEST_NAME].strip("-")
    return "-".join(part for part in (device or "device", ran_by) if part not in _USUAL)


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _write(text: bytes, folder: Path, stem: str) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=folder, prefix=stem + PARTIAL)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(partial).chmod(0o666 & ~umask())
            return _named(Path(partial), stem)
        finally:
            Path(partial).unlink(missing_ok=True)
    except OSError as error:
        raise EEToolkitError(f"cannot write into {shown(folder)}: {error.strerror or error}") from error


def _named(partial: Path, stem: str) -> Path:
    """Gives a file that was written whole the first free name; a link, unlike a rename, never replaces another."""
    for number in count(1):
        path = partial.with_name(f"{stem}.json" if number == 1 else f"{stem}-{number}.json")
        try:
            os.link(partial, path)
        except FileExistsError:
            continue
        except OSError:  # exFAT, say, has no links
            try:
                with path.open("xb") as file:
                    file.write(partial.read_bytes())
            except FileExistsError:
                continue
        return path
    raise AssertionError
