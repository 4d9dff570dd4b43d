"""Every segment of a bundle as it is and by each method, in one folder: any choice among them is a manifest."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime as ort

from eetoolkit_exporters.emitting.files import SegmentFiles
from eetoolkit_exporters.emitting.graphs import read_model, write_segment
from eetoolkit_exporters.emitting.tolerance import quantises
from eetoolkit_exporters.quantizing.methods import Settings, left, methods, quantized
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.plan.flow import repeats
from eetoolkit_runtime.plan.types import Activations, File, Manifest, Method, Segment
from eetoolkit_runtime.profiling.rounds import Row
from eetoolkit_runtime.running.interpret import visit_exits
from eetoolkit_runtime.running.sessions import SessionSettings

Progress = Callable[[str, int, int], object]
Wanted = Callable[[str, Sequence[Method]], Sequence[Method]]
Choice = Mapping[str, Method]
"""The method of each segment that is not float."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """What a bundle can become.

    Attributes:
        source: The bundle.
        folder: Where all graphs lie, the float ones too.
        by_method: For each segment with a graph and each method that works there, the segment; the most accurate first.
        files: Every file in the folder.
        left: Operators with weights that stay float, by segment and method.
        failed: Why a segment has no candidate.
        settings: What onnxruntime's quantiser was told, by method.
        activations: What static segments compute with.
    """

    source: Bundle
    folder: Path
    activations: Activations
    by_method: dict[str, dict[Method, Segment]] = field(default_factory=dict)
    files: dict[str, File] = field(default_factory=dict)
    left: dict[tuple[str, Method], tuple[str, ...]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    settings: dict[Method, dict[str, str | int]] = field(default_factory=dict)

    @property
    def careful(self) -> dict[str, Method]:
        """The choice of every candidate, each by its most accurate method."""
        return {name: next(iter(each)) for name, each in self.by_method.items()}

    def bundle(self, choice: Choice) -> Bundle:
        """Returns the bundle with these segments quantised; only its manifest is new, and only in memory."""
        plan = self.source.manifest
        chosen = {
            name: self.by_method[name][choice[name]] if name in choice else segment
            for name, segment in plan.segments.items()
        }
        named = {file for segment in chosen.values() for file in (segment.model, *segment.weights) if file is not None}
        files = {name: entry for name, entry in (plan.files | self.files).items() if name in named}
        return Bundle(
            self.folder, msgspec.structs.replace(plan, segments=chosen, files=files, golden=None, profile=None)
        )


def make_candidates(
    source: Bundle,
    rows: Sequence[Row],
    folder: Path,
    settings: Settings,
    wanted: Wanted,
    tell: Progress,
) -> Candidates:
    """Returns every segment by every method, each calibrated on what the quantised ones before it give.

    Args:
        source: A bundle with float segments.
        rows: What ranges are calibrated by.
        folder: An empty one.
        settings: Of the methods.
        wanted: Which of the methods that apply to a segment it is to have a candidate by.
        tell: Is told (what, done, total).

    Raises:
        ExportError: It is quantised already, or `folder` cannot take its candidates.
    """
    plan = source.manifest
    names = [name for name, segment in plan.segments.items() if segment.model is not None]
    models = {name: read_model(source, str(plan.segments[name].model)) for name in names}
    if plan.quantization is not None or any(quantises(node) for m in models.values() for node in m.graph.all_nodes()):
        raise ExportError(f"{source.place} is quantised already; quantise the float bundle that it was made from")
    found = Candidates(source, folder, settings.activations)
    with _writing(folder):
        for file in {file for segment in plan.segments.values() for file in (segment.model, *segment.weights)} - {None}:
            shutil.copyfile(source.path / str(file), folder / str(file))
        written = SegmentFiles(folder)
        walk = Walk(found.bundle(found.careful))
        for done, name in enumerate(names):
            tell("quantising", done, len(names))
            segment = plan.segments[name]
            possible = methods(models[name], segment)
            if not possible:
                floats = ", ".join(left(models[name], segment))
                found.failed[name] = f"nothing in it can be quantised{floats and f', as {floats}'}"
            for method in wanted(name, possible):
                try:
                    made = quantized(models[name], segment, method, Feeds(walk, name, rows), settings)
                except ExportError as error:
                    found.failed[name] = str(error)
                    continue
                stored = write_segment(written, plan, name, segment, made.model)
                found.by_method.setdefault(name, {})[method] = msgspec.structs.replace(stored, prepack=True)
                found.left[name, method] = made.left
                found.settings[method] = made.settings
                found.files.update(written.files)
            if name in found.by_method:
                walk = walk.with_bundle(found.bundle(found.careful), name)
    return found


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Says of errors of files which disk is full."""
    try:
        yield
    except OSError as error:
        raise ExportError(
            f"cannot write into {folder.parent}: {error.strerror or error}; candidates take about twice the bundle's "
            "bytes: have TMPDIR name a folder with more space"
        ) from error


