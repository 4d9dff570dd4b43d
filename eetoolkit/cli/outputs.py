"""What a verb writes: refused before any work where it cannot be written, and told of where the work is interrupted."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import click

from eetoolkit_runtime.bundle.store import check_target
from eetoolkit_runtime.errors import BundleError, EEToolkitError
from eetoolkit_runtime.files.outfile import check_file
from eetoolkit_runtime.plan.types import MANIFEST

Place = str | os.PathLike[str] | None
Places = Mapping[str, Place]
"""By the option that says so; None where nobody asked for it."""


@dataclass(frozen=True)
class Outputs:
    """Where a verb writes.

    Attributes:
        files: Single files.
        resumed: Files that are gone on with where they are there.
        bundles: Bundles that are written.
        changed: Bundles that are changed where they are.
        reads: What is read, and must not be written over.
        kept: What a later call of the same command finds elsewhere, "features" for instance; None: nothing.
    """

    files: Places = field(default_factory=dict)
    resumed: Places = field(default_factory=dict)
    bundles: Places = field(default_factory=dict)
    changed: Places = field(default_factory=dict)
    reads: Iterable[Place] = ()
    kept: str | None = None

    def check(self, *, overwrite: bool) -> None:
        """Refuses what cannot be written, and watches the rest.

        Raises:
            EEToolkitError: A bundle that is to be changed is packed; something is there and `overwrite` is not set; a
                folder is missing or closed; or what is written is written twice, is what is read, or lies in a bundle.
        """
        for option, place in _given(self.changed).items():
            if place.is_file():
                raise BundleError(f"{place} is packed; {option} needs the bundle's folder")
        written = self._written()
        for (one, place), (other, second) in combinations(written.items(), 2):
            if place.resolve() == second.resolve():
                raise EEToolkitError(f"{one} and {other} are both {place}; name two")
        read = [Path(place) for place in self.reads if place is not None]
        bundles = [*read, *_given(self.changed).values(), *_given(self.bundles).values()]
        for option, place in written.items():
            if any(place.resolve() == other.resolve() for other in read):
                raise EEToolkitError(f"{option} {place} is what is read; choose another name")
            for bundle in bundles:
                if (bundle / MANIFEST).is_file() and bundle.resolve() in place.resolve().parents:
                    raise EEToolkitError(f"{option} {place} lies in the bundle {bundle}; choose another folder")
        for places, replace in ((self.files, overwrite), (self.resumed, True)):
            for place in _given(places).values():
                check_file(place, overwrite=replace)
        for places, replace in ((self.bundles, overwrite), (self.changed, True)):
            for place in _given(places).values():
                check_target(place, overwrite=replace)
        self.watch()

    def watch(self) -> None:
        """Has `what_was_written` tell what is written of these from now on."""
        before = {place: _state(place) for place in (*self._written().values(), *_given(self.changed).values())}
        click.get_current_context().meta[__name__] = self, before

    def _written(self) -> dict[str, Path]:
        return _given(self.files) | _given(self.resumed) | _given(self.bundles)


def what_was_written(ctx: click.Context) -> str | None:
    """Returns what the verb has written that runs in a context; None where it does not write."""
    outputs, before = ctx.meta.get(__name__, (None, {}))
    if not before:
        return None
    written = [place for place, state in before.items() if _state(place) != state]
    if not written and outputs.kept is None:
        return "nothing was written"
    told = f"{', '.join(map(str, written)) or 'nothing'} {'were' if len(written) > 1 else 'was'} written"
    if outputs.kept is not None:
        told += f"; {outputs.kept} are kept"
    goes_on = outputs.kept is not None or any(place in written for place in _given(outputs.resumed).values())
    return told + ("; the same command goes on from there" if goes_on else "")


def _given(places: Places) -> dict[str, Path]:
    return {option: Path(place) for option, place in places.items() if place is not None}


def _state(place: Path) -> tuple[int, int] | None:
    """Returns what changes when a file or a bundle is written; None where nothing is there."""
    try:
        found = (place / MANIFEST if place.is_dir() else place).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def check_page(page: Path | None, *, overwrite: bool) -> None:
    """Refuses a report that cannot be written, before any work is done."""
    if page is None:
        return
    from eetoolkit.report.page import check_target as check_report

    check_report(page, overwrite=overwrite)
