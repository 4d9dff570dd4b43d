"""Labelled data for Ray's workers from files: parquet, `.npy` and `.npz`, and pictures in a folder for each class."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from eetoolkit.cluster.dataset import told
from eetoolkit.extras import install
from eetoolkit.reading.images import ImageOptions, choose_preprocess, read_image
from eetoolkit.reading.inputfiles import LABELS, part_labels
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import InputError, RunError, first_line
from eetoolkit_runtime.files.npy import read_npz
from eetoolkit_runtime.plan.types import Manifest, Preprocess, TensorSpec
from eetoolkit_runtime.running.inputs import row_axes

if TYPE_CHECKING:
    from ray.data import Dataset

LOCAL = "local"
"""The address of a cluster on this machine, which ends with the command."""
_PICTURES = (".png", ".jpg", ".jpeg")
_AT_ONCE = 64  # pictures


@contextlib.contextmanager
def rows_on_ray(plan: Manifest, path: str, options: ImageOptions, address: str) -> Iterator[Dataset]:
    """Gives a dataset of labelled rows, with a connection to the cluster while it is used.

    Args:
        plan: Which inputs the network takes, and how pictures become them.
        path: A file or folder, or where one is in a store that pyarrow or fsspec knows, such as `s3://bucket/rows`.
        options: How pictures are prepared, instead of as the plan says.
        address: Of the cluster, as `ray.init` takes it: `auto`, `ray://HOST:10001`; `local` begins one here.

    Raises:
        InputError: Nothing is there, or nothing that is read.
        RunError: Ray is not installed, or there is no such cluster.
    """
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise RunError(f"--ray needs {error.name}: {install('ray')}") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        ray.init(
            None if address == LOCAL else address, include_dashboard=False if address == LOCAL else None,
            log_to_driver=False, logging_level=logging.ERROR,
        )  # fmt: skip
    except Exception as error:
        raise RunError(f"no Ray cluster at {address!r}: {first_line(error)}") from error
    ray.data.DataContext.get_current().enable_progress_bars = False  # the command has its own
    try:
        with told():
            yield read_dataset(plan, path, options)
    finally:
        ray.shutdown()


def read_dataset(plan: Manifest, path: str, options: ImageOptions) -> Dataset:
    """Returns labelled rows as Ray reads them; see `rows_on_ray`, whose cluster must be there.

    Raises:
        InputError: Nothing is there, or nothing that is read.
    """
    import ray.data

    store, files = _find(path)
    kinds = {PurePosixPath(file).suffix.lower() for file in files}
    if options.given and not kinds <= set(_PICTURES):
        raise InputError(
            f"{path}: arrays are taken as they are; --size, --scale, --mean, --std, --layout are for pictures"
        )
    if kinds == {".parquet"}:
        return ray.data.read_parquet(files, filesystem=store)
    if kinds == {".npy"}:
        return ray.data.read_numpy(files, filesystem=store)
    if kinds == {".npz"}:
        return ray.data.read_binary_files(files, filesystem=store, include_paths=True).map_batches(
            _Archives(plan), batch_size=1, batch_format="numpy"
        )
    if kinds and kinds <= set(_PICTURES):
        return _pictures(plan, files, options, store)
    found = ", ".join(sorted(kinds)) or "no files"
    raise InputError(f"{path}: {found}; expected .parquet, .npz or .npy files, or pictures in a folder for each class")


def _find(path: str) -> tuple[Any, list[str]]:
    """Returns a path's file system and the files there, sorted by folder and name; hidden ones are left out."""
    from pyarrow import fs

    try:
        if "://" not in path:
            store, place = fs.LocalFileSystem(), str(Path(path).resolve())
        else:
            store, place = _store(path)
        there = store.get_file_info(place)
        found = (
            store.get_file_info(fs.FileSelector(place, recursive=True)) if there.type == fs.FileType.Directory else []
        )
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"{path} cannot be read: {first_line(error)}") from error
    if there.type == fs.FileType.NotFound:
        raise InputError(f"{path} does not exist")
    names = [each.path for each in found if each.type == fs.FileType.File] if found or not there.is_file else [place]
    shown = [name for name in names if not PurePosixPath(name).name.startswith((".", "_"))]
    return store, sorted(shown, key=lambda name: (str(PurePosixPath(name).parent), name))


def _store(path: str) -> tuple[Any, str]:
    """Returns the file system of an address, and the place in it: pyarrow's own where it has one, else fsspec's."""
    from pyarrow import fs

    try:
        store, place = fs.FileSystem.from_uri(path)
    except (ValueError, NotImplementedError):
        from fsspec.core import url_to_fs

        files, place = url_to_fs(path)
        store = fs.PyFileSystem(fs.FSSpecHandler(files))
    return store, str(place)


def _pictures(plan: Manifest, files: Sequence[str], options: ImageOptions, store: Any) -> Dataset:
    """Returns pictures with the numbers of their classes, in the order of the classes' names."""
    import ray.data

    if len(plan.inputs) != 1:
        raise InputError(f"a picture is one input, the bundle has {len(plan.inputs)}; pass .npz or .parquet files")
    own = tuple(sorted({PurePosixPath(file).parent.name for file in files}))
    names = own if plan.labels is None else tuple(plan.labels)
    if unknown := [name for name in own if name not in names]:
        raise InputError(f"{unknown[0]!r} is no class; these are {', '.join(names)}")
    spec = plan.inputs[0]
    how = choose_preprocess(spec, plan.preprocess.get(spec.name), options)
    return ray.data.read_binary_files(list(files), filesystem=store, include_paths=True).map_batches(
        _Pictures(spec, how, names), batch_size=_AT_ONCE, batch_format="numpy"
    )


@dataclass(frozen=True)
class _Pictures:
    """What a worker makes of pictures' bytes."""

    spec: TensorSpec
    how: Preprocess
    names: tuple[str, ...]

    def __call__(self, batch: dict[str, Array]) -> dict[str, Array]:
        found, numbers = [], []
        for path, data in zip(batch["path"], batch["bytes"], strict=True):
            found.append(read_image(data, path, self.spec, self.how)[0])
            numbers.append(self.names.index(PurePosixPath(path).parent.name))
        return {self.spec.name: np.stack(found), LABELS: np.array(numbers, np.int64)}


@dataclass(frozen=True)
class _Archives:
    """What a worker makes of the bytes of `.npz` files."""

    plan: Manifest

    def __call__(self, batch: dict[str, Array]) -> dict[str, Array]:
        (path,), (data,) = batch["path"], batch["bytes"]
        inputs, labels = part_labels(self.plan, read_npz(BytesIO(data), path, InputError))
        if labels is None:
            raise InputError(f"{path}: expected an array {LABELS}")
        names = [spec.name for spec in self.plan.inputs]
        axes = dict(zip(names, row_axes(self.plan), strict=True))
        return {name: np.moveaxis(array, axes.get(name) or 0, 0) for name, array in inputs.items()} | {LABELS: labels}