@dataclass(frozen=True)
class Feeds:
    """What a segment's graph is given by rows, visit by visit, where no exit fires; computed whenever it is asked for.

    Attributes:
        walk: The bundle's.
        name: The segment.
        rows: These.
    """

    walk: Walk
    name: str
    rows: Sequence[Row]

    def __iter__(self) -> Iterator[dict[str, Array]]:
        again = repeats(self.walk.plan, self.name)
        for row in self.rows:
            for met, feeds in self.walk.visits(row):
                if met == self.name:
                    yield feeds
                    if not again:
                        break


class Walk:
    """A bundle's graphs, run one by one by the interpreter.

    Args:
        bundle: Which.
        sessions: Those that are open already, by segment.
    """

    def __init__(self, bundle: Bundle, sessions: Mapping[str, ort.InferenceSession] | None = None) -> None:
        self._bundle = bundle
        self._sessions = dict(sessions or {})

    @property
    def plan(self) -> Manifest:
        """The bundle's."""
        return self._bundle.manifest

    def with_bundle(self, bundle: Bundle, changed: str) -> Walk:
        """Returns the walk of a bundle that differs in one segment."""
        return Walk(bundle, {name: session for name, session in self._sessions.items() if name != changed})

    def floats(self, names: Collection[str], rows: Sequence[Row]) -> Iterator[tuple[str, str, Array]]:
        """Yields what segments read that is of floats, and is not empty."""
        for row in rows:
            for name, feeds in self.visits(row):
                for read, values in feeds.items() if name in names else ():
                    if values.dtype.kind == "f" and values.size:
                        yield name, read, values

    def visits(self, row: Row) -> Iterator[tuple[str, dict[str, Array]]]:
        """Yields every segment that a row comes to, before it runs, with what its graph is given."""
        plan = self.plan
        met: list[tuple[str, dict[str, Array]]] = []

        def run(name: str, feeds: dict[str, Array]) -> dict[str, Array]:
            met.append((name, feeds))
            session = self._session(name)
            outputs = [value.name for value in session.get_outputs()]
            return dict(zip(outputs, session.run(outputs, feeds), strict=True))

        inputs = {spec.name: array for spec, array in zip(plan.inputs, row, strict=True)}
        for _ in visit_exits(plan, inputs, run):
            yield from met
            met.clear()
        yield from met

    def _session(self, name: str) -> ort.InferenceSession:
        if name not in self._sessions:
            self._sessions[name] = SessionSettings(threads=1).open_segment(self._bundle, name)
        return self._sessions[name]


def saturated(bundle: Bundle, names: Collection[str], rows: Sequence[Row], others: Sequence[Row]) -> dict[str, float]:
    """Returns for each segment the share of the values it is given that lie outside the range of calibrating ones.

    Args:
        bundle: As it was calibrated.
        names: Segments.
        rows: Those that calibrated it.
        others: Other rows.
    """
    walk = Walk(bundle)
    ranges: dict[tuple[str, str], tuple[float, float]] = {}
    for name, read, values in walk.floats(names, rows):
        low, high = ranges.get((name, read), (np.inf, -np.inf))
        ranges[name, read] = min(low, float(values.min())), max(high, float(values.max()))
    counts: dict[str, list[int]] = {name: [0, 0] for name in names}
    for name, read, values in walk.floats(names, others):
        low, high = ranges.get((name, read), (np.inf, -np.inf))
        counts[name][0] += int(((values < low) | (values > high)).sum())
        counts[name][1] += values.size
    return {name: outside / of for name, (outside, of) in counts.items() if of}
