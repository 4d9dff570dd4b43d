"""Labelled data from files: a `.npz` of inputs and labels, or a folder of pictures for each class."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from eetoolkit.reading.images import ImageOptions
from eetoolkit.reading.inputfiles import LABELS, Row, find_files, part_labels, read_arrays, read_files
from eetoolkit_runtime.errors import InputError
from eetoolkit_runtime.running.inputs import InputPlan


@dataclass(frozen=True)
class ClassFolders:
    """Pictures in a folder for each class; every iteration reads them anew, one at a time, as (inputs, label)."""

    plan: InputPlan
    pictures: tuple[tuple[str, int], ...]
    options: ImageOptions

    def __len__(self) -> int:
        return len(self.pictures)

    def __iter__(self) -> Iterator[tuple[Row, int]]:
        for path, label in self.pictures:
            for file in read_files(self.plan, [path], self.options, sys.stdin.buffer):
                yield from ((row, label) for row in file.rows)


def read_labelled(plan: InputPlan, path: str, options: ImageOptions) -> tuple[Any, npt.NDArray[Any] | None]:
    """Returns inputs and labels, or pairs of both and None, as `tune` takes them.

    In a `.npz` the array `labels` is the labels; the others are the inputs, by name, or under any name where the
    network has one. In a folder every subfolder is a class: named as in the bundle's `labels`, else in order of names.

    Raises:
        InputError: Neither, or one that does not fit.
    """
    place = Path(path)
    if place.is_dir():
        return _read_folders(plan, place, options), None
    if not place.exists():
        raise InputError(f"{path} does not exist")
    if options.given:
        raise InputError(
            f"{path}: arrays are taken as they are; --size, --scale, --mean, --std, --layout are for pictures"
        )
    arrays = read_arrays(place)
    inputs, labels = part_labels(plan, arrays) if isinstance(arrays, dict) else ({}, None)
    if labels is None or not inputs:
        names = ", ".join(spec.name for spec in plan.inputs)
        raise InputError(f"{path}: expected a .npz with the arrays {names} and {LABELS}")
    return inputs, labels


def _read_folders(plan: InputPlan, place: Path, options: ImageOptions) -> ClassFolders:
    folders = sorted(folder for folder in place.iterdir() if folder.is_dir())
    if not folders:
        raise InputError(f"{place}: no folders in this folder; expected one for each class, with its pictures")
    names = [folder.name for folder in folders] if plan.labels is None else list(plan.labels)
    unknown = [folder.name for folder in folders if folder.name not in names]
    if unknown:
        raise InputError(f"{place}: {unknown[0]!r} is no class of the bundle; these are {', '.join(names)}")
    pictures = [(file, names.index(folder.name)) for folder in folders for file in find_files([str(folder)])]
    return ClassFolders(plan, tuple(pictures), options)
