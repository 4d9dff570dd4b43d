"""Labelled data from files: a `.npz` of inputs and labels, or a folder of pictures for each class."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from eetoolkit.cluster.dataset import RayRows, is_dataset
from eetoolkit.reading.images import ImageOptions, choose_preprocess
from eetoolkit.reading.inputfiles import LABELS, Row, find_files, part_labels, read_arrays, read_files
from eetoolkit_runtime.errors import InputError
from eetoolkit_runtime.plan.types import Preprocess
from eetoolkit_runtime.running.inputs import InputPlan, prepare, split_rows


@dataclass(frozen=True)
class ClassFolders:
    """Pictures in a folder for each class; every iteration reads them anew, one at a time, as (inputs, label)."""

    plan: InputPlan
    pictures: tuple[tuple[str, int], ...]
    options: ImageOptions

    @property
    def preprocess(self) -> dict[str, Preprocess]:
        """How the pictures become the network's input, by its name."""
        spec = self.plan.inputs[0]  # a picture is one input
        return {spec.name: choose_preprocess(spec, self.plan.preprocess.get(spec.name), self.options)}

    def __len__(self) -> int:
        return len(self.pictures)

    def __iter__(self) -> Iterator[tuple[Row, int]]:
        for path, label in self.pictures:
            for file in read_files(self.plan, [path], self.options, sys.stdin.buffer):
                yield from ((row, label) for row in file.rows)


@dataclass(frozen=True)
class LabelledPath:
    """Where labelled data are, to be read once it is known which inputs the network takes.

    Attributes:
        path: A `.npz`, or a folder with pictures in a subfolder for each class.
        options: How pictures are prepared, instead of as `preprocess` says.
        preprocess: See `Manifest`; as JSON has it.
        labels: The classes' names, in the network's order.
    """

    path: str
    options: ImageOptions = field(default_factory=ImageOptions)
    preprocess: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    labels: Sequence[str] | None = None


def read_labelled(
    plan: InputPlan, path: str, options: ImageOptions, *, unlabelled: bool = False
) -> tuple[Any, npt.NDArray[Any] | None]:
    """Returns inputs and labels, or pairs of both and None, as `tune` takes them.

    In a `.npz` the array `labels` is the labels; the others are the inputs, by name, or under any name where the
    network has one. In a folder every subfolder is a class: named as in the bundle's `labels`, else in order of names.
    If `unlabelled`, a file may have no labels, and a `.npy` is the one input.

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
    if unlabelled and not isinstance(arrays, dict):
        return arrays, None
    inputs, labels = part_labels(plan, arrays) if isinstance(arrays, dict) else ({}, None)
    if not inputs or (labels is None and not unlabelled):
        names = ", ".join(spec.name for spec in plan.inputs)
        raise InputError(f"{path}: expected a .npz with the arrays {names} and {LABELS}")
    return inputs, labels


def some_rows(plan: InputPlan, inputs: Any, count: int) -> Iterator[Row]:
    """Returns about so many of the inputs of `read_labelled`, evenly from all of them, each as a runner takes it."""
    if isinstance(inputs, ClassFolders):
        some = replace(inputs, pictures=inputs.pictures[:: max(1, len(inputs) // count)])
        return (row for row, _ in some)
    if is_dataset(inputs):  # the first: more would have to be read
        return RayRows(plan, inputs.limit(count)).rows()
    rows = split_rows(plan, prepare(plan, inputs, one_row=False))
    return iter(rows[:: max(1, len(rows) // count)])


def class_names(path: str | os.PathLike[str]) -> tuple[str, ...] | None:
    """Returns the names of a folder's classes in the order of their numbers; None: it is no folder.

    Another folder, which may lack some of them, is numbered alike with these as its `labels`.

    Raises:
        InputError: A folder without folders.
    """
    place = Path(path)
    if not place.is_dir():
        return None
    names = tuple(sorted(folder.name for folder in place.iterdir() if folder.is_dir()))
    if not names:
        raise InputError(f"{place}: no folders in this folder; expected one for each class, with its pictures")
    return names


def _read_folders(plan: InputPlan, place: Path, options: ImageOptions) -> ClassFolders:
    own = class_names(place) or ()
    names = own if plan.labels is None else tuple(plan.labels)
    if unknown := [name for name in own if name not in names]:
        raise InputError(f"{place}: {unknown[0]!r} is no class; these are {', '.join(names)}")
    pictures = [(file, names.index(name)) for name in own for file in find_files([str(place / name)])]
    return ClassFolders(plan, tuple(pictures), options)
