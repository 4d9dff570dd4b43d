"""A network with fitted heads at all of its places, of which `bundle` keeps those that pay."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from eetoolkit.adapting.choosing import Found, Goal, Measured, choose
from eetoolkit.adapting.report import AdaptReport, PlaceFigures
from eetoolkit.adapting.rows import Rows
from eetoolkit.tuning.collect import Progress
from eetoolkit_exporters.attaching.attach import MultiExit
from eetoolkit_exporters.attaching.features import remove_features
from eetoolkit_runtime.arguments import checked
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.bundle.rewriting import write_bundle
from eetoolkit_runtime.bundle.store import check_target
from eetoolkit_runtime.errors import TuneError
from eetoolkit_runtime.plan.types import Manifest


@dataclass(frozen=True, eq=False, repr=False)
class Adapted:
    """A trained network with fitted heads at its places; made by `add_exits`.

    Attributes:
        model: The network with the candidates' heads, which `ee.export` takes.
        first: What is known before a bundle was chosen: places, heads, rows.
        candidates: By exit of `model`, its place and its kind of head.
        rows: The rows to tune by.
        goal: What was asked for.
        folders: Where features are kept until a bundle is written; none: nowhere of ours.
    """

    model: MultiExit
    first: AdaptReport
    candidates: Mapping[str, tuple[str, str]]
    rows: Rows
    goal: Goal
    folders: tuple[Path, ...] = ()
    _reports: list[AdaptReport] = field(default_factory=list)

    def __repr__(self) -> str:
        """Returns a line: `<Adapted Net: heads at 5 places, 500 rows to choose by; early exits pay: ...>`."""
        what = f"heads at {len(self.places)} places, {len(self.rows)} rows to choose by"
        return f"<Adapted {self.first.network}: {what}; {self.report.verdict}>"

    @property
    def places(self) -> tuple[PlaceFigures, ...]:
        """Every place with the heads that were tried there, by share of the work."""
        return self.first.places

    @property
    def report(self) -> AdaptReport:
        """What the last `bundle` found, whatever came of it; `first` before one was asked for."""
        return self._reports[-1] if self._reports else self.first

    @checked(TuneError)
    def bundle(  # noqa: PLR0913 - what a choice depends on
        self,
        output: str | os.PathLike[str],
        *,
        profile: Measured = None,
        labels: Sequence[str] | None = None,
        preprocess: Mapping[str, Mapping[str, Any]] | None = None,
        name: str | None = None,
        seconds: float = 10.0,
        overwrite: bool = False,
        force: bool = False,
        progress: Progress | None = None,
    ) -> Bundle:
        """Chooses places, kinds of heads and thresholds by what they cost, and writes the tuned bundle.

        All candidates are exported as one bundle and profiled; the tuner's search chooses at most `max_exits` of them;
        the bundle without the others is profiled and tuned, and held against the whole network as one session, in
        turns. Figures are of held-out rows. `report` says what was tried, whatever comes of it.

        Args:
            output: The bundle's folder.
            profile: By what to choose. None: latencies on this machine; `multiply-adds`: these; a function: called with
                a bundle, it returns its `Profile` on the device that is meant; a `Profile` or its file: of the
                candidates, which `ee.export(adapted.model, None, ...)` writes.
            labels: The classes' names.
            preprocess: As for `ee.export`.
            name: The bundle's name; None: that of its folder.
            seconds: How long each of two profiles may take.
            overwrite: Whether a bundle at `output` may be replaced.
            force: Whether to write it too where the rows are too few to know whether the goal is met.
            progress: Is told (what, done, total).

        Raises:
            TuneError: Early exits do not pay, or the rows are too few to know; it says why. Nothing was written.
            BundleError: `output` is in the way.
        """
        target = check_target(output, overwrite=overwrite)
        options = {
            "labels": labels,
            "preprocess": preprocess or msgspec.to_builtins(self.rows.preprocess),
            "name": name or target.stem,
        }
        tell = progress or (lambda _what, _done, _total: None)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as passing:
            found = choose(self.model, self.rows, self.goal, Path(passing), profile, options, seconds, tell)
            self._reports.append(report := self._report(found))
            if found.bundle is None or (not found.pays and not force):
                fix = "" if found.bundle is None else "; force=True (--force) writes the bundle all the same"
                raise TuneError(f"{report.verdict}{fix}")
            ready = found.bundle
            written = write_bundle(target, lambda folder: _copied(ready, folder), overwrite=overwrite)
        if report.tuning is not None:
            tuning = msgspec.structs.replace(report.tuning, bundle=written.manifest.name, path=str(written.path))
            self._reports[-1] = msgspec.structs.replace(report, tuning=tuning)
        for folder in self.folders:
            remove_features(folder)
        return written

    def _report(self, found: Found) -> AdaptReport:
        exits = {self.candidates[name]: name for name in found.exits}
        return msgspec.structs.replace(
            self.first,
            places=tuple(_with_exits(place, exits) for place in self.first.places),
            costs=found.costs,
            tried=found.tried,
            fixed=found.fixed,
            tuning=found.tuning,
            speedup=found.speedup,
            over_fixed=found.over_fixed,
            pays=found.pays,
            reason=found.reason,
            notes=(*self.first.notes, *self._counted(found)),
        )

    def _counted(self, found: Found) -> Iterator[str]:
        """Yields which rows are counted where more are asked for."""
        share = self.first.rows["tune"] / sum(self.first.rows.values())
        if found.pays is None and share < 1:
            yield (
                f"rows in all are those that exits are chosen by, {share:.0%} of yours: of more data as much is added "
                "to them, or all that is given as validation"
            )


def _with_exits(place: PlaceFigures, exits: Mapping[tuple[str, str], str]) -> PlaceFigures:
    """Returns a place with the exits, by place and kind, that its heads became."""
    heads = (msgspec.structs.replace(head, exit=exits.get((place.name, head.kind))) for head in place.heads)
    return msgspec.structs.replace(place, heads=tuple(heads))


def _copied(bundle: Bundle, folder: Path) -> Manifest:
    for name in bundle.manifest.files:
        shutil.copyfile(bundle.path / name, folder / name)
    return bundle.manifest
