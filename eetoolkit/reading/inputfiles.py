"""Inputs from files: arrays, pictures, folders of pictures, and whatever comes from stdin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from eetoolkit.reading.images import ImageOptions, choose_preprocess, read_image
from eetoolkit_runtime.errors import InputError
from eetoolkit_runtime.files.npy import read_npy, read_npz
from eetoolkit_runtime.plan.types import MANIFEST
from eetoolkit_runtime.running.inputs import InputPlan, prepare, split_rows

Row = tuple[npt.NDArray[Any], ...]

LABELS = "labels"
"""The array of a `.npz` that holds them."""

_NPY, _NPZ, _PNG, _JPEG = b"\x93NUMPY", b"PK\x03\x04", b"\x89PNG", b"\xff\xd8\xff"
_MAGIC_BYTES = len(_NPY)  # the longest of these
_SUFFIXES = {".png", ".jpg", ".jpeg"}
_STDIN = "-"


@dataclass(frozen=True)
class InputFile:
    """The rows of one file, each with its name; and the labels that a `.npz` holds beside them, None where none."""

    names: tuple[str, ...]
    rows: tuple[Row, ...]
    labels: npt.NDArray[Any] | None = None


def find_files(paths: Sequence[str]) -> list[str]:
    """Returns the files to read: folders are replaced by the pictures in them, sorted by name.

    Raises:
        InputError: Nothing is at a path, or a folder has no pictures.
    """
    found: list[str] = []
    for path in paths:
        place = Path(path)
        if path == _STDIN or place.is_file():
            found.append(path)
        elif not path:
            raise InputError("an input is named by an empty text; expected a file, a folder or -")
        elif (place / MANIFEST).is_file():
            raise InputError(f"{path} is a bundle; expected inputs, which come after the bundle")
        elif place.is_dir():
            pictures = sorted(str(file) for file in place.iterdir() if file.suffix.lower() in _SUFFIXES)
            if not pictures:
                raise InputError(f"{path}: no pictures in this folder; expected {', '.join(sorted(_SUFFIXES))}")
            found += pictures
        elif place.exists():
            found.append(path)  # a named pipe or a device
        else:
            raise InputError(f"{path} does not exist")
    return found


def read_files(plan: InputPlan, paths: Sequence[str], options: ImageOptions, stdin: BinaryIO) -> Iterator[InputFile]:
    """Yields the rows of one file after the other, checked and ready for `Runner.run`.

    What a file is, its first bytes say: a `.npy` array, a `.npz` as `part_labels` takes it, a PNG or a JPEG. On `stdin`
    (the path `-`) `.npy` arrays may follow each other; each is yielded when it has come.

    Raises:
        InputError: A file that is none of these, or does not fit the bundle's inputs.
    """
    for path in paths:
        if path != _STDIN:
            with Path(path).open("rb") as file:
                yield from _read(plan, path, file, options)
        else:
            yield from _read(plan, "stdin", stdin, options)


def part_labels(
    plan: InputPlan, arrays: Mapping[str, npt.NDArray[Any]]
) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[Any] | None]:
    """Returns the inputs in a `.npz` by name, and its array `labels`; None where it has none, or that is an input.

    The other array may have any name where the network has one input.
    """
    names = [spec.name for spec in plan.inputs]
    labels = None if LABELS in names else arrays.get(LABELS)
    inputs = {name: array for name, array in arrays.items() if labels is None or name != LABELS}
    if len(inputs) == 1 and len(names) == 1:
        inputs = {names[0]: next(iter(inputs.values()))}
    return inputs, labels


def holds_nan(row: Row) -> bool:
    """Whether any number in a row's inputs is NaN."""
    return any(bool(np.isnan(array).any()) for array in row if array.dtype.kind == "f")


def read_arrays(path: Path) -> npt.NDArray[Any] | dict[str, npt.NDArray[Any]]:
    """Returns the array in a `.npy`, or the arrays in a `.npz` by name.

    Raises:
        InputError: The file is neither.
    """
    with path.open("rb") as file:
        start = file.read(_MAGIC_BYTES)
        if start == _NPY:
            return read_npy(_Resumed(start, file), str(path), InputError)
        if start.startswith(_NPZ):
            return read_npz(file, str(path), InputError)
    raise InputError(f"{path}: not a .npy or .npz file")


def _read(plan: InputPlan, name: str, file: BinaryIO, options: ImageOptions) -> Iterator[InputFile]:
    start = file.read(_MAGIC_BYTES)
    if start == _NPY:
        _refuse_options(name, options)
        number = 0
        while start == _NPY:
            title = name if number == 0 else f"{name}#{number}"
            yield _split(plan, title, read_npy(_Resumed(start, file), title, InputError))
            start, number = file.read(_MAGIC_BYTES), number + 1
        if start:
            raise InputError(f"{name}: what follows array {number} is not a .npy array: it starts with {start!r}")
    elif start.startswith(_NPZ):
        _refuse_options(name, options)
        inputs, labels = part_labels(plan, read_npz(BytesIO(start + file.read()), name, InputError))
        yield replace(_split(plan, name, inputs), labels=labels)
    elif start.startswith((_PNG, _JPEG)):
        yield _split(plan, name, _read_picture(plan, name, start + file.read(), options))
    else:
        what = f"starts with {start!r}" if start else "is empty"
        raise InputError(f"{name}: not a .npy, .npz, PNG or JPEG file: it {what}")


class _Resumed:
    """A stream, some bytes of which were read already; a pipe cannot be put back."""

    def __init__(self, start: bytes, rest: BinaryIO) -> None:
        self._start = start
        self._rest = rest

    def read(self, size: int = -1, /) -> bytes:
        """Returns up to `size` bytes; all of them where it is negative."""
        if size < 0:
            size = len(self._start)
            return self.read(size) + self._rest.read()
        start, self._start = self._start[:size], self._start[size:]
        return start + self._rest.read(size - len(start))


def _read_picture(plan: InputPlan, name: str, data: bytes, options: ImageOptions) -> npt.NDArray[Any]:
    if len(plan.inputs) != 1:
        names = ", ".join(spec.name for spec in plan.inputs)
        raise InputError(f"{name}: a picture is one input, the bundle has {len(plan.inputs)} ({names}); pass a .npz")
    spec = plan.inputs[0]
    return read_image(data, name, spec, choose_preprocess(spec, plan.preprocess.get(spec.name), options))


def _refuse_options(name: str, options: ImageOptions) -> None:
    if options.given:
        raise InputError(
            f"{name}: an array is taken as it is; --size, --scale, --mean, --std and --layout are for pictures"
        )


def _split(plan: InputPlan, name: str, inputs: Any) -> InputFile:
    try:
        arrays = prepare(plan, inputs, one_row=False)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    try:
        rows = split_rows(plan, arrays)
    except InputError:
        rows = [arrays]  # no input counts rows, so all of it is one
    names = (name,) if len(rows) == 1 else tuple(f"{name}[{number}]" for number in range(len(rows)))
    return InputFile(names, tuple(rows))
