"""A bundle on disk: its folder and its plan, decoded, proved and checked."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ForwardRef

import msgspec

from eetoolkit_runtime.arguments import checked
from eetoolkit_runtime.bundle.integrity import Check, check_full, check_quick, read_graph, read_manifest
from eetoolkit_runtime.errors import BundleError
from eetoolkit_runtime.files.paths import absolute, shown
from eetoolkit_runtime.log import log
from eetoolkit_runtime.plan.names import spell_name
from eetoolkit_runtime.plan.types import Exit, Manifest, Segment
from eetoolkit_runtime.plan.validate import validate
from eetoolkit_runtime.printable import printable, spell_size

if TYPE_CHECKING:
    from pathlib import Path
else:  # an import of three milliseconds, for those who read annotations
    Path = ForwardRef("__import__('pathlib').Path")


class Bundle(msgspec.Struct, frozen=True):
    """A bundle that was opened: `path` is its folder, `manifest` its validated plan.

    `archive` is the .zip that it was unpacked from: then `path` is in a cache, and edits there would not be the .zip's.
    """

    path: Path
    manifest: Manifest
    archive: Path | None = None

    @property
    def exits(self) -> dict[str, Exit]:
        """The exits by name, in order."""
        return self.manifest.exits

    @property
    def place(self) -> Path:
        """Where a user has it, as messages name it: its .zip where it was unpacked from one, else its folder."""
        return shown(self.archive or self.path)

    def lies_at(self, path: str | os.PathLike[str]) -> bool:
        """Whether a path is the bundle's folder, or the .zip that it was unpacked from."""
        own = {place.resolve() for place in (self.path, self.archive) if place is not None}
        return absolute(path, BundleError).resolve() in own

    @property
    def size_bytes(self) -> int:
        """What the bundle takes on disk, without its manifest."""
        return sum(file.size for file in self.manifest.files.values())

    @property
    def stale_remark(self) -> str | None:
        """That the thresholds are those of the float bundle it was made from, and what renews them; else None."""
        if self.manifest.quantization is None or not self.manifest.quantization.stale:
            return None
        return (
            "thresholds and temperatures are still those of the float bundle; "
            f"renew them: eetoolkit tune {self.place} --data DATA --apply"
        )

    def graph(self, segment: Segment) -> bytes:
        """Returns the graph of one of its segments, checked.

        Raises:
            IntegrityError: It is missing, changed, or maps a file that is not listed.
        """
        return read_graph(self.path, self.manifest, segment)

    def pack(self, target: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Writes the bundle as one .zip to `target`, every hash checked, and returns its path."""
        from eetoolkit_runtime.bundle.archive import pack  # zips are no concern of what runs a folder

        return pack(self.path, self.manifest, absolute(target, BundleError), overwrite=overwrite)

    def __repr__(self) -> str:
        return f"<Bundle {self}>"

    def __str__(self) -> str:
        plan, several = self.manifest, len(self.manifest.segments) > 1
        quantised = "" if plan.quantization is None else f" ({len(plan.quantization.segments)} quantised)"
        exits = ", ".join(spell_name(name, plan.titles) for name in self.exits)
        return printable(
            f"{plan.name}: {len(plan.segments)} segment{'s' if several else ''}{quantised}, "
            f"exit{'s' if len(self.exits) > 1 else ''} {exits}, "
            f"{spell_size(self.size_bytes)} in {self.place}"
        )


@checked(BundleError)
def load(
    bundle: str | os.PathLike[str] | Bundle, *, check: Check = "quick", cache: str | os.PathLike[str] | None = None
) -> Bundle:
    """Returns the bundle at a path, its manifest decoded, its plan proved and its files checked.

    Args:
        bundle: A bundle's folder, a .zip of one (unpacked, checked, into `cache`), or a `Bundle`, which is given back.
        check: `quick`: every size and each graph's hash; `full`: every hash, which reads all weights.
        cache: Where a .zip is unpacked; None: `$EETOOLKIT_CACHE`, else the user's cache folder.

    Raises:
        BundleError: Nothing is there, or it is not a bundle.
        ManifestError: The manifest is not a valid plan.
        IntegrityError: A file is missing or changed.
    """
    if isinstance(bundle, Bundle):
        return bundle
    if check not in ("quick", "full"):
        raise BundleError(f"check is {check!r}, expected 'quick' or 'full'")
    place = absolute(bundle, BundleError)
    try:
        found = _load(place, check, cache)
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "is not a bundle: it has no manifest.json" if place.exists() else "does not exist"
        raise BundleError(f"{shown(place)} {what}") from error
    except OSError as error:
        raise BundleError(
            f"cannot read {shown(absolute(error.filename or place, BundleError))}: {error.strerror or error}"
        ) from error
    log("info", "opened the bundle %s", found)
    if (remark := found.stale_remark) is not None:
        log("warning", "%s: %s", found.place, remark)
    return found


def _load(place: Path, check: Check, cache: str | os.PathLike[str] | None) -> Bundle:
    if place.is_file():
        from eetoolkit_runtime.bundle.archive import unpack

        path = unpack(place, None if cache is None else absolute(cache, BundleError), check=check)
        return Bundle(path, read_manifest(path), place)
    manifest = read_manifest(place)
    validate(manifest)
    (check_full if check == "full" else check_quick)(place, manifest)
    return Bundle(place, manifest)


def load_again(bundle: Bundle | str | os.PathLike[str], *, check: Check) -> Bundle:
    """Returns a bundle as it is on disk by now, its files checked; one that was packed is unpacked again if need be.

    Raises:
        BundleError: As `load`.
    """
    return load((bundle.archive or bundle.path) if isinstance(bundle, Bundle) else bundle, check=check)
