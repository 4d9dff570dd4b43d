"""What heads gather from a network's rows: one pass of onnxruntime over all of them, kept on disk as it goes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Self

import numpy as np
import onnx_ir as ir
from numpy.lib.format import open_memmap

from eetoolkit_exporters.attaching.attach import FINAL, MultiExit
from eetoolkit_exporters.attaching.part import Part, blocks, count_rows
from eetoolkit_exporters.attaching.part_session import PartSession
from eetoolkit_exporters.capturing.capture import Network
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import BundleError, ExportError
from eetoolkit_runtime.files.lock import alone
from eetoolkit_runtime.files.outfile import writing

Progress = Callable[[str, int, int], object]
Mapper = Callable[[PartSession, Iterator[dict[str, Array]]], Iterator[dict[str, Array]]]
"""Gives what a session computes of each block, in their order."""

_ROWS = 64  # at a time
_SAVE_EVERY_S = 5.0
_DONE = "rows-done.txt"
_NAME = re.compile("[0-9a-f]{24}")  # of a folder: a digest
_DAY_S = 86400


@dataclass(frozen=True, eq=False)
class Features:
    """What heads gather from every row, and the network's own answers.

    Attributes:
        parts: By the name of the place's value and the part's name, (rows, ...), float32, mapped from disk.
        final: The network's answers, (rows, ...).
        classes: Their axis of classes.
        folder: Where they are kept.
    """

    parts: Mapping[tuple[str, str], Array]
    final: Array
    classes: int
    folder: Path

    def of(self, model: MultiExit, exit_: str, rows: Array) -> Array:
        """Returns what the head of an exit classifies, float32, of the rows of these numbers (an array), a copy."""
        place = model.places[exit_].value
        found = [np.asarray(self.parts[place, part][rows], np.float32) for part in model.heads[exit_].parts]
        return np.concatenate(found, 1) if len(found) > 1 else found[0]


def gather_features(
    model: MultiExit,
    inputs: Mapping[str, Array],
    folder: str | os.PathLike[str],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    mapper: Mapper | None = None,
) -> Features:
    """Runs rows through the network and returns what the heads gather; what `folder` holds of them is not run again.

    No gradient, no training mode: the network's graph runs in onnxruntime.

    Args:
        model: The network with its heads, fitted or not.
        inputs: Any number of rows, by the network's names.
        folder: Where features are kept, in a folder of their own for each graph and each set of rows.
        threads: As onnxruntime's; None: all.
        progress: Is told (what, done, total).
        mapper: Runs the blocks of rows elsewhere; None: here, one after the other.

    Raises:
        ExportError: Inputs that the network does not take, or a folder that does not take what is gathered, or to which
            another run gathers the same.
    """
    wanted = {
        (model.places[name].value, part): (name, gather)
        for name, head in model.heads.items()
        for part, gather in zip(head.parts, head.gathers, strict=True)
    }
    names = {f"{value} {part}": (value, part) for value, part in wanted}
    graph, gathers, final = model.appended({name: wanted[key] for name, key in names.items()})
    found = {**gathers, FINAL: final}
    part = Part(Network(graph, [], ordered=False, constants=model.network.constants), found, threads=threads)
    target = Path(folder) / _digest(graph, inputs)
    tell = progress or (lambda _what, _done, _total: None)
    with _alone(target), _Kept(target, count_rows(model.network, inputs), len(found)) as kept:
        left = blocks(model.network, inputs, _ROWS, kept.done)
        for values in map(part.run, left) if mapper is None else mapper(part.session, left):
            kept.add(values)
            tell("running the network", kept.done, kept.rows)
        arrays = kept.arrays(found)
    gathered = {key: arrays[name] for name, key in names.items()}
    return Features(gathered, np.asarray(arrays[FINAL]), model.classes or 1, target)


def remove_features(folder: Path) -> None:
    """Removes a folder of features; one to which another run gathers stays."""
    with contextlib.suppress(BundleError), alone(folder):
        (folder / _DONE).unlink(missing_ok=True)  # what is left of a removal holds no rows
        shutil.rmtree(folder, ignore_errors=True)


def forget_old(folder: Path, days: float = 30) -> None:
    """Removes the folders of features beside a folder of features that were not used for so long."""
    until = time.time() - days * _DAY_S
    for other in folder.parent.iterdir() if folder.parent.is_dir() else ():
        if other != folder and _NAME.fullmatch(other.name) and other.is_dir() and _used_s(other) < until:
            remove_features(other)


def _used_s(folder: Path) -> float:
    """Returns when a folder of features was used, in seconds since the epoch."""
    with contextlib.suppress(FileNotFoundError):
        return (folder / _DONE).stat().st_mtime
    return folder.stat().st_mtime


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Makes a folder and keeps other runs out of it meanwhile."""
    with contextlib.ExitStack() as held:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(alone(folder))
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise ExportError(f"features cannot be kept in {folder}: {error.strerror}") from error
        except BundleError as error:
            raise ExportError(f"features cannot be kept: {error}; pass another `folder`") from error
        yield


