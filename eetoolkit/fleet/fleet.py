"""The profiles of many devices, read from one folder: which device is which, and what is left out."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from eetoolkit_runtime.arguments import checked
from eetoolkit_runtime.bundle.bundle import Bundle, load
from eetoolkit_runtime.bundle.integrity import read_regular
from eetoolkit_runtime.errors import BundleError
from eetoolkit_runtime.files.paths import absolute, shown
from eetoolkit_runtime.plan.types import MANIFEST
from eetoolkit_runtime.printable import printable
from eetoolkit_runtime.profiling.comparison import Comparison
from eetoolkit_runtime.profiling.profile import Profile, decode, digests

LIMIT_BYTES = 16 << 20
"""Of a profile; what is larger is something else."""
_LATER = re.compile(r"(?P<first>.+)-(?P<number>[2-9]|[1-9]\d+)")


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A device by its profiles.

    Attributes:
        name: The first profile's file name, without `.json`.
        file: Of the newest profile.
        profile: The newest profile, which counts.
        before: The one before; None where there is one alone.
        profiles: How many there are.
    """

    name: str
    file: str
    profile: Profile
    before: Profile | None = None
    profiles: int = 1

    @property
    def change(self) -> Comparison | None:
        """How the newest profile differs from the one before; None where there is one alone."""
        return None if self.before is None else self.before.compare(self.profile)


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """The devices that run one bundle.

    Attributes:
        folder: Where the profiles are.
        bundle: The bundle's name.
        files: Digests of its graphs, which all profiles have.
        devices: By name.
        no_profiles: JSON files of the folder that are no profiles.
        other_bundles: Profiles of other bundles, where one was asked for.
    """

    folder: str
    bundle: str
    files: dict[str, str]
    devices: tuple[Device, ...]
    no_profiles: tuple[str, ...] = ()
    other_bundles: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What of the folder was left out."""
        left = ((self.no_profiles, "no profile"), (self.other_bundles, "of another bundle"))
        return tuple(f"left out, since {what}: {', '.join(files)}" for files, what in left if files)

    def __repr__(self) -> str:
        return printable(f"<Fleet {self.bundle}: {len(self.devices)} devices in {self.folder}>")


@checked(BundleError)
def read_fleet(folder: str | os.PathLike[str], bundle: str | os.PathLike[str] | Bundle | None = None) -> Fleet:
    """Returns the devices whose profiles are the `.json` files of a folder; folders in it are not looked into.

    A file is a device, called by the file's name. `NAME-2.json`, `NAME-3.json` are later profiles of the device of
    `NAME.json`, as `eetoolkit serve` names them, where that file is there and has the same processor and providers; of
    these the newest counts, by when it was measured.

    Args:
        folder: Where they are. JSON files in it that are no profiles are left out, and named in `Fleet.notes`.
        bundle: Of which; profiles of others are left out, and named too. None: all must be of one.

    Raises:
        BundleError: There is no such folder, it is a bundle, or there is no profile in it; one is damaged or of another
            version; or they are of several bundles.
    """
    place = absolute(folder, BundleError)
    if (place / MANIFEST).is_file():
        raise BundleError(f"{shown(place)} is a bundle, expected a folder of profiles; `profile --show` shows its own")
    found, no_profiles = _read_folder(place)
    wanted = None if bundle is None else digests(load(bundle).manifest)
    others = tuple(name for name, profile in found.items() if wanted is not None and profile.files != wanted)
    found = {name: profile for name, profile in found.items() if name not in others}
    if not found:
        told = Fleet(folder="", bundle="", files={}, devices=(), no_profiles=no_profiles, other_bundles=others).notes
        raise BundleError("; ".join((f"no profile in {shown(place)}", *told, "write one by `profile --output FILE`")))
    _check_one_bundle(found)
    first = next(iter(found.values()))
    devices = tuple(_device(name, files, found) for name, files in _grouped(found).items())
    return Fleet(
        folder=str(shown(place)), bundle=first.bundle, files=dict(first.files), devices=devices,
        no_profiles=no_profiles, other_bundles=others,
    )  # fmt: skip


def is_fleet(source: object) -> bool:
    """Whether a path is a folder and no bundle."""
    if not isinstance(source, str | os.PathLike):
        return False
    place = absolute(source, BundleError)
    return place.is_dir() and not (place / MANIFEST).exists()


def _read_folder(folder: Path) -> tuple[dict[str, Profile], tuple[str, ...]]:
    """Returns the profiles by file name, and which JSON files are none."""
    try:
        listed = [path for path in folder.iterdir() if path.suffix == ".json" and not path.name.startswith(".")]
        files = sorted(path for path in listed if path.is_file())
    except OSError as error:
        raise BundleError(
            f"cannot read {shown(folder)}: {error.strerror or error}; expected a folder with profiles"
        ) from error
    found: dict[str, Profile] = {}
    others = []
    for path in files:
        try:
            text = read_regular(path, LIMIT_BYTES) if path.stat().st_size <= LIMIT_BYTES else b"[]"
        except OSError as error:
            raise BundleError(f"cannot read {shown(path)}: {error.strerror or error}") from error
        if _is_something_else(text):
            others.append(path.name)
            continue
        try:
            found[path.name] = decode(text, str(shown(path)))
        except BundleError as error:
            raise BundleError(f"{error}; or move it out of this folder") from error
    return found, tuple(others)


def _is_something_else(text: bytes) -> bool:
    """Whether a text is whole JSON without the keys that only profiles have; one that is cut off may have been one."""
    try:
        value = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        return True
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return not {"machine", "segments"} <= value.keys()


def _check_one_bundle(found: Mapping[str, Profile]) -> None:
    """Refuses profiles of several bundles."""
    first, *others = found.items()
    for name, profile in others:
        if profile.files != first[1].files:
            one, other = first[1].bundle, profile.bundle
            what = f"of {other!r}" if one != other else f"of another build of {other!r}"
            raise BundleError(
                f"{first[0]} is a profile of {one!r}, {name} {what}: a fleet is of one bundle; keep each bundle's "
                "profiles in a folder of its own, or name the bundle (read_fleet's bundle, `profiles --bundle`)"
            )


def _grouped(found: Mapping[str, Profile]) -> dict[str, list[str]]:
    """Returns each device's files, by its name."""
    groups: dict[str, list[str]] = {}
    for file in found:
        groups.setdefault(_owner(file, found), []).append(file)
    return dict(sorted(groups.items()))


def _owner(file: str, found: Mapping[str, Profile]) -> str:
    """Returns the name of the device that a file is of."""
    stem = file.removesuffix(".json")
    later = _LATER.fullmatch(stem)
    if later is None:
        return stem
    first = found.get(f"{later['first']}.json")
    same = first is not None and _kind(first) == _kind(found[file])
    return later["first"] if same else stem


def _kind(profile: Profile) -> tuple[str, Sequence[str], str]:
    """Returns what two profiles of one device share."""
    return profile.machine.processor, profile.providers, profile.backend


def _device(name: str, files: Sequence[str], found: Mapping[str, Profile]) -> Device:
    *others, newest = (
        sorted(files, key=lambda file: (_when(file, found[file]), len(file), file)) if files[1:] else files
    )
    before = found[others[-1]] if others else None
    return Device(name=name, file=newest, profile=found[newest], before=before, profiles=len(files))


def _when(file: str, profile: Profile) -> datetime:
    try:
        when = datetime.fromisoformat(profile.measured)
    except ValueError as error:
        raise BundleError(
            f"{file} was measured {profile.measured!r}, expected ISO 8601: which profile of this device is the newest "
            "is not known; give each a name of its own"
        ) from error
    return when if when.tzinfo is not None else when.replace(tzinfo=UTC)