class _Kept:
    """Arrays that grow row by row in a folder, with how many rows they hold.

    Args:
        folder: Where they are.
        rows: How many rows they are to hold.
        count: How many arrays there are.
    """

    def __init__(self, folder: Path, rows: int, count: int) -> None:
        self.folder, self.rows, self._count = folder, rows, count
        self.done = self._read()
        self._open: dict[str, np.memmap] = {}
        self._saved_s = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._save()  # an interrupt loses nothing

    def add(self, found: Mapping[str, Array]) -> None:
        """Adds the next rows."""
        if not self._open:
            self._open = self._opened(found)
        count = len(found[FINAL])
        for name, array in found.items():
            self._open[name][self.done : self.done + count] = array
        self.done += count
        if time.monotonic() - self._saved_s > _SAVE_EVERY_S:
            self._save()

    def arrays(self, names: Mapping[str, object]) -> dict[str, Array]:
        """Returns all rows, by name."""
        return {name: open_memmap(self._file(number), "r") for number, name in enumerate(names)}

    def _opened(self, found: Mapping[str, Array]) -> dict[str, np.memmap]:
        if self.done:
            return {name: open_memmap(self._file(number), "r+") for number, name in enumerate(found)}
        size = sum(array.nbytes // len(array) for array in found.values()) * self.rows
        if size > (free := shutil.disk_usage(self.folder).free):  # a mapped file that does not fit ends the process
            raise ExportError(
                f"features of {self.rows} rows take up to {size / 1e9:.1f} GB, {self.folder} has {free / 1e9:.1f}: "
                "pass a `folder` with space, fewer rows or fewer places"
            )
        (self.folder / _DONE).unlink(missing_ok=True)  # it would tell of rows that are overwritten
        return {
            name: open_memmap(self._file(number), "w+", array.dtype, (self.rows, *array.shape[1:]))
            for number, (name, array) in enumerate(found.items())
        }

    def _save(self) -> None:
        for array in self._open.values():
            array.flush()
        if self.done:
            with writing(self.folder / _DONE, overwrite=True) as file:
                file.write("\n".join([str(self.done), *self._lie()]).encode())
        self._saved_s = time.monotonic()

    def _read(self) -> int:
        """Returns how many rows there are; none if an array is not as it was saved."""
        try:
            done, *arrays = (self.folder / _DONE).read_text().splitlines()
            return int(done) if arrays == self._lie() else 0
        except (OSError, ValueError):
            return 0

    def _lie(self) -> list[str]:
        """Returns the arrays' types and shapes."""
        arrays = [open_memmap(self._file(number), "r") for number in range(self._count)]
        return [f"{array.dtype} {array.shape}" for array in arrays]

    def _file(self, number: int) -> Path:
        return self.folder / f"part-{number:03}.npy"


def _digest(graph: ir.Graph, inputs: Mapping[str, Array]) -> str:
    """Returns what tells a graph with its weights, and rows, from others; another version gathers anew."""
    found = hashlib.blake2b(version("eetoolkit").encode(), digest_size=12)
    for node in graph.all_nodes():
        names = [None if value is None else value.name for value in (*node.inputs, *node.outputs)]
        found.update(f"{node.op_type} {names} {sorted(map(str, node.attributes.values()))}".encode())
    for value in graph.initializers.values():
        if value.const_value is not None:
            found.update(np.ascontiguousarray(value.const_value.numpy()).tobytes())
    for name, array in inputs.items():
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
